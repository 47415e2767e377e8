//! The `pgbouncer` adapter by itself: a real PgBouncer between clients and two real servers, led there and back. Nobody
//! fences anything here; what is looked at is what clients, the console and the file see, whatever happens between two
//! steps and in the middle of one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::demo::pooler::LocalPooler;
use pgsluice::migration::CutoverMode;
use pgsluice::model::Direction;
use pgsluice::traffic::{Endpoint, OperatorsWord, Step, Traffic, TrafficContext, TrafficError};
use rand::RngExt as _;

use crate::harness::clusters::{connect, start};
use crate::harness::pooled::{Clients, Habit, LEDGER, judge};
use crate::harness::seed;

const FORWARD: [Step; 4] = [Step::Prepare, Step::Pause, Step::Retarget, Step::Resume];

/// Two servers with a ledger each, and a pooler whose database `shop` leads to the old one.
struct Scene {
    old: LocalCluster,
    new: LocalCluster,
    pooler: LocalPooler,
}

impl Scene {
    async fn new(settings: &str) -> Self {
        Self::with_others("", settings).await
    }

    /// With other databases beside it.
    async fn with_others(others: &str, settings: &str) -> Self {
        let (old, new) = tokio::join!(start(14), start(17));
        for cluster in [&old, &new] {
            connect(&cluster.url("postgres")).await.batch_execute("CREATE DATABASE shop").await.expect("SQL");
            connect(&cluster.url("shop")).await.batch_execute(LEDGER).await.expect("SQL");
        }
        let line = format!("shop = host=127.0.0.1 port={} pool_size=6\n{others}", old.port());
        let pooler = LocalPooler::start(&line, settings).await.expect("a pooler");
        Self { old, new, pooler }
    }

    /// The adapter as a fresh process has it.
    fn traffic(&self, more: &str) -> Traffic {
        let file = self.pooler.config_file();
        self.traffic_of(&format!(
            "consoles = [{:?}]\nconfig_file = {file:?}\n{more}",
            self.pooler.console_url()
        ))
    }

    fn traffic_of(&self, entry: &str) -> Traffic {
        let text = format!(
            "[source]\nurl = {:?}\n[target]\nurl = {:?}\n[[traffic]]\nadapter = \"pgbouncer\"\n{entry}",
            self.old.url("shop"),
            self.new.url("shop")
        );
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pgsluice.toml");
        fs::write(&path, text).expect("written");
        let config = pgsluice::config::load(Some(&path), std::iter::empty()).expect("a configuration");
        Traffic::new(&config.traffic, &OperatorsWord::default()).expect("an adapter")
    }

    fn context(&self, direction: Direction, epoch: i64) -> TrafficContext {
        let endpoint = |cluster: &LocalCluster| Endpoint {
            host: "127.0.0.1".into(),
            port: cluster.port(),
            database: "shop".into(),
        };
        let (source, target) = match direction {
            Direction::Forward => (&self.old, &self.new),
            Direction::Back => (&self.new, &self.old),
        };
        let (source, target) = (endpoint(source), endpoint(target));
        TrafficContext { epoch, mode: CutoverMode::Cutover, direction, nonce: "abc".into(), source, target }
    }

    fn file(&self) -> String {
        fs::read_to_string(self.pooler.config_file()).expect("the file")
    }

    fn urls(&self) -> [String; 2] {
        [self.old.url("shop"), self.new.url("shop")]
    }

    /// Port and `paused` of `shop`, and the time between tries of a login, as the console shows them.
    async fn shown(&self) -> (u16, bool, String) {
        let console = Console::open(&self.pooler).await;
        let rows = console.ask("SHOW DATABASES").await;
        let shop = rows.iter().find(|row| row.get("name") == Some("shop")).expect("shop");
        let port = shop.get("port").expect("a port").parse().expect("a number");
        let rows = console.ask("SHOW CONFIG").await;
        let retry = rows.iter().find(|row| row.get("key") == Some("server_login_retry")).expect("a setting");
        let limit = rows.iter().find(|row| row.get("key") == Some("max_db_connections")).expect("a setting");
        assert_eq!(limit.get("value"), Some("0"), "the limit is lifted");
        (port, shop.get("paused") == Some("1"), retry.get("value").expect("a value").to_owned())
    }
}

struct Console(tokio_postgres::Client);

impl Console {
    async fn open(pooler: &LocalPooler) -> Self {
        Self(connect(&pooler.console_url()).await)
    }

    async fn ask(&self, command: &str) -> Vec<tokio_postgres::SimpleQueryRow> {
        let answer =
            self.0.simple_query(command).await.unwrap_or_else(|error| panic!("{command}: {error:?}"));
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        answer.into_iter().filter_map(row).collect()
    }
}

