//! The wires between pgmoor and the pods' PostgreSQL, one for each of the sessions' connections, known by what they carry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::kubelet::Kubelet;
use crate::cluster::outposts::Outposts;
use crate::wire::{Door, Way, Wire};

/// All of them, over all incarnations of the pods.
pub struct Wires {
    _doors: Outposts<Door>,
    wires: Arc<Mutex<Vec<Arc<Wire>>>>,
}

impl Wires {
    /// Opens a door before every PostgreSQL.
    pub fn lay(kubelet: Arc<Kubelet>, namespace: &str, pods: &[&str]) -> Self {
        let wires = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&wires);
        let doors = Outposts::set_up(kubelet, namespace, pods, move |_, here, server| {
            let wires = Arc::clone(&theirs);
            let wire = move || {
                let wire = Arc::new(Wire::default());
                lock(&wires).push(Arc::clone(&wire));
                wire
            };
            Door::open(here, server, wire).ok()
        });
        Self { _doors: doors, wires }
    }

    /// Those that carry a transaction, by the row that it writes; the newest of each.
    pub fn carrying(&self) -> BTreeMap<usize, Arc<Wire>> {
        let mut wires = lock(&self.wires);
        wires.retain(|wire| !wire.is_over());
        wires.iter().filter_map(|wire| Some((row(&wire.seen(Way::ToServer))?, Arc::clone(wire)))).collect()
    }

    /// Cuts those that are there: whatever comes next comes on a new one.
    pub fn cut(&self) {
        lock(&self.wires).drain(..).for_each(|wire| wire.cut());
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Whether pgmoor has put its question to the server at the other end already.
pub fn was_asked(wire: &Wire) -> bool {
    let name = b"pgmoor_guard";
    wire.seen(Way::ToServer).windows(name.len()).any(|words| words == name)
}

/// The number of the row in the last INSERT.
fn row(requests: &[u8]) -> Option<usize> {
    let begin = b"INSERT INTO cut VALUES (";
    let at = requests.windows(begin.len()).rposition(|words| words == begin)? + begin.len();
    let digits = requests[at..].iter().take_while(|byte| byte.is_ascii_digit()).copied().collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
