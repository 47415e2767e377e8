//! Bounds what clients can occupy: how many connections there are, and how long one may be silent (INV-11). Further
//! clients wait in the kernel's queue, whose length the kernel bounds. With TLS a handshake counts as a connection, and has a
//! bound of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

use super::secured::ClientStream;

/// Connections served at the same time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// A connection on which nothing moves for this long is closed. Event streams carry something four times as often.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A TLS handshake is done in this time, or never.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From its connection to the end of the handshake.
    pub(super) handshake_max: Duration,
    /// From one byte to the next.
    pub(super) silence_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { handshake_max: HANDSHAKE_MAX, silence_max: SILENCE_MAX }
    }
}

/// A TCP listener with bounds.
pub(super) struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    patience: Patience,
    acceptor: Option<TlsAcceptor>,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, connections_max: usize, patience: Patience) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(connections_max)), patience, acceptor: None }
    }

    /// The same, with TLS if there is something to do handshakes with.
    pub(super) fn secured_by(mut self, acceptor: Option<TlsAcceptor>) -> Self {
        self.acceptor = acceptor;
        self
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; were it, serving without a permit would still be serving.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Handshakes and short answers are not to wait for each other; without it they are only slower.
        let _ = stream.set_nodelay(true);
        let stream = ClientStream::new(stream, self.acceptor.clone());
        let Patience { handshake_max, silence_max } = self.patience;
        let first = if stream.is_established() { silence_max } else { handshake_max };
        let silence = Box::pin(tokio::time::sleep(first));
        (Connection { stream, silence, silence_max, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A client's connection, which ends in an error once it was silent for too long.
pub(super) struct Connection {
    stream: ClientStream,
    /// Ends when the client was silent for too long; during a handshake, when that has taken too long.
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Passes on what the stream answered, and watches how long it answers nothing.
    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        was_established: bool,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let handshake_ended = !was_established && self.stream.is_established();
        if polled.is_ready() || handshake_ended {
            self.silence.as_mut().reset(Instant::now() + self.silence_max);
        }
        self.bounded(context, polled)
    }

    /// Passes on what the stream answered, unless it was silent for too long already.
    fn bounded<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let was_established = self.stream.is_established();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, was_established, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let was_established = self.stream.is_established();
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, was_established, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS it may wait for the client to read. That there is nothing to flush is no sign of life.
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;

    async fn bounded(connections_max: usize, silence_max: Duration) -> (BoundedListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let patience = Patience { silence_max, ..Patience::default() };
        (BoundedListener::new(listener, connections_max, patience), address)
    }

    #[tokio::test]
    async fn a_silent_connection_is_given_up() {
        let (mut listener, address) = bounded(1, Duration::from_millis(20)).await;
        let _client = TcpStream::connect(address).await.expect("connected");
        let (mut connection, _) = listener.accept().await;
        let error = connection.read_u8().await.expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_more_client_waits_until_another_has_gone() {
        let (mut listener, address) = bounded(1, SILENCE_MAX).await;
        let _first = TcpStream::connect(address).await.expect("connected");
        let (connection, _) = listener.accept().await;
        let _second = TcpStream::connect(address).await.expect("the kernel takes it");
        let too_early = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(too_early.is_err(), "no permit is free");
        drop(connection);
        tokio::time::timeout(Duration::from_secs(5), listener.accept())
            .await
            .expect("the permit is free again");
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_gives_its_place_to_the_next_client() {
        let authority = super::super::tls_fixture::Authority::new();
        authority.issue();
        let identity = super::super::rotation::RotatingIdentity::new(authority.files()).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let patience = Patience { handshake_max: Duration::from_millis(30), ..Patience::default() };
        let acceptor = identity.acceptor().expect("an acceptor");
        let mut listener = BoundedListener::new(listener, 1, patience).secured_by(Some(acceptor));
        // Each is alive, and sends a byte of what could become a handshake.
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = TcpStream::connect(address).await.expect("the kernel takes it");
            tokio::io::AsyncWriteExt::write_all(&mut client, b"\x16").await.expect("sent");
            clients.push(client);
        }
        for _ in 0..3 {
            let accepted = tokio::time::timeout(Duration::from_secs(5), listener.accept()).await;
            let (mut connection, _) = accepted.expect("the place of the one before is free");
            let error = connection.read_u8().await.expect_err("no handshake");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    /// A client that does not read: what TLS has to keep for it is bounded, and so is the wait for it.
    #[tokio::test]
    async fn a_client_that_stops_reading_over_tls_is_given_up_whatever_is_waited_for() {
        use tokio::io::AsyncWriteExt as _;

        let authority = super::super::tls_fixture::Authority::new();
        authority.issue();
        let identity = super::super::rotation::RotatingIdentity::new(authority.files()).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let patience = Patience { silence_max: Duration::from_millis(100), ..Patience::default() };
        let acceptor = identity.acceptor().expect("an acceptor");
        let mut listener = BoundedListener::new(listener, 1, patience).secured_by(Some(acceptor));
        let config = crate::connection::https_client_config(&authority.file()).expect("tls");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let client = TcpStream::connect(address).await.expect("connected");
        let (mut connection, _) = listener.accept().await;
        let (client, first) = tokio::join!(
            async {
                let mut client = connector.connect(name, client).await.expect("a handshake");
                client.write_all(b"x").await.expect("sent");
                client
            },
            connection.read_u8()
        );
        assert_eq!(first.expect("a byte"), b'x');
        let piece = vec![0; 16 * 1024];
        let bound = Duration::from_secs(20);
        let given_up = tokio::time::timeout(bound, async {
            loop {
                if let Err(error) = connection.write_all(&piece).await {
                    break error;
                }
            }
        });
        assert_eq!(given_up.await.expect("an end").kind(), io::ErrorKind::TimedOut);
        let flushed = tokio::time::timeout(bound, connection.flush()).await.expect("an end");
        assert_eq!(flushed.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
        let closed = tokio::time::timeout(bound, connection.shutdown()).await.expect("an end");
        assert_eq!(closed.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
