//! The shape of a table and the name of a type, as pgoutput announces them. These are the only messages whose
//! strings are copied out of the buffer, because they outlive it. Nothing here compares shapes or remembers them.

use bytes::{BufMut, BytesMut};

use crate::cursor::{Cursor, DecodeError};
use crate::scalar::Oid;
use crate::writer::{EncodeError, put_count16, put_cstr};

/// `R`: a table's shape at this point of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The identifier that changes refer to.
    pub id: Oid,
    /// The schema's name, unquoted.
    pub schema: String,
    /// The table's name, unquoted; of the root table where the publication says so for partitions.
    pub name: String,
    /// What identifies a row.
    pub replica_identity: ReplicaIdentity,
    /// The published columns in order; generated columns are among them only from PostgreSQL 18, and only if asked.
    pub columns: Vec<RelationColumn>,
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether the column is part of the replica identity. With FULL, every column is.
    pub key: bool,
    /// The column's name, unquoted.
    pub name: String,
    /// The column's type, by the source's identifiers.
    pub type_oid: Oid,
    /// `atttypmod`: the length, precision or the like of the type; -1 for none.
    pub type_modifier: i32,
}

/// `pg_class.relreplident`: what of an old row UPDATE and DELETE write to the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// `Y`: the name of a type that is not built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeInfo {
    /// The type, by the source's identifiers.
    pub oid: Oid,
    /// The schema's name, unquoted.
    pub schema: String,
    /// The type's name, unquoted; for a domain, of its base type.
    pub name: String,
}

/// Smallest encoded column: flags, empty name, type, modifier.
const COLUMN_BYTES_MIN: usize = 1 + 1 + 4 + 4;

/// The one schema the wire abbreviates, to the empty string.
const PG_CATALOG: &str = "pg_catalog";

/// The one flag of a column: it is part of the replica identity.
const COLUMN_IS_KEY: u8 = 1;

impl Relation {
    pub(super) fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        let id = cursor.oid("the relation")?;
        let schema = decode_schema(cursor)?;
        let name = cursor.cstr("the relation's name")?;
        let replica_identity = ReplicaIdentity::decode(cursor)?;
        let count = usize::from(cursor.u16("the number of columns")?);
        let mut columns = Vec::with_capacity(count.min(cursor.remaining() / COLUMN_BYTES_MIN));
        for _ in 0..count {
            columns.push(RelationColumn::decode(cursor)?);
        }
        Ok(Self { id, schema, name, replica_identity, columns })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u32(self.id.0);
        encode_schema(out, &self.schema)?;
        put_cstr(out, self.name.as_bytes(), "relation's name")?;
        out.put_u8(self.replica_identity.tag());
        put_count16(out, self.columns.len(), "list of columns")?;
        for column in &self.columns {
            out.put_u8(if column.key { COLUMN_IS_KEY } else { 0 });
            put_cstr(out, column.name.as_bytes(), "column's name")?;
            out.put_u32(column.type_oid.0);
            out.put_i32(column.type_modifier);
        }
        Ok(())
    }
}

impl RelationColumn {
    fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        let key = match cursor.u8("a column's flags")? {
            0 => false,
            COLUMN_IS_KEY => true,
            flags => return Err(cursor.unknown(flags, "a column's flags (0 or 1)")),
        };
        Ok(Self {
            key,
            name: cursor.cstr("a column's name")?,
            type_oid: cursor.oid("a column's type")?,
            type_modifier: cursor.i32("a column's type modifier")?,
        })
    }
}

impl ReplicaIdentity {
    fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        match cursor.u8("the replica identity")? {
            b'd' => Ok(Self::Default),
            b'n' => Ok(Self::Nothing),
            b'f' => Ok(Self::Full),
            b'i' => Ok(Self::Index),
            other => Err(cursor.unknown(other, "the replica identity (d, n, f or i)")),
        }
    }

    fn tag(self) -> u8 {
        match self {
            Self::Default => b'd',
            Self::Nothing => b'n',
            Self::Full => b'f',
            Self::Index => b'i',
        }
    }
}

impl TypeInfo {
    pub(super) fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        Ok(Self {
            oid: cursor.oid("the type")?,
            schema: decode_schema(cursor)?,
            name: cursor.cstr("the type's name")?,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u32(self.oid.0);
        encode_schema(out, &self.schema)?;
        put_cstr(out, self.name.as_bytes(), "type's name")
    }
}

/// `logicalrep_write_namespace` sends pg_catalog as the empty string.
fn decode_schema(cursor: &mut Cursor) -> Result<String, DecodeError> {
    let schema = cursor.cstr("the schema's name")?;
    Ok(if schema.is_empty() { PG_CATALOG.to_owned() } else { schema })
}

fn encode_schema(out: &mut BytesMut, schema: &str) -> Result<(), EncodeError> {
    let schema = if schema == PG_CATALOG { "" } else { schema };
    put_cstr(out, schema.as_bytes(), "schema's name")
}
