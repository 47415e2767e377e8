//! Which tables the stream carries, and in which shape each was last accepted: `pgsluice.relation` on the target, by
//! the source's OID. A relation that is not in it has to join first; one that differs from it was changed on the source.
//! Written in the target transaction that makes it true (INV-2). Never decides what a difference is.

use std::collections::BTreeMap;

use pgsluice_proto::command::quote_literal;
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use super::records::RecordError;
use crate::connection::SqlSession;
use crate::model::{Lsn, Oid, RecordedColumn, TableName};

/// Creates the table, with the other records.
pub(super) const ENSURE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.relation (
    source_oid oid PRIMARY KEY,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    columns jsonb NOT NULL,
    target_oid oid,
    state text NOT NULL CHECK (state IN ('copying', 'joined')),
    join_lsn pg_lsn,
    membership text NOT NULL
);";

const READ: &str = "
SELECT source_oid, schema_name, table_name, columns::text, target_oid, state, join_lsn::text, membership
  FROM pgsluice.relation";

/// Whether changes of a table are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinState {
    /// Its rows are being copied: changes committed at or after `join_lsn` wait.
    Copying,
    /// Its changes are applied, those committed at or after `join_lsn`.
    Joined,
}

impl JoinState {
    /// The value in `pgsluice.relation.state`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Joined => "joined",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Copying, Self::Joined].into_iter().find(|state| state.as_str() == text)
    }
}

/// A table of the stream, as last accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationRecord {
    /// `pg_class.oid` on the source: what relation messages carry.
    pub source_oid: Oid,
    /// Its name on the source.
    pub name: TableName,
    /// Its columns in the source's order, without generated ones.
    pub columns: Vec<RecordedColumn>,
    /// The target's table that has its rows; `None` until first bound.
    pub target_oid: Option<u32>,
    /// Whether its changes are applied.
    pub state: JoinState,
    /// Consistent point of the slot under whose snapshot it was copied; `None` for the migration's own.
    pub join_lsn: Option<Lsn>,
    /// Fingerprint of how it is published: another one means that changes may be missing in the stream.
    pub membership: String,
}

/// Reads all of them.
///
/// # Errors
/// [`RecordError`].
pub async fn read(target: &SqlSession) -> Result<BTreeMap<Oid, RelationRecord>, RecordError> {
    let rows = target.query_typed(READ, &[]).await?;
    rows.iter().map(|row| decode(row).map(|record| (record.source_oid, record))).collect()
}

/// Reads all of them; `None` where nothing keeps such records.
///
/// # Errors
/// [`RecordError`].
pub async fn read_if_any(target: &SqlSession) -> Result<Option<BTreeMap<Oid, RelationRecord>>, RecordError> {
    let there = target.query_one("SELECT to_regclass('pgsluice.relation') IS NOT NULL", &[]).await?;
    if there.get(0) { read(target).await.map(Some) } else { Ok(None) }
}

/// Reads one; `None` for a relation that has not joined.
///
/// # Errors
/// [`RecordError`].
pub async fn read_one(target: &SqlSession, source_oid: Oid) -> Result<Option<RelationRecord>, RecordError> {
    let rows =
        target.query_typed(&format!("{READ} WHERE source_oid = $1"), &[(&source_oid.0, Type::OID)]).await?;
    rows.first().map(decode).transpose()
}

/// SQL that forgets every record and inserts these, for the transaction that records the end of the first copy.
#[must_use]
pub fn begin_sql(records: &[RelationRecord]) -> String {
    let mut sql = "DELETE FROM pgsluice.relation".to_owned();
    if !records.is_empty() {
        let rows: Vec<String> = records.iter().map(values_sql).collect();
        sql = format!("{sql}; INSERT INTO pgsluice.relation VALUES {}", rows.join(", "));
    }
    sql
}

/// SQL that inserts one, or replaces what is recorded for the same source table.
#[must_use]
pub fn upsert_sql(record: &RelationRecord) -> String {
    format!(
        "INSERT INTO pgsluice.relation VALUES {} ON CONFLICT (source_oid) DO UPDATE
         SET schema_name = excluded.schema_name, table_name = excluded.table_name, columns = excluded.columns,
             target_oid = excluded.target_oid, state = excluded.state, join_lsn = excluded.join_lsn,
             membership = excluded.membership",
        values_sql(record)
    )
}

/// SQL that says that a table's copy is complete: its changes are applied from its `join_lsn` on.
#[must_use]
pub fn joined_sql(source_oid: Oid) -> String {
    format!("UPDATE pgsluice.relation SET state = 'joined' WHERE source_oid = {}", source_oid.0)
}

/// SQL that says that a table's rows have to be copied again: its changes wait until they are.
#[must_use]
pub fn copy_again_sql(source_oid: Oid) -> String {
    format!(
        "UPDATE pgsluice.relation SET state = 'copying', join_lsn = NULL WHERE source_oid = {}",
        source_oid.0
    )
}

