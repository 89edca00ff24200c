//! One run: clients at work on a real cluster while the schedule's faults happen, then the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use pgmoor::auth::Password;
use tokio::task::JoinHandle;

use crate::audit;
use crate::chaos::{Chaos, Happened};
use crate::client::{ACCOUNTS, Client};
use crate::cluster::outposts;
use crate::cluster::overlay::Overlay;
use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::Trouble;
use crate::cluster::world::World;
use crate::history::Op;
use crate::journal::Journal;
use crate::report;
use crate::schedule::Schedule;
use crate::stage::Stage;
use crate::verdict::{Rules, judge};
use crate::wires::Wires;
use crate::work;

const NAMESPACE: &str = "judge";
const PODS: &[&str] = &["demo-0", "demo-1", "demo-2"];
const OPENING: i64 = 1000;
/// What pgmoor is told: longer than one failover, for a second fault may delay the first one's.
const HOLD: Duration = Duration::from_secs(60);
/// One step of one operation: a hold, a replay, and what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(110);

/// What a client notices of an event so long after the cluster is whole is still the event's doing.
const LATE: Duration = Duration::from_secs(2);

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// Until so much has happened.
    Events(usize),
    /// Until this time is over; an event that has begun then is played to its end.
    Minutes(u64),
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything but real time.
    pub seed: u64,
    /// How long.
    pub length: Length,
    /// The longest a fault may last.
    pub longest: Duration,
    /// How many clients.
    pub clients: u32,
}

/// Plays it, prints what it came to, and fails if a promise was broken.
pub fn run(plan: Plan) {
    let wires = Mutex::new(None);
    let adapt = |overlay: Overlay| {
        // The wires have to be there before pgmoor is: it is not ready without a primary.
        let world = World::shared().expect("the stage holds it");
        *wires.lock().unwrap() = Some(Wires::lay(Arc::clone(&world.kubelet), NAMESPACE, PODS));
        let hold = format!("[continuity]\n    hold = \"{}s\"\n\n    [log]", HOLD.as_secs());
        outposts::told(overlay).replace("[log]", &hold)
    };
    Stage::play(NAMESPACE, PatroniVersion::V4, adapt, async |stage| {
        let wires = wires.lock().unwrap().take().expect("laid before pgmoor was deployed");
        trial(stage, plan, wires).await;
    });
}

async fn trial(stage: Arc<Stage>, plan: Plan, wires: Wires) {
    // Strict: with nobody to follow it, a primary acknowledges nothing. Else Patroni would let it go on alone, and what it
    // acknowledged then is lost with it: PostgreSQL's loss, which no proxy could be judged for.
    stage.configure(r#"{"synchronous_mode": true, "synchronous_mode_strict": true}"#).await;
    stage.synchronous().await;
    open_accounts(&stage).await;
    let folder = tempfile::Builder::new().prefix("pgmoor-judge-").tempdir().unwrap();
    let journal = Arc::new(Journal::open(folder.path()).unwrap());
    stage.tell(&format!("seed {}, {} clients, {:?}", plan.seed, plan.clients, plan.length));
    journal.note(&format!("{plan:?}"));

    let stop = Arc::new(AtomicBool::new(false));
    let clients = clients(&stage, plan, &journal, &stop).await;
    let chaos = Chaos::new(Arc::clone(&stage), wires, Arc::clone(&journal));
    let (happened, trouble) = play(&chaos, plan, &journal).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let ops: Vec<Op> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    let found = audit::look(&stage).await.unwrap();
    let rules = rules(plan, &happened, trouble.is_some());
    let verdict = judge(&rules, &ops, &found);
    journal.note("the end");
    stage.tell(&format!("seed {}\n{}", plan.seed, report::tables(&verdict, &ops, &happened)));
    if verdict.violations.is_empty() && trouble.is_none() {
        return;
    }
    let kept = folder.keep();
    let mut text = format!("seed {}; journal and logs: {}\n", plan.seed, kept.display());
    let logs = stage.proxy.logs(100_000).await;
    std::fs::write(kept.join("pgmoor.log"), logs).unwrap();
    std::fs::write(kept.join("patroni.log"), stage.cluster.logs(100_000).await).unwrap();
    for event in &happened {
        let times = (event.began.as_secs_f64(), event.whole.as_secs_f64());
        text.push_str(&format!("[{:9.3} .. {:9.3}] {}\n", times.0, times.1, event.name));
    }
    for violation in &verdict.violations {
        let minute = violation.at().map_or(String::new(), |at| format!("minute {:.1}: ", at.as_secs_f64() / 60.0));
        text.push_str(&format!("VIOLATION {minute}{violation}\n"));
    }
    if let Some(trouble) = trouble {
        text.push_str(&format!("the cluster itself: {trouble}\n"));
    }
    panic!("{text}");
}

/// What holds for this run. After an event that was not played to its end nothing is known to be well.
fn rules(plan: Plan, happened: &[Happened], broken_off: bool) -> Rules {
    let mut storms: Vec<_> = happened.iter().map(|event| (event.began, event.whole + LATE)).collect();
    if broken_off {
        let last = happened.last().map_or(Duration::ZERO, |event| event.whole);
        storms.push((last, Duration::MAX));
    }
    // Each client has one request in flight when a fault strikes; two faults may strike one after the other.
    let unknown = 2 * plan.clients as usize * storms.len();
    Rules { opening: OPENING, hold: HOLD, patience: PATIENCE, storms, unknown }
}

/// The tables, and accounts with their opening balance.
async fn open_accounts(stage: &Stage) {
    let client = stage.client(Port::Rw, 0).await;
    client.batch_execute(work::TABLES).await.unwrap();
    let accounts = format!("INSERT INTO account SELECT n, {OPENING} FROM generate_series(0, {}) n", ACCOUNTS - 1);
    client.batch_execute(&accounts).await.unwrap();
}

async fn clients(
    stage: &Stage,
    plan: Plan,
    journal: &Arc<Journal>,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Vec<Op>>> {
    let addresses = stage.proxy.addresses(Port::Rw).await.unwrap();
    let password = Password::new(stage.cluster.password("app").unwrap());
    let mut tasks = Vec::new();
    for id in 0..plan.clients {
        // Both of a pair that race through different pgmoors.
        let address = addresses[id as usize % addresses.len()];
        let client = Client::start(id, plan.seed, address, &password, PATIENCE, Arc::clone(journal)).await.unwrap();
        tasks.push(tokio::spawn(client.run(Arc::clone(stop))));
    }
    tasks
}

/// Plays events until the run is over, or the cluster cannot be made whole.
async fn play(chaos: &Chaos, plan: Plan, journal: &Journal) -> (Vec<Happened>, Option<Trouble>) {
    let mut happened = Vec::new();
    for event in Schedule::new(plan.seed, plan.longest) {
        let over = match plan.length {
            Length::Events(events) => happened.len() >= events,
            Length::Minutes(minutes) => journal.now() >= Duration::from_secs(60 * minutes),
        };
        if over {
            break;
        }
        match chaos.play(&event).await {
            Ok(event) => happened.push(event),
            Err(trouble) => return (happened, Some(trouble)),
        }
    }
    (happened, None)
}
