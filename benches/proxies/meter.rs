//! Who used how much CPU between two looks.

use std::time::Instant;

use crate::process::{Trees, alone, machine_busy};

/// Whose CPU is looked at.
pub(crate) struct Meter<'a> {
    /// The proxy's processes, each with all it has started; `None`: unknown.
    pub(crate) proxy: Option<&'a [u32]>,
    /// The postmaster.
    pub(crate) server: u32,
    pub(crate) client: Client,
}

/// Where the client's work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// In this process and those it has started.
    Tree(u32),
    /// In the harness itself.
    Here,
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    at: Instant,
    proxy: Option<f64>,
    server: f64,
    client: f64,
    machine: f64,
}

/// CPU seconds from one look to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    pub(crate) proxy: Option<f64>,
    /// Client, proxy, PostgreSQL.
    pub(crate) total: f64,
    /// The part of the machine that everybody else took.
    pub(crate) others: f64,
}

impl Meter<'_> {
    pub(crate) fn look(&self) -> Look {
        let mut roots = self.proxy.unwrap_or_default().to_vec();
        roots.push(self.server);
        if let Client::Tree(pid) = self.client {
            roots.push(pid);
        }
        let (at, trees, machine) = (Instant::now(), Trees::now(&roots), machine_busy());
        let client = match self.client {
            Client::Tree(pid) => trees.cpu(&[pid]),
            Client::Here => alone(std::process::id()),
        };
        let proxy = self.proxy.map(|pids| trees.cpu(pids));
        Look { at, proxy, server: trees.cpu(&[self.server]), client, machine }
    }
}

impl Look {
    /// What was used since an earlier look.
    pub(crate) fn since(&self, earlier: &Self) -> Used {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let proxy = self.proxy.zip(earlier.proxy).map(|(now, then)| now - then);
        let total = self.server - earlier.server + self.client - earlier.client + proxy.unwrap_or(0.0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let others = (self.machine - earlier.machine - total) / (seconds * cores);
        Used { seconds, proxy, total, others: others.max(0.0) }
    }
}
