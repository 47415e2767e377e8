//! The certificate: the evidence that nothing was lost, as a JSON document. Its core is written to the journal before
//! the commit, so that a cutover that is finished by a later start has it too.

use std::time::Duration;

use serde_json::{Value, json};

use super::journal::mode_name;
use super::operation::Operation;
use super::proof::{CaughtUp, SequencesAligned, SourceFenced};

/// What the two servers say of themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers {
    source: Value,
    target: Value,
}

impl From<(Value, Value)> for Servers {
    fn from((source, target): (Value, Value)) -> Self {
        Self { source, target }
    }
}

impl Operation {
    /// What the proofs say, for the certificate and, before the commit, for the journal.
    pub(super) fn evidence_of(
        &self,
        fenced: &SourceFenced,
        caught_up: &CaughtUp,
        aligned: &SequencesAligned,
    ) -> Value {
        let tables: Vec<String> = fenced.tables().iter().map(crate::model::TableName::plain).collect();
        let values: Vec<_> = aligned
            .values()
            .iter()
            .map(|value| {
                json!({
                    "schema": value.name.schema, "name": value.name.name,
                    "last_value": value.last_value, "is_called": value.is_called,
                })
            })
            .collect();
        json!({
            "epoch": self.terms.epoch,
            "mode": mode_name(self.mode()),
            "nonce": self.terms.nonce.as_str(),
            "moved_to": self.terms.moved_to,
            "source": { "endpoint": self.traffic_context.source, "server": self.servers.source },
            "target": { "endpoint": self.traffic_context.target, "server": self.servers.target },
            "marker_lsn": caught_up.marker_lsn().to_string(),
            "source_lsn": caught_up.receipt().source_lsn().to_string(),
            "target_lsn": caught_up.receipt().target_lsn().to_string(),
            "tables_locked": { "count": tables.len(), "names": tables },
            "verification": self.evidence.get("verification"),
            "sequences_set": { "count": values.len(), "values": values },
        })
    }

    /// The certificate: the evidence with the steps' times and the pause, and who was locked out, if anybody was.
    pub(super) fn certificate(&mut self, lockout: Option<Value>) -> Value {
        let report = self.log.report();
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let steps: Vec<_> = report
            .steps
            .iter()
            .map(|step| {
                json!({
                    "name": step.name, "duration_ms": milliseconds(step.duration), "in_pause": step.in_pause,
                    "detail": step.detail,
                })
            })
            .collect();
        let mut certificate = match self.evidence.take() {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        let mut put = |name: &str, value: Value| certificate.insert(name.to_owned(), value);
        put("steps", steps.into());
        put("pause_ms", report.pause.map(milliseconds).into());
        if let Some(lockout) = lockout {
            put("lockout", lockout);
        }
        put("started_at", report.started_at.to_string().into());
        put("completed_at", jiff::Timestamp::now().to_string().into());
        put("program_version", env!("CARGO_PKG_VERSION").into());
        certificate.into()
    }
}
