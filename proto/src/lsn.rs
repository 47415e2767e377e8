//! [`Lsn`], a position in one cluster's write-ahead log. It compares, measures distance, parses and prints.
//! It has no value that means "unknown": the wire's zero becomes `None` where it enters, through
//! [`Lsn::from_wire`], and only there. Positions of different clusters must never be compared; nothing here can
//! tell them apart.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log of one cluster.
///
/// Ordered as positions are. The order of *transactions* is the order of their commit positions, never of their
/// begin positions (INV-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The position `bytes` from the beginning of the log.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the beginning of the log.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// How many bytes `self` lies after `earlier`; zero when it does not lie after it.
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The position `bytes` further on, or `None` beyond the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// A position as messages carry it, where zero is `InvalidXLogRecPtr` and so no position at all.
    pub const fn from_wire(bytes: u64) -> Option<Self> {
        match bytes {
            0 => None,
            bytes => Some(Self(bytes)),
        }
    }

    /// The inverse of [`Lsn::from_wire`].
    pub const fn to_wire(position: Option<Self>) -> u64 {
        match position {
            None => 0,
            Some(lsn) => lsn.0,
        }
    }
}

impl fmt::Display for Lsn {
    /// As PostgreSQL's `pg_lsn` prints it: `16/B374D848`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// A text that is not a log position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: expected two hexadecimal numbers of 1 to 8 digits, such as 16/B374D848")]
pub struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    /// Accepts what `pg_lsn_in` accepts: 1 to 8 hexadecimal digits, a slash, 1 to 8 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

fn half(digits: &str) -> Result<u32, InvalidLsn> {
    // `from_str_radix` alone would accept a sign.
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !well_formed {
        return Err(InvalidLsn);
    }
    u32::from_str_radix(digits, 16).map_err(|_| InvalidLsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_as_postgresql_does() {
        assert_eq!(Lsn::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::new(0x1_0000_0000).to_string(), "1/0");
        assert_eq!(Lsn::new(u64::MAX).to_string(), "FFFFFFFF/FFFFFFFF");
    }

    #[test]
    fn refuses_what_pg_lsn_refuses() {
        for text in
            ["", "/", "0", "1/", "/1", "+1/1", "1/-1", "1/1 ", "123456789/0", "0/123456789", "g/0", "1/2/3"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(InvalidLsn), "{text:?}");
        }
    }

    #[test]
    fn the_wires_zero_is_no_position() {
        assert_eq!(Lsn::from_wire(0), None);
        assert_eq!(Lsn::from_wire(1), Some(Lsn::new(1)));
        assert_eq!(Lsn::to_wire(None), 0);
    }

    #[test]
    fn distance_never_goes_below_zero_and_addition_never_wraps() {
        assert_eq!(Lsn::new(10).distance_from(Lsn::new(4)), 6);
        assert_eq!(Lsn::new(4).distance_from(Lsn::new(10)), 0);
        assert_eq!(Lsn::new(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn::new(1).checked_add(2), Some(Lsn::new(3)));
    }

    proptest! {
        #[test]
        fn every_position_survives_printing_and_parsing(bytes: u64) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
            prop_assert_eq!(lsn.to_string().to_lowercase().parse::<Lsn>(), Ok(lsn));
        }

        #[test]
        fn no_text_panics_the_parser(text: String) {
            let _ = text.parse::<Lsn>();
        }
    }
}
