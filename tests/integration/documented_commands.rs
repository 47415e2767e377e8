//! Everything that the documentation tells people to type is tried: each fenced block of README.md, docs/ and deploy/README.md is of
//! a known kind, and each kind is run, parsed or loaded here. What only a cluster can run carries the comment
//! `<!-- needs a cluster -->`, which readers do not see, and which cannot hide a command that could run here. Beside the blocks:
//! commands and SQL within sentences, and where links lead.

mod kinds;
pub(crate) mod pages;
mod place;

use std::collections::BTreeMap;
use std::io::Write as _;

use kinds::Mention;
use pages::{Block, Page};
use place::Place;

/// Made from the code; its own test compares it.
const GENERATED: &str = "docs/configuration.md";

/// How many of each kind were run, parsed or only marked.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    fn count(&mut self, what: &'static str, how_many: usize) {
        *self.0.entry(what).or_default() += how_many;
    }

    /// Past the test runner's capture.
    fn tell(&self, title: &str) {
        let counts: Vec<_> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let _ = writeln!(std::io::stderr(), "documentation, {title}: {}", counts.join(", "));
    }
}

fn blocks<'a>(pages: &'a [Page], languages: &'a [&str]) -> impl Iterator<Item = &'a Block> {
    let blocks = pages.iter().filter(|page| page.path != GENERATED).flat_map(|page| &page.blocks);
    blocks.filter(move |block| languages.contains(&block.language.as_str()))
}

#[test]
fn every_block_is_of_a_kind_that_is_tried() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for block in pages.iter().flat_map(|page| &page.blocks) {
        let place = block.place();
        match (block.language.as_str(), block.marker.as_deref()) {
            ("sh", None) => tally.count("sh blocks to be run", 1),
            ("sh", Some(kinds::CLUSTER | kinds::PROFILER)) => {
                kinds::only_what_cannot_run_here(block);
                tally.count("sh blocks that need something else", 1);
            }
            ("sql", Some(kinds::ON_SOURCE | kinds::ON_TARGET)) => tally.count("sql blocks", 1),
            ("toml", None) => tally.count("toml blocks", 1),
            ("yaml", None) => tally.count("yaml blocks", 1),
            ("promql", None) => tally.count("promql blocks", 1),
            ("json", None) => tally.count("json blocks", 1),
            ("text", None) => tally.count("text blocks", 1),
            (language, marker) => panic!("{place}: a block of kind {language:?} with the comment {marker:?}"),
        }
    }
    tally.tell("blocks");
}

/// One place for each page: its commands, in their order, are a story, until one tidies up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_can_run_here_does_what_its_page_says() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for page in pages.iter().filter(|page| page.path != GENERATED) {
        let runnable = page.blocks.iter().filter(|block| block.language == "sh" && block.marker.is_none());
        let (mut place, mut over) = (None, false);
        for block in runnable {
            kinds::shell_understands(block);
            for line in block.command_lines() {
                if line.starts_with("make ") {
                    kinds::make_would(&line, &block.place());
                    tally.count("make targets whose recipe was printed", 1);
                    continue;
                }
                kinds::may_run_here(&line, &block.place());
                kinds::pgsluice_commands_parse(&line, &block.place(), Mention::Whole);
                // After that nothing is left to go on with.
                if over {
                    place = None;
                }
                let place = match &mut place {
                    Some(place) => place,
                    none => none.insert(Place::new().await),
                };
                place.run(&line, &block.place()).await;
                tally.count("commands run", 1);
                over = line == "pgsluice cleanup";
            }
        }
    }
    tally.tell("shell");
}

#[test]
fn commands_for_a_cluster_are_understood_as_far_as_they_can_be() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for block in blocks(&pages, &["sh"]).filter(|block| block.marker.is_some()) {
        kinds::shell_understands(block);
        for line in block.command_lines() {
            if line.starts_with("make ") {
                kinds::make_would(&line, &block.place());
                tally.count("make targets whose recipe was printed", 1);
            }
            kinds::files_are_there(&line, &block.place());
            tally.count(
                "pgsluice commands parsed",
                kinds::pgsluice_commands_parse(&line, &block.place(), Mention::Whole),
            );
            tally.count("lines marked", 1);
        }
    }
    tally.tell("what needs a cluster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_is_accepted_by_a_server() {
    let pages = pages::all();
    let place = Place::new().await;
    let mut tally = Tally::default();
    for block in blocks(&pages, &["sql"]) {
        let side =
            if block.marker.as_deref() == Some(kinds::ON_TARGET) { &place.target } else { &place.source };
        kinds::server_accepts(side, &block.text, &block.place()).await;
        tally.count("sql blocks run", 1);
    }
    for (page, (line, span)) in pages.iter().flat_map(|page| page.spans.iter().map(move |span| (page, span)))
    {
        if kinds::is_whole_statement(span) {
            kinds::server_accepts(&place.source, span, &format!("{}:{line}", page.path)).await;
            tally.count("statements within sentences run", 1);
        }
    }
    for block in blocks(&pages, &["sh"]) {
        for statement in kinds::statements_for_psql(block) {
            let session = crate::harness::clusters::connect(&place.source.url("shop")).await;
            session
                .batch_execute(&statement)
                .await
                .unwrap_or_else(|error| panic!("{}: {error:?}", block.place()));
            tally.count("statements given to psql run", 1);
        }
    }
    tally.tell("SQL");
}

