//! What deploy/ and the quickstart tell people to use, used: every configuration is loaded, and the SQL for both sides is run against
//! real servers until a preflight finds nothing missing. Its commands are those of `documented_commands`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgsluice::config::{Config, load};
use pgsluice::connection::connect_sql;
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::model::Side;
use pgsluice::preflight::{Asked, Severity, Stage, run};

use crate::harness::clusters::{connect, installation, start};

/// Findings on what a role may do.
const RIGHTS: [&str; 3] = ["source.privileges", "target.privileges", "way_back"];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_configuration_of_an_overlay_is_accepted() {
    let directory = tempfile::tempdir().expect("a directory");
    // Where the manifests mount Secrets and certificates.
    for (mount, files) in [
        ("pgsluice", ["source-password", "target-password", "api-token"].as_slice()),
        ("pgsluice-source-ca", &["ca.crt"]),
        ("pgsluice-target-ca", &["ca.crt"]),
    ] {
        fs::create_dir(directory.path().join(mount)).expect("created");
        for file in files {
            let content =
                if *file == "ca.crt" { certificate() } else { "0123456789abcdef0123456789abcdef".into() };
            fs::write(directory.path().join(mount).join(file), content).expect("written");
        }
    }
    let mut loaded = BTreeSet::new();
    for overlay in fs::read_dir(repository("deploy/kustomize")).expect("overlays") {
        let overlay = overlay.expect("an entry").path();
        let Ok(text) = fs::read_to_string(overlay.join("pgsluice.toml")) else { continue };
        let file = directory.path().join("pgsluice.toml");
        fs::write(&file, text.replace("/run/secrets", &directory.path().display().to_string()))
            .expect("written");
        if let Err(error) = load(Some(&file), std::iter::empty()) {
            panic!("{}: {error}", overlay.display());
        }
        loaded.insert(overlay.file_name().expect("a name").to_string_lossy().into_owned());
    }
    assert_eq!(
        loaded,
        BTreeSet::from(["base", "rds", "secured", "statefulset", "zalando"].map(str::to_owned))
    );
}

fn certificate() -> String {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate").cert.pem()
}

#[tokio::test]
async fn the_example_clusters_sql_is_all_that_a_target_lacks() {
    let servers = Servers::start(14, 17).await;
    servers.on_source(&quickstart("statefulset")).await;
    let before = servers.lacks(WayBack::Wanted).await;
    assert_eq!(before, BTreeSet::from(["target.privileges", "way_back"]));
    for example in ["cluster.yaml", "cluster-import.yaml"] {
        let statements = post_init_sql(example);
        assert_eq!(statements.len(), 3, "{statements:?}");
        for statement in statements {
            servers.on_target(&statement).await;
        }
        assert_eq!(servers.lacks(WayBack::Wanted).await, BTreeSet::new(), "{example}");
        let undo =
            "ALTER ROLE shop NOREPLICATION; REVOKE SET ON PARAMETER session_replication_role FROM shop;
                    REVOKE pg_read_all_stats FROM shop";
        servers.on_target(undo).await;
        assert_eq!(servers.lacks(WayBack::Wanted).await, before, "{example}: undone");
    }
}

#[tokio::test]
async fn the_quickstarts_role_without_superuser_may_do_everything_on_15() {
    let servers = Servers::start(15, 17).await;
    servers.on_source(&quickstart("owner")).await;
    servers.on_target(&post_init_sql("cluster.yaml").join(";\n")).await;
    assert_eq!(servers.lacks(WayBack::Wanted).await, BTreeSet::new());
}

/// RDS is played by the role by which it grants what REPLICATION is elsewhere.
#[tokio::test]
async fn the_quickstarts_role_on_rds_may_do_everything_but_the_way_back() {
    let servers = Servers::start(14, 17).await;
    servers.on_source("CREATE ROLE rds_replication").await;
    servers.on_source(&quickstart("rds")).await;
    servers.on_target(&post_init_sql("cluster.yaml").join(";\n")).await;
    assert_eq!(servers.lacks(WayBack::Wanted).await, BTreeSet::from(["way_back"]));
    assert_eq!(servers.lacks(WayBack::GivenUp).await, BTreeSet::new());
}

