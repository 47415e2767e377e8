//! Schemas, tables, views and sequences.

use super::{
    Dialect, OF_USERS, RELATION, comment_on, digest, grants, of_no_extension, options, relations_of_users,
    role,
};

pub(super) fn schemas() -> String {
    let (owner, grants) = (role("n.nspowner"), grants('n', "n.nspacl", "n.nspowner"));
    let (comment, of_no_extension) =
        (comment_on("pg_namespace", "n.oid", "0"), of_no_extension("pg_namespace", "n.oid"));
    format!(
        "SELECT 'schema' AS kind, quote_ident(n.nspname) AS name, {owner} AS owner, {grants} AS grants,
                o.description AS comment, 'CREATE SCHEMA ' || quote_ident(n.nspname) || ';' AS creation
           FROM pg_namespace n {comment}
          WHERE {OF_USERS} AND {of_no_extension}"
    )
}

/// A partitioned table is selected whole, by the name of its root. Options of the TOAST table are set by its table's; those of
/// a foreign table may be secrets, and are compared by a digest.
pub(super) fn relations(dialect: Dialect) -> String {
    let (owner, grants) = (role("c.relowner"), grants('r', "c.relacl", "c.relowner"));
    let selected = relations_of_users("'r', 'p', 'v', 'm', 'f'");
    let comment = comment_on("pg_class", "c.oid", "0");
    let query = if dialect.prints_alike { "v.definition" } else { "NULL" };
    let of_foreign =
        digest("array_to_string(ARRAY(SELECT each FROM unnest(f.ftoptions) AS each ORDER BY each), chr(1))");
    let options = options(
        "c.reloptions || ARRAY(SELECT 'toast.' || t FROM pg_class toast, unnest(toast.reloptions) t \
          WHERE toast.oid = c.reltoastrelid)",
    );
    format!(
        "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind,
                {RELATION} AS name, {owner} AS owner, {grants} AS grants, o.description AS comment,
                CASE WHEN c.relkind IN ('r', 'p') THEN coalesce(rn.nspname, n.nspname)::text END AS root_schema,
                CASE WHEN c.relkind IN ('r', 'p') THEN coalesce(r.relname, c.relname)::text END AS root_name,
                CASE WHEN c.relpersistence = 'u' THEN 'unlogged' END AS persistence,
                CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
                CASE WHEN c.relispartition THEN parents.names || ' ' || pg_get_expr(c.relpartbound, c.oid) END AS partition_of,
                CASE WHEN NOT c.relispartition THEN parents.names END AS inherits,
                {options} AS options,
                CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'i' THEN
                     coalesce((SELECT 'USING INDEX ' || quote_ident(ic.relname) FROM pg_index i
                                 JOIN pg_class ic ON ic.oid = i.indexrelid
                                WHERE i.indrelid = c.oid AND i.indisreplident), 'NOTHING') END AS replica_identity,
                CASE WHEN c.relrowsecurity THEN 'enabled' END AS row_security,
                CASE WHEN c.relforcerowsecurity THEN 'forced' END AS forced_row_security,
                nullif(am.amname::text, 'heap') AS access_method,
                (SELECT quote_ident(s.srvname) FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver
                  WHERE f.ftrelid = c.oid) AS server,
                CASE WHEN c.relkind = 'f' THEN
                     (SELECT 'of digest ' || {of_foreign}
                        FROM pg_foreign_table f WHERE f.ftrelid = c.oid) ELSE {query} END AS definition,
                CASE c.relkind WHEN 'v' THEN 'CREATE VIEW ' || {RELATION}
                     || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || ' AS ' || v.definition || ';'
                     WHEN 'm' THEN 'CREATE MATERIALIZED VIEW ' || {RELATION}
                     || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || ' AS ' || v.definition || ';'
                     END AS creation
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_class r ON r.oid = pg_partition_root(c.oid)
           LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
           LEFT JOIN pg_am am ON am.oid = c.relam
           LEFT JOIN LATERAL (SELECT rtrim(pg_get_viewdef(c.oid), ';') AS definition WHERE c.relkind IN ('v', 'm')) v ON true
           LEFT JOIN (SELECT i.inhrelid, string_agg(quote_ident(pn.nspname) || '.' || quote_ident(p.relname), ', ' ORDER BY i.inhseqno) AS names
                        FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
                       GROUP BY 1) parents ON parents.inhrelid = c.oid
           {comment}
          WHERE {selected}"
    )
}

/// A sequence that goes with a column has its table's owner. That of an identity column comes and goes with it.
pub(super) fn sequences() -> String {
    let (owner, grants) = (role("c.relowner"), grants('s', "c.relacl", "c.relowner"));
    let (selected, comment) = (relations_of_users("'S'"), comment_on("pg_class", "c.oid", "0"));
    format!(
        "SELECT 'sequence' AS kind, {RELATION} AS name, CASE WHEN owning.name IS NULL THEN {owner} END AS owner, {grants} AS grants,
                o.description AS comment, format_type(s.seqtypid, NULL) AS type, s.seqstart::text AS start, s.seqincrement::text AS increment,
                s.seqmin::text AS minimum, s.seqmax::text AS maximum, CASE WHEN s.seqcycle THEN 'CYCLE' END AS cycle,
                s.seqcache::text AS cache, CASE WHEN NOT owning.is_identity THEN owning.name END AS owned_by, owning.table_name AS \"table\",
                coalesce(owning.is_identity, false) AS is_derived,
                format('CREATE SEQUENCE %s AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s;', {RELATION},
                       format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
                       CASE WHEN s.seqcycle THEN ' CYCLE' END) AS creation
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_sequence s ON s.seqrelid = c.oid
           LEFT JOIN (SELECT d.objid, d.deptype = 'i' AS is_identity, quote_ident(tn.nspname) || '.' || quote_ident(t.relname) AS table_name,
                             quote_ident(tn.nspname) || '.' || quote_ident(t.relname) || '.' || quote_ident(a.attname) AS name
                        FROM pg_depend d
                        JOIN pg_class t ON t.oid = d.refobjid
                        JOIN pg_namespace tn ON tn.oid = t.relnamespace
                        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                       WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.refclassid = 'pg_class'::regclass
                         AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')) owning ON owning.objid = c.oid
           {comment}
          WHERE {selected}"
    )
}
