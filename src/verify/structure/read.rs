//! Reads both structures, each in one read-only transaction and by a fixed number of queries, whose answers come in the same
//! order on both sides: what is the same on both is forgotten as soon as both have told it, so that memory does not grow with
//! what is alike. What has gone in the meantime (its definition is NULL then) is left out. Nothing is waited for without a
//! bound.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_postgres::{Row, RowStream};

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

/// Most objects of one side that are held at once, at some 400 bytes each.
pub(super) const OBJECTS_MAX: usize = 1_000_000;

/// One moment for all queries; identifiers quoted alike whatever words a version reserves; and a definition that somebody has
/// locked is not waited for longer than this, nor a query.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL quote_all_identifiers = on; \
     SET LOCAL lock_timeout = '15s'; SET LOCAL statement_timeout = '300s'";

/// What was read.
pub(super) struct Both {
    /// Without what is the same on the target and nothing depends on.
    pub(super) source: Catalog,
    /// Without what is the same on the source.
    pub(super) target: Catalog,
    /// How many objects of the source were read, by kind.
    pub(super) counts: BTreeMap<ObjectKind, usize>,
}

/// Reads both sides. Not cancel safe: a session may be left in a transaction.
pub(super) async fn read(
    source: &SqlSession,
    target: &SqlSession,
    filter: &TableFilter,
) -> Result<Both, StructureError> {
    let begun =
        both(async { source.batch_execute(BEGIN).await.map_err(StructureError::on(Side::Source)) }, async {
            target.batch_execute(BEGIN).await.map_err(StructureError::on(Side::Target))
        });
    let read = match begun.await {
        Ok(_) => read_all(source, target, filter).await,
        Err(error) => Err(error),
    };
    // Both, also after a failure. If a connection is lost, the error says so already.
    let ended = both(
        async { source.batch_execute("ROLLBACK").await.map_err(StructureError::on(Side::Source)) },
        async { target.batch_execute("ROLLBACK").await.map_err(StructureError::on(Side::Target)) },
    );
    let ended = ended.await;
    let read = read?;
    ended?;
    Ok(read)
}

/// Both to their end, also if one fails.
async fn both<S, T>(
    source: impl Future<Output = Result<S, StructureError>>,
    target: impl Future<Output = Result<T, StructureError>>,
) -> Result<(S, T), StructureError> {
    let (source, target) = tokio::join!(source, target);
    Ok((source?, target?))
}

async fn read_all(
    source: &SqlSession,
    target: &SqlSession,
    filter: &TableFilter,
) -> Result<Both, StructureError> {
    let majors = (source.server_version().major(), target.server_version().major());
    let prints_alike = majors.0 == majors.1;
    let (mut here, mut there) =
        both(Reader::new(source, Side::Source, filter), Reader::new(target, Side::Target, filter)).await?;
    let mut counts = BTreeMap::new();
    let asked = queries::all(Dialect { major: majors.0, prints_alike }).into_iter();
    for queries in asked.zip(queries::all(Dialect { major: majors.1, prints_alike })) {
        let (of_source, of_target) =
            both(here.ask(source, &queries.0), there.ask(target, &queries.1)).await?;
        let (mut of_source, mut of_target) = (pin!(of_source), pin!(of_target));
        loop {
            let next = both(here.next(of_source.as_mut()), there.next(of_target.as_mut())).await?;
            let is_end = matches!(next, (Next::End, Next::End));
            if let Next::Object(key, facts) = next.0 {
                *counts.entry(key.kind).or_default() += 1;
                here.keep(&mut there.catalog, key, facts)?;
            }
            if let Next::Object(key, facts) = next.1 {
                there.keep(&mut here.catalog, key, facts)?;
            }
            if is_end {
                break;
            }
        }
    }
    Ok(Both { source: here.catalog, target: there.catalog, counts })
}

/// One side while it is read.
struct Reader<'a> {
    side: Side,
    catalog: Catalog,
    left_out: LeftOut<'a>,
    decoder: Decoder,
    is_at_end: bool,
}

/// What comes next of a query's answer.
enum Next {
    Object(ObjectKey, Facts),
    /// It does not belong to what is compared.
    Nothing,
    End,
}

impl<'a> Reader<'a> {
    async fn new(session: &SqlSession, side: Side, filter: &'a TableFilter) -> Result<Self, StructureError> {
        let failed = StructureError::on(side);
        let facts = session.query_one(queries::SIDE, &[]).await.map_err(&failed)?;
        let roles = session.query(queries::ROLES, &[]).await.map_err(&failed)?;
        let catalog = Catalog {
            major: session.server_version().major(),
            database: facts.get(0),
            role: facts.get(1),
            bootstrap_role: facts.get(2),
            is_locked_out: is_locked_out(session).await.map_err(failed)?,
            roles: roles.iter().map(|row| row.get(0)).collect(),
            objects: BTreeMap::new(),
        };
        let left_out = LeftOut { filter, tables: BTreeSet::new() };
        Ok(Self { side, catalog, left_out, decoder: Decoder::new(side), is_at_end: false })
    }

    async fn ask(&mut self, session: &SqlSession, query: &str) -> Result<RowStream, StructureError> {
        let no_parameters: [&str; 0] = [];
        (self.decoder, self.is_at_end) = (Decoder::new(self.side), false);
        session.query_raw(query, no_parameters).await.map_err(StructureError::on(self.side))
    }

    async fn next(&mut self, mut rows: Pin<&mut RowStream>) -> Result<Next, StructureError> {
        // An answer that has ended must not be asked again.
        if self.is_at_end {
            return Ok(Next::End);
        }
        let Some(row) = rows.try_next().await.map_err(StructureError::on(self.side))? else {
            self.is_at_end = true;
            return Ok(Next::End);
        };
        Ok(match self.decoder.decode(&row) {
            Some((key, facts)) if !self.left_out.contains(&row, &key, &facts) => Next::Object(key, facts),
            _ => Next::Nothing,
        })
    }

    /// Keeps an object, unless the other side has just the same, or lacks all that it is a part of.
    fn keep(&mut self, other: &mut Catalog, key: ObjectKey, facts: Facts) -> Result<(), StructureError> {
        let is_part = matches!(
            key.kind,
            ObjectKind::Column
                | ObjectKind::Constraint
                | ObjectKind::ForeignKey
                | ObjectKind::Index
                | ObjectKind::Trigger
        );
        if is_part && facts.grants.is_empty() {
            if other.objects.get(&key) == Some(&facts) {
                other.objects.remove(&key);
                return Ok(());
            }
            // Tables are read first, on both sides.
            let table = key.place.as_deref().or_else(|| facts.table()).unwrap_or_default();
            if self.catalog.named(ObjectKind::Table, table).is_some() && !other.has_place(table) {
                return Ok(());
            }
        }
        self.catalog.objects.insert(key, facts);
        if self.catalog.objects.len() > OBJECTS_MAX {
            return Err(StructureError::TooMany { side: self.side, objects_max: OBJECTS_MAX });
        }
        Ok(())
    }
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
