//! One run: a cluster, a proxy, clients, and what befalls them; all from one seed.

use std::sync::Arc;
use std::time::Duration;

use pgmoor::backend::gate::{Gates, Pace};
use pgmoor::backend::pool::{Bounds, Pools};
use pgmoor::config::{self, AuthMethod, CommitGuard, Databases, Endpoint};
use pgmoor::continuity::Settings;
use pgmoor::continuity::plans::Seen;
use pgmoor::ids::{Epoch, Lsn, PodId, Timeline};
use pgmoor::metrics::Metrics;
use pgmoor::net::tls::BackendTls;
use pgmoor::net::{Dial, Stream};
use pgmoor::session::bell::Bell;
use pgmoor::session::dice::Dice;
use pgmoor::session::ear::Ears;
use pgmoor::session::people::People;
use pgmoor::session::registry::Registry;
use pgmoor::session::{self, Realm, Shared, Terms};
use pgmoor::shutdown::Shutdown;
use pgmoor::topology::history::History;
use pgmoor::topology::routing::{Primary, Role, Route, RoutingTable, Vacancy};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::chance::{Rng, Trace};
use crate::client::Client;
use crate::cluster::{Cluster, Power, State, address, index};
use crate::ledger::Ledger;
use crate::network::{self, Break, Mishap};
use crate::server;

/// How long a request waits for a backend.
const HOLD: Duration = Duration::from_secs(5);

/// Places for sessions, and for those that are held.
const PLACES: usize = 64;

/// How sessions wait.
fn settings() -> Settings {
    Settings {
        zone: None,
        hold: HOLD,
        drain: Duration::from_secs(3),
        retry_first: Duration::from_millis(20),
        retry_most: Duration::from_millis(250),
    }
}

/// Everything of one run.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) trace: Trace,
    rng: Rng,
    tables: Vec<watch::Sender<Arc<RoutingTable>>>,
    epoch: u64,
    tenure: u64,
    /// The primary in the last table.
    proven: Option<PodId>,
    gates: Gates,
    registry: Arc<Registry>,
    pools: Pools,
    seen: Arc<Seen>,
    /// Sessions give their backends back after each transaction.
    lends: bool,
    places: [Arc<Semaphore>; 3],
    metrics: Arc<Metrics>,
    dice: Dice,
    /// Kept: a session whose watch has ended ends as well.
    shutdowns: Vec<Shutdown>,
    replay: bool,
    guard: CommitGuard,
    ask: bool,
}

/// What is shown of the cluster.
fn table(state: &State, (epoch, tenure): (u64, u64), vacant: bool) -> RoutingTable {
    let primary = state.primary().filter(|_| !vacant);
    let floor = state.pods.iter().filter(|pod| !pod.recovery).map(|pod| pod.timeline).max().unwrap_or(1);
    let route = |(at, pod): (usize, &crate::cluster::Pod)| {
        let role = if Some(at) == primary {
            Role::Primary
        } else if !pod.recovery && (pod.timeline < floor || state.primary() != Some(at)) {
            Role::Superseded
        } else if !pod.recovery || pod.power != Power::Up {
            Role::Unknown
        } else {
            Role::Replica { fit: true, lag: Some(Duration::ZERO), replayed: None }
        };
        let id = pod.id();
        let (address, ready) = (Some(address(at)), pod.power == Power::Up);
        (id.name.clone(), Route { id, address, role, draining: pod.draining, ready, zone: None })
    };
    let history = primary.map(|at| {
        let pod = &state.pods[at];
        let lines: String = pod.history.iter().map(|(old, end)| format!("{old}\t{}\tfailover\n", Lsn(*end))).collect();
        Arc::new(History::parse(Timeline(pod.timeline), &lines).unwrap())
    });
    RoutingTable {
        cluster: "sim".into(),
        epoch: Epoch(epoch),
        primary: primary.map_or(Primary::Nobody(Vacancy::Unproven), |at| Primary::Proven {
            pod: state.pods[at].id(),
            timeline: Timeline(state.pods[at].timeline),
        }),
        tenure,
        pods: state.pods.iter().enumerate().map(route).collect(),
        floor: Timeline(floor),
        stale: false,
        history,
    }
}

