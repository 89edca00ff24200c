//! What pgmoor counts and measures, in Prometheus' terms. Labels are our own words or configured names: their number is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tokio::time::Instant;

use crate::config::Endpoint;
use crate::continuity::pins::Pin;
use crate::error::Code;
use crate::ids::{ClusterName, PodName};
use crate::topology::routing::RoutingTable;

/// Seconds; a hold is a failover (seconds) or a rolling update's step (tens of seconds).
const HOLD_BUCKETS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0];
/// Seconds; joining a backend is a connect, a login and a restore: each a round trip or a few.
const JOIN_BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What a session is doing, as the gauge `pgmoor_sessions` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// Not logged in yet.
    Login,
    /// Logged in, without a backend, and without need of one.
    Loose,
    /// On a backend.
    Attached,
    /// Waiting for a pod that can serve it.
    Held,
    /// Connecting to a backend, or bringing it to the session's state.
    Joining,
}

impl SessionState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Login, Self::Loose, Self::Attached, Self::Held, Self::Joining];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Loose => "loose",
            Self::Attached => "attached",
            Self::Held => "held",
            Self::Joining => "joining",
        }
    }
}

/// Which way relayed bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to PostgreSQL.
    ToBackend,
    /// From PostgreSQL to the client.
    ToClient,
}

impl Direction {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToBackend => "to_backend",
            Self::ToClient => "to_client",
        }
    }
}

/// A step of joining a backend, timed by `pgmoor_join_seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinStep {
    /// TCP and TLS.
    Connect,
    /// Startup and authentication.
    Login,
    /// Bringing the backend to the session's state.
    Restore,
}

impl JoinStep {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Restore => "restore",
        }
    }
}

/// What came of reading the configuration again, counted by `pgmoor_reloads_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Something had changed, and holds now as far as it can without a restart.
    Ok,
    /// Something is wrong with it: everything stays as it was.
    Failed,
    /// It means the same as before.
    Unchanged,
}

impl Reload {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What a backend is doing, as labels.
const BACKENDS: [&str; 2] = ["lent", "idle"];

/// Everything that is counted. One per process, passed as `Arc<Metrics>`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By endpoint. What is counted for every connection is looked up once.
    sessions: [Arc<ByState>; Endpoint::ALL.len()],
    connections: [IntCounter; Endpoint::ALL.len()],
    switches: IntCounterVec,
    holds: IntGauge,
    hold_seconds: Histogram,
    join_seconds: HistogramVec,
    to_backend: IntCounter,
    to_client: IntCounter,
    errors: IntCounterVec,
    probes: IntCounterVec,
    cancels: IntCounterVec,
    pins: IntCounterVec,
    pinned_now: IntGaugeVec,
    replays: IntCounterVec,
    commits: IntCounterVec,
    fenced: IntCounter,
    listeners: IntGaugeVec,
    notifications: IntCounter,
    overruns: IntCounter,
    auth_failures: IntCounter,
    reloads: IntCounterVec,
    switchovers: IntCounterVec,
    drain_marks: IntGaugeVec,
    backends: IntGaugeVec,
    pool_waiting: IntGaugeVec,
    pod_role: IntGaugeVec,
    route_epoch: IntGaugeVec,
    timeline: IntGaugeVec,
    table_stale: IntGaugeVec,
    /// The pods `pod_role` shows now, per cluster: those that go are taken out of it.
    shown: Mutex<BTreeMap<ClusterName, BTreeSet<PodName>>>,
}

type ByState = [IntGauge; SessionState::ALL.len()];

/// One session in `pgmoor_sessions`; leaves the gauge when dropped.
#[derive(Debug)]
pub struct SessionGauge {
    by_state: Arc<ByState>,
    state: SessionState,
}

/// One session in `pgmoor_listeners`; leaves the gauge when dropped.
#[derive(Debug)]
pub struct ListenerGauge {
    listeners: IntGauge,
}

