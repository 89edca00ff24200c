//! A wire between pgmoor and PostgreSQL that can be cut or held at any byte, and the door where connections come onto wires.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// For whatever a test waits for: far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a thread that carries bytes: there may be thousands.
const STACK: usize = 128 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToMoor,
}

/// What happens when so many bytes have gone that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing more goes that way. What comes the other way until its end still arrives.
    Cut,
    /// Nothing goes that way until it is let go, and that the server has ended is not told.
    Hold,
}

/// The trap on one connection, or on all connections of one session, one after the other.
#[derive(Default)]
pub(crate) struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    trap: Option<(Way, usize, Then)>,
    sprung: bool,
    /// Something is held back.
    holds: bool,
    /// How often what was held was let go.
    releases: u64,
    /// What went each way since the trap was set.
    to_server: Vec<u8>,
    to_moor: Vec<u8>,
    /// In so many pieces, as they were sent if nothing was waiting to be read.
    packets: [usize; 2],
    /// There was a connection.
    begun: bool,
    /// Both ends of every connection.
    connections: Vec<[Arc<TcpStream>; 2]>,
}

impl State {
    fn set(&mut self, way: Way, after: usize, then: Then) {
        self.trap = Some((way, after, then));
        self.sprung = false;
        (self.to_server, self.to_moor, self.packets) = (Vec::new(), Vec::new(), [0, 0]);
    }

    fn seen(&mut self, way: Way) -> &mut Vec<u8> {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToMoor => &mut self.to_moor,
        }
    }

    fn release(&mut self) {
        self.releases += 1;
        self.holds = false;
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets a trap, and begins to count at 0 both ways.
    pub(crate) fn set(&self, way: Way, after: usize, then: Then) {
        self.state().set(way, after, then);
    }

    /// Sets the next trap before a wire that is held goes on.
    pub(crate) fn let_go_into(&self, way: Way, after: usize, then: Then) {
        let mut state = self.state();
        state.set(way, after, then);
        state.release();
        self.changed.notify_all();
    }

    /// Takes the trap away: whether it had sprung.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.state();
        state.trap = None;
        state.sprung
    }

    /// Whether the trap has sprung.
    pub(crate) fn has_sprung(&self) -> bool {
        self.state().sprung
    }

    /// Whether it has carried a connection and carries none now.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state();
        state.begun && state.connections.is_empty()
    }

    /// Waits until the trap has sprung.
    pub(crate) fn wait_sprung(&self) {
        let waiting = |state: &mut State| !state.sprung;
        let (state, _) = self.changed.wait_timeout_while(self.state(), PATIENCE, waiting).unwrap();
        assert!(state.sprung, "the wire was waited for in vain");
    }

    /// What went this way since the trap was set.
    pub(crate) fn seen(&self, way: Way) -> Vec<u8> {
        self.state().seen(way).clone()
    }

    /// How many pieces that was.
    pub(crate) fn packets(&self, way: Way) -> usize {
        self.state().packets[way as usize]
    }

    /// Ends every connection that there is, both ways at once.
    pub(crate) fn cut(&self) {
        let mut state = self.state();
        for stream in state.connections.drain(..).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        state.trap = None;
        state.release();
        self.changed.notify_all();
    }

    /// How much of `count` bytes may go now, and what comes then; and how often what was held had been let go. What may go
    /// is noted before it is sent: what the other side has is always part of what was seen.
    fn allow(&self, way: Way, bytes: &[u8]) -> (usize, Option<Then>, u64) {
        let mut state = self.state();
        let gone = state.seen(way).len();
        state.packets[way as usize] += 1;
        let (count, then) = match state.trap {
            Some((trapped, after, then)) if trapped == way && gone + bytes.len() > after => {
                (state.trap, state.sprung, state.holds) = (None, true, then == Then::Hold);
                self.changed.notify_all();
                (after - gone, Some(then))
            }
            _ => (bytes.len(), None),
        };
        state.seen(way).extend_from_slice(&bytes[..count]);
        (count, then, state.releases)
    }

    /// Until it is let go, which may have been before we came here.
    fn hold(&self, releases: u64) {
        drop(self.changed.wait_while(self.state(), |state| state.releases == releases));
    }

    /// Until nothing is held.
    fn hold_end(&self) {
        drop(self.changed.wait_while(self.state(), |state| state.holds));
    }
}

/// Where connections come in: each is led to the server, those of user `app` on a wire; others, probes for one, just pass.
/// Dropping it closes it to new ones.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Door {
    /// Listens there; port 0 is a free one. `wire` gives each session's connection its wire.
    pub(crate) fn open(
        address: SocketAddr,
        server: SocketAddr,
        wire: impl Fn() -> Arc<Wire> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let (address, ended) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (theirs, wire) = (Arc::clone(&ended), Arc::new(wire));
        std::thread::spawn(move || {
            for moor in listener.incoming() {
                if theirs.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(moor), wire) = (moor, Arc::clone(&wire)) else { continue };
                spawn(move || connection(moor, server, &*wire));
            }
        });
        Ok(Self { address, ended })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new().stack_size(STACK).spawn(work).unwrap()
}

fn connection(moor: TcpStream, server: SocketAddr, wire: &dyn Fn() -> Arc<Wire>) {
    let Ok(server) = TcpStream::connect(server) else { return };
    let _ = (moor.set_nodelay(true), server.set_nodelay(true));
    let (moor, server) = (Arc::new(moor), Arc::new(server));
    // The startup packet says whose connection it is.
    let mut hello = [0; 4096];
    let Ok(count) = (&*moor).read(&mut hello) else { return };
    let session = hello[..count].windows(9).any(|part| part == b"user\0app\0");
    if (&*server).write_all(&hello[..count]).is_err() {
        return;
    }
    let wire = session.then(wire);
    if let Some(wire) = &wire {
        let mut state = wire.state();
        state.begun = true;
        state.connections.push([Arc::clone(&moor), Arc::clone(&server)]);
    }
    let (from, to, theirs) = (Arc::clone(&server), Arc::clone(&moor), wire.clone());
    let pumping = spawn(move || pump(&from, &to, Way::ToMoor, theirs.as_deref()));
    pump(&moor, &server, Way::ToServer, wire.as_deref());
    let _ = pumping.join();
    if let Some(wire) = &wire {
        wire.state().connections.retain(|[other, _]| !Arc::ptr_eq(other, &moor));
    }
}

/// Carries one way until its end, or until it is cut.
fn pump(mut from: &TcpStream, mut to: &TcpStream, way: Way, wire: Option<&Wire>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let (now, then, releases) = wire.map_or((rest.len(), None, 0), |wire| wire.allow(way, rest));
            if to.write_all(&rest[..now]).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            rest = &rest[now..];
            match (then, wire) {
                (None, _) | (_, None) => {}
                (Some(Then::Cut), _) => return cut(from, to, way),
                (Some(Then::Hold), Some(wire)) => wire.hold(releases),
            }
        }
    }
    if let (Way::ToMoor, Some(wire)) = (way, wire) {
        wire.hold_end();
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn cut(from: &TcpStream, to: &TcpStream, way: Way) {
    let _ = to.shutdown(Shutdown::Write);
    match way {
        Way::ToServer => {} // the server's answers to what it got still come
        Way::ToMoor => drop(from.shutdown(Shutdown::Both)),
    }
}
