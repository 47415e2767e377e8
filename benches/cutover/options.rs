//! What one run is to do, from environment variables named `PGSLUICE_BENCH_…`. A value that cannot be understood ends the run
//! before a server is started.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Everything that can be chosen; part of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    /// `PGSLUICE_BENCH_REHEARSALS`: how many must complete; 100.
    pub(crate) rehearsals: usize,
    /// `PGSLUICE_BENCH_PAIRS`: how many cutovers must complete, each with its rollback; 20.
    pub(crate) pairs: usize,
    /// `PGSLUICE_BENCH_CLIENTS`: clients that write at the same time; 8.
    pub(crate) clients: usize,
    /// `PGSLUICE_BENCH_RATE`: transactions a second of all clients at most; 0: as fast as they can.
    pub(crate) transactions_per_second_max: u64,
    /// `PGSLUICE_BENCH_CROSSING`: of 100 transactions, how many write the other tables before pgbench's; 50.
    pub(crate) crossing_percent: u32,
    /// `PGSLUICE_BENCH_SEED`: of the clients' transactions; random.
    pub(crate) seed: u64,
    /// `PGSLUICE_BENCH_ROLE`: `superuser` (14 to 17), or `owner` (15 to 17): who owns the database and is no superuser.
    pub(crate) role: Role,
    /// `PGSLUICE_BENCH_CONFIG`: lines of TOML for pgsluice.
    pub(crate) configuration: String,
}

/// Who runs the migration, and whose clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Superuser,
    Owner,
}

impl Role {
    /// Before 15 a role cannot be given the right to set `session_replication_role`, which a way back needs.
    pub(crate) const fn source_major(self) -> u32 {
        match self {
            Self::Superuser => 14,
            Self::Owner => 15,
        }
    }
}

impl Options {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Outcome<Self> {
        let count = |name, default, allowed| {
            Ok::<_, super::Failure>(usize::try_from(number(name, allowed)?.unwrap_or(default))?)
        };
        Ok(Self {
            rehearsals: count("REHEARSALS", 100, 0..=10_000)?,
            pairs: count("PAIRS", 20, 0..=1_000)?,
            clients: count("CLIENTS", 8, 1..=64)?,
            transactions_per_second_max: number("RATE", 0..=1_000_000)?.unwrap_or(0),
            crossing_percent: u32::try_from(number("CROSSING", 0..=100)?.unwrap_or(50))?,
            seed: number("SEED", 0..=u64::MAX)?.unwrap_or_else(|| u64::from(rand::random::<u32>())),
            role: match text("ROLE").as_deref() {
                None | Some("superuser") => Role::Superuser,
                Some("owner") => Role::Owner,
                Some(other) => return Err(format!("PGSLUICE_BENCH_ROLE={other}: superuser or owner").into()),
            },
            configuration: text("CONFIG").unwrap_or_default(),
        })
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(format!("PGSLUICE_BENCH_{name}")).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, allowed: RangeInclusive<u64>) -> Outcome<Option<u64>> {
    let Some(value) = text(name) else { return Ok(None) };
    match value.parse() {
        Ok(number) if allowed.contains(&number) => Ok(Some(number)),
        _ => {
            let (least, most) = (allowed.start(), allowed.end());
            Err(format!("PGSLUICE_BENCH_{name}={value}: a number from {least} to {most}").into())
        }
    }
}
