//! Bounds what clients can occupy: how many connections there are, and how long one may be silent (INV-11). Further
//! clients wait in the kernel's queue, whose length the kernel bounds.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections served at the same time.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// A connection on which nothing moves for this long is closed. Event streams carry something four times as often.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A TCP listener with bounds.
pub(super) struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    silence_max: Duration,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, connections_max: usize, silence_max: Duration) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(connections_max)), silence_max }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; were it, serving without a permit would still be serving.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let silence = Box::pin(tokio::time::sleep(self.silence_max));
        (Connection { stream, silence, silence_max: self.silence_max, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A client's connection, which ends in an error once it was silent for too long.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    silence_max: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Passes on what the stream answered, and watches how long it answers nothing.
    fn watched<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.silence.as_mut().reset(Instant::now() + self.silence_max);
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
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watched(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn bounded(connections_max: usize, silence_max: Duration) -> (BoundedListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        (BoundedListener::new(listener, connections_max, silence_max), address)
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
}
