//! The PostgreSQL wire protocol, version 3: tags, versions and limits. Bytes in, views out; no sockets here.
//!
//! | file | knows |
//! |---|---|
//! | [`scan`] | where frames begin and end |
//! | [`startup`] | the packets without a tag that open a connection |
//! | [`message`] | what is inside a frame, and how to write one |
//! | [`sql`] | what a statement does to session state, by its tokens |

pub mod message;
pub mod scan;
pub mod sql;
pub mod startup;

use std::fmt;

/// Bytes of a frame's header: the tag and the length word.
pub const HEADER_LEN: usize = 5;

/// The largest length word a server may send: the protocol's own limit, an `Int32`.
pub const MAX_BACKEND_FRAME: u32 = i32::MAX as u32;

/// The largest length word PostgreSQL takes from a client (`PQ_LARGE_MESSAGE_LIMIT`, just under 1 GiB).
pub const MAX_FRONTEND_FRAME: u32 = 0x3fff_fffe;

/// The largest length word PostgreSQL takes for frames that are small by nature, authentication among them
/// (`PQ_SMALL_MESSAGE_LIMIT` is 10 000; SASL tokens may be 65 535).
pub const MAX_AUTH_FRAME: u32 = 65_535;

/// The largest startup packet PostgreSQL takes, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_PACKET: usize = 10_000;

/// Tags of frames a client sends (protocol "Message Formats", F).
pub mod frontend {
    /// Bind
    pub const BIND: u8 = b'B';
    /// Close
    pub const CLOSE: u8 = b'C';
    /// CopyData
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone
    pub const COPY_DONE: u8 = b'c';
    /// CopyFail
    pub const COPY_FAIL: u8 = b'f';
    /// Describe
    pub const DESCRIBE: u8 = b'D';
    /// Execute
    pub const EXECUTE: u8 = b'E';
    /// Flush
    pub const FLUSH: u8 = b'H';
    /// FunctionCall
    pub const FUNCTION_CALL: u8 = b'F';
    /// Parse
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse
    pub const PASSWORD: u8 = b'p';
    /// Query
    pub const QUERY: u8 = b'Q';
    /// Sync
    pub const SYNC: u8 = b'S';
    /// Terminate
    pub const TERMINATE: u8 = b'X';
}

/// Tags of frames a server sends (protocol "Message Formats", B).
pub mod backend {
    /// AuthenticationOk and all other Authentication* messages
    pub const AUTHENTICATION: u8 = b'R';
    /// BackendKeyData
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// BindComplete
    pub const BIND_COMPLETE: u8 = b'2';
    /// CloseComplete
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// CommandComplete
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// CopyBothResponse
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    /// CopyData
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone
    pub const COPY_DONE: u8 = b'c';
    /// CopyInResponse
    pub const COPY_IN_RESPONSE: u8 = b'G';
    /// CopyOutResponse
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    /// DataRow
    pub const DATA_ROW: u8 = b'D';
    /// EmptyQueryResponse
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    /// ErrorResponse
    pub const ERROR_RESPONSE: u8 = b'E';
    /// FunctionCallResponse
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    /// NegotiateProtocolVersion
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// NoData
    pub const NO_DATA: u8 = b'n';
    /// NoticeResponse
    pub const NOTICE_RESPONSE: u8 = b'N';
    /// NotificationResponse
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    /// ParameterDescription
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// ParameterStatus
    pub const PARAMETER_STATUS: u8 = b'S';
    /// ParseComplete
    pub const PARSE_COMPLETE: u8 = b'1';
    /// PortalSuspended
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// ReadyForQuery
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// RowDescription
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// The transaction status a ReadyForQuery carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TxStatus {
    /// `I`: outside a transaction block.
    #[default]
    Idle,
    /// `T`: inside a transaction block.
    InTransaction,
    /// `E`: inside a failed transaction block; everything is refused until ROLLBACK.
    Failed,
}

impl TxStatus {
    /// Reads the status byte; `None` when it is none of `I`, `T`, `E`.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The status byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// A version of protocol 3; only the minor number varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// The number after the dot.
    pub minor: u16,
}

impl ProtocolVersion {
    /// Protocol 3.0, spoken since PostgreSQL 7.4.
    pub const V3_0: Self = Self { minor: 0 };
    /// Protocol 3.2, PostgreSQL 18: cancel secrets of 4 to 256 bytes.
    pub const V3_2: Self = Self { minor: 2 };
    /// The newest version spoken here.
    pub const LATEST: Self = Self::V3_2;

    /// The version as the startup packet writes it: major in the upper, minor in the lower 16 bits.
    #[must_use]
    pub const fn code(self) -> u32 {
        (3 << 16) | self.minor as u32
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "3.{}", self.minor)
    }
}

/// What a CancelRequest names a session by: BackendKeyData's two fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CancelKey {
    /// The process id the server gave.
    pub process_id: i32,
    /// The secret: 4 bytes in protocol 3.0, 4 to 256 since 3.2.
    pub secret: Vec<u8>,
}

impl CancelKey {
    /// The shortest secret, in bytes.
    pub const MIN_SECRET: usize = 4;
    /// The longest secret, in bytes.
    pub const MAX_SECRET: usize = 256;
}

/// Never shows the secret: keys end up in logs.
impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}
