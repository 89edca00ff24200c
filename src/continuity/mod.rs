//! When a session leaves its backend, and where it goes next.
//!
//! ```text
//!             Wanted                      Joined
//!   Loose ─────────────► Joining ────────────────────► Attached ◄──┐ good again
//!    ▲  ▲                 │   ▲                         │   │       │
//!    │  │ hold            ▼   │ a target, or a retry    │   └──► Leaving   (still relaying, until idle or evicted)
//!    │  └─ expired ── Holding ┘                         │           │
//!    │                                                  │ Lost, Cut │ Left, Evict
//!    └──────────────────────────────────────────────────┴───────────┘
//! ```
//! The shell of a session feeds inputs and obeys commands; it decides nothing. After each input, [`Continuity::poll`]
//! is drained. Time is an argument.

pub mod ask;
pub mod carried;
pub mod commit;
pub mod ear;
mod foresight;
pub mod guard;
pub mod inquest;
pub mod journal;
pub mod loss;
mod names;
pub mod pins;
pub mod pipeline;
pub mod plans;
pub mod queue;
pub mod restore;
pub mod script;
pub mod setup;
pub mod state;
pub mod survey;
mod undo;
mod walk;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Code, Complaint};
use crate::ids::{PodId, Zone};
use crate::topology::routing::{Choice, LeaveReason, Need, RoutingTable, Standing, WaitReason};

use queue::Queue;

/// How long sessions wait for what they want, and what they prefer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone to prefer for reads.
    pub zone: Option<Zone>,
    /// How long a request waits for a backend before it is answered with an error.
    pub hold: Duration,
    /// How long it may stay on a draining pod with what it cannot leave at once.
    pub drain: Duration,
    /// First wait after a failed join; doubles up to `retry_most`.
    pub retry_first: Duration,
    /// Longest wait between two joins.
    pub retry_most: Duration,
}

/// The world as a session sees it when it decides.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Who is where.
    pub table: &'a RoutingTable,
    /// Sessions of this pgmoor on a pod.
    pub load: &'a dyn Fn(&PodId) -> usize,
    /// Throws the dice: any number, breaks ties.
    pub dice: &'a dyn Fn() -> u64,
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A new routing table.
    Routes,
    /// The client, or a channel it listens to, needs a backend.
    Wanted,
    /// The ordered backend is there, logged in and brought to the session's state.
    Joined,
    /// It is not, and another try may help.
    JoinFailed,
    /// At an idle boundary the session gave its backend up.
    Left,
    /// The backend's connection ended.
    Lost,
    /// As many sessions are held as may be.
    HoldRefused,
    /// What was waited for is not wanted any more: the client was told.
    GivenUp,
    /// Time has passed.
    Tick,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to this pod, log in, restore the state.
    Join {
        /// Which incarnation.
        pod: PodId,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Give up the join under way.
    StopJoin,
    /// Count this session among the held ones.
    Hold,
    /// It is not held any more.
    Release,
    /// Drop the backend now, whatever is in flight: its timeline is superseded.
    Cut,
    /// Drop the backend now: its pod has drained long enough.
    Evict,
    /// Answer the waiting request with this error; the session lives.
    Refuse(Complaint),
}

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Without a backend, and without need of one.
    Loose,
    /// A request waits for a backend.
    Holding(Wait),
    /// A backend is being connected to.
    Joining {
        /// The pod.
        pod: PodId,
        /// The wait so far, if it was held before.
        wait: Wait,
    },
    /// It has a backend.
    Attached {
        /// The pod.
        pod: PodId,
    },
    /// It has a backend, and leaves it at the next idle boundary.
    Leaving {
        /// The pod.
        pod: PodId,
        /// Why.
        why: LeaveReason,
        /// When it is evicted.
        until: Option<Instant>,
    },
}

/// One wait for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When the request is answered with an error.
    pub deadline: Instant,
    /// When to try again by ourselves; otherwise the next table decides.
    retry: Option<Instant>,
    backoff: Duration,
    why: Option<WaitReason>,
    held: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Continuity {
    need: Need,
    settings: Arc<Settings>,
    stage: Stage,
    commands: Queue<Command>,
}

impl Continuity {
    /// A session without a backend; it needs this kind of pod.
    pub fn new(need: Need, settings: Arc<Settings>) -> Self {
        Self { need, settings, stage: Stage::Loose, commands: Queue::new() }
    }

    /// Where the session is.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// What it needs.
    pub fn need(&self) -> &Need {
        &self.need
    }

