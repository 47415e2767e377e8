//! What belongs to tables: columns, constraints, indexes, triggers, rules, policies, statistics objects.

use super::{
    Dialect, OF_USERS, RELATION, collation, comment_on, expanded, options, relations_of_users, role,
};

/// A query for what belongs to relations `c` of these kinds, one relation after the other in order of their names: both sides
/// answer in the same order, and the server sorts nothing but the relations.
fn table_by_table(kinds: &str, of_one: &str) -> String {
    let selected = relations_of_users(kinds);
    format!(
        "WITH c AS MATERIALIZED (
             SELECT c.oid, c.relkind, c.relowner, n.nspname, {RELATION} AS name
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE {selected} ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\")
         SELECT part.* FROM c CROSS JOIN LATERAL ({of_one} OFFSET 0) part"
    )
}

/// What of a column is its parent's comes and goes with the parent's. Views have columns, too.
pub(super) fn columns(dialect: Dialect) -> String {
    let comment = comment_on("pg_class", "c.oid", "a.attnum");
    let grants = expanded("a.attacl", "c.relowner", "");
    let collation = collation("a.attcollation", "t.typcollation");
    let options = options("a.attoptions");
    let compression = if dialect.major >= 14 {
        "CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END"
    } else {
        "NULL"
    };
    table_by_table(
        "'r', 'p', 'v', 'm', 'f'",
        &format!(
        "SELECT 'column' AS kind, c.name AS place, quote_ident(a.attname) AS name,
                format_type(a.atttypid, a.atttypmod) AS type, {collation} AS collation,
                CASE WHEN a.attnotnull THEN 'NOT NULL' END AS not_null,
                CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS \"default\",
                CASE a.attgenerated WHEN 's' THEN '(' || pg_get_expr(d.adbin, d.adrelid) || ') STORED'
                                    WHEN 'v' THEN '(' || pg_get_expr(d.adbin, d.adrelid) || ') VIRTUAL' END AS generated,
                CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END AS identity,
                CASE WHEN a.attidentity <> '' THEN
                     (SELECT quote_ident(sn.nspname) || '.' || quote_ident(s.relname)
                        FROM pg_depend i JOIN pg_class s ON s.oid = i.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
                       WHERE i.classid = 'pg_class'::regclass AND i.refclassid = 'pg_class'::regclass AND i.deptype = 'i'
                         AND i.refobjid = a.attrelid AND i.refobjsubid = a.attnum LIMIT 1) END AS sequence,
                nullif(a.attstattarget, -1)::text AS statistics_target,
                CASE WHEN a.attstorage <> t.typstorage AND c.relkind <> 'v' THEN
                     CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END AS storage,
                {compression} AS compression, {options} AS options, o.description AS comment,
                CASE WHEN a.attacl IS NOT NULL THEN ARRAY({grants}) END AS grants,
                a.attinhcount > 0 AND NOT a.attislocal AS is_derived
           FROM pg_attribute a
           JOIN pg_type t ON t.oid = a.atttypid
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
           {comment}
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    ))
}

/// Those that a partition or child has by its parent are its parent's. NOT NULL is a column's, also where it has a name.
pub(super) fn constraints() -> String {
    let comment = comment_on("pg_constraint", "k.oid", "0");
    table_by_table(
        "'r', 'p', 'f'",
        &format!(
        "SELECT CASE k.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END AS kind, c.name AS place,
                quote_ident(k.conname) AS name, pg_get_constraintdef(k.oid) AS definition, o.description AS comment
           FROM pg_constraint k
           {comment}
          WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c', 'f', 'x') AND k.conislocal AND k.conparentid = 0"
    ))
}

/// Those of a partition that are attached to its parent's are its parent's, which is invalid unless all are there. Those of
/// constraints are their constraint's, except for what only an index can have.
pub(super) fn indexes() -> String {
    let comment = comment_on("pg_class", "x.oid", "0");
    let options = options("x.reloptions");
    table_by_table(
        "'r', 'p', 'm'",
        &format!(
        "SELECT 'index' AS kind, quote_ident(c.nspname) || '.' || quote_ident(x.relname) AS name, c.name AS \"table\",
                k.oid IS NOT NULL AS is_derived,
                CASE WHEN k.oid IS NULL THEN pg_get_indexdef(x.oid) END AS definition,
                CASE WHEN k.oid IS NOT NULL THEN {options} END AS options,
                CASE WHEN NOT i.indisvalid THEN 'invalid' END AS valid,
                CASE WHEN i.indisclustered THEN 'CLUSTER ON' END AS clustered, o.description AS comment
           FROM pg_index i
           JOIN pg_class x ON x.oid = i.indexrelid
           LEFT JOIN pg_constraint k ON k.conrelid = i.indrelid AND k.conindid = x.oid AND k.contype IN ('p', 'u', 'x')
           {comment}
          WHERE i.indrelid = c.oid AND NOT x.relispartition"
    ))
}

