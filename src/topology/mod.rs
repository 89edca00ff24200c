//! Where each role of one cluster is now: evidence in, immutable routing tables and orders to probe out.
//!
//! The machine is pure. After every [`Topology::handle`] the shell drains [`Topology::poll`] until `None`, then
//! sleeps until [`Topology::poll_timeout`] or the next event; at the timeout it hands in [`Event::Tick`].
//!
//! The shell's first events are one [`Event::Relisted`] and one [`Event::LeaderSeen`], in any order. Until the leader
//! object was heard of (be it [`LeaderSighting::NotUsed`]), nobody is named, and so nobody is written to.

pub mod evidence;
pub mod history;
pub mod routing;

mod hunt;
mod judge;
mod pod;
mod schedule;
mod settings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::ids::{ClusterName, Epoch, PodId, PodName, Timeline};

use evidence::{Event, LeaderSighting, PodSighting, RoleHint};
use history::History;
use judge::{Basis, Incumbent, Memory, Pods};
use pod::Pod;
use routing::{Primary, Role, Route, RoutingTable, Vacancy};

pub use settings::Settings;

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// This table replaces the one before.
    Publish(Arc<RoutingTable>),
    /// Ask this incarnation, at this address; report with [`Event::Probed`], also when it fails.
    Probe {
        /// Whom.
        pod: PodId,
        /// Where.
        address: SocketAddr,
    },
}

/// The topology machine of one cluster.
///
/// The cluster's primary:
/// ```text
///                  named                its own probe: not in recovery, this system, timeline >= floor
///   +---------+ -----------> +----------+ --------------------------------------------------> +--------+
///   | Unnamed |              | Unproven |                                                     | Proven |
///   +---------+ <----------- +----------+ <-------------------------------------------------- +--------+
///        ^        un-named        ^       its probe: in recovery, another system, silent;      |   |  ^
///        |                        |       it is gone; the leader object names another          |   |  |
///        |                        |                                                            |   |  |
///        |                        |                 +-----------+  a claim on its timeline     |   |  |
///        |                        +---------------- | Contested | <----------------------------+   |  |
///        |                        claims taken back +-----------+ -------------------------------- | -+
///        |                                                one claim left, or one on a higher line  |
///        +-----------------------------------------------------------------------------------------+
///                                      the leader object names nobody
/// ```
/// One incarnation of a pod (a new uid starts at Unknown):
/// ```text
///           in recovery            proven            another proven on the same or a higher timeline,
///                                                     even if this one never answers again
///   Unknown ----------> Replica ----------> Primary -------------------------------------> Superseded
///    |   ^                 ^                  |  ^                                          |  |  ^
///    |   |                 |                  |  |    proven again, above that timeline     |  |  |
///    |   |                 |                  |  +------------------------------------------+  |  |
///    |   |                 +----------------- | --- rejoined: in recovery -------------------+  |
///    |   +------------------------------------+ proof lost, no other proven                     |
///    +--------- not in recovery, below the floor or not above the proven primary ---------------+
/// ```
/// Superseded is left only by being seen in recovery, or by being proven on a timeline above the one it lost.
#[derive(Clone, Debug)]
pub struct Topology {
    settings: Settings,
    pods: Pods,
    /// Operators' drain marks; they follow the name.
    marks: BTreeSet<PodName>,
    memory: Memory,
    /// When the last news came that make a hunt worthwhile.
    hunt_from: Instant,
    table: Arc<RoutingTable>,
    /// The history of timeline 1.
    first: Arc<History>,
    unpublished: bool,
    probes: VecDeque<(PodId, SocketAddr)>,
}

impl Topology {
    /// A machine that knows nothing: its table (epoch 0, never published) has no pods and no primary.
    pub fn new(cluster: ClusterName, settings: Settings, now: Instant) -> Self {
        let table = RoutingTable {
            cluster,
            epoch: Epoch(0),
            primary: Primary::Nobody(Vacancy::Unnamed),
            tenure: 0,
            pods: BTreeMap::new(),
            floor: Timeline(0),
            stale: false,
            history: None,
        };
        Self {
            settings: settings.sane(),
            pods: Pods::new(),
            marks: BTreeSet::new(),
            memory: Memory::default(),
            hunt_from: now,
            table: Arc::new(table),
            first: Arc::new(History::first()),
            unpublished: false,
            probes: VecDeque::new(),
        }
    }