    /// Whether the session should leave its backend at the next idle boundary.
    pub fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Holding(wait) => Some(wait.retry.map_or(wait.deadline, |retry| retry.min(wait.deadline))),
            Stage::Joining { wait, .. } => Some(wait.deadline),
            Stage::Leaving { until, .. } => *until,
            Stage::Loose | Stage::Attached { .. } => None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, world: World<'_>, input: Input) {
        match input {
            Input::Routes => self.routes(now, world),
            Input::Wanted => {
                if self.stage == Stage::Loose {
                    let wait = self.fresh_wait(now);
                    self.seek(wait, world);
                }
            }
            Input::Joined => self.joined(now, world),
            Input::JoinFailed => self.join_failed(now),
            Input::Left | Input::Lost => self.loosen(),
            Input::HoldRefused => {
                if matches!(self.stage, Stage::Holding(_)) {
                    self.stage = Stage::Loose;
                    self.commands.push_back(Command::Refuse(Complaint::new(Code::TooManyHeld)));
                }
            }
            Input::GivenUp => self.give_up(),
            Input::Tick => self.tick(now, world),
        }
    }

    fn fresh_wait(&self, now: Instant) -> Wait {
        Wait {
            deadline: now + self.settings.hold,
            retry: None,
            backoff: self.settings.retry_first,
            why: None,
            held: false,
        }
    }

    /// Looks for a pod: joins it, or holds.
    fn seek(&mut self, mut wait: Wait, world: World<'_>) {
        wait.retry = None;
        let dice = if matches!(self.need, Need::Read { .. }) { (world.dice)() } else { 0 };
        match world.table.choose(&self.need, self.settings.zone.as_ref(), world.load, dice) {
            Choice::To { pod, address } => {
                self.commands.push_back(Command::Join { pod: pod.clone(), address });
                self.stage = Stage::Joining { pod, wait };
            }
            Choice::Wait(why) => {
                wait.why = Some(why);
                self.hold(wait);
            }
        }
    }

    fn hold(&mut self, mut wait: Wait) {
        if !wait.held {
            wait.held = true;
            self.commands.push_back(Command::Hold);
        }
        self.stage = Stage::Holding(wait);
    }

    fn routes(&mut self, now: Instant, world: World<'_>) {
        match &self.stage {
            Stage::Loose => {}
            Stage::Holding(wait) => {
                let wait = wait.clone();
                // A refused join waits for its retry: a table that changes often must not turn it into a storm.
                if wait.retry.is_none_or(|retry| now >= retry) {
                    self.seek(wait, world);
                }
            }
            Stage::Joining { pod, wait } => match world.table.standing(pod, &self.need) {
                Standing::Good => {}
                Standing::Leave(_) | Standing::Cut => {
                    let wait = wait.clone();
                    self.commands.push_back(Command::StopJoin);
                    self.seek(wait, world);
                }
            },
            Stage::Attached { pod } | Stage::Leaving { pod, .. } => {
                let pod = pod.clone();
                self.stand(now, pod, world);
            }
        }
    }

    fn stand(&mut self, now: Instant, pod: PodId, world: World<'_>) {
        let drained = match &self.stage {
            Stage::Leaving { until, .. } => *until,
            Stage::Loose | Stage::Holding(_) | Stage::Joining { .. } | Stage::Attached { .. } => None,
        };
        self.stage = match world.table.standing(&pod, &self.need) {
            Standing::Good => Stage::Attached { pod },
            Standing::Leave(why @ LeaveReason::Draining) => {
                Stage::Leaving { pod, why, until: Some(drained.unwrap_or(now + self.settings.drain)) }
            }
            // What drained first and is a primary no more has no more time for it.
            Standing::Leave(why) => Stage::Leaving { pod, why, until: drained },
            Standing::Cut => {
                self.commands.push_back(Command::Cut);
                Stage::Loose
            }
        };
    }

    fn joined(&mut self, now: Instant, world: World<'_>) {
        match std::mem::replace(&mut self.stage, Stage::Loose) {
            Stage::Joining { pod, wait } => {
                if wait.held {
                    self.commands.push_back(Command::Release);
                }
                self.stand(now, pod, world); // the world may have moved while we joined
            }
            other @ (Stage::Loose | Stage::Holding(_) | Stage::Attached { .. } | Stage::Leaving { .. }) => {
                self.stage = other;
            }
        }
    }

    fn join_failed(&mut self, now: Instant) {
        let Stage::Joining { wait, .. } = &self.stage else { return };
        let mut wait = wait.clone();
        wait.retry = Some(now + wait.backoff);
        wait.backoff = (wait.backoff * 2).min(self.settings.retry_most);
        self.hold(wait);
    }

    fn loosen(&mut self) {
        match &self.stage {
            Stage::Attached { .. } | Stage::Leaving { .. } => self.stage = Stage::Loose,
            Stage::Loose | Stage::Holding(_) | Stage::Joining { .. } => {}
        }
    }

    fn give_up(&mut self) {
        let held = match &self.stage {
            Stage::Joining { wait, .. } => {
                self.commands.push_back(Command::StopJoin);
                wait.held
            }
            Stage::Holding(wait) => wait.held,
            Stage::Loose | Stage::Attached { .. } | Stage::Leaving { .. } => false,
        };
        if held {
            self.commands.push_back(Command::Release);
        }
        self.stage = Stage::Loose;
    }

    fn tick(&mut self, now: Instant, world: World<'_>) {
        match &self.stage {
            Stage::Leaving { until: Some(until), .. } if now >= *until => {
                self.commands.push_back(Command::Evict);
                self.stage = Stage::Loose;
            }
            Stage::Holding(wait) | Stage::Joining { wait, .. } if now >= wait.deadline => {
                let (why, held) = (wait.why, wait.held);
                if matches!(self.stage, Stage::Joining { .. }) {
                    self.commands.push_back(Command::StopJoin);
                }
                if held {
                    self.commands.push_back(Command::Release);
                }
                self.stage = Stage::Loose;
                self.commands.push_back(Command::Refuse(self.expired(why)));
            }
            Stage::Holding(wait) if wait.retry.is_some_and(|retry| now >= retry) => {
                let wait = wait.clone();
                self.seek(wait, world);
            }
            Stage::Loose
            | Stage::Holding(_)
            | Stage::Joining { .. }
            | Stage::Attached { .. }
            | Stage::Leaving { .. } => {}
        }
    }

    fn expired(&self, why: Option<WaitReason>) -> Complaint {
        let code = match &self.need {
            Need::Write => Code::HoldExpired,
            Need::Read { .. } => Code::NoReplica,
            Need::Pod(_) => Code::NoSuchPod,
        };
        let waited = format!("waited {} ms", self.settings.hold.as_millis());
        Complaint::with(code, why.map_or_else(|| waited.clone(), |why| format!("{waited}: {}", why.as_str())))
    }
}

#[cfg(test)]
mod tests;
