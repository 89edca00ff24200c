//! Getting a session a backend: its turn at the pod's gate, the login, what became of a COMMIT in doubt, and the way back to the
//! session's state, in one go.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::backend::gate::{Gates, Permit};
use crate::backend::pool::{Grant, Papers, Parked, Slot, Way};
use crate::backend::{self, Backend, Berth, ConnectError, Identity, Target};
use crate::continuity::commit::{Mark, Verdict};
use crate::continuity::inquest::{Inquest, Step};
use crate::continuity::restore::{Progress, Restore};
use crate::continuity::state::State;
use crate::error::{Code, Complaint};
use crate::ids::PodName;
use crate::metrics::{JoinStep, Metrics};
use crate::topology::evidence::Suspicion;
use crate::topology::routing::RoutingTable;
use crate::wire::TxStatus;

use super::ear::{Ears, Home};
use super::talk::{Broken, Talk};

/// From one question about a COMMIT's outcome to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// One join, with everything it needs: it borrows nothing, so it may be dropped at any point.
pub(super) struct Order {
    pub(super) target: Target,
    pub(super) identity: Arc<Identity>,
    /// The state to bring it to.
    pub(super) state: State,
    /// Inside a transaction that has failed.
    pub(super) aborted: bool,
    /// It listens on its backend, and not elsewhere.
    pub(super) listens: bool,
    /// What listens for others goes to a new primary before them.
    pub(super) ears: Option<(Ears, Home)>,
    /// How old a backend may become.
    pub(super) lifetime: Duration,
    pub(super) gates: Gates,
    pub(super) metrics: Arc<Metrics>,
    pub(super) timeout: Duration,
    /// The session will write: a server in recovery is the wrong one.
    pub(super) writes: bool,
    /// A COMMIT whose answer was lost.
    pub(super) case: Option<Case>,
}

/// A COMMIT in doubt.
pub(super) struct Case {
    /// What was known before it.
    pub(super) mark: Mark,
    /// The session's state if it took effect.
    pub(super) committed: State,
    /// Where the timelines' history comes from.
    pub(super) routes: watch::Receiver<Arc<RoutingTable>>,
    /// Of the primary that ran the COMMIT: see [`RoutingTable::tenure`].
    pub(super) tenure: u64,
    /// When what is not known then is called unknown.
    pub(super) until: Instant,
}

/// A backend in the session's state.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) backend: Box<Parked>,
    pub(super) slot: Slot,
    /// Bytes for the client that came while restoring, or after.
    pub(super) received: BytesMut,
    pub(super) status: TxStatus,
    /// What became of the COMMIT in doubt.
    pub(super) verdict: Option<Verdict>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum JoinError {
    /// Another try, perhaps elsewhere, may help.
    Later(Suspicion, String),
    /// PostgreSQL said no, in these words: an ErrorResponse's body.
    Refused(Bytes),
    /// The session cannot go on.
    No(Complaint),
}

/// Joins one backend: an idle one, or a new one.
pub(super) async fn join(order: Order, grant: Grant) -> Result<Joined, JoinError> {
    match grant {
        Grant::Backend(parked, slot) => {
            let Parked { stream, papers } = *parked;
            let talk = Talk::new(stream, BytesMut::new(), Arc::clone(&papers.parameters));
            bring(order, talk, papers, slot, None).await
        }
        Grant::Room(slot) => open(order, slot).await,
    }
}

/// Logs a new backend in.
async fn open(order: Order, slot: Slot) -> Result<Joined, JoinError> {
    if let Some((ears, home)) = &order.ears {
        ears.ready(home, &order.target.pod).await;
    }
    let permit = order.gates.enter(&order.target.pod).await;
    let began = Instant::now();
    let backend = match backend::connect(&order.target, &order.identity.login(), began + order.timeout).await {
        Ok(backend) => backend,
        Err(error) => {
            if error.is_transient() {
                permit.failed();
            }
            return Err(refusal(error));
        }
    };
    order.metrics.joined(JoinStep::Login, began.elapsed());
    let standby = backend.parameters.get("in_hot_standby").is_some_and(|value| value == "on");
    if standby && order.writes {
        permit.failed();
        return Err(JoinError::Later(Suspicion::ReadOnly, format!("{} is in recovery", order.target.pod)));
    }
    slot.remember(Way { identity: Arc::clone(&order.identity), target: order.target.clone() });
    let Backend { stream, parameters, key, received, .. } = backend;
    let parameters = Arc::new(parameters);
    let talk = Talk::new(stream, received, Arc::clone(&parameters));
    let berth = Berth::new(order.target.clone(), key);
    let flavour = Arc::clone(&order.identity.flavour);
    let papers = Papers::fresh(berth, flavour, parameters, began + order.lifetime);
    bring(order, talk, papers, slot, Some(permit)).await
}

