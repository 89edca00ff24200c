//! The task of one ear: it finds the primary as a session does, and listens there while anybody wants a channel.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::backend::Target;
use crate::continuity::{Command, Continuity, Input, Settings, Stage, World};
use crate::ids::PodId;
use crate::topology::evidence::Suspicion;
use crate::topology::routing::{Choice, Need, RoutingTable};

use super::line::Line;
use super::login::{Failure, Order, log_in};
use super::room::{Fault, Room};

/// Waits between two tries to log in, at first and at most: those of a session.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// A backend that was held this long was good: when it is lost, another is looked for at once.
const STEADY: Duration = Duration::from_secs(1);

/// Nobody is refused or evicted while an ear waits for a primary or stays on a pod that drains: it begins to wait anew.
const PATIENCE: Duration = Duration::from_secs(3600);

type Joining = Pin<Box<dyn Future<Output = Result<(Line, String), Failure>> + Send>>;

struct Tending {
    room: Arc<Room>,
    routes: watch::Receiver<Arc<RoutingTable>>,
    /// Where to be. An ear never leaves at a boundary: as long as its pod may still run somebody's COMMIT, it is heard.
    machine: Continuity,
    joining: Option<Joining>,
    line: Option<Line>,
    since: Instant,
    /// How long was waited before the last login, after a backend that was no good.
    pause: Duration,
    /// When to look for a backend again.
    again: Option<Instant>,
    /// What the last failed login said.
    refusal: Option<String>,
}

/// What woke the task.
enum Woken {
    Routes,
    Tick,
    Joined(Box<Result<(Line, String), Failure>>),
    /// Something else is wanted.
    News,
    Heard(Result<(), Fault>),
    Stop,
}

/// Listens until nobody wants anything, or the process stops.
pub(super) async fn tend(room: Arc<Room>) {
    let settings = Settings { zone: None, hold: PATIENCE, drain: PATIENCE, retry_first: RETRY.0, retry_most: RETRY.1 };
    let routes = room.realm.routes.clone();
    let machine = Continuity::new(Need::Write, Arc::new(settings));
    let (since, pause) = (Instant::now(), Duration::ZERO);
    let (joining, line, again, refusal) = (None, None, None, None);
    Tending { room, routes, machine, joining, line, since, pause, again, refusal }.run().await;
}

impl Tending {
    async fn run(mut self) {
        self.decide(Input::Wanted);
        loop {
            self.obey().await;
            if self.room.is_done() {
                break;
            }
            if let Some(line) = &mut self.line
                && let Some(packet) = self.room.packet()
            {
                line.say(&packet);
            }
            match self.wake().await {
                Woken::Routes => self.decide(Input::Routes),
                Woken::Tick => self.tick(),
                Woken::Joined(joined) => self.joined(*joined),
                Woken::News | Woken::Heard(Ok(())) => {}
                Woken::Heard(Err(fault)) => self.lost(fault),
                Woken::Stop => {
                    self.room.abandon();
                    break;
                }
            }
        }
        // What has changed in the routes and was not looked at may forbid to say another word.
        if let Some(line) = self.line.take()
            && !self.routes.has_changed().unwrap_or(true)
        {
            line.say_goodbye().await;
        }
    }

    /// Puts an input to the machine, with the world as it is now.
    fn decide(&mut self, input: Input) {
        let table = Arc::clone(&self.routes.borrow_and_update());
        let world = World { table: &table, load: &|_| 0, dice: &|| 0 };
        self.machine.handle(Instant::now().into_std(), world, input);
        let aim = match table.choose(&Need::Write, None, |_| 0, 0) {
            Choice::To { pod, .. } => Some(pod),
            Choice::Wait(_) => None,
        };
        self.room.aim(aim);
    }

