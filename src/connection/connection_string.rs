//! libpq's two forms of connection strings, taken apart into keywords and values; what they mean is the business of
//! [`keywords`](super::keywords). Pure: no file, no environment, no network; errors never quote values.
//!
//! Source: PostgreSQL documentation, "Database Connection Control Functions", 34.1.1.

use super::keywords::Draft;
use super::settings::{ConnectionSettings, SettingsError};

pub(super) fn parse(text: &str) -> Result<ConnectionSettings, SettingsError> {
    let text = text.trim();
    let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    let pairs = match rest {
        Some(rest) => uri_pairs(rest)?,
        None if text.is_empty() => return Err(SettingsError::Syntax { problem: "it is empty" }),
        None => keyword_pairs(text)?,
    };
    let mut draft = Draft::default();
    for (keyword, value) in pairs {
        draft.set(&keyword, value)?;
    }
    draft.finish()
}

type Pairs = Vec<(String, String)>;

/// `[user[:password]@][host][:port][,…][/dbname][?keyword=value[&…]]`
fn uri_pairs(rest: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Pairs::new();
    // As in libpq: user information goes up to the first `@` that stands before the path.
    let (user_info, rest) = match rest.split_once('@') {
        Some((user_info, rest)) if !user_info.contains('/') => (user_info, rest),
        _ => ("", rest),
    };
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host_list, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    push_decoded(&mut pairs, "user", user)?;
    push_decoded(&mut pairs, "password", password)?;
    if host_list.contains('@') {
        return Err(SettingsError::Syntax {
            problem: "there is more than one `@` before the path; write an `@` in a user name or password as %40",
        });
    }
    uri_hosts(host_list, &mut pairs)?;
    push_decoded(&mut pairs, "dbname", path)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter
            .split_once('=')
            .ok_or(SettingsError::Syntax { problem: "a parameter after `?` has no `=`" })?;
        let keyword = percent_decode(keyword)?;
        let value = percent_decode(value)?;
        // JDBC's spelling, which libpq accepts too.
        if keyword == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((keyword, value));
        }
    }
    Ok(pairs)
}

fn uri_hosts(list: &str, pairs: &mut Pairs) -> Result<(), SettingsError> {
    if list.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in list.split(',') {
        let (host, port) = match entry.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest
                    .split_once(']')
                    .ok_or(SettingsError::Syntax { problem: "an IPv6 address lacks its closing bracket" })?;
                match after.strip_prefix(':') {
                    Some(port) => (address, port),
                    None if after.is_empty() => (address, ""),
                    None => {
                        return Err(SettingsError::Syntax {
                            problem: "only `:port` may follow an IPv6 address",
                        });
                    }
                }
            }
            None => entry.split_once(':').unwrap_or((entry, "")),
        };
        hosts.push(percent_decode(host)?);
        ports.push(port.to_owned());
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        pairs.push(("host".to_owned(), hosts.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn push_decoded(pairs: &mut Pairs, keyword: &str, encoded: &str) -> Result<(), SettingsError> {
    if !encoded.is_empty() {
        pairs.push((keyword.to_owned(), percent_decode(encoded)?));
    }
    Ok(())
}

fn percent_decode(text: &str) -> Result<String, SettingsError> {
    const MALFORMED: SettingsError =
        SettingsError::Syntax { problem: "a `%` is not followed by two hexadecimal digits; write it as %25" };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(MALFORMED.clone());
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).map_err(|_| MALFORMED)?);
    }
    if decoded.contains(&0) {
        return Err(SettingsError::Syntax { problem: "it contains a zero byte" });
    }
    String::from_utf8(decoded)
        .map_err(|_| SettingsError::Syntax { problem: "a percent-encoded value is not UTF-8" })
}

/// `keyword = value …`; values with blanks stand in single quotes; a backslash protects the next character.
fn keyword_pairs(text: &str) -> Result<Pairs, SettingsError> {
    let mut pairs = Pairs::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || keyword.is_empty() {
            return Err(SettingsError::Syntax { problem: "a keyword is not followed by `=`" });
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        pairs.push((keyword, keyword_value(&mut chars)?));
    }
}

fn keyword_value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, SettingsError> {
    let mut value = String::new();
    let quoted = chars.next_if_eq(&'\'').is_some();
    loop {
        match chars.next() {
            None if quoted => {
                return Err(SettingsError::Syntax { problem: "a quoted value lacks its closing quote" });
            }
            None => return Ok(value),
            Some('\'') if quoted => return Ok(value),
            Some('\\') => value.extend(chars.next()),
            Some(c) if !quoted && c.is_whitespace() => return Ok(value),
            Some('\0') => return Err(SettingsError::Syntax { problem: "it contains a zero byte" }),
            Some(c) => value.push(c),
        }
    }
}

#[cfg(test)]
#[path = "connection_string_tests.rs"]
mod tests;
