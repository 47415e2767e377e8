//! A DOUBLE of the metrics endpoints of a pooler's pods: one address of the loopback network for each, all on one port, as pods
//! have it. It tells what the test says, in the form of CloudNativePG's exporter.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

type Told = Arc<Mutex<(StatusCode, String)>>;

pub(crate) struct PodsDouble {
    pub(crate) port: u16,
    pods: Vec<Told>,
}

impl PodsDouble {
    /// At 127.0.0.2, 127.0.0.3, and so on.
    pub(crate) async fn start(pods: u8) -> Self {
        for _ in 0..50 {
            let first = TcpListener::bind("127.0.0.2:0").await.expect("a port");
            let port = first.local_addr().expect("an address").port();
            let mut listeners = vec![first];
            for number in 1..pods {
                // Somebody else may have this port there.
                if let Ok(listener) = TcpListener::bind((address(number), port)).await {
                    listeners.push(listener);
                }
            }
            if listeners.len() == usize::from(pods) {
                return Self { port, pods: listeners.into_iter().map(serve).collect() };
            }
        }
        panic!("no port is free on {pods} addresses");
    }

    /// How many connections to the database a pod has, and how many clients wait there.
    pub(crate) fn tell(&self, pod: usize, servers: u32, waiting: u32) {
        let mut text = String::from("# TYPE cnpg_pgbouncer_pools_sv_active gauge\n");
        for (column, count) in [("sv_active", servers), ("sv_idle", 0), ("cl_waiting", waiting)] {
            let _ = writeln!(
                text,
                "cnpg_pgbouncer_pools_{column}{{database=\"pgbouncer\",user=\"pgbouncer\"}} 0\n\
                 cnpg_pgbouncer_pools_{column}{{database=\"shop\",user=\"app\"}} {count}"
            );
        }
        self.answer(pod, StatusCode::OK, &text);
    }

    pub(crate) fn answer(&self, pod: usize, status: StatusCode, text: &str) {
        *self.pods[pod].lock().expect("lock") = (status, text.to_owned());
    }
}

/// The address of a pod.
pub(crate) fn address(pod: u8) -> String {
    format!("127.0.0.{}", pod + 2)
}

fn serve(listener: TcpListener) -> Told {
    let told = Told::new(Mutex::new((StatusCode::SERVICE_UNAVAILABLE, String::new())));
    let answer = Arc::clone(&told);
    let router =
        Router::new().route("/metrics", get(move || async move { answer.lock().expect("lock").clone() }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    told
}
