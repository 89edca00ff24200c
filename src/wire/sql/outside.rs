//! Effects that a rollback does not take back, by the names of the functions and statements that have them.

use std::fmt;

use super::lex::is_identifier;

/// An effect outside the transaction: what had it must not be run a second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// An advisory lock of the session's was taken or given back.
    AdvisoryLock(Source),
    /// Something was done on another server.
    Remote(Source),
    /// Another session, or a process of the server, was sent a signal.
    Signal(Source),
    /// The server itself was told to do something, such as to switch its WAL file.
    Server(Source),
    /// A replication slot, a subscription or a replication origin was changed.
    Replication(Source),
    /// A file of the server's was written, or a program run there.
    File(Source),
    /// Tables or indexes were reorganised by a statement that commits by itself.
    Maintenance(Source),
    /// Something that belongs to no single database was made or dropped.
    Cluster(Source),
    /// A transaction was left for any session, or ended from outside.
    TwoPhase(Source),
    /// A library was loaded.
    Load(Source),
}

/// What has the effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A function's name, folded.
    Function(String),
    /// A statement's leading words.
    Statement(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(name) => write!(f, "{name}() was called"),
            Self::Statement(words) => write!(f, "{words} was run"),
        }
    }
}

impl Outside {
    /// Every metric label, in alphabetical order.
    pub const LABELS: [&'static str; 10] = [
        "advisory_lock",
        "cluster",
        "load",
        "maintenance",
        "remote",
        "replication",
        "server",
        "server_file",
        "signal",
        "two_phase",
    ];

    /// The metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AdvisoryLock(_) => "advisory_lock",
            Self::Remote(_) => "remote",
            Self::Signal(_) => "signal",
            Self::Server(_) => "server",
            Self::Replication(_) => "replication",
            Self::File(_) => "server_file",
            Self::Maintenance(_) => "maintenance",
            Self::Cluster(_) => "cluster",
            Self::TwoPhase(_) => "two_phase",
            Self::Load(_) => "load",
        }
    }

    /// What the client is told: `pg_switch_wal() was called`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.source().to_string()
    }

    const fn source(&self) -> &Source {
        match self {
            Self::AdvisoryLock(source)
            | Self::Remote(source)
            | Self::Signal(source)
            | Self::Server(source)
            | Self::Replication(source)
            | Self::File(source)
            | Self::Maintenance(source)
            | Self::Cluster(source)
            | Self::TwoPhase(source)
            | Self::Load(source) => source,
        }
    }

    /// What a function of this name (folded) does outside its transaction; in any schema, for extensions live anywhere.
    ///
    /// Left out on purpose: `nextval` and `setval` (a sequence skips numbers, and an answer that shows one differs),
    /// `pg_stat_reset` and its kind (statistics), the `xact` forms of advisory locks (gone with the transaction).
    pub(super) fn of_function(name: &str) -> Option<Self> {
        let kind: fn(Source) -> Self = match name {
            "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
                Self::AdvisoryLock
            }
            "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => Self::AdvisoryLock,
            // The extensions dblink, http and pg_background.
            _ if name.starts_with("dblink") => Self::Remote,
            "http"
            | "http_get"
            | "http_head"
            | "http_post"
            | "http_put"
            | "http_patch"
            | "http_delete"
            | "pg_background_launch" => Self::Remote,
            "pg_terminate_backend" | "pg_cancel_backend" | "pg_log_backend_memory_contexts" => Self::Signal,
            "pg_switch_wal"
            | "pg_switch_xlog"
            | "pg_create_restore_point"
            | "pg_reload_conf"
            | "pg_rotate_logfile"
            | "pg_rotate_logfile_old"
            | "pg_promote"
            | "pg_backup_start"
            | "pg_backup_stop"
            | "pg_start_backup"
            | "pg_stop_backup"
            | "pg_wal_replay_pause"
            | "pg_wal_replay_resume" => Self::Server,
            "pg_logical_slot_get_changes"
            | "pg_logical_slot_get_binary_changes"
            | "pg_replication_slot_advance"
            | "pg_replication_origin_advance"
            | "pg_logical_emit_message"
            | "pg_sync_replication_slots" => Self::Replication,
            _ if name.starts_with("pg_") && name.ends_with("_replication_slot") => Self::Replication,
            "lo_export" => Self::File,
            _ if name.starts_with("pg_file_") => Self::File,
            _ => return None,
        };
        Some(kind(Source::Function(name.to_owned())))
    }
}

/// The first function with an effect outside its transaction whose name stands before a parenthesis anywhere in the text,
/// be it in a string or a comment: for texts that cannot be read, and for code inside of them.
#[must_use]
pub fn suspects(text: &[u8]) -> Option<Outside> {
    let mut pos = 0;
    while let Some(begin) = text[pos..].iter().position(|&b| is_identifier(b)).map(|at| pos + at) {
        let end = text[begin..].iter().position(|&b| !is_identifier(b)).map_or(text.len(), |at| begin + at);
        let word = &text[begin..end];
        // No name on the list is longer.
        let called = text[end..].trim_ascii_start().first() == Some(&b'(') && word.len() <= 63;
        if called && let Some(found) = Outside::of_function(&String::from_utf8_lossy(word).to_ascii_lowercase()) {
            return Some(found);
        }
        pos = end;
    }
    None
}
