//! What one listening backend listens to, for whom, and how far it has heard.
//!
//! The sessions of one database that LISTEN share one backend, the *ear*; each is a *listener* here.
//!
//! ```text
//!   a channel:  Unheard ──LISTEN──► Asked ──answered──► Heard
//!                  ▲                  └───refused, alone──► Refused
//!                  └── the backend is gone: all of them ──────┘
//!
//!   the line:   Away ──seated──► Quiet ──packet──► Asking ──ReadyForQuery──► Quiet
//!                 ▲                └─────unseated─────┘
//! ```
//! One question is out at a time: what is wanted meanwhile goes into the next, many channels at once. A question that fails
//! is asked again channel by channel, so that a name no server takes does not deafen the others. Channels that were heard on
//! the last backend were promised to somebody: on the next one they go first, and when they are heard the ear is *ready*.
//!
//! *Catching up.* PostgreSQL signals listening backends before it answers a COMMIT, and a backend tells what it was signalled
//! before it says ReadyForQuery. So the answer to any question, were it an empty one, is the proof that everything committed
//! before the question was sent has been heard. A session that waits for that before it passes on the end of a unit keeps
//! PostgreSQL's own order: its own notifications, and those of others that its client knows to be sent, come before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::ids::PodId;
use crate::topology::evidence::Suspicion;
use crate::wire::message::write::frontend as write;
use crate::wire::message::{ErrorFields, ReadyForQuery};
use crate::wire::{TxStatus, backend};

use agenda::Agenda;
use aim::Aim;
use logins::Logins;

mod agenda;
mod aim;
mod channel;
mod inbox;
mod logins;
mod notification;
mod turn;

pub use aim::GRACE;
pub use channel::Channel;
pub use inbox::{Heard, Inbox, MOST, Overrun};
pub use notification::{Notification, with_sender};
pub use turn::Turn;

/// How long a session waits to have heard everything. It takes a round trip; a server that needs longer has other troubles.
pub const CATCH_UP: Duration = Duration::from_millis(200);

/// How long a question may be unanswered. A server that does not get to an empty one is doubtful.
pub const ANSWER: Duration = Duration::from_secs(10);

/// One session that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerId(u64);

/// A moment up to which a listener wants to have heard everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// How it stands with a channel that a listener wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The backend there is now has not been asked to listen to it.
    Unheard,
    /// It has been asked.
    Asked,
    /// It listens: everything committed from now on is heard.
    Heard,
    /// It says no, in these words. A session that says LISTEN itself is told the same.
    Refused(String),
}

/// What a frame of the backend means.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// Nothing to anybody.
    Nothing,
    /// A notification, for these.
    Notified(&'a BTreeSet<ListenerId>),
    /// A question was answered: waiting listeners look again, and the next may be sent.
    Answered,
    /// The backend ends, or is not what it should be: it is to be left.
    Over(Suspicion),
}

/// The backend says what no PostgreSQL would say here: it is to be left, and nothing it says is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage;

/// The machine.
#[derive(Debug, Default)]
pub struct Ear {
    next: u64,
    listeners: BTreeMap<ListenerId, Listener>,
    channels: BTreeMap<Channel, Wanted>,
    line: Line,
    asking: Agenda,
    /// The last moment that was asked for.
    asked: u64,
    /// The last moment that everything was heard of, or that is not waited for any more.
    passed: u64,
    /// Since when somebody waits for `asked`, if no question has been sent for it.
    waiting: Option<Instant>,
    aim: Option<Aim>,
    logins: Logins,
}

#[derive(Debug)]
struct Listener {
    user: Arc<str>,
    channels: BTreeSet<Channel>,
}

/// A channel that somebody wants.
#[derive(Debug)]
struct Wanted {
    by: BTreeSet<ListenerId>,
    standing: Standing,
    /// Somebody was told that it is heard.
    promised: bool,
    /// The backend there is now may be listening to it, whether it has said so or not.
    listened: bool,
}

/// The backend.
#[derive(Debug, Default)]
enum Line {
    /// There is none.
    #[default]
    Away,
    /// It has answered everything.
    Quiet(PodId),
    /// It owes an answer.
    Asking(PodId, Question),
}

