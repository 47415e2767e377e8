//! What a pod of a pooler tells of its pools, in the text format of Prometheus. Pure. Whoever reads it must not take silence for
//! zero: an exporter that could not ask PgBouncer tells nothing of the pools.

const PREFIX: &str = "cnpg_pgbouncer_pools_";
/// Every state a connection to the database can be in.
const SERVERS: [&str; 7] =
    ["sv_active", "sv_active_cancel", "sv_wait_cancels", "sv_idle", "sv_used", "sv_tested", "sv_login"];
/// Without these two the answer is not one of CloudNativePG's poolers.
const NEEDED: [&str; 2] = ["sv_active", "sv_idle"];
const WAITING: &str = "cl_waiting";
const FAILED: &str = "cnpg_pgbouncer_last_collection_error";

/// The pools of one pod, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pools {
    /// Connections to the database.
    pub(super) servers: u64,
    /// Clients that have sent something and have no such connection.
    pub(super) waiting: u64,
}

/// What the metrics say of the pools, or why they say nothing.
pub(super) fn pools(text: &str) -> Result<Pools, String> {
    let mut pools = Pools::default();
    let mut seen = [false; NEEDED.len()];
    for (name, value) in text.lines().filter_map(sample) {
        if name == FAILED && value != "0" {
            return Err("the exporter could not ask PgBouncer".into());
        }
        let Some(column) = name.strip_prefix(PREFIX) else { continue };
        if column != WAITING && !SERVERS.contains(&column) {
            continue;
        }
        let count = whole(value).ok_or_else(|| format!("{name} is no count: {value}"))?;
        if column == WAITING {
            pools.waiting += count;
        } else {
            pools.servers += count;
        }
        for (needed, seen) in NEEDED.iter().zip(&mut seen) {
            *seen |= *needed == column;
        }
    }
    match NEEDED.iter().zip(seen).find(|(_, seen)| !seen) {
        None => Ok(pools),
        Some((needed, _)) => Err(format!("there is no {PREFIX}{needed} among its metrics")),
    }
}

/// Name and value of a line: `name{label="…"} value`, perhaps with a time behind.
fn sample(line: &str) -> Option<(&str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at_checked(name_end)?;
    // A label's value may hold anything, but a sample's value and time no brace.
    let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
    Some((name, rest.split_whitespace().next()?))
}

/// Gauges are floating point: `3`, `1e+06`.
fn whole(value: &str) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let number: f64 = value.parse().ok()?;
    let is_whole = (0.0..=EXACT_MAX).contains(&number) && number.fract() == 0.0;
    // In range, so nothing is cut off.
    is_whole.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSED: &str = "\
# HELP cnpg_pgbouncer_pools_sv_active Server connections that are linked to a client.
# TYPE cnpg_pgbouncer_pools_sv_active gauge
cnpg_pgbouncer_pools_sv_active{database=\"pgbouncer\",user=\"pgbouncer\"} 0
cnpg_pgbouncer_pools_sv_active{database=\"shop\",user=\"app\"} 0
cnpg_pgbouncer_pools_sv_idle{database=\"shop\",user=\"app\"} 0
cnpg_pgbouncer_pools_cl_waiting{database=\"shop\",user=\"app\"} 4
cnpg_pgbouncer_pools_cl_waiting_cancel_req{database=\"shop\",user=\"app\"} 9
cnpg_pgbouncer_last_collection_error 0
go_goroutines 12
";

    #[test]
    fn connections_of_all_pools_are_counted_together() {
        assert_eq!(pools(PAUSED), Ok(Pools { servers: 0, waiting: 4 }));
        let busy = format!(
            "{PAUSED}cnpg_pgbouncer_pools_sv_active{{database=\"a }} 7\",user=\"b\"}} 2 1700000000000\ncnpg_pgbouncer_pools_sv_login{{}} 1e+00\n"
        );
        assert_eq!(pools(&busy), Ok(Pools { servers: 3, waiting: 4 }));
    }

    #[test]
    fn silence_is_not_zero() {
        assert!(pools("").is_err());
        assert!(pools("go_goroutines 12\n").unwrap_err().contains("sv_active"));
        assert!(pools(&PAUSED.replace("sv_idle", "sv_other")).unwrap_err().contains("sv_idle"));
        assert!(pools(&PAUSED.replace("last_collection_error 0", "last_collection_error 1")).is_err());
        assert!(pools(&PAUSED.replace("} 0", "} NaN")).is_err());
        assert!(pools(&PAUSED.replace("} 0", "} -1")).is_err());
    }
}