#[test]
fn every_configuration_is_accepted() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for block in blocks(&pages, &["toml"]) {
        kinds::configuration_is_accepted(block);
        tally.count("toml blocks loaded", 1);
    }
    tally.tell("configuration");
}

#[test]
fn yaml_json_and_promql_are_read_by_those_who_know_them() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for block in blocks(&pages, &["yaml", "json", "promql"]) {
        match block.language.as_str() {
            "yaml" => kinds::yaml_parses(block),
            "json" => kinds::json_parses(block),
            _ => kinds::promtool_accepts(block),
        }
        tally.count("yaml, json and promql blocks parsed", 1);
    }
    tally.tell("other languages");
}

#[test]
fn commands_within_sentences_exist() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for (page, (line, span)) in pages.iter().flat_map(|page| page.spans.iter().map(move |span| (page, span)))
    {
        let place = format!("{}:{line}", page.path);
        if span.contains('…') {
            continue;
        }
        if span.starts_with("pgsluice ") {
            tally.count(
                "pgsluice commands parsed",
                kinds::pgsluice_commands_parse(span, &place, Mention::ByName),
            );
        } else if span.starts_with("make ") {
            kinds::target_exists(span, &place);
            tally.count("make targets found", 1);
        }
    }
    tally.tell("within sentences");
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages::all();
    let mut tally = Tally::default();
    for (page, (line, link)) in pages.iter().flat_map(|page| page.links.iter().map(move |link| (page, link)))
    {
        let place = format!("{}:{line}", page.path);
        if link.starts_with("https://") {
            tally.count("links to elsewhere", 1);
            continue;
        }
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        let folder = pages::root().join(&page.path);
        let target = match file {
            "" => folder,
            file => folder.parent().expect("a folder").join(file),
        };
        assert!(target.exists(), "{place}: {link} leads nowhere");
        if !fragment.is_empty() {
            let target = target.canonicalize().expect("a path");
            let known = pages
                .iter()
                .find(|page| pages::root().join(&page.path).canonicalize().ok().as_ref() == Some(&target));
            let anchors =
                &known.unwrap_or_else(|| panic!("{place}: {link} is no page of the documentation")).anchors;
            assert!(anchors.iter().any(|anchor| anchor == fragment), "{place}: {link}: no such heading");
        }
        tally.count("links followed", 1);
    }
    tally.tell("links");
}

/// The fine print lists what `check` can find, and which of it can be waived.
#[test]
fn the_fine_print_has_every_finding() {
    let page = std::fs::read_to_string(pages::root().join("docs/fine-print.md")).expect("readable");
    let (_, table) = page.split_once("| id | severity | can be waived | when |").expect("a table");
    let mut listed = BTreeMap::new();
    for cells in table.lines().skip(2).map(|line| line.split('|').map(str::trim).collect::<Vec<_>>()) {
        for id in cells[1].split(", ").map(|id| id.trim_matches('`').to_owned()) {
            let waivable = cells[3] == "yes" || (cells[3] == "the target's" && id.starts_with("target."));
            listed.insert(id, waivable);
        }
    }
    let known = kinds::findings();
    let ids: std::collections::BTreeSet<String> = listed.keys().cloned().collect();
    assert_eq!(ids, known);
    let waivable = listed.iter().filter(|(_, waivable)| **waivable).map(|(id, _)| id.as_str());
    assert_eq!(waivable.collect::<Vec<_>>(), pgsluice::preflight::WAIVABLE);
}

/// Whoever opens the README finds every page.
#[test]
fn the_readme_lists_every_page() {
    let pages = pages::all();
    let readme = pages::read("README.md");
    for page in pages.iter().filter(|page| page.path.starts_with("docs/")) {
        assert!(
            readme.links.iter().any(|(_, link)| *link == page.path),
            "README.md does not lead to {}",
            page.path
        );
    }
}