/// What was asked.
#[derive(Debug)]
struct Question {
    listens: Vec<Channel>,
    unlistens: Vec<Channel>,
    since: Instant,
    /// The moment that its answer passes.
    covers: u64,
    /// Since when somebody waits for that.
    waiting: Option<Instant>,
    /// SQLSTATE and words of its error.
    error: Option<(String, String)>,
}

impl Ear {
    /// A session begins to listen, to nothing yet. `user`: whose login it has.
    pub fn enter(&mut self, user: &str) -> ListenerId {
        self.next += 1;
        let id = ListenerId(self.next);
        self.listeners.insert(id, Listener { user: user.into(), channels: BTreeSet::new() });
        id
    }

    /// It is gone, or cannot go on.
    pub fn leave(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else { return };
        for channel in listener.channels {
            self.drop_from(&channel, id);
        }
    }

    /// It wants to hear of a channel, from now on. `false`: it has wanted it already, or has left.
    pub fn want(&mut self, id: ListenerId, channel: &Channel) -> bool {
        let Some(listener) = self.listeners.get_mut(&id) else { return false };
        if !listener.channels.insert(channel.clone()) {
            return false;
        }
        let wanted = self.channels.entry(channel.clone()).or_insert_with(|| {
            let listened = self.asking.stale.remove(channel);
            self.asking.then.insert(channel.clone());
            Wanted { by: BTreeSet::new(), standing: Standing::Unheard, promised: false, listened }
        });
        wanted.by.insert(id);
        if let Standing::Refused(_) = wanted.standing {
            // What was refused once is asked for again when somebody else wants it.
            wanted.standing = Standing::Unheard;
            self.asking.then.insert(channel.clone());
        }
        true
    }

    /// It does not want it any more. `false`: it has not.
    pub fn unwant(&mut self, id: ListenerId, channel: &Channel) -> bool {
        let had = self.listeners.get_mut(&id).is_some_and(|listener| listener.channels.remove(channel));
        if had {
            self.drop_from(channel, id);
        }
        had
    }

    /// What it wants.
    pub fn channels_of(&self, id: ListenerId) -> impl Iterator<Item = &Channel> {
        self.listeners.get(&id).into_iter().flat_map(|listener| &listener.channels)
    }

    fn drop_from(&mut self, channel: &Channel, id: ListenerId) {
        let Some(wanted) = self.channels.get_mut(channel) else { return };
        wanted.by.remove(&id);
        if !wanted.by.is_empty() {
            return;
        }
        let listened = wanted.listened;
        self.channels.remove(channel);
        self.asking.drop(channel);
        if listened {
            self.asking.stale.insert(channel.clone());
        }
        self.arrive();
    }

    /// How it stands with a channel; `None`: this listener does not want it, or has left.
    pub fn standing(&self, id: ListenerId, channel: &Channel) -> Option<&Standing> {
        self.channels.get(channel).filter(|wanted| wanted.by.contains(&id)).map(|wanted| &wanted.standing)
    }

