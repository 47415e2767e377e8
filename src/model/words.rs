//! How messages for a person are worded: numbers with their nouns, and errors that stand alone.

use std::fmt::Display;

/// As in `1 table` and `2 tables`; `many` is what stands behind every number but one.
#[must_use]
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let noun = if number == N::from(1) { one } else { many };
    format!("{number} {noun}")
}

/// The message of an error as a sentence of its own: its first letter is made large, unless the first word is a name (with
/// anything but small letters in it, or this program's).
#[must_use]
pub fn as_sentence(message: &str) -> String {
    let first_word = message.split(' ').next().unwrap_or_default();
    let is_a_word = first_word.bytes().all(|byte| byte.is_ascii_lowercase()) && first_word != "pgsluice";
    match message.split_at_checked(1) {
        Some((first, rest)) if is_a_word => first.to_ascii_uppercase() + rest,
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let tries = |number: u32| counted(number, "try", "tries");
        assert_eq!([tries(0), tries(1), tries(2)], ["0 tries", "1 try", "2 tries"]);
        assert_eq!(counted(1_usize, "table", "tables"), "1 table");
    }

    #[test]
    fn names_at_the_beginning_of_a_message_stay_as_they_are() {
        assert_eq!(as_sentence("the target answered"), "The target answered");
        for name in ["wal_level is replica", "pgsluice ended", "\"t\" is gone", "", "Ärger", "öl"] {
            assert_eq!(as_sentence(name), name);
        }
    }
}
