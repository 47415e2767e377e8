//! In which form the source sends values: binary if that means the same to the target, column by column, else text.
//! pgoutput's choice is one for the whole stream, so one column that does not allow it decides for all. Decided from
//! both catalogs at the start of an attempt, and held against every shape the stream announces, which may be older
//! or newer than the catalogs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgsluice_proto::command::quote_literal;
use pgsluice_proto::pgoutput::Relation;
use tokio_postgres::types::Oid as TypeOid;

use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use crate::source::catalog::{TYPES, decode_type};
use crate::source::column_type::{TypeFacts, TypeKind, is_binary_portable};
use crate::source::published;
use crate::target::TargetColumn;

use super::statement::{BoundTable, ValueForm};

/// How values are sent.
#[derive(Clone, Debug)]
pub(super) enum ValueFormat {
    /// As their types print them.
    Text,
    /// As their types send them; for these types only.
    Binary(PortableTypes),
}

/// The source's types whose binary form means the same on the target: by OID, the name of the type that a value is
/// of, which is what a domain is made of; as [`TargetColumn::base_type`].
#[derive(Clone, Debug, Default)]
pub(super) struct PortableTypes(Arc<HashMap<Oid, String>>);

/// A column whose values do not mean the same in binary form on both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} of table {table} cannot be sent in binary form")]
pub struct NotBinary {
    /// The table.
    pub table: TableName,
    /// The column.
    pub column: String,
}

impl ValueFormat {
    /// The form of all of them.
    #[must_use]
    pub(super) const fn form(&self) -> ValueForm {
        match self {
            Self::Text => ValueForm::Text,
            Self::Binary(_) => ValueForm::Binary,
        }
    }

    /// A table as the stream's values are bound to it.
    #[must_use]
    pub(super) fn bind(&self, table: BoundTable) -> BoundTable {
        match self {
            Self::Text => table,
            Self::Binary(_) => table.for_binary_values(),
        }
    }

    /// Whether the announced relation's values can be bound to the target's columns, which are in its order.
    ///
    /// # Errors
    /// [`NotBinary`] for the first column whose values cannot.
    pub(super) fn check(&self, relation: &Relation, columns: &[TargetColumn]) -> Result<(), NotBinary> {
        let Self::Binary(PortableTypes(types)) = self else { return Ok(()) };
        let same = |(source, target): &(&pgsluice_proto::pgoutput::RelationColumn, &TargetColumn)| {
            types.get(&source.type_oid).is_some_and(|name| *name == target.base_type)
        };
        match relation.columns.iter().zip(columns).find(|pair| !same(pair)) {
            None => Ok(()),
            Some((column, _)) => Err(NotBinary {
                table: TableName::new(&relation.schema, &relation.name),
                column: column.name.clone(),
            }),
        }
    }
}

/// What one side's catalog says: its types, and the type of each column.
#[derive(Debug)]
struct SideTypes {
    facts: BTreeMap<TypeOid, TypeFacts>,
    names: HashMap<TypeOid, String>,
    /// By table and column.
    columns: BTreeMap<(TableName, String), TypeOid>,
}

/// What the stream carries: no generated columns.
const PUBLISHED_COLUMNS: &str = "
WITH RECURSIVE $leaves
SELECT n.nspname::text, c.relname::text, a.attname::text, a.atttypid
  FROM below
  JOIN pg_class c ON c.oid = below.oid AND c.relkind = 'r'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''";

const ALL_COLUMNS: &str = "
SELECT n.nspname::text, c.relname::text, a.attname::text, a.atttypid
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'";

/// Decides from both catalogs: two queries on each side, however many tables there are.
///
/// # Errors
/// What a server answered.
pub(super) async fn decide(
    source: &SqlSession,
    target: &SqlSession,
    publication: &str,
) -> Result<Result<PortableTypes, NotBinary>, tokio_postgres::Error> {
    let streamed = PUBLISHED_COLUMNS
        .replace("$leaves", published::BELOW)
        .replace("$publication", &quote_literal(publication));
    let published = read(source, &streamed).await?;
    let present = read(target, ALL_COLUMNS).await?;
    Ok(compare(&published, &present))
}

async fn read(session: &SqlSession, columns: &str) -> Result<SideTypes, tokio_postgres::Error> {
    let mut side = SideTypes { facts: BTreeMap::new(), names: HashMap::new(), columns: BTreeMap::new() };
    for row in session.query(TYPES, &[]).await? {
        let oid = row.get("oid");
        side.facts.insert(oid, decode_type(&row));
        side.names.insert(oid, row.get("name"));
    }
    for row in session.query(columns, &[]).await? {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        side.columns.insert((table, row.get(2)), row.get(3));
    }
    Ok(side)
}

