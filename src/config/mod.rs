//! The configuration: what the operator's file means, as plain data; every key's default stands in `keys.rs`.

mod build;
mod build_cluster;
mod cluster;
mod complain;
mod expand;
mod keys;
mod load;
mod read;
mod units;
mod users;

pub use cluster::{Cluster, Databases, Discovery, FixedPod, Kubernetes, Patroni, Preset, Probe, ServerTls};
pub use complain::ConfigError;
pub use keys::{Absent, Key, keys};
pub use units::duration;
pub use users::{Password, ScramVerifier, Secret, Users};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{ClusterName, Zone};

/// Everything the operator decided, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[listen]`: where clients and operators connect.
    pub listen: Listen,
    /// `[tls]`: TLS towards the clients.
    pub tls: ClientTls,
    /// `[auth]`: who may log in.
    pub auth: Auth,
    /// `[limits]`: a limit on everything a client can make pgmoor hold.
    pub limits: Limits,
    /// `[pool]`: how many backends there are, and who has one for how long.
    pub pool: Pool,
    /// `[continuity]`: how long and how many sessions wait, and how they are let go.
    pub continuity: Continuity,
    /// `[routing]`: which pod a reader gets.
    pub routing: Routing,
    /// `[log]`: how pgmoor speaks to its operator.
    pub log: Log,
    /// `[[cluster]]`: at least one, names unique.
    pub clusters: Vec<Cluster>,
}

impl Config {
    /// The cluster that serves this database: one that names it goes before the one that takes every database.
    pub fn database_cluster(&self, database: &str) -> Option<&Cluster> {
        let named = self.clusters.iter().find(|cluster| match &cluster.databases {
            Databases::Named(names) => names.contains(database),
            Databases::Every => false,
        });
        named.or_else(|| self.clusters.iter().find(|cluster| cluster.databases == Databases::Every))
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == *name)
    }
}

/// A kind of door a client can come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Leads to the primary.
    Rw,
    /// Leads to a replica.
    Ro,
}

impl Endpoint {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rw, Self::Ro];

    /// As the configuration and the metrics say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rw => "rw",
            Self::Ro => "ro",
        }
    }
}

/// Where pgmoor listens. An empty list is an endpoint that is not offered; `rw` or `ro` has at least one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// To the primary.
    pub rw: Vec<SocketAddr>,
    /// To a replica.
    pub ro: Vec<SocketAddr>,
    /// HTTP for operators: metrics, probes, status, planned moves.
    pub admin: Vec<SocketAddr>,
    /// What an operator must show who changes something there; `None`: only this machine's own may.
    pub admin_token: Option<Password>,
}

/// TLS towards the clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// SSLRequest is answered `N`.
    Off,
    /// For clients that ask for it.
    Prefer(TlsFiles),
    /// A client without TLS is refused.
    Require(TlsFiles),
}

/// What a TLS server needs; the files are read (and read again when they change) by `net::tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM, own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// When given, clients must show a certificate signed by one of these (PEM).
    pub client_ca: Option<PathBuf>,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// How a client proves who it is.
    pub method: AuthMethod,
    /// The users known. With `trust` others may log in too, but have no password of ours to show to PostgreSQL.
    pub users: Users,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// SCRAM-SHA-256 against the users file.
    Scram,
    /// Not at all.
    Trust,
}

/// A limit on everything a client can make pgmoor hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logged-in client sessions at once.
    pub sessions: usize,
    /// Connections that have not finished their login, at once.
    pub startup_sessions: usize,
    /// From accept to the end of the login.
    pub login_timeout: Duration,
    /// One protocol message, in bytes.
    pub message_size: usize,
    /// What is remembered of one session (its settings and statements), in bytes.
    pub session_state: usize,
    /// Threads that sessions run on; 0: one for each processor that this process may use.
    pub workers: usize,
    /// Short messages of one turn of such a thread leave in one system call, where the kernel offers io_uring.
    pub io_uring: bool,
}

/// How many backends there are, and who has one for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// When a session gives its backend back.
    pub mode: PoolMode,
    /// Backends of one database and user on one pod, at most.
    pub size: usize,
    /// Of those, kept open though nobody needs them.
    pub min: usize,
    /// Backends on one pod in all, at most: below its `max_connections`.
    pub pod_size: usize,
    /// An idle backend is closed after this time.
    pub idle: Duration,
    /// A backend is closed at its age, give or take a tenth, when it is idle next.
    pub lifetime: Duration,
    /// Prepared statements kept on one backend, at most.
    pub statements: usize,
}

/// When a session gives its backend back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// At its end.
    Session,
    /// At the end of each transaction, unless something pins it.
    Transaction,
}

/// How long and how many sessions wait, and how they are let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuity {
    /// How long a session waits for a pod that can serve it.
    pub hold: Duration,
    /// Sessions waiting at once.
    pub held_sessions: usize,
    /// Logins at once to a primary that has just been proven; doubles with every success up to `release_max`.
    pub release_start: usize,
    /// Logins at once to one pod, ever.
    pub release_max: usize,
    /// TCP, TLS and login to one pod, together.
    pub connect_timeout: Duration,
    /// How long sessions may go on with what they are in the midst of: on a draining pod, and after SIGTERM.
    pub drain_deadline: Duration,
    /// Ask the backend for what the wire does not tell of the session's state; before a planned move, wait this long;
    /// `None`: go by what was seen on the wire.
    pub ask: Option<Duration>,
    /// Run a lost transaction again on the next primary; `None`: it is lost.
    pub replay: Option<Replay>,
    /// Whether a COMMIT whose answer is lost can be told as what it was.
    pub commit_guard: CommitGuard,
}

/// When the server is asked for what tells a COMMIT's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitGuard {
    /// Never.
    Off,
    /// In the packet of the COMMIT of a transaction that wrote: it stays in doubt if even that answer is lost.
    Pipelined,
    /// Before the COMMIT of a transaction that wrote, which waits for the answer: one that was not sent is not in doubt.
    On,
    /// And before the Sync of a unit of the extended protocol that writes rows outside of any transaction.
    Autocommit,
}

/// The bounds of running a lost transaction again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Bytes of requests remembered of an open transaction, at most.
    pub size: usize,
    /// From the loss to the end of the replay.
    pub deadline: Duration,
}

/// Which pod a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The primary serves readers when no replica is fit.
    pub ro_falls_back: bool,
    /// pgmoor's own zone: replicas in it come first.
    pub zone: Option<Zone>,
    /// The lag limit of clusters that set none of their own.
    pub lag_limit: Duration,
}

/// How pgmoor speaks to its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// The least severe events that are written.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How severe an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is broken.
    Error,
    /// Something may break, or was refused.
    Warn,
    /// What an operator wants to know: starts, moves, ends.
    Info,
    /// One line per decision.
    Debug,
    /// Everything.
    Trace,
}