/// SQL that forgets a table: it has to join again, or is gone from the source.
#[must_use]
pub fn forget_sql(source_oid: Oid) -> String {
    format!("DELETE FROM pgsluice.relation WHERE source_oid = {}", source_oid.0)
}

/// SQL that accepts a new name, shape or target table, for the target transaction that first applies under it.
#[must_use]
pub fn accept_sql(
    source_oid: Oid,
    name: &TableName,
    columns: &[RecordedColumn],
    target_oid: Option<u32>,
) -> String {
    format!(
        "UPDATE pgsluice.relation SET schema_name = {}, table_name = {}, columns = {}::jsonb, target_oid = {}
         WHERE source_oid = {}",
        quote_literal(&name.schema),
        quote_literal(&name.name),
        quote_literal(&encode_columns(columns)),
        target_oid.map_or_else(|| "NULL".to_owned(), |oid| oid.to_string()),
        source_oid.0,
    )
}

/// One row of `VALUES`. A target that is not known yet is the table of the same name, if there is one, and its columns are
/// those of the same names.
fn values_sql(record: &RelationRecord) -> String {
    let target_oid = record.target_oid.map_or_else(
        || format!("to_regclass({})::oid", quote_literal(&record.name.to_string())),
        |oid| oid.to_string(),
    );
    format!(
        "({}, {}, {},
          (SELECT coalesce(jsonb_agg(each.told || jsonb_build_object('target', a.attnum) ORDER BY each.place), '[]')
             FROM jsonb_array_elements({}::jsonb) WITH ORDINALITY each(told, place)
             LEFT JOIN pg_attribute a ON a.attrelid = {target_oid} AND a.attname = each.told ->> 'name'
                  AND a.attnum > 0 AND NOT a.attisdropped),
          {target_oid}, '{}', {}, {})",
        record.source_oid.0,
        quote_literal(&record.name.schema),
        quote_literal(&record.name.name),
        quote_literal(&encode_columns(&record.columns)),
        record.state.as_str(),
        record.join_lsn.map_or_else(|| "NULL".to_owned(), |lsn| format!("'{lsn}'")),
        quote_literal(&record.membership),
    )
}

fn encode_columns(columns: &[RecordedColumn]) -> String {
    let encode = |column: &RecordedColumn| {
        json!({
            "name": column.name,
            "type": column.type_name,
            "modifier": column.modifier,
            "number": column.number,
            "target": column.target_number,
        })
    };
    Value::Array(columns.iter().map(encode).collect()).to_string()
}

fn decode(row: &tokio_postgres::Row) -> Result<RelationRecord, RecordError> {
    let unknown = |what: &str| RecordError::Unknown { what: format!("{what} of a relation") };
    let columns: String = row.get(3);
    let state: String = row.get(5);
    let join_lsn: Option<String> = row.get(6);
    Ok(RelationRecord {
        source_oid: Oid(row.get(0)),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        columns: decode_columns(&columns).ok_or_else(|| unknown("columns"))?,
        target_oid: row.get(4),
        state: JoinState::parse(&state).ok_or_else(|| unknown("a state"))?,
        join_lsn: join_lsn
            .map(|text| text.parse().map_err(|_| unknown("a malformed join_lsn")))
            .transpose()?,
        membership: row.get(7),
    })
}

/// Decodes what [`encode_columns`] and the source's catalog query write; `None` if it is something else.
#[must_use]
pub(crate) fn decode_columns(text: &str) -> Option<Vec<RecordedColumn>> {
    let Value::Array(columns) = serde_json::from_str(text).ok()? else { return None };
    let number = |column: &Value, key| {
        column.get(key).and_then(Value::as_i64).and_then(|number| i16::try_from(number).ok())
    };
    let decode = |column: &Value| {
        Some(RecordedColumn {
            name: column.get("name")?.as_str()?.to_owned(),
            type_name: column.get("type")?.as_str()?.to_owned(),
            modifier: i32::try_from(column.get("modifier")?.as_i64()?).ok()?,
            number: number(column, "number"),
            target_number: number(column, "target"),
        })
    };
    columns.iter().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_as_they_were_written() {
        let column = |name: &str, number| RecordedColumn {
            name: name.into(),
            type_name: "public.mood's".into(),
            modifier: -1,
            number,
            target_number: number.map(|number| number + 1),
        };
        let columns = vec![column("a \"b\"\n'c'", Some(3)), column("é", None)];
        assert_eq!(decode_columns(&encode_columns(&columns)), Some(columns));
        assert_eq!(decode_columns("{}"), None);
        assert_eq!(decode_columns("[{\"name\": 1}]"), None);
    }
}
