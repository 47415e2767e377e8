//! What an object was before it was changed, kept in an annotation of the object itself by the patch that changes it. So it is
//! there exactly if the change was made, whoever made it and whatever became of that process.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::trouble::Trouble;

/// The annotation.
pub(super) const BEFORE: &str = "pgsluice.io/before";
/// There for a moment while something is undone that was not done.
const UNDONE: &str = "pgsluice.io/undone";

/// What the annotation says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before<T> {
    /// The operation that changed the object.
    pub(super) epoch: i64,
    /// What it was before.
    pub(super) was: T,
}

impl<T: Serialize> Before<T> {
    /// The part of a patch that writes it down.
    pub(super) fn patch(&self) -> Value {
        annotated(BEFORE, json!(self).to_string().into())
    }
}

/// What the object's annotation says, if it has one.
pub(super) fn read<T: DeserializeOwned>(object: &Value) -> Result<Option<Before<T>>, Trouble> {
    let Some(text) = object["metadata"]["annotations"][BEFORE].as_str() else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| {
        Trouble::new(
            format!("its annotation {BEFORE} is not one that pgsluice wrote ({error})"),
            format!("Make the object what it should be, and remove the annotation {BEFORE} from it."),
        )
    })
}

/// The part of a patch that removes it.
pub(super) fn removal() -> Value {
    annotated(BEFORE, Value::Null)
}

/// A patch that changes nothing but the object's version.
pub(super) fn touch() -> Value {
    annotated(UNDONE, "".into())
}

pub(super) fn is_touched(object: &Value) -> bool {
    object["metadata"]["annotations"][UNDONE].is_string()
}

pub(super) fn untouch() -> Value {
    annotated(UNDONE, Value::Null)
}

fn annotated(name: &str, value: Value) -> Value {
    json!({ "metadata": { "annotations": { name: value } } })
}