impl World {
    pub(crate) fn new(seed: u64, wordy: bool) -> Self {
        let mut rng = Rng::new(seed);
        let trace = Trace::new(wordy);
        let strict = rng.chance(75);
        let cluster = Cluster::new(3, strict, rng.fork(), &trace);
        trace.say(format_args!("seed {seed}, commits wait for a standby: {strict}"));
        let places = |count| Arc::new(Semaphore::new(count));
        let lends = rng.chance(70);
        Self {
            cluster,
            trace,
            tables: Vec::new(),
            epoch: 1,
            tenure: 1,
            proven: Some(PodId::new("pg-0", "u1")),
            gates: Gates::new(Pace { start: rng.between(1, 4) as u32, max: 8 }),
            registry: Arc::default(),
            places: [places(PLACES), places(PLACES), places(PLACES)],
            pools: Pools::new(Bounds {
                size: if lends { rng.between(2, 6) as usize } else { 8 },
                min: 0,
                pod_size: if lends { rng.between(3, 8) as usize } else { 8 },
                idle: Duration::from_secs(600),
                lifetime: Duration::from_secs(3600),
            }),
            lends,
            seen: Arc::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            dice: Dice::seeded(rng.next()),
            shutdowns: Vec::new(),
            replay: rng.chance(80),
            guard: [CommitGuard::Off, CommitGuard::Pipelined, CommitGuard::On, CommitGuard::On][rng.below(4) as usize],
            ask: rng.chance(70),
            rng,
        }
    }

    fn terms(&self) -> Terms {
        Terms {
            login: Duration::from_secs(30),
            hold: HOLD,
            connect: Duration::from_secs(2),
            ask: self.ask.then_some(Duration::from_secs(1)),
            replay: self.replay.then_some(config::Replay { size: 64 * 1024, deadline: Duration::from_secs(10) }),
            guard: self.guard,
            message_size: 1 << 24,
            session_state: 1 << 20,
            pools: self.lends,
            statements: 3,
            lifetime: Duration::from_secs(3600),
        }
    }

    /// What the sessions of one client are given: its own watch of the routes, so that who wakes first is no chance.
    fn shared(&mut self) -> Arc<Shared> {
        let (sender, routes) = watch::channel(Arc::new(table(&self.cluster.lock(), (1, 1), false)));
        self.tables.push(sender);
        let (shutdown, watch) = Shutdown::new();
        self.shutdowns.push(shutdown);
        let realm = Realm {
            name: "sim".into(),
            databases: Databases::Every,
            users: None,
            bell: Bell::hang(routes.clone(), &watch),
            routes,
            doubt: Arc::new(|_, _| {}),
            tls: Arc::new(|_| BackendTls::disabled()),
        };
        let auth = config::Auth { method: AuthMethod::Trust, users: config::Users::default() };
        let [half_open, places, held] = self.places.clone();
        let dial = dial(&self.cluster, self.rng.fork());
        Arc::new(Shared {
            ears: Ears::new(self.gates.clone(), dial.clone(), Arc::clone(&self.metrics), watch.clone()),
            realms: vec![Arc::new(realm)],
            people: Arc::new(People::new(&auth)),
            identities: Arc::default(),
            acceptor: None,
            requires_tls: false,
            ro_falls_back: true,
            settings: Arc::new(settings()),
            terms: self.terms(),
            gates: self.gates.clone(),
            pools: self.pools.clone(),
            seen: Arc::clone(&self.seen),
            dial,
            dice: self.dice.clone(),
            registry: Arc::clone(&self.registry),
            half_open,
            places,
            held,
            metrics: Arc::clone(&self.metrics),
            shutdown: watch,
        })
    }

    /// Another client.
    pub(crate) fn client(&mut self, number: u64) -> Client {
        let shared = self.shared();
        let reads = self.rng.chance(15);
        let endpoint = if reads { Endpoint::Ro } else { Endpoint::Rw };
        let (mut rng, trace, cluster) = (self.rng.fork(), self.trace.clone(), self.cluster.clone());
        let door = Box::new(move || {
            let rough = cluster.lock().rough && rng.chance(12);
            let mishap = rough.then(|| mishap(&mut rng, 400));
            let (client, proxy, wire) = network::open(format!("client {number}"), mishap, rng.fork(), &trace);
            let stream = Stream::Memory(Box::new(proxy));
            tokio::spawn(session::serve(Arc::clone(&shared), stream, None, endpoint));
            (client, wire)
        });
        let ledger = Ledger::new(!self.cluster.lock().strict);
        Client::new(number, ledger, self.rng.fork(), &self.trace, door, reads)
    }

