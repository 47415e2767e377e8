//! [`BackendMessage`]: what a server sends to a replication client, from authentication to CopyBoth. Messages that
//! such a client never asks for come as [`BackendMessage::Other`]. Nothing here reacts to a message. Texts of errors
//! are kept whole, but what may hold a row's values is left out when they are printed (INV-10).

use std::fmt;

use bytes::Bytes;

use crate::cursor::{Cursor, DecodeError};
use crate::frame::{COPY_DATA, Frame};

/// A message of the server, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub enum BackendMessage {
    /// `R`: what the server wants to know, or that it is satisfied.
    Authentication(AuthRequest),
    /// `K`: what it takes to cancel a query of this connection.
    BackendKeyData {
        /// The server process.
        pid: u32,
        /// 4 bytes; 4 to 256 in protocol 3.2. A secret.
        secret: Bytes,
    },
    /// `S`
    ParameterStatus {
        /// The setting.
        name: String,
        /// Its value from now on.
        value: String,
    },
    /// `v`: the server speaks an older minor version, or does not know some `_pq_.` options.
    NegotiateProtocolVersion {
        /// The newest minor version of protocol 3 that the server speaks.
        newest_minor: u32,
        /// The options it does not know.
        unknown_options: Vec<String>,
    },
    /// `Z`
    ReadyForQuery(TransactionStatus),
    /// `E`
    ErrorResponse(Box<ErrorFields>),
    /// `N`
    NoticeResponse(Box<ErrorFields>),
    /// `T`: the columns' names.
    RowDescription(Vec<String>),
    /// `D`: the columns' values; `None` is NULL.
    DataRow(Vec<Option<Bytes>>),
    /// `C`: the command's tag, such as `SELECT 1`.
    CommandComplete(String),
    /// `I`
    EmptyQueryResponse,
    /// `W`: the connection carries CopyData both ways from now on.
    CopyBothResponse(CopyFormat),
    /// `H`: the server sends CopyData from now on.
    CopyOutResponse(CopyFormat),
    /// `G`: the server wants CopyData from now on.
    CopyInResponse(CopyFormat),
    /// `d`
    CopyData(Bytes),
    /// `c`
    CopyDone,
    /// Any other message.
    Other {
        /// Its type.
        tag: u8,
    },
}

/// What an authentication message says.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthRequest {
    /// The client is who it says.
    Ok,
    /// Send the password.
    CleartextPassword,
    /// Send the password's salted MD5.
    Md5Password {
        /// The salt.
        salt: [u8; 4],
    },
    /// Begin SASL.
    Sasl {
        /// The mechanisms, in the server's order of preference.
        mechanisms: Vec<String>,
    },
    /// The server's next SASL message.
    SaslContinue(Bytes),
    /// The server's last SASL message.
    SaslFinal(Bytes),
    /// A method this crate has no words for (Kerberos, GSSAPI, SSPI).
    Other {
        /// The method's number.
        method: u32,
    },
}

/// The overall format of a copy. Columns have their own codes only in `COPY`, where they equal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Lines of text; what CopyBoth says, although its contents are binary.
    Text,
    /// PostgreSQL's binary copy format.
    Binary,
}

/// Whether the session is in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a transaction.
    Idle,
    /// In a transaction.
    InTransaction,
    /// In a transaction that failed, and only ends by rollback.
    Failed,
}

/// The fields of an ErrorResponse or NoticeResponse. Only `severity`, `code` and `message` are always there.
///
/// Texts that are not UTF-8, as before `client_encoding` applies, are read with replacement characters. `Display` and
/// `Debug` leave out `detail`, `where_` and `internal_query`, which quote rows.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// `V`, else `S`: `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, `DEBUG`, `INFO`, `LOG`; not localized if the
    /// server is 9.6 or later.
    pub severity: String,
    /// `C`: the SQLSTATE.
    pub code: String,
    /// `M`
    pub message: String,
    /// `D`. May hold row values.
    pub detail: Option<String>,
    /// `H`
    pub hint: Option<String>,
    /// `P`: a position in the query, in characters, from 1.
    pub position: Option<String>,
    /// `q`: the query of which the server ran into the error. May hold row values.
    pub internal_query: Option<String>,
    /// `W`: the context. May hold row values.
    pub where_: Option<String>,
    /// `s`
    pub schema: Option<String>,
    /// `t`
    pub table: Option<String>,
    /// `c`
    pub column: Option<String>,
    /// `d`
    pub data_type: Option<String>,
    /// `n`
    pub constraint: Option<String>,
    /// `R`: the server's function.
    pub routine: Option<String>,
}

impl fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorFields({self})")
    }
}

