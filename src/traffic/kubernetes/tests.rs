//! What all three plans are tested with, and what holds for patches in general.

use proptest::prelude::*;

use super::*;

/// What the API server makes of a merge patch (RFC 7386).
pub(super) fn apply(object: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut fields = object.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            let field = apply(fields.get(name).unwrap_or(&Value::Null), change);
            fields.insert(name.clone(), field);
        }
    }
    Value::Object(fields)
}

/// The object after what was planned for it, with empty tables left out, as an API server leaves them out.
pub(super) fn after(object: &Value, change: Option<Change>) -> Value {
    let mut object = change.map_or_else(|| object.clone(), |change| apply(object, &change.patch));
    if let Some(metadata) = object["metadata"].as_object_mut()
        && metadata.get("annotations").is_some_and(|all| *all == json!({}))
    {
        metadata.remove("annotations");
    }
    object
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<u8>().prop_map(Value::from), "[a-c]".prop_map(Value::from)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|fields| json!(fields))
    })
}

fn object() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-c]", tree(), 0..4).prop_map(|fields| json!(fields))
}

proptest! {
    #[test]
    fn patches_for_different_fields_do_the_same_together_as_one_after_the_other(
        found in object(), first in tree(), second in tree()
    ) {
        let (first, second) = (json!({ "x": first }), json!({ "y": second }));
        let together = apply(&found, &merged(first.clone(), second.clone()));
        prop_assert_eq!(together, apply(&apply(&found, &first), &second));
    }
}

#[test]
fn a_patch_names_the_version_it_was_made_for() {
    let object = json!({ "metadata": { "resourceVersion": "41" } });
    let patch = versioned(json!({ "spec": { "replicas": 0 } }), &object);
    assert_eq!(patch, json!({ "spec": { "replicas": 0 }, "metadata": { "resourceVersion": "41" } }));
    let patch = versioned(annotation::removal(), &object);
    assert_eq!(patch["metadata"]["resourceVersion"], "41");
    assert!(patch["metadata"]["annotations"][annotation::BEFORE].is_null());
}

#[test]
fn an_annotation_that_somebody_else_wrote_is_not_guessed_at() {
    let object = json!({ "metadata": { "annotations": { annotation::BEFORE: "three" } } });
    let trouble = annotation::read::<u32>(&object).expect_err("no JSON");
    assert!(trouble.remedy.contains(annotation::BEFORE), "{trouble:?}");
}
