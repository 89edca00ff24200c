//! Getting the ear a backend: before the sessions at the pod's gate, as one of its listeners.

use std::sync::Arc;

use tokio::time::Instant;

use crate::backend::gate::Gates;
use crate::backend::{self, ConnectError, Login, Target};
use crate::topology::evidence::Suspicion;

use super::line::Line;
use super::room::Candidate;

/// What `pg_stat_activity` shows.
const APPLICATION: &str = "pgmoor listen";

/// It is idle by profession: a server that ends idle sessions is told to leave it. Not every version has the setting.
const STAY: &str =
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'";

/// One login, with everything it needs: it borrows nothing, so it may be dropped at any point.
pub(super) struct Order {
    pub(super) target: Target,
    pub(super) database: Arc<str>,
    /// Of the clients that are listened for.
    pub(super) encoding: String,
    pub(super) candidate: Candidate,
    pub(super) gates: Gates,
}

/// Why there is no backend.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try may help; this is what it says about the pod.
    Later(Suspicion, String),
    /// Not with the login of this user.
    Refused { user: String, words: String },
    /// What answers is not a PostgreSQL to log in to.
    Odd(String),
}

/// Logs in. Gives the line and whose login it has.
pub(super) async fn log_in(order: Order) -> Result<(Line, String), Failure> {
    let Order { target, database, encoding, candidate, gates } = order;
    let permit = gates.enter_first(&target.pod).await;
    let deadline = Instant::now() + candidate.timeout;
    let parameters = [("application_name", APPLICATION), ("client_encoding", &encoding)];
    let parameters: Vec<(String, String)> = parameters
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let login = Login {
        user: &candidate.user,
        database: &database,
        parameters: &parameters,
        credentials: &candidate.credentials,
    };
    let mut backend = match backend::connect(&target, &login, deadline).await {
        Ok(backend) => backend,
        Err(error) => {
            let failure = failure(error, candidate.user);
            if let Failure::Later(..) = failure {
                permit.failed();
            }
            return Err(failure);
        }
    };
    if backend.parameters.get("in_hot_standby").is_some_and(|value| value == "on") {
        permit.failed();
        return Err(Failure::Later(Suspicion::ReadOnly, format!("{} is in recovery", target.pod)));
    }
    if let Err(error) = backend.simple_query(STAY, deadline).await {
        permit.failed();
        return Err(Failure::Later(Suspicion::Vanished, format!("after the login: {error}")));
    }
    permit.succeeded();
    Ok((Line::new(backend), candidate.user))
}

fn failure(error: ConnectError, user: String) -> Failure {
    let words = error.to_string();
    match error {
        ConnectError::Unreachable(_) | ConnectError::TimedOut => Failure::Later(Suspicion::ConnectFailed, words),
        // Too many connections, perhaps of this role only.
        ConnectError::NotAccepting(said) if said.code.starts_with("53") => Failure::Refused { user, words },
        ConnectError::NotAccepting(_) => Failure::Later(Suspicion::ShuttingDown, words),
        ConnectError::Refused(_) | ConnectError::Auth(_) => Failure::Refused { user, words },
        ConnectError::Tls(_) | ConnectError::Protocol(_) => Failure::Odd(words),
    }
}
