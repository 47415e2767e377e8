//! Reads one side's structure, in one read-only transaction and a fixed number of queries. What has gone in the meantime
//! (its definition is NULL then) is left out. Nothing is waited for without a bound, and nothing is kept of the answers but the
//! facts.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_postgres::Row;

use super::aspect::Aspect;
use super::catalog::{Catalog, Facts, More};
use super::error::StructureError;
use super::grant::Grant;
use super::object::{ObjectKey, ObjectKind};
use super::printed::with_bare_json;
use super::queries::{self, Dialect};
use crate::config::TableFilter;
use crate::connection::SqlSession;
use crate::model::{Side, TableName};

/// Most objects of one side that are held: some 300 bytes each.
pub(super) const OBJECTS_MAX: usize = 4_000_000;

/// One moment for all queries; identifiers quoted alike whatever words a version reserves; and a definition that somebody has
/// locked is not waited for longer than this, nor a query.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL quote_all_identifiers = on; \
     SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '300s'";

/// Which side is read, and how.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) side: Side,
    pub(super) filter: &'a TableFilter,
    pub(super) prints_alike: bool,
}

/// Reads a side. Not cancel safe: the session is left in a transaction.
pub(super) async fn read(session: &SqlSession, reading: Reading<'_>) -> Result<Catalog, StructureError> {
    let failed = StructureError::on(reading.side);
    session.batch_execute(BEGIN).await.map_err(&failed)?;
    let catalog = read_all(session, reading).await;
    // If the connection is lost, the error says so already.
    let ended = session.batch_execute("ROLLBACK").await.map_err(failed);
    let catalog = catalog?;
    ended?;
    Ok(catalog)
}

async fn read_all(session: &SqlSession, reading: Reading<'_>) -> Result<Catalog, StructureError> {
    let failed = StructureError::on(reading.side);
    let major = session.server_version().major();
    let facts = session.query_one(queries::SIDE, &[]).await.map_err(&failed)?;
    let roles = session.query(queries::ROLES, &[]).await.map_err(&failed)?;
    let mut catalog = Catalog {
        major,
        database: facts.get(0),
        role: facts.get(1),
        bootstrap_role: facts.get(2),
        roles: roles.iter().map(|row| row.get(0)).collect(),
        ..Catalog::default()
    };
    let mut left_out = LeftOut { filter: reading.filter, tables: BTreeSet::new() };
    for query in queries::all(Dialect { major, prints_alike: reading.prints_alike }) {
        let no_parameters: [&str; 0] = [];
        let mut rows = pin!(session.query_raw(&query, no_parameters).await.map_err(&failed)?);
        let mut decoder = Decoder::new(reading.side);
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            if let Some((key, facts)) = decoder.decode(&row)
                && !left_out.contains(&row, &key, &facts)
            {
                catalog.objects.insert(key, facts);
            }
            if catalog.objects.len() > OBJECTS_MAX {
                return Err(StructureError::TooMany { side: reading.side, objects_max: OBJECTS_MAX });
            }
        }
    }
    catalog.is_locked_out = is_locked_out(session).await.map_err(failed)?;
    Ok(catalog)
}

/// Whether a cutover has taken the right to connect from clients.
async fn is_locked_out(session: &SqlSession) -> Result<bool, tokio_postgres::Error> {
    let exists: bool = session.query_one(queries::LOCK_OUT_TABLE, &[]).await?.get(0);
    Ok(exists && session.query_one(queries::IS_LOCKED_OUT, &[]).await?.get(0))
}

/// Tables that are not migrated, and what belongs to them.
struct LeftOut<'a> {
    filter: &'a TableFilter,
    tables: BTreeSet<Box<str>>,
}

impl LeftOut<'_> {
    fn contains(&mut self, row: &Row, key: &ObjectKey, facts: &Facts) -> bool {
        if key.kind == ObjectKind::Table {
            let root: (Option<String>, Option<String>) = (row.get("root_schema"), row.get("root_name"));
            let (Some(schema), Some(name)) = root else { return false };
            let is_left_out = !self.filter.selects(&TableName::new(schema, name));
            if is_left_out {
                self.tables.insert(key.name.clone());
            }
            return is_left_out;
        }
        let belongs_to = key.place.as_deref().or_else(|| facts.table());
        belongs_to.is_some_and(|table| self.tables.contains(table))
    }
}

