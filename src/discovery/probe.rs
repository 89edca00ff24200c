//! What one pod's own PostgreSQL says it is: one question over a connection that is kept, with a deadline of its own.
//! A primary on a timeline that is new is asked for its history as well, in the same turn.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::past::{self, Lack, Past, Skip};
use crate::auth::Credentials;
use crate::backend::{self, Backend, ConnectError, Login, QueryError, Rows, Target};
use crate::config;
use crate::ids::{Lsn, SystemId, Timeline};
use crate::topology::evidence::{ProbeFailure, ProbeReport};

/// A kept connection is renewed after this long: a postmaster that takes no logins any more can go on serving an old one.
const LIFETIME: Duration = Duration::from_secs(60);

/// The question. It is asked of primaries and standbys alike and must fail on neither, also not while a standby promotes.
///
/// - The role is read once, by a volatile function in a CTE (so never inlined), and everything else depends on it.
///   A promotion in the middle leaves an answer that was true when the question came.
/// - A primary's timeline is the first eight digits of its current WAL file's name. The control file's would lag until
///   the checkpoint after a promotion.
/// - A standby's is what its receiver got, but at least the control file's. Without pg_monitor the receiver's
///   columns are null; then the control file's is a lower bound.
/// - A standby lags by nothing when it replayed all it received and its receiver is at work; `status` is null without
///   pg_monitor, and a row there means a receiver process. Otherwise it lags by the age of its last replayed commit,
///   which is null when there was none yet.
const QUESTION: &str = "\
WITH me AS (SELECT pg_catalog.pg_is_in_recovery() AS standby), \
receiver AS (SELECT received_tli, status FROM pg_catalog.pg_stat_wal_receiver LIMIT 1) \
SELECT me.standby, \
(SELECT system_identifier FROM pg_catalog.pg_control_system()), \
CASE WHEN me.standby THEN NULL \
ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
CASE WHEN me.standby THEN GREATEST((SELECT received_tli FROM receiver), \
(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())) END, \
CASE WHEN me.standby THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
CASE WHEN NOT me.standby THEN NULL \
WHEN pg_catalog.pg_last_wal_replay_lsn() >= pg_catalog.pg_last_wal_receive_lsn() \
AND EXISTS (SELECT 1 FROM receiver WHERE COALESCE(status, 'streaming') = 'streaming') THEN 0 \
ELSE GREATEST(0, pg_catalog.date_part('epoch', \
pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())) END \
FROM me";

/// Who asks, and for how long.
#[derive(Debug)]
pub(super) struct Asker {
    user: String,
    database: String,
    credentials: Credentials,
    parameters: Vec<(String, String)>,
    timeout: Duration,
}

/// A connection kept between two questions to the same incarnation at the same address.
#[derive(Debug)]
pub(super) struct Kept {
    backend: Backend,
    address: SocketAddr,
    since: Instant,
}

impl Kept {
    /// It leads to where this pod is now.
    pub(super) fn leads_to(&self, address: SocketAddr) -> bool {
        self.address == address
    }

    /// The next question is asked over a new connection, if one can be had.
    pub(super) fn distrust(&mut self) {
        self.since = self.since.checked_sub(LIFETIME).unwrap_or(self.since);
    }

    /// Asks for the history of the timeline it writes. Whatever comes of it, the answer before stands.
    async fn past(self, timeline: Timeline, deadline: Instant) -> (Past, Option<Self>) {
        let Self { backend, address, since } = self;
        let (past, backend) = past::read(backend, timeline, deadline).await;
        (past, backend.map(|backend| Self { backend, address, since }))
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < LIFETIME
    }
}

/// How one question ended.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Result<ProbeReport, ProbeFailure>,
    /// Why, for the log; PostgreSQL's own words where there are any.
    pub(super) why: Option<String>,
    /// Where the timeline comes from that it writes.
    pub(super) past: Past,
    /// For the next question.
    pub(super) kept: Option<Kept>,
}

impl Answer {
    fn failed(failure: ProbeFailure, why: impl ToString) -> Self {
        Self { outcome: Err(failure), why: Some(why.to_string()), past: Past::NotAsked, kept: None }
    }
}

