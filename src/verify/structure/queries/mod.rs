//! The catalog queries: one for each family of kinds, one pass over the whole database, the same on both sides. Every row says
//! `kind`, `place` (what it is a part of), `name`, and in further columns named after an aspect what is compared of it; NULL
//! is "as by default". Identifiers in them are quoted by the server, which the session was told to do with all of them.

mod relations;
mod routines;
mod server_wide;
mod tables;
mod types;

pub(super) use routines::STANDARD_BODY;

/// What the queries must know of the servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    /// Major version of the server that is asked.
    pub(super) major: u32,
    /// Whether both servers print queries alike: they are of one major version.
    pub(super) prints_alike: bool,
}

/// The queries, tables first: what belongs to one that is left out is recognized by that.
pub(super) fn all(dialect: Dialect) -> Vec<String> {
    vec![
        relations::relations(dialect),
        relations::schemas(),
        relations::sequences(),
        tables::columns(dialect),
        tables::constraints(),
        tables::indexes(),
        tables::triggers(),
        tables::rules(dialect),
        tables::policies(),
        tables::statistics(),
        types::types(),
        types::attributes(),
        types::domain_constraints(),
        routines::routines(dialect),
        routines::aggregates(),
        server_wide::extensions(),
        server_wide::database(),
        server_wide::default_privileges(),
        server_wide::event_triggers(),
        server_wide::casts(),
        server_wide::servers(),
        server_wide::others(),
    ]
}

/// Which side it is: versions, names, who asks.
pub(super) const SIDE: &str =
    "SELECT current_database()::text, current_user::text, pg_get_userbyid(10)::text";

/// Every role.
pub(super) const ROLES: &str = "SELECT rolname::text FROM pg_roles";

/// Whether clients are locked out of this database: then nobody's right to connect is what it was.
pub(super) const LOCK_OUT_TABLE: &str = "SELECT to_regclass('pgsluice.locked_out') IS NOT NULL";
/// To be asked only if the table is there.
pub(super) const IS_LOCKED_OUT: &str = "SELECT EXISTS (SELECT FROM pgsluice.locked_out)";

/// Schemas whose objects are compared, for a query over `pg_namespace n`.
const OF_USERS: &str = "n.nspname NOT IN ('information_schema', 'pgsluice') AND n.nspname !~ '^pg_'";

/// The name of a relation `c` in namespace `n`, quoted.
const RELATION: &str = "quote_ident(n.nspname) || '.' || quote_ident(c.relname)";

/// That an object is not an extension's.
fn of_no_extension(catalog: &str, oid: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} \
         AND e.objsubid = 0 AND e.deptype = 'e')"
    )
}

/// That it is neither an extension's nor made together with something else, as the functions and the cast of a range are.
fn of_itself(catalog: &str, oid: &str) -> String {
    of_no_extension(catalog, oid).replace("e.deptype = 'e'", "e.deptype IN ('e', 'i')")
}

/// The relations that are compared, and those of one kind of them.
fn relations_of_users(kinds: &str) -> String {
    let of_no_extension = of_no_extension("pg_class", "c.oid");
    format!("c.relkind IN ({kinds}) AND c.relpersistence <> 't' AND {OF_USERS} AND {of_no_extension}")
}

/// The join that finds the comment `o`, of a part of the object or (0) the object.
fn comment_on(catalog: &str, oid: &str, part: &str) -> String {
    format!(
        "LEFT JOIN pg_description o ON o.objoid = {oid} AND o.classoid = '{catalog}'::regclass AND o.objsubid = {part}"
    )
}

/// Who may do what, as text; `kind` as `acldefault` knows it.
fn grants(kind: char, list: &str, owner: &str) -> String {
    format!("ARRAY({})", expanded(&format!("coalesce({list}, acldefault('{kind}', {owner}))"), owner, ""))
}

/// The entries of a list of privileges in the form that `Grant::parse` reads: who gave them does not matter.
fn expanded(list: &str, owner: &str, condition: &str) -> String {
    format!(
        "SELECT concat(CASE a.grantee WHEN 0 THEN 'p' WHEN {owner} THEN 'o' ELSE 'r' END, \
                       CASE WHEN bool_or(a.is_grantable) THEN '+' ELSE '-' END, a.privilege_type, ' ', \
                       CASE WHEN a.grantee NOT IN (0, {owner}) THEN pg_get_userbyid(a.grantee) END) \
           FROM aclexplode({list}) a {condition} GROUP BY a.grantee, a.privilege_type ORDER BY 1"
    )
}

/// The name of the owner.
fn role(oid: &str) -> String {
    format!("pg_get_userbyid({oid})::text")
}

/// A list of `name=value`, in order of their names.
fn options(list: &str) -> String {
    format!(
        "CASE WHEN {list} IS NOT NULL THEN \
         nullif(array_to_string(ARRAY(SELECT each FROM unnest({list}) AS each ORDER BY each), ', '), '') END"
    )
}

/// What a text is compared by that is long, or may be a secret. Both sides have one encoding.
fn digest(text: &str) -> String {
    format!("sha256(convert_to({text}, getdatabaseencoding()))::text")
}

/// A collation that is another than the type's.
fn collation(collation: &str, of_type: &str) -> String {
    format!(
        "CASE WHEN {collation} <> {of_type} THEN \
         (SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l \
            JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = {collation}) END"
    )
}
