//! Schema changes of the source that the stream has not come across, because nothing was written since: asked for before a
//! cutover, after which nothing would come. Reads both catalogs; the comparison is the stream's own.

use pgsluice_proto::command::quote_ident;

use crate::connection::{SqlError, SqlSession};
use crate::model::TableName;
use crate::source::CatalogError;
use crate::source::definition;
use crate::source::published::{self, PublishedRelation};
use crate::target::records::RecordError;
use crate::target::relations::{self, RelationRecord};
use crate::target::{self};

use super::existing_rows::column_in_doubt;
use super::remedy::{ShapeDifference, Told};
use super::shape::{Announced, Change, Demand, compare};

/// Why the two sides could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum UnfollowedError {
    /// The source's catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A server refused a query.
    #[error("{0}")]
    Sql(#[from] SqlError),
}

impl From<tokio_postgres::Error> for UnfollowedError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

/// The first table that was changed on the source and does not match on the target; `None` if all do.
///
/// # Errors
/// [`UnfollowedError`].
pub async fn unfollowed_change(
    source: &SqlSession,
    target: &SqlSession,
    publication: &str,
) -> Result<Option<ShapeDifference>, UnfollowedError> {
    let Some(records) = relations::read_if_any(target).await? else { return Ok(None) };
    for relation in published::read(source, publication).await? {
        let Some(record) = records.get(&relation.oid) else { continue };
        if let Some(difference) = compare_one(source, target, relation, record).await? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

async fn compare_one(
    source: &SqlSession,
    target: &SqlSession,
    relation: PublishedRelation,
    record: &RelationRecord,
) -> Result<Option<ShapeDifference>, UnfollowedError> {
    let same_numbers = relation.columns.len() == record.columns.len()
        && relation
            .columns
            .iter()
            .zip(&record.columns)
            .all(|(now, was)| now.looks_like(was) && (was.number.is_none() || was.number == now.number));
    if same_numbers && relation.name == record.name {
        return Ok(None);
    }
    let found = match record.target_oid {
        Some(oid) => target::read_by_oid(target, oid).await?,
        None => target::read_table(target, &record.name).await?,
    };
    let now = Announced { name: relation.name, columns: relation.columns };
    let definition = definition::read(source, relation.oid.0).await?;
    let changes = match (compare(&now, record, found.as_ref(), Demand::Everything), &found) {
        (Err(changes), _) => changes,
        (Ok(matched), Some(found)) => {
            let on_target = definition::read(target, found.oid).await?;
            let (Some(here), Some(there)) = (&definition, &on_target) else { return Ok(None) };
            return Ok(column_in_doubt(&matched.accepted, record, here, there)
                .map(|column| unseen(&now.name, column)));
        }
        (Ok(_), None) => return Ok(None),
    };
    let told = Told {
        source: &now.name,
        target: found.as_ref().map_or(&now.name, |found| &found.name),
        name_is_taken: changes.contains(&Change::TableRenamed)
            && target::read_table(target, &now.name).await?.is_some(),
        definition: definition.as_ref(),
    };
    Ok(Some(told.tell(&changes)))
}

/// The target has followed, and existing rows may differ all the same; the stream would see to it if it came to the change.
fn unseen(table: &TableName, column: &str) -> ShapeDifference {
    ShapeDifference {
        table: table.clone(),
        difference: format!(
            "a schema change (column \"{column}\") may have given existing rows values that the target does not have, and nothing \
             was written to the table since"
        ),
        remedy: format!(
            "-- On the source: any change of one row brings the stream there, and the table is then copied again by itself, for \
             example\nUPDATE {table} SET {0} = {0} WHERE ctid = (SELECT min(ctid) FROM {table});",
            quote_ident(column)
        ),
    }
}
