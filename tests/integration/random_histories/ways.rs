//! By which ways the program has read and written, as its own counters say: a path that nothing takes proves nothing.

use std::collections::BTreeMap;
use std::fmt;

use pgsluice::demo::replicator::Replicator;

/// Counters, and what they are called here; by a label where they have one.
const COUNTED: [(&str, &str); 3] = [
    ("pgsluice_apply_written_rows_total", "written by"),
    ("pgsluice_apply_fallbacks_total", "fell back for"),
    ("pgsluice_bulk_changes_total", "read in bulk"),
];

/// Counts; those of a program that was killed are lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways(BTreeMap<String, u64>);

impl Ways {
    pub(super) async fn of(replicator: &Replicator) -> Self {
        let metrics = replicator.api().get("/metrics").await.map_or(String::new(), |(_, text)| text);
        let mut ways = Self::default();
        for line in metrics.lines() {
            let Some((sample, count)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let label = labels.split('"').nth(1).unwrap_or_default();
            let known = COUNTED.iter().find(|(counter, _)| *counter == name);
            if let (Some((_, called)), Ok(count)) = (known, count.parse::<u64>()) {
                *ways.0.entry(format!("{called} {label}").trim_end().to_owned()).or_default() += count;
            }
        }
        ways
    }

    pub(super) fn add(&mut self, other: Self) {
        for (way, count) in other.0 {
            *self.0.entry(way).or_default() += count;
        }
    }

    pub(super) fn has(&self, way: &str) -> bool {
        self.0.iter().any(|(known, count)| known.starts_with(way) && *count > 0)
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<_> = self.0.iter().map(|(way, count)| format!("{way} {count}")).collect();
        f.write_str(&told.join(", "))
    }
}
