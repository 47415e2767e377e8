//! Repair of rows that a verification has found different: from source to target, through the stream's order. A transaction on the source
//! holds the table's writers off for the moment in which it reads the rows and writes them into the WAL as a message; where the stream
//! comes to it, everything before is applied and nothing after, and there the rows are replaced on the target. Nothing else can come
//! between, whatever is written meanwhile.

use std::time::Duration;

use pgsluice_proto::command::{quote_ident, quote_literal};
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::error::VerifyError;
use super::meeting::Meeting;
use super::report::RowDifference;
use super::row_text::ComparedColumn;
use super::table::{ComparedTable, Shape};
use crate::connection::{SqlSession, TextQuery};
use crate::model::{Side, TableName};

/// Marks a message of ours as a repair.
pub const REPAIR_PREFIX: &str = "pgsluice.repair";
/// How long writers of the source may have to wait behind our lock, and how often it is tried.
const LOCK_TIMEOUT_MS: u64 = 500;
const TRIES_MAX: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Rows repaired by one message, and how long the stream may take to come to it.
const ROWS_MAX: usize = 50;
const APPLIED_WITHIN: Duration = Duration::from_secs(120);

/// What a repair says, in the source's WAL. Rows as text, under the pinned settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Which it is.
    pub nonce: String,
    /// `pg_class.oid` on the source.
    pub source_oid: u32,
    /// `ONLY `, unless the target's table is partitioned.
    only: String,
    /// The table on the target, quoted.
    table: String,
    /// The columns that are written.
    columns: Vec<String>,
    /// Those of the key.
    key: Vec<String>,
    rows: Vec<RepairedRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RepairedRow {
    key: Vec<String>,
    /// As the source has it; `None` if it does not.
    values: Option<Vec<Option<String>>>,
}

impl Repair {
    /// One transaction for the target that makes these rows what they are on the source. All are removed before any is written:
    /// two may have exchanged values that are unique.
    #[must_use]
    pub fn sql(&self) -> String {
        let names =
            |columns: &[String]| columns.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ");
        let mut sql =
            "BEGIN; SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = on; \
             SET LOCAL lock_timeout = '10s'"
                .to_owned();
        for row in &self.rows {
            let key: Vec<String> = row.key.iter().map(|value| quote_literal(value)).collect();
            sql.push_str(&format!(
                "; DELETE FROM {}{} WHERE ({}) = ({})",
                self.only,
                self.table,
                names(&self.key),
                key.join(", ")
            ));
        }
        for values in self.rows.iter().filter_map(|row| row.values.as_ref()) {
            let literal = |value: &Option<String>| {
                value.as_ref().map_or_else(|| "NULL".to_owned(), |value| quote_literal(value))
            };
            let values: Vec<String> = values.iter().map(literal).collect();
            sql.push_str(&format!(
                "; INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
                self.table,
                names(&self.columns),
                values.join(", ")
            ));
        }
        sql.push_str("; COMMIT");
        sql
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.len() as u64
    }
}

/// What became of the rows that were to be repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Repaired {
    pub(super) rows: u64,
    /// Tables whose rows were not, with the reason.
    pub(super) refused: Vec<(TableName, String)>,
}

/// Repairs rows of one table, and waits until that is applied.
///
/// # Errors
/// [`VerifyError`]: some may be repaired.
pub(super) async fn repair(
    source: &SqlSession,
    meeting: &Meeting,
    table: &ComparedTable,
    shape: &Shape,
    rows: &[&RowDifference],
) -> Result<Repaired, VerifyError> {
    let refused =
        |reason: &str| Repaired { rows: 0, refused: vec![(table.source_name.clone(), reason.to_owned())] };
    if shape.key.is_empty() {
        return Ok(refused("it has no key by which rows could be told apart: copy the table again"));
    }
    if !shape.key.iter().all(ComparedColumn::is_equal_only_if_printed_alike) {
        return Ok(refused(
            "its key is of a type of which values can be equal that print differently: copy the table again",
        ));
    }
    if !shape.missing.is_empty() {
        return Ok(refused("the target does not have all of its columns"));
    }
    let mut repaired = Repaired::default();
    for some in rows.chunks(ROWS_MAX) {
        let Some(keys) = some.iter().map(|row| key_of(shape, row)).collect::<Option<Vec<_>>>() else {
            return Ok(refused("its key is another than when its rows were compared: verify again first"));
        };
        let nonce = format!("{:032x}", rand::random::<u128>());
        let expected = meeting.expect_repair(nonce.clone());
        send(source, table, shape, &nonce, &keys).await?;
        match tokio::time::timeout(APPLIED_WITHIN, expected.done()).await {
            Ok(Ok(rows)) => repaired.rows += rows,
            Ok(Err(reason)) => repaired.refused.push((table.source_name.clone(), reason)),
            Err(_) => return Err(VerifyError::Behind { waited: APPLIED_WITHIN }),
        }
    }
    Ok(repaired)
}

