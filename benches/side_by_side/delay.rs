//! A network that is further away: a TCP proxy on 127.0.0.1 that hands every byte on after a fixed time, in order, with as
//! many under way as come. It throttles nothing and loses nothing.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Outcome;

/// Pieces under way in one direction of one connection: what a long link holds, and a bound on memory.
const PIECES_UNDER_WAY_MAX: usize = 4_096;
const PIECE_BYTES: usize = 64 * 1024;

/// The proxy. Dropping it ends all connections.
pub(crate) struct DelayedLink {
    port: u16,
    _service: JoinSet<()>,
}

impl DelayedLink {
    /// Listens on a port of its own and leads to `server_port`; bytes take `delay` in each direction.
    pub(crate) async fn start(server_port: u16, delay: Duration) -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mut service = JoinSet::new();
        service.spawn(async move {
            let mut directions = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else { continue };
                if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
                    continue;
                }
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                directions.spawn(carry(from_client, to_server, delay));
                directions.spawn(carry(from_server, to_client, delay));
            }
        });
        Ok(Self { port, _service: service })
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }
}

/// One direction, until either end closes; the close is handed on in its turn.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(PIECES_UNDER_WAY_MAX);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if sender.send((Instant::now() + delay, buffer.split().freeze())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
