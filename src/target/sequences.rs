//! Sequences are not in the stream: under the fence they are read on the source all at once, set on the target in
//! one statement, and read back. `last_value` never goes without `is_called` (trap 21), so that the next value is
//! the one the source would have given, for descending, cyclic, identity and never used sequences alike.

use pgsluice_proto::command::quote_literal;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::cutover::{SequenceValue, SqlFailure};
use crate::model::{SequenceName, Side};

/// Reads where `names` stand, in their order, in one round trip.
///
/// # Errors
/// One of them does not exist or may not be read, or the connection is lost.
pub async fn read(
    client: &Client,
    side: Side,
    names: &[SequenceName],
) -> Result<Vec<SequenceValue>, SqlFailure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let answer = client.simple_query(&read_statement(names)).await.map_err(SqlFailure::of(side, READING))?;
    Ok(values(&answer, names))
}

const READING: &str = "read the sequences";

/// Sets the target's sequences to `values` and reads them back, in one round trip; the setting is flushed to disk
/// before the answer comes.
///
/// # Errors
/// One of them does not exist, or the value is outside its bounds there, or the connection is lost.
pub async fn set(target: &Client, values_wanted: &[SequenceValue]) -> Result<Vec<SequenceValue>, SqlFailure> {
    if values_wanted.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<SequenceName> = values_wanted.iter().map(|value| value.name.clone()).collect();
    let wanted = values_wanted
        .iter()
        .map(|value| {
            let name = quote_literal(&value.name.to_string());
            // As text first: the smallest bigint has no literal.
            format!("({name}::regclass, '{}'::bigint, {})", value.last_value, value.is_called)
        })
        .collect::<Vec<_>>()
        .join(", ");
    let batch = format!(
        "BEGIN; SET LOCAL synchronous_commit = on; \
         SELECT count(setval(name, value, called)) FROM (VALUES {wanted}) AS wanted (name, value, called); \
         COMMIT; {}",
        read_statement(&names)
    );
    match target.simple_query(&batch).await {
        Ok(answer) => Ok(values(&answer, &names)),
        Err(error) => {
            // If the connection is lost, the error says so and there is nothing to roll back.
            let _ = target.batch_execute("ROLLBACK").await;
            Err(SqlFailure::of(Side::Target, "set the sequences")(error))
        }
    }
}

/// Those of `names` that are no sequence on the target.
///
/// # Errors
/// The catalog cannot be read.
pub async fn missing(target: &Client, names: &[SequenceName]) -> Result<Vec<SequenceName>, SqlFailure> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let relations: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let sql = "SELECT w.schema, w.name FROM unnest($1, $2) AS w (schema, name)
        WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = w.schema AND c.relname = w.name AND c.relkind = 'S')";
    let rows = target
        .query_typed(sql, &[(&schemas, Type::TEXT_ARRAY), (&relations, Type::TEXT_ARRAY)])
        .await
        .map_err(SqlFailure::of(Side::Target, READING))?;
    Ok(rows.iter().map(|row| SequenceName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// One row per sequence: its place in `names`, `last_value`, `is_called`.
fn read_statement(names: &[SequenceName]) -> String {
    let selects = names
        .iter()
        .enumerate()
        .map(|(place, name)| format!("SELECT {place} AS place, last_value, is_called FROM {name}"));
    format!(
        "SELECT place, last_value, is_called FROM ({}) AS s",
        selects.collect::<Vec<_>>().join(" UNION ALL ")
    )
}

/// The three-column rows of an answer, by place. A row that is missing is missing from the result too, so that
/// comparing it with what was wanted fails.
fn values(answer: &[SimpleQueryMessage], names: &[SequenceName]) -> Vec<SequenceValue> {
    let value = |row: &SimpleQueryRow| {
        let place: usize = row.try_get(0).ok()??.parse().ok()?;
        let last_value = row.try_get(1).ok()??.parse().ok()?;
        let is_called = row.try_get(2).ok()?? == "t";
        Some((place, SequenceValue { name: names.get(place)?.clone(), last_value, is_called }))
    };
    let mut found: Vec<_> = answer
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => value(row),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, value)| value).collect()
}