impl Asker {
    /// Asks as the configuration says.
    pub(super) fn new(probe: &config::Probe) -> Self {
        let setting = |name: &str, value: String| (name.to_owned(), value);
        Self {
            user: probe.user.clone(),
            database: probe.database.clone(),
            credentials: probe.password.as_ref().map_or(Credentials::None, |password| {
                Credentials::Password(crate::auth::Password::new(password.reveal()))
            }),
            // The server gives the question up as well: a client that is gone does not stop it.
            parameters: vec![
                setting("application_name", "pgmoor probe".to_owned()),
                // Operators have no qualified names in the question; a role's own search_path must not bend them.
                setting("search_path", "pg_catalog".to_owned()),
                setting("statement_timeout", probe.timeout.as_millis().max(1).to_string()),
            ],
            timeout: probe.timeout,
        }
    }

    /// Asks once. Cancel safe: dropped, it closes its connection.
    pub(super) async fn ask(&self, target: &Target, kept: Option<Kept>, skip: Skip) -> Answer {
        let deadline = Instant::now() + self.timeout;
        let answer = self.role(target, kept, deadline).await;
        match answer {
            Answer { outcome: Ok(report), why, past: Past::NotAsked, kept: Some(kept) } => {
                let (past, kept) = match skip.wanted(&report) {
                    Some(timeline) => kept.past(timeline, deadline).await,
                    None => (Past::NotAsked, Some(kept)),
                };
                Answer { outcome: Ok(report), why, past, kept }
            }
            answer => answer,
        }
    }

    /// Why a history could not be read, and what to do about it.
    pub(super) fn advice(&self, lack: &Lack) -> String {
        lack.advice(&self.user, &self.database)
    }

    async fn role(&self, target: &Target, kept: Option<Kept>, deadline: Instant) -> Answer {
        let (fresh, old) = match kept {
            Some(kept) if kept.is_fresh() => (Some(kept), None),
            old => (None, old),
        };
        // Closed behind our back (idle limit, terminated, crashed)? A new connection tells which.
        if let Some(kept) = fresh
            && let Ok(answer) = self.question(kept, deadline).await
        {
            return answer;
        }
        let last = match (self.connect(target, deadline).await, old) {
            (Ok(kept), _) => kept,
            // Every connection slot is taken: that is a living server, and the old connection can still ask it.
            (Err(error), Some(old)) if is_full(&error) => old,
            (Err(error), _) => return Answer::failed(of_connect(&error), error),
        };
        let answer = self.question(last, deadline).await;
        answer.unwrap_or_else(|Broken| Answer::failed(ProbeFailure::Unreachable, "the connection was closed"))
    }

    async fn connect(&self, target: &Target, deadline: Instant) -> Result<Kept, ConnectError> {
        let login = Login {
            user: &self.user,
            database: &self.database,
            parameters: &self.parameters,
            credentials: &self.credentials,
        };
        let backend = backend::connect(target, &login, deadline).await?;
        Ok(Kept { backend, address: target.address, since: Instant::now() })
    }

    async fn question(&self, mut kept: Kept, deadline: Instant) -> Result<Answer, Broken> {
        let asked = Instant::now();
        match kept.backend.simple_query(QUESTION, deadline).await {
            Ok(rows) => Ok(match report(&rows, asked) {
                Some(report) => Answer { outcome: Ok(report), why: None, past: Past::NotAsked, kept: Some(kept) },
                None => Answer::failed(ProbeFailure::Garbled, "the answer is not what was asked for"),
            }),
            Err(QueryError::Lost(_)) => Err(Broken),
            Err(QueryError::TimedOut) => Ok(Answer::failed(ProbeFailure::TimedOut, "no answer within the deadline")),
            Err(QueryError::Protocol(why)) => Ok(Answer::failed(ProbeFailure::Garbled, why)),
            // 57P01, 57P02: this connection was told to go. Whether the server goes too, a new one tells.
            Err(QueryError::Server(error)) if matches!(error.code.as_str(), "57P01" | "57P02" | "57P05") => Err(Broken),
            Err(QueryError::Server(error)) => Ok(Answer::failed(of_code(&error.code), error)),
        }
    }
}

/// The kept connection is of no use any more, and nothing else is known.
struct Broken;

