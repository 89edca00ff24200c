//! The data of the scripted PostgreSQL: pods with their WAL, timelines and transactions, and how they replicate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use pgmoor::ids::PodId;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::chance::{Rng, Trace};
use crate::network::{Break, Wire};

/// Bytes of a WAL record.
const RECORD: u64 = 64;

/// One record of the WAL. Every one carries the id of its transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The timeline it was written on.
    pub(crate) timeline: u32,
    pub(crate) xid: u64,
    /// The keys a commit makes visible; `None`: it is no commit.
    pub(crate) commit: Option<Vec<u64>>,
}

/// Whether a pod serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Up,
    /// Nobody listens.
    Down,
    /// It takes connections, and refuses logins.
    Starting,
}

/// One pod: its data folder, and the server that may run on it.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) incarnation: u32,
    pub(crate) power: Power,
    pub(crate) recovery: bool,
    pub(crate) timeline: u32,
    /// Ancestors and where they were left.
    pub(crate) history: Vec<(u32, u64)>,
    pub(crate) wal: Vec<Record>,
    pub(crate) next_xid: u64,
    /// Starts after a crash.
    pub(crate) era: u32,
    /// What is committed and visible, with how many times.
    pub(crate) rows: BTreeMap<u64, u32>,
    /// Transactions that have an id and no end, and the backend of each.
    pub(crate) running: BTreeMap<u64, u64>,
    /// No standby hears from it.
    pub(crate) isolated: bool,
    pub(crate) draining: bool,
    pub(crate) backends: BTreeMap<u64, Backend>,
}

/// One server process.
pub(crate) struct Backend {
    pub(crate) wire: Wire,
    pub(crate) task: Option<AbortHandle>,
    /// It is to end, and to say so.
    pub(crate) stop: Arc<Notify>,
    /// What it runs is not wanted any more.
    pub(crate) cancel: Arc<AtomicBool>,
}

/// All pods.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

pub(crate) struct State {
    pub(crate) pods: Vec<Pod>,
    /// A commit waits for this standby.
    pub(crate) synchronous: Option<usize>,
    /// Commits wait for a standby at all.
    pub(crate) strict: bool,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    /// Parts and breaks connections as long as this lasts.
    pub(crate) rough: bool,
    next_backend: u64,
}

impl Pod {
    fn new(name: String) -> Self {
        Self {
            name,
            incarnation: 1,
            power: Power::Up,
            recovery: true,
            timeline: 1,
            history: Vec::new(),
            wal: Vec::new(),
            next_xid: 700,
            era: 0,
            rows: BTreeMap::new(),
            running: BTreeMap::new(),
            isolated: false,
            draining: false,
            backends: BTreeMap::new(),
        }
    }

    pub(crate) fn id(&self) -> PodId {
        PodId::new(&self.name, format!("u{}", self.incarnation))
    }

    /// Where its WAL ends.
    pub(crate) fn lsn(&self) -> u64 {
        0x100_0000 + self.wal.len() as u64 * RECORD
    }

    /// Writes a record of this transaction. Its end.
    pub(crate) fn write(&mut self, xid: u64, commit: Option<Vec<u64>>) -> u64 {
        self.wal.push(Record { timeline: self.timeline, xid, commit });
        self.lsn()
    }

