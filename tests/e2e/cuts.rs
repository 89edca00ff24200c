//! The wire to PostgreSQL is cut at every byte between a COMMIT and its reply, the primary living on or lost with its node,
//! before and after the commit record has reached the next one: what each client is told is what is there.

mod alive;
mod lost;
mod point;
mod session;
mod wires;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use pgmoor::auth::Password;

use crate::cluster::outposts;
use crate::cluster::overlay::Overlay;
use crate::cluster::proxy::Port;
use crate::cluster::world::World;
use crate::stage::{FAILOVER, Stage};
use crate::wire::{Then, Way, Wire};

use point::{Form, Nature, Passed, Point, Reached, Word, due};
use session::Session;
use wires::Wires;

const PODS: &[&str] = &["demo-0", "demo-1", "demo-2"];
/// For one answer: a failover, a replay, and what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(150);
/// The row of a transaction that only shows how long it is.
const REHEARSAL: usize = 999_999;
/// Where both say the same, in the text of pgmoor's question, the first is cut.
const FORMS: [Form; 2] = [Form::Simple, Form::Extended];

/// A cluster with wires before every PostgreSQL, and room for so many connections.
fn play<F: Future<Output = ()>>(name: &'static str, connections: usize, test: impl FnOnce(Arc<Stage>, Wires) -> F) {
    let wires = Mutex::new(None);
    let adapt = |overlay: Overlay| {
        // The doors have to be there before pgmoor is: it is not ready without a primary.
        let world = World::shared().expect("the stage holds it");
        *wires.lock().unwrap() = Some(Wires::lay(Arc::clone(&world.kubelet), name, PODS));
        // A busy machine may take its time to promote: nothing is to be given up for that. Every open transaction has a
        // backend, and so a wire, of its own.
        let sections = format!(
            "[pool]\n    size = {connections}\n    pod_size = {connections}\n\n    \
             [continuity]\n    hold = \"120s\"\n    replay_deadline = \"120s\"\n\n    [log]"
        );
        outposts::told(overlay).replace("[log]", &sections)
    };
    Stage::play_roomy(name, connections, adapt, async |stage| {
        let wires = wires.lock().unwrap().take().expect("laid before pgmoor was deployed");
        stage.synchronous().await;
        stage.client(Port::Rw, 0).await.batch_execute(session::TABLE).await.unwrap();
        let played = AssertUnwindSafe(test(Arc::clone(&stage), wires)).catch_unwind().await;
        if let Err(panic) = played {
            println!("{}", stage.logs().await);
            resume_unwind(panic);
        }
    });
}

/// Where sessions come from: through pgmoor's pods in turn, the password's keys derived once.
struct Logins {
    addresses: Vec<SocketAddr>,
    password: Password,
}

impl Logins {
    async fn to(stage: &Stage) -> Self {
        let addresses = stage.proxy.addresses(Port::Rw).await.unwrap();
        Self { addresses, password: Password::new(stage.cluster.password("app").unwrap()) }
    }

    async fn next(&self, number: usize) -> Session {
        Session::login(self.addresses[number % self.addresses.len()], &self.password, PATIENCE).await
    }
}

/// Every point. `frozen`: nothing is replicated, so a COMMIT is answered only where it does not wait for that.
async fn points(stage: &Stage, wires: &Wires, frozen: bool) -> Vec<Point> {
    let mut points = Vec::new();
    for form in FORMS {
        for way in [Way::ToServer, Way::ToMoor] {
            for early in [false, true] {
                let local = frozen && way == Way::ToMoor;
                let point = Point { form, nature: Nature::Steady, local, early, way, at: 0, last: false };
                let rehearsal = rehearse(stage, wires, point).await;
                points.extend(along(stage, point, &rehearsal));
            }
        }
    }
    points
}