async fn all_steps(traffic: &Traffic, context: &TrafficContext) {
    for step in FORWARD {
        traffic.perform(step, context).await.unwrap_or_else(|error| panic!("{error} {}", error.remedy));
    }
}

/// One client that comes while its pool has no greeting to give: PgBouncer opens a connection for it, and breaks it off.
async fn newcomer(url: String) {
    let client = connect(&url).await;
    client.batch_execute("SELECT 1").await.expect("served in the end");
}

/// The trap this adapter avoids; if this fails, the next test proves nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_adapter_a_login_that_is_broken_off_holds_all_clients_up() {
    let scene = Scene::new("server_login_retry = 4").await;
    let clients = Clients::start(&scene.pooler.url("shop"), &[(8, Habit::Stays)]);
    clients.commit(100).await;
    let console = Console::open(&scene.pooler).await;
    console.ask("PAUSE shop").await;
    let (old, new) = (format!("port={}", scene.old.port()), format!("port={}", scene.new.port()));
    fs::write(scene.pooler.config_file(), scene.file().replace(&old, &new)).expect("written");
    console.ask("RELOAD").await;
    let late = tokio::spawn(newcomer(scene.pooler.url("shop")));
    tokio::time::sleep(Duration::from_millis(200)).await;
    console.ask("RESUME shop").await;
    late.await.expect("served");
    clients.commit(100).await;
    let record = clients.stop().await;
    assert!(record.longest_wait > Duration::from_secs(3), "{:?}", record.longest_wait);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_ten_times_no_client_waits_longer_than_the_pause() {
    there_and_back(Scene::new("").await).await;
}

/// Then only the databases that are moved are paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_other_databases_no_client_waits_longer_than_the_pause_either() {
    there_and_back(Scene::with_others("other = host=127.0.0.1 port=1", "").await).await;
}

