//! One connection to one PostgreSQL pod: how it is opened, logged in, asked a question, and cancelled.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::auth::{AuthError, Credentials};
use crate::continuity::state::Origin;
use crate::ids::PodId;
use crate::net::tls::BackendTls;
use crate::net::{Dial, Stream};
use crate::wire::CancelKey;
use crate::wire::message::{ErrorFields, ReadError, Severity};

mod berth;
mod frames;
pub mod gate;
mod greeting;
mod login;
pub mod pool;
mod proof;
mod query;

pub use berth::Berth;
pub use greeting::{Greeting, Greetings};
pub use login::{cancel, connect};

/// The settings a server has reported (ParameterStatus), by name. Shared while they are the same.
pub type Parameters = Arc<BTreeMap<String, String>>;

/// Where to connect, and how: one incarnation of a pod, its present address, and the TLS to speak with it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod.
    pub pod: PodId,
    /// Its address now.
    pub address: SocketAddr,
    /// TLS towards it.
    pub tls: BackendTls,
    /// How connections to it are opened.
    pub dial: Dial,
}

/// Who logs in.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The role.
    pub user: &'a str,
    /// The database.
    pub database: &'a str,
    /// Further startup parameters (`application_name`, `options`, `replication`, ...), sent in this order.
    pub parameters: &'a [(String, String)],
    /// What proves the role.
    pub credentials: &'a Credentials,
}

/// Who a session is to PostgreSQL: the same on every backend it ever has.
#[derive(Debug)]
pub struct Identity {
    /// The role.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    /// Further startup parameters but `application_name`, which belongs to the session and not to its backend.
    pub flavour: Arc<Vec<(String, String)>>,
    /// What the session begins with, its `application_name` above all.
    pub origin: Arc<Origin>,
    /// What proves the role.
    pub credentials: Credentials,
    /// What it was told of its servers when it was let in.
    pub greetings: Greetings,
}

impl Identity {
    /// Its login on one backend.
    pub fn login(&self) -> Login<'_> {
        Login { user: &self.user, database: &self.database, parameters: &self.flavour, credentials: &self.credentials }
    }
}

/// A logged-in connection, idle and outside a transaction when `connect` returns it. Dropping it closes it.
#[derive(Debug)]
pub struct Backend {
    /// The connection.
    pub stream: Stream,
    /// The pod it leads to.
    pub pod: PodId,
    /// The address it was opened to.
    pub address: SocketAddr,
    /// Its cancel key; a server may give none.
    pub key: Option<CancelKey>,
    /// What `ParameterStatus` reported at login, and since then in `simple_query`.
    pub parameters: BTreeMap<String, String>,
    /// Bytes read beyond the last `ReadyForQuery`.
    pub received: BytesMut,
}

/// An `ErrorResponse` of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// How bad.
    pub severity: Severity,
    /// SQLSTATE; empty if the server gave none.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// Detail, if any.
    pub detail: Option<Box<str>>,
    /// Hint, if any.
    pub hint: Option<Box<str>>,
    /// The body of the frame as it came (without tag and length).
    pub body: Bytes,
}

impl ServerError {
    /// Reads the body of an `ErrorResponse`.
    ///
    /// # Errors
    /// A field is not terminated.
    pub fn read(body: Bytes) -> Result<Self, ReadError> {
        let fields = ErrorFields::read(&body)?.into_owned();
        Ok(Self {
            severity: fields.severity,
            code: fields.code.into_owned(),
            message: fields.message.into_owned(),
            detail: fields.detail.map(Box::from),
            hint: fields.hint.map(Box::from),
            body,
        })
    }

    /// Has the server closed the connection after it?
    pub const fn ends_session(&self) -> bool {
        self.severity.ends_session()
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.severity, self.code, self.message)
    }
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The pod cannot be reached, or the connection broke while logging in.
    #[error("unreachable: {0}")]
    Unreachable(#[from] io::Error),
    /// The deadline passed.
    #[error("no login within the deadline")]
    TimedOut,
    /// PostgreSQL said no, and will say no again: password, database, permission.
    #[error("refused: {0}")]
    Refused(ServerError),
    /// PostgreSQL is not taking logins now: starting, stopping, in recovery, or full
    /// (57P01, 57P02, 57P03, 53300, and the other 53xxx).
    #[error("not accepting logins: {0}")]
    NotAccepting(ServerError),
    /// TLS could not be agreed on, or the server's certificate is not right.
    #[error("TLS: {0}")]
    Tls(String),
    /// The credentials do not fit what PostgreSQL asks for, or the server could not prove itself.
    #[error("authentication: {0}")]
    Auth(#[from] AuthError),
    /// What answered does not speak the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

impl ConnectError {
    /// Can the same login succeed later without anyone changing a configuration?
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut | Self::NotAccepting(_) => true,
            Self::Refused(_) | Self::Tls(_) | Self::Auth(_) | Self::Protocol(_) => false,
        }
    }

    /// PostgreSQL's own words, if it spoke.
    pub const fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Refused(error) | Self::NotAccepting(error) => Some(error),
            Self::Unreachable(_) | Self::TimedOut | Self::Tls(_) | Self::Auth(_) | Self::Protocol(_) => None,
        }
    }
}

/// Why a query of our own has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The connection broke: the backend is of no more use.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The deadline passed: the backend is in an unknown state and of no more use.
    #[error("no answer within the deadline")]
    TimedOut,
    /// PostgreSQL reported an error; the backend is usable unless its severity is FATAL or PANIC.
    #[error("{0}")]
    Server(ServerError),
    /// The answer is beyond the limit, or not the protocol: the backend is of no more use.
    #[error("protocol: {0}")]
    Protocol(String),
}

/// Text rows, as the simple protocol gives them.
pub type Rows = Vec<Vec<Option<String>>>;

impl Backend {
    /// Runs `sql` with the simple protocol and collects the rows of all its results, 1 MiB at most.
    ///
    /// Not cancel safe: a backend whose query was dropped midway must be closed.
    ///
    /// # Errors
    /// See `QueryError`.
    pub async fn simple_query(&mut self, sql: &str, deadline: Instant) -> Result<Rows, QueryError> {
        query::run(self, sql, deadline).await
    }
}