/// One session in `pgmoor_holds`; when dropped it leaves the gauge and its length is observed.
#[derive(Debug)]
pub struct HoldGauge {
    holds: IntGauge,
    seconds: Histogram,
    since: Instant,
}

impl Metrics {
    /// A registry of its own with every metric in it.
    ///
    /// # Errors
    /// A metric was named badly or twice: a fault of this file, which its test would show.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let bytes = counters(r, "bytes_total", "Bytes relayed.", &["direction"])?;
        let build = gauges(r, "build_info", "1, with this build's version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let connections = counters(r, "connections_total", "Client connections accepted.", &["endpoint"])?;
        Ok(Self {
            sessions: sessions(r)?,
            connections: Endpoint::ALL.map(|endpoint| connections.with_label_values(&[endpoint.as_str()])),
            switches: counters(
                r,
                "switches_total",
                "Times a session left its backend for another, by reason and outcome.",
                &["reason", "outcome"],
            )?,
            holds: gauge(r, "holds", "Sessions waiting for a pod that can serve them.")?,
            hold_seconds: histogram(r, "hold_seconds", "How long sessions waited for a pod.")?,
            join_seconds: histograms(r, "join_seconds", "Time to join a backend, by step.", &["step"])?,
            to_backend: bytes.with_label_values(&[Direction::ToBackend.as_str()]),
            to_client: bytes.with_label_values(&[Direction::ToClient.as_str()]),
            backends: gauges(r, "backends", "Backends open, by what they are doing.", &["cluster", "pod", "state"])?,
            pool_waiting: gauges(r, "pool_waiting", "Sessions in line for a backend.", &["cluster", "pod"])?,
            errors: counters(r, "errors_total", "Errors pgmoor itself told a client.", &["code"])?,
            probes: counters(r, "probes_total", "Probes of pods, by outcome.", &["cluster", "outcome"])?,
            cancels: counters(r, "cancels_total", "Cancel requests, by outcome.", &["outcome"])?,
            pins: counters(r, "pins_total", "Times a session became tied to its backend, by reason.", &["reason"])?,
            pinned_now: gauges(r, "pinned_sessions", "Sessions tied to their backend now, by reason.", &["reason"])?,
            replays: counters(
                r,
                "replays_total",
                "Transactions and statements that lost their server, by what became of them, and why.",
                &["outcome", "reason"],
            )?,
            commits: counters(
                r,
                "commit_outcomes_total",
                "COMMITs whose answer was lost, by what became of them.",
                &["outcome"],
            )?,
            fenced: counter(r, "fenced_total", "Backends cut because their primary was superseded.")?,
            listeners: gauges(r, "listeners", "Sessions that listen to channels.", &["cluster"])?,
            notifications: counter(r, "notifications_total", "Notifications passed on to sessions.")?,
            overruns: counter(
                r,
                "listener_overruns_total",
                "Sessions that notifications came too fast for, and that had to end.",
            )?,
            auth_failures: counter(r, "auth_failures_total", "Logins refused for a wrong user or password.")?,
            reloads: counters(r, "reloads_total", "Times the configuration was read again, by outcome.", &["outcome"])?,
            switchovers: counters(
                r,
                "switchovers_total",
                "Switchovers asked of Patroni on an operator's order, by outcome.",
                &["cluster", "outcome"],
            )?,
            drain_marks: gauges(r, "drain_marks", "Pods that operators have marked to be left.", &["cluster"])?,
            pod_role: gauges(
                r,
                "pod_role",
                "1 for the role a pod has now, 0 for the others.",
                &["cluster", "pod", "role"],
            )?,
            route_epoch: gauges(r, "route_epoch", "The number of the routing table in use.", &["cluster"])?,
            timeline: gauges(r, "timeline", "The highest timeline proven on a primary.", &["cluster"])?,
            table_stale: gauges(r, "table_stale", "1 while the watch of the cluster is broken.", &["cluster"])?,
            shown: Mutex::default(),
            registry,
        })
    }

    /// Counts a session in, until the guard is dropped.
    pub fn session(&self, endpoint: Endpoint, state: SessionState) -> SessionGauge {
        let by_state = Arc::clone(&self.sessions[endpoint as usize]);
        by_state[state as usize].inc();
        SessionGauge { by_state, state }
    }

