//! What holds after every event of any history, likely or not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmoor::ids::{ClusterName, Epoch, PodId, PodName, SystemId, Timeline};
use pgmoor::topology::evidence::{Event, LeaderSighting, PodSighting, ProbeFailure, ProbeReport, RoleHint, Suspicion};
use pgmoor::topology::history::History;
use pgmoor::topology::routing::{Primary, Role, RoutingTable};
use pgmoor::topology::{Command, Settings, Topology};
use proptest::prelude::*;

/// Pods are numbers below this; each has two possible incarnations.
const PODS: u32 = 3;

/// An event, before it has a time.
#[derive(Clone, Debug)]
enum Step {
    Seen(u32, Sight),
    Gone(u32, bool),
    Relisted(Vec<(u32, Sight)>),
    Leader(Option<LeaderSighting>),
    Watch(bool),
    Answered { pod: u32, second: bool, standby: bool, rank: u32, stranger: bool, age_ms: u64 },
    Told { pod: u32, second: bool, rank: u32 },
    Failed(u32, bool, ProbeFailure),
    Doubted(u32, bool),
    Drain(u32, bool),
    Tick,
}

/// How a pod looks.
#[derive(Clone, Debug)]
struct Sight {
    second: bool,
    label: RoleHint,
    ready: bool,
    leaving: bool,
    addressed: bool,
}

/// Which histories to make.
#[derive(Clone, Copy)]
struct World {
    /// Pods of other systems, twins on one timeline, a broken watch, labels that come and go.
    wild: bool,
    /// Labels at all.
    labels: bool,
}

fn name(pod: u32) -> PodName {
    PodName::new(format!("pg-{pod}"))
}

fn id(pod: u32, second: bool) -> PodId {
    PodId::new(format!("pg-{pod}"), if second { "b" } else { "a" })
}

fn sight(world: World) -> impl Strategy<Value = Sight> {
    let labels = match world {
        World { wild: true, .. } => vec![RoleHint::Primary, RoleHint::Replica, RoleHint::Unknown],
        World { labels: true, .. } => vec![RoleHint::Primary, RoleHint::Replica],
        World { labels: false, .. } => vec![RoleHint::Unknown],
    };
    let often = |percent: f64| prop::bool::weighted(percent);
    (often(0.2), prop::sample::select(labels), often(0.8), often(0.1), often(0.95))
        .prop_map(|(second, label, ready, leaving, addressed)| Sight { second, label, ready, leaving, addressed })
}

/// One event about one pod.
fn pod_step(world: World, pod: u32) -> impl Strategy<Value = Step> {
    let failures = vec![
        ProbeFailure::Unreachable,
        ProbeFailure::TimedOut,
        ProbeFailure::NotAccepting,
        ProbeFailure::Refused,
        ProbeFailure::Garbled,
    ];
    let second = || prop::bool::weighted(0.2);
    let stranger = prop::bool::weighted(if world.wild { 0.05 } else { 0.0 });
    prop_oneof![
        3 => sight(world).prop_map(move |sight| Step::Seen(pod, sight)),
        1 => second().prop_map(move |second| Step::Gone(pod, second)),
        8 => (second(), any::<bool>(), 1..6_u32, stranger, 0..200_u64).prop_map(
            move |(second, standby, rank, stranger, age_ms)| Step::Answered {
                pod, second, standby, rank, stranger, age_ms,
            }
        ),
        3 => (second(), 1..6_u32).prop_map(move |(second, rank)| Step::Told { pod, second, rank }),
        3 => (second(), prop::sample::select(failures)).prop_map(move |(second, why)| Step::Failed(pod, second, why)),
        1 => second().prop_map(move |second| Step::Doubted(pod, second)),
        1 => any::<bool>().prop_map(move |on| Step::Drain(pod, on)),
    ]
}

fn step(world: World) -> impl Strategy<Value = Step> {
    let leader = if world.wild {
        prop_oneof![
            1 => Just(None),
            1 => Just(Some(LeaderSighting::NotUsed)),
            4 => (0..PODS).prop_map(|pod| Some(LeaderSighting::Names(name(pod)))),
        ]
        .boxed()
    } else {
        prop_oneof![
            Just(Some(LeaderSighting::NotUsed)),
            Just(Some(LeaderSighting::NotUsed)),
            (0..PODS).prop_map(|pod| Some(LeaderSighting::Names(name(pod)))),
        ]
        .boxed()
    };
    let relist = prop::collection::vec((0..PODS, sight(world)), 0..4);
    prop_oneof![
        20 => (0..PODS).prop_flat_map(move |pod| pod_step(world, pod)),
        1 => relist.prop_map(Step::Relisted),
        2 => leader.prop_map(Step::Leader),
        1 => any::<bool>().prop_map(move |lost| Step::Watch(lost && world.wild)),
        4 => Just(Step::Tick),
    ]
}

