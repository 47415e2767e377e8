use super::super::Severity;
use super::*;

fn state() -> ClusterState {
    ClusterState {
        namespace: "db".into(),
        name: "shop".into(),
        current_primary: Some("shop-1".into()),
        target_primary: Some("shop-1".into()),
        system_identifier: Some("7561".into()),
        instances: Some(3),
        backup: Backup::Succeeded,
        ..ClusterState::default()
    }
}

fn facts() -> Facts {
    Facts {
        system_identifier: "7561".into(),
        database: "shop".into(),
        role: "shop".into(),
        is_superuser: false,
        may_be_replica: true,
        may_see_standbys: true,
        may_replicate: true,
    }
}

fn config(target: &str) -> Config {
    let variables = [
        ("PGSLUICE_SOURCE__URL", "postgres://old/shop"),
        ("PGSLUICE_TARGET__URL", "postgres://new/shop"),
        ("PGSLUICE_TARGET__CNPG__CLUSTER", "shop"),
    ];
    let more = target.split_terminator(' ').filter_map(|pair| pair.split_once('='));
    let variables =
        variables.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value.to_owned()));
    crate::config::load(None, variables).expect("a configuration")
}

fn synchronous() -> crate::kubernetes::cnpg::Synchronous {
    crate::kubernetes::cnpg::Synchronous { method: "any".into(), number: 1, is_required: true }
}

const WITH_STANDBY: &str = "PGSLUICE_TARGET__DURABILITY=standbys PGSLUICE_TARGET__STANDBYS=1";

fn seen(state: ClusterState, facts: &Facts, config: &Config) -> Vec<Finding> {
    judge(&Sight { state: Some(state), ..Sight::default() }, facts, config)
}

#[test]
fn a_cluster_in_order_gives_nothing_to_say() {
    assert_eq!(seen(state(), &facts(), &config(WITH_STANDBY)), []);
    assert_eq!(seen(ClusterState { instances: Some(1), ..state() }, &facts(), &config("")), []);
}

#[test]
fn another_cluster_or_a_replica_blocks() {
    let other = Facts { system_identifier: "1".into(), ..facts() };
    for findings in [
        seen(state(), &other, &config(WITH_STANDBY)),
        seen(ClusterState { is_replica: true, ..state() }, &facts(), &config(WITH_STANDBY)),
    ] {
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Blocker], "{findings:#?}");
    }
    // An operator that does not say it yet.
    assert_eq!(seen(ClusterState { system_identifier: None, ..state() }, &other, &config(WITH_STANDBY)), []);
}

#[test]
fn what_endangers_a_migration_warns() {
    let cases = [
        (
            ClusterState { target_primary: Some("shop-2".into()), ..state() },
            WITH_STANDBY,
            "from shop-1 to shop-2",
        ),
        (ClusterState { fenced: vec!["shop-3".into()], ..state() }, WITH_STANDBY, "fenced"),
        (ClusterState { backup: Backup::NotKnown, ..state() }, WITH_STANDBY, "no backup that succeeded"),
        (state(), "", "a failover may lose"),
        (ClusterState { instances: Some(1), ..state() }, WITH_STANDBY, "has 0 standbys"),
        (ClusterState { synchronous: Some(synchronous()), ..state() }, "", "a failover may lose"),
    ];
    for (state, target, said) in cases {
        let findings = seen(state, &facts(), &config(target));
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].severity, Severity::Warning);
        assert!(findings[0].finding.contains(said), "{findings:#?}");
    }
    let without = format!("{WITH_STANDBY} PGSLUICE_TARGET__CNPG__BACKUP=ignored");
    assert_eq!(seen(ClusterState { backup: Backup::NotKnown, ..state() }, &facts(), &config(&without)), []);
}

#[test]
fn every_grant_that_is_missing_is_in_one_command_that_needs_no_superusers_password() {
    let poor = Facts {
        role: "o'neil".into(),
        may_be_replica: false,
        may_see_standbys: false,
        may_replicate: false,
        ..facts()
    };
    let findings = seen(state(), &poor, &config(WITH_STANDBY));
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert!(findings[0].finding.contains("enableSuperuserAccess is off"), "{findings:#?}");
    assert_eq!(
        findings[0].remedy,
        "kubectl cnpg psql shop -n db -- -d shop -c 'GRANT SET ON PARAMETER session_replication_role TO \"o'\\''neil\"; \
         GRANT pg_read_all_stats TO \"o'\\''neil\"; ALTER ROLE \"o'\\''neil\" REPLICATION;'"
    );
    let superuser = Facts { is_superuser: true, ..poor };
    assert_eq!(seen(state(), &superuser, &config(WITH_STANDBY)), []);
}

#[test]
fn backups_that_cannot_be_looked_for_are_no_reason_to_pass_over_the_cluster() {
    let problem = Some(("forbidden".to_owned(), "Grant it.".to_owned()));
    let unknown = ClusterState { backup: Backup::NotKnown, ..state() };
    let sight = Sight { state: Some(unknown), backup_problem: problem, ..Sight::default() };
    let other = Facts { system_identifier: "1".into(), ..facts() };
    let findings = judge(&sight, &other, &config(WITH_STANDBY));
    let ids: Vec<_> = findings.iter().map(|finding| (finding.id, finding.severity)).collect();
    assert_eq!(ids, [(ID, Severity::Blocker), (BACKUP_ID, Severity::Warning)]);
    assert_eq!(findings[1].remedy, "Grant it.");
}

#[test]
fn a_cluster_that_cannot_be_seen_is_a_warning_with_its_remedy() {
    let sight = Sight { problem: Some(("forbidden".into(), "Grant it.".into())), ..Sight::default() };
    let findings = judge(&sight, &facts(), &config(WITH_STANDBY));
    assert_eq!((findings[0].severity, findings[0].remedy.as_str()), (Severity::Warning, "Grant it."));
}
