use serde_json::json;

use super::*;

/// As CloudNativePG 1.30 shows it, shortened.
fn healthy() -> Value {
    json!({
        "metadata": { "name": "shop", "namespace": "db", "uid": "6e0f", "resourceVersion": "1" },
        "spec": {
            "instances": 3, "enableSuperuserAccess": false,
            "postgresql": { "synchronous": { "method": "any", "number": 1, "dataDurability": "required" } },
        },
        "status": {
            "phase": "Cluster in healthy state", "currentPrimary": "shop-1", "targetPrimary": "shop-1",
            "timelineID": 4, "systemID": "7561064585676382226", "instances": 3, "readyInstances": 2,
            "certificates": { "serverCASecret": "shop-ca" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

#[test]
fn everything_that_is_said_is_read() {
    let state = ClusterState::of(&healthy());
    assert_eq!(state.full_name(), "db/shop");
    assert_eq!((state.current_primary.as_deref(), state.timeline), (Some("shop-1"), Some(4)));
    assert_eq!(state.system_identifier.as_deref(), Some("7561064585676382226"));
    assert_eq!((state.instances, state.ready_instances), (Some(3), Some(2)));
    let synchronous = Synchronous { method: "any".into(), number: 1, is_required: true };
    assert_eq!(state.synchronous, Some(synchronous));
    assert_eq!(state.server_authority.as_deref(), Some("shop-ca"));
    assert!(!state.has_superuser && !state.is_replica && state.fenced.is_empty());
    assert_eq!(state.changes_primary(), None);
}

#[test]
fn a_primary_that_is_not_what_it_is_to_be_is_told_in_words() {
    let told = |current: Value, target: Value| {
        let mut object = healthy();
        object["status"]["currentPrimary"] = current;
        object["status"]["targetPrimary"] = target;
        ClusterState::of(&object).changes_primary()
    };
    let told = |current, target| told(current, target).unwrap_or_default();
    assert!(
        told(json!("shop-1"), json!("shop-2")).ends_with("db/shop changes its primary from shop-1 to shop-2")
    );
    assert!(told(json!("shop-1"), json!("pending")).contains("has given up its primary shop-1"));
    assert!(told(Value::Null, Value::Null).ends_with("has no primary yet"));
    assert!(told(Value::Null, json!("shop-1")).ends_with("has no primary yet"));
    assert_eq!(told(json!("shop-1"), Value::Null), "");
}

#[test]
fn a_backup_counts_once_it_succeeded_whoever_made_it() {
    let with = |field: &str, value: Value| {
        let mut object = healthy();
        object["status"][field] = value;
        ClusterState::of(&object).backup
    };
    assert_eq!(ClusterState::of(&healthy()).backup, Backup::NotKnown);
    let at = "2026-11-30T02:00:00Z";
    for field in ["firstRecoverabilityPoint", "lastSuccessfulBackup"] {
        assert_eq!(with(field, json!(at)), Backup::Succeeded);
        assert_eq!(with(field, json!("")), Backup::NotKnown);
    }
    assert_eq!(with("lastSuccessfulBackupByMethod", json!({ "plugin": at })), Backup::Succeeded);
    assert_eq!(with("lastSuccessfulBackupByMethod", json!({})), Backup::NotKnown);
    let condition = |status: &str| json!([{ "type": "LastBackupSucceeded", "status": status }]);
    assert_eq!(with("conditions", condition("True")), Backup::Succeeded);
    assert_eq!(with("conditions", condition("False")), Backup::NotKnown);
    let mut cluster = healthy();
    cluster["metadata"]["creationTimestamp"] = json!("2026-11-30T01:00:00Z");
    let cluster = ClusterState::of(&cluster);
    let backup = |cluster: &str, phase: &str, at: &str| json!({ "spec": { "cluster": { "name": cluster } }, "status": { "phase": phase, "startedAt": at } });
    let done = backup("shop", "completed", at);
    assert!(cluster.is_backed_up_by(&[backup("shop", "failed", at), done.clone()]));
    assert!(!cluster.is_backed_up_by(&[backup("other", "completed", at), backup("shop", "running", at)]));
    // Of a cluster that had its name before.
    assert!(!cluster.is_backed_up_by(&[backup("shop", "completed", "2026-04-01T00:00:00Z")]));
    // Whose age is not told.
    assert!(ClusterState::of(&healthy()).is_backed_up_by(&[done]));
}

#[test]
fn what_keeps_instances_from_running_is_seen() {
    let mut object = healthy();
    object["metadata"]["annotations"] = json!({ "cnpg.io/fencedInstances": "[\"shop-1\"]" });
    object["spec"]["replica"] = json!({ "enabled": true, "source": "old" });
    object["spec"]["postgresql"]["synchronous"]["dataDurability"] = json!("preferred");
    let state = ClusterState::of(&object);
    assert_eq!(state.fenced, ["shop-1"]);
    assert!(state.is_replica);
    assert!(state.synchronous.is_some_and(|synchronous| !synchronous.is_required));
}

#[test]
fn an_object_of_another_form_is_one_of_which_nothing_is_known() {
    for object in [json!({}), json!({ "status": "x", "spec": [], "metadata": { "name": 7 } })] {
        let state = ClusterState::of(&object);
        assert_eq!(state.phase, None);
        assert!(state.changes_primary().is_some_and(|told| told.contains("no primary yet")));
    }
}
