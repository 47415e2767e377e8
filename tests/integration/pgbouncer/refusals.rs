//! What the `pgbouncer` adapter refuses, what it waits for, and what it says when a console does not answer.

use super::*;
use crate::harness::wait::until;

/// A step that must fail, within its bound of a second and some room for a busy machine.
async fn fails(traffic: &Traffic, step: Step, context: &TrafficContext) -> TrafficError {
    let begun_at = Instant::now();
    let error = traffic.perform(step, context).await.expect_err(step.as_str());
    assert!(begun_at.elapsed() < Duration::from_secs(3), "{step:?} took {:?}", begun_at.elapsed());
    assert!(!error.remedy.is_empty() && !format!("{error:?}").contains("throwaway"), "{error:?}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_mode_is_refused_unless_it_may_be_waited_for() {
    let scene = Scene::new("").await;
    let text = scene.file().replace("pool_size=6", "pool_mode=session");
    fs::write(scene.pooler.config_file(), text).expect("written");
    Console::open(&scene.pooler).await.ask("RELOAD").await;
    let context = scene.context(Direction::Forward, 1);
    let error = fails(&scene.traffic(""), Step::Prepare, &context).await;
    assert!(error.problem.contains("session mode (shop)"), "{error}");
    assert!(error.remedy.contains("session_pools"), "{error:?}");

    let traffic = scene.traffic("session_pools = \"wait\"\ntimeout_ms = 1000\n");
    traffic.perform(Step::Prepare, &context).await.expect("it may wait");
    let client = connect(&scene.pooler.url("shop")).await;
    client.batch_execute("SELECT 1").await.expect("a server connection of its own");
    let error = fails(&traffic, Step::Pause, &context).await;
    assert!(error.problem.contains("1 server connections") && error.problem.contains("in use"), "{error}");
    traffic.perform(Step::Undo, &context).await.expect("undone");
    client.batch_execute("SELECT 1").await.expect("nothing happened to it");
    assert_eq!(scene.shown().await, (scene.old.port(), false, "15".to_owned()));

    let goes = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(client);
    };
    let (paused, ()) = tokio::join!(traffic.perform(Step::Pause, &context), goes);
    paused.expect("the client has gone");
    traffic.perform(Step::Undo, &context).await.expect("undone");
}

/// A transaction that does not end: the pause is given up, nobody saw an error, and everybody goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_does_not_end_breaks_the_pause_off() {
    let scene = Scene::new("").await;
    let clients = Clients::start(&scene.pooler.url("shop"), &[(4, Habit::Stays), (2, Habit::ComesAnew)]);
    let idler = connect(&scene.pooler.url("shop")).await;
    idler.batch_execute("BEGIN; INSERT INTO ledger (client, number) VALUES (100, 1)").await.expect("begun");
    let (traffic, context) = (scene.traffic("timeout_ms = 1000\n"), scene.context(Direction::Forward, 1));
    traffic.perform(Step::Prepare, &context).await.expect("prepared");
    let error = fails(&traffic, Step::Pause, &context).await;
    assert!(error.problem.contains("1 server connections"), "{error}");
    traffic.perform(Step::Undo, &context).await.expect("undone");
    clients.commit(50).await;
    idler.batch_execute("COMMIT").await.expect("it goes on where it was");
    let record = clients.stop().await;
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert!(record.longest_wait < Duration::from_secs(3), "{:?}", record.longest_wait);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_that_is_silent_or_gone_is_an_error_in_every_step_and_undo_works_later() {
    let mut scene = Scene::new("").await;
    let before = scene.file();
    for (epoch, broken) in (1..).zip(FORWARD) {
        let context = scene.context(Direction::Forward, epoch);
        let traffic = scene.traffic("timeout_ms = 1000\n");
        for step in FORWARD.into_iter().take_while(|step| *step != broken) {
            traffic.perform(step, &context).await.expect("done");
        }
        scene.pooler.signal(Signal::SIGSTOP);
        let error = fails(&traffic, broken, &context).await;
        assert!(error.problem.contains("within 1.0 s"), "{error}");
        // So is a process that has no session yet.
        fails(&scene.traffic("timeout_ms = 1000\n"), Step::Undo, &context).await;
        scene.pooler.signal(Signal::SIGCONT);
        traffic.perform(Step::Undo, &context).await.expect("undone");
        assert_eq!(scene.file(), before);
        until("what was asked for meanwhile", || async { !scene.shown().await.1 }).await;

        for step in FORWARD.into_iter().take_while(|step| *step != broken) {
            traffic.perform(step, &context).await.expect("done");
        }
        scene.pooler.kill();
        let error = fails(&traffic, broken, &context).await;
        assert!(error.problem.contains("127.0.0.1"), "{error}");
        fails(&traffic, Step::Undo, &context).await;
        scene.pooler.start_again().await.expect("it starts");
        traffic.perform(Step::Undo, &context).await.expect("undone");
        assert_eq!(scene.file(), before);
        assert_eq!(scene.shown().await, (scene.old.port(), false, "15".to_owned()));
    }
}

