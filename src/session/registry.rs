//! Who is connected: each session's cancel key and the backend it holds now. The only map shared by all sessions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use rand::Rng;
use subtle::ConstantTimeEq;

use crate::backend::Berth;
use crate::ids::{ClusterName, PodId, SessionId};
use crate::metrics::SessionState;
use crate::wire::CancelKey;

/// All sessions of this process.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    /// Its keys fall by chance: nobody chooses them.
    by_process: DashMap<i32, Arc<Entry>, foldhash::fast::RandomState>,
    /// As many as there are.
    here: AtomicUsize,
    /// As many as there were at once since that was asked last.
    most: AtomicUsize,
}

/// One session.
#[derive(Debug)]
struct Entry {
    id: SessionId,
    process_id: i32,
    secret: Secret,
    cluster: ClusterName,
    now: Mutex<Now>,
}

/// What proves a request to cancel. In place while it is as short as nearly all are.
enum Secret {
    /// Under protocol 3.0.
    Short([u8; 4]),
    /// Under 3.2, which allows long ones.
    Long(Box<[u8; 32]>),
}

/// Never shows it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a session holds and does now.
#[derive(Debug)]
struct Now {
    berth: Option<Arc<Berth>>,
    state: SessionState,
}

/// A session's place in the registry; leaves it when dropped.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
}

impl Secret {
    fn random(rng: &mut impl Rng, long: bool) -> Self {
        if long { Self::Long(Box::new(rng.random())) } else { Self::Short(rng.random()) }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => &**bytes,
        }
    }
}

impl Registry {
    /// Enters a session and gives it a cancel key of ours: the client never learns a backend's.
    pub fn enter(self: &Arc<Self>, cluster: &ClusterName, long_key: bool) -> Place {
        let mut rng = rand::rng();
        let secret = Secret::random(&mut rng, long_key);
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let now = Now { berth: None, state: SessionState::Login };
        loop {
            let process_id = rng.random_range(1..i32::MAX);
            if let dashmap::Entry::Vacant(free) = self.by_process.entry(process_id) {
                let entry = Arc::new(Entry { id, process_id, secret, cluster: cluster.clone(), now: Mutex::new(now) });
                free.insert(Arc::clone(&entry));
                self.most.fetch_max(self.here.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                return Place { registry: Arc::clone(self), entry };
            }
        }
    }

    /// Sessions there are.
    pub fn len(&self) -> usize {
        self.by_process.len()
    }

    /// Sessions there are, and how many there were at once since this was asked last: a wave may come and go between two looks.
    pub fn tide(&self) -> (usize, usize) {
        let here = self.here.load(Ordering::Relaxed);
        (here, self.most.swap(here, Ordering::Relaxed).max(here))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_process.is_empty()
    }

    /// Sessions that have a backend on this pod. Looks at every session.
    pub fn load(&self, pod: &PodId) -> usize {
        let mut load = 0;
        self.each(|_, on, _| load += usize::from(on == Some(pod)));
        load
    }

    /// Shows every session: its cluster, the pod it holds a backend on, what it does.
    pub fn each(&self, mut show: impl FnMut(&ClusterName, Option<&PodId>, SessionState)) {
        for session in &self.by_process {
            let now = session.now.lock();
            show(&session.cluster, now.berth.as_ref().map(|berth| &berth.target.pod), now.state);
        }
    }

    /// The backend that runs what this key's session asked last, for a cancel request that will be sent after it. `None`: no such
    /// session, a wrong secret, or it has none.
    pub fn berth(&self, key: &CancelKey) -> Option<Arc<Berth>> {
        let entry = Arc::clone(self.by_process.get(&key.process_id)?.value());
        let right: bool = entry.secret.bytes().ct_eq(&key.secret).into();
        let now = entry.now.lock();
        let berth = now.berth.as_ref().filter(|_| right)?;
        // Under the lock: whoever gives the backend back looks at the count after this.
        berth.expect_cancel();
        Some(Arc::clone(berth))
    }
}

impl Place {
    /// The key the client is given.
    pub fn key(&self) -> CancelKey {
        CancelKey { process_id: self.process_id(), secret: self.entry.secret.bytes().to_vec() }
    }

    /// Its process id.
    pub fn process_id(&self) -> i32 {
        self.entry.process_id
    }

    /// The session's number.
    pub fn id(&self) -> SessionId {
        self.entry.id
    }

    /// The session holds this backend now, or none.
    pub fn moor(&self, berth: Option<Arc<Berth>>) {
        self.entry.now.lock().berth = berth;
    }

    /// The session does this now.
    pub fn becomes(&self, state: SessionState) {
        self.entry.now.lock().state = state;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.moor(None);
        self.registry.by_process.remove(&self.entry.process_id);
        self.registry.here.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Dial;
    use crate::net::tls::BackendTls;

    fn berth(pod: &str) -> Arc<Berth> {
        let key = CancelKey { process_id: 7, secret: vec![1, 2, 3, 4] };
        let address = ([127, 0, 0, 1], 5432).into();
        let target =
            crate::backend::Target { pod: PodId::new(pod, "a"), address, tls: BackendTls::disabled(), dial: Dial::Tcp };
        Berth::new(target, Some(key))
    }

    #[test]
    fn a_key_finds_the_backend_held_now() {
        let registry = Arc::new(Registry::default());
        let place = registry.enter(&"orders".into(), false);
        assert_eq!(place.key().secret.len(), 4);
        assert!(registry.berth(&place.key()).is_none());
        place.moor(Some(berth("pg-0")));
        place.moor(Some(berth("pg-1")));
        assert_eq!(registry.berth(&place.key()).unwrap().target.pod, PodId::new("pg-1", "a"));
        let mut wrong = place.key();
        wrong.secret[0] ^= 1;
        assert!(registry.berth(&wrong).is_none());
        let key = place.key();
        drop(place);
        assert!(registry.berth(&key).is_none() && registry.is_empty());
    }

    #[test]
    fn a_wave_that_nobody_looked_at_is_known() {
        let registry = Arc::new(Registry::default());
        let stays = registry.enter(&"orders".into(), false);
        drop([(); 5].map(|()| registry.enter(&"orders".into(), false)));
        assert_eq!(registry.tide(), (1, 6));
        assert_eq!(registry.tide(), (1, 1));
        drop(stays);
        assert_eq!((registry.tide(), registry.tide()), ((0, 1), (0, 0)));
    }

    #[test]
    fn a_cancel_request_is_known_before_its_backend_can_be_given_back() {
        let registry = Arc::new(Registry::default());
        let place = registry.enter(&"orders".into(), true);
        let held = berth("pg-0");
        place.moor(Some(Arc::clone(&held)));
        assert_eq!(held.cancels(), 0);
        registry.berth(&place.key()).unwrap();
        assert_eq!(held.cancels(), 1);
        place.moor(None);
        assert!(registry.berth(&place.key()).is_none());
        let mut shown = Vec::new();
        registry.each(|cluster, pod, _| shown.push((cluster.clone(), pod.cloned())));
        assert_eq!(shown, [("orders".into(), None)]);
    }
}