/// A history: pauses in milliseconds, and events.
fn history(world: World, length: usize) -> impl Strategy<Value = Vec<(u64, Step)>> {
    let pause = prop_oneof![3 => Just(0), 5 => 1..100_u64, 2 => 100..3000_u64];
    prop::collection::vec((pause, step(world)), 0..length)
}

/// What this incarnation tells of a timeline; every other one tells something else.
fn told(timeline: Timeline, pod: u32, second: bool) -> History {
    if timeline == Timeline(1) {
        return History::first();
    }
    let end = 1 + pod * 2 + u32::from(second);
    History::parse(timeline, &format!("1\t{:X}/{end:X}\tno reason\n", timeline.0)).unwrap()
}

fn sighting(pod: u32, sight: &Sight) -> PodSighting {
    let port = 5432 + u16::try_from(pod).unwrap();
    PodSighting {
        id: id(pod, sight.second),
        address: sight.addressed.then(|| SocketAddr::from(([10, 0, 0, 1], port))),
        label: sight.label,
        ready: sight.ready,
        leaving: sight.leaving,
        zone: None,
    }
}

/// The machine, and a witness of all it said.
#[derive(Clone)]
struct Witness {
    machine: Topology,
    world_is_wild: bool,
    start: Instant,
    now: Instant,
    table: Arc<RoutingTable>,
    /// The probes without an outcome.
    in_flight: BTreeMap<PodId, Instant>,
    /// The floor when an incarnation was last seen superseded.
    superseded: BTreeMap<PodId, Timeline>,
}

impl Witness {
    fn new(world: World) -> Self {
        let start = Instant::now();
        let settings = Settings { lag_limit: Some(Duration::from_secs(1)), ..Settings::default() };
        let machine = Topology::new(ClusterName::new("c"), settings, start);
        let table = Arc::clone(machine.table());
        Self {
            machine,
            world_is_wild: world.wild,
            start,
            now: start,
            table,
            in_flight: BTreeMap::new(),
            superseded: BTreeMap::new(),
        }
    }

    fn event(&self, step: &Step) -> Event {
        match step {
            Step::Seen(pod, sight) => Event::PodSeen(sighting(*pod, sight)),
            Step::Gone(pod, second) => Event::PodGone(id(*pod, *second)),
            Step::Relisted(pods) => Event::Relisted(pods.iter().map(|(pod, sight)| sighting(*pod, sight)).collect()),
            Step::Leader(leader) => Event::LeaderSeen(leader.clone().unwrap_or(LeaderSighting::Nobody)),
            Step::Watch(true) => Event::WatchLost,
            Step::Watch(false) => Event::WatchRestored,
            Step::Answered { pod, second, standby, rank, stranger, age_ms } => {
                let timeline = self.timeline(*rank, *pod);
                let asked_at = self.now.checked_sub(Duration::from_millis(*age_ms)).unwrap_or(self.start);
                let report = ProbeReport {
                    in_recovery: *standby,
                    system_id: SystemId(if *stranger { 9 } else { 7 }),
                    timeline: Some(timeline),
                    lsn: None,
                    lag: standby.then_some(Duration::ZERO),
                    asked_at: asked_at.max(self.start),
                };
                Event::Probed { pod: id(*pod, *second), outcome: Ok(report) }
            }
            Step::Told { pod, second, rank } => {
                Event::HistoryRead { pod: id(*pod, *second), history: told(self.timeline(*rank, *pod), *pod, *second) }
            }
            Step::Failed(pod, second, why) => Event::Probed { pod: id(*pod, *second), outcome: Err(*why) },
            Step::Doubted(pod, second) => Event::Doubted { pod: id(*pod, *second), suspicion: Suspicion::Vanished },
            Step::Drain(pod, on) => Event::Drain { pod: name(*pod), on: *on },
            Step::Tick => Event::Tick,
        }
    }

    /// In a tame world no two pods ever write the same timeline, as no two promotions start the same.
    fn timeline(&self, rank: u32, pod: u32) -> Timeline {
        Timeline(if self.world_is_wild { rank } else { rank * PODS + pod })
    }

    fn play(&mut self, pause_ms: u64, step: &Step) {
        self.now += Duration::from_millis(pause_ms);
        let event = self.event(step);
        if let Event::Probed { pod, .. } = &event {
            self.in_flight.remove(pod);
        }
        self.machine.handle(self.now, event);
        let mut published = false;
        while let Some(command) = self.machine.poll() {
            match command {
                Command::Publish(table) => {
                    assert!(!published, "one event, one table at most");
                    published = true;
                    self.check_succession(&table);
                    self.table = table;
                }
                Command::Probe { pod, address } => self.check_probe(pod, address),
            }
        }
        assert_eq!(self.table, *self.machine.table(), "what is current was published");
        self.check_table();
        self.in_flight.retain(|pod, _| self.table.route(pod).is_some());
        let timeout = self.machine.poll_timeout();
        assert!(timeout.is_none_or(|at| at > self.now), "a drained machine is not due: it would spin");
        let asks = self.table.pods.values().any(|route| route.address.is_some());
        assert!(timeout.is_some() || !asks, "it wakes while there is anybody to ask");
    }

