//! What the environment asks of a run.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use crate::trouble::{Result, Trouble, Trying as _};

/// How to run. `benches/README.md` has the list for users.
#[derive(Debug)]
pub(crate) struct Options {
    /// Times every workload is run against every target.
    pub(crate) rounds: usize,
    /// Seconds of one run; of these the first, in which clients connect, is not counted.
    pub(crate) seconds: u64,
    only: Vec<String>,
    targets: Vec<String>,
    /// pgbench's scale factor.
    pub(crate) scale: u32,
    /// Clients that stay idle while memory is measured.
    pub(crate) idle: usize,
    /// Clients that all want something at once.
    pub(crate) active: usize,
    /// Further proxies, started by whoever runs this.
    pub(crate) peers: Vec<Peer>,
    /// A PgBouncer of the user's own.
    pub(crate) pgbouncer: Option<PathBuf>,
    /// Where PostgreSQL shall listen, so that further proxies can be told.
    pub(crate) postgres_port: Option<u16>,
    /// Whether to draw the picture.
    pub(crate) picture: bool,
}

/// A proxy that runs already: its name, where it listens, and its process, if its CPU shall be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) pid: Option<u32>,
}

impl Options {
    /// Reads the variables `BENCH_*`.
    pub(crate) fn from_env() -> Result<Self> {
        let options = Self {
            rounds: number("BENCH_ROUNDS", 3)?,
            seconds: number("BENCH_SECONDS", 4)?,
            only: words("BENCH_ONLY"),
            targets: words("BENCH_TARGETS"),
            scale: number("BENCH_SCALE", 10)?,
            idle: number("BENCH_IDLE", 5000)?,
            active: number("BENCH_ACTIVE", 5000)?,
            peers: words("BENCH_PEERS").iter().map(|word| word.parse()).collect::<Result<_>>()?,
            pgbouncer: said("BENCH_PGBOUNCER").map(PathBuf::from),
            postgres_port: said("BENCH_POSTGRES_PORT").map(|port| parsed("BENCH_POSTGRES_PORT", &port)).transpose()?,
            picture: said("BENCH_PICTURE").is_some_and(|value| value != "0"),
        };
        if options.rounds == 0 || options.seconds < 2 {
            return Err(Trouble::new("BENCH_ROUNDS must be 1 or more, BENCH_SECONDS 2 or more"));
        }
        Ok(options)
    }

    /// Takes no more clients than files can be opened; says so.
    pub(crate) fn fit(&mut self, clients: usize) -> Option<String> {
        let wanted = self.idle.max(self.active);
        self.idle = self.idle.min(clients);
        self.active = self.active.min(clients);
        (wanted > clients).then(|| format!("{wanted} clients at once: this machine allows {clients} (ulimit -n)"))
    }

    /// Whether a workload of this name is asked for.
    pub(crate) fn wants(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| matches(word, workload))
    }

    /// Whether this target is asked for.
    pub(crate) fn has(&self, target: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|word| word == target)
    }
}

/// A part of the name; with `=` before it, the whole name.
fn matches(word: &str, name: &str) -> bool {
    word.strip_prefix('=').map_or_else(|| name.contains(word), |whole| whole == name)
}

impl FromStr for Peer {
    type Err = Trouble;

    /// `name=host:port` or `name=host:port/pid`.
    fn from_str(word: &str) -> Result<Self> {
        let wrong = || Trouble::new(format!("BENCH_PEERS: `{word}` is not name=host:port or name=host:port/pid"));
        let (name, rest) = word.split_once('=').ok_or_else(wrong)?;
        let (address, pid) = match rest.split_once('/') {
            Some((address, pid)) => (address, Some(pid.parse().map_err(|_| wrong())?)),
            None => (rest, None),
        };
        Ok(Self { name: name.to_owned(), address: address.to_owned(), pid })
    }
}

fn said(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn words(name: &str) -> Vec<String> {
    let value = said(name).unwrap_or_default();
    value.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn number<T: FromStr<Err: std::error::Error>>(name: &str, default: T) -> Result<T> {
    said(name).map_or(Ok(default), |value| parsed(name, &value))
}

fn parsed<T: FromStr<Err: std::error::Error>>(name: &str, value: &str) -> Result<T> {
    value.parse().trying(|| format!("{name}={value}"))
}
