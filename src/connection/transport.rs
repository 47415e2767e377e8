//! A byte stream to a server, plain or secured: name resolution, TCP options, the SSLRequest, the TLS handshake, and
//! the order in which hosts, addresses and `sslmode`'s alternatives are tried. It sends nothing of the session
//! itself, so that both kinds of connections share it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use pgsluice_proto::frame::{TlsAnswer, frontend};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate;
use super::error::{ConnectError, ConnectFailure};
use super::settings::{
    ConnectionSettings, HostSettings, Place, SslMode, SslNegotiation, TcpSettings, TlsSettings,
};
use super::tls::{self, TlsError};
use crate::model::Side;

/// An open byte stream to a server, with TLS already done if it is to be done.
#[derive(Debug)]
pub(super) struct Transport {
    stream: Stream,
    /// `tls-server-end-point` of RFC 5929.
    channel_binding: Option<Vec<u8>>,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One address and one way to talk to it: what it takes to reach the same server again, for a cancel request.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    host: HostSettings,
    /// `None` for a Unix socket.
    address: Option<SocketAddr>,
    encryption: Encryption,
}

/// One of the alternatives of `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Plain,
    TlsIfOffered,
    Tls,
}

/// Tries every host, address and alternative of `sslmode` in order, until `start_session` has made a session of one;
/// each try is bounded by `connect_timeout`. Answers with the last failure if none works.
pub(super) async fn establish<T, F>(
    settings: &ConnectionSettings,
    side: Side,
    start_session: impl Fn(Transport) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectFailure>>,
{
    if let Some(how) = settings.turnover.under_way() {
        return Err(ConnectError::new(side, settings, ConnectFailure::Turnover { how }));
    }
    let connector = Connector::new(settings).map_err(|error| ConnectError::new(side, settings, error))?;
    let mut last = None;
    for host in &settings.hosts {
        let endpoints = match connector.endpoints(host).await {
            Ok(endpoints) => endpoints,
            Err(failure) => {
                last = Some(failure);
                continue;
            }
        };
        for alternatives in endpoints {
            for endpoint in alternatives {
                let attempt = async { start_session(connector.open(&endpoint).await?).await };
                match connector.bounded(&endpoint, attempt).await {
                    Ok(session) => return Ok(session),
                    Err(failure) => {
                        let try_other_encryption = failure.depends_on_encryption();
                        last = Some(failure);
                        if !try_other_encryption {
                            break;
                        }
                    }
                }
            }
        }
    }
    let failure = last.unwrap_or_else(|| ConnectFailure::Dns {
        host: settings.host(),
        source: io::Error::new(io::ErrorKind::NotFound, "no address"),
    });
    Err(ConnectError::new(side, settings, failure))
}

/// Opens one more transport to an endpoint that was reached before.
pub(super) async fn reopen(
    settings: &ConnectionSettings,
    side: Side,
    endpoint: &Endpoint,
) -> Result<Transport, ConnectError> {
    let attempt = async {
        let connector = Connector::new(settings)?;
        connector.bounded(endpoint, connector.open(endpoint)).await
    };
    attempt.await.map_err(|failure| ConnectError::new(side, settings, failure))
}

struct Connector<'a> {
    settings: &'a ConnectionSettings,
    /// `None` with `sslmode=disable`.
    tls: Option<Arc<ClientConfig>>,
}

impl<'a> Connector<'a> {
    fn new(settings: &'a ConnectionSettings) -> Result<Self, ConnectFailure> {
        let needs_tls = settings.tls.mode != SslMode::Disable
            && settings.hosts.iter().any(|host| matches!(host.place, Place::Tcp { .. }));
        let tls = match needs_tls {
            true => Some(Arc::new(tls::client_config(&settings.tls)?)),
            false => None,
        };
        Ok(Self { settings, tls })
    }

    /// For each address of a host, the ways to talk to it in order of preference.
    async fn endpoints(&self, host: &HostSettings) -> Result<Vec<Vec<Endpoint>>, ConnectFailure> {
        let (name, address) = match &host.place {
            Place::Unix { .. } => {
                let endpoint = Endpoint { host: host.clone(), address: None, encryption: Encryption::Plain };
                return Ok(vec![vec![endpoint]]);
            }
            Place::Tcp { host, address } => (host, address),
        };
        let addresses: Vec<SocketAddr> = match address {
            Some(address) => vec![SocketAddr::new(*address, host.port)],
            None => {
                let lookup = tokio::net::lookup_host((name.as_str(), host.port));
                let dns = |source| ConnectFailure::Dns { host: name.clone(), source };
                match tokio::time::timeout(self.settings.connect_timeout, lookup).await {
                    Ok(found) => found.map_err(dns)?.collect(),
                    Err(_) => return Err(dns(io::ErrorKind::TimedOut.into())),
                }
            }
        };
        let encryptions: &[Encryption] = match self.settings.tls.mode {
            SslMode::Disable => &[Encryption::Plain],
            SslMode::Allow => &[Encryption::Plain, Encryption::Tls],
            SslMode::Prefer => &[Encryption::TlsIfOffered, Encryption::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Tls],
        };
        let alternatives = |address| {
            let endpoint = |encryption| Endpoint { host: host.clone(), address: Some(address), encryption };
            encryptions.iter().copied().map(endpoint).collect()
        };
        Ok(addresses.into_iter().map(alternatives).collect())
    }

