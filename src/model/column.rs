//! A column as the stream of changes tells it.

/// A column of a source table, as it was when its shape was last accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedColumn {
    /// `pg_attribute.attname`.
    pub name: String,
    /// Its type as pgoutput tells it: of a domain the type it is made of; `typname` if built in, else `schema.typname`.
    pub type_name: String,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub modifier: i32,
    /// `pg_attribute.attnum` on the source, where it was looked up: it survives a rename, and a column that is dropped
    /// and added again gets another. The stream does not tell it.
    pub number: Option<i16>,
    /// `pg_attribute.attnum` of the target's column that has its values; `None` until first bound.
    pub target_number: Option<i16>,
}

impl RecordedColumn {
    /// Whether the stream tells both alike.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.name == other.name && self.type_name == other.type_name && self.modifier == other.modifier
    }
}
