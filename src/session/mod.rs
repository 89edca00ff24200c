//! One client: from the accepted socket to its last byte. What all sessions share stands here; [`life`] is the loop of one.

mod answer;
mod ask;
pub mod bell;
pub mod dice;
pub mod ear;
mod handshake;
pub mod identities;
mod join;
mod life;
mod packets;
pub mod people;
pub mod registry;
mod relay;
mod talk;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::backend;
use crate::backend::gate::Gates;
use crate::backend::pool::Pools;
use crate::config::{CommitGuard, Databases, Endpoint, Replay};
use crate::continuity::Settings;
use crate::continuity::plans::Seen;
use crate::error::{Code, Complaint};
use crate::ids::{ClusterName, PodId, PodName};
use crate::metrics::{Metrics, SessionGauge, SessionState};
use crate::net::tls::{BackendTls, TlsAcceptor};
use crate::net::{Dial, Stream};
use crate::shutdown::ShutdownWatch;
use crate::topology::evidence::Suspicion;
use crate::topology::routing::RoutingTable;
use crate::wire::CancelKey;

use bell::Bell;
use dice::Dice;
use ear::Ears;
use handshake::{Arrival, Client, Guest};
use identities::Identities;
use life::Life;
use people::People;
use registry::Registry;

/// How long the last word to a client may take to leave.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What every session of this process is given when it starts. A reload makes another for those that come later: clones
/// share the counts, the gates and the registry.
#[derive(Clone)]
pub struct Shared {
    /// The clusters, those that name their databases first.
    pub realms: Vec<Arc<Realm>>,
    /// Who may log in.
    pub people: Arc<People>,
    /// Who those are to PostgreSQL that have.
    pub identities: Arc<Identities>,
    /// TLS towards clients, if it is offered.
    pub acceptor: Option<TlsAcceptor>,
    /// Clients without TLS are refused.
    pub requires_tls: bool,
    /// Reads may go to the primary when no replica is fit.
    pub ro_falls_back: bool,
    /// How their machines wait, and the zone they prefer.
    pub settings: Arc<Settings>,
    /// Timeouts and limits.
    pub terms: Terms,
    /// Turns at logging in to a pod.
    pub gates: Gates,
    /// Backends that are open, and who is next.
    pub pools: Pools,
    /// What listens for sessions that have no backend of their own.
    pub ears: Ears,
    /// Texts without a name that were seen lately.
    pub seen: Arc<Seen>,
    /// How connections to pods are opened.
    pub dial: Dial,
    /// What falls by chance.
    pub dice: Dice,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// Places for connections that have not logged in.
    pub half_open: Arc<Semaphore>,
    /// Places for sessions.
    pub places: Arc<Semaphore>,
    /// Places for sessions that are held.
    pub held: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When to stop.
    pub shutdown: ShutdownWatch,
}

/// Timeouts and limits of a session.
#[derive(Clone, Debug)]
pub struct Terms {
    /// From accept to the end of the login.
    pub login: Duration,
    /// How long a request waits for a backend.
    pub hold: Duration,
    /// One join: TCP, TLS, login, restore.
    pub connect: Duration,
    /// How long a backend may take to say what its session has built up; `None`: it is not asked.
    pub ask: Option<Duration>,
    /// A session gives its backend back after each transaction.
    pub pools: bool,
    /// How old a backend may become, about.
    pub lifetime: Duration,
    /// Prepared statements a backend keeps at most.
    pub statements: usize,
    /// Whether and how a lost transaction is run again.
    pub replay: Option<Replay>,
    /// Ask before every COMMIT for what tells its outcome.
    pub guard: CommitGuard,
    /// One protocol message, in bytes.
    pub message_size: usize,
    /// What is remembered of one session, in bytes.
    pub session_state: usize,
}

/// Takes a doubt about a pod.
pub type Doubt = Arc<dyn Fn(&PodId, Suspicion) + Send + Sync>;

/// One cluster, as a session sees it.
#[derive(Clone)]
pub struct Realm {
    /// Its name.
    pub name: ClusterName,
    /// The databases it serves.
    pub databases: Databases,
    /// The only users let in; `None`: all.
    pub users: Option<BTreeSet<String>>,
    /// Who is where, now.
    pub routes: watch::Receiver<Arc<RoutingTable>>,
    /// Rung when that is news, or the process goes on to its next phase.
    pub bell: Arc<Bell>,
    /// Where a session says that a pod is not what it should be. Never waits.
    pub doubt: Doubt,
    /// TLS towards a pod.
    pub tls: Arc<dyn Fn(&PodName) -> BackendTls + Send + Sync>,
}

