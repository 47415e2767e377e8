//! `kubernetes-service`: leads a Service to the other side, by its selector or as an ExternalName. It is no fence: connections
//! that are open stay where they are, and what was looked up is remembered by whoever looked. `pause` does nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::trouble::{Trouble, Waiting, within};
use super::super::{InRehearsals, Notes, Step, TrafficAdapter, TrafficContext, TrafficError};
use super::annotation::{self, Before};
use super::interference::{Field, changed_by, keepers};
use super::{Change, change, merged, put_back, said};
use crate::config::{KubernetesServiceConfig, ServiceShape};
use crate::kubernetes::{Effect, Kubernetes, Resource, ResourceName};
use crate::model::Direction;

/// What a Service has only while it has an address of its own. The API server refuses an ExternalName with any of them.
const FIELDS_OF_AN_ADDRESS: [&str; 5] =
    ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"];

/// The adapter.
#[derive(Debug)]
pub(in super::super) struct Service {
    config: KubernetesServiceConfig,
    api: Kubernetes,
}

/// How the Service looks on the side that is left, and on the one that is reached.
#[derive(Clone, Debug)]
struct Shapes<'a> {
    left: &'a ServiceShape,
    reached: &'a ServiceShape,
}

/// Which operation wrote down what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The one that is at work now.
    Ours,
    /// An earlier one.
    Another,
}

impl Whose {
    const fn of(written: i64, epoch: i64) -> Self {
        if written == epoch { Self::Ours } else { Self::Another }
    }
}

/// A shape as the annotation keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ShapeRecord {
    Selector(BTreeMap<String, String>),
    ExternalName(String),
}

#[async_trait]
impl TrafficAdapter for Service {
    fn name(&self) -> String {
        format!("kubernetes-service {}", self.config.service)
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        let work = self.run(step, context);
        let outcome = within(self.config.timeout, work, &Waiting::default()).await;
        outcome.map_err(|trouble| trouble.of(self.name(), step))
    }

    fn in_rehearsals(&self) -> InRehearsals {
        InRehearsals::Prepares
    }
}

impl Service {
    pub(in super::super) fn new(config: KubernetesServiceConfig) -> Self {
        let api = Kubernetes::new(config.access.clone());
        Self { config, api }
    }

    async fn run(&self, step: Step, context: &TrafficContext) -> Result<Notes, Trouble> {
        let shapes = Shapes::of(&self.config, context.direction);
        let what = self.api.named(Resource::Service, &self.config.service).await?;
        let plan = |object: &Value| plan(step, &shapes, &what, object, context.epoch);
        let note = match step {
            Step::Pause => None,
            Step::Prepare => {
                let checked = |object: &Value| {
                    check(&shapes, &what, object)?;
                    let planned = self::plan(Step::Retarget, &shapes, &what, object, context.epoch)?;
                    let mut notes = vec![format!("{what} leads to {}", describe(shapes.left))];
                    notes.extend(keepers(&what, object, &shapes.fields()));
                    Ok(planned.map(|Change { patch, .. }| Change { patch, note: notes.join("; ") }))
                };
                change(&self.api, &what, Effect::Trial, checked).await?
            }
            // One that is gone leads nobody to the target: that is told until it is there, or taken out of the configuration.
            Step::Retarget => change(&self.api, &what, Effect::Change, plan).await?,
            Step::Resume | Step::Undo => put_back(&self.api, &what, step, plan).await?,
        };
        Ok(said([note]))
    }
}

impl<'a> Shapes<'a> {
    const fn of(config: &'a KubernetesServiceConfig, direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self { left: &config.source, reached: &config.target },
            Direction::Back => Self { left: &config.target, reached: &config.source },
        }
    }

    /// What is changed between the two.
    fn fields(&self) -> Vec<Field> {
        let by_name = [self.left, self.reached].map(|shape| matches!(shape, ServiceShape::ExternalName(_)));
        let names: &[&str] = match by_name {
            [false, false] => &["selector"],
            [true, true] => &["externalName"],
            _ => &["type", "selector", "externalName"],
        };
        names.iter().map(|name| Field::of(&["spec", *name])).collect()
    }
}

/// What a step does to the Service as it is found.
fn plan(
    step: Step,
    shapes: &Shapes<'_>,
    what: &ResourceName,
    object: &Value,
    epoch: i64,
) -> Result<Option<Change>, Trouble> {
    let before: Option<Before<ShapeRecord>> = annotation::read(object)?;
    let found = shape(object);
    let told =
        |from: &ServiceShape, to: &ServiceShape| format!("{what} {} → {}", describe(from), describe(to));
    Ok(match step {
        Step::Prepare | Step::Pause => None,
        Step::Retarget if &found == shapes.reached => None,
        Step::Retarget => {
            // What an earlier operation left is no answer to what was before this one.
            let was = match before {
                Some(before) if before.epoch == epoch => before.was,
                _ => ShapeRecord::from(&found),
            };
            let patch = merged(Before { epoch, was }.patch(), lead_to(shapes.reached, object));
            Some(Change { patch, note: told(&found, shapes.reached) })
        }
        Step::Resume => before.map(|before| settled(shapes, what, object, Whose::of(before.epoch, epoch))),
        Step::Undo => before.filter(|before| before.epoch == epoch).map(|before| {
            let was = ServiceShape::from(before.was);
            let patch = merged(annotation::removal(), lead_to(&was, object));
            Change { patch, note: told(&found, &was) }
        }),
    })
}

