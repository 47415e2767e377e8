//! Attacks the command language with names that want to be something else, and pins each command's text for the
//! servers that differ.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use pgsluice_proto::Lsn;
use pgsluice_proto::command::*;
use pgsluice_proto::pgoutput::ProtocolVersion;
use proptest::prelude::*;

const V14: ServerVersion = ServerVersion(140_023);
const V15: ServerVersion = ServerVersion(150_019);

fn slot() -> SlotName {
    SlotName::new("sluice_1").unwrap()
}

#[test]
fn a_slots_name_follows_the_servers_rule() {
    for name in ["a", "0", "_", "pgsluice_shop", &"x".repeat(63)] {
        assert_eq!(SlotName::new(name).unwrap().as_str(), name);
    }
    for name in ["", "A", "a-b", "a b", "é", "a\"", "a'", "a\0", "a;", &"x".repeat(64)] {
        assert_eq!(SlotName::new(name), Err(CommandError::InvalidSlotName(name.to_owned())));
    }
}

#[test]
fn slots_are_created_in_the_words_of_the_server() {
    use SnapshotAction::{Export, Nothing, Use};
    let create = |snapshot, life, server| create_replication_slot(&slot(), snapshot, life, server);
    let expected = [
        (Export, V14, "EXPORT_SNAPSHOT"),
        (Nothing, V14, "NOEXPORT_SNAPSHOT"),
        (Use, V14, "USE_SNAPSHOT"),
        (Export, V15, "(SNAPSHOT 'export')"),
        (Nothing, V15, "(SNAPSHOT 'nothing')"),
        (Use, V15, "(SNAPSHOT 'use')"),
    ];
    for (snapshot, server, words) in expected {
        let text = format!("CREATE_REPLICATION_SLOT \"sluice_1\" LOGICAL pgoutput {words}");
        assert_eq!(create(snapshot, SlotLife::Permanent, server), text);
    }
    assert_eq!(
        create(Nothing, SlotLife::Temporary, V15),
        "CREATE_REPLICATION_SLOT \"sluice_1\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
    );
}

#[test]
fn slots_are_dropped_with_or_without_waiting() {
    assert_eq!(drop_replication_slot(&slot(), WhenActive::Fail), "DROP_REPLICATION_SLOT \"sluice_1\"");
    assert_eq!(drop_replication_slot(&slot(), WhenActive::Wait), "DROP_REPLICATION_SLOT \"sluice_1\" WAIT");
}

#[test]
fn replication_asks_only_for_what_differs_from_the_servers_defaults() {
    let options = PgoutputOptions::new(vec!["shop".to_owned()]);
    assert_eq!(
        start_replication(&slot(), Some(Lsn::new(0x16_B374_D848)), &options).unwrap(),
        "START_REPLICATION SLOT \"sluice_1\" LOGICAL 16/B374D848 (proto_version '1', publication_names '\"shop\"')"
    );
    let all = PgoutputOptions {
        proto_version: ProtocolVersion::V4,
        messages: true,
        binary: true,
        streaming: Streaming::Parallel,
        two_phase: TwoPhase::AtPrepare,
        origin: Some(Origin::None),
        ..options
    };
    assert_eq!(
        start_replication(&slot(), None, &all).unwrap(),
        "START_REPLICATION SLOT \"sluice_1\" LOGICAL 0/0 (proto_version '4', publication_names '\"shop\"', \
         messages 'true', binary 'true', streaming 'parallel', two_phase 'true', origin 'none')"
    );
}

