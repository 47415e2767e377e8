//! The key by whose ranges a large table is cut: the leading column of its replica identity, of a type that this program
//! compares exactly as PostgreSQL does. Pure. Any other type is not ranged over at all.

use std::fmt;

use pgsluice_proto::command::quote_ident;
use pgsluice_proto::pgoutput::TupleValue;

use crate::model::Oid;

/// The types whose order is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `smallint`, `integer`, `bigint`.
    Integer,
    /// `uuid`: compared byte by byte (`uuid_cmp` is memcmp).
    Uuid,
}

/// A value of a key. Values of one column are of one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of an integer type.
    Integer(i64),
    /// The 16 bytes, as a number with the same order.
    Uuid(u128),
}

/// Keys from `first` up to and without `end`; `None` is without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The least key in it.
    pub first: Option<Key>,
    /// The least key after it.
    pub end: Option<Key>,
}

impl KeyKind {
    /// The kind of a built-in type; domains over it are left out, because what they send is not asked here.
    #[must_use]
    pub const fn of(type_oid: Oid) -> Option<Self> {
        match type_oid.0 {
            20 | 21 | 23 => Some(Self::Integer),
            2950 => Some(Self::Uuid),
            _ => None,
        }
    }

    /// A value in its text form, as `int8out` and `uuid_out` write it; `None` if it is none.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Key> {
        match self {
            Self::Integer => text.parse().ok().map(Key::Integer),
            Self::Uuid => {
                let digits: String = text.chars().filter(|character| *character != '-').collect();
                let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_uuid.then(|| u128::from_str_radix(&digits, 16).ok().map(Key::Uuid)).flatten()
            }
        }
    }

    /// A value as the stream brings it; `None` for NULL, an unchanged value, and what is not of this kind.
    #[must_use]
    pub fn of_value(self, value: TupleValue<'_>) -> Option<Key> {
        match (self, value) {
            (_, TupleValue::Text(text)) => self.parse(std::str::from_utf8(text).ok()?),
            (Self::Integer, TupleValue::Binary(bytes)) => Some(Key::Integer(match *bytes {
                [a, b] => i64::from(i16::from_be_bytes([a, b])),
                [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
                _ => i64::from_be_bytes(bytes.try_into().ok()?),
            })),
            (Self::Uuid, TupleValue::Binary(bytes)) => {
                Some(Key::Uuid(u128::from_be_bytes(bytes.try_into().ok()?)))
            }
            (_, TupleValue::Null | TupleValue::UnchangedToast) => None,
        }
    }
}

impl KeyRange {
    /// Every key.
    pub const ALL: Self = Self { first: None, end: None };

    /// Whether the key is in it.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.first.is_none_or(|first| first <= key) && self.end.is_none_or(|end| key < end)
    }

    /// The condition that selects exactly these rows, with ` WHERE ` before it; empty for all of them.
    #[must_use]
    pub fn condition(&self, column: &str) -> String {
        let column = quote_ident(column);
        let lower = self.first.map(|first| format!("{column} >= {}", first.literal()));
        let upper = self.end.map(|end| format!("{column} < {}", end.literal()));
        let both: Vec<String> = [lower, upper].into_iter().flatten().collect();
        if both.is_empty() { String::new() } else { format!(" WHERE {}", both.join(" AND ")) }
    }
}

impl Key {
    /// The kind of its column.
    #[must_use]
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::Integer(_) => KeyKind::Integer,
            Self::Uuid(_) => KeyKind::Uuid,
        }
    }

    /// As its [`Display`](fmt::Display) writes it: what has 32 digits is no integer.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = if text.len() == 32 { KeyKind::Uuid } else { KeyKind::Integer };
        kind.parse(text)
    }

    /// A literal whose type leaves the column's index usable.
    fn literal(self) -> String {
        match self {
            Self::Integer(_) => format!("'{self}'::bigint"),
            Self::Uuid(_) => format!("'{self}'::uuid"),
        }
    }
}

/// The form in which [`KeyKind::parse`] takes it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Uuid(value) => write!(f, "{value:032x}"),
        }
    }
}

/// A key is a row's value, and values are never printed (INV-10).
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integer(_) => "Integer(…)",
            Self::Uuid(_) => "Uuid(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uuid_text(value: u128) -> String {
        let digits = format!("{value:032x}");
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
    }

    #[test]
    fn a_range_selects_what_it_contains() {
        let range = KeyRange { first: Some(Key::Integer(-5)), end: Some(Key::Integer(7)) };
        assert_eq!(range.condition("i\"d"), " WHERE \"i\"\"d\" >= '-5'::bigint AND \"i\"\"d\" < '7'::bigint");
        assert!(range.contains(Key::Integer(-5)) && range.contains(Key::Integer(6)));
        assert!(!range.contains(Key::Integer(-6)) && !range.contains(Key::Integer(7)));
        assert_eq!(KeyRange::ALL.condition("id"), "");
    }

    #[test]
    fn what_is_not_of_the_kind_is_no_key() {
        for text in ["", "x", "1.5", "99999999999999999999", "00000000-0000-0000-0000-00000000000g"] {
            assert_eq!(KeyKind::Integer.parse(text), None, "{text}");
            assert_eq!(KeyKind::Uuid.parse(text), None, "{text}");
        }
        assert_eq!(KeyKind::Integer.of_value(TupleValue::Binary(&[1, 2, 3])), None);
        assert_eq!(KeyKind::Integer.of_value(TupleValue::Null), None);
        assert_eq!(KeyKind::Uuid.of_value(TupleValue::Text(b"+0000000000000000000000000000001")), None);
    }

    proptest! {
        #[test]
        fn text_and_binary_forms_of_an_integer_are_the_same_key(value: i64) {
            let key = KeyKind::Integer.of_value(TupleValue::Binary(&value.to_be_bytes()));
            prop_assert_eq!(key, Some(Key::Integer(value)));
            prop_assert_eq!(KeyKind::Integer.of_value(TupleValue::Text(value.to_string().as_bytes())), key);
            prop_assert_eq!(Key::parse(&Key::Integer(value).to_string()), key);
        }

        #[test]
        fn small_integers_travel_in_fewer_bytes(value: i16) {
            let wide = i32::from(value).to_be_bytes();
            prop_assert_eq!(
                KeyKind::Integer.of_value(TupleValue::Binary(&value.to_be_bytes())),
                KeyKind::Integer.of_value(TupleValue::Binary(&wide))
            );
        }

        #[test]
        fn uuids_are_ordered_as_their_bytes(one: u128, other: u128) {
            let key = |value: u128| KeyKind::Uuid.of_value(TupleValue::Binary(&value.to_be_bytes())).unwrap();
            prop_assert_eq!(key(one).cmp(&key(other)), one.to_be_bytes().cmp(&other.to_be_bytes()));
            prop_assert_eq!(KeyKind::Uuid.parse(&uuid_text(one)), Some(key(one)));
            prop_assert_eq!(Key::parse(&key(one).to_string()), Some(key(one)));
        }
    }
}