    /// Whether anybody wants anything: without that there is to be no backend.
    pub fn is_wanted(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Whose login is to be tried next; `None`: there is no listener.
    pub fn login(&mut self) -> Option<ListenerId> {
        self.logins.choose(self.listeners.iter().rev().map(|(id, listener)| (*id, &listener.user)))
    }

    /// The login of this user was refused. Says whether others are left to be tried.
    pub fn login_refused(&mut self, user: &str) -> bool {
        self.logins.refused(user);
        self.logins.is_any_left(self.listeners.values().map(|listener| &listener.user))
    }

    /// Where it is to listen now, by the routes.
    pub fn aim(&mut self, now: Instant, pod: Option<PodId>) {
        if self.aim.as_ref().map(Aim::pod) != pod.as_ref() {
            self.aim = pod.map(|pod| Aim::new(pod, now));
            self.arrive();
        }
    }

    /// Nobody is kept waiting where everything is heard.
    fn arrive(&mut self) {
        if let Some(aim) =
            self.aim.as_mut().filter(|aim| self.line.pod() == Some(aim.pod()) && self.asking.first.is_empty())
        {
            aim.reached();
        }
    }

    /// A backend is there, logged in as `user`, listening to nothing.
    pub fn seated(&mut self, pod: PodId, user: &str) {
        self.line = Line::Quiet(pod);
        self.logins.taken(user);
        self.begin_anew();
        self.arrive();
    }

    /// It is gone, or left. Nobody waits any more to hear what it may still have had to say.
    pub fn unseated(&mut self, now: Instant) {
        if let Some(aim) = self.aim.as_mut().filter(|aim| self.line.pod() == Some(aim.pod())) {
            aim.lost(now);
        }
        self.line = Line::Away;
        self.begin_anew();
        (self.passed, self.waiting) = (self.asked, None);
    }

    /// Nothing is listened to.
    fn begin_anew(&mut self) {
        self.asking = Agenda::default();
        for (channel, wanted) in &mut self.channels {
            let list = if wanted.promised { &mut self.asking.first } else { &mut self.asking.then };
            list.insert(channel.clone());
            wanted.listened = false;
            if let Standing::Refused(_) = std::mem::replace(&mut wanted.standing, Standing::Unheard) {
                self.asking.alone.insert(channel.clone());
            }
        }
    }

    /// The pod it is on.
    pub const fn pod(&self) -> Option<&PodId> {
        self.line.pod()
    }

    /// Whether sessions may go to this pod without a notification of theirs being missed by somebody it is promised to; or it
    /// was waited for long enough.
    pub fn is_ready(&self, pod: &PodId, now: Instant) -> bool {
        let heard = self.pod() == Some(pod) && self.asking.first.is_empty();
        let waived = || self.aim.as_ref().is_some_and(|aim| aim.pod() == pod && aim.is_open(now));
        heard || waived() || !self.channels.values().any(|wanted| wanted.promised)
    }

    /// Somebody wants to have heard everything that was committed until now.
    pub fn moment(&mut self, now: Instant) -> Moment {
        match self.line {
            Line::Away => return Moment(0),
            Line::Quiet(_) | Line::Asking(..) => {}
        }
        if self.waiting.is_none() {
            self.asked += 1;
            self.waiting = Some(now);
        }
        Moment(self.asked)
    }

    /// The last moment that has passed.
    pub const fn passed(&self) -> Moment {
        Moment(self.passed)
    }

    /// Whether it is heard, or not waited for any more.
    pub const fn has_passed(&self, moment: Moment) -> bool {
        moment.0 <= self.passed
    }

    /// The next question, if there is one and none is out.
    pub fn packet(&mut self, now: Instant) -> Option<BytesMut> {
        let Line::Quiet(pod) = &self.line else { return None };
        let (listens, unlistens) = self.asking.next();
        if listens.is_empty() && unlistens.is_empty() && self.waiting.is_none() {
            return None;
        }
        let mut sql = Vec::new();
        for channel in &listens {
            channel.say(&mut sql, "LISTEN");
            if let Some(wanted) = self.channels.get_mut(channel) {
                (wanted.standing, wanted.listened) = (Standing::Asked, true);
            }
        }
        for channel in &unlistens {
            channel.say(&mut sql, "UNLISTEN");
        }
        let question =
            Question { listens, unlistens, since: now, covers: self.asked, waiting: self.waiting.take(), error: None };
        self.line = Line::Asking(pod.clone(), question);
        let mut packet = BytesMut::new();
        write::query(&mut packet, sql);
        Some(packet)
    }

    /// Takes one frame of the backend.
    ///
    /// # Errors
    /// It is none that belongs here.
    pub fn reply(&mut self, tag: u8, body: &[u8]) -> Result<Said<'_>, Garbage> {
        let asking = match &mut self.line {
            Line::Asking(_, question) => Some(question),
            Line::Quiet(_) | Line::Away => None,
        };
        match (tag, asking) {
            (backend::NOTIFICATION_RESPONSE, _) => {
                let notification = crate::wire::message::NotificationResponse::read(body).map_err(|_| Garbage)?;
                let wanted = self.channels.get(notification.channel);
                Ok(wanted.map_or(Said::Nothing, |wanted| Said::Notified(&wanted.by)))
            }
            (backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS, _) => Ok(Said::Nothing),
            (backend::ERROR_RESPONSE, asking) => {
                let fields = ErrorFields::read(body).map_err(|_| Garbage)?;
                match (&*fields.code, asking) {
                    // As sessions hear it: it goes down, has crashed, or does not take work now.
                    ("57P01" | "57P02" | "57P03", _) if fields.severity.ends_session() => {
                        Ok(Said::Over(Suspicion::ShuttingDown))
                    }
                    _ if fields.severity.ends_session() => Ok(Said::Over(Suspicion::Vanished)),
                    // LISTEN is not for servers in recovery: it has become a standby, or is one.
                    ("25006", Some(_)) => Ok(Said::Over(Suspicion::ReadOnly)),
                    (code, Some(question)) => {
                        question.error = Some((code.to_owned(), fields.message.into_owned()));
                        Ok(Said::Nothing)
                    }
                    (_, None) => Err(Garbage),
                }
            }
            (backend::COMMAND_COMPLETE | backend::EMPTY_QUERY_RESPONSE, Some(_)) => Ok(Said::Nothing),
            (backend::READY_FOR_QUERY, Some(_)) => match ReadyForQuery::read(body) {
                Ok(ReadyForQuery { status: TxStatus::Idle }) => {
                    self.answered();
                    Ok(Said::Answered)
                }
                Ok(ReadyForQuery { status: TxStatus::InTransaction | TxStatus::Failed }) | Err(_) => Err(Garbage),
            },
            _ => Err(Garbage),
        }
    }

