//! Session settings that change what values look like or how long statements may take, pinned for every session on
//! both sides (trap 15). They travel in the startup packet, where they win over what `ALTER ROLE … SET` and
//! `ALTER DATABASE … SET` say; PgBouncer would refuse them, and must not stand in between anyway.

/// Settings and their pinned values. All of them may be set by any role, and exist in every version from 13.
pub const PINNED_SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    // What a server remarks beside its answers may quote the value it remarks on (INV-10).
    ("client_min_messages", "error"),
    // Empty: pg_catalog alone, so that no name resolves to somebody's object by accident.
    ("search_path", ""),
    ("row_security", "off"),
    // What runs often is cheap, and of a catalog query the compilation takes longer than the query.
    ("jit", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// What a new session asks first: its process, its server's version and role; and it switches off the timeouts that
/// only newer versions have, and that therefore cannot stand in the startup packet.
pub(super) const FIRST_QUERY: &str = "SELECT pg_catalog.pg_backend_pid() AS backend_pid, \
     pg_catalog.current_setting('server_version_num') AS server_version, \
     pg_catalog.pg_is_in_recovery() AS in_recovery, \
     (SELECT pg_catalog.count(pg_catalog.set_config(name, '0', false)) FROM pg_catalog.pg_settings \
       WHERE name IN ('idle_session_timeout', 'transaction_timeout') AND setting <> '0') AS timeouts_lifted";

/// The longest name PostgreSQL keeps, in bytes: `NAMEDATALEN` minus one.
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// `pgsluice <purpose>`, as short as PostgreSQL keeps it.
pub(super) fn application_name(purpose: &str) -> String {
    let mut name = format!("pgsluice {purpose}");
    while name.len() > APPLICATION_NAME_BYTES_MAX {
        name.pop();
    }
    name
}

/// The `options` startup parameter that says the same as `settings`, after the user's own options, so that the
/// pinned ones win. Blanks and backslashes inside a value are escaped as the server's splitter wants it.
pub(super) fn as_options(user_options: Option<&str>, settings: &[(&str, &str)]) -> String {
    let mut options = user_options.unwrap_or_default().to_owned();
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.push_str(" -c ");
        options.push_str(name);
        options.push('=');
        options.push_str(&value);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_escape_blanks_and_come_after_the_users_own() {
        let options = as_options(Some("-c work_mem=4MB"), &[("DateStyle", "ISO, MDY"), ("search_path", "")]);
        assert_eq!(options, "-c work_mem=4MB -c DateStyle=ISO,\\ MDY -c search_path=");
    }

    #[test]
    fn application_names_are_never_longer_than_the_server_keeps() {
        assert_eq!(application_name("apply"), "pgsluice apply");
        assert_eq!(application_name(&"ü".repeat(60)).len(), 63);
    }
}
