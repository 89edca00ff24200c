//! Asking a primary for its timeline's history file, and whom not to ask again just now.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backend, QueryError, Rows};
use crate::ids::{PodId, Timeline};
use crate::topology::evidence::ProbeReport;
use crate::topology::history::History;

/// How long a proof waits for the history that goes with it. Reading the file takes far less; one that takes longer is
/// read another time.
const PATIENCE: Duration = Duration::from_millis(250);

/// Largest file that is read.
const MOST_BYTES: usize = 512 * 1024;

/// Between two attempts at one file: the first gap, which doubles up to the longest.
const GAP: Duration = Duration::from_millis(50);
const LONGEST_GAP: Duration = Duration::from_secs(60);

/// The function as `GRANT` wants it. This form reads a part at most, and says null of a file that is not there; a role with
/// nothing but this grant reaches only files below the data directory.
const FUNCTION: &str = "pg_catalog.pg_read_file(text, bigint, bigint, boolean)";

/// What a primary said of where its timeline comes from.
#[derive(Debug)]
pub(super) enum Past {
    /// It was not asked: it is no primary, has told already, or has just failed to.
    NotAsked,
    /// This.
    Told(History),
    /// Nothing of use about this timeline.
    Untold(Timeline, Lack),
}

/// Why a history could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The probe's role may not read it.
    Grant,
    /// The file is not there.
    File,
    /// Something else; PostgreSQL's own words where there are any.
    Fault(String),
}

/// The timelines a pod need not be asked about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Skip {
    /// Its history is known.
    pub(super) told: Option<Timeline>,
    /// It could not be read, a short while ago.
    pub(super) untold: Option<Timeline>,
}

impl Skip {
    /// The timeline whose file is to be read, after this answer. Timeline 1 has none.
    pub(super) fn wanted(self, report: &ProbeReport) -> Option<Timeline> {
        let writes = report.timeline.filter(|timeline| !report.in_recovery && *timeline > Timeline(1));
        writes.filter(|timeline| self.told != Some(*timeline) && self.untold != Some(*timeline))
    }
}

/// Reads the file of this timeline. Gives the backend back, if it is still good for another question.
pub(super) async fn read(mut backend: Backend, timeline: Timeline, deadline: Instant) -> (Past, Option<Backend>) {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    match file(&mut backend, timeline, deadline).await {
        Ok(Ok(text)) => match History::parse(timeline, &text) {
            Ok(history) => (Past::Told(history), Some(backend)),
            Err(fault) => (Past::Untold(timeline, Lack::Fault(fault)), Some(backend)),
        },
        Ok(Err(lack)) => (Past::Untold(timeline, lack), Some(backend)),
        Err(QueryError::Server(error)) => (Past::Untold(timeline, Lack::Fault(error.to_string())), Some(backend)),
        Err(error @ (QueryError::Lost(_) | QueryError::TimedOut | QueryError::Protocol(_))) => {
            (Past::Untold(timeline, Lack::Fault(error.to_string())), None)
        }
    }
}

/// Asks for the right first. It cannot be a part of the reading: PostgreSQL looks at the rights to every function of a
/// statement before it runs any of them, and a denial would stand in its log.
async fn file(
    backend: &mut Backend,
    timeline: Timeline,
    deadline: Instant,
) -> Result<Result<String, Lack>, QueryError> {
    let granted = format!("SELECT pg_catalog.has_function_privilege('{FUNCTION}', 'execute')");
    if value(&backend.simple_query(&granted, deadline).await?) != Some("t") {
        return Ok(Err(Lack::Grant));
    }
    let rows = backend.simple_query(&question(timeline), deadline).await?;
    Ok(match value(&rows) {
        None => Err(Lack::File),
        Some(text) if text.len() > MOST_BYTES => Err(Lack::Fault(format!("the file has more than {MOST_BYTES} bytes"))),
        Some(text) => Ok(text.to_owned()),
    })
}

/// One byte more than may be: a longer file is seen to be longer, and not taken for a shorter one.
fn question(timeline: Timeline) -> String {
    let most = MOST_BYTES + 1;
    format!("SELECT pg_catalog.pg_read_file('pg_wal/{:08X}.history', 0, {most}, true)", timeline.0)
}

fn value(rows: &Rows) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

/// Whose history could not be read, and when it is tried again.
#[derive(Debug, Default)]
pub(super) struct Untold(BTreeMap<PodId, Attempts>);

#[derive(Debug)]
struct Attempts {
    timeline: Timeline,
    gap: Duration,
    again: Instant,
}

