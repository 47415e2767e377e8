//! Who else keeps a field that an adapter changes, and who has changed it back: told by the marks that Argo CD and Flux leave on
//! an object, by its owner, by its autoscalers, and by `metadata.managedFields`, where the API server notes who set which
//! field last. Pure. None of them can be asked here whether they are at work just now, and the data are protected by the fence: so
//! all of it is told and held against nobody, but for an autoscaler that would end the pause.

use std::fmt;

use serde_json::Value;

use super::super::trouble::Trouble;
use crate::kubernetes::{FIELD_MANAGER, ResourceName};

/// A field, by the names that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field(Vec<String>);

impl Field {
    pub(super) fn of<S: AsRef<str>>(path: &[S]) -> Self {
        Self(path.iter().map(|name| name.as_ref().to_owned()).collect())
    }

    /// Whether an entry of `managedFields` has it.
    fn is_in(&self, entry: &Value) -> bool {
        let mut fields = &entry["fieldsV1"];
        self.0.iter().all(|name| {
            fields = &fields[format!("f:{name}")];
            fields.is_object()
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Something that keeps objects as they are written elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keeper {
    /// Argo CD; the name is `NAMESPACE/NAME` where it is not in Argo CD's own namespace.
    Application(String),
    /// Flux.
    Kustomization { name: String, namespace: String },
    /// Flux.
    HelmRelease { name: String, namespace: String },
}

/// Under which names they set fields. Argo CD had the second one in older versions.
const ARGO_CD: [&str; 2] = ["argocd-controller", "argocd-application-controller"];
const KUSTOMIZE: [&str; 1] = ["kustomize-controller"];
const HELM: [&str; 1] = ["helm-controller"];

impl Keeper {
    /// Those whose marks are on the object.
    fn all(object: &Value) -> Vec<Self> {
        let (labels, annotations) = (&object["metadata"]["labels"], &object["metadata"]["annotations"]);
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let flux = |kind: &str| {
            let label = |end: &str| text(&labels[format!("{kind}.toolkit.fluxcd.io/{end}")]);
            Some((label("name")?, label("namespace")?))
        };
        let application =
            tracked(object, annotations["argocd.argoproj.io/tracking-id"].as_str().unwrap_or_default())
                .or_else(|| text(&labels["argocd.argoproj.io/instance"]))
                // With its namespace in front; no name has an underscore.
                .map(|name| Self::Application(name.replacen('_', "/", 1)));
        let kustomization =
            flux("kustomize").map(|(name, namespace)| Self::Kustomization { name, namespace });
        let release = flux("helm").map(|(name, namespace)| Self::HelmRelease { name, namespace });
        [application, kustomization, release].into_iter().flatten().collect()
    }

    const fn managers(&self) -> &'static [&'static str] {
        match self {
            Self::Application(_) => &ARGO_CD,
            Self::Kustomization { .. } => &KUSTOMIZE,
            Self::HelmRelease { .. } => &HELM,
        }
    }

    /// How it is told to leave the object alone.
    fn suspension(&self) -> String {
        match self {
            Self::Application(name) => format!("argocd app set {name} --sync-policy none"),
            Self::Kustomization { name, namespace } => {
                format!("flux suspend kustomization {name} -n {namespace}")
            }
            Self::HelmRelease { name, namespace } => {
                format!("flux suspend helmrelease {name} -n {namespace}")
            }
        }
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(name) => write!(f, "the Argo CD application {name}"),
            Self::Kustomization { name, namespace } => write!(f, "Flux's Kustomization {namespace}/{name}"),
            Self::HelmRelease { name, namespace } => write!(f, "Flux's HelmRelease {namespace}/{name}"),
        }
    }
}

/// The application of Argo CD's annotation, `APPLICATION:GROUP/KIND:NAMESPACE/NAME`; none if it was copied from another object.
fn tracked(object: &Value, tracking_id: &str) -> Option<String> {
    let (application, rest) = tracking_id.split_once(':')?;
    let (_, place) = rest.rsplit_once(':')?;
    let (_, name) = place.split_once('/')?;
    let is_its = object["metadata"]["name"].as_str().is_none_or(|own| own == name);
    (is_its && !application.is_empty()).then(|| application.to_owned())
}

/// What may undo a change of these fields, each with how it is kept from it.
pub(super) fn keepers(what: &ResourceName, object: &Value, fields: &[Field]) -> Vec<String> {
    let keepers = Keeper::all(object);
    let mut notes: Vec<String> = keepers
        .iter()
        .map(|keeper| {
            let set: Vec<&Field> = fields
                .iter()
                .filter(|field| managers(object, field).any(|name| keeper.managers().contains(&name)))
                .collect();
            let may = if set.is_empty() {
                format!("may undo this change if it sets {}", listed(fields))
            } else {
                format!("sets {} and may undo this change", listed(set))
            };
            format!("{what} is kept by {keeper}, which {may}: {}", keeper.suspension())
        })
        .collect();
    let is_told = |manager: &str| keepers.iter().any(|keeper| keeper.managers().contains(&manager));
    // By name only, where the marks were taken off or are others.
    for manager in [ARGO_CD.as_slice(), &KUSTOMIZE, &HELM].concat() {
        let set: Vec<&Field> =
            fields.iter().filter(|field| managers(object, field).any(|name| name == manager)).collect();
        if !set.is_empty() && !is_told(manager) {
            notes.push(format!(
                "{what}: the field manager {manager} sets {} and may undo this change: suspend what it reconciles",
                listed(set)
            ));
        }
    }
    notes.extend(owner(object).map(|owner| {
        format!(
            "{what} belongs to {owner}, whose controller may undo this change: find out whether it sets {}",
            listed(fields)
        )
    }));
    notes
}

/// The object whose controller made this one.
fn owner(object: &Value) -> Option<String> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some(format!("{} {}", owner["kind"].as_str()?, owner["name"].as_str()?))
}

/// Who set one of these fields last, other than pgsluice, and when: `argocd-controller at 2026-11-30T03:00:00Z`. `somebody` if
/// nobody took it down.
pub(super) fn changed_by(object: &Value, fields: &[Field]) -> String {
    let last = entries(object)
        .filter(|entry| entry["manager"] != FIELD_MANAGER && fields.iter().any(|field| field.is_in(entry)))
        // All in one time zone and of one length: the API server writes them.
        .max_by_key(|entry| entry["time"].as_str().unwrap_or_default());
    let Some((entry, manager)) = last.and_then(|entry| Some((entry, entry["manager"].as_str()?))) else {
        return "somebody".to_owned();
    };
    let through =
        entry["subresource"].as_str().map(|name| format!(" (subresource {name})")).unwrap_or_default();
    let at = entry["time"].as_str().map(|time| format!(" at {time}")).unwrap_or_default();
    format!("{manager}{through}{at}")
}

fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten()
}

