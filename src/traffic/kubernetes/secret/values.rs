//! What a step makes of the Secret that applications read: the values of one side or of the other. Pure. A side's values are
//! bytes, as they come from its own Secret; messages name keys, never values, and neither has a value a form in which it could
//! be printed.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::annotation::{self, Before};
use super::super::interference::{Field, changed_by, keepers};
use super::super::{Change, merged};
use super::Trouble;
use crate::config::SecretKey;
use crate::kubernetes::ResourceName;

/// One of the configured databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Source,
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What the annotation keeps of the Secret as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Was {
    /// The side.
    Once(Side),
    /// The same, where the operation has led the Secret more than once, because somebody put it back in between.
    Again {
        /// The side.
        side: Side,
        /// How often it was led.
        times: u32,
    },
}

impl Was {
    const fn of(side: Side, times: u32) -> Self {
        if times > 1 { Self::Again { side, times } } else { Self::Once(side) }
    }

    const fn times(self) -> u32 {
        match self {
            Self::Once(_) => 1,
            Self::Again { times, .. } => times,
        }
    }
}

/// The values of a side, by the keys of the Secret that applications read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Values(BTreeMap<String, ByteString>);

/// Keys only.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Values {
    /// From the Secret that holds them.
    pub(super) fn of(what: &ResourceName, object: &Value, keys: &[SecretKey]) -> Result<Self, Trouble> {
        let found: Option<BTreeMap<_, _>> =
            keys.iter().map(|key| Some((key.name.clone(), value(object, &key.from)?))).collect();
        if let Some(values) = found {
            return Ok(Self(values));
        }
        let missing = keys.iter().map(|key| key.from.as_str()).filter(|key| value(object, key).is_none());
        let missing = missing.collect::<Vec<_>>().join(" and no key ");
        Err(Trouble::new(
            format!("{what} has no key {missing}"),
            format!(
                "Put it there, or name another one behind `=` in `keys`: kubectl describe secret {}.",
                what.name
            ),
        ))
    }

    /// The keys of the Secret that have other values.
    fn differing(&self, object: &Value) -> Vec<&str> {
        let differs = |(key, wanted): &(&String, &ByteString)| value(object, key).as_ref() != Some(*wanted);
        self.0.iter().filter(differs).map(|(key, _)| key.as_str()).collect()
    }

    /// What is changed.
    pub(super) fn fields(&self) -> Vec<Field> {
        self.0.keys().map(|key| Field::of(&["data", key])).collect()
    }

    /// The part of a patch that sets them.
    fn patch(&self) -> Value {
        let data: Map<String, Value> =
            self.0.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        json!({ "data": data })
    }
}

/// A value of a Secret, if it has the key.
fn value(object: &Value, key: &str) -> Option<ByteString> {
    serde_json::from_value(object["data"].get(key)?.clone()).ok()
}

/// Whether the Secret is one that can be led there and back.
pub(super) fn check(
    what: &ResourceName,
    object: &Value,
    (left, of_left): (Side, &Values),
    (reached, of_reached): (Side, &Values),
) -> Result<(), Trouble> {
    if object["immutable"] == true {
        return Err(Trouble::new(
            format!("{what} is immutable: nobody can change its values"),
            "Give applications a Secret that is not, or move them by another adapter.",
        ));
    }
    if of_left == of_reached {
        return Err(Trouble::new(
            format!("the values for the {left} and for the {reached} are the same"),
            "Look at the Secrets of `source_from` and `target_from`, and at `keys`.",
        ));
    }
    if of_reached.differing(object).is_empty() {
        return Err(Trouble::new(
            format!("{what} has the values of the {reached} already"),
            "Put the values of the side that is left into it, or remove the adapter if nobody reads it any more.",
        ));
    }
    let differing = of_left.differing(object);
    if !differing.is_empty() {
        return Err(Trouble::new(
            format!("{what} has other values than those of the {left} in {}", differing.join(", ")),
            format!(
                "Make `{left}_from` and it agree: what it has now would be lost, and a way back would lead to something else."
            ),
        ));
    }
    Ok(())
}

/// Leads to the side that is reached. A Secret that this operation has led already, and that has other values all the same, was
/// changed in between: who did that is told, and that it was led once more is written down.
pub(super) fn retarget(
    what: &ResourceName,
    object: &Value,
    epoch: i64,
    left: Side,
    (reached, values): (Side, &Values),
) -> Result<Option<Change>, Trouble> {
    // One that another program wrote must not be written over.
    let so_far = times_led(object, epoch)?;
    let differing = values.differing(object);
    if differing.is_empty() {
        return Ok(None);
    }
    let keys = differing.join(", ");
    let mut notes = Vec::new();
    if so_far == 0 {
        notes.push(format!("{what} leads to the {reached} by {keys}"));
    } else {
        let fields = fields_of(&differing);
        notes.push(format!(
            "{what} leads to the {reached} again by {keys}, changed in between by {}: what has started meanwhile and is not restarted \
             may still use the other side",
            changed_by(object, &fields)
        ));
        notes.extend(keepers(what, object, &fields));
    }
    let was = Was::of(left, so_far.saturating_add(1));
    let patch = merged(Before { epoch, was }.patch(), values.patch());
    Ok(Some(Change { patch, note: notes.join("; ") }))
}

/// How often this operation has led the Secret.
pub(super) fn times_led(object: &Value, epoch: i64) -> Result<u32, Trouble> {
    Ok(read(object)?.filter(|before| before.epoch == epoch).map_or(0, |before| before.was.times()))
}

/// Forgets what was before, and tells who has changed it since.
pub(super) fn resume(
    what: &ResourceName,
    object: &Value,
    epoch: i64,
    (reached, values): (Side, &Values),
) -> Result<Option<Change>, Trouble> {
    let Some(before) = read(object)? else { return Ok(None) };
    let differing = values.differing(object);
    let mut notes = Vec::new();
    if before.epoch == epoch && !differing.is_empty() {
        let fields = fields_of(&differing);
        notes.push(format!(
            "{what} no longer has the values of the {reached} in {}, changed by {}: pods that start from now on may find the side that is closed",
            differing.join(", "),
            changed_by(object, &fields)
        ));
        notes.extend(keepers(what, object, &fields));
    }
    Ok(Some(Change { patch: annotation::removal(), note: notes.join("; ") }))
}

/// As [`resume`], where the values of the side that is reached cannot be read.
pub(super) fn resume_unseen(
    what: &ResourceName,
    object: &Value,
    problem: &str,
) -> Result<Option<Change>, Trouble> {
    Ok(read(object)?.map(|_| Change {
        patch: annotation::removal(),
        note: format!("whether {what} is as it was led could not be seen: {problem}"),
    }))
}

/// Whether this operation has changed it.
pub(super) fn is_of(object: &Value, epoch: i64) -> Result<bool, Trouble> {
    Ok(times_led(object, epoch)? > 0)
}

/// Leads back to the side that is left.
pub(super) fn undo(what: &ResourceName, (left, values): (Side, &Values)) -> Change {
    Change {
        patch: merged(annotation::removal(), values.patch()),
        note: format!("{what} leads to the {left} again"),
    }
}

fn fields_of(keys: &[&str]) -> Vec<Field> {
    keys.iter().map(|key| Field::of(&["data", *key])).collect()
}

fn read(object: &Value) -> Result<Option<Before<Was>>, Trouble> {
    annotation::read(object)
}
