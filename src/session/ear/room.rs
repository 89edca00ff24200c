//! One ear and those it listens for: the machine behind a lock, who is woken when it has moved, and the task it has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::auth::Credentials;
use crate::continuity::ear::{Channel, Ear, Garbage, ListenerId, Moment, Notification, Said, Standing};
use crate::ids::PodId;
use crate::metrics::Metrics;
use crate::session::Realm;
use crate::topology::evidence::Suspicion;
use crate::wire::backend;

use super::mailbox::Mailbox;
use super::tend::tend;
use super::{Home, Shared, Unheard};

/// The lock is held for moments and never over an await. A mailbox's own lock is taken within it, never the other way round.
pub(super) struct Room {
    pub(super) shared: Arc<Shared>,
    pub(super) realm: Arc<Realm>,
    pub(super) home: Home,
    pub(super) encoding: String,
    state: Mutex<State>,
    /// There is something to ask the backend.
    pub(super) news: Notify,
}

#[derive(Default)]
struct State {
    ear: Ear,
    members: BTreeMap<ListenerId, Member>,
    /// Who waits for the machine to move.
    waiting: BTreeMap<ListenerId, Waker>,
    /// A task tends the ear.
    tended: bool,
}

/// One listener.
pub(super) struct Member {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) user: String,
    pub(super) credentials: Credentials,
    pub(super) timeout: Duration,
}

/// A listener's login, to be tried.
pub(super) struct Candidate {
    pub(super) user: String,
    pub(super) credentials: Credentials,
    pub(super) timeout: Duration,
}

/// Why a backend is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ends, or said what makes it doubtful.
    Over(Suspicion),
    /// It does not speak the protocol.
    Garbage,
}

impl Room {
    pub(super) fn new(shared: Arc<Shared>, realm: Arc<Realm>, home: Home, encoding: String) -> Self {
        Self { shared, realm, home, encoding, state: Mutex::default(), news: Notify::new() }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(super) fn enter(&self, member: Member) -> ListenerId {
        let mut state = self.state.lock();
        let id = state.ear.enter(&member.user);
        state.members.insert(id, member);
        id
    }

    pub(super) fn leave(&self, id: ListenerId) {
        let mut state = self.state.lock();
        state.members.remove(&id);
        state.waiting.remove(&id);
        state.ear.leave(id);
        drop(state);
        self.changed();
    }

    pub(super) fn want(self: &Arc<Self>, id: ListenerId, channel: &Channel) {
        let mut state = self.state.lock();
        if state.ear.want(id, channel) {
            self.see_to(&mut state);
        }
    }

    pub(super) fn unwant(&self, id: ListenerId, channel: &Channel, mailbox: &Mailbox) {
        let mut state = self.state.lock();
        if state.ear.unwant(id, channel) {
            mailbox.forget(channel);
            drop(state);
            self.changed();
        }
    }

    pub(super) fn set(self: &Arc<Self>, id: ListenerId, channels: BTreeSet<Channel>, mailbox: &Mailbox) {
        let mut state = self.state.lock();
        let before: BTreeSet<Channel> = state.ear.channels_of(id).cloned().collect();
        for channel in before.difference(&channels) {
            state.ear.unwant(id, channel);
            mailbox.forget(channel);
        }
        let more = channels.difference(&before).filter(|channel| state.ear.want(id, channel)).count();
        if more > 0 {
            self.see_to(&mut state);
        }
        drop(state);
        self.changed();
    }

    /// Something is wanted: there is a task that sees to it.
    fn see_to(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.tended, true) {
            tokio::spawn(tend(Arc::clone(self)));
        }
        self.news.notify_one();
    }

    /// Less is wanted.
    fn changed(&self) {
        self.news.notify_one();
        self.shared.progressed();
    }

    /// The task may end: nobody wants anything. From here on another may be started.
    pub(super) fn is_done(&self) -> bool {
        let mut state = self.state.lock();
        let done = !state.ear.is_wanted();
        if done {
            state.tended = false;
            self.part(&mut state);
        }
        done
    }