/// Brings a backend to the session's state.
async fn bring(
    order: Order,
    mut talk: Talk,
    mut papers: Papers,
    slot: Slot,
    mut permit: Option<Permit>,
) -> Result<Joined, JoinError> {
    let mut verdict = None;
    let mut state = order.state;
    if let Some(mut case) = order.case {
        // It may take as long as a standby: others need not wait for that at the gate.
        permit.take().into_iter().for_each(Permit::succeeded);
        let found = settle(&mut talk, &mut case, &order.target.pod.name).await?;
        if found == Verdict::Committed {
            state = case.committed;
        }
        verdict = Some(found);
    }
    let way = Restore::between(&papers.setup, &state, order.aborted, order.listens);
    let began = Instant::now();
    let restored = timeout_at(began + order.timeout, restore(&mut talk, way)).await;
    let restored = restored.unwrap_or_else(|_| Err(while_talking("restoring", Broken::Late)));
    let end = if matches!(restored, Err(JoinError::Later(..))) { Permit::failed } else { Permit::succeeded };
    permit.into_iter().for_each(end);
    let status = restored?;
    order.metrics.joined(JoinStep::Restore, began.elapsed());
    let (stream, received, parameters) = talk.end();
    papers.parameters = parameters;
    papers.unnamed = None; // a simple query ends it
    papers.setup.settle(&state);
    let backend = Box::new(Parked { stream, papers });
    Ok(Joined { backend, slot, received, status, verdict })
}

fn refusal(error: ConnectError) -> JoinError {
    let words = error.to_string();
    match error {
        ConnectError::Unreachable(_) | ConnectError::TimedOut => JoinError::Later(Suspicion::ConnectFailed, words),
        ConnectError::NotAccepting(_) => JoinError::Later(Suspicion::ShuttingDown, words),
        ConnectError::Refused(server) => JoinError::Refused(server.body),
        ConnectError::Tls(_) | ConnectError::Auth(_) | ConnectError::Protocol(_) => {
            JoinError::No(Complaint::with(Code::BackendRefused, words).fatal())
        }
    }
}

/// The way back to the session's state.
async fn restore(talk: &mut Talk, mut restore: Restore) -> Result<TxStatus, JoinError> {
    if restore.is_empty() {
        return Ok(TxStatus::Idle);
    }
    let broken = |error: Broken| while_talking("restoring", error);
    talk.say(restore.packet()).await.map_err(broken)?;
    loop {
        let (tag, body) = talk.hear().await.map_err(broken)?;
        if let Progress::Done(status) = restore.reply(tag, &body).map_err(not_portable)? {
            return Ok(status);
        }
    }
}

/// What became of a COMMIT whose answer was lost.
async fn settle(talk: &mut Talk, case: &mut Case, pod: &PodName) -> Result<Verdict, JoinError> {
    let broken = |error: Broken| while_talking("asking for a COMMIT's outcome", error);
    // Only its direct successor's word is good: another in between may have been the same server again, after a crash.
    let resumed = case.routes.borrow().tenure != case.tenure + 1;
    let mut inquest = Inquest::new(case.mark.clone(), pod.clone(), resumed);
    loop {
        talk.say(&inquest.packet()).await.map_err(broken)?;
        let history = case.routes.borrow_and_update().history.clone();
        let step = loop {
            let (tag, body) = talk.hear().await.map_err(broken)?;
            let step = inquest.reply(tag, &body, history.as_deref());
            if step != Step::More {
                break step;
            }
        };
        match step {
            Step::More | Step::Next => {}
            Step::Done(verdict) => return Ok(verdict),
            Step::Again(verdict) if Instant::now() >= case.until => return Ok(verdict),
            Step::Again(_) => {
                // Sooner, when another table brings the history; a watch that has ended is as good as a pause.
                let _ = timeout_at(Instant::now() + PAUSE, case.routes.changed()).await;
            }
        }
    }
}

fn while_talking(what: &str, error: Broken) -> JoinError {
    JoinError::Later(Suspicion::Vanished, format!("while {what}: {error}"))
}

fn not_portable(what: String) -> JoinError {
    JoinError::No(Complaint::with(Code::Pinned, what).fatal())
}
