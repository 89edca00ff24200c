//! The one catalogue of what pgmoor may say to a client: SQLSTATE, severity, text, hint, whose fault, and whether a retry helps.

use std::fmt;

/// Everything pgmoor itself may answer. Errors of PostgreSQL are passed through and do not stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Authentication failed.
    AuthFailed,
    /// PostgreSQL did not accept the session's login.
    BackendRefused,
    /// The outcome of a COMMIT or an autocommit statement is not known.
    CommitUnknown,
    /// No primary was proven within the hold time.
    HoldExpired,
    /// The transaction has failed, and the request is not its end.
    InFailedTransaction,
    /// Notifications came faster than the client took them.
    ListenerOverrun,
    /// No replica (and no permitted primary) within the hold time.
    NoReplica,
    /// The named pod could not be reached within the hold time.
    NoSuchPod,
    /// The session is tied to a backend that is gone or going.
    Pinned,
    /// The client broke the protocol.
    ProtocolViolation,
    /// pgmoor is shutting down.
    ShuttingDown,
    /// The client did not finish its login in time.
    StartupTimeout,
    /// TLS is required, or a TLS request went wrong.
    TlsRequired,
    /// A message is longer than the limit.
    TooLong,
    /// Too many sessions wait for a primary already.
    TooManyHeld,
    /// No backend became free in time.
    PoolExhausted,
    /// Too many sessions.
    TooManySessions,
    /// An open transaction was lost; nothing of it remains.
    TransactionLost,
    /// No cluster is configured for this database.
    UnknownCluster,
    /// The client asked for something pgmoor does not do.
    Unsupported,
}

/// How much of the session a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The request failed; the session lives.
    Error,
    /// The session ends.
    Fatal,
}

/// Whose doing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// PostgreSQL's, or the pod's.
    Backend,
    /// pgmoor's, or its operator's.
    Us,
}

/// Whether the same request, sent again, can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes, as it is.
    Helps,
    /// Only after looking whether the first one took effect.
    AfterLooking,
    /// No.
    Useless,
}

/// One line of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Five characters of PostgreSQL's appendix A.
    pub sqlstate: &'static str,
    /// Error or fatal.
    pub severity: Severity,
    /// The primary message.
    pub text: &'static str,
    /// What the reader can do.
    pub hint: &'static str,
    /// Whose doing.
    pub side: Side,
    /// Does a retry help.
    pub retry: Retry,
    /// The metric label.
    pub label: &'static str,
}

impl Code {
    /// Every code, in alphabetical order.
    pub const ALL: [Self; 20] = [
        Self::AuthFailed,
        Self::BackendRefused,
        Self::CommitUnknown,
        Self::HoldExpired,
        Self::InFailedTransaction,
        Self::ListenerOverrun,
        Self::NoReplica,
        Self::NoSuchPod,
        Self::Pinned,
        Self::PoolExhausted,
        Self::ProtocolViolation,
        Self::ShuttingDown,
        Self::StartupTimeout,
        Self::TlsRequired,
        Self::TooLong,
        Self::TooManyHeld,
        Self::TooManySessions,
        Self::TransactionLost,
        Self::UnknownCluster,
        Self::Unsupported,
    ];

