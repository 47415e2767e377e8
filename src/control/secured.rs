//! One client's stream, plain or TLS. The handshake is done by whoever reads the stream first, so that accepting the next client
//! never waits for it. A client that speaks plain HTTP to a TLS port is told so in HTTP, which it understands.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::problem;

/// What every TLS connection begins with: a record of the type "handshake" (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// As much of a plain request as is read before it is answered: a connection closed with bytes unread would be reset, and
/// the answer lost.
const PLAIN_BYTES_MAX: usize = 16 * 1024;

/// A stream that may have to be secured first.
pub(super) enum ClientStream {
    Plain(TcpStream),
    /// Nothing was received yet.
    Unseen(TcpStream, TlsAcceptor),
    Handshake(Box<Accept<TcpStream>>),
    Secured(Box<TlsStream<TcpStream>>),
    /// It will not be.
    Failed,
}

impl ClientStream {
    pub(super) fn new(stream: TcpStream, acceptor: Option<TlsAcceptor>) -> Self {
        match acceptor {
            None => Self::Plain(stream),
            Some(acceptor) => Self::Unseen(stream, acceptor),
        }
    }

    /// Whether bytes can pass.
    pub(super) const fn is_established(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Secured(_))
    }

    /// Does what is left of the handshake.
    fn poll_established(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Plain(_) | Self::Secured(_) => return Poll::Ready(Ok(())),
                Self::Failed => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                Self::Unseen(stream, acceptor) => {
                    let mut first = [0];
                    let seen = ready!(stream.poll_peek(context, &mut ReadBuf::new(&mut first)));
                    let is_tls = match seen {
                        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(_) => Ok(first == [HANDSHAKE_RECORD]),
                        Err(error) => Err(error),
                    };
                    let acceptor = acceptor.clone();
                    let Self::Unseen(stream, _) = std::mem::replace(self, Self::Failed) else { continue };
                    match is_tls {
                        Ok(true) => *self = Self::Handshake(Box::new(acceptor.accept(stream))),
                        Ok(false) => {
                            answer_in_plain(&stream);
                            tracing::debug!("a client speaks plain http to the port of https");
                            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Self::Handshake(handshake) => match ready!(Pin::new(&mut **handshake).poll(context)) {
                    Ok(stream) => *self = Self::Secured(Box::new(stream)),
                    Err(error) => {
                        // Whoever it was: a scanner, a client with another authority. Nobody here has to do anything.
                        tracing::debug!(%error, "a client's tls handshake failed");
                        *self = Self::Failed;
                        return Poll::Ready(Err(error));
                    }
                },
            }
        }
    }
}

/// As far as it goes at once: it is a courtesy, and nobody waits for it.
fn answer_in_plain(stream: &TcpStream) {
    let _ = stream.try_read(&mut [0; PLAIN_BYTES_MAX]);
    let body = problem::https_only();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_established(context))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unseen(..) | Self::Handshake(_) | Self::Failed => not_connected(),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_established(context))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unseen(..) | Self::Handshake(_) | Self::Failed => not_connected(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream) => Pin::new(stream).poll_flush(context),
            // Nothing was written yet.
            Self::Unseen(..) | Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }

    /// A handshake that is not done is not waited for.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unseen(..) | Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }
}

fn not_connected<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}
