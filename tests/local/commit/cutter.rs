//! One trap for all of the sessions' connections to a server: the wire of a single client, whatever becomes of its backends.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;

use crate::wire::{Door, Wire};

pub(crate) use crate::wire::{Then, Way};

/// The wire and its door. Dropping it closes both.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    wire: Arc<Wire>,
    _door: Door,
}

impl Cutter {
    /// Listens on a port of its own.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let wire = Arc::new(Wire::default());
        let theirs = Arc::clone(&wire);
        let door = Door::open((Ipv4Addr::LOCALHOST, 0).into(), server, move || Arc::clone(&theirs)).unwrap();
        Self { address: door.address, wire, _door: door }
    }
}

impl Deref for Cutter {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.wire.cut();
    }
}