fn managers<'a>(object: &'a Value, field: &Field) -> impl Iterator<Item = &'a str> {
    entries(object).filter(|entry| field.is_in(entry)).filter_map(|entry| entry["manager"].as_str())
}

fn listed<'a>(fields: impl IntoIterator<Item = &'a Field>) -> String {
    fields.into_iter().map(Field::to_string).collect::<Vec<_>>().join(", ")
}

/// What autoscalers do with a workload that stands at zero. One of Kubernetes' own leaves it alone, unless it may scale to
/// zero itself; KEDA scales from zero whenever one of its triggers is active.
pub(super) fn autoscaled(what: &ResourceName, autoscalers: &[Value]) -> Result<Option<String>, Trouble> {
    let is_its = |autoscaler: &&Value| {
        let scaled = &autoscaler["spec"]["scaleTargetRef"];
        let kind = scaled["kind"].as_str().unwrap_or_default();
        kind.eq_ignore_ascii_case(what.resource.singular()) && scaled["name"] == what.name.as_str()
    };
    let Some(autoscaler) = autoscalers.iter().find(is_its) else { return Ok(None) };
    let name = autoscaler["metadata"]["name"].as_str().unwrap_or_default();
    let owners = autoscaler["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let scaled_object =
        owners.filter(|owner| owner["kind"] == "ScaledObject").find_map(|owner| owner["name"].as_str());
    if let Some(scaled_object) = scaled_object {
        return Err(Trouble::new(
            format!(
                "KEDA's ScaledObject {scaled_object} (HorizontalPodAutoscaler {name}) would scale {what} from zero in the middle of the pause"
            ),
            format!(
                "Pause it until the cutover is over: kubectl annotate scaledobject {scaled_object} -n {} autoscaling.keda.sh/paused=true",
                what.namespace
            ),
        ));
    }
    if autoscaler["spec"]["minReplicas"] == 0 {
        return Err(Trouble::new(
            format!(
                "the HorizontalPodAutoscaler {name} may scale {what} to zero, and so from zero in the middle of the pause"
            ),
            format!("Set minReplicas of {name} to at least 1 until the cutover is over."),
        ));
    }
    Ok(Some(format!("the HorizontalPodAutoscaler {name} rests while {what} is at zero")))
}

#[cfg(test)]
mod tests;