    /// A client connected.
    pub fn connected(&self, endpoint: Endpoint) {
        self.connections[endpoint as usize].inc();
    }

    /// A session left its backend for another, or tried to.
    pub fn switched(&self, reason: &'static str, outcome: &'static str) {
        self.switches.with_label_values(&[reason, outcome]).inc();
    }

    /// A session starts to wait; the wait ends when the guard is dropped.
    pub fn hold(&self) -> HoldGauge {
        self.holds.inc();
        HoldGauge { holds: self.holds.clone(), seconds: self.hold_seconds.clone(), since: Instant::now() }
    }

    /// The sessions waiting now.
    pub fn holds(&self) -> u64 {
        u64::try_from(self.holds.get()).unwrap_or_default()
    }

    /// A step of joining a backend took this long.
    pub fn joined(&self, step: JoinStep, took: Duration) {
        self.join_seconds.with_label_values(&[step.as_str()]).observe(took.as_secs_f64());
    }

    /// This many bytes were relayed. Cheap; still, sessions call it at boundaries, not per read.
    pub fn bytes(&self, direction: Direction, count: u64) {
        match direction {
            Direction::ToBackend => self.to_backend.inc_by(count),
            Direction::ToClient => self.to_client.inc_by(count),
        }
    }

    /// A client was told this.
    pub fn error(&self, code: Code) {
        self.errors.with_label_values(&[code.label()]).inc();
    }

    /// A probe ended.
    pub fn probed(&self, cluster: &ClusterName, outcome: &'static str) {
        self.probes.with_label_values(&[cluster.as_str(), outcome]).inc();
    }

    /// A cancel request was dealt with.
    pub fn cancelled(&self, outcome: &'static str) {
        self.cancels.with_label_values(&[outcome]).inc();
    }

    /// A session became tied to its backend.
    pub fn pinned(&self, reason: &'static str) {
        self.pins.with_label_values(&[reason]).inc();
        self.pinned_now.with_label_values(&[reason]).inc();
    }

    /// It is not any more, or it has ended.
    pub fn unpinned(&self, reason: &'static str) {
        self.pinned_now.with_label_values(&[reason]).dec();
    }

    /// How many sessions are tied now, by reason; those there are.
    pub fn pins(&self) -> BTreeMap<String, u64> {
        let count =
            |pin: Pin| u64::try_from(self.pinned_now.with_label_values(&[pin.as_str()]).get()).unwrap_or_default();
        let pins = Pin::ALL.into_iter().map(|pin| (pin.as_str().to_owned(), count(pin)));
        pins.filter(|(_, count)| *count > 0).collect()
    }

    /// A transaction that lost its server was run again, or not.
    pub fn replayed(&self, outcome: &'static str, reason: &'static str) {
        self.replays.with_label_values(&[outcome, reason]).inc();
    }

    /// A COMMIT whose answer was lost was asked for.
    pub fn commit_settled(&self, outcome: &'static str) {
        self.commits.with_label_values(&[outcome]).inc();
    }

    /// A backend was cut because its primary was superseded.
    pub fn fenced(&self) {
        self.fenced.inc();
    }

    /// Counts a session that listens in, until the guard is dropped.
    pub fn listener(&self, cluster: &ClusterName) -> ListenerGauge {
        let listeners = self.listeners.with_label_values(&[cluster.as_str()]);
        listeners.inc();
        ListenerGauge { listeners }
    }

    /// A notification was passed on to a session.
    pub fn notified(&self) {
        self.notifications.inc();
    }

    /// Notifications came too fast for a session.
    pub fn overrun(&self) {
        self.overruns.inc();
    }

    /// A login was refused.
    pub fn auth_failed(&self) {
        self.auth_failures.inc();
    }

    /// The configuration was read again.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A switchover was tried.
    pub fn switchover(&self, cluster: &ClusterName, outcome: &'static str) {
        self.switchovers.with_label_values(&[cluster.as_str(), outcome]).inc();
    }

