//! The short messages that one turn of a worker thread sends: they wait here and leave together, in one system call.
//!
//! A worker that wakes for several sockets answers several. Each send by itself is a system call, behind which the kernel
//! may at once run whom it woke; io_uring takes them all in one call (io_uring_enter(2)), one after the other.
//! ```text
//!   a session sends ──► its socket's bytes, here ──┬── the thread is about to sleep          ──► flush: what a socket
//!                                                  ├── MOST sends, or LARGEST bytes, wait        did not take is owed:
//!                                                  ├── the same socket is used otherwise         its session is woken
//!                                                  └── something that takes long is due          and sends it itself
//! ```
//! A session may go on on another thread than where its bytes wait, so a thread's outbox has a lock, which only such a case
//! contends for. Threads that do not say when they sleep ([`before_sleep`]) have no outbox: there everything is sent at once;
//! so it is everywhere where the kernel, or a container's seccomp profile, refuses io_uring.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tracing::warn;

#[cfg_attr(not(target_os = "linux"), path = "outbox/elsewhere.rs")]
mod kernel;

use kernel::{Outcome, Ring};

/// Sends that wait at most: each makes the one before it wait for some microseconds more.
const MOST: usize = 32;
/// Bytes of one send at most: they are copied. Beyond, the system call is not what costs.
const SHORT: usize = 4 * 1024;
/// Bytes that wait at most.
const LARGEST: usize = 32 * 1024;

/// What this thread does with sends.
#[derive(Default)]
enum Own {
    /// Sends them at once: it has never said that it sleeps.
    #[default]
    Nothing,
    /// Sends them at once: there is no ring to be had.
    Refused,
    /// Gathers them.
    Outbox(Arc<Outbox>),
}

thread_local! {
    static OWN: RefCell<Own> = const { RefCell::new(Own::Nothing) };
}

/// Whether the kernel offers what gathering needs.
///
/// # Errors
/// What it says, if not.
pub fn probe() -> io::Result<()> {
    Ring::new().map(drop)
}

/// To be called whenever this thread is about to wait for something to do: sends what waits. From the first call on it gathers.
pub fn before_sleep() {
    let begins = OWN.with_borrow(|own| match own {
        Own::Nothing => true,
        Own::Refused => false,
        Own::Outbox(outbox) => {
            outbox.flush();
            false
        }
    });
    if begins {
        let own = Ring::new().map_or(Own::Refused, |ring| Own::Outbox(Arc::new(Outbox::new(Some(ring)))));
        OWN.set(own);
    }
}

/// To be called before something that keeps this thread busy for long: sends what waits.
pub fn flush() {
    with_own(|outbox| outbox.flush());
}

/// Something whose every poll may take long: what waits is sent before.
pub(super) async fn before_each<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        flush();
        work.as_mut().poll(cx)
    })
    .await
}

/// Asks this thread's outbox, if it has one.
fn with_own<T>(ask: impl FnOnce(&Arc<Outbox>) -> T) -> Option<T> {
    let asked = OWN.try_with(|own| match &*own.borrow() {
        Own::Nothing | Own::Refused => None,
        Own::Outbox(outbox) => Some(ask(outbox)),
    });
    asked.ok().flatten() // a thread that ends has none any more
}

/// One thread's sends.
struct Outbox {
    waiting: Mutex<Waiting>,
    /// Sends up to this number have been handed to the kernel.
    done: AtomicU64,
    /// Of so many sends something is owed.
    troubled: AtomicUsize,
}

struct Waiting {
    /// Only its thread uses it.
    ring: Option<Ring>,
    bytes: Vec<u8>,
    sends: Vec<Send>,
    outcomes: Vec<Option<Outcome>>,
    /// The number of the last send.
    last: u64,
    owed: Vec<(u64, Owed)>,
}

/// One socket's bytes.
struct Send {
    /// Open until this is sent: who has the socket has its [`Outgoing`] too, and that sends what waits when it is dropped.
    socket: RawFd,
    /// Where its bytes end; they begin where those of the one before end.
    end: usize,
    /// Who is told when the socket does not take them.
    waker: Waker,
}

/// What a send left to be done.
#[derive(Debug)]
enum Owed {
    /// These bytes, from there on.
    Bytes(Vec<u8>, usize),
    /// Nothing: the connection is broken (an error's number).
    Error(i32),
}

impl Outbox {
    fn new(ring: Option<Ring>) -> Self {
        let waiting = Waiting {
            ring,
            bytes: Vec::with_capacity(LARGEST),
            sends: Vec::with_capacity(MOST),
            outcomes: Vec::with_capacity(MOST),
            last: 0,
            owed: Vec::new(),
        };
        Self { waiting: Mutex::new(waiting), done: AtomicU64::new(0), troubled: AtomicUsize::new(0) }
    }