impl std::error::Error for ErrorFields {}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("Ok"),
            Self::CleartextPassword => f.write_str("CleartextPassword"),
            Self::Md5Password { .. } => f.write_str("Md5Password"),
            Self::Sasl { mechanisms } => write!(f, "Sasl({mechanisms:?})"),
            Self::SaslContinue(data) => write!(f, "SaslContinue(<{} bytes>)", data.len()),
            Self::SaslFinal(data) => write!(f, "SaslFinal(<{} bytes>)", data.len()),
            Self::Other { method } => write!(f, "Other({method})"),
        }
    }
}

impl fmt::Debug for BackendMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Authentication(request) => write!(f, "({request:?})"),
            Self::ErrorResponse(fields) | Self::NoticeResponse(fields) => write!(f, "({fields})"),
            Self::CopyData(data) => write!(f, "(<{} bytes>)", data.len()),
            Self::DataRow(values) => write!(f, "(<{} values>)", values.len()),
            Self::ReadyForQuery(status) => write!(f, "({status:?})"),
            Self::CommandComplete(tag) => write!(f, "({tag})"),
            Self::RowDescription(names) => write!(f, "({names:?})"),
            Self::ParameterStatus { name, value } => write!(f, "({name} = {value})"),
            Self::Other { tag } => write!(f, "({:?})", char::from(*tag)),
            _ => Ok(()),
        }
    }
}

impl BackendMessage {
    /// Takes a frame apart. Data shares the frame's buffer.
    pub fn parse(frame: Frame) -> Result<Self, DecodeError> {
        let Frame { tag, body } = frame;
        if tag == COPY_DATA {
            return Ok(Self::CopyData(body));
        }
        let mut cursor = Cursor::new(body, message_name(tag));
        let message = match tag {
            b'R' => Self::Authentication(authentication(&mut cursor)?),
            b'K' => Self::BackendKeyData { pid: cursor.u32("the process")?, secret: cursor.take_rest() },
            b'S' => Self::ParameterStatus {
                name: cursor.cstr("the parameter's name")?,
                value: cursor.cstr("the parameter's value")?,
            },
            b'v' => negotiate_protocol_version(&mut cursor)?,
            b'Z' => Self::ReadyForQuery(transaction_status(&mut cursor)?),
            b'E' => Self::ErrorResponse(Box::new(error_fields(&mut cursor)?)),
            b'N' => Self::NoticeResponse(Box::new(error_fields(&mut cursor)?)),
            b'T' => Self::RowDescription(row_description(&mut cursor)?),
            b'D' => Self::DataRow(data_row(&mut cursor)?),
            b'C' => Self::CommandComplete(cursor.cstr("the command's tag")?),
            b'I' => Self::EmptyQueryResponse,
            b'W' => Self::CopyBothResponse(copy_format(&mut cursor)?),
            b'H' => Self::CopyOutResponse(copy_format(&mut cursor)?),
            b'G' => Self::CopyInResponse(copy_format(&mut cursor)?),
            b'c' => Self::CopyDone,
            tag => return Ok(Self::Other { tag }),
        };
        cursor.finish()?;
        Ok(message)
    }

    /// The message's name in the documentation, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Authentication(_) => "Authentication",
            Self::BackendKeyData { .. } => "BackendKeyData",
            Self::ParameterStatus { .. } => "ParameterStatus",
            Self::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
            Self::ReadyForQuery(_) => "ReadyForQuery",
            Self::ErrorResponse(_) => "ErrorResponse",
            Self::NoticeResponse(_) => "NoticeResponse",
            Self::RowDescription(_) => "RowDescription",
            Self::DataRow(_) => "DataRow",
            Self::CommandComplete(_) => "CommandComplete",
            Self::EmptyQueryResponse => "EmptyQueryResponse",
            Self::CopyBothResponse(_) => "CopyBothResponse",
            Self::CopyOutResponse(_) => "CopyOutResponse",
            Self::CopyInResponse(_) => "CopyInResponse",
            Self::CopyData(_) => "CopyData",
            Self::CopyDone => "CopyDone",
            Self::Other { .. } => "Other",
        }
    }
}

fn authentication(cursor: &mut Cursor) -> Result<AuthRequest, DecodeError> {
    Ok(match cursor.u32("the authentication method")? {
        0 => AuthRequest::Ok,
        3 => AuthRequest::CleartextPassword,
        5 => AuthRequest::Md5Password { salt: cursor.array("the salt")? },
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                let mechanism = cursor.cstr("a SASL mechanism's name")?;
                if mechanism.is_empty() {
                    break AuthRequest::Sasl { mechanisms };
                }
                mechanisms.push(mechanism);
            }
        }
        11 => AuthRequest::SaslContinue(cursor.take_rest()),
        12 => AuthRequest::SaslFinal(cursor.take_rest()),
        method => {
            cursor.take_rest();
            AuthRequest::Other { method }
        }
    })
}

