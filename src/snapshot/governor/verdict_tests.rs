use super::*;

const LIMIT: u64 = 1000;
const LIMITS: Limits = Limits { wal_retained_bytes: Some(LIMIT), standby_lag_bytes: Some(LIMIT) };

fn wal(bytes: u64) -> Pressure {
    Pressure { wal_retained_bytes: Some(bytes), ..Pressure::default() }
}

fn behind(pid: i32, lag_bytes: u64) -> Pressure {
    let standby = StandbyBehind { application_name: format!("replica {pid}"), pid, lag_bytes };
    Pressure { standby: Some(standby), ..Pressure::default() }
}

fn writer(pid: i32, age_seconds: u64) -> OldTransaction {
    let holder = TransactionHolder::Session {
        pid,
        user: Some("app".into()),
        application: Some("nightly".into()),
        state: Some("idle in transaction".into()),
    };
    OldTransaction { holder, database: Some("shop".into()), age: Some(Duration::from_secs(age_seconds)) }
}

fn after(before: &Verdict, pressure: &Pressure) -> Verdict {
    judge(pressure, LIMITS, "pgsluice", before)
}

fn reason(verdict: Verdict) -> Reason {
    match verdict {
        Verdict::Pause(reason) => reason,
        Verdict::Go => panic!("it goes on"),
    }
}

#[test]
fn a_pause_begins_above_the_limit_and_ends_below_four_fifths_of_it() {
    for make in [wal as fn(u64) -> Pressure, |bytes| behind(7, bytes)] {
        assert_eq!(after(&Verdict::Go, &make(LIMIT)), Verdict::Go);
        let paused = after(&Verdict::Go, &make(LIMIT + 1));
        assert_ne!(paused, Verdict::Go);
        assert_eq!(after(&paused, &make(800)), paused, "still, and with the figures it began with");
        assert_eq!(after(&paused, &make(799)), Verdict::Go);
    }
    assert_eq!(resumes_below(u64::MAX), u64::MAX / 100 * 80 + 12, "no overflow");
}

#[test]
fn what_is_not_known_or_not_limited_stops_nothing() {
    let paused = after(&Verdict::Go, &wal(LIMIT + 1));
    assert_eq!(after(&paused, &Pressure::default()), Verdict::Go);
    assert_eq!(judge(&wal(u64::MAX), Limits::default(), "pgsluice", &Verdict::Go), Verdict::Go);
    assert_eq!(judge(&behind(7, u64::MAX), Limits::default(), "pgsluice", &Verdict::Go), Verdict::Go);
}

#[test]
fn a_disk_that_fills_comes_before_a_standby_that_is_behind() {
    let both = Pressure { wal_retained_bytes: Some(LIMIT + 1), ..behind(7, LIMIT + 1) };
    let paused = after(&Verdict::Go, &both);
    assert!(matches!(paused, Verdict::Pause(Reason::WalRetained { .. })));
    // The standby's own limit counts once the WAL is gone, not four fifths of it.
    assert!(matches!(after(&paused, &behind(7, LIMIT + 1)), Verdict::Pause(Reason::StandbyLag { .. })));
    assert_eq!(after(&paused, &behind(7, 900)), Verdict::Go);
}

#[test]
fn a_pause_is_told_anew_when_somebody_else_is_its_cause() {
    let first = after(&Verdict::Go, &behind(7, LIMIT + 1));
    let second = after(&first, &behind(8, LIMIT + 5));
    assert!(matches!(&second, Verdict::Pause(Reason::StandbyLag { standby, .. }) if standby.pid == 8));

    let nobody = after(&Verdict::Go, &wal(LIMIT + 1));
    let held = Pressure { oldest_writer: Some(writer(42, 60)), ..wal(LIMIT + 2) };
    let named = after(&nobody, &held);
    assert!(reason(named.clone()).to_string().contains("pid 42"));
    let older = Pressure { oldest_writer: Some(writer(42, 61)), ..wal(LIMIT + 3) };
    assert_eq!(after(&named, &older), named, "its age alone is no news");
}

#[test]
fn a_transaction_of_ordinary_length_is_not_blamed() {
    let young = Pressure { oldest_writer: Some(writer(42, 3)), ..wal(LIMIT + 1) };
    let reason = reason(after(&Verdict::Go, &young));
    assert!(matches!(reason, Reason::WalRetained { held_by: None, .. }));
    assert!(reason.remedy().starts_with("Nothing, if it can wait"));
}

#[test]
fn a_reason_says_what_how_much_the_limit_and_what_to_do() {
    let gib = 1 << 30;
    let slot = "pgsluice".to_owned();
    let held = Reason::WalRetained {
        slot,
        retained_bytes: 12 * gib,
        limit_bytes: 10 * gib,
        held_by: Some(writer(42, 7200)),
    };
    assert_eq!(
        held.to_string(),
        "the copy pauses: replication slot \"pgsluice\" keeps 12.00 GiB of WAL on the source, and \
         snapshot.max_wal_retained_bytes allows 10.00 GiB; no new chunk is begun until it keeps less than 8.00 GiB. It is held up by \
         a transaction of the source: pid 42, user app, application nightly, state idle in transaction, database shop, running for \
         7200 s"
    );
    assert!(held.remedy().contains("SELECT pg_terminate_backend(42);"));

    let prepared = TransactionHolder::Prepared { gid: "it's".into() };
    assert!(end(&prepared).contains("COMMIT PREPARED 'it''s';"));

    let standby = StandbyBehind { application_name: "replica".into(), pid: 7, lag_bytes: 2 * gib };
    let behind = Reason::StandbyLag { standby, limit_bytes: gib };
    assert_eq!(
        behind.to_string(),
        "the copy pauses: standby \"replica\" of the source (walsender 7) has 2.00 GiB of WAL to replay, and \
         snapshot.max_standby_lag_bytes allows 1.00 GiB; no new chunk is begun until it is less than 819.20 MiB behind"
    );
    assert!(behind.remedy().contains("WHERE pid = 7;"));
}
