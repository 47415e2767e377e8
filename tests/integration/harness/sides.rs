//! A source and a target of two major versions, and a configuration that names them.

use pgsluice::config::{Config, load};
use pgsluice::connection::{ConnectionSettings, SqlSession, connect_sql};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, PASSWORD, SUPERUSER};
use pgsluice::model::Side;

use super::clusters::{installation, options, start_with};

/// The database that is migrated; on the target it is empty.
pub(crate) const DATABASE: &str = "postgres";

pub(crate) struct Sides {
    pub(crate) source: LocalCluster,
    pub(crate) target: LocalCluster,
    overrides: Vec<(String, String)>,
}

impl Sides {
    pub(crate) async fn start(source: u32, target: u32) -> Self {
        Self::start_with(source, target, options(), options()).await
    }

    pub(crate) async fn start_with(
        source: u32,
        target: u32,
        source_options: ClusterOptions,
        target_options: ClusterOptions,
    ) -> Self {
        let (source, target) =
            tokio::join!(start_with(source, source_options), start_with(target, target_options));
        let mut sides = Self { source, target, overrides: Vec::new() };
        sides.connect_as(Side::Source, SUPERUSER, PASSWORD);
        sides.connect_as(Side::Target, SUPERUSER, PASSWORD);
        let tools = installation(sides.target.installation().major).bindir.display().to_string();
        sides.set("SCHEMA__POSTGRES_BIN_DIR", &tools);
        sides
    }

    /// Sets a key, by the name of its environment variable without prefix.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let name = format!("PGSLUICE_{key}");
        self.overrides.retain(|(known, _)| *known != name);
        self.overrides.push((name, value.to_owned()));
    }

    /// From now on the program connects to one side as this user.
    pub(crate) fn connect_as(&mut self, side: Side, user: &str, password: &str) {
        let (key, cluster) = match side {
            Side::Source => ("SOURCE__URL", &self.source),
            Side::Target => ("TARGET__URL", &self.target),
        };
        let url = cluster.url_as(user, password, DATABASE);
        self.set(key, &url);
    }

    pub(crate) fn config(&self) -> Config {
        load(None, self.overrides.clone().into_iter()).expect("a valid configuration")
    }

    /// A session of the program's own kind.
    pub(crate) async fn session(&self, side: Side) -> SqlSession {
        let config = self.config();
        let settings = match side {
            Side::Source => config.source.connection,
            Side::Target => config.target.connection,
        };
        connect_sql(&settings, side, "test").await.expect("a session")
    }

    /// A session of a superuser.
    pub(crate) async fn superuser(&self, side: Side) -> SqlSession {
        let url = match side {
            Side::Source => self.source.url(DATABASE),
            Side::Target => self.target.url(DATABASE),
        };
        let settings = ConnectionSettings::parse(&url).expect("a valid url");
        connect_sql(&settings, side, "test").await.expect("a session")
    }
}
