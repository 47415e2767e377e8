//! The figures of `make bench` and `make bench-cutover`: what they are computed with, tried on values whose result is known.

// The benchmark has no test harness of its own: its modules are tested where there is one.
#[path = "../../benches/side_by_side/statistics.rs"]
mod statistics;

#[path = "../../benches/cutover/figures.rs"]
mod figures;

#[path = "../../benches/side_by_side/cpu.rs"]
#[allow(dead_code, reason = "only some of it is tried here")]
mod cpu;
#[path = "../../benches/side_by_side/delay.rs"]
mod delay;

use std::time::{Duration, Instant};

use cpu::{CpuSeconds, Watched};
use delay::DelayedLink;
use figures::{Spread, longest_gap, longest_gap_within};
use statistics::{median, percentile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What those modules find in theirs.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

#[test]
fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
    assert!((median(&[9.0, 1.0, 4.0]) - 4.0).abs() < f64::EPSILON);
    assert!((median(&[9.0, 1.0, 4.0, 2.0]) - 3.0).abs() < f64::EPSILON);
    assert!(median(&[]).is_nan());
}

#[test]
fn a_percentile_is_one_of_the_values() {
    let values: Vec<f64> = (1..=200).map(f64::from).collect();
    assert!((percentile(&values, 50) - 100.0).abs() < f64::EPSILON);
    assert!((percentile(&values, 99) - 198.0).abs() < f64::EPSILON);
    assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
    assert!(percentile(&[], 50).is_nan());
}

#[test]
fn a_spread_of_a_hundred_pauses_names_the_50th_the_95th_and_the_longest() {
    let pauses: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(Spread::of(&pauses), Some(Spread { p50: 50.0, p95: 95.0, max: 100.0 }));
    assert_eq!(Spread::of(&[]), None);
}

#[test]
fn a_gap_counts_for_every_operation_it_touches_and_for_no_other() {
    let begin = Instant::now();
    let at = |ms| begin + Duration::from_millis(ms);
    let gap = |from, to| {
        let acknowledged = [0, 10, 20, 120, 130, 180].map(at);
        longest_gap(&acknowledged, at(from), at(to)).map(|gap| gap.as_millis())
    };
    assert_eq!(gap(1, 19), Some(10), "before it");
    assert_eq!(gap(15, 30), Some(100), "begun in it");
    assert_eq!(gap(50, 60), Some(100), "longer than it");
    assert_eq!(gap(110, 125), Some(100), "ended in it");
    assert_eq!(gap(121, 129), Some(10), "after it");
    assert_eq!(gap(121, 400), Some(50), "up to the end");
    assert_eq!(gap(200, 400), None, "nothing is known of what comes after the last one");
    let quiet = longest_gap_within(&[0, 100, 110, 130, 300].map(at), at(50), at(200));
    assert_eq!(
        quiet,
        Some(Duration::from_millis(20)),
        "what reaches in from outside is no part of a quiet time"
    );
}

#[test]
fn cpu_time_of_a_child_counts_whether_it_still_runs_or_has_ended() {
    let mut shell = std::process::Command::new("/bin/sh")
        // The grandchild works and ends; its parent waits for it, and then for our word.
        .args(["-c", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo done; read word"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut said = [0; 5];
    let mut output = shell.stdout.take().expect("its output");
    std::io::Read::read_exact(&mut output, &mut said).expect("its word");
    let watched = Watched { source: shell.id(), target: shell.id(), replicator: None };
    let used = CpuSeconds::now(watched).expect("figures");
    drop(shell.stdin.take());
    shell.wait().expect("its end");
    assert!(used.source_server >= 0.05, "{used:?}");
    assert!(used.replicator.abs() < f64::EPSILON, "{used:?}");
}

#[tokio::test]
async fn a_delayed_link_delays_everything_and_throttles_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.expect("an echo");
    });
    let delay = Duration::from_millis(50);
    let link = DelayedLink::start(port, delay).await.expect("a link");
    let client = TcpStream::connect(("127.0.0.1", link.port())).await.expect("a connection");
    let (mut from, mut to) = client.into_split();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let started = Instant::now();
    let writing = tokio::spawn(async move {
        to.write_all(&sent).await.expect("it takes everything");
        drop(to);
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.expect("everything comes back");
    let took = started.elapsed();
    writing.await.expect("the writer's end");
    echo.await.expect("the echo's end");
    assert!(received == expected, "bytes come back in order");
    assert!(took >= 2 * delay, "{took:?}");
    // A proxy that waited out each piece in turn would need 122 pieces' delays, each way.
    assert!(took < 30 * delay, "{took:?}");
}