    /// Obeys the machine until it has nothing more to say.
    async fn obey(&mut self) {
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Join { pod, address } => self.order(pod, address),
                Command::StopJoin => self.joining = None,
                Command::Hold | Command::Release => {}
                Command::Cut | Command::Evict => {
                    if let Some(line) = self.line.take() {
                        line.end_listening(&self.room).await;
                        self.room.unseated();
                    }
                    self.decide(Input::Wanted);
                }
                Command::Refuse(_) => self.decide(Input::Wanted),
            }
        }
    }

    fn order(&mut self, pod: PodId, address: SocketAddr) {
        let room = &self.room;
        let Some(candidate) = room.candidate() else {
            // The last listener has just gone.
            self.decide(Input::JoinFailed);
            return;
        };
        let tls = (room.realm.tls)(&pod.name);
        self.joining = Some(Box::pin(log_in(Order {
            target: Target { pod, address, tls, dial: room.shared.dial.clone() },
            database: Arc::clone(&room.home.database),
            encoding: room.encoding.clone(),
            candidate,
            gates: room.shared.gates.clone(),
        })));
    }

    async fn wake(&mut self) -> Woken {
        let timers = [self.machine.poll_timeout().map(Instant::from_std), self.room.poll_timeout(), self.again];
        let deadline = timers.into_iter().flatten().min();
        let Self { room, routes, joining, line, .. } = self;
        tokio::select! {
            biased;
            changed = routes.changed() => match changed {
                Ok(()) => Woken::Routes,
                Err(_) => Woken::Stop, // the watch has ended: so does the process
            },
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => Woken::Tick,
            joined = async { match joining { Some(joining) => joining.await, None => pending().await } } => Woken::Joined(Box::new(joined)),
            () = room.shared.shutdown.stopped() => Woken::Stop,
            () = room.news.notified() => Woken::News,
            heard = async { match line { Some(line) => poll_fn(|cx| line.poll_hear(cx, room)).await, None => pending().await } } => Woken::Heard(heard),
        }
    }

    fn tick(&mut self) {
        if self.room.tick() {
            self.decide(Input::Tick);
            if self.again.is_some_and(|again| Instant::now() >= again) {
                self.again = None;
                self.decide(Input::Wanted);
            }
        } else {
            warn!(ear = ?self.room, "the listening backend does not answer: closed");
            self.lost(Fault::Over(Suspicion::Vanished));
        }
    }

    fn joined(&mut self, joined: Result<(Line, String), Failure>) {
        self.joining = None;
        let Stage::Joining { pod, .. } = self.machine.stage() else { return };
        let pod = pod.clone();
        match joined {
            Ok((line, user)) => {
                info!(%pod, ear = ?self.room, user, "listening");
                (self.refusal, self.since) = (None, Instant::now());
                self.line = Some(line);
                self.room.seated(pod, &user);
                self.decide(Input::Joined);
            }
            Err(failure) => {
                let (words, others) = match failure {
                    Failure::Later(suspicion, words) => {
                        (self.room.realm.doubt)(&pod, suspicion);
                        (words, true)
                    }
                    Failure::Refused { user, words } => (words, self.room.login_refused(&user)),
                    Failure::Odd(words) => (words, false),
                };
                if !others && self.refusal.as_ref() != Some(&words) {
                    warn!(%pod, ear = ?self.room, words, "nobody's login is taken for listening");
                } else {
                    debug!(%pod, ear = ?self.room, words, "no backend to listen on");
                }
                self.refusal = Some(words);
                self.decide(Input::JoinFailed);
            }
        }
    }

    /// The backend's connection has ended, or is to.
    fn lost(&mut self, fault: Fault) {
        if self.line.take().is_none() {
            return;
        }
        self.room.unseated();
        let suspicion = match fault {
            Fault::Over(suspicion) => suspicion,
            Fault::Garbage => Suspicion::Vanished,
        };
        if let Stage::Attached { pod } | Stage::Leaving { pod, .. } = self.machine.stage() {
            info!(%pod, ear = ?self.room, ?fault, "the listening backend is lost");
            (self.room.realm.doubt)(pod, suspicion);
        }
        self.decide(Input::Lost);
        if self.since.elapsed() >= STEADY {
            self.pause = Duration::ZERO;
            self.decide(Input::Wanted);
        } else {
            self.pause = (self.pause * 2).clamp(RETRY.0, RETRY.1);
            self.again = Some(Instant::now() + self.pause);
        }
    }
}
