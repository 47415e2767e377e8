//! Sequences are not in the stream: under the fence they are read on the source all at once, set on the target in
//! one statement, and read back. `last_value` never goes without `is_called` (trap 21), so that the next value is
//! the one the source would have given, for descending, cyclic, identity and never used sequences alike.

use std::collections::BTreeMap;

use pgsluice_proto::command::quote_literal;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::cutover::{SequenceValue, SqlFailure};
use crate::model::{SequenceName, Side};

/// Reads where `names` stand, in their order: in one round trip, or two if some were never used.
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
    let answer = client.simple_query(&read_used(names)).await.map_err(SqlFailure::of(side, READING))?;
    with_unused(client, side, names, values(&answer, names)).await
}

const READING: &str = "read the sequences";

/// Sets the target's sequences to `values` and reads them back, in one round trip, or two if some were never used;
/// the setting is flushed to disk before the answer comes.
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
        read_used(&names)
    );
    match target.simple_query(&batch).await {
        Ok(answer) => with_unused(target, Side::Target, &names, values(&answer, &names)).await,
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

type ByPlace = BTreeMap<usize, SequenceValue>;

/// One row per sequence that was used: its place in `names`, `last_value`, `is_called`. Calls a function instead of
/// selecting from each sequence, which is ten times as fast; for those never used it answers null.
fn read_used(names: &[SequenceName]) -> String {
    let wanted = names.iter().enumerate().map(|(place, name)| {
        let name = quote_literal(&name.to_string());
        format!("({place}, {name}::regclass)")
    });
    format!(
        "SELECT place, last_value, true FROM (SELECT place, pg_sequence_last_value(name) AS last_value \
         FROM (VALUES {}) AS wanted (place, name)) AS s WHERE last_value IS NOT NULL",
        wanted.collect::<Vec<_>>().join(", ")
    )
}

/// Adds those that were never used: their `last_value` is where they start, unless somebody set them.
async fn with_unused(
    client: &Client,
    side: Side,
    names: &[SequenceName],
    mut found: ByPlace,
) -> Result<Vec<SequenceValue>, SqlFailure> {
    let selects: Vec<String> = names
        .iter()
        .enumerate()
        .filter(|(place, _)| !found.contains_key(place))
        .map(|(place, name)| format!("SELECT {place}, last_value, is_called FROM {name}"))
        .collect();
    if !selects.is_empty() {
        let answer =
            client.simple_query(&selects.join(" UNION ALL ")).await.map_err(SqlFailure::of(side, READING))?;
        found.extend(values(&answer, names));
    }
    Ok(found.into_values().collect())
}

/// The three-column rows of an answer, by place. A row that is missing is missing from the result too, so that
/// comparing it with what was wanted fails.
fn values(answer: &[SimpleQueryMessage], names: &[SequenceName]) -> ByPlace {
    let value = |row: &SimpleQueryRow| {
        let place: usize = row.try_get(0).ok()??.parse().ok()?;
        let last_value = row.try_get(1).ok()??.parse().ok()?;
        let is_called = row.try_get(2).ok()?? == "t";
        Some((place, SequenceValue { name: names.get(place)?.clone(), last_value, is_called }))
    };
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => value(row),
        _ => None,
    });
    rows.collect()
}
