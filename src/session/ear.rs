//! LISTEN without a backend of one's own: the sessions of one database share a backend that listens for all of them.
//!
//! ```text
//!   session ── Subscription ─┐                        ┌─ one task, while anybody wants a channel
//!   session ── Subscription ─┼─ Room ── continuity::ear ── line ── the primary's backend "pgmoor listen"
//!   session ── Subscription ─┘  (one per cluster, database and client encoding)
//! ```
//! A subscription gets what is notified on its channels from the moment it asks for them: what is committed after a channel
//! is *confirmed* is told, in the order in which the server tells it, once. When the primary changes the ear goes to the next
//! one; sessions that wait for [`Ears::ready`] before they go there miss nothing of what they notify afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::auth::Credentials;
use crate::backend::gate::Gates;
use crate::continuity::ear::{Channel, GRACE, Heard, ListenerId, Moment};
use crate::ids::{ClusterName, PodId};
use crate::metrics::{ListenerGauge, Metrics};
use crate::net::Dial;
use crate::shutdown::ShutdownWatch;

use super::Realm;

use mailbox::Mailbox;
use room::{Member, Room};

mod line;
mod login;
mod mailbox;
mod room;
mod tend;

/// A database of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    cluster: ClusterName,
    database: Arc<str>,
}

impl Home {
    /// The database of this name.
    pub fn new(cluster: &ClusterName, database: impl Into<Arc<str>>) -> Self {
        Self { cluster: cluster.clone(), database: database.into() }
    }
}

/// A session that wants to listen.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its database.
    pub database: String,
    /// Its role. The ear logs in as one of its listeners; LISTEN needs no right but that.
    pub user: String,
    /// What proves the role.
    pub credentials: Credentials,
    /// Its client encoding, as the server has reported it: notifications come in it.
    pub encoding: String,
    /// How long a login may take.
    pub timeout: Duration,
}

/// A channel is not listened to, and will not be: PostgreSQL's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard(pub String);

/// All the ears of this process. Clones share them.
#[derive(Clone)]
pub struct Ears {
    shared: Arc<Shared>,
}

/// What the rooms have in common.
struct Shared {
    rooms: Mutex<Rooms>,
    gates: Gates,
    dial: Dial,
    metrics: Arc<Metrics>,
    shutdown: ShutdownWatch,
    /// Counts what may have made an ear ready.
    progress: watch::Sender<u64>,
}

/// By database and client encoding. They live as long as their subscriptions and their task.
type Rooms = BTreeMap<Home, BTreeMap<String, Weak<Room>>>;

impl Ears {
    /// No ear yet. `gates` and `dial`: those of the sessions.
    pub fn new(gates: Gates, dial: Dial, metrics: Arc<Metrics>, shutdown: ShutdownWatch) -> Self {
        let progress = watch::Sender::new(0);
        Self { shared: Arc::new(Shared { rooms: Mutex::default(), gates, dial, metrics, shutdown, progress }) }
    }

    /// A subscription to nothing yet; what it wants is said with [`Subscription::add`]. Must be called within a tokio runtime,
    /// and so must its methods.
    pub fn subscribe(&self, realm: &Arc<Realm>, caller: Caller) -> Subscription {
        let home = Home::new(&realm.name, caller.database.as_str());
        let room = self.room(home, realm, &caller.encoding);
        let mailbox = Arc::new(Mailbox::default());
        let member = Member {
            mailbox: Arc::clone(&mailbox),
            user: caller.user,
            credentials: caller.credentials,
            timeout: caller.timeout,
        };
        let id = room.enter(member);
        let gauge = self.shared.metrics.listener(&realm.name);
        Subscription { room, id, mailbox, _gauge: gauge }
    }

    fn room(&self, home: Home, realm: &Arc<Realm>, encoding: &str) -> Arc<Room> {
        let mut rooms = self.shared.rooms.lock();
        let by_encoding = rooms.entry(home.clone()).or_default();
        if let Some(room) = by_encoding.get(encoding).and_then(Weak::upgrade) {
            return room;
        }
        let room = Arc::new(Room::new(Arc::clone(&self.shared), Arc::clone(realm), home, encoding.to_owned()));
        by_encoding.insert(encoding.to_owned(), Arc::downgrade(&room));
        room
    }