    /// Takes bytes for a socket of which nothing waits. Says the send's number.
    fn put(&self, socket: RawFd, bytes: &[u8], waker: &Waker) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.bytes.extend_from_slice(bytes);
        let end = waiting.bytes.len();
        waiting.sends.push(Send { socket, end, waker: waker.clone() });
        waiting.last += 1;
        let number = waiting.last;
        if waiting.sends.len() >= MOST || end > LARGEST - SHORT {
            drop(waiting);
            self.flush();
        }
        number
    }

    /// Sends what waits.
    fn flush(&self) {
        let mut waiting = self.waiting.lock();
        if waiting.sends.is_empty() {
            return;
        }
        let is_own = with_own(|own| std::ptr::eq(&raw const **own, self)).unwrap_or(false);
        let troubled = waiting.send(is_own);
        self.troubled.store(waiting.owed.len(), Ordering::Release);
        self.done.store(waiting.last, Ordering::Release);
        drop(waiting);
        troubled.into_iter().for_each(Waker::wake);
    }

    fn is_done(&self, number: u64) -> bool {
        self.done.load(Ordering::Acquire) >= number
    }

    /// What is left to be done of a send that is done.
    fn take_owed(&self, number: u64) -> Option<Owed> {
        if self.troubled.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut waiting = self.waiting.lock();
        let at = waiting.owed.iter().position(|(of, _)| *of == number)?;
        let (_, owed) = waiting.owed.swap_remove(at);
        self.troubled.store(waiting.owed.len(), Ordering::Release);
        Some(owed)
    }
}

impl Waiting {
    /// Sends all, and says whom to wake.
    fn send(&mut self, with_ring: bool) -> Vec<Waker> {
        let Self { ring, bytes, sends, outcomes, last, owed } = self;
        // One by itself costs less without.
        let with = ring.as_mut().filter(|_| with_ring && sends.len() > 1);
        match with.map(|ring| ring.send(bytes, sends, outcomes)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                warn!(%error, "io_uring is of no use any more: from now on each message of this thread is sent by itself");
                *ring = None;
            }
            None => {
                outcomes.clear();
                let mut begin = 0;
                for send in sends.iter() {
                    outcomes.push(Some(kernel::send(send.socket, &bytes[begin..send.end])));
                    begin = send.end;
                }
            }
        }
        let mut troubled = Vec::new();
        let (mut begin, first) = (0, *last + 1 - sends.len() as u64);
        for ((number, send), outcome) in (first..).zip(sends.drain(..)).zip(outcomes.iter()) {
            let part = &bytes[begin..send.end];
            begin = send.end;
            if let Some(left) = left_of(part, *outcome) {
                owed.push((number, left));
                troubled.push(send.waker);
            }
        }
        bytes.clear();
        troubled
    }
}

/// What is left to be done of `part`.
fn left_of(part: &[u8], outcome: Option<Outcome>) -> Option<Owed> {
    match outcome {
        Some(Ok(count)) if count >= part.len() => None,
        Some(Ok(count)) => Some(Owed::Bytes(part[count..].to_vec(), 0)),
        Some(Err(libc::EAGAIN | libc::EINTR)) => Some(Owed::Bytes(part.to_vec(), 0)),
        Some(Err(number)) => Some(Owed::Error(number)),
        None => Some(Owed::Error(libc::EIO)), // perhaps sent, perhaps not: nothing may follow it
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox(done: {})", self.done.load(Ordering::Relaxed))
    }
}

/// What one socket has in an outbox, or has left there. It has to be dropped before its socket is closed.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Where the last send was put.
    outbox: Option<Arc<Outbox>>,
    /// Its number; 0: what became of it is known.
    number: u64,
    owed: Option<Box<Owed>>,
}

impl Outgoing {
    /// Sends bytes with the others of this turn if they are few, else at once.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut TcpStream,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx, socket))?; // two sends to one socket in one call: the second might overtake
        if bytes.len() <= SHORT
            && let Some(number) = with_own(|own| {
                if !self.outbox.as_ref().is_some_and(|outbox| Arc::ptr_eq(outbox, own)) {
                    self.outbox = Some(Arc::clone(own));
                }
                own.put(socket.as_raw_fd(), bytes, cx.waker())
            })
        {
            self.number = number;
            return Poll::Ready(Ok(bytes.len()));
        }
        flush(); // many bytes take long, and more may follow
        Pin::new(socket).poll_write(cx, bytes)
    }

    /// What was sent is with the kernel when this is `Ready`.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<()>> {
        if self.waits()
            && let Some(outbox) = &self.outbox
        {
            outbox.flush();
        }
        self.poll_settle(cx, socket).map_ok(|_| ())
    }

    /// Looks after what was sent: sends what is owed. `Ready(false)`: it still waits for the end of the turn.
    pub(super) fn poll_settle(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<bool>> {
        if self.waits() {
            return Poll::Ready(Ok(false));
        }
        if self.number > 0 {
            let owed = self.outbox.as_ref().and_then(|outbox| outbox.take_owed(self.number));
            (self.owed, self.number) = (owed.map(Box::new), 0);
        }
        match self.owed.as_deref_mut() {
            None => return Poll::Ready(Ok(true)),
            Some(Owed::Error(number)) => return Poll::Ready(Err(io::Error::from_raw_os_error(*number))),
            Some(Owed::Bytes(bytes, sent)) => {
                while *sent < bytes.len() {
                    match ready!(Pin::new(&mut *socket).poll_write(cx, &bytes[*sent..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        count => *sent += count,
                    }
                }
            }
        }
        self.owed = None;
        Poll::Ready(Ok(true))
    }

    /// Whether something of it waits for the end of a turn.
    fn waits(&self) -> bool {
        self.number > 0 && self.outbox.as_ref().is_some_and(|outbox| !outbox.is_done(self.number))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let Some(outbox) = self.outbox.as_ref().filter(|_| self.number > 0) else { return };
        if self.waits() {
            outbox.flush();
        }
        outbox.take_owed(self.number);
    }
}

#[cfg(test)]
mod tests;
