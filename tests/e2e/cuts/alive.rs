//! The primary lives on: every point in turn, some of them at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::join_all;

use crate::stage::Stage;
use crate::wire::Then;

use super::point::{Point, Reached, Word};
use super::session::Session;
use super::wires::Wires;
use super::{Cut, Logins, check, play, points};

const WORKERS: usize = 12;

#[test]
fn a_commit_cut_at_every_byte_while_its_primary_lives() {
    play("cuts-alive", 100, alive);
}

async fn alive(stage: Arc<Stage>, wires: Wires) {
    let points = points(&stage, &wires, false).await;
    let began = Instant::now();
    let (logins, next, told) = (Logins::to(&stage).await, AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = (0..WORKERS).map(async |number| work(logins.next(number).await, &wires, &points, &next, &told).await);
    join_all(workers).await;
    stage.tell(&format!("{} cuts within {:.1} s", points.len(), began.elapsed().as_secs_f64()));
    check(&stage, Reached::Itself, &told.into_inner().unwrap()).await;
}

async fn work(
    mut session: Session,
    wires: &Wires,
    points: &[Point],
    next: &AtomicUsize,
    told: &Mutex<Vec<(Cut, Word)>>,
) {
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let Some(point) = points.get(id) else { return };
        session.begin(id, point).await;
        let wire = wires.carrying().remove(&id).expect("a wire carries it");
        wire.set(point.way, point.at, Then::Cut);
        let word = session.commit(point.form).await;
        told.lock().unwrap().push((Cut::seen(id, *point, &wire), word));
        session.check().await;
        // The next question is prepared anew, and as long as this one.
        wire.cut();
        wires.carrying().remove(&id).into_iter().for_each(|wire| wire.cut());
    }
}
