//! What the API server's refusals mean, and what to do: a right that is missing is named as the rule that grants it.

use std::path::PathBuf;

use kube::client::AuthError;
use kube::config::KubeconfigError;

use super::{Resource, ResourceName};

/// The API could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Not in a pod, or in one without a token.
    #[error("there is no service account to call the Kubernetes API with ({source})")]
    NoServiceAccount {
        /// Which file or variable is missing.
        source: kube::config::InClusterError,
    },
    /// The file cannot be used.
    #[error("the kubeconfig file {} cannot be used ({})", .path.display(), unusable(.source))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KubeconfigError,
    },
    /// A token with a line break, say.
    #[error("a token in the kubeconfig file {} has characters that cannot be sent", .path.display())]
    UnusableToken {
        /// The file.
        path: PathBuf,
    },
    /// TLS or the way to authenticate cannot be set up.
    #[error("the client of the Kubernetes API cannot be set up ({})", chain(.source))]
    Client {
        /// Why.
        source: kube::Error,
    },
    /// 404.
    #[error("there is no {what}")]
    Missing {
        /// What was asked for.
        what: ResourceName,
    },
    /// 403, by whoever decides about rights.
    #[error("the Kubernetes API does not allow to {verb} {what}: {said}")]
    Forbidden {
        /// As rules of RBAC name it.
        verb: &'static str,
        /// What was to be read or changed.
        what: ResourceName,
        /// The API server's words.
        said: String,
    },
    /// 401.
    #[error("the Kubernetes API does not know who is calling: {said}")]
    Unauthorized {
        /// The API server's words.
        said: String,
    },
    /// 409: the object is not what it was when it was read.
    #[error("{what} was changed by somebody else at the same time")]
    Conflict {
        /// What was to be changed.
        what: ResourceName,
    },
    /// Any other answer that is no success; 422 if the result would be invalid, 403 if a webhook or a policy denies it.
    #[error("the Kubernetes API refuses to {verb} {what} ({code}): {said}")]
    Refused {
        /// As rules of RBAC name it.
        verb: &'static str,
        /// What was to be read or changed.
        what: ResourceName,
        /// HTTP status.
        code: u16,
        /// The API server's words.
        said: String,
    },
    /// No answer.
    #[error("the Kubernetes API cannot be reached: {}", chain(.source))]
    Unreachable {
        /// Why.
        source: kube::Error,
    },
    /// An answer of another form than expected.
    #[error("the Kubernetes API answered for {what} with {problem}")]
    NotUnderstood {
        /// What was asked for.
        what: ResourceName,
        /// What it was.
        problem: String,
    },
}

impl KubernetesError {
    pub(super) fn of(error: kube::Error, verb: &'static str, what: &ResourceName) -> Self {
        let kube::Error::Api(status) = error else { return Self::Unreachable { source: error } };
        // A refusal may quote what it refuses, whatever its code: webhooks choose theirs.
        let said = match what.resource {
            Resource::Secret => "its words are left out, because they could hold a value".to_owned(),
            _ => status.message.clone(),
        };
        let what = what.clone();
        match status.code {
            401 => Self::Unauthorized { said },
            403 if !is_denied(&status.message) => Self::Forbidden { verb, what, said },
            404 => Self::Missing { what },
            409 => Self::Conflict { what },
            code => Self::Refused { verb, what, code, said },
        }
    }

    /// Whether nobody has answered who could know: it may be otherwise in a moment, and says nothing about what was asked.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => matches!(*code, 429 | 500..=599),
            _ => false,
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoServiceAccount { .. } => {
                "Let the pod have a token (automountServiceAccountToken: true), or name a file in `kubeconfig` where \
                 pgsluice runs outside the cluster."
                    .into()
            }
            Self::Kubeconfig { .. } | Self::UnusableToken { .. } | Self::Client { .. } => {
                "Try the same file with kubectl; its current context is used.".into()
            }
            Self::Missing { what } => format!(
                "Check the name and `namespace`, and with `kubectl api-resources` that the cluster knows {}.",
                what.resource.plural()
            ),
            Self::Forbidden { verb, what, .. } => format!(
                "Give pgsluice's service account a Role in namespace {} with the rule {}.",
                what.namespace,
                rule(verb, what)
            ),
            Self::Unauthorized { .. } => {
                "Check the service account's token, or the user of the kubeconfig file.".into()
            }
            Self::Conflict { .. } => "Find out who keeps changing it, and stop that for the moment.".into(),
            Self::Refused { .. } => {
                "Make the same change with kubectl to see what stands in its way: a webhook, a policy, or a field that is missing."
                    .into()
            }
            Self::Unreachable { .. } => {
                "Check that the API server is up, and that a NetworkPolicy lets pgsluice reach it.".into()
            }
            Self::NotUnderstood { .. } => "Check what answers at the API server's address.".into(),
        }
    }
}

/// Whether a webhook or a policy has looked at the change itself and denied it: the right to make it is there.
fn is_denied(said: &str) -> bool {
    said.contains("admission webhook") || said.contains("denied request")
}

/// As it stands in a Role. What is to be created has no name by which the API server could allow it.
fn rule(verb: &str, what: &ResourceName) -> String {
    let names = if what.name.is_empty() || verb == "create" {
        String::new()
    } else {
        format!(", resourceNames: [\"{}\"]", what.name)
    };
    format!(
        "{{apiGroups: [\"{}\"], resources: [\"{}\"]{names}, verbs: [\"{verb}\"]}}",
        what.resource.group(),
        what.resource.plural()
    )
}

/// Without what stands in the file: a parser quotes the lines around a mistake, and tokens are among them (INV-10).
fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(_) => "it is not YAML, or not that of a kubeconfig file".to_owned(),
        error => error.to_string(),
    }
}

/// Who would be calling cannot be proven. Without what a command has answered, which is a token or close to one (INV-10).
fn unproven(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(problem) => format!("the command for a token cannot be started ({problem})"),
        AuthError::AuthExecRun { out, .. } => format!("the command for a token ends with {}", out.status),
        AuthError::AuthExecParse(_) => "what the command for a token answers is not understood".to_owned(),
        AuthError::ReadTokenFile(problem, path) => {
            format!("the token file {} cannot be read ({problem})", path.display())
        }
        _ => "the account's token, or the way to one, cannot be used".to_owned(),
    }
}

/// With its causes, which the libraries keep apart.
fn chain(error: &kube::Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(next) = cause {
        if let Some(error) = next.downcast_ref::<AuthError>() {
            return unproven(error);
        }
        cause = next.source();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let said = next.to_string();
        // Some say their cause's words already.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}