    async fn bounded<T>(
        &self,
        endpoint: &Endpoint,
        attempt: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        let after = self.settings.connect_timeout;
        match tokio::time::timeout(after, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectFailure::Timeout { address: endpoint.describe(), after }),
        }
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Transport, ConnectFailure> {
        let unreachable = |error| ConnectFailure::of_io(&endpoint.describe(), error);
        let Some(address) = endpoint.address else {
            let stream = UnixStream::connect(endpoint.socket_path()).await.map_err(unreachable)?;
            return Ok(Transport::plain(Stream::Unix(stream), endpoint));
        };
        let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
        set_options(&stream, &self.settings.tcp).map_err(unreachable)?;
        let config = match (&self.tls, endpoint.encryption) {
            (Some(config), Encryption::Tls | Encryption::TlsIfOffered) => Arc::clone(config),
            _ => return Ok(Transport::plain(Stream::Tcp(stream), endpoint)),
        };
        if self.settings.tls.negotiation == SslNegotiation::Postgres {
            match (request_tls(&mut stream).await?, endpoint.encryption) {
                (TlsAnswer::Accepted, _) => {}
                (TlsAnswer::Refused, Encryption::TlsIfOffered) => {
                    return Ok(Transport::plain(Stream::Tcp(stream), endpoint));
                }
                (TlsAnswer::Refused, _) => {
                    return Err(ConnectFailure::TlsNotOffered { mode: self.settings.tls.mode });
                }
                (TlsAnswer::Error, _) => {
                    return Err(ConnectFailure::Protocol("it answers a request for TLS by an error".into()));
                }
            }
        }
        let name = server_name(&endpoint.host, address, &self.settings.tls)?;
        let secured = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| ConnectFailure::Tls(TlsError::of_handshake(&error)))?;
        let (_, session) = secured.get_ref();
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        if let Some(expires_at) = shown.and_then(certificate::expires_at) {
            self.settings.tls.shown.expires_at(expires_at);
        }
        let channel_binding = shown.and_then(certificate::tls_server_end_point);
        Ok(Transport { stream: Stream::Tls(Box::new(secured)), channel_binding, endpoint: endpoint.clone() })
    }
}

async fn request_tls(stream: &mut TcpStream) -> Result<TlsAnswer, ConnectFailure> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request)?;
    stream.write_all(&request).await.map_err(ConnectFailure::Lost)?;
    // Exactly one byte: whatever follows must be TLS, so nobody can slip in plain bytes before it.
    let answer = stream.read_u8().await.map_err(ConnectFailure::Lost)?;
    Ok(TlsAnswer::parse(answer)?)
}

/// The name the certificate is checked against. Names that DNS does not allow only matter to `verify-full`.
fn server_name(
    host: &HostSettings,
    address: SocketAddr,
    tls: &TlsSettings,
) -> Result<ServerName<'static>, ConnectFailure> {
    let Place::Tcp { host, .. } = &host.place else {
        return Ok(ServerName::from(address.ip()));
    };
    match ServerName::try_from(host.clone()) {
        Ok(name) => Ok(name),
        Err(_) if tls.mode != SslMode::VerifyFull => Ok(ServerName::from(address.ip())),
        Err(error) => Err(TlsError::Certificate { problem: error.to_string() }.into()),
    }
}

fn set_options(stream: &TcpStream, settings: &TcpSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if let Some(keepalives) = settings.keepalives {
        let options = TcpKeepalive::new()
            .with_time(keepalives.idle)
            .with_interval(keepalives.interval)
            .with_retries(keepalives.count);
        socket.set_tcp_keepalive(&options)?;
    }
    // Without it, sent data that nobody acknowledges keeps a dead connection alive for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(settings.user_timeout)?;
    Ok(())
}

impl Endpoint {
    fn describe(&self) -> String {
        self.address.map_or_else(|| self.socket_path().display().to_string(), |address| address.to_string())
    }

    fn socket_path(&self) -> std::path::PathBuf {
        match &self.host.place {
            Place::Unix { directory } => directory.join(format!(".s.PGSQL.{}", self.host.port)),
            Place::Tcp { .. } => std::path::PathBuf::new(),
        }
    }
}

impl Transport {
    fn plain(stream: Stream, endpoint: &Endpoint) -> Self {
        Self { stream, channel_binding: None, endpoint: endpoint.clone() }
    }

    /// Where this leads.
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The channel binding of the TLS session; `None` without TLS or where none is defined.
    pub(super) fn channel_binding(&self) -> Option<&[u8]> {
        self.channel_binding.as_deref()
    }

    /// Whether what is sent is encrypted.
    pub(super) const fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
