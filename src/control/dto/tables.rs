//! `GET /v1/tables` and `POST /v1/tables`, and the tables outside in `GET /v1/status`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::join::{Standing, TableStanding};
use crate::migration::{Status, TableProgress};
use crate::model::TableName;

/// Every table, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TablesRecord {
    /// In the order of schema and name. A partitioned table is listed while something is to be said of it; its partitions
    /// always are.
    pub tables: Vec<TableStandingRecord>,
}

/// Where one table stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableStandingRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `joined`: in the migration with all its changes; `joining`: on its way; `outside`: not in it.
    #[schema(example = "outside")]
    pub state: String,
    /// Rows of its copy; null before there is one.
    pub rows_copied: Option<u64>,
    /// Rows expected, from the source's statistics; null where no copy was begun by this process.
    pub rows_estimated: Option<u64>,
    /// Null for a table that is joined and done; otherwise `not_published`, `new_partition`, `joining`,
    /// `foreign_keys_due`, `detached`, `attached_again`, `column_made_anew`, `not_attached` or `dropped`.
    #[schema(example = "not_published")]
    pub reason: Option<String>,
    /// What that means, or what a join waits for.
    pub explanation: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// Whether the last try to join has failed; it is tried again by itself.
    pub failing: bool,
    /// Whether a cutover is refused because of it.
    pub blocks_cutover: bool,
}

/// Which tables to take into the running migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTablesRecord {
    /// As `schema.table`, with double quotes around a part where SQL needs them.
    #[schema(example = json!(["public.orders"]))]
    pub tables: Vec<String>,
}

impl From<&Status> for TablesRecord {
    fn from(status: &Status) -> Self {
        let known = status.standings.iter().map(|standing| TableStandingRecord::of(standing, status));
        if !status.standings.is_empty() {
            return Self { tables: known.collect() };
        }
        let copied =
            status.tables.iter().map(|(name, table)| TableStandingRecord::before_streaming(name, table));
        Self { tables: copied.collect() }
    }
}

impl TablesRecord {
    /// Only those that are not joined and done.
    #[must_use]
    pub fn outside(self) -> Vec<TableStandingRecord> {
        self.tables.into_iter().filter(|table| table.reason.is_some()).collect()
    }

    /// Only these tables.
    #[must_use]
    pub fn only(mut self, names: &[TableName]) -> Self {
        self.tables
            .retain(|table| names.iter().any(|name| name.schema == table.schema && name.name == table.name));
        self
    }
}

impl TableStandingRecord {
    /// `schema.name`, for a person.
    #[must_use]
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    fn of(standing: &TableStanding, status: &Status) -> Self {
        let progress = status.tables.get(&standing.table);
        let note = status.join_notes.get(&standing.table).filter(|_| standing.standing != Standing::Joined);
        let outside = standing.outside.as_ref();
        let copied_now =
            progress.map(|progress| progress.rows_copied).filter(|_| standing.standing == Standing::Joining);
        Self {
            schema: standing.table.schema.clone(),
            name: standing.table.name.clone(),
            state: standing.standing.as_str().to_owned(),
            rows_copied: copied_now.or(standing.rows_copied),
            rows_estimated: progress.map(|progress| progress.rows_estimated),
            reason: outside.map(|outside| outside.reason.as_str().to_owned()),
            explanation: note
                .map(|note| note.message.clone())
                .or_else(|| outside.map(|outside| outside.explanation.clone())),
            remedy: note
                .map(|note| note.remedy.clone())
                .or_else(|| outside.map(|outside| outside.remedy.clone())),
            failing: note.is_some_and(|note| note.is_failure),
            blocks_cutover: outside.is_some_and(|outside| outside.blocks_cutover),
        }
    }

    /// In the first copy every table is on its way.
    fn before_streaming(name: &TableName, table: &TableProgress) -> Self {
        Self {
            schema: name.schema.clone(),
            name: name.name.clone(),
            state: Standing::Joining.as_str().to_owned(),
            rows_copied: Some(table.rows_copied),
            rows_estimated: Some(table.rows_estimated),
            reason: None,
            explanation: None,
            remedy: None,
            failing: false,
            blocks_cutover: false,
        }
    }
}