fn negotiate_protocol_version(cursor: &mut Cursor) -> Result<BackendMessage, DecodeError> {
    let newest_minor = cursor.u32("the newest minor version")?;
    let count = cursor.len32("the number of unknown options")?;
    let mut unknown_options = Vec::with_capacity(count.min(cursor.remaining()));
    for _ in 0..count {
        unknown_options.push(cursor.cstr("an unknown option")?);
    }
    Ok(BackendMessage::NegotiateProtocolVersion { newest_minor, unknown_options })
}

fn transaction_status(cursor: &mut Cursor) -> Result<TransactionStatus, DecodeError> {
    match cursor.u8("the transaction status")? {
        b'I' => Ok(TransactionStatus::Idle),
        b'T' => Ok(TransactionStatus::InTransaction),
        b'E' => Ok(TransactionStatus::Failed),
        other => Err(cursor.unknown(other, "the transaction status (I, T or E)")),
    }
}

fn error_fields(cursor: &mut Cursor) -> Result<ErrorFields, DecodeError> {
    let mut fields = ErrorFields::default();
    let mut localized_severity = None;
    loop {
        let code = cursor.u8("an error field's type, or the end")?;
        if code == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&cursor.cstr_bytes("an error field")?).into_owned();
        match code {
            b'V' => fields.severity = text,
            b'S' => localized_severity = Some(text),
            b'C' => fields.code = text,
            b'M' => fields.message = text,
            b'D' => fields.detail = Some(text),
            b'H' => fields.hint = Some(text),
            b'P' => fields.position = Some(text),
            b'q' => fields.internal_query = Some(text),
            b'W' => fields.where_ = Some(text),
            b's' => fields.schema = Some(text),
            b't' => fields.table = Some(text),
            b'c' => fields.column = Some(text),
            b'd' => fields.data_type = Some(text),
            b'n' => fields.constraint = Some(text),
            b'R' => fields.routine = Some(text),
            // The documentation asks clients to ignore types they do not know.
            _ => {}
        }
    }
    if fields.severity.is_empty() {
        fields.severity = localized_severity.unwrap_or_default();
    }
    Ok(fields)
}

/// After a column's name: table, attribute, type, type's size, type's modifier, format.
const COLUMN_DESCRIPTION_BYTES: usize = 4 + 2 + 4 + 2 + 4 + 2;

fn row_description(cursor: &mut Cursor) -> Result<Vec<String>, DecodeError> {
    let count = usize::from(cursor.u16("the number of columns")?);
    let mut names = Vec::with_capacity(count.min(cursor.remaining() / COLUMN_DESCRIPTION_BYTES));
    for _ in 0..count {
        names.push(cursor.cstr("a column's name")?);
        cursor.bytes(COLUMN_DESCRIPTION_BYTES, "a column's description")?;
    }
    Ok(names)
}

fn data_row(cursor: &mut Cursor) -> Result<Vec<Option<Bytes>>, DecodeError> {
    let count = usize::from(cursor.u16("the number of values")?);
    let mut values = Vec::with_capacity(count.min(cursor.remaining() / size_of::<u32>()));
    for _ in 0..count {
        let len = cursor.len32_if_any("a value's length")?;
        values.push(len.map(|len| cursor.bytes(len, "a value")).transpose()?);
    }
    Ok(values)
}

fn copy_format(cursor: &mut Cursor) -> Result<CopyFormat, DecodeError> {
    let format = match cursor.u8("the copy's format")? {
        0 => CopyFormat::Text,
        1 => CopyFormat::Binary,
        other => return Err(cursor.unknown(other, "the copy's format (0 or 1)")),
    };
    let columns = usize::from(cursor.u16("the number of columns")?);
    cursor.bytes(columns * size_of::<u16>(), "the columns' formats")?;
    Ok(format)
}

fn message_name(tag: u8) -> &'static str {
    match tag {
        b'R' => "Authentication",
        b'K' => "BackendKeyData",
        b'S' => "ParameterStatus",
        b'v' => "NegotiateProtocolVersion",
        b'Z' => "ReadyForQuery",
        b'E' => "ErrorResponse",
        b'N' => "NoticeResponse",
        b'T' => "RowDescription",
        b'D' => "DataRow",
        b'C' => "CommandComplete",
        b'I' => "EmptyQueryResponse",
        b'W' => "CopyBothResponse",
        b'H' => "CopyOutResponse",
        b'G' => "CopyInResponse",
        b'c' => "CopyDone",
        _ => "unknown",
    }
}