    /// Gives out an id.
    pub(crate) fn assign(&mut self, backend: u64) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid, backend);
        xid
    }

    /// The commit of this transaction is there, and visible.
    pub(crate) fn show(&mut self, xid: u64, keys: &[u64]) {
        self.running.remove(&xid);
        for key in keys {
            *self.rows.entry(*key).or_insert(0) += 1;
        }
    }

    /// What `pg_xact_status` says; `None`: the id was never given out.
    pub(crate) fn status(&self, xid: u64) -> Option<&'static str> {
        let committed = self.wal.iter().any(|record| record.xid == xid && record.commit.is_some());
        if xid >= self.next_xid {
            None
        } else if self.running.contains_key(&xid) {
            Some("in progress")
        } else {
            Some(if committed { "committed" } else { "aborted" })
        }
    }

    /// Starts over from what the WAL says.
    fn recover(&mut self) {
        self.running.clear();
        self.rows.clear();
        self.next_xid = 700;
        for record in &self.wal {
            self.next_xid = self.next_xid.max(record.xid + 1);
            for key in record.commit.iter().flatten() {
                *self.rows.entry(*key).or_insert(0) += 1;
            }
        }
    }

    /// Takes over the WAL of `source` up to so many records.
    fn follow(&mut self, source: &[Record], upto: usize) {
        let shared = self.wal.iter().zip(source).take_while(|(own, other)| own == other).count();
        let upto = upto.max(shared);
        if shared < self.wal.len() {
            self.wal.truncate(shared);
            self.recover();
        }
        for record in &source[shared..upto] {
            self.wal.push(record.clone());
            self.next_xid = self.next_xid.max(record.xid + 1);
            for key in record.commit.iter().flatten() {
                *self.rows.entry(*key).or_insert(0) += 1;
            }
        }
    }
}

impl Cluster {
    /// A primary and its standbys. `strict`: commits wait for a standby, as long as there is one.
    pub(crate) fn new(pods: usize, strict: bool, rng: Rng, trace: &Trace) -> Self {
        let mut pods: Vec<Pod> = (0..pods).map(|index| Pod::new(format!("pg-{index}"))).collect();
        pods[0].recovery = false;
        let synchronous = strict.then_some(1);
        let trace = trace.clone();
        Self(Arc::new(Mutex::new(State { pods, synchronous, strict, rng, trace, rough: true, next_backend: 0 })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// Where a pod listens.
pub(crate) fn address(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8 + 1], 5432).into()
}

/// Who listens there.
pub(crate) fn index(address: SocketAddr) -> usize {
    match address.ip() {
        std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]) - 1,
        std::net::IpAddr::V6(_) => unreachable!("no pod has such an address"),
    }
}

impl State {
    /// The pod that writes the highest timeline.
    pub(crate) fn primary(&self) -> Option<usize> {
        let serves = |index: &usize| self.pods[*index].power == Power::Up && !self.pods[*index].recovery;
        (0..self.pods.len()).filter(serves).max_by_key(|index| self.pods[*index].timeline)
    }

    /// Enters a server process on this pod.
    pub(crate) fn enter(&mut self, pod: usize, wire: Wire) -> u64 {
        self.next_backend += 1;
        let backend = Backend { wire, task: None, stop: Arc::default(), cancel: Arc::default() };
        self.pods[pod].backends.insert(self.next_backend, backend);
        self.next_backend
    }

    /// A server process ends: what it had open is rolled back.
    pub(crate) fn leave(&mut self, pod: usize, backend: u64) {
        let pod = &mut self.pods[pod];
        pod.backends.remove(&backend);
        pod.running.retain(|_, owner| *owner != backend);
    }

    /// The WAL of `from` reaches the standbys: all of it the one commits wait for, the others some.
    pub(crate) fn ship(&mut self, from: usize) {
        if self.pods[from].isolated || self.pods[from].power != Power::Up {
            return;
        }
        let source = std::mem::take(&mut self.pods[from].wal);
        for index in 0..self.pods.len() {
            let lazy = self.synchronous != Some(index) && self.rng.chance(50);
            let pod = &mut self.pods[index];
            let follows = pod.recovery && pod.power == Power::Up && pod.timeline == self.pods[from].timeline;
            if index == from || !follows || lazy {
                continue;
            }
            self.pods[index].follow(&source, source.len());
        }
        self.pods[from].wal = source;
    }

    /// All of the WAL of `from` reaches every standby that follows it.
    pub(crate) fn ship_all(&mut self, from: usize) {
        let source = self.pods[from].wal.clone();
        let timeline = self.pods[from].timeline;
        for (at, pod) in self.pods.iter_mut().enumerate() {
            if at != from && pod.recovery && pod.power == Power::Up && pod.timeline == timeline {
                pod.follow(&source, source.len());
            }
        }
    }

