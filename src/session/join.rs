//! Getting a session a backend: its turn at the pod's gate, the login, and the way back to its state, in one go.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::auth::Credentials;
use crate::backend::gate::Gates;
use crate::backend::{self, Backend, ConnectError, Login, Target};
use crate::continuity::restore::{Progress, Restore};
use crate::error::{Code, Complaint};
use crate::metrics::{JoinStep, Metrics};
use crate::net::Stream;
use crate::topology::evidence::Suspicion;
use crate::wire::message::ParameterStatus;
use crate::wire::scan::{Interest, Scanner, Step};
use crate::wire::{CancelKey, TxStatus, backend as tag};

/// Bytes a backend may send while its state is restored; more is not an answer to what was asked.
const MOST: usize = 4 << 20;

/// Who a session is to PostgreSQL: the same on every backend it ever holds.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) database: String,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) credentials: Credentials,
}

/// One join, with everything it needs: it borrows nothing, so it may be dropped at any point.
pub(super) struct Order {
    pub(super) target: Target,
    pub(super) identity: Arc<Identity>,
    pub(super) restore: Restore,
    pub(super) gates: Gates,
    pub(super) metrics: Arc<Metrics>,
    pub(super) timeout: std::time::Duration,
    /// The session will write: a server in recovery is the wrong one.
    pub(super) writes: bool,
}

/// A backend in the session's state.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) target: Target,
    pub(super) stream: Stream,
    /// Bytes for the client that came while restoring, or after.
    pub(super) received: BytesMut,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) key: Option<CancelKey>,
    pub(super) status: TxStatus,
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

/// Joins one backend.
pub(super) async fn join(order: Order) -> Result<Joined, JoinError> {
    let permit = order.gates.enter(&order.target.pod).await;
    let began = Instant::now();
    let deadline = began + order.timeout;
    let identity = &order.identity;
    let login = Login {
        user: &identity.user,
        database: &identity.database,
        parameters: &identity.parameters,
        credentials: &identity.credentials,
    };
    let backend = match backend::connect(&order.target, &login, deadline).await {
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
    let began = Instant::now();
    let joined = restored(order.target, backend, order.restore, deadline).await;
    if joined.is_ok() {
        permit.succeeded();
        order.metrics.joined(JoinStep::Restore, began.elapsed());
    }
    joined
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

async fn restored(
    target: Target,
    backend: Backend,
    mut restore: Restore,
    deadline: Instant,
) -> Result<Joined, JoinError> {
    let Backend { mut stream, mut parameters, key, received, .. } = backend;
    let joined = |stream, received, parameters, status| Joined {
        target: target.clone(),
        stream,
        received,
        parameters,
        key: key.clone(),
        status,
    };
    if restore.is_empty() {
        return Ok(joined(stream, received, parameters, TxStatus::Idle));
    }
    let broken =
        |error: &dyn std::fmt::Display| JoinError::Later(Suspicion::Vanished, format!("while restoring: {error}"));
    let conversation = async {
        stream.write_all(restore.packet()).await.map_err(|error| broken(&error))?;
        stream.flush().await.map_err(|error| broken(&error))?;
        let mut unread = received;
        let mut kept = BytesMut::new();
        let mut scanner = Scanner::new(EVERYTHING, MOST as u32);
        loop {
            let (count, progress) = match scanner.step(&unread, false).map_err(|error| broken(&error))? {
                Step::Frame { tag, body } => {
                    let progress = restore.reply(tag, body).map_err(not_portable)?;
                    match tag {
                        tag::PARAMETER_STATUS => note(&mut parameters, body),
                        tag::NOTIFICATION_RESPONSE => {
                            kept.extend_from_slice(&unread[..crate::wire::HEADER_LEN + body.len()])
                        }
                        _ => {}
                    }
                    (crate::wire::HEADER_LEN + body.len(), progress)
                }
                Step::Pass(count) => (count, Progress::More),
                Step::Wait | Step::Head { .. } | Step::Part { .. } => {
                    if unread.len() > MOST {
                        return Err(broken(&"too long an answer"));
                    }
                    if stream.read_buf(&mut unread).await.map_err(|error| broken(&error))? == 0 {
                        return Err(broken(&"the connection ended"));
                    }
                    continue;
                }
            };
            let _ = unread.split_to(count);
            if let Progress::Done(status) = progress {
                kept.extend_from_slice(&unread);
                return Ok((kept, status));
            }
        }
    };
    let (received, status) = timeout_at(deadline, conversation).await.map_err(|_| broken(&"no answer in time"))??;
    Ok(joined(stream, received, parameters, status))
}

/// Every tag: while restoring each frame is looked at.
const EVERYTHING: Interest = {
    let mut tags = [0_u8; 255];
    let mut at = 0;
    while at < tags.len() {
        tags[at] = at as u8 + 1;
        at += 1;
    }
    Interest::NONE.with(&tags)
};

fn note(parameters: &mut BTreeMap<String, String>, body: &[u8]) {
    if let Ok(status) = ParameterStatus::read(body) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        parameters.insert(text(status.name), text(status.value));
    }
}

fn not_portable(what: String) -> JoinError {
    JoinError::No(Complaint::with(Code::Pinned, what).fatal())
}