/// Columns of the queries that hold no aspect.
#[derive(Clone, Copy)]
enum Column {
    Kind,
    Place,
    Name,
    Grants,
    Table,
    Roles,
    Creation,
    Sequence,
    IsDerived,
    Aspect(Aspect),
    /// Read by whom it concerns.
    Other,
}

impl Column {
    fn from_name(name: &str) -> Self {
        match name {
            "kind" => Self::Kind,
            "place" => Self::Place,
            "name" => Self::Name,
            "grants" => Self::Grants,
            "table" => Self::Table,
            "roles" => Self::Roles,
            "creation" => Self::Creation,
            "sequence" => Self::Sequence,
            "is_derived" => Self::IsDerived,
            name => Aspect::from_column(name).map_or(Self::Other, Self::Aspect),
        }
    }
}

/// Turns the rows of one query into objects.
struct Decoder {
    side: Side,
    columns: Vec<Column>,
    /// Rows come table by table: the name is kept once for all of them.
    last_place: Option<Arc<str>>,
}

impl Decoder {
    const fn new(side: Side) -> Self {
        Self { side, columns: Vec::new(), last_place: None }
    }

    /// `None` if the object is gone.
    fn decode(&mut self, row: &Row) -> Option<(ObjectKey, Facts)> {
        if self.columns.is_empty() {
            self.columns = row.columns().iter().map(|column| Column::from_name(column.name())).collect();
        }
        let (mut kind, mut place, mut name) = (None, None, None);
        let (mut values, mut facts, mut more) = (Vec::new(), Facts::default(), More::default());
        for (index, column) in self.columns.iter().enumerate() {
            match column {
                Column::IsDerived => facts.is_derived = row.get(index),
                Column::Grants => {
                    let list: Option<Vec<&str>> = row.get(index);
                    facts.grants = list.unwrap_or_default().into_iter().filter_map(Grant::parse).collect();
                }
                Column::Roles => {
                    let list: Option<Vec<&str>> = row.get(index);
                    more.roles = list.unwrap_or_default().into_iter().map(Box::from).collect();
                }
                Column::Other => {}
                _ => {
                    let Some(text) = row.get::<_, Option<&str>>(index) else { continue };
                    match column {
                        Column::Kind => kind = ObjectKind::from_name(text),
                        Column::Place => place = Some(text),
                        Column::Name => name = Some(text),
                        Column::Table => more.table = Some(text.into()),
                        Column::Sequence => more.sequence = Some(text.into()),
                        Column::Creation if self.side == Side::Source => more.creation = Some(text.into()),
                        Column::Aspect(aspect) => values.push((*aspect, Box::from(text))),
                        _ => {}
                    }
                }
            }
        }
        values.sort_by_key(|(aspect, _)| *aspect);
        facts.values = values.into();
        facts.grants.sort();
        facts.more = (more != More::default()).then(|| Box::new(more));
        let (kind, name) = (kind?, name?);
        let name = match kind {
            ObjectKind::Function | ObjectKind::Procedure | ObjectKind::Aggregate | ObjectKind::Cast => {
                with_bare_json(name).into()
            }
            _ => name.into(),
        };
        let key = ObjectKey { kind, place: place.map(|place| self.shared(place)), name };
        (!is_gone(&key, &facts)).then_some((key, facts))
    }

    fn shared(&mut self, place: &str) -> Arc<str> {
        match &self.last_place {
            Some(last) if **last == *place => Arc::clone(last),
            _ => Arc::clone(self.last_place.insert(place.into())),
        }
    }
}

/// What is printed of an object is NULL once it has been dropped, also where the query's moment still shows it.
fn is_gone(key: &ObjectKey, facts: &Facts) -> bool {
    let printed = match key.kind {
        ObjectKind::Constraint
        | ObjectKind::ForeignKey
        | ObjectKind::DomainConstraint
        | ObjectKind::Trigger
        | ObjectKind::Rule
        | ObjectKind::Statistics => Aspect::Definition,
        ObjectKind::Index if !facts.is_derived => Aspect::Definition,
        ObjectKind::Column | ObjectKind::Attribute => Aspect::Type,
        _ => return false,
    };
    facts.get(printed).is_none()
}