fn report(rows: &Rows, asked: Instant) -> Option<ProbeReport> {
    let [row] = rows.as_slice() else { return None };
    let [standby, system, written, received, lsn, lag] = row.as_slice() else {
        return None;
    };
    let in_recovery = match standby.as_deref()? {
        "t" => true,
        "f" => false,
        _ => return None,
    };
    let timeline = match (written, received) {
        (Some(hex), None) => Some(u32::from_str_radix(hex, 16).ok()?),
        (None, Some(number)) => Some(number.parse().ok()?),
        (None, None) => None,
        (Some(_), Some(_)) => return None,
    };
    // A primary that cannot name its timeline proves nothing.
    if !in_recovery && timeline.is_none() {
        return None;
    }
    // `system_identifier` is an unsigned number that PostgreSQL shows as a signed one.
    let system: i64 = system.as_deref()?.parse().ok()?;
    Some(ProbeReport {
        in_recovery,
        system_id: SystemId(system.cast_unsigned()),
        timeline: timeline.map(Timeline),
        lsn: lsn.as_deref().and_then(|text| text.parse::<Lsn>().ok()),
        lag: lag
            .as_deref()
            .and_then(|text| text.parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        asked_at: asked.into_std(),
    })
}

fn is_full(error: &ConnectError) -> bool {
    error.server_error().is_some_and(|error| error.code.starts_with("53"))
}

fn of_connect(error: &ConnectError) -> ProbeFailure {
    match error {
        ConnectError::Unreachable(_) => ProbeFailure::Unreachable,
        ConnectError::TimedOut => ProbeFailure::TimedOut,
        ConnectError::NotAccepting(error) | ConnectError::Refused(error) => of_code(&error.code),
        ConnectError::Tls(_) | ConnectError::Auth(_) => ProbeFailure::Refused,
        ConnectError::Protocol(_) => ProbeFailure::Garbled,
    }
}

/// A server that is full (53xxx) or denies us (28xxx, 3D000, 42501) is up and says nothing about its role:
/// `Refused` unseats no primary. 57014 is our own `statement_timeout`.
fn of_code(code: &str) -> ProbeFailure {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "57014") => ProbeFailure::TimedOut,
        ("57", _) => ProbeFailure::NotAccepting,
        ("08" | "28" | "3D" | "42" | "53", _) => ProbeFailure::Refused,
        _ => ProbeFailure::Garbled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [Option<&str>; 6]) -> Rows {
        vec![cells.iter().map(|cell| cell.map(str::to_owned)).collect()]
    }

    #[test]
    fn answers_are_read() {
        let now = Instant::now();
        let primary = row([Some("f"), Some("7304857345"), Some("0000000C"), None, Some("A/1F"), None]);
        let read = report(&primary, now).unwrap();
        assert!(!read.in_recovery);
        assert_eq!(read.timeline, Some(Timeline(12)));
        assert_eq!(read.lsn, Some(Lsn(0xA_0000_001F)));
        assert_eq!(read.lag, None);

        let standby = row([Some("t"), Some("-1"), None, Some("12"), Some("0/1"), Some("1.5")]);
        let read = report(&standby, now).unwrap();
        assert!(read.in_recovery);
        assert_eq!(read.system_id, SystemId(u64::MAX));
        assert_eq!(read.timeline, Some(Timeline(12)));
        assert_eq!(read.lag, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_no_answer_is_garbled() {
        let now = Instant::now();
        for (what, rows) in [
            ("no row", vec![]),
            ("no role", row([None, Some("1"), Some("00000001"), None, Some("0/1"), None])),
            ("a strange role", row([Some("yes"), Some("1"), Some("00000001"), None, None, None])),
            ("a primary without a timeline", row([Some("f"), Some("1"), None, None, Some("0/1"), None])),
            ("no system", row([Some("t"), None, None, Some("1"), None, None])),
            ("too few columns", vec![vec![Some("t".to_owned())]]),
        ] {
            assert_eq!(report(&rows, now), None, "{what}");
        }
    }

    #[test]
    fn codes_say_who_is_at_fault() {
        for (code, want) in [
            ("57P03", ProbeFailure::NotAccepting),
            ("57P01", ProbeFailure::NotAccepting),
            ("57014", ProbeFailure::TimedOut),
            ("53300", ProbeFailure::Refused),
            ("28P01", ProbeFailure::Refused),
            ("3D000", ProbeFailure::Refused),
            ("42501", ProbeFailure::Refused),
            ("XX000", ProbeFailure::Garbled),
            ("", ProbeFailure::Garbled),
        ] {
            assert_eq!(of_code(code), want, "{code}");
        }
    }
}
