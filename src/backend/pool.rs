//! Backends of one pod for one database and user: lent, idle, or being opened; who is next; and the pod's budget over all its pools.
//!
//! A session asks with [`Pool::ask`]. It gets a backend, or leave to open one (a [`Slot`], which counts as one open backend until
//! it is dropped), or a place in line. [`Slot::park`] gives a backend back: it goes to the first in line at once.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::continuity::guard::Known;
use crate::continuity::plans::{Key as StatementKey, Plans};
use crate::continuity::setup::Setup;
use crate::ids::PodId;
use crate::net::Stream;

use super::{Berth, Identity, Parameters, Target};
use shelf::{Found, Shelf};

mod shelf;

pub use shelf::Fit;

/// How many backends there may be, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of one pool, at most.
    pub size: usize,
    /// Of one pool, kept open though idle.
    pub min: usize,
    /// Of one pod, at most.
    pub pod_size: usize,
    /// One that is idle for so long is closed.
    pub idle: Duration,
    /// One that is so old is closed, when it is idle next.
    pub lifetime: Duration,
}

/// All pools of this process.
#[derive(Clone, Debug)]
pub struct Pools {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bounds: RwLock<Bounds>,
    pods: DashMap<PodId, Arc<Pod>>,
    pools: DashMap<Key, Arc<Pool>>,
    /// The keeper's rounds, one a second: how idle backends' time is told without a clock.
    round: AtomicU64,
}

/// Whose backends these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The pod.
    pub pod: PodId,
    /// The database.
    pub database: Arc<str>,
    /// The user.
    pub user: Arc<str>,
}

/// What all pools of one pod share.
#[derive(Debug, Default)]
struct Pod {
    open: AtomicUsize,
    lent: Arc<AtomicUsize>,
    /// Pools with someone in line for whom only the pod has no room, one entry each.
    starving: Mutex<VecDeque<Weak<Pool>>>,
    hungry: AtomicUsize,
}

/// The backends of one database and user on one pod.
#[derive(Debug)]
pub struct Pool {
    key: Key,
    pod: Arc<Pod>,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
    /// How its last backend was logged in.
    way: Mutex<Option<Way>>,
}

/// How a backend of a pool is logged in.
#[derive(Clone, Debug)]
pub struct Way {
    /// As whom.
    pub identity: Arc<Identity>,
    /// Where.
    pub target: Target,
}

#[derive(Debug)]
struct Inner {
    shelf: Shelf<Box<Parked>, oneshot::Sender<Grant>>,
    /// The pod is not to be used any more.
    closed: bool,
}

/// An idle backend.
#[derive(Debug)]
pub struct Parked {
    /// The connection.
    pub stream: Stream,
    /// What is known of it.
    pub papers: Papers,
}

/// What is known of a backend.
#[derive(Debug)]
pub struct Papers {
    /// Where it is, and its cancel key.
    pub berth: Arc<Berth>,
    /// The startup parameters it was logged in with: what RESET goes back to.
    pub flavour: Arc<Vec<(String, String)>>,
    /// The settings it has reported.
    pub parameters: Parameters,
    /// What it was set to since.
    pub setup: Setup,
    /// What is known for the next question before a COMMIT.
    pub guard: Known,
    /// The prepared statements it has for everybody.
    pub plans: Plans,
    /// What its unnamed statement is.
    pub unnamed: Option<StatementKey>,
    /// LISTEN was run on it, by a session that hears elsewhere.
    pub listened: bool,
    /// When it is too old.
    pub until: Instant,
}

impl Papers {
    /// It was logged in with these startup parameters, where the pod is now: a fixed pod may have moved.
    pub fn serves(&self, flavour: &Arc<Vec<(String, String)>>, address: SocketAddr) -> bool {
        self.berth.target.address == address && (Arc::ptr_eq(&self.flavour, flavour) || self.flavour == *flavour)
    }

    /// Of a backend that was just logged in.
    pub fn fresh(
        berth: Arc<Berth>,
        flavour: Arc<Vec<(String, String)>>,
        parameters: Parameters,
        until: Instant,
    ) -> Self {
        Self {
            berth,
            flavour,
            parameters,
            setup: Setup::default(),
            guard: Known::default(),
            plans: Plans::default(),
            unnamed: None,
            listened: false,
            until,
        }
    }
}

