//! What the process itself uses, read from `/proc/self` at each scrape: resident memory, CPU time, open files.
//! Where `/proc` is not mounted (or another system) the metrics are absent; nothing fails because of it.

use std::fs;

use prometheus::core::{AtomicF64, Collector, Desc, GenericCounter};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Opts};

use super::registrar::{MetricDescription, MetricKind};

const RESIDENT: MetricDescription = MetricDescription {
    name: "process_resident_memory_bytes",
    kind: MetricKind::Gauge,
    help: "Resident memory of this process in bytes.",
    labels: &[],
};
const CPU: MetricDescription = MetricDescription {
    name: "process_cpu_seconds_total",
    kind: MetricKind::Counter,
    help: "User and system CPU time of this process in seconds.",
    labels: &[],
};
const OPEN_FILES: MetricDescription = MetricDescription {
    name: "process_open_fds",
    kind: MetricKind::Gauge,
    help: "Open file descriptors of this process.",
    labels: &[],
};

/// `USER_HZ`: the unit of CPU times in `/proc`, 100 in every Linux ABI that Rust's tier 1 targets have
/// (proc_pid_stat(5), sysconf(3) `_SC_CLK_TCK`).
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// Collects the three metrics.
pub(super) struct ProcessCollector {
    descriptors: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let descriptors = Self::described()
            .iter()
            .map(|metric| Desc::new(metric.name.into(), metric.help.into(), Vec::new(), Default::default()))
            .collect::<Result<_, _>>()?;
        Ok(Self { descriptors })
    }

    pub(super) const fn described() -> [MetricDescription; 3] {
        [RESIDENT, CPU, OPEN_FILES]
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptors.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let resident = resident_bytes().and_then(|bytes| gauge(RESIDENT, i64::try_from(bytes).ok()?));
        let open_files = open_files().and_then(|files| gauge(OPEN_FILES, i64::try_from(files).ok()?));
        let cpu = cpu_seconds().and_then(counter);
        [resident, open_files, cpu].into_iter().flatten().flatten().collect()
    }
}

fn gauge(metric: MetricDescription, value: i64) -> Option<Vec<MetricFamily>> {
    let gauge = IntGauge::with_opts(Opts::new(metric.name, metric.help)).ok()?;
    gauge.set(value);
    Some(gauge.collect())
}

fn counter(seconds: f64) -> Option<Vec<MetricFamily>> {
    let counter = GenericCounter::<AtomicF64>::with_opts(Opts::new(CPU.name, CPU.help)).ok()?;
    counter.inc_by(seconds);
    Some(counter.collect())
}

/// `VmRSS` of `/proc/self/status`, which is in kB whatever the page size.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// `utime` and `stime`: fields 14 and 15 of `/proc/self/stat`, counted after the command's name, which may itself
/// contain spaces and parentheses.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / CLOCK_TICKS_PER_SECOND)
}

fn open_files() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_measures_itself() {
        assert!(resident_bytes().expect("resident memory") > 1024 * 1024);
        assert!(cpu_seconds().expect("cpu time") >= 0.0);
        assert!(open_files().expect("open files") >= 3);
    }
}
