//! The wires between pgmoor and the pods' PostgreSQL. pgmoor is told another port than PostgreSQL's own; there, on each
//! pod's own address, stands a relay that does as the test commands.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::cluster::kubelet::Kubelet;
use crate::cluster::relay::{Direction, Mode, Relay};
use crate::schedule::Break;

/// The port pgmoor is told.
pub const PORT: u16 = 6432;
const POSTGRESQL: u16 = 5432;

/// A relay before every PostgreSQL, over all incarnations of the pods.
pub struct Wires {
    known: Arc<Mutex<Known>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Known {
    relays: BTreeMap<(String, Ipv4Addr), Relay>,
    /// To PostgreSQL and back; a pod that is not here has whole wires.
    modes: BTreeMap<String, (Mode, Mode)>,
}

impl Wires {
    /// Lays wires to these pods, and to every incarnation of them that comes.
    pub fn lay(kubelet: Arc<Kubelet>, namespace: &'static str, pods: &'static [&'static str]) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let task = tokio::spawn(follow(kubelet, namespace, pods, Arc::clone(&known)));
        Self { known, task }
    }

    /// Breaks the wire to a pod.
    pub fn cut(&self, pod: &str, how: Break) {
        let (to, from) = match how {
            Break::Reset => return self.reset(pod),
            Break::Cut => (Mode::Cut, Mode::Cut),
            Break::Stall => (Mode::Stall, Mode::Stall),
            Break::StallAnswers => (Mode::Pass, Mode::Stall),
            Break::Vanish => (Mode::Drop, Mode::Drop),
            Break::VanishAnswers => (Mode::Pass, Mode::Drop),
        };
        self.set(pod, (to, from));
    }

    /// Mends the wire to a pod. Connections that lost bytes are reset, as TCP does when it hears of them again.
    pub fn mend(&self, pod: &str, how: Break) {
        self.set(pod, (Mode::Pass, Mode::Pass));
        match how {
            Break::Vanish | Break::VanishAnswers => self.reset(pod),
            Break::Reset | Break::Cut | Break::Stall | Break::StallAnswers => {}
        }
    }

    fn set(&self, pod: &str, modes: (Mode, Mode)) {
        let mut known = lock(&self.known);
        known.modes.insert(pod.to_owned(), modes);
        for (_, relay) in known.relays.iter().filter(|((name, _), _)| name == pod) {
            apply(relay, modes);
        }
    }

    fn reset(&self, pod: &str) {
        lock(&self.known).relays.iter().filter(|((name, _), _)| name == pod).for_each(|(_, relay)| relay.reset());
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn apply(relay: &Relay, (to, from): (Mode, Mode)) {
    relay.set_direction(Direction::ToTarget, to);
    relay.set_direction(Direction::FromTarget, from);
}

/// A new incarnation has a new address: it gets its relay long before its PostgreSQL listens.
async fn follow(
    kubelet: Arc<Kubelet>,
    namespace: &'static str,
    pods: &'static [&'static str],
    known: Arc<Mutex<Known>>,
) {
    loop {
        let mut there = Vec::new();
        for pod in pods {
            for incarnation in kubelet.incarnations(namespace, pod) {
                there.extend(incarnation.ip().map(|ip| ((*pod).to_owned(), ip)));
            }
        }
        lock(&known).relays.retain(|key, _| there.contains(key));
        for key in there {
            if lock(&known).relays.contains_key(&key) {
                continue;
            }
            if let Ok(relay) = Relay::start_on((key.1, PORT).into(), (key.1, POSTGRESQL).into()).await {
                let mut known = lock(&known);
                if let Some(modes) = known.modes.get(&key.0) {
                    apply(&relay, *modes);
                }
                known.relays.insert(key, relay);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
