//! The primary's node is lost: every point at once, each on a session of its own, and one failover for all of them.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use tokio::task::JoinHandle;

use crate::cluster::children::Signal;
use crate::cluster::faults::{self, Loss};
use crate::cluster::trouble::eventually;
use crate::stage::{FAILOVER, Stage};
use crate::wire::{Then, Wire};

use super::point::{Point, Reached, Word};
use super::session::Session;
use super::wires::Wires;
use super::{Cut, Logins, check, play, points};

/// For every session, and for others.
const CONNECTIONS: usize = 2000;
/// Logins and openings of transactions at once.
const AT_ONCE: usize = 64;

#[test]
fn a_commit_cut_at_every_byte_when_its_primary_is_lost() {
    play("cuts-lost", CONNECTIONS, lost);
}

async fn lost(stage: Arc<Stage>, wires: Wires) {
    let nobody = numbered(1_000_000, points(&stage, &wires, true).await);
    let everybody = numbered(2_000_000, points(&stage, &wires, false).await);
    let began = Instant::now();
    let logins = Logins::to(&stage).await;
    let sessions = (0..nobody.len().max(everybody.len())).map(|number| logins.next(number));
    let sessions: Vec<Session> = futures::stream::iter(sessions).buffered(AT_ONCE).collect().await;
    stage.tell(&format!("{} sessions within {:.1} s", sessions.len(), began.elapsed().as_secs_f64()));

    let lost = stage.cluster.primary().await.unwrap();
    let sessions = fail_over(&stage, &wires, Reached::None, nobody, sessions).await;
    faults::return_node(stage.cluster.kubelet(), stage.cluster.namespace(), &lost).await.unwrap();
    stage.cluster.wait_ready(3, 2 * FAILOVER).await.unwrap();
    stage.synchronous().await;
    fail_over(&stage, &wires, Reached::All, everybody, sessions).await;
}

fn numbered(first: usize, points: Vec<Point>) -> Vec<(usize, Point)> {
    (first..).zip(points).collect()
}

/// A transaction, its wire, and the client that waits for what it is told of its COMMIT.
struct Case {
    id: usize,
    point: Point,
    wire: Arc<Wire>,
    commit: JoinHandle<(Session, Word)>,
}

impl Case {
    fn seen(&self) -> Cut {
        Cut::seen(self.id, self.point, &self.wire)
    }

    /// Nothing more happens to it: its wire is held, its answer is there, or its COMMIT waits for a standby.
    fn is_settled(&self, reached: Reached) -> bool {
        let waits = || reached == Reached::None && !self.point.local && self.seen().passed.commit;
        self.wire.has_sprung() || self.commit.is_finished() || waits()
    }
}

async fn fail_over(
    stage: &Stage,
    wires: &Wires,
    reached: Reached,
    points: Vec<(usize, Point)>,
    sessions: Vec<Session>,
) -> Vec<Session> {
    let (cluster, namespace) = (&stage.cluster, stage.cluster.namespace());
    let began = Instant::now();
    let old = cluster.primary().await.unwrap();
    let sessions = begin(wires, &points, sessions).await;
    if reached == Reached::None {
        // Stopped where it is sent: what has been sent arrives, though its receiver may stand still.
        let senders = faults::processes(cluster.kubelet(), namespace, &old, "walsender").unwrap();
        assert_eq!(senders.len(), 2);
        Signal::Stop.send(&senders).unwrap();
    }
    let cases = commit(wires, points, sessions);
    let all = || async { cases.iter().all(|case| case.is_settled(reached)).then_some(()) };
    eventually("every wire to be held, or every answer to be there", FAILOVER, all).await.unwrap();
    settle(stage, &old, reached).await;
    let seen: Vec<Cut> = cases.iter().map(Case::seen).collect();
    let prepared = began.elapsed();

    faults::lose_node(cluster.kubelet(), namespace, &old, Loss::PowerOff).await.unwrap();
    // Every second end is heard, the others are silent.
    cases.iter().step_by(2).for_each(|case| case.wire.cut());
    let began = Instant::now();
    cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
    let promoted = began.elapsed();
    let (mut sessions, mut told) = (Vec::new(), Vec::new());
    for (case, seen) in cases.into_iter().zip(seen) {
        let (session, word) = case.commit.await.unwrap();
        told.push((seen, word));
        sessions.push(session);
    }
    stage.tell(&format!(
        "{reached:?}: {} COMMITs on their way after {:.1} s; promoted {:.1} s after the loss, all told {:.1} s later",
        told.len(),
        prepared.as_secs_f64(),
        promoted.as_secs_f64(),
        (began.elapsed() - promoted).as_secs_f64(),
    ));
    futures::stream::iter(&mut sessions).for_each_concurrent(AT_ONCE, Session::check).await;
    check(stage, reached, &told).await;
    sessions
}

/// Every session opens its transaction, on a wire of its own that nothing was asked on.
async fn begin(wires: &Wires, points: &[(usize, Point)], sessions: Vec<Session>) -> Vec<Session> {
    wires.cut();
    let opening = sessions.into_iter().zip(points).map(|(mut session, (id, point))| async move {
        session.begin(*id, point).await;
        session
    });
    futures::stream::iter(opening).buffered(AT_ONCE).collect().await
}

/// Every wire gets its trap, then every session says COMMIT.
fn commit(wires: &Wires, points: Vec<(usize, Point)>, sessions: Vec<Session>) -> Vec<Case> {
    let mut carrying = wires.carrying();
    let trapped = |(id, point): (usize, Point)| {
        let wire = carrying.remove(&id).unwrap_or_else(|| panic!("a wire carries {id}, {point:?}"));
        wire.set(point.way, point.at, Then::Hold);
        (id, point, wire)
    };
    let trapped: Vec<(usize, Point, Arc<Wire>)> = points.into_iter().map(trapped).collect();
    let said = |((id, point, wire), mut session): ((usize, Point, Arc<Wire>), Session)| {
        let commit = tokio::spawn(async move {
            let word = session.commit(point.form).await;
            (session, word)
        });
        Case { id, point, wire, commit }
    };
    trapped.into_iter().zip(sessions).map(said).collect()
}

/// The server has done what it was told: COMMITs wait for their standby, or the standby has them all.
async fn settle(stage: &Stage, primary: &str, reached: Reached) {
    let primary = stage.cluster.connect(primary).await.unwrap();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active' \
                AND coalesce(wait_event, '') <> 'ClientRead'";
    let rest = match reached {
        Reached::None => format!("{busy} AND coalesce(wait_event, '') <> 'SyncRep'"),
        Reached::All | Reached::Itself => format!(
            "SELECT ({busy}) + (SELECT count(*) FROM pg_stat_replication \
             WHERE sync_state = 'sync' AND flush_lsn < pg_current_wal_flush_lsn())"
        ),
    };
    eventually("the server to have done what it was told", FAILOVER, || async {
        let count: i64 = primary.query_one(&rest, &[]).await.ok()?.get(0);
        (count == 0).then_some(())
    })
    .await
    .unwrap();
}