    fn answered(&mut self) {
        let Line::Asking(pod, question) = std::mem::take(&mut self.line) else { return };
        self.line = Line::Quiet(pod);
        self.passed = self.passed.max(question.covers);
        if question.error.is_some() && question.unlistens.len() > 1 {
            let unwanted = question.unlistens.into_iter().filter(|channel| !self.channels.contains_key(channel));
            self.asking.unlisten_singly(unwanted);
        }
        let single = question.listens.len() == 1;
        for channel in &question.listens {
            // One that nobody wanted any more and somebody wants again is asked for anew.
            let wanted = self.channels.get_mut(channel);
            let Some(wanted) = wanted.filter(|wanted| wanted.standing == Standing::Asked) else { continue };
            match &question.error {
                None => (wanted.standing, wanted.promised) = (Standing::Heard, true),
                Some((code, words)) if single => {
                    wanted.standing = Standing::Refused(format!("{words} ({code})"));
                    (wanted.promised, wanted.listened) = (false, false);
                }
                Some(_) => {
                    wanted.standing = Standing::Unheard;
                    self.asking.alone.insert(channel.clone());
                    continue;
                }
            }
            self.asking.drop(channel);
        }
        self.arrive();
    }

    /// When to call [`Self::tick`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (answer, waiting) = match &self.line {
            Line::Asking(_, question) => (Some(question.since + ANSWER), question.waiting),
            Line::Quiet(_) | Line::Away => (None, None),
        };
        let caught_up = [waiting, self.waiting].into_iter().flatten().map(|since| since + CATCH_UP);
        let grace = self.aim.as_ref().and_then(Aim::until);
        answer.into_iter().chain(caught_up).chain(grace).min()
    }

    /// Time has passed: who waited too long does not wait any more. `false`: the backend owes an answer for too long and is
    /// to be left.
    pub fn tick(&mut self, now: Instant) -> bool {
        let late = |since: &Option<Instant>| since.is_some_and(|since| now >= since + CATCH_UP);
        let mut answers = true;
        if let Line::Asking(_, question) = &mut self.line {
            answers = now < question.since + ANSWER;
            if late(&question.waiting) {
                question.waiting = None;
                self.passed = self.passed.max(question.covers);
            }
        }
        if late(&self.waiting) {
            (self.passed, self.waiting) = (self.asked, None);
        }
        if let Some(aim) = self.aim.as_mut().filter(|aim| aim.is_open(now)) {
            aim.reached();
        }
        answers
    }
}

impl Line {
    const fn pod(&self) -> Option<&PodId> {
        match self {
            Self::Away => None,
            Self::Quiet(pod) | Self::Asking(pod, _) => Some(pod),
        }
    }
}

#[cfg(test)]
mod tests;