/// Forgets what was before. A Service that somebody has led back to the side that is left is led to the other one again, since nobody is
/// served there; once, and not against one who keeps doing it.
fn settled(shapes: &Shapes<'_>, what: &ResourceName, object: &Value, whose: Whose) -> Change {
    let (found, fields) = (shape(object), shapes.fields());
    if whose == Whose::Another || &found == shapes.reached {
        return Change { patch: annotation::removal(), note: String::new() };
    }
    let who = changed_by(object, &fields);
    if &found != shapes.left {
        let note = format!("{what} leads to {} by now, changed by {who}", describe(&found));
        return Change { patch: annotation::removal(), note };
    }
    let (left, reached) = (describe(shapes.left), describe(shapes.reached));
    let mut notes = vec![format!(
        "{what} was led back to {left}, which is closed, by {who}; it leads to {reached} again"
    )];
    notes.extend(keepers(what, object, &fields));
    let patch = merged(annotation::removal(), lead_to(shapes.reached, object));
    Change { patch, note: notes.join("; ") }
}

/// Whether the Service is one that can be led there and back.
fn check(shapes: &Shapes<'_>, what: &ResourceName, object: &Value) -> Result<(), Trouble> {
    let found = shape(object);
    if &found == shapes.reached {
        return Err(Trouble::new(
            format!("{what} leads to {} already", describe(&found)),
            "Lead it to the side that is left, or remove the adapter if nobody uses it any more.",
        ));
    }
    if &found != shapes.left {
        let remedy = match &found {
            ServiceShape::Selector(labels) if labels.is_empty() => {
                "Somebody else keeps its endpoints (Patroni, an operator, or a person) and would change them back. Let applications use a \
                 Service of their own; or, if these endpoints may stay, set `source_selector = []` and `target_external_name`."
            }
            _ => "Change the Service or the adapter's `source_…` and `target_…` keys, so that they agree.",
        };
        return Err(Trouble::new(
            format!("{what} leads to {}, and {} was expected", describe(&found), describe(shapes.left)),
            remedy,
        ));
    }
    let changes_type =
        [shapes.left, shapes.reached].iter().any(|shape| matches!(shape, ServiceShape::ExternalName(_)));
    let kind = object["spec"]["type"].as_str().unwrap_or("ClusterIP");
    let is_headless = object["spec"]["clusterIP"] == "None";
    if changes_type && (is_headless || !matches!(kind, "ClusterIP" | "ExternalName")) {
        let kind = if is_headless { "headless" } else { kind };
        return Err(Trouble::new(
            format!("{what} is {kind}, which would be lost when it becomes an ExternalName"),
            "Put an ordinary Service (ClusterIP with a selector, or ExternalName) between it and the applications.",
        ));
    }
    Ok(())
}

/// Where a Service leads.
fn shape(object: &Value) -> ServiceShape {
    let spec = &object["spec"];
    if spec["type"] == "ExternalName" {
        return ServiceShape::ExternalName(spec["externalName"].as_str().unwrap_or_default().to_owned());
    }
    let labels = spec["selector"].as_object().into_iter().flatten();
    let label =
        |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap_or_default().to_owned());
    ServiceShape::Selector(labels.map(label).collect())
}

/// The part of a patch that leads the Service there.
fn lead_to(shape: &ServiceShape, object: &Value) -> Value {
    let found = &object["spec"];
    let mut spec = Map::new();
    // In a merge patch what is not named stays: labels of the other side have to be taken out one by one.
    let mut selector: Map<String, Value> = found["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| (name.clone(), Value::Null))
        .collect();
    match shape {
        ServiceShape::ExternalName(name) => {
            spec.insert("type".into(), "ExternalName".into());
            spec.insert("externalName".into(), name.as_str().into());
            spec.insert("selector".into(), Value::Null);
            spec.extend(FIELDS_OF_AN_ADDRESS.map(|field| (field.to_owned(), Value::Null)));
        }
        ServiceShape::Selector(labels) => {
            if found["type"] == "ExternalName" {
                spec.insert("type".into(), "ClusterIP".into());
                spec.insert("externalName".into(), Value::Null);
            }
            selector.extend(labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())));
            let selector = if labels.is_empty() { Value::Null } else { selector.into() };
            spec.insert("selector".into(), selector);
        }
    }
    json!({ "spec": spec })
}

fn describe(shape: &ServiceShape) -> String {
    match shape {
        ServiceShape::ExternalName(name) => name.clone(),
        ServiceShape::Selector(labels) if labels.is_empty() => "endpoints that somebody else keeps".into(),
        ServiceShape::Selector(labels) => {
            labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
        }
    }
}

impl From<&ServiceShape> for ShapeRecord {
    fn from(shape: &ServiceShape) -> Self {
        match shape {
            ServiceShape::Selector(labels) => Self::Selector(labels.clone()),
            ServiceShape::ExternalName(name) => Self::ExternalName(name.clone()),
        }
    }
}

impl From<ShapeRecord> for ServiceShape {
    fn from(record: ShapeRecord) -> Self {
        match record {
            ShapeRecord::Selector(labels) => Self::Selector(labels),
            ShapeRecord::ExternalName(name) => Self::ExternalName(name),
        }
    }
}

#[cfg(test)]
mod tests;
