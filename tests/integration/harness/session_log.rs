//! Who was connected when, by the server's own log: every session with its beginning and its end, however short it was. Sampling
//! `pg_stat_activity` would miss those that last some milliseconds.

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};

/// A server that logs what is needed here.
pub(crate) fn with_session_log(options: ClusterOptions) -> ClusterOptions {
    options
        .setting("log_connections", "on")
        .setting("log_disconnections", "on")
        .setting("log_timezone", "UTC")
}

/// What a connection is for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Client,
    /// It counts as a connection, and against `max_wal_senders` too.
    Walsender,
}

#[derive(Clone, Debug)]
pub(crate) struct LoggedSession {
    pub(crate) application: String,
    pub(crate) kind: Kind,
    begun: Timestamp,
    /// `None` while it lasts.
    ended: Option<Timestamp>,
}

/// Everybody who was let in since the server was started first.
pub(crate) fn sessions(cluster: &LocalCluster) -> Vec<LoggedSession> {
    let log = fs::read(cluster.log_path()).expect("the server's log");
    let mut open: BTreeMap<String, LoggedSession> = BTreeMap::new();
    let mut over = Vec::new();
    for line in String::from_utf8_lossy(&log).lines() {
        let Some((at, process, rest)) = begin_of_line(line) else { continue };
        if let Some((_, facts)) = rest.split_once("connection authorized: ") {
            let (_, application) = facts.split_once("application_name=").unwrap_or_default();
            let application = application.split(" SSL ").next().unwrap_or_default().trim().to_owned();
            let kind = if rest.contains("replication connection authorized: ") {
                Kind::Walsender
            } else {
                Kind::Client
            };
            open.insert(process.to_owned(), LoggedSession { application, kind, begun: at, ended: None });
        } else if rest.contains("disconnection: session time: ")
            && let Some(mut session) = open.remove(process)
        {
            session.ended = Some(at);
            over.push(session);
        }
    }
    over.extend(open.into_values());
    over
}

/// `2026-11-30 03:21:59.123 UTC [1234] …`
fn begin_of_line(line: &str) -> Option<(Timestamp, &str, &str)> {
    let (at, rest) = line.split_once(" UTC [")?;
    let (process, rest) = rest.split_once("] ")?;
    let at = format!("{}Z", at.replacen(' ', "T", 1)).parse().ok()?;
    Some((at, process, rest))
}

impl LoggedSession {
    fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        self.begun <= to && self.ended.is_none_or(|ended| ended >= from)
    }
}

/// The most sessions that there were at once between two moments.
pub(crate) fn most_at_once<'a>(
    sessions: impl Iterator<Item = &'a LoggedSession> + Clone,
    from: Timestamp,
    to: Timestamp,
) -> usize {
    let within = sessions.filter(|session| session.overlaps(from, to));
    let at = |moment: Timestamp| {
        // One that ends in the very millisecond in which another begins made room for it.
        within.clone().filter(move |session| {
            session.begun <= moment && session.ended.is_none_or(|ended| ended > moment)
        })
    };
    // The number grows only when one begins.
    let moments = within.clone().map(|session| session.begun.max(from));
    moments.map(|moment| at(moment).count()).max().unwrap_or(0)
}