async fn there_and_back(scene: Scene) {
    let url = scene.pooler.url("shop");
    let clients = Clients::start(&url, &[(8, Habit::Stays), (4, Habit::ComesAnew)]);
    clients.commit(200).await;
    let traffic = scene.traffic("");
    let mut longest_pause = Duration::ZERO;
    for epoch in 1..=10 {
        let direction = if epoch % 2 == 1 { Direction::Forward } else { Direction::Back };
        let context = scene.context(direction, epoch);
        traffic.perform(Step::Prepare, &context).await.expect("prepared");
        let paused_at = Instant::now();
        traffic.perform(Step::Pause, &context).await.expect("paused");
        let quiet = clients.committed();
        traffic.perform(Step::Retarget, &context).await.expect("led elsewhere");
        let late: Vec<_> = (0..3).map(|_| tokio::spawn(newcomer(url.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        // A commit that was answered before the pause may be counted after it.
        assert!(clients.committed() <= quiet + 12, "somebody commits in the pause");
        traffic.perform(Step::Resume, &context).await.expect("resumed");
        longest_pause = longest_pause.max(paused_at.elapsed());
        for each in late {
            each.await.expect("served");
        }
        clients.commit(200).await;
        let (port, paused, retry) = scene.shown().await;
        assert_eq!((port, paused, retry.as_str()), (context.target.port, false, "15"));
    }
    let record = clients.stop().await;
    println!("longest wait of a client: {:?}; longest pause: {longest_pause:?}", record.longest_wait);
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert!(record.longest_wait < longest_pause + Duration::from_secs(1), "{:?}", record.longest_wait);
    assert_eq!(judge(&scene.urls(), &record).await, (0, 0));
    // The rows are where the clients were: some on each side.
    for url in scene.urls() {
        let rows: i64 =
            connect(&url).await.query_one("SELECT count(*) FROM ledger", &[]).await.expect("SQL").get(0);
        assert!(rows > 500, "{rows}");
    }
    assert!(!scene.file().contains(";pgsluice"), "nothing of it is left in the file");
}

/// Somebody else has it reload while only some databases are paused, and a client comes anew: its connection is broken off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_was_broken_off_all_the_same_is_tried_again_at_once() {
    let scene = Scene::with_others("other = host=127.0.0.1 port=1", "").await;
    newcomer(scene.pooler.url("shop")).await;
    let (traffic, context) = (scene.traffic(""), scene.context(Direction::Forward, 1));
    for step in FORWARD.into_iter().take(3) {
        traffic.perform(step, &context).await.expect("done");
    }
    Console::open(&scene.pooler).await.ask("RELOAD").await;
    let late = tokio::spawn(newcomer(scene.pooler.url("shop")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun_at = Instant::now();
    traffic.perform(Step::Resume, &context).await.expect("resumed");
    late.await.expect("served");
    assert!(begun_at.elapsed() < Duration::from_secs(2), "{:?}", begun_at.elapsed());
    assert_eq!(scene.shown().await, (scene.new.port(), false, "15".to_owned()));
}

/// PgBouncer keeps connections for clients that do nothing, and tries in vain while it is paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_idle_is_served_at_once_too() {
    let scene = Scene::new("min_pool_size = 2").await;
    let idle = connect(&scene.pooler.url("shop")).await;
    idle.batch_execute("SELECT 1").await.expect("served");
    let traffic = scene.traffic("");
    for (epoch, direction) in [(1, Direction::Forward), (2, Direction::Back), (3, Direction::Forward)] {
        let context = scene.context(direction, epoch);
        for step in FORWARD.into_iter().take(3) {
            traffic.perform(step, &context).await.expect("done");
        }
        // Longer than PgBouncer's own third of a second between two looks at its pools.
        tokio::time::sleep(Duration::from_millis(800)).await;
        traffic.perform(Step::Resume, &context).await.expect("resumed");
        let begun_at = Instant::now();
        idle.batch_execute("SELECT 1").await.expect("served");
        assert!(begun_at.elapsed() < Duration::from_secs(1), "{:?}", begun_at.elapsed());
        assert_eq!(scene.shown().await.2, "15");
    }
}

/// Every step twice, each by a process that knows nothing of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_repeated_by_fresh_processes_change_nothing() {
    let scene = Scene::new("").await;
    let clients = Clients::start(&scene.pooler.url("shop"), &[(4, Habit::Stays)]);
    for (epoch, direction) in [(1, Direction::Forward), (2, Direction::Back)] {
        let context = scene.context(direction, epoch);
        for step in [Step::Undo].into_iter().chain(FORWARD) {
            for _ in 0..2 {
                scene.traffic("").perform(step, &context).await.expect("done");
            }
        }
        clients.commit(50).await;
    }
    let record = clients.stop().await;
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(judge(&scene.urls(), &record).await, (0, 0));
}

/// Broken off between any two steps, and at random moments in the middle of one; a fresh process undoes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_off_anywhere_a_fresh_process_puts_everything_back() {
    let scene = Scene::new("").await;
    let (mut random, _) = seed::random("pgbouncer");
    let before = scene.file();
    let clients = Clients::start(&scene.pooler.url("shop"), &[(8, Habit::Stays), (2, Habit::ComesAnew)]);
    for round in 0..36 {
        let context = scene.context(Direction::Forward, round);
        let traffic = scene.traffic("");
        let whole_steps = usize::try_from(round % 4).expect("small");
        for step in FORWARD.into_iter().take(whole_steps) {
            traffic.perform(step, &context).await.expect("done");
        }
        if round >= 4 {
            // Resume is never broken off and then undone: it comes after the point of no return.
            let step = FORWARD.into_iter().take(3).nth(whole_steps).unwrap_or(Step::Retarget);
            let moment = Duration::from_micros(random.random_range(0..8_000));
            let _ = tokio::time::timeout(moment, traffic.perform(step, &context)).await;
        }
        drop(traffic);
        scene.traffic("").perform(Step::Undo, &context).await.expect("undone");
        assert_eq!(scene.file(), before, "round {round}");
        assert_eq!(scene.shown().await, (scene.old.port(), false, "15".to_owned()), "round {round}");
        clients.commit(10).await;
    }
    let record = clients.stop().await;
    println!("longest wait of a client: {:?}", record.longest_wait);
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert!(record.longest_wait < Duration::from_secs(3), "{:?}", record.longest_wait);
    let (missing, doubled) = judge(&[scene.old.url("shop")], &record).await;
    assert_eq!((missing, doubled), (0, 0));
}

/// Broken off while clients are let go on, the next process finishes it, and the setting is what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_off_while_resuming_the_next_process_finishes() {
    let scene = Scene::new("server_login_retry = 7").await;
    let (mut random, _) = seed::random("pgbouncer resume");
    let clients = Clients::start(&scene.pooler.url("shop"), &[(8, Habit::Stays)]);
    for epoch in 1..=16 {
        let direction = if epoch % 2 == 1 { Direction::Forward } else { Direction::Back };
        let context = scene.context(direction, epoch);
        let traffic = scene.traffic("");
        for step in FORWARD.into_iter().take(3) {
            traffic.perform(step, &context).await.expect("done");
        }
        let moment = Duration::from_micros(random.random_range(0..10_000));
        let _ = tokio::time::timeout(moment, traffic.perform(Step::Resume, &context)).await;
        drop(traffic);
        let next = scene.traffic("");
        next.perform(Step::Retarget, &context).await.expect("repeated");
        next.perform(Step::Resume, &context).await.expect("finished");
        assert_eq!(scene.shown().await, (context.target.port, false, "7".to_owned()));
        assert!(!scene.file().contains(";pgsluice"));
        clients.commit(10).await;
    }
    let record = clients.stop().await;
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(judge(&scene.urls(), &record).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_with_one_file_are_moved_together() {
    let mut scene = Scene::new("").await;
    let shared = tempfile::tempdir().expect("a directory");
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).expect("open to the pooler");
    let file = shared.path().join("databases.ini");
    let text = format!("[databases]\nshop = host=127.0.0.1 port={}\n", scene.old.port());
    fs::write(&file, &text).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("readable");
    let include = format!("%include {}", file.display());
    scene.pooler = LocalPooler::start(&include, "").await.expect("a pooler");
    let second = LocalPooler::start(&include, "").await.expect("a pooler");
    let entry = format!(
        "consoles = [{:?}, {:?}]\nconfig_file = {file:?}\n",
        scene.pooler.console_url(),
        second.console_url()
    );
    let traffic = scene.traffic_of(&entry);
    let first_clients = Clients::start(&scene.pooler.url("shop"), &[(6, Habit::Stays)]);
    let second_clients = Clients::start(&second.url("shop"), &[(6, Habit::Stays)]);
    first_clients.commit(50).await;
    let forward = scene.context(Direction::Forward, 1);
    traffic.perform(Step::Pause, &forward).await.expect("paused");
    traffic.perform(Step::Retarget, &forward).await.expect("led elsewhere");
    traffic.perform(Step::Undo, &forward).await.expect("undone");
    assert_eq!(fs::read_to_string(&file).expect("the file"), text);
    all_steps(&traffic, &scene.context(Direction::Forward, 2)).await;
    for clients in [&first_clients, &second_clients] {
        clients.commit(50).await;
    }
    for (clients, pooler) in [(first_clients, &scene.pooler), (second_clients, &second)] {
        let record = clients.stop().await;
        assert!(record.errors.is_empty(), "{:?}", record.errors);
        let client = connect(&pooler.url("shop")).await;
        let answer = client.simple_query("SHOW server_version").await.expect("an answer");
        assert!(format!("{answer:?}").contains("17."), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_rewrites_the_file_where_we_cannot() {
    let scene = Scene::new("").await;
    let (file, seen) = (scene.pooler.config_file(), scene.pooler.config_file().with_extension("seen"));
    let script = format!(
        "echo $0 $PGSLUICE_DATABASES >> {seen}\ncase $0 in retarget) to=$PGSLUICE_TARGET_PORT;; undo) to=$PGSLUICE_SOURCE_PORT;; *) exit 0;; esac\n\
         sed -i \"s/^shop = .*/shop = host=$PGSLUICE_TARGET_HOST port=$to/\" {file}; chmod 644 {file}",
        seen = seen.display(),
        file = file.display(),
    );
    // Another way to say the same address.
    let text = scene.file().replace("host=127.0.0.1", "host=0.0.0.0");
    fs::write(&file, text).expect("written");
    Console::open(&scene.pooler).await.ask("RELOAD").await;
    let entry = format!(
        "consoles = [{:?}]\ncommand = [\"sh\", \"-c\", {script:?}]\nsource_address = \"0.0.0.0:{}\"\ntarget_address = \"0.0.0.0:{}\"\n",
        scene.pooler.console_url(),
        scene.old.port(),
        scene.new.port()
    );
    let traffic = scene.traffic_of(&entry);
    let context = scene.context(Direction::Forward, 1);
    for step in [Step::Prepare, Step::Pause, Step::Retarget] {
        traffic.perform(step, &context).await.expect("done");
    }
    assert_eq!(scene.shown().await.0, scene.new.port());
    traffic.perform(Step::Undo, &context).await.expect("undone");
    assert_eq!(scene.shown().await, (scene.old.port(), false, "15".to_owned()));
    all_steps(&traffic, &context).await;
    assert_eq!(scene.shown().await.0, scene.new.port());
    all_steps(&traffic, &scene.context(Direction::Back, 2)).await;
    assert_eq!(scene.shown().await.0, scene.old.port());
    let seen = fs::read_to_string(seen).expect("called");
    assert!(seen.starts_with("prepare shop\nretarget shop\nundo shop\n"), "{seen}");
}

mod refusals;
