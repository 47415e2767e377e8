//! What a run took place on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::Outcome;

/// Processor, cores, memory, kernel, and the revision of this program.
pub(crate) fn facts() -> Outcome<BTreeMap<String, String>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?.to_string();
    Ok([
        ("processor", field(&cpu, "model name")),
        ("cores", cores),
        ("memory", field(&memory, "MemTotal")),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("revision", revision()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect())
}

/// The commit this was built from, marked when there are changes over it.
fn revision() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output();
    output.ok().filter(|output| output.status.success()).map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
