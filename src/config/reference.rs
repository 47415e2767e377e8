//! `docs/configuration.md`, written from the raw records' doc comments and defaults, so that it cannot be stale
//! without a test noticing.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::keys::{Key, KeyTree};

/// Sections in the order in which a migration uses them.
const SECTIONS: &[&str] = &[
    "source",
    "target",
    "preflight",
    "schema",
    "snapshot",
    "apply",
    "api",
    "verify",
    "cutover",
    "kubernetes",
    "traffic",
];

const INTRODUCTION: &str = r#"# Configuration

<!-- Generated from the code by `pgsluice config-reference`; a test fails when it is stale. -->

pgsluice reads one TOML file, named by `--config` or `PGSLUICE_CONFIG`, and environment variables over it. Neither is
needed if the other says enough; the shortest configuration is two variables:

```sh
export PGSLUICE_SOURCE__URL='postgresql://app@old-db:5432/shop?sslmode=verify-full&sslrootcert=/etc/ca.crt'
export PGSLUICE_TARGET__URL='postgresql://app@shop-rw:5432/shop?sslmode=require'
```

Every key except those of `[[traffic]]` can be set by a variable: `PGSLUICE_`, the section, two underscores, the key,
all in capitals. A value is a string where a string is allowed, and a TOML literal otherwise (`5`, `true`,
`["public.*"]`). Variables without two underscores in a row are left alone, because Kubernetes sets some of that kind by
itself.

Unknown keys are errors. So are values out of range: pgsluice says what is allowed, changes nothing, and ends with exit
code 2. Sizes are bytes or have a unit (`"64MiB"`, `"1GB"`); as in `postgresql.conf`, units are powers of 1024.

Connection strings are libpq's, as a URI or as `key=value` pairs: several hosts, Unix sockets, `sslmode` from `disable`
to `verify-full`, `sslrootcert` (a file or `system`), `sslcert` and `sslkey`, `sslnegotiation`, `channel_binding`,
`connect_timeout` (10 s if not given), `target_session_attrs`, `keepalives*`, `tcp_user_timeout`, `options`. As in libpq,
`sslmode=require` checks the certificate's chain only when a root certificate is there; use `verify-full` wherever you can.

```toml
[source]
url = "postgresql://app@old-db:5432/shop?sslmode=verify-full&sslrootcert=/etc/old-ca.crt"
password_file = "/run/secrets/source-password"

[target]
url = "postgresql://app@shop-rw:5432/shop?sslmode=verify-full&sslrootcert=/etc/new-ca.crt"
password_file = "/run/secrets/target-password"

[api]
listen = "0.0.0.0:8080"
token_file = "/run/secrets/api-token"

[[traffic]]
adapter = "exec"
command = ["/usr/local/bin/move-traffic"]
```
"#;

/// The whole document.
#[must_use]
pub fn configuration_reference() -> String {
    let tree = KeyTree::new();
    let mut text = INTRODUCTION.to_owned();
    for section in SECTIONS {
        let Some(key) = tree.root().child(section) else { continue };
        let (heading, content) = match key.element() {
            Some(element) => (format!("[[{section}]]"), element),
            None => (format!("[{section}]"), key),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## `{heading}`\n\n{}\n", one_line(key.description()));
        let by_variable = key.element().is_none();
        write_keys(&mut text, section, content, by_variable);
    }
    text
}

fn write_keys(text: &mut String, path: &str, section: Key<'_>, by_variable: bool) {
    for (name, key) in section.children() {
        let full = format!("{path}.{name}");
        if !key.children().is_empty() {
            write_keys(text, &full, key, by_variable);
            continue;
        }
        let _ = write!(text, "\n### `{full}`\n\n{}\n", one_line(key.description()));
        for (word, description) in key.choices() {
            let _ = write!(text, "\n- `\"{word}\"`: {}", one_line(description));
        }
        if !key.choices().is_empty() {
            text.push('\n');
        }
        let mut facts = vec![kind(key).to_owned()];
        if let Some(default) = key.default_value() {
            facts.push(format!("default `{}`", as_toml(default)));
        }
        if by_variable {
            facts.push(format!("`PGSLUICE_{}`", full.replace('.', "__").to_ascii_uppercase()));
        }
        let _ = write!(text, "\n*{}*\n", facts.join(" · "));
    }
}

fn kind(key: Key<'_>) -> &'static str {
    if !key.choices().is_empty() {
        "one of the above"
    } else if key.is_byte_size() {
        "size"
    } else if key.accepts("array") {
        "list of strings"
    } else if key.accepts("integer") {
        "whole number"
    } else if key.accepts("boolean") {
        "true or false"
    } else {
        "string"
    }
}

fn as_toml(value: &Json) -> String {
    value.to_string()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the document stands in the repository.
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

    #[test]
    fn the_configuration_reference_is_what_the_code_says() {
        let expected = configuration_reference();
        if std::env::var_os("PGSLUICE_BLESS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(PATH, &expected).unwrap();
        }
        let written = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(
            written == expected,
            "docs/configuration.md is stale: run PGSLUICE_BLESS=1 cargo test --lib configuration_reference"
        );
    }

    #[test]
    fn every_key_of_every_section_is_described() {
        fn check(path: &str, key: Key<'_>) {
            assert!(!key.description().is_empty() || path.is_empty(), "{path} has no description");
            let inside = key.element().filter(|element| element.accepts("object")).unwrap_or(key);
            for (name, child) in inside.children() {
                check(&format!("{path}.{name}"), child);
            }
        }
        let tree = KeyTree::new();
        check("", tree.root());
        let names: Vec<&str> = tree.root().children().into_iter().map(|(name, _)| name).collect();
        assert!(names.iter().all(|name| SECTIONS.contains(name)) && names.len() == SECTIONS.len());
    }
}