    /// The catalogue's line for this code.
    #[expect(clippy::too_many_lines, reason = "a table: one entry a code")]
    pub const fn entry(self) -> Entry {
        use Retry::{AfterLooking, Helps, Useless};
        use Severity::{Error, Fatal};
        use Side::{Backend, Client, Us};
        match self {
            Self::AuthFailed => line(
                "28P01",
                Fatal,
                "password authentication failed",
                "Check the user name and password against pgmoor's users file.",
                Client,
                Useless,
                "auth_failed",
            ),
            Self::BackendRefused => line(
                "08004",
                Fatal,
                "PostgreSQL refused the login",
                "The user, password and database must be valid in PostgreSQL too, not only in pgmoor.",
                Backend,
                Useless,
                "backend_refused",
            ),
            Self::CommitUnknown => line(
                "08007",
                Error,
                "the connection to PostgreSQL was lost before it answered; whether the statement took effect is not known",
                "The session goes on. Look whether the effect is there before sending the statement again.",
                Backend,
                AfterLooking,
                "commit_unknown",
            ),
            Self::HoldExpired => line(
                "57P03",
                Error,
                "no primary was found within the hold time",
                "The session goes on: try again. Operators: see pgmoor's /status for why no pod is proven to be primary.",
                Backend,
                Helps,
                "hold_expired",
            ),
            Self::InFailedTransaction => line(
                "25P02",
                Error,
                "current transaction is aborted, commands ignored until end of transaction block",
                "Roll back.",
                Client,
                Useless,
                "in_failed_transaction",
            ),
            Self::ListenerOverrun => line(
                "54000",
                Fatal,
                "notifications came faster than the client took them",
                "Connect again, LISTEN, and then look for what has changed meanwhile. A client that listens must read, and end its transactions.",
                Client,
                Helps,
                "listener_overrun",
            ),
            Self::NoReplica => line(
                "57P03",
                Error,
                "no replica is fit to read from",
                "The session goes on: try again, or allow reads on the primary (routing.ro_falls_back).",
                Backend,
                Helps,
                "no_replica",
            ),
            Self::NoSuchPod => line(
                "57P03",
                Error,
                "the pod named by pgmoor.pod cannot be reached",
                "Check the name against pgmoor's /status; a pod that is being moved comes back under the same name.",
                Backend,
                Helps,
                "no_such_pod",
            ),
            Self::Pinned => line(
                "57P01",
                Fatal,
                "the session was tied to a PostgreSQL server that is gone",
                "Its state could not be carried to another server. Connect again and build it up anew.",
                Backend,
                Helps,
                "pinned",
            ),
            Self::ProtocolViolation => line(
                "08P01",
                Fatal,
                "the client broke the PostgreSQL protocol",
                "Check that the client speaks protocol 3.0 to this port.",
                Client,
                Useless,
                "protocol_violation",
            ),
            Self::ShuttingDown => line(
                "57P01",
                Fatal,
                "pgmoor is shutting down",
                "Connect again: another replica of pgmoor serves.",
                Us,
                Helps,
                "shutting_down",
            ),
            Self::StartupTimeout => line(
                "08006",
                Fatal,
                "the login was not finished in time",
                "Send the startup packet and the password sooner (limits.login_timeout).",
                Client,
                Helps,
                "startup_timeout",
            ),
            Self::TlsRequired => line(
                "28000",
                Fatal,
                "this endpoint takes TLS connections only",
                "Connect with sslmode=require.",
                Client,
                Useless,
                "tls_required",
            ),
            Self::TooLong => line(
                "54000",
                Fatal,
                "a message is longer than the limit",
                "Send it in parts, or raise limits.message_size.",
                Client,
                Useless,
                "too_long",
            ),
            Self::PoolExhausted => line(
                "53300",
                Error,
                "no backend became free in time",
                "The session goes on: try again later. Operators: raise pool.size, or find the transactions that last.",
                Us,
                Helps,
                "pool_exhausted",
            ),
            Self::TooManyHeld => line(
                "53300",
                Error,
                "too many sessions wait for a primary already",
                "The session goes on: try again later, or raise continuity.held_sessions.",
                Us,
                Helps,
                "too_many_held",
            ),
            Self::TooManySessions => line(
                "53300",
                Fatal,
                "too many sessions",
                "Try again later, or raise limits.sessions.",
                Us,
                Helps,
                "too_many_sessions",
            ),
            Self::TransactionLost => line(
                "40001",
                Error,
                "the transaction was lost with its PostgreSQL server; nothing of it remains",
                "Roll back and run the transaction again.",
                Backend,
                Helps,
                "transaction_lost",
            ),
            Self::UnknownCluster => line(
                "3D000",
                Fatal,
                "no cluster is configured for this database",
                "Check databases = [...] of the [[cluster]] sections in pgmoor's configuration.",
                Client,
                Useless,
                "unknown_cluster",
            ),
            Self::Unsupported => line(
                "0A000",
                Fatal,
                "pgmoor does not support this",
                "Connect to PostgreSQL directly for it.",
                Client,
                Useless,
                "unsupported",
            ),
        }
    }

    /// The metric label.
    pub const fn label(self) -> &'static str {
        self.entry().label
    }
}

const fn line(
    sqlstate: &'static str,
    severity: Severity,
    text: &'static str,
    hint: &'static str,
    side: Side,
    retry: Retry,
    label: &'static str,
) -> Entry {
    Entry { sqlstate, severity, text, hint, side, retry, label }
}

impl Severity {
    /// As the protocol's S and V fields say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// A code with what is particular to this one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The line of the catalogue.
    pub code: Code,
    /// The protocol's D field: which pod, which pin, which limit.
    pub detail: Option<String>,
    /// Ends the session even if the catalogue says ERROR: set while a session is not yet up.
    pub fatal: bool,
}

impl Complaint {
    /// A code with nothing to add.
    pub const fn new(code: Code) -> Self {
        Self { code, detail: None, fatal: false }
    }

    /// A code with its particulars.
    pub fn with(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: Some(detail.into()), fatal: false }
    }

    /// The same complaint as the last word of a session.
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// The severity this complaint is sent with.
    pub const fn severity(&self) -> Severity {
        if self.fatal { Severity::Fatal } else { self.code.entry().severity }
    }
}

impl From<Code> for Complaint {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.code.entry();
        write!(f, "{} {}", entry.sqlstate, entry.text)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Complaint {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_is_whole_and_labels_differ() {
        let mut labels = BTreeSet::new();
        for code in Code::ALL {
            let entry = code.entry();
            assert_eq!(entry.sqlstate.len(), 5, "{code:?}");
            assert!(!entry.text.is_empty() && entry.hint.ends_with('.'), "{code:?}");
            assert!(labels.insert(entry.label), "{} stands twice", entry.label);
        }
    }
}
