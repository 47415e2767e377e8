//! Connection strings as libpq's documentation and users write them.

use std::time::Duration;

use super::super::settings::{DEFAULT_CONNECT_TIMEOUT, Place, RootCertificates, ServerRole, SslMode};
use super::*;

fn parsed(text: &str) -> ConnectionSettings {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    let error = parse(text).expect_err(text);
    format!("{error} {error:?}")
}

#[test]
fn a_uri_gives_every_part() {
    let settings = parsed(
        "postgresql://app:s%40cret%2F@db.example:6543/shop?sslmode=verify-full&sslrootcert=/ca.crt&connect_timeout=3",
    );
    assert_eq!((settings.host(), settings.port()), ("db.example".to_owned(), 6543));
    assert_eq!((settings.user(), settings.database()), ("app", "shop"));
    assert_eq!(settings.password, Some("s@cret/".into()));
    assert_eq!(settings.ssl_mode(), SslMode::VerifyFull);
    assert_eq!(settings.tls.roots, RootCertificates::File("/ca.crt".into()));
    assert_eq!(settings.connect_timeout, Duration::from_secs(3));
}

#[test]
fn a_key_value_string_with_quotes_and_backslashes_gives_the_same() {
    let settings = parsed(r"host = db.example port=6543 user='ap p' password='it\'s \\ here' dbname=shop");
    assert_eq!(settings.describe(), "db.example:6543/shop as ap p");
    assert_eq!(settings.password, Some(r"it's \ here".into()));
}

#[test]
fn several_hosts_ipv6_addresses_and_unix_sockets_are_understood() {
    let settings = parsed("postgres://u@[::1]:5433,db2/d");
    assert_eq!(settings.describe(), "[::1]:5433,db2:5432/d as u");
    let settings = parsed("postgres://u@h1,h2:6000/d?target_session_attrs=read-write");
    assert_eq!(settings.role, ServerRole::Primary);
    assert_eq!(settings.describe(), "h1:5432,h2:6000/d as u");
    let settings = parsed("postgresql:///d?host=/run/postgresql&user=u&port=5434");
    assert_eq!(settings.describe(), "/run/postgresql:5434/d as u");
    let settings = parsed("postgresql://u@%2Frun%2Fpostgresql/d");
    assert_eq!(settings.hosts[0].place, Place::Unix { directory: "/run/postgresql".into() });
    let settings = parsed("host=a,b,c port=1 user=u dbname=d");
    assert_eq!(settings.describe(), "a:1,b:1,c:1/d as u");
    let settings = parsed("host=name hostaddr=10.0.0.1 user=u dbname=d");
    assert_eq!(
        settings.hosts[0].place,
        Place::Tcp { host: "name".into(), address: Some("10.0.0.1".parse().unwrap()) }
    );
}

#[test]
fn a_missing_database_is_the_users_own_as_in_libpq() {
    assert_eq!(parsed("postgres://app@db").database(), "app");
}

#[test]
fn unknown_keywords_are_named_with_what_was_meant() {
    assert!(refused("postgres://db/x?sslmod=require").contains("did you mean `sslmode`?"));
    assert!(refused("host=db pasword=hunter2").contains("did you mean `password`?"));
    assert!(refused("host=db passfile=/x").contains("password_file"));
}

#[test]
fn wrong_values_say_what_is_allowed_and_never_what_was_written() {
    for text in [
        "postgres://app:hunter2@db/x?sslmode=hunter2",
        "host=db port=hunter2",
        "host=db connect_timeout=hunter2",
        "host=db channel_binding=hunter2",
        "postgres://app:hunter2@in-it@db/x",
        "postgres://app:hunter2%zz@db/x",
        "host=db password='hunter2",
        "host=db password=hun ter2'hunter2",
        "host=db password=a hunter2@b=c",
        "just hunter2",
        "",
    ] {
        assert!(!refused(text).contains("hunter2"), "{}", refused(text));
    }
    assert!(refused("host=db sslmode=full").contains("verify-full"));
}

#[test]
fn contradictions_are_refused_as_libpq_refuses_them() {
    assert!(refused("host=a,b port=1,2,3").contains("2 hosts but 3 values of `port`"));
    assert!(refused("host=a sslrootcert=system sslmode=require").contains("verify-full"));
    assert_eq!(parsed("host=a sslrootcert=system").ssl_mode(), SslMode::VerifyFull);
    assert!(refused("host=a sslnegotiation=direct").contains("sslmode=require"));
    assert!(refused("host=a sslcert=/x").contains("sslkey"));
    assert!(refused("user=app dbname=shop").contains("`host`"));
}

#[test]
fn waits_without_end_are_not_accepted_as_infinite() {
    assert_eq!(parsed("host=a connect_timeout=0").connect_timeout, DEFAULT_CONNECT_TIMEOUT);
    assert_eq!(parsed("host=a keepalives=0").tcp.keepalives, None);
    let keepalives = parsed("host=a keepalives_idle=7").tcp.keepalives.unwrap();
    assert_eq!(keepalives.idle, Duration::from_secs(7));
}

#[test]
fn secrets_appear_in_no_printed_form_but_in_the_environment_for_libpq() {
    let settings = parsed("postgres://app:hunter2@db/shop?sslmode=require");
    assert!(!format!("{settings} {settings:?}").contains("hunter2"));
    let environment = settings.libpq_environment();
    let value = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("PGPASSWORD"), Some("hunter2"));
    assert_eq!(value("PGHOST"), Some("db"));
    assert_eq!(value("PGSSLMODE"), Some("require"));
}

#[test]
fn the_same_database_is_recognized_whatever_the_user() {
    let source = parsed("postgres://a@db:5432/shop");
    assert!(source.same_database(&parsed("host=db user=b dbname=shop")));
    assert!(!source.same_database(&parsed("host=db user=b dbname=other")));
    assert!(!source.same_database(&parsed("host=db port=5433 user=b dbname=shop")));
}