/// A point for every byte of these.
fn along(stage: &Stage, point: Point, rehearsal: &[u8]) -> Vec<Point> {
    let Point { form, way, early, .. } = point;
    let shared = point::shared(rehearsal);
    stage.tell(&format!("{form:?}, {way:?}, early: {early}: {} bytes, a text at {shared:?}", rehearsal.len()));
    assert!(!early || way == Way::ToMoor || rehearsal.len() == form.commit().len(), "nothing but the COMMIT");
    // Two more than there are: a number may grow by a digit; and the last one is not cut.
    let end = rehearsal.len() + 1;
    let positions = (0..=end).filter(|at| form == FORMS[0] || !shared.contains(at));
    let nature = |at: usize| if at.is_multiple_of(2) { Nature::Steady } else { Nature::Fickle };
    positions.map(|at| Point { nature: nature(at), at, last: at == end, ..point }).collect()
}

/// What goes over a new wire when nothing is cut.
async fn rehearse(stage: &Stage, wires: &Wires, point: Point) -> Vec<u8> {
    let mut session = Logins::to(stage).await.next(0).await;
    wires.cut();
    session.begin(REHEARSAL, &point).await;
    let wire = wires.carrying().remove(&REHEARSAL).expect("a wire carries it");
    wire.set(point.way, usize::MAX, Then::Cut);
    assert_eq!(session.commit(point.form).await, Word::Committed);
    let bytes = wire.seen(point.way);
    wires.cut();
    bytes
}

/// One cut: what had passed when nothing more did.
#[derive(Debug)]
struct Cut {
    id: usize,
    point: Point,
    /// Something was cut off.
    sprung: bool,
    /// Bytes that went that way.
    gone: usize,
    passed: Passed,
}

impl Cut {
    fn seen(id: usize, point: Point, wire: &Wire) -> Self {
        let passed = Passed::read(point.form, &wire.seen(Way::ToServer), &wire.seen(Way::ToMoor));
        let (sprung, gone) = (wire.has_sprung(), wire.seen(point.way).len());
        Self { id, point, sprung, gone, passed }
    }

    /// It was where it should be; what was not cut had no byte there. The last point of each way is behind the transaction's own
    /// bytes: what is cut there is the next one's, which has the backend as soon as this one was answered.
    fn is_exact(&self) -> bool {
        let Self { point, sprung, gone, passed, .. } = self;
        match (*sprung, point.last) {
            (false, _) => *gone <= point.at,
            (true, false) => *gone == point.at,
            (true, true) => *gone == point.at && passed.commit && passed.answer,
        }
    }
}

/// Holds what was told against what is there.
async fn check(stage: &Stage, reached: Reached, told: &[(Cut, Word)]) {
    let primary = stage.cluster.wait_primary(None, FAILOVER).await.unwrap();
    let direct = stage.cluster.connect_as(&primary, "app", "app").await.unwrap();
    let rows = direct.query("SELECT id, count(*) FROM cut GROUP BY id", &[]).await.unwrap();
    let there: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut counts: BTreeMap<(Passed, Word, i64), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (cut, word) in told {
        let found = there.get(&i32::try_from(cut.id).unwrap()).copied().unwrap_or(0);
        if !cut.is_exact() || (*word, found) != due(cut.point.nature, reached, cut.passed) {
            wrong.push(format!("{word:?}, {found} rows: {cut:?}"));
        }
        *counts.entry((cut.passed, *word, found)).or_default() += 1;
    }
    for ((passed, word, found), count) in &counts {
        stage.tell(&format!("{reached:?}: {count} x {word:?}, {found} rows, where {passed:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Both the question and the COMMIT's own answer were cut.
    let cut = |commit| told.iter().filter(|(cut, _)| cut.sprung && cut.passed.commit == commit).count();
    assert!(cut(true) >= 20 && cut(false) >= 500, "{} and {}", cut(true), cut(false));
    assert_eq!(stage.metric(r#"pgmoor_errors_total{code="commit_unknown"}"#).await, 0.0, "every outcome was known");
}
