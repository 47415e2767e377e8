use super::super::tests::after;
use super::*;

fn what() -> ResourceName {
    ResourceName { resource: Resource::Service, namespace: "shop".into(), name: "shop-db".into() }
}

fn labels(pairs: &[(&str, &str)]) -> ServiceShape {
    ServiceShape::Selector(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

fn name(text: &str) -> ServiceShape {
    ServiceShape::ExternalName(text.into())
}

/// As an API server shows a Service of this shape.
fn service(shape: &ServiceShape) -> Value {
    let ports = json!([{ "port": 5432 }]);
    let spec = match shape {
        ServiceShape::ExternalName(name) => {
            json!({ "type": "ExternalName", "externalName": name, "ports": ports, "sessionAffinity": "None" })
        }
        ServiceShape::Selector(labels) if labels.is_empty() => {
            json!({ "type": "ClusterIP", "ports": ports, "sessionAffinity": "None" })
        }
        ServiceShape::Selector(labels) => {
            json!({ "type": "ClusterIP", "selector": labels, "ports": ports, "sessionAffinity": "None" })
        }
    };
    json!({ "metadata": { "name": "shop-db" }, "spec": spec })
}

/// With the address that it is given.
fn with_address(mut service: Value) -> Value {
    for (field, value) in [
        ("clusterIP", json!("10.0.0.9")),
        ("clusterIPs", json!(["10.0.0.9"])),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        ("internalTrafficPolicy", json!("Cluster")),
    ] {
        service["spec"][field] = value;
    }
    service
}

fn step(step: Step, shapes: &Shapes<'_>, object: &Value, epoch: i64) -> Value {
    after(object, plan(step, shapes, &what(), object, epoch).expect("a plan"))
}

/// Every pair of shapes that the configuration lets through.
fn pairs() -> Vec<(ServiceShape, ServiceShape)> {
    let old = labels(&[("app", "postgres"), ("role", "master"), ("same", "yes")]);
    let new = labels(&[("cnpg.io/cluster", "shop"), ("role", "primary"), ("same", "yes")]);
    vec![
        (old.clone(), new.clone()),
        (old, name("shop-rw.shop.svc")),
        (name("old.example.com"), new),
        (name("old.example.com"), name("shop-rw.shop.svc")),
        (labels(&[]), name("shop-rw.shop.svc")),
    ]
}

#[test]
fn a_service_is_led_there_and_back_whatever_its_shapes() {
    for (old, new) in pairs() {
        let there = Shapes { left: &old, reached: &new };
        let back = Shapes { left: &new, reached: &old };
        let moved = step(Step::Retarget, &there, &service(&old), 7);
        assert_eq!(shape(&moved), new);
        let settled = step(Step::Resume, &there, &moved, 7);
        assert_eq!(settled, service(&new), "nothing of the old side is left, and no annotation");
        let returned = step(Step::Resume, &back, &step(Step::Retarget, &back, &settled, 8), 8);
        assert_eq!(returned, service(&old));
    }
}

#[test]
fn undo_puts_back_what_was_there_and_only_what_this_operation_changed() {
    for (old, new) in pairs() {
        let shapes = Shapes { left: &old, reached: &new };
        let moved = step(Step::Retarget, &shapes, &service(&old), 7);
        assert_eq!(step(Step::Undo, &shapes, &moved, 7), service(&old));
        assert_eq!(plan(Step::Undo, &shapes, &what(), &moved, 8).expect("a plan"), None);
        assert_eq!(plan(Step::Undo, &shapes, &what(), &service(&old), 7).expect("a plan"), None);
    }
}

#[test]
fn every_step_may_be_repeated() {
    let (old, new) = (name("old.example.com"), labels(&[("a", "b")]));
    let shapes = Shapes { left: &old, reached: &new };
    let moved = step(Step::Retarget, &shapes, &service(&old), 7);
    assert_eq!(plan(Step::Retarget, &shapes, &what(), &moved, 7).expect("a plan"), None);
    let settled = step(Step::Resume, &shapes, &moved, 7);
    for each in [Step::Pause, Step::Retarget, Step::Resume, Step::Undo] {
        assert_eq!(plan(each, &shapes, &what(), &settled, 7).expect("a plan"), None);
    }
}

#[test]
fn an_external_name_keeps_nothing_of_an_address() {
    let (old, new) = (labels(&[("a", "b")]), name("shop-rw.shop.svc"));
    let shapes = Shapes { left: &old, reached: &new };
    let moved = step(Step::Retarget, &shapes, &with_address(service(&old)), 7);
    assert_eq!(step(Step::Resume, &shapes, &moved, 7), service(&new));
}

#[test]
fn an_address_stays_where_the_type_stays() {
    let (old, new) = (labels(&[("a", "b")]), labels(&[("c", "d")]));
    let shapes = Shapes { left: &old, reached: &new };
    let moved = step(Step::Retarget, &shapes, &with_address(service(&old)), 7);
    assert_eq!(step(Step::Resume, &shapes, &moved, 7), with_address(service(&new)));
}

#[test]
fn a_service_of_another_shape_is_refused_with_what_it_is() {
    let (old, new) = (labels(&[("a", "b")]), name("shop-rw.shop.svc"));
    let shapes = Shapes { left: &old, reached: &new };
    check(&shapes, &what(), &service(&old)).expect("as expected");
    let moved = check(&shapes, &what(), &service(&new)).expect_err("moved already");
    assert!(moved.problem.contains("leads to shop-rw.shop.svc already"), "{moved:?}");
    let other = check(&shapes, &what(), &service(&labels(&[("a", "c")]))).expect_err("another");
    assert!(other.problem.contains("a=c") && other.problem.contains("a=b was expected"), "{other:?}");
    let kept = check(&shapes, &what(), &service(&labels(&[]))).expect_err("no selector");
    assert!(kept.remedy.contains("Patroni") && kept.remedy.contains("source_selector = []"), "{kept:?}");
}

#[test]
fn what_would_be_lost_by_a_change_of_type_is_refused() {
    let (old, new, other) = (labels(&[("a", "b")]), name("new"), labels(&[("c", "d")]));
    let to_name = Shapes { left: &old, reached: &new };
    let to_labels = Shapes { left: &old, reached: &other };
    for (field, value) in [("clusterIP", "None"), ("type", "LoadBalancer"), ("type", "NodePort")] {
        let mut object = service(&old);
        object["spec"][field] = value.into();
        check(&to_name, &what(), &object).expect_err(value);
        check(&to_labels, &what(), &object).expect("the type stays");
    }
}

#[test]
fn a_service_that_was_led_back_is_led_there_again_by_the_operation_that_led_it_and_by_no_other() {
    for (old, new) in pairs() {
        let shapes = Shapes { left: &old, reached: &new };
        let moved = step(Step::Retarget, &shapes, &service(&old), 7);
        let mut back = service(&old);
        back["metadata"]["annotations"] = moved["metadata"]["annotations"].clone();
        assert_eq!(step(Step::Resume, &shapes, &back, 7), service(&new));
        assert_eq!(step(Step::Resume, &shapes, &back, 8), service(&old));
    }
}

#[test]
fn a_service_that_leads_somewhere_else_by_now_stays_there_and_is_told() {
    let (old, new, other) = (labels(&[("a", "b")]), labels(&[("c", "d")]), labels(&[("e", "f")]));
    let shapes = Shapes { left: &old, reached: &new };
    let moved = step(Step::Retarget, &shapes, &service(&old), 7);
    let mut elsewhere = service(&other);
    elsewhere["metadata"]["annotations"] = moved["metadata"]["annotations"].clone();
    assert_eq!(step(Step::Resume, &shapes, &elsewhere, 7), service(&other));
    let change = plan(Step::Resume, &shapes, &what(), &elsewhere, 7).expect("a plan").expect("a change");
    assert!(change.note.contains("leads to e=f by now, changed by somebody"), "{}", change.note);
}
