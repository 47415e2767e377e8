//! A TCP proxy on 127.0.0.1 that can misbehave: delay, swallow, cut. Stands between the program and a server, or between
//! two servers; like a Service it can lead somewhere else from now on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does with connections, those that are open included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Passes everything on.
    Up,
    /// Passes everything on, later.
    Slow(Duration),
    /// Accepts everything and passes nothing on: a half-open connection, as after a lost node.
    Silent,
    /// Ends open connections and refuses new ones.
    Down,
}

/// Where new connections are led: the first ones each to the next port, all others to the last.
#[derive(Debug)]
struct Route {
    first: VecDeque<u16>,
    then: u16,
}

/// The proxy. Dropping it ends all connections.
pub(crate) struct Proxy {
    port: u16,
    network: Arc<watch::Sender<Network>>,
    route: Arc<Mutex<Route>>,
    _service: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let network = Arc::new(watch::Sender::new(Network::Up));
        let route = Arc::new(Mutex::new(Route { first: VecDeque::new(), then: server_port }));
        let mut service = JoinSet::new();
        let (state, routes) = (Arc::clone(&network), Arc::clone(&route));
        service.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() != Network::Down {
                    let server_port = routes.lock().expect("no panic under the lock").next();
                    connections.spawn(relay(client, server_port, state.subscribe()));
                }
            }
        });
        Self { port, network, route, _service: service }
    }

    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Leads new connections to another server; those that are open stay, as with a Service.
    pub(crate) fn lead_to(&self, server_port: u16) {
        self.lead_first_to(&[], server_port);
    }

    /// The same, after the first new connections were led elsewhere, one to each of these ports.
    pub(crate) fn lead_first_to(&self, first: &[u16], then: u16) {
        let route = Route { first: first.iter().copied().collect(), then };
        *self.route.lock().expect("no panic under the lock") = route;
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// `url` by way of this proxy.
    pub(crate) fn in_front_of(&self, url: &str, server_port: u16) -> String {
        url.replace(&format!(":{server_port}/"), &format!(":{}/", self.port))
    }
}

impl Route {
    fn next(&mut self) -> u16 {
        self.first.pop_front().unwrap_or(self.then)
    }
}
async fn relay(client: TcpStream, server_port: u16, network: watch::Receiver<Network>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { return };
    let mut down = network.clone();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pass(client_read, server_write, network.clone()) => {}
        () = pass(server_read, client_write, network) => {}
        _ = down.wait_for(|network| *network == Network::Down) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Ok(now) = network.wait_for(|network| *network != Network::Silent).await.map(|now| *now) else {
            return;
        };
        if let Network::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
