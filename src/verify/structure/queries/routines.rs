//! Functions, procedures and aggregates.

use super::{Dialect, OF_USERS, comment_on, digest, grants, of_itself, role};

/// What a body in standard SQL is told as: the catalog has no text of it, and what is printed of it is printed otherwise once it
/// has been dumped and restored.
pub(in super::super) const STANDARD_BODY: &str = "in standard SQL";

/// What is compared is what the catalog stores, not how a version prints it.
pub(super) fn routines(dialect: Dialect) -> String {
    let (owner, grants) = (role("p.proowner"), grants('f', "p.proacl", "p.proowner"));
    let (comment, of_itself) = (comment_on("pg_proc", "p.oid", "0"), of_itself("pg_proc", "p.oid"));
    let digest = digest("concat(p.prosrc, chr(1), p.probin)");
    let body = match dialect.major {
        ..14 => digest,
        14.. => format!("CASE WHEN p.prosqlbody IS NULL THEN {digest} ELSE '{STANDARD_BODY}' END"),
    };
    format!(
        "SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END AS kind, p.oid::regprocedure::text AS name,
                {owner} AS owner, {grants} AS grants, o.description AS comment,
                pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result, quote_ident(l.lanname) AS language,
                {body} AS body,
                nullif(concat_ws(', ', CASE p.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' END,
                    CASE p.proparallel WHEN 's' THEN 'PARALLEL SAFE' WHEN 'r' THEN 'PARALLEL RESTRICTED' END,
                    CASE WHEN p.proisstrict THEN 'STRICT' END, CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
                    CASE WHEN p.proleakproof THEN 'LEAKPROOF' END, CASE WHEN p.prokind = 'w' THEN 'WINDOW' END, 'COST ' || p.procost,
                    'ROWS ' || nullif(p.prorows, 0), 'SUPPORT ' || nullif(p.prosupport::oid, 0)::regproc::text), '') AS attributes,
                array_to_string(ARRAY(SELECT each FROM unnest(p.proconfig) AS each ORDER BY each), ', ') AS settings,
                pg_get_functiondef(p.oid) || ';' AS creation
           FROM pg_proc p
           JOIN pg_namespace n ON n.oid = p.pronamespace
           JOIN pg_language l ON l.oid = p.prolang
           {comment}
          WHERE p.prokind <> 'a' AND {OF_USERS} AND {of_itself}"
    )
}

pub(super) fn aggregates() -> String {
    let (owner, grants) = (role("p.proowner"), grants('f', "p.proacl", "p.proowner"));
    let (comment, of_itself) = (comment_on("pg_proc", "p.oid", "0"), of_itself("pg_proc", "p.oid"));
    let function =
        |name: &str, column: &str| format!("'{name} = ' || nullif({column}::oid, 0)::regproc::text");
    let functions = [
        ("FINALFUNC", "a.aggfinalfn"),
        ("COMBINEFUNC", "a.aggcombinefn"),
        ("SERIALFUNC", "a.aggserialfn"),
        ("DESERIALFUNC", "a.aggdeserialfn"),
        ("MSFUNC", "a.aggmtransfn"),
        ("MINVFUNC", "a.aggminvtransfn"),
        ("MFINALFUNC", "a.aggmfinalfn"),
    ]
    .map(|(name, column)| function(name, column))
    .join(", ");
    format!(
        "SELECT 'aggregate' AS kind, p.oid::regprocedure::text AS name, {owner} AS owner, {grants} AS grants, o.description AS comment,
                pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
                concat_ws(', ', 'SFUNC = ' || a.aggtransfn::oid::regproc::text, 'STYPE = ' || format_type(a.aggtranstype, NULL),
                    'INITCOND = ' || quote_literal(a.agginitval), {functions},
                    'MSTYPE = ' || format_type(nullif(a.aggmtranstype, 0), NULL), 'MINITCOND = ' || quote_literal(a.aggminitval),
                    'SORTOP = ' || nullif(a.aggsortop, 0)::regoperator::text, CASE a.aggkind WHEN 'h' THEN 'HYPOTHETICAL' END,
                    CASE p.proparallel WHEN 's' THEN 'PARALLEL = SAFE' WHEN 'r' THEN 'PARALLEL = RESTRICTED' END) AS definition
           FROM pg_proc p
           JOIN pg_aggregate a ON a.aggfnoid = p.oid
           JOIN pg_namespace n ON n.oid = p.pronamespace
           {comment}
          WHERE {OF_USERS} AND {of_itself}"
    )
}