/// Leave to have one backend open. Dropping it says that it is closed.
#[derive(Debug)]
pub struct Slot {
    /// Until it is given back with its backend.
    pool: Option<Arc<Pool>>,
}

/// What somebody in need is given.
#[derive(Debug)]
pub enum Grant {
    /// A backend.
    Backend(Box<Parked>, Slot),
    /// Leave to open one.
    Room(Slot),
}

/// The answer to one who asks.
#[derive(Debug)]
pub enum Answer {
    /// Here.
    Now(Grant),
    /// In line.
    Later(Turn),
    /// The pod is not to be used any more.
    Closed,
}

/// A place in line. Resolves to `None` when the pool is closed.
///
/// # Cancel safety
/// May be dropped at any time; what was granted meanwhile goes to the next.
#[derive(Debug)]
pub struct Turn {
    pool: Arc<Pool>,
    ticket: u64,
    grant: oneshot::Receiver<Grant>,
    /// It is over, one way or the other.
    over: bool,
}

/// What one pool has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Backends lent to sessions, or being opened for them.
    pub lent: usize,
    /// Idle backends.
    pub idle: usize,
    /// Sessions in line.
    pub waiting: usize,
}

impl Pools {
    /// No backends yet.
    pub fn new(bounds: Bounds) -> Self {
        let shared = Shared {
            bounds: RwLock::new(bounds),
            pods: DashMap::new(),
            pools: DashMap::new(),
            round: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Other bounds hold from now on.
    pub fn rebound(&self, bounds: Bounds) {
        *self.shared.bounds.write() = bounds;
    }

    /// The pool for this key; made if there is none.
    pub fn of(&self, key: &Key) -> Arc<Pool> {
        if let Some(pool) = self.shared.pools.get(key) {
            return Arc::clone(&pool);
        }
        let pod = Arc::clone(&self.shared.pods.entry(key.pod.clone()).or_default());
        let make = || {
            Arc::new(Pool {
                key: key.clone(),
                pod,
                shared: Arc::clone(&self.shared),
                inner: Mutex::new(Inner { shelf: Shelf::new(), closed: false }),
                way: Mutex::default(),
            })
        };
        Arc::clone(&self.shared.pools.entry(key.clone()).or_insert_with(make))
    }

    /// Backends of this pod that sessions have.
    pub fn lent(&self, pod: &PodId) -> usize {
        self.shared.pods.get(pod).map_or(0, |pod| pod.lent.load(Ordering::Relaxed))
    }

    /// Closes the pools of pods that are not `good` any more: idle backends at once, lent ones when they come back.
    pub fn keep_only(&self, good: impl Fn(&PodId) -> bool) {
        let bad = |key: &Key| !good(&key.pod);
        let gone: Vec<Arc<Pool>> =
            self.shared.pools.iter().filter(|pool| bad(pool.key())).map(|pool| Arc::clone(pool.value())).collect();
        self.shared.pools.retain(|key, _| !bad(key));
        self.shared.pods.retain(|pod, _| good(pod));
        gone.iter().for_each(|pool| pool.close());
    }

    /// One of the keeper's rounds, one a second: takes the backends that are idle too long or too old, to be closed.
    pub fn expire(&self, now: Instant) -> Vec<Box<Parked>> {
        let bounds = *self.shared.bounds.read();
        let round = self.shared.round.fetch_add(1, Ordering::Relaxed) + 1;
        let pools: Vec<Arc<Pool>> = self.shared.pools.iter().map(|pool| Arc::clone(pool.value())).collect();
        let mut gone = Vec::new();
        for pool in pools {
            let since = round.saturating_sub(bounds.idle.as_secs());
            let expired = pool.inner.lock().shelf.expire(since, bounds.min, |parked| parked.papers.until <= now);
            // Their slots end with them.
            expired.iter().for_each(|_| pool.freed());
            gone.extend(expired);
        }
        gone
    }

    /// For each pool with fewer open backends than the least: leave to open one, and how.
    pub fn short(&self) -> Vec<(Way, Slot)> {
        let bounds = *self.shared.bounds.read();
        let pools: Vec<Arc<Pool>> = self.shared.pools.iter().map(|pool| Arc::clone(pool.value())).collect();
        let room = |pool: Arc<Pool>| {
            let way = pool.way.lock().clone()?;
            let mut inner = pool.inner.lock();
            if inner.shelf.open() >= bounds.min.min(bounds.size) || inner.closed {
                return None;
            }
            let found = inner.shelf.find(|_| Fit::Not, || bounds.size, || pool.pod.take(bounds.pod_size));
            drop(inner);
            matches!(found, Found::Room).then(|| (way, Slot::lend(&pool)))
        };
        pools.into_iter().filter_map(room).collect()
    }

    /// What each pool has now.
    pub fn loads(&self) -> BTreeMap<Key, Load> {
        self.shared.pools.iter().map(|pool| (pool.key().clone(), pool.load())).collect()
    }
}

impl Pod {
    /// One more may be open.
    fn take(&self, most: usize) -> bool {
        let more = |open: usize| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Pool {
    /// Asks for a backend; `fit` says how well an idle one serves.
    pub fn ask(self: &Arc<Self>, fit: impl Fn(&Papers) -> Fit) -> Answer {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Answer::Closed;
        }
        let mut full = false;
        let bounds = || *self.shared.bounds.read();
        let found = loop {
            let room = || {
                full = !self.pod.take(bounds().pod_size);
                !full
            };
            match inner.shelf.find(|parked| fit(&parked.papers), || bounds().size, room) {
                Found::Idle(mut parked) => {
                    if parked.is_alive() {
                        break Found::Idle(parked);
                    }
                    // Its slot serves for another.
                    inner.shelf.closed();
                    self.pod.open.fetch_sub(1, Ordering::Relaxed);
                }
                found @ (Found::Room | Found::Replace(_) | Found::Nothing) => break found,
            }
        };
        let slot = || Slot::lend(self);
        match found {
            Found::Idle(parked) => Answer::Now(Grant::Backend(parked, slot())),
            Found::Room => Answer::Now(Grant::Room(slot())),
            Found::Replace(parked) => {
                drop(inner);
                drop(parked);
                Answer::Now(Grant::Room(slot()))
            }
            Found::Nothing => {
                let (sender, grant) = oneshot::channel();
                let ticket = inner.shelf.wait(sender);
                drop(inner);
                let turn = Turn { pool: Arc::clone(self), ticket, grant, over: false };
                if full {
                    self.starve();
                }
                Answer::Later(turn)
            }
        }
    }

    /// Whose backends these are.
    pub fn pod(&self) -> &PodId {
        &self.key.pod
    }

    /// What it has now.
    pub fn load(&self) -> Load {
        let inner = self.inner.lock();
        let (open, idle) = (inner.shelf.open(), inner.shelf.idle());
        Load { lent: open.saturating_sub(idle), idle, waiting: inner.shelf.waiting() }
    }

    /// Someone is in line for whom the pod has no room: another pool's idle backend makes way, or the next that comes back.
    fn starve(self: &Arc<Self>) {
        self.pod.owe(self);
        let others: Vec<Arc<Self>> = {
            let of_this_pod = |pool: &Arc<Self>| Arc::ptr_eq(&pool.pod, &self.pod) && !Arc::ptr_eq(pool, self);
            self.shared.pools.iter().map(|pool| Arc::clone(pool.value())).filter(of_this_pod).collect()
        };
        for other in others {
            let evicted = other.inner.lock().shelf.evict();
            if evicted.is_some() {
                drop(evicted); // closed before another is opened
                other.freed();
                return;
            }
        }
    }

    fn close(&self) {
        let (idle, line) = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            let mut idle = Vec::new();
            while let Some(parked) = inner.shelf.evict() {
                inner.shelf.closed();
                idle.push(parked);
            }
            let line: Vec<_> = std::iter::from_fn(|| inner.shelf.next()).collect();
            (idle, line)
        };
        self.pod.open.fetch_sub(idle.len(), Ordering::Relaxed);
        drop((idle, line));
    }

    /// A slot is free: the first in line may open a backend, or one of a pool that the pod had no room for.
    fn freed(self: &Arc<Self>) {
        if self.pod.hungry.load(Ordering::Relaxed) > 0
            && let Some(other) = self.pod.feed()
            && !Arc::ptr_eq(&other, self)
        {
            let left_waiting = {
                let mut inner = self.inner.lock();
                inner.shelf.closed();
                inner.shelf.waiting() > 0
            };
            if left_waiting {
                self.pod.owe(self); // its own line had counted on this one
            }
            let grant = |sender: oneshot::Sender<Grant>| {
                other.inner.lock().shelf.opened();
                sender.send(Grant::Room(Slot::lend(&other)))
            };
            let next = other.inner.lock().shelf.next();
            match next {
                // Who has left meanwhile drops its slot, and this begins anew.
                Some(sender) => drop(grant(sender)),
                None => _ = self.pod.open.fetch_sub(1, Ordering::Relaxed),
            }
            return;
        }
        let next = {
            let mut inner = self.inner.lock();
            let next = if inner.closed { None } else { inner.shelf.next() };
            if next.is_none() {
                inner.shelf.closed();
            }
            next
        };
        match next {
            Some(sender) => drop(sender.send(Grant::Room(Slot::lend(self)))),
            None => _ = self.pod.open.fetch_sub(1, Ordering::Relaxed),
        }
    }

    /// What a slot stood for is given back: to the first in line, or to the shelf.
    fn park(mut self: Arc<Self>, mut parked: Box<Parked>) {
        loop {
            let mut inner = self.inner.lock();
            if inner.closed {
                break;
            }
            let Some(sender) = inner.shelf.next() else {
                inner.shelf.keep(parked, self.shared.round.load(Ordering::Relaxed));
                drop(inner);
                self.pod.lent.fetch_sub(1, Ordering::Relaxed);
                return;
            };
            drop(inner);
            let Err(Grant::Backend(back, mut slot)) = sender.send(Grant::Backend(parked, Slot { pool: Some(self) }))
            else {
                return;
            };
            // It has left the line.
            let Some(pool) = slot.pool.take() else { return };
            (parked, self) = (back, pool);
        }
        drop(parked); // before another is opened
        drop(Slot { pool: Some(self) });
    }
}

impl Pod {
    /// This pool waits for room.
    fn owe(&self, pool: &Arc<Pool>) {
        self.starving.lock().push_back(Arc::downgrade(pool));
        self.hungry.fetch_add(1, Ordering::Relaxed);
    }

    /// A pool that waits for room.
    fn feed(&self) -> Option<Arc<Pool>> {
        let mut starving = self.starving.lock();
        while let Some(pool) = starving.pop_front() {
            self.hungry.fetch_sub(1, Ordering::Relaxed);
            if let Some(pool) = pool.upgrade().filter(|pool| pool.load().waiting > 0) {
                return Some(pool);
            }
        }
        None
    }
}

impl Slot {
    fn lend(pool: &Arc<Pool>) -> Self {
        pool.pod.lent.fetch_add(1, Ordering::Relaxed);
        Self { pool: Some(Arc::clone(pool)) }
    }

    /// A backend was logged in so.
    pub fn remember(&self, way: Way) {
        if let Some(pool) = &self.pool {
            *pool.way.lock() = Some(way);
        }
    }

    /// Gives a backend back, in a state that is known: to the first in line, or to the shelf.
    pub fn park(mut self, parked: Box<Parked>) {
        match self.pool.take_if(|pool| pool.pod.hungry.load(Ordering::Relaxed) == 0) {
            Some(pool) => pool.park(parked),
            None => drop(parked), // another pool of this pod is owed room: the slot's end gives it
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.pod.lent.fetch_sub(1, Ordering::Relaxed);
            pool.freed();
        }
    }
}

impl Parked {
    /// The server has not ended it. Costs no system call, unless something came.
    fn is_alive(&mut self) -> bool {
        // Nobody is to be woken: a look at what is known takes no lock, and leaves no waker behind that the next has to replace.
        if let Some(socket) = self.stream.socket()
            && socket.try_io(Interest::READABLE, || Ok(())).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        {
            return true;
        }
        let mut cx = Context::from_waker(Waker::noop());
        // What an idle server says by itself is that it ends, or that settings were reloaded: not worth the reading.
        let mut byte = [0_u8; 1];
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl Future for Turn {
    type Output = Option<Grant>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let grant = ready!(Pin::new(&mut self.grant).poll(cx));
        self.over = true;
        Poll::Ready(grant.ok())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.pool.inner.lock().shelf.leave(self.ticket);
        self.grant.close();
        if let Ok(Grant::Backend(parked, slot)) = self.grant.try_recv() {
            slot.park(parked);
        }
    }
}

#[cfg(test)]
mod tests;
