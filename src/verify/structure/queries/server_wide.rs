//! What is in no schema, or compared by little more than its name: extensions, the database, default privileges, event
//! triggers, casts, foreign servers, and the rest by name.

use super::{OF_USERS, comment_on, digest, expanded, grants, of_itself, of_no_extension, role};

/// Comments of extensions come with their version.
pub(super) fn extensions() -> String {
    "SELECT 'extension' AS kind, quote_ident(x.extname) AS name, quote_ident(n.nspname) AS in_schema, x.extversion AS version,
            format('CREATE EXTENSION %s WITH SCHEMA %s;', quote_ident(x.extname), quote_ident(n.nspname)) AS creation
       FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace"
        .to_owned()
}

/// What the migration's own role was given is needed by the migration alone. Its owner is the cluster's own.
pub(super) fn database() -> String {
    let list = "coalesce(d.datacl, acldefault('d', d.datdba))";
    let others = "WHERE a.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN (current_user, session_user) AND oid <> d.datdba)";
    let grants = expanded(list, "d.datdba", others);
    format!(
        "SELECT 'database' AS kind, '' AS name, ARRAY({grants}) AS grants FROM pg_database d WHERE d.datname = current_database()"
    )
}

/// What an owner may do with its own objects is left out: a list without the owner is as rare as useless.
pub(super) fn default_privileges() -> String {
    let grants = expanded("f.defaclacl", "f.defaclrole", "WHERE a.grantee <> f.defaclrole");
    format!(
        "SELECT 'default privileges' AS kind, concat('FOR ROLE ', quote_ident(pg_get_userbyid(f.defaclrole)), ' IN SCHEMA ' || quote_ident(n.nspname)) AS place,
                CASE f.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES'
                     WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS name,
                ARRAY[pg_get_userbyid(f.defaclrole)::text] AS roles, ARRAY({grants}) AS grants
           FROM pg_default_acl f
           LEFT JOIN pg_namespace n ON n.oid = f.defaclnamespace
          WHERE f.defaclnamespace = 0 OR {OF_USERS}"
    )
}

/// Ours (the fence's) is left out by its function's schema.
pub(super) fn event_triggers() -> String {
    let (owner, comment) = (role("v.evtowner"), comment_on("pg_event_trigger", "v.oid", "0"));
    let of_no_extension = of_no_extension("pg_event_trigger", "v.oid");
    format!(
        "SELECT 'event trigger' AS kind, quote_ident(v.evtname) AS name, {owner} AS owner, o.description AS comment,
                CASE v.evtenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' END AS enabled,
                concat('CREATE EVENT TRIGGER ', quote_ident(v.evtname), ' ON ', v.evtevent,
                       ' WHEN TAG IN (' || nullif(array_to_string(ARRAY(SELECT quote_literal(tag) FROM unnest(v.evttags) AS tag ORDER BY 1), ', '), '') || ')',
                       ' EXECUTE FUNCTION ', quote_ident(n.nspname), '.', quote_ident(p.proname), '();') AS definition
           FROM pg_event_trigger v
           JOIN pg_proc p ON p.oid = v.evtfoid
           JOIN pg_namespace n ON n.oid = p.pronamespace
           {comment}
          WHERE n.nspname <> 'pgsluice' AND {of_no_extension}"
    )
}

/// The first OID that `initdb` does not give away is 16384.
pub(super) fn casts() -> String {
    let (comment, of_itself) = (comment_on("pg_cast", "x.oid", "0"), of_itself("pg_cast", "x.oid"));
    format!(
        "SELECT 'cast' AS kind, format('(%s AS %s)', format_type(x.castsource, NULL), format_type(x.casttarget, NULL)) AS name,
                o.description AS comment,
                concat('CREATE CAST (', format_type(x.castsource, NULL), ' AS ', format_type(x.casttarget, NULL), ') ',
                       CASE x.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || x.castfunc::regprocedure::text WHEN 'i' THEN 'WITH INOUT'
                            ELSE 'WITHOUT FUNCTION' END,
                       CASE x.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' END, ';') AS definition
           FROM pg_cast x {comment}
          WHERE x.oid >= 16384 AND {of_itself}"
    )
}

/// Options may be secrets: they are compared by a digest.
pub(super) fn servers() -> String {
    let (owner, grants) = (role("s.srvowner"), grants('S', "s.srvacl", "s.srvowner"));
    let (comment, of_no_extension) =
        (comment_on("pg_foreign_server", "s.oid", "0"), of_no_extension("pg_foreign_server", "s.oid"));
    let options =
        digest("array_to_string(ARRAY(SELECT each FROM unnest(s.srvoptions) AS each ORDER BY each), chr(1))");
    format!(
        "SELECT 'foreign server' AS kind, quote_ident(s.srvname) AS name, {owner} AS owner, {grants} AS grants, o.description AS comment,
                concat_ws(' ', 'FOREIGN DATA WRAPPER', quote_ident(w.fdwname), 'TYPE ' || quote_literal(s.srvtype), 'VERSION ' || quote_literal(s.srvversion)) AS definition,
                'of digest ' || {options} AS options,
                CASE WHEN s.srvoptions IS NULL THEN concat('CREATE SERVER ', quote_ident(s.srvname), ' TYPE ' || quote_literal(s.srvtype),
                     ' VERSION ' || quote_literal(s.srvversion), ' FOREIGN DATA WRAPPER ', quote_ident(w.fdwname), ';') END AS creation
           FROM pg_foreign_server s
           JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
           {comment}
          WHERE {of_no_extension}"
    )
}

/// By name alone.
pub(super) fn others() -> String {
    let families = [
        "pg_am",
        "pg_collation",
        "pg_conversion",
        "pg_foreign_data_wrapper",
        "pg_language",
        "pg_opclass",
        "pg_operator",
        "pg_opfamily",
        "pg_transform",
        "pg_ts_config",
        "pg_ts_dict",
        "pg_ts_parser",
        "pg_ts_template",
    ]
    .map(|family| format!("SELECT '{family}'::regclass AS classid, oid FROM {family} WHERE oid >= 16384"));
    let families = families.join(" UNION ALL ");
    format!(
        "SELECT 'object' AS kind, concat(i.type, ' ', i.identity) AS name
           FROM ({families} UNION ALL
                 SELECT 'pg_type'::regclass, oid FROM pg_type WHERE oid >= 16384 AND typtype = 'b' AND typcategory <> 'A') every
          CROSS JOIN LATERAL pg_identify_object(every.classid, every.oid, 0) i
          WHERE (i.schema IS NULL OR i.schema NOT IN ('information_schema', 'pgsluice') AND i.schema !~ '^pg_')
            AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = every.classid AND e.objid = every.oid AND e.deptype = 'e')"
    )
}
