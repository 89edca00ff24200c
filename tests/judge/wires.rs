//! The wires between pgmoor and the pods' PostgreSQL: a relay before each that does as the test commands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::kubelet::Kubelet;
use crate::cluster::outposts::Outposts;
use crate::cluster::relay::{Direction, Mode, Relay};
use crate::schedule::Break;

/// A relay before every PostgreSQL, over all incarnations of the pods.
pub struct Wires {
    relays: Outposts<Relay>,
    modes: Arc<Mutex<Modes>>,
}

/// To PostgreSQL and back; a pod that is not here has whole wires.
type Modes = BTreeMap<String, (Mode, Mode)>;

impl Wires {
    /// Lays wires to these pods, and to every incarnation of them that comes.
    pub fn lay(kubelet: Arc<Kubelet>, namespace: &str, pods: &[&str]) -> Self {
        let modes = Arc::new(Mutex::new(Modes::new()));
        let theirs = Arc::clone(&modes);
        let relays = Outposts::set_up(kubelet, namespace, pods, move |pod, here, server| {
            let relay = Relay::begin(here, server).ok()?;
            if let Some(modes) = lock(&theirs).get(pod) {
                apply(&relay, *modes);
            }
            Some(relay)
        });
        Self { relays, modes }
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
        // First for the relays to come: one that is built just now has it from there, or is there already.
        lock(&self.modes).insert(pod.to_owned(), modes);
        self.relays.each(|name, relay| {
            if name == pod {
                apply(relay, modes);
            }
        });
    }

    fn reset(&self, pod: &str) {
        self.relays.each(|name, relay| {
            if name == pod {
                relay.reset();
            }
        });
    }
}

fn apply(relay: &Relay, (to, from): (Mode, Mode)) {
    relay.set_direction(Direction::ToTarget, to);
    relay.set_direction(Direction::FromTarget, from);
}

fn lock(modes: &Mutex<Modes>) -> MutexGuard<'_, Modes> {
    modes.lock().unwrap_or_else(PoisonError::into_inner)
}
