//! Versions print the same definition with other quotes: words that one of them reserves (`json` from 17 on), fields of EXTRACT
//! (quoted from 15 on, where all identifiers are). Two definitions are the same if they are once needless quotes are gone;
//! what stands in literals is compared as it is.

/// Whether two printed definitions are the same.
pub(super) fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other || bare(one) == bare(other),
        (one, other) => one == other,
    }
}

/// The name of a routine or cast, the same from every version; its types stand after the first parenthesis.
pub(super) fn with_bare_json(name: &str) -> String {
    let at = name.find('(').unwrap_or(name.len());
    let (name, types) = name.split_at(at);
    format!("{name}{}", types.replace("\"json\"", "json"))
}

/// Without quotes around identifiers that are lower-case words.
fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '"']) {
        let (before, quoted) = rest.split_at(at);
        bare.push_str(before);
        let end = end_of_quoted(quoted);
        let (quoted, after) = quoted.split_at(end);
        match quoted.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(name) if is_word(name) => bare.push_str(name),
            _ => bare.push_str(quoted),
        }
        rest = after;
    }
    bare.push_str(rest);
    bare
}

/// Where the literal or identifier ends that `text` begins with; a doubled quote is one inside it.
fn end_of_quoted(text: &str) -> usize {
    let quote = text.chars().next().unwrap_or('"');
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

fn is_word(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needless_quotes_make_no_difference() {
        for (one, other) in [
            (r#"EXTRACT(year FROM "d") > 3"#, r#"EXTRACT("year" FROM "d") > 3"#),
            (r#"'{"json":1}'::"json"[]"#, r#"'{"json":1}'::json[]"#),
            (r#"("it's"."a""b", "c")"#, r#"("it's"."a""b", c)"#),
        ] {
            assert!(is_same(Some(one), Some(other)), "{one}");
        }
    }

    #[test]
    fn literals_and_names_that_need_quotes_are_compared_as_they_are() {
        for (one, other) in [
            (r#"'{"a":1}'"#, "'{a:1}'"),
            (r#"'it''s "a"'"#, "'it''s a'"),
            (r#""A""#, "A"),
            (r#""a b""#, "a b"),
            (r#""""#, ""),
            (r#""unended"#, "unended"),
        ] {
            assert!(!is_same(Some(one), Some(other)), "{one}");
        }
        assert!(!is_same(Some("a"), None));
        assert!(is_same(None, None));
    }

    #[test]
    fn a_routine_has_one_name() {
        let name = with_bare_json(r#""json"."f"("json",json[])"#);
        assert_eq!(name, r#""json"."f"(json,json[])"#);
    }
}