    /// The newest table.
    pub fn table(&self) -> &Arc<RoutingTable> {
        &self.table
    }

    /// The timeline whose history this incarnation has told already.
    pub fn told_by(&self, pod: &PodId) -> Option<Timeline> {
        let pod = self.pods.get(&pod.name).filter(|known| known.sighting.id == *pod)?;
        pod.history.as_ref().map(|history| history.timeline())
    }

    /// Takes one event in. `now` never goes back.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.learn(now, event);
        self.give_up_probes(now);
        self.settle(now);
        self.ask(now);
    }

    /// What to do next: the newest table first, so that nobody acts on an older one.
    pub fn poll(&mut self) -> Option<Command> {
        if std::mem::take(&mut self.unpublished) {
            return Some(Command::Publish(Arc::clone(&self.table)));
        }
        self.probes.pop_front().map(|(pod, address)| Command::Probe { pod, address })
    }

    fn learn(&mut self, now: Instant, event: Event) {
        match event {
            Event::Relisted(sightings) => {
                let named = sightings.into_iter().map(|sighting| (sighting.id.name.clone(), sighting));
                let listed: BTreeMap<PodName, PodSighting> = named.collect();
                self.pods.retain(|name, _| listed.contains_key(name));
                listed.into_values().for_each(|sighting| self.see(now, sighting));
            }
            Event::PodSeen(sighting) => self.see(now, sighting),
            Event::PodGone(id) => {
                if self.incarnation(&id).is_some() {
                    self.pods.remove(&id.name);
                }
            }
            Event::LeaderSeen(leader) => self.see_leader(now, leader),
            Event::WatchLost => {
                self.memory.stale = true;
                self.hunt_from = now;
            }
            Event::WatchRestored => {
                self.memory.stale = false;
                self.obey_names();
            }
            Event::Probed { pod, outcome } => {
                if let Some(pod) = self.incarnation(&pod) {
                    match outcome {
                        Ok(report) => pod.answered(report),
                        Err(failure) => pod.failed(failure),
                    }
                }
            }
            Event::HistoryRead { pod, history } => {
                if let Some(pod) = self.incarnation(&pod) {
                    pod.told(history);
                }
            }
            Event::Doubted { pod, suspicion: _ } => {
                let gap = self.settings.hunt_interval;
                if let Some(pod) = self.incarnation(&pod) {
                    pod.asking.want(now, gap);
                }
            }
            Event::Drain { pod, on: true } => {
                self.marks.insert(pod);
            }
            Event::Drain { pod, on: false } => {
                self.marks.remove(&pod);
            }
            Event::Tick => {}
        }
    }

    /// The pod, if this is the incarnation of it that is here.
    fn incarnation(&mut self, id: &PodId) -> Option<&mut Pod> {
        self.pods.get_mut(&id.name).filter(|pod| pod.sighting.id == *id)
    }

    fn see(&mut self, now: Instant, sighting: PodSighting) {
        let gap = self.settings.hunt_interval;
        let names_itself = sighting.label == RoleHint::Primary;
        if let Some(pod) = self.incarnation(&sighting.id) {
            let relabelled = names_itself && pod.sighting.label != RoleHint::Primary;
            if pod.sight(sighting) {
                pod.asking.want(now, gap);
            }
            if relabelled {
                self.hunt_from = now;
            }
            return;
        }
        let mut pod = Pod::new(sighting);
        pod.asking.want(now, gap);
        self.pods.insert(pod.name().clone(), pod);
        if names_itself {
            self.hunt_from = now;
        }
    }

    fn see_leader(&mut self, now: Instant, leader: LeaderSighting) {
        self.obey_names();
        if self.memory.leader.as_ref() == Some(&leader) {
            return;
        }
        let gap = self.settings.hunt_interval;
        for pod in self.pods.values_mut() {
            let turned_away = match &leader {
                LeaderSighting::NotUsed => false,
                LeaderSighting::Nobody => true,
                LeaderSighting::Names(name) => name != pod.name(),
            };
            if turned_away {
                // It may be demoted from now on; named again, it has to prove itself afresh.
                pod.void_before = Some(now);
            } else {
                pod.asking.want(now, gap);
            }
        }
        self.memory.leader = Some(leader);
        self.hunt_from = now;
    }

    /// The leader object can be read again: what was believed without it ends, unless it says the same.
    fn obey_names(&mut self) {
        if let Some(incumbent) = &mut self.memory.incumbent {
            incumbent.basis = Basis::Named;
        }
    }

    /// Draws the conclusions: who is primary, what everybody is, and whether that is news.
    fn settle(&mut self, now: Instant) {
        self.unseat_incumbent();
        let verdict = judge::verdict(&self.pods, &self.memory, &self.settings);
        if let Primary::Proven { pod, timeline } = &verdict.primary {
            let memory = &mut self.memory;
            memory.floor = memory.floor.max(*timeline);
            if memory.system.is_none() {
                let report = self.pods.get(&pod.name).and_then(|pod| pod.report);
                memory.system = report.map(|report| report.system_id);
            }
            if memory.incumbent.as_ref().is_none_or(|incumbent| incumbent.pod != *pod) {
                memory.incumbent = Some(Incumbent { pod: pod.clone(), basis: verdict.basis });
            }
        } else if matches!(self.table.primary, Primary::Proven { .. }) {
            self.hunt_from = now;
        }
        let pods = self.routes(&verdict.primary);
        for (name, route) in &pods {
            if route.role == Role::Superseded
                && let Some(pod) = self.pods.get_mut(name)
            {
                pod.barred = Some(self.memory.floor);
            }
        }
        let back = self.is_back(&verdict.primary);
        self.publish(verdict.primary, pods, back);
    }

    /// Before another is proven, the last primary's server is up again: others may follow it on its timeline.
    fn is_back(&mut self, primary: &Primary) -> bool {
        match primary {
            Primary::Proven { pod, .. } => {
                self.memory.last = Some(pod.name.clone());
                false
            }
            Primary::Nobody(_) => {
                let pods = &self.pods;
                self.memory.last.take_if(|name| pods.get(name).is_some_and(Pod::recovers)).is_some()
            }
        }
    }

    /// The incumbent loses its standing by its own word, or by being gone; never by silence.
    fn unseat_incumbent(&mut self) {
        let Some(incumbent) = &self.memory.incumbent else {
            return;
        };
        let pod = self.pods.get(&incumbent.pod.name).filter(|pod| pod.sighting.id == incumbent.pod);
        if pod.is_none_or(|pod| !pod.writes() || pod.is_stranger_to(self.memory.system)) {
            self.memory.incumbent = None;
        }
    }

    fn routes(&self, primary: &Primary) -> BTreeMap<PodName, Route> {
        let system = judge::system(&self.pods, &self.memory);
        let route = |pod: &Pod| Route {
            id: pod.sighting.id.clone(),
            address: pod.sighting.address,
            role: judge::role(pod, primary, &self.memory, system, &self.settings),
            draining: pod.sighting.leaving || self.marks.contains(pod.name()),
            ready: pod.sighting.ready,
            zone: pod.sighting.zone.clone(),
        };
        self.pods.iter().map(|(name, pod)| (name.clone(), route(pod))).collect()
    }

    /// The history of the timeline the primary is proven on, if it told that one.
    fn history(&self, primary: &Primary) -> Option<Arc<History>> {
        let Primary::Proven { pod, timeline } = primary else {
            return None;
        };
        if *timeline == Timeline(1) {
            return Some(Arc::clone(&self.first));
        }
        let told = self.pods.get(&pod.name).and_then(|pod| pod.history.as_ref());
        // It may have told the next one already, of the turn in which it will prove itself on that.
        let told_before = || self.table.history.as_ref().filter(|_| self.table.primary == *primary);
        told.filter(|history| history.timeline() == *timeline).or_else(told_before).cloned()
    }

    fn publish(&mut self, primary: Primary, pods: BTreeMap<PodName, Route>, back: bool) {
        let Memory { floor, stale, .. } = self.memory;
        let history = self.history(&primary);
        let old = &*self.table;
        let known = old.primary == primary && old.pods == pods && old.floor == floor && old.stale == stale;
        if known && old.history == history && !back {
            return;
        }
        let epoch = Epoch(old.epoch.0 + 1);
        let cluster = old.cluster.clone();
        let begins = matches!(primary, Primary::Proven { .. }) && primary != old.primary;
        let tenure = old.tenure + u64::from(begins) + u64::from(back);
        self.table = Arc::new(RoutingTable { cluster, epoch, primary, tenure, pods, floor, stale, history });
        self.unpublished = true;
    }
}