    /// Everyone is shown the cluster as it is; `vacant`: but no primary.
    fn publish(&mut self, vacant: bool) {
        self.epoch += 1;
        let shown = {
            let state = self.cluster.lock();
            let mut shown = table(&state, (self.epoch, self.tenure), vacant);
            let pod = match &shown.primary {
                Primary::Proven { pod, .. } => Some(pod.clone()),
                Primary::Nobody(_) => None,
            };
            if pod.is_some() && pod != self.proven {
                self.tenure += 1;
                shown.tenure = self.tenure;
            }
            self.proven = pod;
            for pod in &state.pods {
                let superseded = shown.pods.get(&pod.id().name).is_some_and(|route| route.role == Role::Superseded);
                for backend in pod.backends.values().filter(|_| superseded) {
                    backend.wire.forbid();
                }
            }
            shown
        };
        self.trace.say(format_args!("table {}: {:?}, floor {}", self.epoch, shown.primary, shown.floor));
        let shown = Arc::new(shown);
        let usable =
            |pod: &PodId| shown.route(pod).is_some_and(|route| route.role != Role::Superseded && !route.draining);
        self.pools.keep_only(usable);
        for sender in &self.tables {
            sender.send_replace(Arc::clone(&shown));
        }
    }

    /// Idle backends end.
    pub(crate) fn close_pools(&self) {
        self.pools.keep_only(|_| false);
    }

    async fn pause(&mut self, most: u64) {
        let time = self.rng.below(most);
        sleep(Duration::from_millis(time)).await;
    }

    /// What befalls the cluster.
    pub(crate) async fn misfortunes(&mut self) {
        for _ in 0..self.rng.between(1, 3) {
            self.pause(600).await;
            let Some(primary) = self.cluster.lock().primary() else { continue };
            let heir = {
                let state = self.cluster.lock();
                let standby = |at: &usize| state.pods[*at].recovery && state.pods[*at].power == Power::Up;
                state.synchronous.or_else(|| (0..3).find(standby).filter(|_| !state.strict))
            };
            let how = [Break::End, Break::Reset, Break::Reset, Break::Stall][self.rng.below(4) as usize];
            match (self.rng.below(6), heir) {
                (0, Some(heir)) => self.zombie(primary, heir).await,
                (1, Some(heir)) => self.switchover(primary, heir).await,
                (2 | 3, Some(heir)) => self.failover(primary, heir, how).await,
                (4, _) => self.restart(primary, how).await,
                _ => self.cuts().await,
            }
        }
        self.heal();
    }

    /// The primary dies; another takes its place.
    async fn failover(&mut self, primary: usize, heir: usize, how: Break) {
        if self.rng.chance(30) {
            self.cluster.lock().shut_down(primary);
            self.pause(30).await;
        }
        self.cluster.lock().crash(primary, how);
        self.pause(800).await;
        if self.rng.chance(70) {
            self.publish(true);
            let long = if self.rng.chance(20) { 8000 } else { 1500 };
            self.pause(long).await;
        }
        self.cluster.lock().promote(heir);
        self.pause(300).await;
        self.publish(false);
        self.pause(1000).await;
        self.cluster.lock().rejoin(primary, self.rng.clone().chance(50));
        self.publish(false);
    }

    /// The primary dies and comes back as what it was, or on a timeline that comes after its own.
    async fn restart(&mut self, primary: usize, how: Break) {
        self.cluster.lock().crash(primary, how);
        // A crash that no probe sees gives ids out again, and nobody can tell: it is seen.
        self.pause(50).await;
        self.publish(true);
        self.pause(1000).await;
        self.cluster.lock().pods[primary].power = Power::Starting;
        self.pause(500).await;
        if self.rng.chance(50) {
            self.cluster.lock().promote_itself(primary);
        }
        self.cluster.lock().pods[primary].power = Power::Up;
        self.trace.say(format_args!("pg-{primary} is up again"));
        self.pause(300).await;
        self.publish(false);
    }

    /// The primary is drained, shut down, and another takes its place.
    async fn switchover(&mut self, primary: usize, heir: usize) {
        self.cluster.lock().pods[primary].draining = true;
        self.publish(false);
        let long = if self.rng.chance(30) { 6000 } else { 2000 };
        self.pause(long).await;
        self.cluster.lock().shut_down(primary);
        self.pause(100).await;
        // A shutdown ends when the standbys have everything.
        self.cluster.lock().ship_all(primary);
        self.cluster.lock().crash(primary, Break::End);
        if self.rng.chance(50) {
            self.publish(true);
        }
        self.pause(400).await;
        self.cluster.lock().promote(heir);
        self.publish(false);
        self.pause(1000).await;
        self.cluster.lock().rejoin(primary, true);
        self.publish(false);
    }