/// The values of a row's key, in the order that it has now.
fn key_of(shape: &Shape, row: &RowDifference) -> Option<Vec<String>> {
    let value = |column: &ComparedColumn| {
        row.key.iter().find(|(name, _)| *name == column.name).map(|(_, value)| value.clone())
    };
    (row.key.len() == shape.key.len()).then(|| shape.key.iter().map(value).collect())?
}

/// Writes the rows of these keys into the WAL, as no writer changes them.
async fn send(
    source: &SqlSession,
    table: &ComparedTable,
    shape: &Shape,
    nonce: &str,
    keys: &[Vec<String>],
) -> Result<(), VerifyError> {
    let from = table.rows_of(Side::Source);
    let lock = format!(
        "BEGIN; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; LOCK TABLE {from} IN SHARE MODE; SET LOCAL statement_timeout = {LOCK_TIMEOUT_MS}"
    );
    let mut tries = 0;
    loop {
        tries += 1;
        match source.rows(&lock).await {
            Ok(_) => break,
            Err(error) => {
                source.rows("ROLLBACK").await.map_err(VerifyError::source)?;
                if error.sqlstate() != Some(&SqlState::LOCK_NOT_AVAILABLE) || tries >= TRIES_MAX {
                    return Err(VerifyError::source(error));
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
    let sent = write(source, table, shape, nonce, keys).await;
    let end = if sent.is_ok() { "COMMIT" } else { "ROLLBACK" };
    source.rows(end).await.map_err(VerifyError::source)?;
    sent
}

async fn write(
    source: &SqlSession,
    table: &ComparedTable,
    shape: &Shape,
    nonce: &str,
    keys: &[Vec<String>],
) -> Result<(), VerifyError> {
    let key: Vec<String> = shape.key.iter().map(|column| column.name.clone()).collect();
    let columns: Vec<String> = shape
        .columns
        .iter()
        .filter(|column| !shape.generated.contains(&column.name))
        .map(|column| column.name.clone())
        .collect();
    let output = shape.key.iter().map(|column| format!("concat({})", column.value())).chain(
        columns.iter().map(|name| {
            let column = quote_ident(name);
            format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN concat({column}) END")
        }),
    );
    let wanted = keys.iter().map(|values| {
        let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
        format!("({})", values.join(", "))
    });
    let sql = format!(
        "SELECT {} FROM {} WHERE ({}) IN ({})",
        output.collect::<Vec<_>>().join(", "),
        table.rows_of(Side::Source),
        key.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", "),
        wanted.collect::<Vec<_>>().join(", "),
    );
    let found = source.rows(&sql).await.map_err(VerifyError::source)?;
    let rows = keys.iter().map(|wanted| {
        let row = found.iter().find(|row| {
            row.values().iter().zip(wanted).all(|(value, wanted)| value.as_ref() == Some(wanted))
        });
        let values = row.map(|row| row.values().iter().skip(key.len()).cloned().collect());
        RepairedRow { key: wanted.clone(), values }
    });
    let repair = Repair {
        nonce: nonce.to_owned(),
        source_oid: table.source_oid.0,
        only: if table.is_spread { String::new() } else { "ONLY ".to_owned() },
        table: table.target_name.to_string(),
        columns: columns.clone(),
        key: key.clone(),
        rows: rows.collect(),
    };
    let content =
        serde_json::to_string(&repair).map_err(|_| VerifyError::Unreadable { side: Side::Source })?;
    source
        .query_typed(
            "SELECT pg_logical_emit_message(true, $1, $2)",
            &[(&REPAIR_PREFIX, Type::TEXT), (&content, Type::TEXT)],
        )
        .await
        .map_err(VerifyError::source)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_removed_before_any_is_written() {
        let row =
            |key: &str, values: Option<Vec<Option<String>>>| RepairedRow { key: vec![key.into()], values };
        let repair = Repair {
            nonce: "n".into(),
            source_oid: 7,
            only: "ONLY ".into(),
            table: "\"public\".\"t\"".into(),
            columns: vec!["id".into(), "v".into()],
            key: vec!["id".into()],
            rows: vec![row("1", Some(vec![Some("1".into()), None])), row("it's", None)],
        };
        let sql = repair.sql();
        let after = |part: &str| sql.find(part).unwrap_or_else(|| panic!("{part}: {sql}"));
        assert!(after("DELETE FROM ONLY \"public\".\"t\" WHERE (\"id\") = ('it''s')") < after("INSERT INTO"));
        assert!(sql.contains("(\"id\", \"v\") OVERRIDING SYSTEM VALUE VALUES ('1', NULL); COMMIT"), "{sql}");
        assert_eq!(sql.matches("INSERT").count(), 1, "what the source does not have is removed");
        let sent: Repair = serde_json::from_str(&serde_json::to_string(&repair).unwrap()).unwrap();
        assert_eq!(sent, repair);
    }
}
