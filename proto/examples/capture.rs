//! Records what a real server's pgoutput sends, one payload in hexadecimal a line: how `tests/golden/*.hex` are made.
//! It is also the shortest complete driver of [`ReplicationSession`]: a blocking Unix socket, a clock, and nothing
//! else. It creates the slot it is told to, and records until the transaction that carries a logical message with the
//! prefix `golden.end` has ended. Only trust authentication; for throwaway servers.
//!
//! ```text
//! cargo run -p pgsluice-proto --example capture -- SOCKET DATABASE SLOT PUBLICATIONS OPTIONS > FILE
//! ```
//! PUBLICATIONS are separated by `|`; OPTIONS are words separated by commas: `proto=1` to `proto=4`, `messages`,
//! `binary`, `streaming`, `parallel`, `two_phase`, `any_origin`.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use pgsluice_proto::command::{self, Origin, PgoutputOptions, SlotLife, SlotName, SnapshotAction};
use pgsluice_proto::command::{ServerVersion, Streaming, TwoPhase};
use pgsluice_proto::frame::{AuthRequest, BackendMessage, FrameReader, frontend};
use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion};
use pgsluice_proto::session::{Now, ReplicationSession, SessionConfig, SessionEvent};
use pgsluice_proto::{Lsn, PgTimestamp};

type Failure = Box<dyn Error>;

const FRAME_BYTES_MAX: usize = 64 << 20;
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, database, slot, publications, options] = arguments.as_slice() else {
        return Err("usage: capture SOCKET DATABASE SLOT PUBLICATIONS OPTIONS".into());
    };
    let slot = SlotName::new(slot.as_str())?;
    let options = parse_options(publications, options)?;
    let mut connection = Connection::open(socket, database)?;
    let system = connection.query(&command::identify_system())?;
    if system.len() != 1 {
        return Err("IDENTIFY_SYSTEM answered with other than one row".into());
    }
    let server = connection.server_version.ok_or("the server did not tell its version")?;
    connection.query(&command::create_replication_slot(
        &slot,
        SnapshotAction::Nothing,
        SlotLife::Permanent,
        server,
    ))?;
    let pairs: Vec<String> =
        options.pairs()?.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("# PostgreSQL {}", server.0);
    println!("# {}", pairs.join(" "));
    connection.send_query(&command::start_replication(&slot, None, &options)?)?;
    record(connection, &options)
}