#[test]
fn publications_are_quoted_twice_as_a_list_of_names_inside_a_string() {
    let options = PgoutputOptions::new(vec!["a,b".to_owned(), "it's \"x\" \\".to_owned()]);
    let text = start_replication(&slot(), None, &options).unwrap();
    assert!(text.ends_with(r#"publication_names '"a,b","it''s ""x"" \"')"#), "{text}");
}

#[test]
fn options_that_the_protocol_version_lacks_are_refused_before_the_server_is_asked() {
    let base = PgoutputOptions::new(vec!["p".to_owned()]);
    let refused = |options: PgoutputOptions| start_replication(&slot(), None, &options).unwrap_err();
    let streaming = PgoutputOptions { streaming: Streaming::On, ..base.clone() };
    let needs = |option, needed, asked| CommandError::NeedsVersion { option, needed, asked };
    assert_eq!(refused(streaming), needs("streaming", 2, 1));
    let parallel = PgoutputOptions {
        streaming: Streaming::Parallel,
        proto_version: ProtocolVersion::V3,
        ..base.clone()
    };
    assert_eq!(refused(parallel), needs("streaming = parallel", 4, 3));
    let two_phase =
        PgoutputOptions { two_phase: TwoPhase::AtPrepare, proto_version: ProtocolVersion::V2, ..base };
    assert_eq!(refused(two_phase), needs("two_phase", 3, 2));
    assert_eq!(refused(PgoutputOptions::new(Vec::new())), CommandError::NoPublication);
}

#[test]
fn options_that_the_server_lacks_are_refused_by_name() {
    let base = PgoutputOptions::new(vec!["p".to_owned()]);
    let v13 = ServerVersion(130_023);
    assert_eq!(base.check_server(v13), Ok(()));
    let needs = |option, needed, server| Err(CommandError::NeedsServer { option, needed, server });
    let messages = PgoutputOptions { messages: true, ..base.clone() };
    assert_eq!(messages.check_server(v13), needs("the pgoutput option messages", 14, 13));
    assert_eq!(messages.check_server(V14), Ok(()));
    let origin = PgoutputOptions { origin: Some(Origin::None), ..base.clone() };
    assert_eq!(origin.check_server(V15), needs("the pgoutput option origin", 16, 15));
    let v4 = PgoutputOptions { proto_version: ProtocolVersion::V4, ..base };
    assert_eq!(v4.check_server(V15), needs("protocol version 4", 16, 15));
    assert_eq!(v4.check_server(ServerVersion(160_000)), Ok(()));
}

#[test]
fn the_small_commands_are_what_the_grammar_says() {
    assert_eq!(identify_system(), "IDENTIFY_SYSTEM");
    assert_eq!(timeline_history(3), "TIMELINE_HISTORY 3");
    assert_eq!(show("wal_sender_timeout"), "SHOW \"wal_sender_timeout\"");
    assert_eq!(V14.major(), 14);
}

#[test]
fn literals_mean_the_same_whatever_standard_conforming_strings_is() {
    assert_eq!(quote_literal("it's"), "'it''s'");
    assert_eq!(quote_literal("back\\slash'"), " E'back\\\\slash'''");
    assert_eq!(quote_ident("two\n\"lines\""), "\"two\n\"\"lines\"\"\"");
}

/// Reads a quoted text as the server's scanner does: to the first quote that is not doubled.
fn unquote(text: &str, quote: char) -> (String, &str) {
    let mut rest = text.strip_prefix(quote).unwrap();
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once(quote).unwrap();
        value.push_str(before);
        match after.strip_prefix(quote) {
            Some(after) => {
                value.push(quote);
                rest = after;
            }
            None => return (value, after),
        }
    }
}

proptest! {
    #[test]
    fn no_name_escapes_its_quotes(name in "[^\0]{0,30}|[\"'\\\\;,() ]{0,12}") {
        let quoted = quote_ident(&name);
        prop_assert_eq!(unquote(&quoted, '"'), (name.clone(), ""));
        let literal = quote_literal(&name);
        match literal.strip_prefix(" E") {
            None => prop_assert_eq!(unquote(&literal, '\''), (name, "")),
            Some(escaped) => {
                let (value, rest) = unquote(escaped, '\'');
                prop_assert_eq!((value.replace("\\\\", "\\"), rest), (name, ""));
            }
        }
    }

    #[test]
    fn no_publication_escapes_the_list_it_is_in(names in prop::collection::vec("[^\0]{1,20}|[\"', \\\\]{1,8}", 1..4)) {
        let text = start_replication(&slot(), None, &PgoutputOptions::new(names.clone())).unwrap();
        let (_, list) = text.split_once("publication_names ").unwrap();
        let (list, rest) = unquote(list, '\'');
        prop_assert_eq!(rest, ")");
        let mut read = Vec::new();
        let mut rest = list.as_str();
        loop {
            let (name, after) = unquote(rest, '"');
            read.push(name);
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None => break prop_assert_eq!(after, ""),
            }
        }
        prop_assert_eq!(read, names);
    }
}
