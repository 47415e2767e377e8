//! The adapters that change objects of Kubernetes, against doubles: of the API server ([`double`]) and of the metrics of a
//! pooler's pods ([`metrics`]). No API server can run here, so what is shown is what the adapters ask for and what they make
//! of the answers. Each step is done by an adapter as a fresh process has it, unless a test says otherwise.

pub(crate) mod cnpg;
mod documented;
pub(crate) mod double;
mod interference;
mod lease;
mod metrics;
mod pooler;
mod program;
mod rights;
mod scale;
mod secret;
mod service;

use std::fs;
use std::time::{Duration, Instant};

use pgsluice::migration::CutoverMode;
use pgsluice::model::Direction;
use pgsluice::traffic::{Endpoint, Notes, OperatorsWord, Step, Traffic, TrafficContext, TrafficError};
use serde_json::{Value, json};

use self::double::ApiDouble;

const FORWARD: [Step; 4] = [Step::Prepare, Step::Pause, Step::Retarget, Step::Resume];

/// The adapter of `entry` as a fresh process has it.
fn traffic(api: &ApiDouble, entry: &str) -> Traffic {
    traffic_by(&api.kubeconfig(), entry)
}

fn traffic_by(kubeconfig: &str, entry: &str) -> Traffic {
    let text = format!(
        "[source]\nurl = 'postgres://old/shop'\n[target]\nurl = 'postgres://new/shop'\n{}",
        entry.replace("KUBECONFIG", &format!("kubeconfig = {kubeconfig:?}"))
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pgsluice.toml");
    fs::write(&path, text).expect("written");
    let config = pgsluice::config::load(Some(&path), std::iter::empty()).expect("a configuration");
    Traffic::new(&config.traffic, &OperatorsWord::default()).expect("an adapter")
}

fn context(direction: Direction, epoch: i64) -> TrafficContext {
    let endpoint = |host: &str| Endpoint { host: host.into(), port: 5432, database: "shop".into() };
    let (source, target) = match direction {
        Direction::Forward => ("old", "new"),
        Direction::Back => ("new", "old"),
    };
    let (source, target) = (endpoint(source), endpoint(target));
    TrafficContext { epoch, mode: CutoverMode::Cutover, direction, nonce: "abc".into(), source, target }
}

/// One step by a fresh process.
async fn step(
    api: &ApiDouble,
    entry: &str,
    step: Step,
    context: &TrafficContext,
) -> Result<Notes, TrafficError> {
    traffic(api, entry).perform(step, context).await
}

/// As [`step`], which succeeds; what was said, in one line.
async fn done(api: &ApiDouble, entry: &str, step: Step, context: &TrafficContext) -> String {
    let outcome = self::step(api, entry, step, context).await;
    outcome.unwrap_or_else(|error| panic!("{error} {}", error.remedy)).join("; ")
}

/// Waits out an adapter's bound, and no longer.
async fn too_late(api: &ApiDouble, entry: &str, step: Step, context: &TrafficContext) -> TrafficError {
    let begun = Instant::now();
    let error = self::step(api, entry, step, context).await.expect_err("it cannot be done");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(error.problem.contains("was not done within"), "{error}");
    error
}

fn workload(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "kept": "yes" } },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } } },
    })
}
