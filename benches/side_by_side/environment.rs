//! Environment variables named `PGSLUICE_BENCH_…`, by the rest of their name. A value that cannot be understood ends the run.

use super::Outcome;

/// Its value; `None` if it is not set or empty.
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(format!("PGSLUICE_BENCH_{name}")).ok().filter(|value| !value.is_empty())
}

/// Whether it is set to anything but 0.
pub(crate) fn is_on(name: &str) -> bool {
    text(name).is_some_and(|value| value != "0")
}

/// Its value as a number within bounds.
pub(crate) fn number(name: &str, allowed: std::ops::RangeInclusive<u64>) -> Outcome<Option<u64>> {
    let Some(value) = text(name) else { return Ok(None) };
    match value.parse() {
        Ok(number) if allowed.contains(&number) => Ok(Some(number)),
        _ => Err(format!(
            "PGSLUICE_BENCH_{name}={value}: a number from {} to {}",
            allowed.start(),
            allowed.end()
        )
        .into()),
    }
}