    /// Whether sessions of this database may go to this pod: nobody listens, or the ear there hears all that was promised; or
    /// it was waited for long enough.
    pub fn is_ready(&self, home: &Home, pod: &PodId) -> bool {
        // A room that goes takes the lock: none may go while it is held.
        let rooms: Vec<Arc<Room>> = {
            let rooms = self.shared.rooms.lock();
            rooms.get(home).into_iter().flatten().filter_map(|(_, room)| room.upgrade()).collect()
        };
        rooms.iter().all(|room| room.is_ready(pod))
    }

    /// Waits until [`Self::is_ready`], a bounded time. Cancel safe.
    pub fn ready(&self, home: &Home, pod: &PodId) -> impl Future<Output = ()> + Send + use<> {
        let (ears, home, pod) = (self.clone(), home.clone(), pod.clone());
        async move {
            let mut progress = ears.shared.progress.subscribe();
            let until = Instant::now() + GRACE;
            while !ears.is_ready(&home, &pod) {
                // It cannot end: the ears have the sender.
                if timeout_at(until, progress.changed()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl fmt::Debug for Ears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ears").field("rooms", &*self.shared.rooms.lock()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Something has changed that sessions may wait for.
    fn progressed(&self) {
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A room is gone; another of its name may be there already.
    fn forget(&self, home: &Home, encoding: &str) {
        let mut rooms = self.rooms.lock();
        let Some(by_encoding) = rooms.get_mut(home) else { return };
        if by_encoding.get(encoding).is_some_and(|room| room.strong_count() == 0) {
            by_encoding.remove(encoding);
        }
        if by_encoding.is_empty() {
            rooms.remove(home);
        }
    }
}

/// What one session listens to. Dropping it ends that.
pub struct Subscription {
    room: Arc<Room>,
    id: ListenerId,
    mailbox: Arc<Mailbox>,
    _gauge: ListenerGauge,
}

impl Subscription {
    /// Wants to hear of a channel, from now on.
    pub fn add(&self, channel: &Channel) {
        self.room.want(self.id, channel);
    }

    /// Does not want to any more: nothing of it is told after this.
    pub fn remove(&self, channel: &Channel) {
        self.room.unwant(self.id, channel, &self.mailbox);
    }

    /// Wants to hear of exactly these.
    pub fn set(&self, channels: impl IntoIterator<Item = Channel>) {
        self.room.set(self.id, channels.into_iter().collect(), &self.mailbox);
    }

    /// Ready when the server listens to this channel for us: everything that is committed from then on is told. Refused at
    /// once for a channel that was not added.
    ///
    /// # Errors
    /// PostgreSQL refuses to listen to it.
    pub fn poll_confirmed(&self, cx: &mut Context<'_>, channel: &Channel) -> Poll<Result<(), Unheard>> {
        self.room.poll_confirmed(cx, self.id, channel)
    }

    /// The same, awaited. Cancel safe.
    ///
    /// # Errors
    /// PostgreSQL refuses to listen to it.
    pub async fn confirmed(&self, channel: &Channel) -> Result<(), Unheard> {
        poll_fn(|cx| self.poll_confirmed(cx, channel)).await
    }

    /// The next that was heard, in the order in which the server told it. Nothing is lost when it is not polled to the end.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        let heard = self.mailbox.poll_take(cx);
        if let Poll::Ready(Heard::Notification(_)) = &heard {
            self.room.metrics().notified();
        }
        heard
    }

    /// The same, awaited. Cancel safe.
    pub async fn next(&self) -> Heard {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// This moment: [`Self::poll_passed`] says when everything that was committed before it has been heard.
    pub fn moment(&self) -> Moment {
        self.room.moment()
    }

    /// Ready when everything committed before `moment` can be taken with [`Self::poll_next`]: a round trip to the server. Also
    /// when there is no ear to wait for, or it was waited for long enough.
    pub fn poll_passed(&self, cx: &mut Context<'_>, moment: Moment) -> Poll<()> {
        self.room.poll_passed(cx, self.id, moment)
    }

    /// The same, awaited. Cancel safe.
    pub async fn passed(&self, moment: Moment) {
        poll_fn(|cx| self.poll_passed(cx, moment)).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.room.leave(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("room", &self.room).field("id", &self.id).finish_non_exhaustive()
    }
}
