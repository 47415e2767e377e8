//! Settings under which values print and parse otherwise: others on each side, and others for server, database and role.

use std::io::Write as _;
use std::sync::Once;

use tokio_postgres::Client;

use crate::harness::clusters::{connect, options};
use crate::harness::stage::{Pair, Stage};

const SOURCE_SERVER: &[(&str, &str)] = &[
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "America/St_Johns"),
    ("timezone_abbreviations", "India"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("xmloption", "document"),
    ("xmlbinary", "hex"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("default_text_search_config", "pg_catalog.german"),
    // The copy's statements are read in the log.
    ("log_statement", "all"),
];

const TARGET_SERVER: &[(&str, &str)] = &[
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Pacific/Apia"),
    ("extra_float_digits", "0"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "on"),
    ("escape_string_warning", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
];

const SOURCE_DATABASE_AND_ROLE: &str = "
    ALTER DATABASE {database} SET DateStyle = 'Postgres, DMY'; ALTER DATABASE {database} SET search_path = \"odd types\", whole_row, public;
    ALTER DATABASE {database} SET standard_conforming_strings = off; ALTER DATABASE {database} SET client_encoding = 'LATIN1';
    ALTER ROLE postgres SET TimeZone = 'Asia/Kathmandu'; ALTER ROLE postgres SET row_security = on;
    ALTER ROLE postgres IN DATABASE {database} SET IntervalStyle = 'postgres_verbose';
    ALTER ROLE postgres IN DATABASE {database} SET extra_float_digits = -3";

const TARGET_DATABASE_AND_ROLE: &str = "
    ALTER DATABASE {database} SET DateStyle = 'Postgres, YMD'; ALTER DATABASE {database} SET search_path = as_key, \"odd types\", pg_catalog;
    ALTER DATABASE {database} SET bytea_output = 'escape'; ALTER DATABASE {database} SET xmloption = 'document';
    ALTER DATABASE {database} SET client_encoding = 'WIN1252'; ALTER DATABASE {database} SET default_transaction_isolation = 'serializable';
    ALTER ROLE postgres SET TimeZone = 'Africa/Monrovia'; ALTER ROLE postgres SET default_toast_compression = 'pglz';
    ALTER ROLE postgres IN DATABASE {database} SET IntervalStyle = 'iso_8601'; ALTER ROLE postgres IN DATABASE {database} SET lock_timeout = '30s'";

/// Locales in which money looks otherwise; a machine without any of them cannot show what it does to it.
const OTHER_CURRENCIES: [&str; 4] = ["de_DE.utf8", "ja_JP.utf8", "fr_FR.utf8", "en_GB.utf8"];

/// Servers with such settings.
pub(super) async fn odd_stage(pair: Pair) -> Stage {
    let with = |settings: &[(&str, &str)]| {
        settings.iter().fold(options(), |options, (name, value)| options.setting(*name, *value))
    };
    let stage = Stage::with_options(pair, with(SOURCE_SERVER), with(TARGET_SERVER)).await;
    for (client, settings) in [
        (stage.source_client().await, SOURCE_DATABASE_AND_ROLE),
        (stage.target_client().await, TARGET_DATABASE_AND_ROLE),
    ] {
        client.batch_execute("CREATE DATABASE portable").await.expect("database");
        for database in ["app", "portable"] {
            client.batch_execute(&settings.replace("{database}", database)).await.expect("settings");
            set_another_currency(&client, database).await;
        }
    }
    stage
}

static SAID: Once = Once::new();

async fn set_another_currency(client: &Client, database: &str) {
    for locale in OTHER_CURRENCIES {
        if client
            .batch_execute(&format!("ALTER DATABASE {database} SET lc_monetary = '{locale}'"))
            .await
            .is_ok()
        {
            return;
        }
    }
    SAID.call_once(|| {
        let tried = OTHER_CURRENCIES.join(", ");
        let _ = writeln!(
            std::io::stderr(),
            "matrix: lc_monetary is not varied: this machine has none of {tried}"
        );
    });
}

/// A session of the source that reads the values of the matrix as they are meant, and does not log them.
pub(super) async fn plain_session(url: &str) -> Client {
    let client = connect(url).await;
    client
        .batch_execute(
            "SET log_statement = 'none'; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;
             SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET lc_monetary = 'C';
             SET extra_float_digits = 3; SET xmloption = 'content'; SET array_nulls = on; SET search_path = pg_catalog",
        )
        .await
        .expect("settings of this session");
    client
}