fn compare(published: &SideTypes, present: &SideTypes) -> Result<PortableTypes, NotBinary> {
    let mut checked: HashMap<(TypeOid, TypeOid), bool> = HashMap::new();
    for (place, source_type) in &published.columns {
        // What the target does not have is told when the stream announces it, in whatever form.
        let Some(target_type) = present.columns.get(place) else { continue };
        let same = *checked.entry((*source_type, *target_type)).or_insert_with(|| {
            is_binary_portable(&published.facts, *source_type)
                && published.meaning(*source_type).is_some()
                && published.meaning(*source_type) == present.meaning(*target_type)
        });
        if !same {
            return Err(NotBinary { table: place.0.clone(), column: place.1.clone() });
        }
    }
    let portable = published.facts.keys().filter(|oid| is_binary_portable(&published.facts, **oid));
    let named = portable.filter_map(|oid| Some((Oid(*oid), published.base_name(*oid)?)));
    Ok(PortableTypes(Arc::new(named.collect())))
}

/// Domains over domains, ranges over domains: deeper than anything sensible, and a bound (INV-11).
const DEPTH_MAX: u8 = 16;

impl SideTypes {
    /// What a value's binary form is made of: equal on both sides if it means the same.
    fn meaning(&self, oid: TypeOid) -> Option<String> {
        self.meaning_within(oid, DEPTH_MAX)
    }

    fn meaning_within(&self, oid: TypeOid, depth: u8) -> Option<String> {
        let deeper = depth.checked_sub(1)?;
        match self.facts.get(&oid)?.kind {
            TypeKind::Domain { base } => self.meaning_within(base, deeper),
            TypeKind::Array { element } => Some(format!("{}[]", self.meaning_within(element, deeper)?)),
            TypeKind::Range { bound } => {
                Some(format!("{} of {}", self.names.get(&oid)?, self.meaning_within(bound, deeper)?))
            }
            TypeKind::Base | TypeKind::Enum | TypeKind::Other => self.names.get(&oid).cloned(),
        }
    }

    /// The type a domain is made of, or the type itself.
    fn base_name(&self, mut oid: TypeOid) -> Option<String> {
        for _ in 0..DEPTH_MAX {
            match self.facts.get(&oid)?.kind {
                TypeKind::Domain { base } => oid = base,
                _ => return self.names.get(&oid).cloned(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT4: TypeOid = 23;
    const INT8: TypeOid = 20;
    const DOMAIN: TypeOid = 20_000;
    const RANGE: TypeOid = 20_001;
    const COMPOSITE: TypeOid = 20_002;

    /// A side with one table of one column; its range is over `bound`.
    fn side(column: TypeOid, bound: TypeOid) -> SideTypes {
        let types = [
            (INT4, "int4", TypeKind::Base),
            (INT8, "int8", TypeKind::Base),
            (DOMAIN, "public.small", TypeKind::Domain { base: INT4 }),
            (RANGE, "public.span", TypeKind::Range { bound }),
            (COMPOSITE, "public.pair", TypeKind::Other),
        ];
        let facts = |kind| TypeFacts { kind, has_binary_form: true };
        SideTypes {
            facts: types.iter().map(|(oid, _, kind)| (*oid, facts(*kind))).collect(),
            names: types.iter().map(|(oid, name, _)| (*oid, (*name).to_owned())).collect(),
            columns: BTreeMap::from([((TableName::new("public", "t"), "c".to_owned()), column)]),
        }
    }

    #[test]
    fn binary_values_are_asked_for_only_if_both_sides_mean_the_same_by_them() {
        for (source, target, allowed) in [
            (side(INT4, INT4), side(INT4, INT4), true),
            (side(DOMAIN, INT4), side(INT4, INT4), true),
            (side(RANGE, INT4), side(RANGE, INT4), true),
            (side(INT4, INT4), side(INT8, INT4), false),
            (side(DOMAIN, INT4), side(INT8, INT4), false),
            (side(RANGE, INT4), side(RANGE, INT8), false),
            (side(COMPOSITE, INT4), side(COMPOSITE, INT4), false),
        ] {
            assert_eq!(compare(&source, &target).is_ok(), allowed, "{source:?} {target:?}");
        }
    }

    #[test]
    fn a_domain_is_known_by_what_it_is_made_of() {
        let PortableTypes(types) = compare(&side(DOMAIN, INT4), &side(DOMAIN, INT4)).expect("portable");
        assert_eq!(types.get(&Oid(DOMAIN)).map(String::as_str), Some("int4"));
        assert_eq!(types.get(&Oid(COMPOSITE)), None);
    }
}