    /// The primary is cut off from the others and goes on; another takes its place.
    async fn zombie(&mut self, primary: usize, heir: usize) {
        self.trace.say(format_args!("pg-{primary} is cut off"));
        self.cluster.lock().pods[primary].isolated = true;
        self.pause(600).await;
        self.cluster.lock().promote(heir);
        self.pause(400).await;
        self.publish(false);
        self.pause(2500).await;
        self.cluster.lock().crash(primary, Break::Reset);
        self.publish(false);
        self.pause(500).await;
        self.cluster.lock().rejoin(primary, true);
        self.publish(false);
    }

    /// Some connections to pods break.
    async fn cuts(&mut self) {
        for _ in 0..self.rng.between(1, 4) {
            let how = [Break::End, Break::Reset, Break::Stall][self.rng.below(3) as usize];
            let wires: Vec<_> = {
                let state = self.cluster.lock();
                state.pods.iter().flat_map(|pod| pod.backends.values().map(|backend| backend.wire.clone())).collect()
            };
            if !wires.is_empty() {
                wires[self.rng.below(wires.len() as u64) as usize].cut(how);
            }
            self.pause(200).await;
        }
    }

    /// From now on nothing goes wrong.
    fn heal(&mut self) {
        self.cluster.lock().rough = false;
        self.trace.say(format_args!("all is well"));
        self.publish(false);
    }

    /// What must be so when everyone has gone.
    pub(crate) fn judge(&self, clients: &[Client]) {
        let held: Vec<usize> = self.places.iter().map(|places| places.available_permits()).collect();
        if held != [PLACES; 3] || !self.registry.is_empty() {
            let sessions = self.registry.len();
            self.trace.fault(format_args!("left behind: {sessions} sessions, free places {held:?}"));
        }
        let state = self.cluster.lock();
        for (at, pod) in state.pods.iter().enumerate() {
            if let Some(load) = self.gates.load(&pod.id()).filter(|load| load.running + load.waiting > 0) {
                self.trace.fault(format_args!("left behind at the gate of pg-{at}: {load:?}"));
            }
            if !pod.backends.is_empty() {
                self.trace.fault(format_args!("left behind on pg-{at}: {:?}", pod.backends.keys()));
            }
        }
        let Some(primary) = state.primary() else { return self.trace.fault(format_args!("no primary")) };
        for client in clients {
            let own = client.number * 1_000_000..(client.number + 1) * 1_000_000;
            let rows = state.pods[primary].rows.range(own).map(|(key, count)| (*key, *count)).collect();
            if let Err(what) = client.ledger.judge(&rows) {
                self.trace.fault(format_args!("client {}, at the end: {what}", client.number));
            }
        }
    }
}

/// Somewhere within so many bytes, or far behind.
fn mishap(rng: &mut Rng, near: u64) -> Mishap {
    let kind = [Break::End, Break::Reset, Break::Stall][rng.below(3) as usize];
    let at = if rng.chance(60) { rng.below(near) } else { rng.below(near * 50) };
    Mishap { outward: rng.chance(40), at, kind }
}

/// How this client's sessions reach the pods.
fn dial(cluster: &Cluster, rng: Rng) -> Dial {
    let (cluster, rng) = (cluster.clone(), std::sync::Mutex::new(rng));
    Dial::Memory(Arc::new(move |address| {
        let mut rng = rng.lock().unwrap().fork();
        let cluster = cluster.clone();
        Box::pin(async move {
            sleep(Duration::from_millis(rng.below(3))).await;
            let at = index(address);
            let (end, wire, far, backend, trace) = {
                let mut state = cluster.lock();
                if state.pods[at].power == Power::Down {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                let mishap = (state.rough && rng.chance(35)).then(|| mishap(&mut rng, 1500));
                let trace = state.trace.clone();
                let (end, far, wire) = network::open(format!("pg-{at}"), mishap, rng.fork(), &trace);
                let backend = state.enter(at, wire.clone());
                (end, wire, far, backend, trace)
            };
            wire.rename(format!("pg-{at} #{backend}"));
            trace.say(format_args!("pg-{at} #{backend} is dialled"));
            let task = tokio::spawn(server::serve(cluster.clone(), at, backend, far));
            if let Some(backend) = cluster.lock().pods[at].backends.get_mut(&backend) {
                backend.task = Some(task.abort_handle());
            }
            Ok(Stream::Memory(Box::new(end)))
        })
    }))
}