/// Those of constraints are their constraint's; a partition's that are its parent's can be switched off on their own. Ours
/// (gate, fence) are left out by their function's schema.
pub(super) fn triggers() -> String {
    let comment = comment_on("pg_trigger", "g.oid", "0");
    table_by_table(
        "'r', 'p', 'v', 'f'",
        &format!(
        "SELECT 'trigger' AS kind, c.name AS place, quote_ident(g.tgname) AS name, g.tgparentid <> 0 AS is_derived,
                pg_get_triggerdef(g.oid) || ';' AS definition,
                CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END AS enabled,
                o.description AS comment
           FROM pg_trigger g
           JOIN pg_proc p ON p.oid = g.tgfoid
           JOIN pg_namespace pn ON pn.oid = p.pronamespace
           {comment}
          WHERE g.tgrelid = c.oid AND (NOT g.tgisinternal OR g.tgparentid <> 0) AND pn.nspname <> 'pgsluice'
            AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.oid = g.tgconstraint AND k.contype <> 't')"
    ))
}

pub(super) fn rules(dialect: Dialect) -> String {
    let (selected, comment) =
        (relations_of_users("'r', 'p', 'v', 'm', 'f'"), comment_on("pg_rewrite", "w.oid", "0"));
    let definition = if dialect.prints_alike {
        "pg_get_ruledef(w.oid)"
    } else {
        "concat(CASE WHEN w.is_instead THEN 'INSTEAD ' END, CASE w.ev_type WHEN '2' THEN 'ON UPDATE' WHEN '3' THEN 'ON INSERT' \
         WHEN '4' THEN 'ON DELETE' ELSE 'ON SELECT' END)"
    };
    format!(
        "SELECT 'rule' AS kind, {RELATION} AS place, quote_ident(w.rulename) AS name, {definition} AS definition,
                CASE w.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END AS enabled,
                o.description AS comment, pg_get_ruledef(w.oid) AS creation
           FROM pg_rewrite w
           JOIN pg_class c ON c.oid = w.ev_class
           JOIN pg_namespace n ON n.oid = c.relnamespace
           {comment}
          WHERE w.rulename <> '_RETURN' AND {selected}"
    )
}

pub(super) fn policies() -> String {
    let (selected, comment) = (relations_of_users("'r', 'p'"), comment_on("pg_policy", "y.oid", "0"));
    format!(
        "SELECT 'policy' AS kind, {RELATION} AS place, quote_ident(y.polname) AS name, o.description AS comment,
                ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = ANY (y.polroles) ORDER BY 1) AS roles,
                concat('CREATE POLICY ', quote_ident(y.polname), ' ON ', {RELATION}, CASE WHEN NOT y.polpermissive THEN ' AS RESTRICTIVE' END,
                       CASE y.polcmd WHEN 'r' THEN ' FOR SELECT' WHEN 'a' THEN ' FOR INSERT' WHEN 'w' THEN ' FOR UPDATE' WHEN 'd' THEN ' FOR DELETE' END,
                       CASE WHEN y.polroles <> '{{0}}' THEN ' TO ' || array_to_string(
                           ARRAY(SELECT quote_ident(r.rolname) FROM pg_roles r WHERE r.oid = ANY (y.polroles) ORDER BY 1), ', ') END,
                       ' USING (' || pg_get_expr(y.polqual, y.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(y.polwithcheck, y.polrelid) || ')',
                       ';') AS definition
           FROM pg_policy y
           JOIN pg_class c ON c.oid = y.polrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           {comment}
          WHERE {selected}"
    )
}

pub(super) fn statistics() -> String {
    let (owner, comment) = (role("x.stxowner"), comment_on("pg_statistic_ext", "x.oid", "0"));
    let of_no_extension = super::of_no_extension("pg_statistic_ext", "x.oid");
    format!(
        "SELECT 'statistics object' AS kind, quote_ident(n.nspname) || '.' || quote_ident(x.stxname) AS name,
                quote_ident(cn.nspname) || '.' || quote_ident(c.relname) AS \"table\", {owner} AS owner,
                pg_get_statisticsobjdef(x.oid) || ';' AS definition, nullif(x.stxstattarget, -1)::text AS statistics_target,
                o.description AS comment
           FROM pg_statistic_ext x
           JOIN pg_namespace n ON n.oid = x.stxnamespace
           JOIN pg_class c ON c.oid = x.stxrelid
           JOIN pg_namespace cn ON cn.oid = c.relnamespace
           {comment}
          WHERE {OF_USERS} AND {of_no_extension}"
    )
}
