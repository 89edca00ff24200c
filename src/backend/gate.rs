//! How many logins may run at once on each pod: few on a fresh primary, more with each that succeeds. No login storm.
//!
//! A gate has a width. `enter` takes a turn while fewer than `width` turns are out, else it queues. A login that
//! succeeds widens the gate by one (so a healthy pod's rate doubles with every round of logins), one that fails halves
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ids::PodId;

/// Gates kept before idle ones are forgotten. A forgotten gate begins anew at its first width.
const REMEMBERED: usize = 256;

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
    /// Who waits, by ticket: the lowest came first.
    queue: BTreeMap<u64, oneshot::Sender<()>>,
    next_ticket: u64,
}

/// How a login ended, as far as the gate cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    GivenUp,
    Succeeded,
    Failed,
}

/// Leave to log in now. Dropped without a word (the login was given up) it only makes room for the next.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    gates: Gates,
    pod: PodId,
    outcome: Outcome,
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

    /// Narrows the pod's gate to its first width: the pod has just become primary, and everyone is coming.
    pub fn reopen(&self, pod: &PodId) {
        if let Some(gate) = self.shared.pods.lock().get_mut(pod) {
            gate.width = self.shared.start;
        }
    }

    /// Waits for a turn, first come first served. Cancel safe: dropped, it leaves the queue or passes its turn on.
    pub async fn enter(&self, pod: &PodId) -> Permit {
        let (ticket, turn) = {
            let mut pods = self.shared.pods.lock();
            let gate = self.gate(&mut pods, pod);
            let (give, turn) = oneshot::channel();
            let ticket = gate.next_ticket;
            gate.next_ticket += 1;
            gate.queue.insert(ticket, give);
            gate.give_turns();
            (ticket, turn)
        };
        let mut place = Place { gates: self, pod, ticket, turn: Some(turn) };
        if let Some(turn) = &mut place.turn {
            // The gate never drops a sender whose receiver still waits, so this ends with a turn.
            let _ = turn.await;
        }
        place.turn = None;
        Permit { gates: self.clone(), pod: pod.clone(), outcome: Outcome::GivenUp }
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
            queue: BTreeMap::new(),
            next_ticket: 0,
        })
    }

    fn returned(&self, pod: &PodId, outcome: Outcome) {
        // The gate is there: one with turns out is never forgotten.
        if let Some(gate) = self.shared.pods.lock().get_mut(pod) {
            gate.width = match outcome {
                Outcome::GivenUp => gate.width,
                Outcome::Succeeded => (gate.width + 1).min(self.shared.max),
                Outcome::Failed => (gate.width / 2).max(1),
            };
            gate.out -= 1;
            gate.give_turns();
        }
    }
}

impl Gate {
    fn give_turns(&mut self) {
        while self.out < self.width
            && let Some((_, turn)) = self.queue.pop_first()
        {
            // Fails if the waiter has gone: then the next one gets the turn.
            if turn.send(()).is_ok() {
                self.out += 1;
            }
        }
    }
}

impl Permit {
    /// The login succeeded: the gate widens by one.
    pub fn succeeded(mut self) {
        self.outcome = Outcome::Succeeded;
    }

    /// The login failed for a reason that may be the pod's: the gate halves.
    pub fn failed(mut self) {
        self.outcome = Outcome::Failed;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gates.returned(&self.pod, self.outcome);
    }
}

/// A place in a gate's queue; gives itself up when dropped before its turn was taken.
struct Place<'a> {
    gates: &'a Gates,
    pod: &'a PodId,
    ticket: u64,
    /// `None` once the turn was taken.
    turn: Option<oneshot::Receiver<()>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        // From here on a turn can no longer be given, but it may have been.
        turn.close();
        if turn.try_recv().is_ok() {
            self.gates.returned(self.pod, Outcome::GivenUp);
        } else if let Some(gate) = self.gates.shared.pods.lock().get_mut(self.pod) {
            gate.queue.remove(&self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn now<F: Future>(future: F) -> F::Output {
        match poll(pin!(future)) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("not its turn"),
        }
    }

    fn load(gates: &Gates, pod: &PodId) -> (usize, usize, usize) {
        let load = gates.load(pod).unwrap();
        (load.width, load.running, load.waiting)
    }

    fn narrow() -> (Gates, PodId) {
        (Gates::new(Pace { start: 1, max: 3 }), PodId::new("pg-0", "a"))
    }

    #[test]
    fn success_widens_up_to_the_limit_and_failure_halves() {
        let (gates, pod) = narrow();
        for width in [2, 3, 3] {
            now(gates.enter(&pod)).succeeded();
            assert_eq!(load(&gates, &pod), (width, 0, 0));
        }
        for width in [1, 1] {
            now(gates.enter(&pod)).failed();
            assert_eq!(load(&gates, &pod), (width, 0, 0));
        }
        now(gates.enter(&pod)).succeeded();
        drop(now(gates.enter(&pod)));
        assert_eq!(load(&gates, &pod), (2, 0, 0), "a login given up says nothing");
        gates.reopen(&pod);
        assert_eq!(load(&gates, &pod), (1, 0, 0));
    }

    #[test]
    fn turns_go_in_order_and_a_wider_gate_lets_in_more() {
        let (gates, pod) = narrow();
        let running = now(gates.enter(&pod));
        let mut first = pin!(gates.enter(&pod));
        let mut second = pin!(gates.enter(&pod));
        let mut third = pin!(gates.enter(&pod));
        for waiting in [first.as_mut(), second.as_mut(), third.as_mut()] {
            assert!(poll(waiting).is_pending());
        }
        assert_eq!(load(&gates, &pod), (1, 1, 3));
        running.succeeded();
        assert_eq!(load(&gates, &pod), (2, 2, 1));
        assert!(poll(third.as_mut()).is_pending());
        let Poll::Ready(_a) = poll(second.as_mut()) else { panic!("second") };
        let Poll::Ready(_b) = poll(first.as_mut()) else { panic!("first") };
        assert!(poll(third.as_mut()).is_pending());
    }

    #[test]
    fn a_waiter_that_leaves_loses_no_turn() {
        let (gates, pod) = narrow();
        let running = now(gates.enter(&pod));
        let mut last = Box::pin(gates.enter(&pod));
        {
            let mut gone = Box::pin(gates.enter(&pod));
            assert!(poll(gone.as_mut()).is_pending());
            assert!(poll(last.as_mut()).is_pending());
            drop(running);
            // `gone` was given the turn and is dropped without having looked.
            assert_eq!(load(&gates, &pod), (1, 1, 1));
        }
        let Poll::Ready(permit) = poll(last.as_mut()) else { panic!("the turn is lost") };
        {
            let mut gone = Box::pin(gates.enter(&pod));
            assert!(poll(gone.as_mut()).is_pending());
        }
        assert_eq!(load(&gates, &pod), (1, 1, 0), "left the queue");
        drop(permit);
        assert_eq!(load(&gates, &pod), (1, 0, 0));
    }

    #[test]
    fn idle_gates_are_forgotten_and_busy_ones_are_not() {
        let (gates, pod) = narrow();
        let running = now(gates.enter(&pod));
        for number in 0..3 * REMEMBERED {
            drop(now(gates.enter(&PodId::new("pg-1", number.to_string()))));
            assert!(gates.shared.pods.lock().len() <= REMEMBERED);
        }
        running.succeeded();
        assert_eq!(load(&gates, &pod), (2, 0, 0));
    }
}
