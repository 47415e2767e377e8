//! `docs/traps.md` names tests; this one makes sure that they exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn collect_functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source file");
            let after_fn = source.split("fn ").skip(1);
            names.extend(after_fn.filter_map(|rest| rest.split('(').next()).map(str::to_owned));
        }
    }
}

#[test]
fn every_trap_is_listed_in_order_and_every_test_named_for_it_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for folder in ["src", "tests", "proto/src", "proto/tests"] {
        collect_functions(&root.join(folder), &mut known);
    }
    let document = fs::read_to_string(root.join("docs/traps.md")).expect("docs/traps.md");
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .filter(|cells: &Vec<&str>| cells.first().is_some_and(|number| *number != "#"))
        .collect();
    for (row, number) in rows.iter().zip(1..) {
        let [listed, _, _, tests] = row.as_slice() else {
            panic!("trap {number} has not four cells: {row:?}")
        };
        assert_eq!(*listed, number.to_string());
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(
            !named.is_empty() || tests.contains("*open*"),
            "trap {number} has neither a test nor a word about it"
        );
        for name in named {
            assert!(known.contains(name), "trap {number} names a test that does not exist: {name}");
        }
    }
    assert_eq!(rows.len(), 32);
}
