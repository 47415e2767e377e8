//! The structure of both databases compared, while they are in use: everything that a dump without rows would print, owners
//! and privileges too. For each difference it says the SQL that makes the target like the source; it changes nothing itself.
//! What pgsluice keeps on either side, what belongs to extensions, and what only the servers' versions make different is not
//! compared. `diff` and what it uses is pure; `read` has the only IO.

mod aspect;
mod catalog;
mod diff;
#[cfg(test)]
mod diff_tests;
mod error;
mod fix;
mod grant;
mod object;
mod printed;
mod queries;
mod read;
mod report;
mod roles;
mod words;

use std::collections::BTreeMap;

pub use aspect::Aspect;
pub use catalog::{Catalog, Facts, More};
pub use diff::diff;
pub use error::StructureError;
pub use grant::{Grant, Grantee};
pub use object::{ObjectKey, ObjectKind};
pub use report::{KEPT_MAX, Severity, StructuralDifference, StructureReport};

use self::queries::STANDARD_BODY;
use self::read::Both;
use crate::config::TableFilter;
use crate::connection::SqlSession;
use crate::model::counted;

/// Compares the two databases, except for tables that `filter` leaves out and what belongs to them. Each side is read in one
/// read-only transaction of its session, which must not be in one; definitions that change meanwhile may be told as
/// differences. Whoever holds a table exclusively is waited for briefly.
///
/// Not cancel safe: a session may be left in its transaction.
///
/// # Errors
/// A side cannot be read, or has too many objects.
pub async fn compare(
    source: &SqlSession,
    target: &SqlSession,
    filter: &TableFilter,
) -> Result<StructureReport, StructureError> {
    let Both { source, target, counts } = read::read(source, target, filter).await?;
    let mut report = StructureReport {
        not_compared: not_compared(&counts, &source, &target),
        compared: counts,
        ..StructureReport::default()
    };
    diff::each_difference(&source, &target, &mut |difference| report.add(difference));
    Ok(report)
}

/// What the versions, and what the catalog has of it, do not allow to compare.
fn not_compared(counts: &BTreeMap<ObjectKind, usize>, source: &Catalog, target: &Catalog) -> Vec<String> {
    let count = |kind| counts.get(&kind).copied().unwrap_or_default();
    let queries = count(ObjectKind::View) + count(ObjectKind::MaterializedView) + count(ObjectKind::Rule);
    let standard =
        source.objects.values().filter(|facts| facts.get(Aspect::Body) == Some(STANDARD_BODY)).count();
    let mut sentences = Vec::new();
    if source.major != target.major && queries > 0 {
        sentences.push(format!(
            "The queries of {} are not compared, because PostgreSQL {} and {} print them differently; their columns, options, \
             owners and privileges are.",
            counted(queries, "view or rule", "views, materialized views and rules"),
            source.major,
            target.major
        ));
    }
    if standard > 0 {
        sentences.push(format!(
            "The bodies of {} in standard SQL (BEGIN ATOMIC, RETURN) are not compared, because PostgreSQL keeps no text of them; \
             everything else of them is.",
            counted(standard, "function", "functions")
        ));
    }
    sentences
}