    fn check_succession(&self, table: &RoutingTable) {
        let old = &*self.table;
        assert_eq!(table.epoch, Epoch(old.epoch.0 + 1));
        assert_ne!(RoutingTable { epoch: old.epoch, ..table.clone() }, *old, "a new table differs");
        assert!(table.floor >= old.floor, "the floor never goes back: {table:?}");
    }

    fn check_probe(&mut self, pod: PodId, address: SocketAddr) {
        let route = self.machine.table().route(&pod);
        assert_eq!(route.and_then(|route| route.address), Some(address), "{pod} is asked where it is");
        let forgotten = Settings::default().probe_deadline * 2;
        if let Some(sent) = self.in_flight.insert(pod.clone(), self.now) {
            assert!(self.now >= sent + forgotten, "{pod} is asked twice at once");
        }
    }

    fn check_table(&mut self) {
        let table = Arc::clone(&self.table);
        let primaries: Vec<_> = table.pods.values().filter(|route| route.role == Role::Primary).collect();
        match &table.primary {
            Primary::Nobody(_) => assert!(primaries.is_empty() && table.history.is_none(), "{table:?}"),
            Primary::Proven { pod, timeline } => {
                assert_eq!(primaries.iter().map(|route| &route.id).collect::<Vec<_>>(), [pod]);
                assert_eq!(*timeline, table.floor, "the primary writes the highest timeline ever proven");
                // The primary's own, of the very timeline it is proven on; timeline 1 needs no telling.
                let own = (0..PODS).flat_map(|number| [(number, false), (number, true)]);
                let mut own = own.filter(|(number, second)| id(*number, *second) == *pod);
                let own = own.next().map(|(number, second)| told(*timeline, number, second));
                assert!(table.history.as_deref().is_none_or(|history| own.as_ref() == Some(history)), "{table:?}");
                assert!(table.history.is_some() || *timeline > Timeline(1), "{table:?}");
                let fence = self.superseded.get(pod);
                assert!(fence.is_none_or(|fence| timeline > fence), "{pod} was superseded: {table:?}");
            }
        }
        for route in table.pods.values().filter(|route| route.role == Role::Superseded) {
            self.superseded.insert(route.id.clone(), table.floor);
        }
        // A uid that was deleted does not come back in Kubernetes; here it may, and starts from nothing.
        self.superseded.retain(|pod, _| table.route(pod).is_some());
    }
}

fn check(world: World, history: &[(u64, Step)]) -> Witness {
    let mut witness = Witness::new(world);
    for (pause_ms, step) in history {
        witness.play(*pause_ms, step);
    }
    witness
}

/// The table without what counts the tables and the primaries before it: it is the way that is counted there, and of two
/// claimants' answers one order goes through a moment without a primary, another does not. One more only leads to a doubt.
fn facts(witness: &Witness) -> RoutingTable {
    RoutingTable { epoch: Epoch(0), tenure: 0, ..(*witness.table).clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(600), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_breaks_the_laws(history in history(World { wild: true, labels: true }, 80)) {
        check(World { wild: true, labels: true }, &history);
    }

    /// Events about different pods at one instant: the table they lead to does not depend on who came first.
    /// (A broken watch is left out: there, whoever proves a higher timeline first is followed, on purpose.)
    #[test]
    fn the_order_of_independent_events_does_not_matter(
        (labels, history, batch) in any::<bool>().prop_flat_map(|labels| {
            let world = World { wild: false, labels };
            let batch = [pod_step(world, 0).boxed(), pod_step(world, 1).boxed(), pod_step(world, 2).boxed()];
            (Just(labels), history(world, 40), batch)
        }),
    ) {
        let mut before = check(World { wild: false, labels }, &history);
        before.play(1, &Step::Tick);
        let possible = |step: &&Step| match step {
            // No outcome comes of a probe that was not sent.
            Step::Failed(pod, second, _) => before.in_flight.contains_key(&id(*pod, *second)),
            Step::Seen(..)
            | Step::Gone(..)
            | Step::Relisted(_)
            | Step::Leader(_)
            | Step::Watch(_)
            | Step::Answered { .. }
            | Step::Told { .. }
            | Step::Doubted(..)
            | Step::Drain(..)
            | Step::Tick => true,
        };
        let batch: Vec<&Step> = batch.iter().filter(possible).collect();
        let play = |order: &mut dyn Iterator<Item = &&Step>| {
            let mut witness = before.clone();
            order.for_each(|step| witness.play(0, step));
            facts(&witness)
        };
        let forward = play(&mut batch.iter());
        prop_assert_eq!(&forward, &play(&mut batch.iter().rev()));
        let turned = batch.iter().skip(1).chain(batch.iter().take(1));
        prop_assert_eq!(&forward, &play(&mut turned.collect::<Vec<_>>().into_iter()));
    }
}
