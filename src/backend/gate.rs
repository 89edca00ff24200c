//! How many logins may run at once on each pod: few on a fresh primary, more with each that succeeds. No login storm.
//!
//! A gate has a width. `enter` takes a turn while fewer than `width` turns are out, else it queues. A login that
//! succeeds widens the gate by one (so a healthy pod's rate doubles with every round of logins), one that fails halves
//! it, and its turn comes back only after a pause, which doubles while nothing but failures come. So a pod that refuses
//! everyone is asked by one login at a time, ten times a second, however many sessions want it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::ids::PodId;

/// Gates kept before idle ones are forgotten. A forgotten gate begins anew at its first width.
const REMEMBERED: usize = 256;

/// How long a failed login's turn stays out: after the first setback, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(20));

/// How wide a gate begins and how wide it may grow, in logins at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Width of a fresh gate; 0 counts as 1.
    pub start: u32,
    /// Greatest width; less than `start` counts as `start`.
    pub max: u32,
}

/// The gates of all pods. Clones share them.
#[derive(Clone, Debug)]
pub struct Gates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: usize,
    max: usize,
    pods: Mutex<BTreeMap<PodId, Gate>>,
}

#[derive(Debug)]
struct Gate {
    width: usize,
    /// Turns given and not yet returned.
    out: usize,
    /// Failures in a row; those of logins that ran side by side count once.
    setbacks: u32,
    /// Who waits, by ticket: the lowest goes first.
    queue: BTreeMap<Ticket, oneshot::Sender<u32>>,
    next_ticket: u64,
}

/// A place in a gate's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    rank: Rank,
    /// Within the rank: the lower came first.
    number: u64,
}

/// Who goes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Others wait for this login.
    First,
    /// All others.
    Common,
}

/// Leave to log in now: a turn. Dropped without a word (the login was given up) it only makes room for the next.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    gates: Gates,
    pod: PodId,
    /// The gate's setbacks when the login began.
    setbacks: u32,
}

/// What happens at one gate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Logins that may run at once.
    pub width: usize,
    /// Logins that run.
    pub running: usize,
    /// Logins that wait.
    pub waiting: usize,
}

impl Gates {
    /// No gate yet: each pod's is made when it is first entered.
    pub fn new(pace: Pace) -> Self {
        let start = pace.start.max(1) as usize;
        Self {
            shared: Arc::new(Shared { start, max: (pace.max as usize).max(start), pods: Mutex::new(BTreeMap::new()) }),
        }
    }

    /// Brings the pod's gate to its first width: the pod has just become primary, and everyone is coming. What failed
    /// before says nothing any more.
    pub fn reopen(&self, pod: &PodId) {
        if let Some(gate) = self.shared.pods.lock().get_mut(pod) {
            gate.width = self.shared.start;
            gate.setbacks = 0;
            gate.give_turns();
        }
    }

    /// Waits for a turn, first come first served. Cancel safe: dropped, it leaves the queue or passes its turn on.
    pub async fn enter(&self, pod: &PodId) -> Permit {
        self.take_turn(pod, Rank::Common).await
    }

    /// The same before all who came by [`Self::enter`]: for a login that those wait for.
    pub async fn enter_first(&self, pod: &PodId) -> Permit {
        self.take_turn(pod, Rank::First).await
    }

    async fn take_turn(&self, pod: &PodId, rank: Rank) -> Permit {
        let (ticket, turn) = {
            let mut pods = self.shared.pods.lock();
            let gate = self.gate(&mut pods, pod);
            let (give, turn) = oneshot::channel();
            let ticket = Ticket { rank, number: gate.next_ticket };
            gate.next_ticket += 1;
            gate.queue.insert(ticket, give);
            gate.give_turns();
            (ticket, turn)
        };
        let mut place = Place { gates: self, pod, ticket, turn: Some(turn) };
        let setbacks = match &mut place.turn {
            // The gate never drops a sender whose receiver still waits, so this ends with a turn.
            Some(turn) => turn.await.unwrap_or_default(),
            None => 0,
        };
        place.turn = None;
        Permit { gates: self.clone(), pod: pod.clone(), setbacks }
    }

    /// What happens at the pod's gate; `None` if nobody has come lately.
    pub fn load(&self, pod: &PodId) -> Option<Load> {
        self.shared.pods.lock().get(pod).map(|gate| Load {
            width: gate.width,
            running: gate.out,
            waiting: gate.queue.len(),
        })
    }

    fn gate<'a>(&self, pods: &'a mut BTreeMap<PodId, Gate>, pod: &PodId) -> &'a mut Gate {
        if pods.len() >= REMEMBERED && !pods.contains_key(pod) {
            pods.retain(|_, gate| gate.out > 0 || !gate.queue.is_empty());
        }
        pods.entry(pod.clone()).or_insert_with(|| Gate {
            width: self.shared.start,
            out: 0,
            setbacks: 0,
            queue: BTreeMap::new(),
            next_ticket: 0,
        })
    }

    /// Has a word with the gate of somebody who waits or has a turn: it is there, for such a gate is never forgotten.
    fn at<T>(&self, pod: &PodId, word: impl FnOnce(&mut Gate) -> T) -> Option<T> {
        self.shared.pods.lock().get_mut(pod).map(word)
    }

    fn give_back(&self, pod: &PodId) {
        self.at(pod, |gate| {
            gate.out -= 1;
            gate.give_turns();
        });
    }
}

impl Gate {
    fn give_turns(&mut self) {
        while self.out < self.width
            && let Some((_, turn)) = self.queue.pop_first()
        {
            // Fails if the waiter has gone: then the next one gets the turn.
            if turn.send(self.setbacks).is_ok() {
                self.out += 1;
            }
        }
    }

    fn widen(&mut self, max: usize) {
        self.width = (self.width + 1).min(max);
        self.setbacks = 0;
    }

    /// A login has failed that began after `seen` setbacks: how long its turn stays out.
    fn set_back(&mut self, seen: u32) -> Duration {
        if seen == self.setbacks {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        self.width = (self.width / 2).max(1);
        PAUSE.0.saturating_mul(1 << self.setbacks.saturating_sub(1).min(16)).min(PAUSE.1)
    }
}

impl Permit {
    /// The login succeeded: the gate widens by one.
    pub fn succeeded(self) {
        let max = self.gates.shared.max;
        self.gates.at(&self.pod, |gate| gate.widen(max));
    }

    /// The login failed for a reason that may be the pod's: the gate halves, and the turn is given back after a pause.
    /// Never waits; must be called within a tokio runtime.
    pub fn failed(self) {
        let pause = self.gates.at(&self.pod, |gate| gate.set_back(self.setbacks));
        tokio::spawn(async move {
            sleep(pause.unwrap_or_default()).await;
            drop(self);
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gates.give_back(&self.pod);
    }
}

/// A place in a gate's queue; gives itself up when dropped before its turn was taken.
struct Place<'a> {
    gates: &'a Gates,
    pod: &'a PodId,
    ticket: Ticket,
    /// `None` once the turn was taken.
    turn: Option<oneshot::Receiver<u32>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        // From here on a turn can no longer be given, but it may have been.
        turn.close();
        if turn.try_recv().is_ok() {
            self.gates.give_back(self.pod);
        } else {
            self.gates.at(self.pod, |gate| gate.queue.remove(&self.ticket));
        }
    }
}

#[cfg(test)]
mod tests;
