//! A wire between pgmoor and PostgreSQL that can be cut or held at any byte, on the sessions' connections; probes pass.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::pair::PATIENCE;

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
    /// Nothing goes that way until it is let go.
    Hold,
}

/// The wire. Dropping it closes it.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    trap: Option<(Way, usize, Then)>,
    sprung: bool,
    /// How often what was held was let go.
    releases: u64,
    /// What went each way since the trap was set.
    to_server: Vec<u8>,
    to_moor: Vec<u8>,
    /// Both ends of every session's connection.
    sessions: Vec<[TcpStream; 2]>,
}

impl State {
    fn set(&mut self, way: Way, after: usize, then: Then) {
        self.trap = Some((way, after, then));
        self.sprung = false;
        (self.to_server, self.to_moor) = (Vec::new(), Vec::new());
    }

    fn seen(&mut self, way: Way) -> &mut Vec<u8> {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToMoor => &mut self.to_moor,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Cutter {
    /// Listens on a port of its own.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), ended: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for moor in listener.incoming() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(moor), shared) = (moor, Arc::clone(&theirs)) else { continue };
                std::thread::spawn(move || connection(moor, server, &shared));
            }
        });
        Self { address, shared }
    }

    /// Sets a trap, and begins to count at 0 both ways.
    pub(crate) fn set(&self, way: Way, after: usize, then: Then) {
        self.shared.state().set(way, after, then);
    }

    /// Sets the next trap before a wire that is held goes on.
    pub(crate) fn let_go_into(&self, way: Way, after: usize, then: Then) {
        let mut state = self.shared.state();
        state.set(way, after, then);
        state.releases += 1;
        self.shared.changed.notify_all();
    }

    /// Takes the trap away: whether it had sprung.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.shared.state();
        state.trap = None;
        state.sprung
    }
    /// Waits until the trap has sprung.
    pub(crate) fn wait_sprung(&self) {
        let waiting = |state: &mut State| !state.sprung;
        let (state, _) = self.shared.changed.wait_timeout_while(self.shared.state(), PATIENCE, waiting).unwrap();
        assert!(state.sprung, "the wire was waited for in vain");
    }

    /// What went this way since the trap was set.
    pub(crate) fn seen(&self, way: Way) -> Vec<u8> {
        self.shared.state().seen(way).clone()
    }

    /// Ends every session's connection that there is, both ways at once.
    pub(crate) fn cut(&self) {
        let mut state = self.shared.state();
        for stream in state.sessions.drain(..).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        state.trap = None;
        state.releases += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        drop(TcpStream::connect(self.address));
    }
}

fn connection(moor: TcpStream, server: SocketAddr, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(server) else { return };
    let _ = (moor.set_nodelay(true), server.set_nodelay(true));
    let (Ok(mut from), Ok(mut to)) = (moor.try_clone(), server.try_clone()) else { return };
    // The startup packet says whose connection it is.
    let mut hello = [0; 4096];
    let Ok(count) = from.read(&mut hello) else { return };
    let session = hello[..count].windows(9).any(|part| part == b"user\0app\0");
    if to.write_all(&hello[..count]).is_err() {
        return;
    }
    if session && let (Ok(moor), Ok(server)) = (moor.try_clone(), server.try_clone()) {
        shared.state().sessions.push([moor, server]);
    }
    let (theirs, back) = (Arc::clone(shared), (server, moor));
    let pumping = std::thread::spawn(move || pump(back.0, back.1, Way::ToMoor, session, &theirs));
    pump(from, to, Way::ToServer, session, shared);
    let _ = pumping.join();
}

/// Carries one way until its end, or until it is cut.
fn pump(mut from: TcpStream, mut to: TcpStream, way: Way, session: bool, shared: &Shared) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let (now, then, releases) = if session { allowed(shared, way, rest.len()) } else { (rest.len(), None, 0) };
            // Noted before it is sent: what the other side has is always part of what was seen.
            if session {
                shared.state().seen(way).extend_from_slice(&rest[..now]);
            }
            if to.write_all(&rest[..now]).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            rest = &rest[now..];
            match then {
                None => {}
                Some(Then::Cut) => return cut(&from, &to, way),
                Some(Then::Hold) => hold(shared, releases),
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// How much of `count` bytes may go now, and what comes then; and how often what was held had been let go.
fn allowed(shared: &Shared, way: Way, count: usize) -> (usize, Option<Then>, u64) {
    let mut state = shared.state();
    let gone = state.seen(way).len();
    match state.trap {
        Some((trapped, after, then)) if trapped == way && gone + count > after => {
            (state.trap, state.sprung) = (None, true);
            shared.changed.notify_all();
            (after - gone, Some(then), state.releases)
        }
        _ => (count, None, state.releases),
    }
}

fn cut(from: &TcpStream, to: &TcpStream, way: Way) {
    let _ = to.shutdown(Shutdown::Write);
    match way {
        Way::ToServer => {} // the server's answers to what it got still come
        Way::ToMoor => drop(from.shutdown(Shutdown::Both)),
    }
}

/// Until it is let go, which may have been before we came here.
fn hold(shared: &Shared, releases: u64) {
    drop(shared.changed.wait_while(shared.state(), |state| state.releases == releases));
}
