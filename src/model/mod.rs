//! Pure nouns shared by every module: sides, names, positions, what to do about an error.
//! Nothing here performs IO, reads a clock or knows of a database connection.

mod column;
mod direction;
mod disposition;
mod name;
mod nearest;
mod side;
mod stored_type;
mod words;

pub use column::RecordedColumn;
pub use direction::Direction;
pub use disposition::Disposition;
pub use name::{SequenceName, TableName};
pub use nearest::nearest;
pub use pgsluice_proto::{Lsn, Oid, PgTimestamp, Xid};
pub use side::Side;
pub use stored_type::StoredType;
pub(crate) use stored_type::{STORED_MODIFIER, STORED_TYPE};
pub use words::{as_sentence, counted};