    /// Whether the standby that commits wait for has everything up to this place.
    pub(crate) fn is_safe(&self, from: usize, upto: usize) -> bool {
        match self.synchronous {
            // A primary that nobody hears does not learn that it stands alone now.
            Some(index) if index == from => false,
            Some(index) => !self.pods[from].isolated && self.pods[index].wal.len() >= upto,
            None => !self.strict || !self.pods[from].isolated,
        }
    }

    /// The server dies at once. `words`: after having said so.
    pub(crate) fn crash(&mut self, index: usize, how: Break) {
        self.trace.say(format_args!("pg-{index} crashes: {how:?}"));
        let kept = self.kept(index);
        let pod = &mut self.pods[index];
        pod.power = Power::Down;
        for backend in std::mem::take(&mut pod.backends).into_values() {
            backend.wire.cut(how);
            if let Some(task) = backend.task {
                task.abort();
            }
        }
        // What no commit has forced to the disk may be lost.
        pod.wal.truncate(kept);
        pod.era += 1;
        pod.recover();
    }

    /// Recovery ends the crashed server's timeline with some records of its own, and it is promoted to the next one.
    pub(crate) fn promote_itself(&mut self, index: usize) {
        for _ in 0..self.rng.below(8) {
            self.pods[index].write(0, None);
        }
        self.promote(index);
    }

    /// Records that survive a crash: all up to the last commit, and some that follow.
    fn kept(&mut self, index: usize) -> usize {
        let pod = &self.pods[index];
        let shipped = self.pods.iter().enumerate().filter(|(other, _)| *other != index);
        let shipped = shipped.map(|(_, other)| other.wal.len().min(pod.wal.len())).max().unwrap_or(0);
        let flushed = pod.wal.iter().rposition(|record| record.commit.is_some()).map_or(0, |at| at + 1).max(shipped);
        flushed + self.rng.below((pod.wal.len() - flushed) as u64 + 1) as usize
    }

    /// Every server process is told to end, and says so to its client.
    pub(crate) fn shut_down(&mut self, index: usize) {
        self.trace.say(format_args!("pg-{index} shuts down"));
        self.pods[index].power = Power::Starting;
        for backend in self.pods[index].backends.values() {
            backend.stop.notify_one();
        }
    }

    /// A standby becomes the primary of a new timeline.
    pub(crate) fn promote(&mut self, index: usize) {
        let timeline = self.pods.iter().map(|pod| pod.timeline).max().unwrap_or(0) + 1;
        let pod = &mut self.pods[index];
        let end = pod.lsn();
        pod.history.push((pod.timeline, end));
        pod.timeline = timeline;
        pod.recovery = false;
        pod.draining = false;
        self.trace.say(format_args!("pg-{index} is promoted: timeline {timeline} from {end:X}"));
        let (source, history) = (self.pods[index].wal.clone(), self.pods[index].history.clone());
        for other in 0..self.pods.len() {
            let pod = &mut self.pods[other];
            if other != index && pod.recovery && pod.power == Power::Up {
                pod.follow(&source, source.len());
                (pod.timeline, pod.history) = (timeline, history.clone());
            }
        }
        self.choose();
    }

    /// Chooses the standby that commits wait for.
    fn choose(&mut self) {
        let standby = |pod: &Pod| pod.power == Power::Up && pod.recovery;
        self.synchronous = self.strict.then(|| self.pods.iter().position(standby)).flatten();
    }

    /// A pod comes back as a standby of the present primary, whatever it was.
    pub(crate) fn rejoin(&mut self, index: usize, anew: bool) {
        let Some(primary) = self.primary().filter(|primary| *primary != index) else { return };
        let (timeline, source) = (self.pods[primary].timeline, self.pods[primary].wal.clone());
        let history = self.pods[primary].history.clone();
        self.trace.say(format_args!("pg-{index} comes back as a standby"));
        let pod = &mut self.pods[index];
        pod.incarnation += u32::from(anew);
        pod.power = Power::Up;
        (pod.recovery, pod.isolated, pod.draining) = (true, false, false);
        (pod.timeline, pod.history) = (timeline, history);
        pod.follow(&source, source.len());
        pod.recover();
        if self.synchronous.is_none_or(|chosen| self.pods[chosen].power != Power::Up) {
            self.choose();
        }
    }
}