    /// So many pods are marked to be left now.
    pub fn drain_marks(&self, cluster: &ClusterName, count: usize) {
        self.drain_marks.with_label_values(&[cluster.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The backends on one pod: lent to sessions, idle; and the sessions in line for one.
    pub fn backends(&self, cluster: &ClusterName, pod: &PodName, lent: usize, idle: usize, waiting: usize) {
        let (cluster, pod) = (cluster.as_str(), pod.as_str());
        for (state, count) in BACKENDS.into_iter().zip([lent, idle]) {
            self.backends.with_label_values(&[cluster, pod, state]).set(saturating(count as u64));
        }
        self.pool_waiting.with_label_values(&[cluster, pod]).set(saturating(waiting as u64));
    }

    /// Shows a new routing table; pods that are not in it any more disappear.
    pub fn observe_table(&self, table: &RoutingTable) {
        let cluster = table.cluster.as_str();
        self.route_epoch.with_label_values(&[cluster]).set(saturating(table.epoch.0));
        self.timeline.with_label_values(&[cluster]).set(i64::from(table.floor.0));
        self.table_stale.with_label_values(&[cluster]).set(i64::from(table.stale));

        let mut shown = self.shown.lock();
        let before = shown.entry(table.cluster.clone()).or_default();
        for gone in before.iter().filter(|pod| !table.pods.contains_key(*pod)) {
            for role in ROLES {
                // Not there is as good as removed.
                let _ = self.pod_role.remove_label_values(&[cluster, gone.as_str(), role]);
            }
            for state in BACKENDS {
                let _ = self.backends.remove_label_values(&[cluster, gone.as_str(), state]);
            }
            let _ = self.pool_waiting.remove_label_values(&[cluster, gone.as_str()]);
        }
        *before = table.pods.keys().cloned().collect();
        for (pod, route) in &table.pods {
            let now = route.role.as_str();
            for role in ROLES {
                self.pod_role.with_label_values(&[cluster, pod.as_str(), role]).set(i64::from(role == now));
            }
        }
    }

    /// Everything in Prometheus' text format (content type [`prometheus::TEXT_FORMAT`]).
    ///
    /// # Errors
    /// The encoder refused; it does for a family without metrics, which the registry does not give.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl SessionGauge {
    /// The session does something else now.
    pub fn becomes(&mut self, state: SessionState) {
        if self.state != state {
            self.by_state[self.state as usize].dec();
            self.by_state[state as usize].inc();
            self.state = state;
        }
    }

    /// What it does now.
    pub const fn state(&self) -> SessionState {
        self.state
    }
}

impl Drop for SessionGauge {
    fn drop(&mut self) {
        self.by_state[self.state as usize].dec();
    }
}

impl Drop for ListenerGauge {
    fn drop(&mut self) {
        self.listeners.dec();
    }
}

impl Drop for HoldGauge {
    fn drop(&mut self) {
        self.holds.dec();
        self.seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

fn sessions(r: &Registry) -> Result<[Arc<ByState>; Endpoint::ALL.len()], prometheus::Error> {
    let all = gauges(r, "sessions", "Client sessions by what they are doing.", &["endpoint", "state"])?;
    Ok(Endpoint::ALL.map(|endpoint| {
        let one = |state: SessionState| all.with_label_values(&[endpoint.as_str(), state.as_str()]);
        Arc::new(SessionState::ALL.map(one))
    }))
}

/// All that `topology::routing::Role::as_str` can say.
const ROLES: [&str; 4] = ["primary", "replica", "superseded", "unknown"];

fn saturating(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn named(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pgmoor")
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::with_opts(named(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(named(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::with_opts(named(name, help))?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(named(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::from(named(name, help)).buckets(HOLD_BUCKETS.to_vec());
    let metric = Histogram::with_opts(opts)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::from(named(name, help)).buckets(JOIN_BUCKETS.to_vec());
    let metric = HistogramVec::new(opts, labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests;
