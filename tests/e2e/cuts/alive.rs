//! The primary lives on: every point in turn, some of them at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::join_all;

use crate::stage::Stage;
use crate::wire::{Then, Wire};

use super::point::{Point, Reached, Word};
use super::session::Session;
use super::wires::{self, Wires};
use super::{Cut, Logins, check, play, points};

const WORKERS: usize = 12;

#[test]
fn a_commit_cut_at_every_byte_while_its_primary_lives() {
    play("cuts-alive", 100, alive);
}

async fn alive(stage: Arc<Stage>, wires: Wires) {
    let points = points(&stage, &wires, false).await;
    let began = Instant::now();
    let logins = Logins::to(&stage).await;
    let work = Work { wires, points, begun: AtomicUsize::new(0), ids: AtomicUsize::new(0), told: Mutex::default() };
    join_all((0..WORKERS).map(async |number| work.run(logins.next(number).await).await)).await;
    let told = work.told.into_inner().unwrap();
    stage.tell(&format!("{} cuts within {:.1} s", told.len(), began.elapsed().as_secs_f64()));
    assert_eq!(told.len(), work.points.len());
    check(&stage, Reached::Itself, &told).await;
}

/// What the workers share.
struct Work {
    wires: Wires,
    points: Vec<Point>,
    /// Points that somebody has taken up.
    begun: AtomicUsize,
    /// Rows that somebody has tried to write.
    ids: AtomicUsize,
    told: Mutex<Vec<(Cut, Word)>>,
}

impl Work {
    async fn run(&self, mut session: Session) {
        while let Some(point) = self.points.get(self.begun.fetch_add(1, Ordering::Relaxed)) {
            let (id, wire) = self.begin(&mut session, point).await;
            wire.set(point.way, point.at, Then::Cut);
            let word = session.commit(point.form).await;
            self.told.lock().unwrap().push((Cut::seen(id, *point, &wire), word));
            session.check().await;
        }
    }

    /// Opens a transaction. Where the question is still to come, on a wire over which none has gone, for only the first one is
    /// whole.
    async fn begin(&self, session: &mut Session, point: &Point) -> (usize, Arc<Wire>) {
        loop {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            session.begin(id, point).await;
            let wire = self.wires.carrying().remove(&id).expect("a wire carries it");
            if point.early || !wires::was_asked(&wire) {
                return (id, wire);
            }
            // It is this transaction's alone as long as that is open.
            wire.cut();
            session.roll_back().await;
        }
    }
}