/// After the commit a pooler that was down is moved all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_restarts_while_paused_is_led_to_the_target() {
    let mut scene = Scene::new("").await;
    let (traffic, context) = (scene.traffic(""), scene.context(Direction::Forward, 1));
    for step in [Step::Prepare, Step::Pause] {
        traffic.perform(step, &context).await.expect("done");
    }
    scene.pooler.kill();
    scene.pooler.start_again().await.expect("it starts");
    for step in [Step::Retarget, Step::Resume] {
        traffic.perform(step, &context).await.expect("done");
    }
    assert_eq!(scene.shown().await, (scene.new.port(), false, "15".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_work_later_is_refused_before_anything_is_touched() {
    let scene = Scene::new("stats_users = watcher").await;
    let context = scene.context(Direction::Forward, 1);
    let console = scene.pooler.console_url();

    let error = fails(&scene.traffic("databases = [\"store\"]\n"), Step::Prepare, &context).await;
    assert!(error.problem.contains("no database store") && error.problem.contains("shop ("), "{error}");
    let nowhere = format!("source_address = \"old.example:{}\"\n", scene.old.port());
    let error = fails(&scene.traffic(&nowhere), Step::Prepare, &context).await;
    assert!(error.problem.contains("leads to old.example") && error.problem.contains("shop ("), "{error}");
    let same = format!("target_address = \"127.0.0.1:{}\"\n", scene.old.port());
    let error = fails(&scene.traffic(&same), Step::Prepare, &context).await;
    assert!(error.problem.contains("both sides"), "{error}");

    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("other.ini");
    let of_file = |path: &std::path::Path| {
        scene.traffic_of(&format!("consoles = [{console:?}]\nconfig_file = {path:?}\n"))
    };
    let error = fails(&of_file(&other), Step::Prepare, &context).await;
    assert!(error.problem.contains("other.ini"), "{error}");
    fs::write(&other, "[databases]\nstore = host=x\n").expect("written");
    let error = fails(&of_file(&other), Step::Prepare, &context).await;
    assert!(error.problem.contains("no line for shop"), "{error}");
    fs::write(&other, "[databases]\nshop = host=x\n").expect("written");
    let error = fails(&of_file(&other), Step::Prepare, &context).await;
    assert!(error.problem.contains("leads to x:5432/shop in"), "{error}");

    Console::open(&scene.pooler).await.ask("PAUSE shop").await;
    let error = fails(&scene.traffic(""), Step::Prepare, &context).await;
    assert!(error.problem.contains("paused already") && error.remedy.contains("RESUME shop"), "{error:?}");
    Console::open(&scene.pooler).await.ask("RESUME shop").await;
    scene.traffic("").perform(Step::Prepare, &context).await.expect("nothing was changed");

    // Who may look, and may not do anything.
    let users = scene.pooler.config_file().with_file_name("users");
    let text = fs::read_to_string(&users).expect("users");
    fs::write(&users, format!("{text}\"watcher\" \"throwaway\"\n")).expect("written");
    Console::open(&scene.pooler).await.ask("RELOAD").await;
    let watcher = console.replace("postgres:throwaway", "watcher:throwaway");
    let entry = format!("consoles = [{watcher:?}]\nconfig_file = {:?}\n", scene.pooler.config_file());
    let error = fails(&scene.traffic_of(&entry), Step::Prepare, &context).await;
    assert!(error.remedy.contains("admin_users"), "{error:?}");
    let wrong = console.replace(":throwaway@", ":wrong@");
    let entry = format!("consoles = [{wrong:?}]\nconfig_file = {:?}\n", scene.pooler.config_file());
    let error = fails(&scene.traffic_of(&entry), Step::Prepare, &context).await;
    assert!(error.remedy.contains("password_file") && !error.problem.contains("wrong"), "{error:?}");
}
