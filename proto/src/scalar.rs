//! The small values of PostgreSQL's wire: object and transaction identifiers, timestamps, and bytes that are the
//! user's own. They carry meaning and units, and never interpret what they carry.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// An object identifier of one database: of a table, a type. Meaningless in any other cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Oid(pub u32);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction identifier as the wire carries it: 32 bits, wrapping around, so deliberately without an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Xid(pub u32);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Microseconds between the Unix epoch and PostgreSQL's, which is 2000-01-01 00:00:00 UTC.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A server's wall clock: microseconds since 2000-01-01 00:00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PgTimestamp(i64);

impl PgTimestamp {
    /// The instant `micros` after 2000-01-01 00:00:00 UTC.
    pub const fn from_postgres_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub const fn to_postgres_micros(self) -> i64 {
        self.0
    }

    /// The instant `micros` after the Unix epoch. Saturates 292,000 years from now.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(POSTGRES_EPOCH_UNIX_MICROS))
    }

    /// Microseconds since the Unix epoch. Saturates 292,000 years from now.
    pub const fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_UNIX_MICROS)
    }
}

/// Bytes that belong to the user. Readable as a slice, printed only as a length (INV-10).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Opaque(pub Bytes);

impl Deref for Opaque {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl From<Bytes> for Opaque {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_convert_between_the_two_epochs() {
        assert_eq!(PgTimestamp::from_unix_micros(POSTGRES_EPOCH_UNIX_MICROS).to_postgres_micros(), 0);
        assert_eq!(PgTimestamp::from_postgres_micros(1).to_unix_micros(), POSTGRES_EPOCH_UNIX_MICROS + 1);
        assert_eq!(PgTimestamp::from_postgres_micros(i64::MAX).to_unix_micros(), i64::MAX);
    }

    #[test]
    fn a_users_bytes_are_never_printed() {
        assert_eq!(format!("{:?}", Opaque(Bytes::from_static(b"secret"))), "<6 bytes>");
    }
}
