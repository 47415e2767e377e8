//! A narrow network: a TCP proxy on 127.0.0.1 that lets so many bytes a second through from the server to all its clients
//! together. So a copy takes as long as one over a slow line or of a much larger table, for whoever copies.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Outcome;

/// A piece is let through as a whole: small, so that no client waits long for another's.
const PIECE_BYTES: usize = 16 * 1024;

/// The proxy. Dropping it ends all connections.
pub(crate) struct NarrowLink {
    port: u16,
    _service: JoinSet<()>,
}

impl NarrowLink {
    /// Listens on a port of its own and leads to `server_port`.
    pub(crate) async fn start(server_port: u16, bytes_per_second: u64) -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Line { bytes_per_second, free_at: Mutex::new(Instant::now()) });
        let mut service = JoinSet::new();
        service.spawn(async move {
            let mut directions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { continue };
                if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
                    continue;
                }
                let (mut from_client, to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                directions.spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                    let _ = to_server.shutdown().await;
                });
                directions.spawn(carry(from_server, to_client, Arc::clone(&line)));
            }
        });
        Ok(Self { port, _service: service })
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

/// What all connections share.
struct Line {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Line {
    /// When a piece that comes now will be through.
    fn through_at(&self, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(Instant::now()) + takes;
        *free_at
    }
}

/// From the server to one client, until either end closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: Arc<Line>) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep_until(line.through_at(bytes)).await;
        if to.write_all(&buffer[..bytes]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
