//! What docs/kubernetes-access.md says that is asked of the API, as sets that can be compared with what is asked and with the Roles that
//! are shipped. A section is a heading with a table (verb, group, resource, objects, when, why) and the rules that allow it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::double::Recorded;

/// Verb, group, resource and, where a rule can name one, the object.
pub(crate) type Call = (String, String, String, Option<String>);

const PAGE: &str = "docs/kubernetes-access.md";

/// A file of the repository.
pub(crate) fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a request is to a rule of RBAC.
pub(crate) fn call(asked: &Recorded) -> Call {
    let name = (!asked.name.is_empty()).then(|| asked.name.clone());
    (asked.verb.to_owned(), asked.group.clone(), asked.resource.clone(), name)
}

/// Requests as rules of RBAC see them.
pub(crate) fn calls_of(requests: &[Recorded]) -> BTreeSet<Call> {
    requests.iter().map(call).collect()
}

/// The calls of a section's table.
pub(crate) fn documented(section: &str) -> BTreeSet<Call> {
    documented_steps(section).into_keys().collect()
}

/// The calls of a section's table, each with the words in backticks of its column `when`.
pub(crate) fn documented_steps(section: &str) -> BTreeMap<Call, BTreeSet<String>> {
    let text = sections().remove(section).unwrap_or_else(|| panic!("{PAGE} has no section {section}"));
    let calls = table(&text);
    assert!(!calls.is_empty(), "{PAGE}, {section}: no table");
    calls
}

/// The calls that a section's own rules allow.
pub(crate) fn documented_rules(section: &str) -> BTreeSet<Call> {
    let text = sections().remove(section).unwrap_or_else(|| panic!("{PAGE} has no section {section}"));
    let (_, yaml) = text.split_once("```yaml\n").unwrap_or_else(|| panic!("{PAGE}, {section}: no rules"));
    let (yaml, _) = yaml.split_once("```").expect("an end");
    allowed(yaml)
}

/// Every section that has a table of calls.
pub(crate) fn sections_with_calls() -> Vec<String> {
    sections().into_iter().filter(|(_, text)| text.contains("| verb |")).map(|(name, _)| name).collect()
}

/// The calls that the rules of a Role allow. They are written one rule a block, each of its lists in brackets.
pub(crate) fn allowed(rules: &str) -> BTreeSet<Call> {
    let lines = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text: String = lines.fold(String::new(), |text, line| text + line + "\n");
    let mut calls = BTreeSet::new();
    for rule in text.split("- apiGroups").skip(1) {
        let rule = format!("- apiGroups{rule}");
        let names = list(&rule, "resourceNames:");
        for verb in list(&rule, "verbs:") {
            for resource in list(&rule, "resources:") {
                for group in list(&rule, "apiGroups:") {
                    let each =
                        if names.is_empty() { vec![None] } else { names.iter().cloned().map(Some).collect() };
                    calls.extend(
                        each.into_iter().map(|name| (verb.clone(), group.clone(), resource.clone(), name)),
                    );
                }
            }
        }
    }
    calls
}

/// The calls that the first Role of a manifest allows.
pub(crate) fn allowed_by(manifest: &str) -> BTreeSet<Call> {
    let text = file(manifest);
    let (_, rules) = text.split_once("rules:\n").unwrap_or_else(|| panic!("{manifest}: no rules"));
    allowed(rules.split("\n---").next().unwrap_or_default())
}

/// The calls that a patch adds to a Role, one rule by each `op: add`.
pub(crate) fn allowed_by_patch(patch: &str) -> BTreeSet<Call> {
    allowed(&file(patch).replace("  value:\n    apiGroups", "- apiGroups"))
}

fn list(rule: &str, key: &str) -> Vec<String> {
    let line =
        rule.lines().map(|line| line.trim().trim_start_matches("- ")).find(|line| line.starts_with(key));
    let Some(line) = line else { return Vec::new() };
    let (_, values) = line.split_once(": ").expect("a value");
    let values =
        values.strip_prefix('[').and_then(|values| values.strip_suffix(']')).expect("a list in brackets");
    values.split(", ").map(|value| value.trim_matches('"').to_owned()).collect()
}

/// By heading, without its backticks; up to the next heading of any depth.
fn sections() -> BTreeMap<String, String> {
    let page = file(PAGE);
    let mut sections = BTreeMap::new();
    let (mut name, mut is_code) = (String::new(), false);
    for line in page.lines() {
        is_code ^= line.starts_with("```");
        if !is_code && line.starts_with('#') {
            name = line.trim_start_matches('#').trim().replace('`', "");
        }
        let text: &mut String = sections.entry(name.clone()).or_default();
        text.push_str(line);
        text.push('\n');
    }
    sections
}

fn table(text: &str) -> BTreeMap<Call, BTreeSet<String>> {
    let mut calls: BTreeMap<Call, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [verb, group, resource, objects, when, _] = cells.as_slice() else {
            panic!("{PAGE}: not six columns: {line}")
        };
        if *verb == "verb" || verb.starts_with("---") {
            continue;
        }
        let group = if *group == "core" { "" } else { group };
        let names = quoted(objects);
        let each = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for name in each {
            let call = (verb.to_string(), group.to_owned(), resource.to_string(), name);
            calls.entry(call).or_default().extend(quoted(when));
        }
    }
    calls
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