impl Untold {
    /// The timeline this pod is not to be asked about yet.
    pub(super) fn hushed(&self, pod: &PodId, now: Instant) -> Option<Timeline> {
        self.0.get(pod).filter(|attempts| now < attempts.again).map(|attempts| attempts.timeline)
    }

    /// An attempt failed. True when it was the first at this timeline of this pod.
    pub(super) fn failed(&mut self, pod: &PodId, timeline: Timeline, now: Instant) -> bool {
        let before = self.0.get(pod).filter(|attempts| attempts.timeline == timeline);
        let gap = before.map_or(GAP, |attempts| (attempts.gap * 2).min(LONGEST_GAP));
        let first = before.is_none();
        self.0.insert(pod.clone(), Attempts { timeline, gap, again: now + gap });
        first
    }

    /// It has told.
    pub(super) fn told(&mut self, pod: &PodId) {
        self.0.remove(pod);
    }

    /// Forgets the pods that are not here any more.
    pub(super) fn retain(&mut self, here: impl Fn(&PodId) -> bool) {
        self.0.retain(|pod, _| here(pod));
    }
}

impl Lack {
    /// What is wrong and what to do about it, in words for the log.
    pub(super) fn advice(&self, user: &str, database: &str) -> String {
        match self {
            Self::Grant => format!(
                "the probe's role may not; in the database {database:?} run: GRANT EXECUTE ON FUNCTION {FUNCTION} TO \"{}\"",
                user.replace('"', "\"\"")
            ),
            Self::File => "the file is not there (yet)".to_owned(),
            Self::Fault(why) => why.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SystemId;

    fn report(in_recovery: bool, timeline: Option<u32>) -> ProbeReport {
        ProbeReport {
            in_recovery,
            system_id: SystemId(7),
            timeline: timeline.map(Timeline),
            lsn: None,
            lag: None,
            asked_at: Instant::now().into_std(),
        }
    }

    #[test]
    fn only_a_primary_that_has_not_told_is_asked() {
        let (first, told) = (Skip::default(), Skip { told: Some(Timeline(6)), untold: None });
        let untold = Skip { told: Some(Timeline(5)), untold: Some(Timeline(6)) };
        for (skip, in_recovery, timeline, want) in [
            (first, false, Some(6), Some(6)),
            (first, false, Some(2), Some(2)),
            (first, false, Some(1), None),
            (first, false, None, None),
            (first, true, Some(6), None),
            (told, false, Some(6), None),
            (told, false, Some(7), Some(7)),
            (untold, false, Some(6), None),
            (untold, false, Some(5), None),
            (untold, false, Some(7), Some(7)),
        ] {
            let wanted = skip.wanted(&report(in_recovery, timeline));
            assert_eq!(wanted, want.map(Timeline), "{skip:?} {in_recovery} {timeline:?}");
        }
    }

    #[test]
    fn the_file_is_named_as_postgresql_names_it() {
        let want = "SELECT pg_catalog.pg_read_file('pg_wal/0000000A.history', 0, 524289, true)";
        assert_eq!(question(Timeline(10)), want);
        assert!(question(Timeline(u32::MAX)).contains("'pg_wal/FFFFFFFF.history'"));
    }

    #[test]
    fn attempts_grow_rarer_and_are_told_once() {
        let (a, b) = (PodId::new("a", "u"), PodId::new("b", "u"));
        let mut untold = Untold::default();
        let mut now = Instant::now();
        assert_eq!(untold.hushed(&a, now), None);
        assert!(untold.failed(&a, Timeline(6), now));
        let mut gaps = Vec::new();
        for _ in 0..12 {
            let before = now;
            while untold.hushed(&a, now) == Some(Timeline(6)) {
                now += GAP;
            }
            gaps.push(now - before);
            assert_eq!(untold.hushed(&b, before), None, "each pod by itself");
            assert!(!untold.failed(&a, Timeline(6), now), "said already");
        }
        assert_eq!(gaps[..3], [GAP, 2 * GAP, 4 * GAP]);
        assert_eq!(gaps[11], LONGEST_GAP);
        assert!(untold.failed(&a, Timeline(7), now), "another timeline is another file");
        assert_eq!(untold.hushed(&a, now), Some(Timeline(7)));
        untold.told(&a);
        assert_eq!(untold.hushed(&a, now), None);
        untold.failed(&a, Timeline(7), now);
        untold.retain(|pod| *pod == b);
        assert!(untold.failed(&a, Timeline(7), now), "it was forgotten");
    }

    #[test]
    fn advice_says_what_to_run() {
        let advice = Lack::Grant.advice("moor\"er", "postgres");
        let grant =
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO \"moor\"\"er\"";
        assert!(advice.ends_with(grant) && advice.contains("\"postgres\""), "{advice}");
    }
}
