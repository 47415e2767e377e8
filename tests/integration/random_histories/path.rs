//! The ways through the program that a history takes: how changes are read, gathered and written. Drawn from the seed, or
//! the same for all of a run. A path is a few lines of configuration, so that a kept history says which one it took.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::history::History;

/// Forces one path for every history.
const PATH_VARIABLE: &str = "PGSLUICE_SOAK_PATH";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// As it comes.
    Default,
    /// Net changes in sets wherever a set is possible, large transactions in slices.
    Sets,
    /// Row by row.
    Rows,
    /// Several connections.
    Parallel,
    /// What waits is read in bulk, however little it is.
    Bulk,
}

impl Path {
    pub(super) const ALL: [Self; 5] = [Self::Sets, Self::Bulk, Self::Parallel, Self::Default, Self::Rows];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Sets => "sets",
            Self::Rows => "rows",
            Self::Parallel => "parallel",
            Self::Bulk => "bulk",
        }
    }

    /// The one that the run asks for, or else the seed's. Five paths over four pairs of versions: twenty seeds have all.
    pub(super) fn of(seed: u64) -> Self {
        match std::env::var(PATH_VARIABLE).ok().filter(|word| !word.is_empty()) {
            Some(word) => *Self::ALL
                .iter()
                .find(|path| path.word() == word)
                .unwrap_or_else(|| panic!("{PATH_VARIABLE} is sets, rows, parallel, bulk or default")),
            None => Self::ALL[(seed % Self::ALL.len() as u64) as usize],
        }
    }

    /// The history on this path. The history itself is the same on each.
    pub(super) fn through(self, history: &mut History) {
        // Of its own, so that it takes nothing from what the history is made of.
        let mut random = StdRng::seed_from_u64(history.seed ^ 0x7061_7468);
        let mut set = |key: &str, value: &str| {
            history.configuration.retain(|line| !line.starts_with(&format!("{key} =")));
            history.configuration.push(format!("{key} = {value}"));
        };
        match self {
            Self::Default => {}
            Self::Sets => {
                set("apply.coalesce", "\"always\"");
                if random.random_bool(0.6) {
                    set("apply.max_batch_bytes", "\"64KiB\"");
                }
                if random.random_bool(0.5) {
                    set("apply.max_batch_delay_ms", &random.random_range(5..150).to_string());
                }
            }
            Self::Rows => set("apply.coalesce", "\"off\""),
            Self::Parallel => {
                set("apply.connections", &random.random_range(2..=4).to_string());
                set("apply.coalesce", if random.random_bool(0.5) { "\"always\"" } else { "\"auto\"" });
            }
            Self::Bulk => {
                set("source.bulk", "\"always\"");
                if random.random_bool(0.3) {
                    set("apply.coalesce", "\"always\"");
                }
                if random.random_bool(0.3) {
                    set("apply.connections", "2");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_histories::generate::generate;

    #[test]
    fn a_path_changes_the_configuration_and_nothing_else() {
        for seed in 0..100 {
            for path in Path::ALL {
                let (plain, mut through) = (generate(seed), generate(seed));
                path.through(&mut through);
                let keys: Vec<_> =
                    through.configuration.iter().filter_map(|line| line.split(" =").next()).collect();
                let once: std::collections::BTreeSet<_> = keys.iter().collect();
                assert_eq!(once.len(), keys.len(), "{keys:?}");
                assert_eq!(History { configuration: plain.configuration.clone(), ..through }, plain);
            }
        }
    }
}
