//! Types that have definitions of their own: enums, composites, ranges and domains.

use super::{OF_USERS, collation, comment_on, grants, of_no_extension, role};

const TYPE: &str = "quote_ident(n.nspname) || '.' || quote_ident(t.typname)";

/// What a range is made of, for its definition.
const RANGE: &str = "(SELECT concat('SUBTYPE = ', format_type(r.rngsubtype, NULL),
         (SELECT ', SUBTYPE_OPCLASS = ' || quote_ident(un.nspname) || '.' || quote_ident(u.opcname)
            FROM pg_opclass u JOIN pg_namespace un ON un.oid = u.opcnamespace WHERE u.oid = r.rngsubopc AND NOT u.opcdefault),
         (SELECT ', COLLATION = ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname)
            FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace JOIN pg_type s ON s.oid = r.rngsubtype
           WHERE l.oid = r.rngcollation AND l.oid <> s.typcollation),
         ', SUBTYPE_DIFF = ' || nullif(r.rngsubdiff::oid, 0)::regproc::text)
    FROM pg_range r WHERE r.rngtypid = t.oid)";

pub(super) fn types() -> String {
    let (owner, grants) = (role("t.typowner"), grants('T', "t.typacl", "t.typowner"));
    let (comment, of_no_extension) =
        (comment_on("pg_type", "t.oid", "0"), of_no_extension("pg_type", "t.oid"));
    let collation = collation("t.typcollation", "b.typcollation");
    format!(
        "SELECT CASE t.typtype WHEN 'e' THEN 'enum type' WHEN 'c' THEN 'composite type' WHEN 'r' THEN 'range type' ELSE 'domain' END AS kind,
                {TYPE} AS name, {owner} AS owner, {grants} AS grants, o.description AS comment, labels.list AS labels,
                CASE WHEN t.typtype = 'r' THEN {RANGE} END AS definition,
                CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS type,
                CASE WHEN t.typtype = 'd' THEN {collation} END AS collation,
                CASE WHEN t.typtype = 'd' THEN pg_get_expr(t.typdefaultbin, 0) END AS \"default\",
                CASE WHEN t.typtype = 'd' AND t.typnotnull THEN 'NOT NULL' END AS not_null,
                CASE t.typtype
                     WHEN 'e' THEN 'CREATE TYPE ' || {TYPE} || ' AS ENUM (' || coalesce(labels.list, '') || ');'
                     WHEN 'r' THEN 'CREATE TYPE ' || {TYPE} || ' AS RANGE (' || {RANGE} || ');'
                     WHEN 'c' THEN 'CREATE TYPE ' || {TYPE} || ' AS (' || (
                         SELECT coalesce(string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum), '')
                           FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) || ');'
                     WHEN 'd' THEN concat('CREATE DOMAIN ', {TYPE}, ' AS ', format_type(t.typbasetype, t.typtypmod), ' COLLATE ' || {collation},
                         ' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), CASE WHEN t.typnotnull THEN ' NOT NULL' END, ';') END AS creation
           FROM pg_type t
           JOIN pg_namespace n ON n.oid = t.typnamespace
           LEFT JOIN pg_class c ON c.oid = t.typrelid
           LEFT JOIN pg_type b ON b.oid = t.typbasetype
           LEFT JOIN (SELECT e.enumtypid, string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) AS list
                        FROM pg_enum e GROUP BY 1) labels ON labels.enumtypid = t.oid
           {comment}
          WHERE (t.typtype IN ('e', 'r', 'd') OR t.typtype = 'c' AND c.relkind = 'c') AND {OF_USERS} AND {of_no_extension}"
    )
}

pub(super) fn attributes() -> String {
    let (comment, of_no_extension) =
        (comment_on("pg_class", "c.oid", "a.attnum"), of_no_extension("pg_type", "c.reltype"));
    let collation = collation("a.attcollation", "t.typcollation");
    format!(
        "SELECT 'attribute' AS kind, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS place, quote_ident(a.attname) AS name,
                format_type(a.atttypid, a.atttypmod) AS type, {collation} AS collation, o.description AS comment
           FROM pg_attribute a
           JOIN pg_class c ON c.oid = a.attrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_type t ON t.oid = a.atttypid
           {comment}
          WHERE c.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped AND {OF_USERS} AND {of_no_extension}"
    )
}

pub(super) fn domain_constraints() -> String {
    let (comment, of_no_extension) =
        (comment_on("pg_constraint", "k.oid", "0"), of_no_extension("pg_type", "t.oid"));
    format!(
        "SELECT 'domain constraint' AS kind, {TYPE} AS place, quote_ident(k.conname) AS name, pg_get_constraintdef(k.oid) AS definition,
                o.description AS comment
           FROM pg_constraint k
           JOIN pg_type t ON t.oid = k.contypid
           JOIN pg_namespace n ON n.oid = t.typnamespace
           {comment}
          WHERE k.contype = 'c' AND {OF_USERS} AND {of_no_extension}"
    )
}
