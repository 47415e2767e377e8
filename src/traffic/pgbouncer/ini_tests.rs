//! Lines as people write them, and what becomes of them.

use super::*;

fn place(host: &str, port: u16, database: &str) -> Place {
    Place { host: host.into(), port, database: database.into() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// One line of `[databases]`, led to `new-db:6000/shop`.
fn led(line: &str) -> String {
    let text = format!("[databases]\n{line}\n");
    let led = lead_to(&text, &names(&["shop"]), &place("new-db", 6000, "shop"), 7);
    assert_eq!(put_back(&led, 7), text, "put back byte for byte");
    let mut lines = led.lines().skip(1);
    assert_eq!(lines.next(), Some(format!(";pgsluice 7: {line}").as_str()));
    lines.next().expect("the line as it is now").to_owned()
}

const FILE: &str = "; host=old-db of shop is in the rack\r\n\
    # [databases]\r\n\
    shop = host=old-db\r\n\
    [databases]\r\n\
    ;shop = host=older-db\r\n\
    shop = host=old-db port=5432 pool_size=7\r\n\
    \r\n\
    other=host=old-db\r\n\
    * = host=old-db\r\n\
    %include more.ini\r\n\
    [pgbouncer]\r\n\
    shop = host=old-db\r\n\
    listen_port = 6432";

#[test]
fn only_the_lines_of_the_databases_change() {
    let target = place("new-db", 5433, "shop");
    let led = lead_to(FILE, &names(&["shop"]), &target, 7);
    let changed: Vec<_> =
        FILE.lines().zip(led.lines().filter(|line| !line.starts_with(";pgsluice"))).collect();
    assert_eq!(changed.len(), FILE.lines().count());
    for (index, (before, after)) in changed.into_iter().enumerate() {
        match index {
            5 => assert_eq!(after, "shop = host=new-db port=5433 pool_size=7"),
            _ => assert_eq!(after, before),
        }
    }
    assert_eq!(led.matches("\r\n").count(), FILE.matches("\r\n").count() + 1, "line ends stay");
    assert_eq!(entries(&led).get("shop"), Some(&target));
    assert_eq!(entries(&led).get("other"), Some(&place("old-db", 5432, "other")));
    assert_eq!(put_back(&led, 7), FILE);
}

#[test]
fn a_repetition_changes_nothing() {
    let target = place("new-db", 5433, "shop");
    let once = lead_to(FILE, &names(&["shop"]), &target, 7);
    assert_eq!(lead_to(&once, &names(&["shop"]), &target, 7), once);
    assert_eq!(put_back(FILE, 7), FILE);
    assert_eq!(put_back(&put_back(&once, 7), 7), FILE);
    assert_eq!(forget(&forget(&once)), forget(&once));
}

#[test]
fn values_keep_their_place_and_their_quotes() {
    assert_eq!(led("shop = host=old port=5432"), "shop = host=new-db port=6000");
    assert_eq!(
        led("shop=host='old' dbname=shop  port = '5432' "),
        "shop=host='new-db' dbname=shop  port = '6000' "
    );
    assert_eq!(
        led("\"shop\" = port=5432 password='it''s host=old' host=old"),
        "\"shop\" = port=6000 password='it''s host=old' host=new-db"
    );
    assert_eq!(led("shop = dbname=shop_v1 host=old port=6000"), "shop = dbname=shop host=new-db port=6000");
    assert_eq!(led("shop = host=older port=1 host=old"), "shop = host=new-db port=6000 host=new-db");
}

#[test]
fn what_is_missing_is_added() {
    assert_eq!(led("shop ="), "shop = host=new-db port=6000");
    assert_eq!(led("shop = dbname=x user=app\t"), "shop = dbname=shop user=app host=new-db port=6000\t");
    let text = "[databases]\nshop = host=old";
    let other_name = lead_to(text, &names(&["shop"]), &place("/run/post gres", 5432, "new shop"), 7);
    assert!(other_name.ends_with("\nshop = host='/run/post gres' dbname='new shop'"), "{other_name}");
    assert_eq!(put_back(&other_name, 7), text, "also without a line end");
}

#[test]
fn names_in_quotes_are_found() {
    let text = "[databases]\n\"my \"\"shop\"\"\" = host=old\n";
    let led = lead_to(text, &names(&["my \"shop\""]), &place("new", 5432, "my \"shop\""), 7);
    assert!(led.contains("\"my \"\"shop\"\"\" = host=new\n"), "{led}");
}

#[test]
fn there_and_back_again_without_undo() {
    let (old, new) = (place("old-db", 5432, "shop"), place("new-db", 5433, "shop"));
    let there = forget(&lead_to(FILE, &names(&["shop"]), &new, 7));
    assert!(!there.contains(";pgsluice"));
    assert_eq!(forget(&lead_to(&there, &names(&["shop"]), &old, 8)), FILE);
}

#[test]
fn a_line_kept_by_another_operation_is_not_put_back() {
    let (old, new) = (place("old-db", 5432, "shop"), place("new-db", 5433, "shop"));
    let there = lead_to(FILE, &names(&["shop"]), &new, 7);
    assert_eq!(put_back(&there, 8), there);
    let back = lead_to(&there, &names(&["shop"]), &old, 8);
    assert_eq!(entries(&put_back(&back, 8)).get("shop"), Some(&new));
}

#[test]
fn lines_that_are_no_databases_are_left_alone() {
    for line in
        ["shop", "shop host=old", "= host=old", "shop = host", "shop = host='old", "\"shop = host=old"]
    {
        let text = format!("[databases]\n{line}\n");
        assert_eq!(lead_to(&text, &names(&["shop"]), &place("new", 1, "shop"), 7), text);
    }
}