    /// The process stops.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        self.part(&mut state);
        state.tended = false;
    }

    fn part(&self, state: &mut State) {
        state.ear.unseated(Instant::now().into_std());
        self.moved(state);
    }

    /// The machine has moved: who waits looks again.
    fn moved(&self, state: &mut State) {
        std::mem::take(&mut state.waiting).into_values().for_each(Waker::wake);
        self.shared.progressed();
    }

    pub(super) fn is_ready(&self, pod: &PodId) -> bool {
        self.state.lock().ear.is_ready(pod, Instant::now().into_std())
    }

    pub(super) fn poll_confirmed(
        &self,
        cx: &Context<'_>,
        id: ListenerId,
        channel: &Channel,
    ) -> Poll<Result<(), Unheard>> {
        let mut state = self.state.lock();
        match state.ear.standing(id, channel) {
            Some(Standing::Heard) => return Poll::Ready(Ok(())),
            Some(Standing::Refused(words)) => return Poll::Ready(Err(Unheard(words.clone()))),
            Some(Standing::Unheard | Standing::Asked) => {}
            None => return Poll::Ready(Err(Unheard("not subscribed".to_owned()))),
        }
        state.waiting.insert(id, cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn moment(&self) -> Moment {
        let moment = self.state.lock().ear.moment(Instant::now().into_std());
        self.news.notify_one();
        moment
    }

    pub(super) fn poll_passed(&self, cx: &Context<'_>, id: ListenerId, moment: Moment) -> Poll<()> {
        let mut state = self.state.lock();
        if state.ear.has_passed(moment) {
            return Poll::Ready(());
        }
        state.waiting.insert(id, cx.waker().clone());
        Poll::Pending
    }

    /// Where the routes lead now.
    pub(super) fn aim(&self, pod: Option<PodId>) {
        self.state.lock().ear.aim(Instant::now().into_std(), pod);
        self.shared.progressed();
    }

    /// Whose login to try.
    pub(super) fn candidate(&self) -> Option<Candidate> {
        let mut state = self.state.lock();
        let id = state.ear.login()?;
        let Member { user, credentials, timeout, .. } = state.members.get(&id)?;
        Some(Candidate { user: user.clone(), credentials: credentials.clone(), timeout: *timeout })
    }

    /// Says whether others are left to be tried.
    pub(super) fn login_refused(&self, user: &str) -> bool {
        self.state.lock().ear.login_refused(user)
    }

    pub(super) fn seated(&self, pod: PodId, user: &str) {
        let mut state = self.state.lock();
        state.ear.seated(pod, user);
        self.moved(&mut state);
    }

    /// There is no backend any more.
    pub(super) fn unseated(&self) {
        self.part(&mut self.state.lock());
    }

    /// What to ask the backend now.
    pub(super) fn packet(&self) -> Option<BytesMut> {
        self.state.lock().ear.packet(Instant::now().into_std())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.state.lock().ear.poll_timeout().map(Instant::from_std)
    }

    /// `false`: the backend owes an answer for too long.
    pub(super) fn tick(&self) -> bool {
        let mut state = self.state.lock();
        let answers = state.ear.tick(Instant::now().into_std());
        self.moved(&mut state);
        answers
    }

    /// Takes the frames that `next` gives, as far as they go.
    pub(super) fn hear<'a>(
        &self,
        mut next: impl FnMut() -> Result<Option<(u8, &'a [u8])>, Fault>,
    ) -> Result<(), Fault> {
        let mut state = self.state.lock();
        while let Some((tag, body)) = next()? {
            self.take(&mut state, tag, body)?;
        }
        Ok(())
    }

    fn take(&self, state: &mut State, tag: u8, body: &[u8]) -> Result<(), Fault> {
        let after = state.ear.passed();
        let listeners = match state.ear.reply(tag, body) {
            Ok(Said::Nothing) => return Ok(()),
            Ok(Said::Answered) => {
                self.moved(state);
                return Ok(());
            }
            Ok(Said::Over(suspicion)) => return Err(Fault::Over(suspicion)),
            Ok(Said::Notified(listeners)) => listeners,
            Err(Garbage) => return Err(Fault::Garbage),
        };
        debug_assert_eq!(tag, backend::NOTIFICATION_RESPONSE);
        // One copy for all of them.
        let notification = Notification::read(body, after).map_err(|_| Fault::Garbage)?;
        let overrun: Vec<ListenerId> = listeners
            .iter()
            .filter(|id| state.members.get(id).is_some_and(|member| member.mailbox.push(notification.clone()).is_err()))
            .copied()
            .collect();
        for id in overrun {
            self.metrics().overrun();
            state.ear.leave(id);
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.forget(&self.home, &self.encoding);
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("home", &self.home).field("encoding", &self.encoding).finish_non_exhaustive()
    }
}
