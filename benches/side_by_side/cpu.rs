//! CPU seconds from `/proc`: of a server with all its processes, those that have ended included, of the replicator, and of
//! the whole machine, so that a run which something else disturbed can be told. Also the replicator's peak memory.

use std::fs;

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Linux counts in hundredths of a second towards programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Who is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    /// The source server's main process.
    pub(crate) source: u32,
    /// The target server's main process.
    pub(crate) target: u32,
    /// The replicator; `None` for native replication, which runs in the servers.
    pub(crate) replicator: Option<u32>,
}

/// CPU seconds used so far, or between two moments.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CpuSeconds {
    /// All processes of the source server.
    pub(crate) source_server: f64,
    /// All processes of the target server.
    pub(crate) target_server: f64,
    /// The replicator; 0 for native replication.
    pub(crate) replicator: f64,
    /// The three together.
    pub(crate) total: f64,
    /// Whatever else ran on the machine, this program's waiting and proxying included.
    pub(crate) everything_else: f64,
}

impl CpuSeconds {
    /// What has been used until now.
    pub(crate) fn now(watched: Watched) -> Outcome<Self> {
        let source_server = server_ticks(watched.source)?;
        let target_server = server_ticks(watched.target)?;
        // Programs that it has started and waited for, such as pg_dump, are its own.
        let of = |process: ProcessTicks| process.own + process.ended_children;
        let replicator = watched.replicator.map_or(Ok(0), |pid| Ok::<_, super::Failure>(of(read(pid)?)))?;
        let total = source_server + target_server + replicator;
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        Ok(Self {
            source_server: seconds(source_server),
            target_server: seconds(target_server),
            replicator: seconds(replicator),
            total: seconds(total),
            everything_else: seconds(machine_ticks()?) - seconds(total),
        })
    }

    /// What has been used since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        // A server's session that ends between two looks is counted by its parent, so nothing is lost.
        Self {
            source_server: self.source_server - earlier.source_server,
            target_server: self.target_server - earlier.target_server,
            replicator: self.replicator - earlier.replicator,
            total: self.total - earlier.total,
            everything_else: self.everything_else - earlier.everything_else,
        }
    }

    /// What has been used in each of `seconds`.
    pub(crate) fn per(&self, seconds: f64) -> Self {
        Self {
            source_server: self.source_server / seconds,
            target_server: self.target_server / seconds,
            replicator: self.replicator / seconds,
            total: self.total / seconds,
            everything_else: self.everything_else / seconds,
        }
    }
}

/// The highest resident set so far (`VmHWM`), in MiB.
pub(crate) fn peak_resident_mib(pid: u32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM in /proc")?;
    let kib: u32 = line.split_whitespace().nth(1).ok_or("no figure in VmHWM")?.parse()?;
    Ok(f64::from(kib) / 1024.0)
}

/// One process's line of figures.
#[derive(Clone, Copy)]
struct ProcessTicks {
    parent: u32,
    own: u64,
    /// Of children that have ended and were waited for.
    ended_children: u64,
}

/// A server is its main process, that one's children, and what ended children have used.
fn server_ticks(postmaster: u32) -> Outcome<u64> {
    let main = read(postmaster)?;
    let mut ticks = main.own + main.ended_children;
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end while the folder is read; its parent counts it from then on.
        if let Ok(process) = read(pid)
            && process.parent == postmaster
        {
            ticks += process.own + process.ended_children;
        }
    }
    Ok(ticks)
}

fn read(pid: u32) -> Outcome<ProcessTicks> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&stat).ok_or_else(|| format!("/proc/{pid}/stat has an unknown form").into())
}

/// The name in parentheses may hold anything, so what follows its end counts: state, parent, …
fn parse(stat: &str) -> Option<ProcessTicks> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(ProcessTicks {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        ended_children: number(13)? + number(14)?,
    })
}

/// Everything but idling and waiting for disks, over all processors.
fn machine_ticks() -> Outcome<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("/proc/stat is empty")?;
    let figures: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    Ok([0, 1, 2, 5, 6].iter().filter_map(|&index| figures.get(index)).sum())
}
