use super::super::tests::after;
use super::*;

fn what() -> ResourceName {
    ResourceName { resource: Resource::Pooler, namespace: "shop".into(), name: "shop-pooler".into() }
}

fn pooler(paused: Option<bool>) -> Value {
    let mut object = json!({ "metadata": { "name": "shop-pooler" }, "spec": {
        "instances": 2, "pgbouncer": { "poolMode": "transaction" } } });
    if let Some(paused) = paused {
        object["spec"]["pgbouncer"]["paused"] = paused.into();
    }
    object
}

fn step(step: Step, direction: Direction, object: &Value, epoch: i64) -> Value {
    after(object, plan(step, direction, &what(), object, epoch).expect("a plan"))
}

#[test]
fn forward_it_is_open_in_the_end_whatever_it_was() {
    for before in [None, Some(false), Some(true)] {
        let paused = step(Step::Pause, Direction::Forward, &pooler(before), 7);
        assert!(is_paused(&paused));
        assert_eq!(step(Step::Resume, Direction::Forward, &paused, 7), pooler(Some(false)));
    }
}

#[test]
fn back_it_stays_paused_because_what_is_behind_it_is_fenced() {
    let paused = step(Step::Pause, Direction::Back, &pooler(Some(false)), 8);
    assert_eq!(step(Step::Resume, Direction::Back, &paused, 8), pooler(Some(true)));
}

#[test]
fn undo_puts_back_exactly_what_was_there() {
    for direction in [Direction::Forward, Direction::Back] {
        for before in [None, Some(false), Some(true)] {
            let paused = step(Step::Pause, direction, &pooler(before), 7);
            assert_eq!(step(Step::Undo, direction, &paused, 7), pooler(before));
            assert_eq!(step(Step::Undo, direction, &pooler(before), 7), pooler(before));
        }
    }
}

#[test]
fn a_pause_that_an_earlier_operation_left_is_undone_by_the_next() {
    let left = step(Step::Pause, Direction::Back, &pooler(Some(false)), 7);
    let again = step(Step::Pause, Direction::Back, &left, 8);
    assert_eq!(step(Step::Undo, Direction::Back, &again, 8), pooler(Some(false)));
}

#[test]
fn every_step_may_be_repeated() {
    for direction in [Direction::Forward, Direction::Back] {
        let paused = step(Step::Pause, direction, &pooler(Some(false)), 7);
        assert_eq!(plan(Step::Pause, direction, &what(), &paused, 7).expect("a plan"), None);
        let ended = step(Step::Resume, direction, &paused, 7);
        assert_eq!(plan(Step::Resume, direction, &what(), &ended, 7).expect("a plan"), None);
        let undone = step(Step::Undo, direction, &paused, 7);
        assert_eq!(plan(Step::Undo, direction, &what(), &undone, 7).expect("a plan"), None);
    }
}

/// Trap 27: the status says what was asked for.
#[test]
fn only_metrics_of_every_pod_prove_a_pause() {
    let told = |each: &[Result<(u64, u64), &str>]| -> Vec<Told> {
        let one = |(number, told): (usize, &Result<(u64, u64), &str>)| {
            let told = told.map(|(servers, waiting)| Pools { servers, waiting }).map_err(str::to_owned);
            (format!("pod-{number}"), told)
        };
        each.iter().enumerate().map(one).collect()
    };
    let mut object = pooler(Some(true));
    object["status"] = json!({ "phase": "paused" });
    let way = |told: &[Told]| in_the_way(&what(), &object, told);
    assert_eq!(way(&told(&[Ok((0, 9)), Ok((0, 0))])), None);
    assert!(way(&told(&[Ok((0, 0)), Ok((1, 0))])).expect("a connection").contains("pod-1 still has 1"));
    assert!(way(&told(&[Ok((0, 0)), Err("silent")])).expect("silence").contains("silent"));
    assert!(way(&told(&[Ok((0, 0))])).expect("a pod is missing").contains("1 pod of 2"));
    assert!(way(&[]).is_some());
    assert!(in_the_way(&what(), &pooler(Some(false)), &told(&[Ok((0, 0)), Ok((0, 0))])).is_some());
}

#[test]
fn session_mode_is_refused_also_where_no_mode_is_named() {
    let mode = |mode: Option<&str>| {
        let mut object = pooler(None);
        object["spec"]["pgbouncer"]["poolMode"] = mode.map_or(Value::Null, Into::into);
        object
    };
    for session in [None, Some("session")] {
        let refused = check_mode(&what(), &mode(session), SessionPools::Refuse).expect_err("session mode");
        assert!(refused.remedy.contains("session_pools"), "{refused:?}");
        check_mode(&what(), &mode(session), SessionPools::Wait).expect("waits");
    }
    check_mode(&what(), &mode(Some("transaction")), SessionPools::Refuse).expect("transaction mode");
}
