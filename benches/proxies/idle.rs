//! Clients that have asked once and stay: what each costs in memory, and what is left of it when all have gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;

use crate::link::Link;
use crate::process::memory;
use crate::target::Running;
use crate::trouble::{Result, Trouble};

/// How many log in at once.
const AT_ONCE: usize = 8;
/// A proxy may take its time to give memory back.
const SETTLE: Duration = Duration::from_secs(3);

/// Bytes of the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// With no client.
    pub(crate) fresh: f64,
    /// With all of them, idle.
    pub(crate) full: f64,
    /// After they have gone.
    pub(crate) left: f64,
}

/// Lets so many clients come, ask once, stay, and go.
pub(crate) fn run(running: &Running, tls: Option<&Arc<ClientConfig>>, clients: usize) -> Result<Memory> {
    let pids = running.pids().ok_or_else(|| Trouble::new("its processes are not known"))?;
    thread::sleep(Duration::from_secs(1));
    let fresh = memory(pids)?;
    let links = all(running.address, tls, clients)?;
    thread::sleep(Duration::from_secs(1));
    let full = memory(pids)?;
    drop(links);
    thread::sleep(SETTLE);
    Ok(Memory { fresh, full, left: memory(pids)? })
}

fn all(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, clients: usize) -> Result<Vec<Link>> {
    thread::scope(|scope| {
        let share = |number| (clients + number) / AT_ONCE;
        let threads: Vec<_> =
            (0..AT_ONCE).map(|number| scope.spawn(move || some(address, tls, share(number)))).collect();
        let mut links = Vec::with_capacity(clients);
        for thread in threads {
            links.extend(thread.join().map_err(|_| Trouble::new("a client panicked"))??);
        }
        Ok(links)
    })
}

fn some(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, count: usize) -> Result<Vec<Link>> {
    let one = |_| {
        let mut link = Link::open(address, tls)?;
        link.run("SELECT 1", &mut [0; 4096])?;
        Ok(link)
    };
    (0..count).map(one).collect()
}
