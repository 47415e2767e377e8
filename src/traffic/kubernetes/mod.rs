//! The adapters that change objects of Kubernetes. What a step changes is decided from the object as it is found, by a pure
//! `plan` of each adapter, and sent as one merge patch that is refused if the object is not the one that was found. The same
//! patch writes down what was before, in an annotation of the object itself: nothing is remembered here, so that any process
//! can undo or finish what another one began.

mod annotation;
mod interference;
mod metrics;
mod pooler;
mod scale;
mod secret;
mod service;

use std::time::Duration;

use serde_json::{Value, json};

use super::Step;
use super::trouble::Trouble;
use crate::config::{Workload, WorkloadKind};
use crate::kubernetes::{Effect, Kubernetes, KubernetesError, Resource, ResourceName};

pub(super) use pooler::Pooler;
pub(super) use scale::Scale;
pub(super) use secret::Secret;
pub(super) use service::Service;

/// Between tries of a patch that somebody else was faster than.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Tries, before it is said that somebody keeps changing the object.
const CONFLICT_TRIES: u32 = 50;
/// How long is looked for what is only told.
const GLANCE_BOUND: Duration = Duration::from_secs(1);

/// What a step does to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    /// A merge patch, without the version of the object.
    patch: Value,
    /// A few words for the journal; empty if there is nothing to say.
    note: String,
}

impl From<KubernetesError> for Trouble {
    fn from(error: KubernetesError) -> Self {
        Self::new(error.to_string(), error.remedy())
    }
}

/// Why an object was not changed.
enum Unchanged {
    /// The API.
    Api(KubernetesError),
    /// What was found.
    Found(Trouble),
}

impl From<KubernetesError> for Unchanged {
    fn from(error: KubernetesError) -> Self {
        Self::Api(error)
    }
}

impl From<Trouble> for Unchanged {
    fn from(trouble: Trouble) -> Self {
        Self::Found(trouble)
    }
}

impl From<Unchanged> for Trouble {
    fn from(unchanged: Unchanged) -> Self {
        match unchanged {
            Unchanged::Api(error) => error.into(),
            Unchanged::Found(trouble) => trouble,
        }
    }
}

/// A workload's full name.
async fn named(api: &Kubernetes, workload: &Workload) -> Result<ResourceName, KubernetesError> {
    let resource = match workload.kind {
        WorkloadKind::Deployment => Resource::Deployment,
        WorkloadKind::StatefulSet => Resource::StatefulSet,
    };
    api.named(resource, &workload.name).await
}

/// Reads the object, and makes of it what `plan` says; from the beginning if somebody else changed it in between.
/// Returns what was to be told, `None` if nothing was to be changed.
async fn change(
    api: &Kubernetes,
    what: &ResourceName,
    effect: Effect,
    plan: impl Fn(&Value) -> Result<Option<Change>, Trouble>,
) -> Result<Option<String>, Unchanged> {
    let mut tries = 0;
    loop {
        tries += 1;
        let object = api.get(what).await?;
        let Some(Change { patch, note }) = plan(&object)? else { return Ok(None) };
        match api.patch(what, &versioned(patch, &object), effect).await {
            Ok(_) => return Ok(Some(note)),
            Err(KubernetesError::Conflict { .. }) if tries < CONFLICT_TRIES => {
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// As [`change`], for `resume` and `undo`. An object that is gone holds nobody back any more and cannot be made anything else: that
/// is said, and the step would otherwise never end.
async fn put_back(
    api: &Kubernetes,
    what: &ResourceName,
    step: Step,
    plan: impl Fn(&Value) -> Result<Option<Change>, Trouble>,
) -> Result<Option<String>, Trouble> {
    let done = match step {
        Step::Undo => undo(api, what, plan).await,
        _ => change(api, what, Effect::Change, plan).await,
    };
    match done {
        Err(Unchanged::Api(KubernetesError::Missing { .. })) => {
            Ok(Some(format!("{what} is gone, and left as it is")))
        }
        done => Ok(done?),
    }
}

/// As [`change`], for `undo`: if nothing is to be undone, the object's version is made another one. A patch of a step that
/// was given up may still be on its way to the API server; it is refused then, instead of being done after it was undone.
async fn undo(
    api: &Kubernetes,
    what: &ResourceName,
    plan: impl Fn(&Value) -> Result<Option<Change>, Trouble>,
) -> Result<Option<String>, Unchanged> {
    let undone = change(api, what, Effect::Change, |object| {
        let planned = plan(object)?;
        Ok(Some(planned.unwrap_or_else(|| Change { patch: annotation::touch(), note: String::new() })))
    });
    let note = undone.await?;
    change(api, what, Effect::Change, |object| {
        Ok(annotation::is_touched(object)
            .then(|| Change { patch: annotation::untouch(), note: String::new() }))
    })
    .await?;
    Ok(note)
}

/// The patch for the object as it was read, and for no other version of it.
fn versioned(mut patch: Value, object: &Value) -> Value {
    patch["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    patch
}

/// A look for what is only to be told, within [`GLANCE_BOUND`] and well within the step's own bound: an API server that does not
/// answer, which may take longer than any step, keeps nobody else waiting. `None` if there was no answer in time.
async fn glance<T>(step_bound: Duration, look: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(GLANCE_BOUND.min(step_bound / 2), look).await.ok()
}

/// Those of the notes that say something.
fn said(notes: impl IntoIterator<Item = Option<String>>) -> Vec<String> {
    notes.into_iter().flatten().filter(|note| !note.is_empty()).collect()
}

/// Puts two merge patches together.
fn merged(mut patch: Value, more: Value) -> Value {
    match (&mut patch, more) {
        (Value::Object(fields), Value::Object(more)) => {
            for (name, value) in more {
                let field = fields.entry(name).or_insert_with(|| json!({}));
                *field = merged(field.take(), value);
            }
        }
        (patch, more) => *patch = more,
    }
    patch
}

#[cfg(test)]
mod tests;