/// The SQL of the quickstart for one kind of source.
fn quickstart(kind: &str) -> String {
    let text = fs::read_to_string(repository("docs/quickstart.md")).expect("readable");
    let (_, block) =
        text.split_once(&format!("```sql {kind}\n")).unwrap_or_else(|| panic!("no SQL for {kind}"));
    let (block, _) = block.split_once("```").expect("an end");
    block.to_owned()
}

/// The statements that CloudNativePG runs in the new database, as a superuser.
fn post_init_sql(example: &str) -> Vec<String> {
    let text = fs::read_to_string(repository("deploy/examples").join(example)).expect("readable");
    let (_, list) = text.split_once("postInitApplicationSQL:\n").expect("statements");
    list.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .map_while(|line| line.strip_prefix("- "))
        .map(str::to_owned)
        .collect()
}

/// `cutover.reverse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayBack {
    Wanted,
    GivenUp,
}

/// A source and a target as they are before anybody reads the quickstart: each has the database `shop` of the role `shop`.
struct Servers {
    source: LocalCluster,
    target: LocalCluster,
}

impl Servers {
    async fn start(source: u32, target: u32) -> Self {
        let (source, target) = tokio::join!(start(source), start(target));
        for cluster in [&source, &target] {
            let client = connect(&cluster.url("postgres")).await;
            client.batch_execute("CREATE ROLE shop LOGIN PASSWORD 'target-password'").await.expect("role");
            client.batch_execute("CREATE DATABASE shop OWNER shop").await.expect("database");
        }
        let servers = Self { source, target };
        servers
            .on_source("SET ROLE shop; CREATE SCHEMA shop; CREATE TABLE shop.orders (id bigint PRIMARY KEY)")
            .await;
        servers
    }

    async fn on_source(&self, sql: &str) {
        as_superuser(&self.source, sql).await;
    }

    async fn on_target(&self, sql: &str) {
        as_superuser(&self.target, sql).await;
    }

    fn config(&self, way_back: WayBack) -> Config {
        let tools = installation(self.target.installation().major).bindir.display().to_string();
        let variables = [
            ("SOURCE__URL", self.source.url_as("migrator", "source-password", "shop")),
            ("TARGET__URL", self.target.url_as("shop", "target-password", "shop")),
            ("SCHEMA__POSTGRES_BIN_DIR", tools),
            ("CUTOVER__REVERSE", (way_back == WayBack::Wanted).to_string()),
        ];
        let variables = variables.map(|(key, value)| (format!("PGSLUICE_{key}"), value));
        load(None, variables.into_iter()).expect("a valid configuration")
    }

    /// The findings on rights. Any other blocker fails the test.
    async fn lacks(&self, way_back: WayBack) -> BTreeSet<&'static str> {
        let config = self.config(way_back);
        let source = connect_sql(&config.source.connection, Side::Source, "test").await.expect("a session");
        let target = connect_sql(&config.target.connection, Side::Target, "test").await.expect("a session");
        let findings = run(&config, Asked { source: &source, target: &target, cluster: None }, Stage::Fresh)
            .await
            .expect("preflight");
        let is_right = |id: &&str| RIGHTS.contains(id);
        for finding in findings.iter().filter(|finding| !is_right(&finding.id)) {
            assert_ne!(finding.severity, Severity::Blocker, "{finding:?}");
        }
        findings.iter().map(|finding| finding.id).filter(is_right).collect()
    }
}

async fn as_superuser(cluster: &LocalCluster, sql: &str) {
    let shop = connect(&cluster.url("shop")).await;
    shop.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