fn parse_options(publications: &str, words: &str) -> Result<PgoutputOptions, Failure> {
    let mut options = PgoutputOptions::new(publications.split('|').map(str::to_owned).collect());
    for word in words.split(',') {
        match word {
            "proto=1" => options.proto_version = ProtocolVersion::V1,
            "proto=2" => options.proto_version = ProtocolVersion::V2,
            "proto=3" => options.proto_version = ProtocolVersion::V3,
            "proto=4" => options.proto_version = ProtocolVersion::V4,
            "messages" => options.messages = true,
            "binary" => options.binary = true,
            "streaming" => options.streaming = Streaming::On,
            "parallel" => options.streaming = Streaming::Parallel,
            "two_phase" => options.two_phase = TwoPhase::AtPrepare,
            "any_origin" => options.origin = Some(Origin::Any),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

/// Drives a session until the marker's transaction has ended, then ends the stream in good order.
fn record(mut connection: Connection, options: &PgoutputOptions) -> Result<(), Failure> {
    let origin = Instant::now();
    let config = SessionConfig {
        start: None,
        status_interval: STATUS_INTERVAL,
        silence_limit: Some(SILENCE_LIMIT),
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let mut session = ReplicationSession::new(config, origin.elapsed());
    session.handle_bytes(&connection.reader.into_buffer(), origin.elapsed());
    let mut decoder = Decoder::new(options.proto_version);
    let mut end = EndMarker::Awaited;
    let mut out = BytesMut::new();
    loop {
        while let Some(event) = session.poll_event()? {
            match event {
                SessionEvent::Data(data) => {
                    println!("{}", hexadecimal(&data.payload)?);
                    let message = decoder.decode(data.payload)?;
                    end = end.after(&message);
                    if let Some(end_lsn) = commit_end(&message) {
                        // This program's target is a file, and flushing it is nobody's concern.
                        session.handle_durable(end_lsn)?;
                    }
                }
                SessionEvent::Ended(_) => return Ok(()),
                _ => {}
            }
        }
        if end == EndMarker::Complete {
            session.finish();
        }
        let now = Now { monotonic: origin.elapsed(), wall: wall_clock()? };
        session.handle_timeout(now.monotonic)?;
        session.poll_transmit(now, &mut out)?;
        connection.socket.write_all(&out)?;
        out.clear();
        let deadline = session.poll_timeout().ok_or("the session has ended without saying so")?;
        let wait = deadline.saturating_sub(origin.elapsed()).max(Duration::from_millis(1));
        connection.socket.set_read_timeout(Some(wait))?;
        match read_into(&mut connection.socket, session.read_buffer()) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(_) => session.handle_read(origin.elapsed()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndMarker {
    Awaited,
    Seen,
    Complete,
}

impl EndMarker {
    fn after(self, message: &LogicalMessage) -> Self {
        match message {
            LogicalMessage::Message { prefix, .. } if prefix == "golden.end" => Self::Seen,
            LogicalMessage::Commit { .. } if self == Self::Seen => Self::Complete,
            _ => self,
        }
    }
}

fn commit_end(message: &LogicalMessage) -> Option<Lsn> {
    match message {
        LogicalMessage::Commit { end_lsn, .. } | LogicalMessage::StreamCommit { end_lsn, .. } => {
            Some(*end_lsn)
        }
        _ => None,
    }
}

/// A connection that still asks and answers.
struct Connection {
    socket: UnixStream,
    reader: FrameReader,
    server_version: Option<ServerVersion>,
}

impl Connection {
    fn open(socket: &str, database: &str) -> Result<Self, Failure> {
        let socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(SILENCE_LIMIT))?;
        let mut connection = Self { socket, reader: FrameReader::new(FRAME_BYTES_MAX), server_version: None };
        let parameters = [
            ("user", "postgres"),
            ("database", database),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", "capture"),
        ];
        let mut out = BytesMut::new();
        frontend::startup(parameters, &mut out)?;
        connection.socket.write_all(&out)?;
        connection.answer()?;
        let version = connection.query(&command::show("server_version_num"))?;
        let version = version.into_iter().flatten().flatten().next().ok_or("SHOW answered with no value")?;
        connection.server_version = Some(ServerVersion(std::str::from_utf8(&version)?.parse()?));
        Ok(connection)
    }

    fn send_query(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        frontend::query(text, &mut out)?;
        Ok(self.socket.write_all(&out)?)
    }

    fn query(&mut self, text: &str) -> Result<Vec<Vec<Option<bytes::Bytes>>>, Failure> {
        self.send_query(text)?;
        self.answer()
    }

    /// The rows up to the next ReadyForQuery.
    fn answer(&mut self) -> Result<Vec<Vec<Option<bytes::Bytes>>>, Failure> {
        let mut rows = Vec::new();
        loop {
            while let Some(frame) = self.reader.next_frame()? {
                match BackendMessage::parse(frame)? {
                    BackendMessage::ErrorResponse(fields) => return Err(fields.into()),
                    BackendMessage::Authentication(AuthRequest::Ok) => {}
                    BackendMessage::Authentication(other) => {
                        return Err(format!("the server wants {other:?}, not trust").into());
                    }
                    BackendMessage::DataRow(values) => rows.push(values),
                    BackendMessage::ReadyForQuery(_) => return Ok(rows),
                    _ => {}
                }
            }
            if read_into(&mut self.socket, self.reader.buffer_mut())? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}

fn read_into(socket: &mut UnixStream, buffer: &mut BytesMut) -> std::io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    let len = socket.read(&mut chunk)?;
    buffer.extend_from_slice(chunk.get(..len).unwrap_or_default());
    Ok(len)
}

fn wall_clock() -> Result<PgTimestamp, Failure> {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    Ok(PgTimestamp::from_unix_micros(i64::try_from(micros)?))
}

fn hexadecimal(bytes: &[u8]) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}