impl Realm {
    fn admits(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    /// The cluster of a database: one that names it goes before one that takes all.
    fn realm(&self, database: &str) -> Option<Arc<Realm>> {
        let names = |realm: &&Arc<Realm>| match &realm.databases {
            Databases::Named(names) => names.contains(database),
            Databases::Every => false,
        };
        let named = self.realms.iter().find(names);
        named.or_else(|| self.realms.iter().find(|realm| realm.databases == Databases::Every)).cloned()
    }
}

/// Serves one accepted connection to its end. `peer`: where it comes from, as far as that is known.
pub fn serve(
    shared: Arc<Shared>,
    stream: Stream,
    peer: Option<SocketAddr>,
    endpoint: Endpoint,
) -> impl Future<Output = ()> + Send {
    // What leads to a session is no part of it: a box that is gone when the session begins.
    let arriving = Box::pin(arrive(shared, stream, peer, endpoint));
    async move {
        if let Some(life) = arriving.await {
            life.run().await;
        }
    }
}

/// From an accepted connection to a session; `None`: it comes to none, and everybody was told.
async fn arrive(
    shared: Arc<Shared>,
    stream: Stream,
    peer: Option<SocketAddr>,
    endpoint: Endpoint,
) -> Option<Box<Life>> {
    let mut guest = Guest::new(stream);
    shared.metrics.connected(endpoint);
    let Ok(half_open) = Arc::clone(&shared.half_open).try_acquire_owned() else {
        let complaint = Complaint::with(Code::TooManySessions, "too many connections have not logged in yet");
        Box::pin(turn_away(&shared, guest, peer, complaint)).await;
        return None;
    };
    let gauge = shared.metrics.session(endpoint, SessionState::Login);
    let arrival = timeout(shared.terms.login, guest.shake(&shared, endpoint)).await;
    match arrival.unwrap_or_else(|_| Err(Complaint::new(Code::StartupTimeout))) {
        Ok(Arrival::Gone) => None,
        Ok(Arrival::Cancel(key)) => {
            Box::pin(cancel(&shared, &key)).await;
            None
        }
        Ok(Arrival::Client(client)) => {
            drop(half_open);
            let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
                let complaint = Complaint::new(Code::TooManySessions);
                Box::pin(turn_away(&shared, Guest::new(client.stream), peer, complaint)).await;
                return None;
            };
            Some(begin(shared, client, gauge, place))
        }
        Err(complaint) => {
            Box::pin(turn_away(&shared, guest, peer, complaint)).await;
            None
        }
    }
}

fn begin(shared: Arc<Shared>, client: Client, gauge: SessionGauge, permit: OwnedSemaphorePermit) -> Box<Life> {
    let place = shared.registry.enter(&client.realm.name, client.long_key);
    Box::new(Life::new(shared, client, place, gauge, permit))
}

async fn turn_away(shared: &Shared, guest: Guest, peer: Option<SocketAddr>, complaint: Complaint) {
    shared.metrics.error(complaint.code);
    if complaint.code == Code::AuthFailed {
        shared.metrics.auth_failed();
    }
    if complaint.code == Code::TooManySessions {
        debug!(?peer, %complaint, "client refused"); // a flood of them is counted, not written down
    } else {
        info!(?peer, %complaint, "client refused");
    }
    // A client that does not read its last word is left.
    let _ = timeout(LAST_WORD, guest.turn_away(complaint)).await;
}

/// Forwards a cancel request to the backend its session holds now; a request that fits nobody is dropped, as PostgreSQL does.
async fn cancel(shared: &Shared, key: &CancelKey) {
    let Some(berth) = shared.registry.berth(key) else {
        shared.metrics.cancelled("unknown");
        return;
    };
    let Some(key) = &berth.key else {
        shared.metrics.cancelled("no_key");
        return;
    };
    let deadline = Instant::now() + shared.terms.connect;
    let outcome = match backend::cancel(&berth.target, key, deadline).await {
        Ok(()) => "forwarded",
        Err(error) => {
            debug!(%error, pod = %berth.target.pod, "cancel request not delivered");
            "failed"
        }
    };
    shared.metrics.cancelled(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future of such a function.
    fn size<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_session_holds_only_what_an_idle_one_needs() {
        assert!(size(serve) <= 64, "{} bytes; what is not always needed can be boxed", size(serve));
    }
}
