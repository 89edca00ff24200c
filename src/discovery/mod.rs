//! The watch of one cluster: it hears Kubernetes (or a fixed list), asks the pods, and publishes where each role is.
//! It is the shell of the topology machine, which decides everything; labels are known only in this folder.

mod fixed;
mod kubernetes;
mod leader;
mod news;
mod past;
pub mod patroni;
mod picture;
mod preset;
mod probe;
mod sighting;
mod tls;
mod watch;

#[cfg(test)]
mod tests;

pub use kubernetes::AccessError;
pub use tls::PodTls;

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch as latest};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backend::Target;
use crate::config;
use crate::ids::{ClusterName, PodId, PodName};
use crate::metrics::Metrics;
use crate::topology::evidence::{Event, ProbeFailure, Suspicion};
use crate::topology::routing::RoutingTable;
use crate::topology::{Command, Settings, Topology};
use past::{Past, Skip, Untold};
use probe::{Answer, Asker, Kept};

/// Sightings, doubts or drain marks waiting to be taken in.
const WAITING: usize = 256;

/// Why a cluster cannot be watched at all.
#[derive(Debug, thiserror::Error)]
#[error("cluster {cluster}: {source}")]
pub struct DiscoveryError {
    /// Whose watch it is.
    pub cluster: ClusterName,
    /// What is missing.
    #[source]
    pub source: AccessError,
}

/// The watch of one cluster, running.
#[derive(Debug)]
pub struct Discovery {
    /// The newest routing table. Before the first news it is epoch 0: no pods, no primary. A change of lag and LSNs alone
    /// is there for whoever looks, but wakes nobody.
    pub routes: latest::Receiver<Arc<RoutingTable>>,
    /// Where sessions report what does not fit.
    pub evidence: EvidenceSender,
    /// Where operators mark pods to be left.
    pub drains: DrainSender,
    task: JoinHandle<()>,
}

impl Discovery {
    /// Waits until the watch has ended, after the shutdown was asked for.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the watch of a cluster ended in a fault");
        }
    }
}

/// Reports what sessions see. Clones report to the same watch.
#[derive(Clone, Debug)]
pub struct EvidenceSender(mpsc::Sender<(PodId, Suspicion)>);

impl EvidenceSender {
    /// Reports; never waits. In a storm of reports some are dropped: the first ones have asked the question already.
    pub fn report(&self, pod: &PodId, suspicion: Suspicion) {
        let _ = self.0.try_send((pod.clone(), suspicion));
    }
}

/// Marks pods to be left. Clones mark for the same watch.
#[derive(Clone, Debug)]
pub struct DrainSender(mpsc::Sender<(PodName, bool)>);

impl DrainSender {
    /// Sets (`true`) or clears the mark; it follows the name through all its incarnations. False if the watch has ended.
    pub async fn mark(&self, pod: PodName, on: bool) -> bool {
        self.0.send((pod, on)).await.is_ok()
    }
}

/// Starts the watch of one cluster; it ends when `shutdown` is cancelled. Must be called within a tokio runtime.
///
/// # Errors
/// The Kubernetes credentials are missing or cannot be used. An API server that cannot be reached is no error: the watch
/// goes on trying.
pub async fn start(
    cluster: &config::Cluster,
    tls: PodTls,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<Discovery, DiscoveryError> {
    let (events, sightings) = mpsc::channel(WAITING);
    let mut sources = JoinSet::new();
    let doubts = Arc::new(Notify::new());
    match &cluster.discovery {
        config::Discovery::Kubernetes(settings) => {
            let source = kubernetes::Kubernetes::new(settings.clone(), events).await;
            let source = source.map_err(|source| DiscoveryError { cluster: cluster.name.clone(), source })?;
            sources.spawn(source.run());
        }
        config::Discovery::Fixed(pods) => {
            sources.spawn(fixed::run(pods.clone(), events, Arc::clone(&doubts)));
        }
    }
    let settings = Settings {
        probe_interval: cluster.probe.interval,
        probe_deadline: cluster.probe.timeout,
        lag_limit: Some(cluster.lag_limit),
        ..Settings::default()
    };
    let topology = Topology::new(cluster.name.clone(), settings, Instant::now().into_std());
    let (tables, routes) = latest::channel(Arc::clone(topology.table()));
    let (evidence, suspicions) = mpsc::channel(WAITING);
    let (drains, marks) = mpsc::channel(WAITING);
    let shell = Shell {
        topology,
        asker: Arc::new(Asker::new(&cluster.probe)),
        tls,
        tables,
        metrics,
        doubts,
        kept: BTreeMap::new(),
        asking: JoinSet::new(),
        failing: BTreeMap::new(),
        untold: Untold::default(),
    };
    let inputs = Inputs { sources, sightings, suspicions, marks };
    Ok(Discovery {
        routes,
        evidence: EvidenceSender(evidence),
        drains: DrainSender(drains),
        task: tokio::spawn(async move {
            // Everything below is dropped at a shutdown: watches, probes and their connections with it.
            let _ = shutdown.run_until_cancelled(shell.run(inputs)).await;
        }),
    })
}

/// Where the news come from.
struct Inputs {
    /// The task that watches; dropped with the shell.
    sources: JoinSet<()>,
    sightings: mpsc::Receiver<Event>,
    suspicions: mpsc::Receiver<(PodId, Suspicion)>,
    marks: mpsc::Receiver<(PodName, bool)>,
}

/// The topology machine's hands.
struct Shell {
    topology: Topology,
    asker: Arc<Asker>,
    tls: PodTls,
    tables: latest::Sender<Arc<RoutingTable>>,
    metrics: Arc<Metrics>,
    /// A pod did not answer: its name may lead elsewhere now.
    doubts: Arc<Notify>,
    /// Connections between two questions. One in flight is with its question.
    kept: BTreeMap<PodId, Kept>,
    /// Questions in flight: one per pod, the machine sees to that, and each ends at its deadline.
    asking: JoinSet<(PodId, Answer)>,
    /// Whose last probe failed, and how.
    failing: BTreeMap<PodId, ProbeFailure>,
    /// Who could not tell its timeline's history.
    untold: Untold,
}

impl Shell {
    async fn run(mut self, mut inputs: Inputs) {
        loop {
            let wake = self.topology.poll_timeout();
            let timer = async move {
                match wake {
                    Some(at) => sleep_until(Instant::from_std(at)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(event) = inputs.sightings.recv() => self.handle(event),
                Some((pod, suspicion)) = inputs.suspicions.recv() => self.doubt(pod, suspicion),
                Some((pod, on)) = inputs.marks.recv() => self.handle(Event::Drain { pod, on }),
                Some(ended) = self.asking.join_next() => match ended {
                    Ok((pod, answer)) => self.answered(pod, answer),
                    // The machine forgets a question that brings nothing.
                    Err(error) => tracing::error!(%error, "a probe ended in a fault"),
                },
                Some(ended) = inputs.sources.join_next() => {
                    tracing::error!(?ended, "the watch has ended; what is known is kept");
                    self.handle(Event::WatchLost);
                }
                () = timer => self.handle(Event::Tick),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.topology.handle(Instant::now().into_std(), event);
        while let Some(command) = self.topology.poll() {
            match command {
                Command::Publish(table) => self.publish(table),
                Command::Probe { pod, address } => self.ask(pod, address),
            }
        }
    }

    fn doubt(&mut self, pod: PodId, suspicion: Suspicion) {
        match suspicion {
            // An old connection cannot tell whether a new one can be had.
            Suspicion::ConnectFailed => {
                if let Some(kept) = self.kept.get_mut(&pod) {
                    kept.distrust();
                }
            }
            Suspicion::ReadOnly | Suspicion::ShuttingDown | Suspicion::Vanished => {}
        }
        self.handle(Event::Doubted { pod, suspicion });
    }

    fn ask(&mut self, pod: PodId, address: SocketAddr) {
        let asker = Arc::clone(&self.asker);
        let tls = self.tls.of(&pod.name);
        let kept = self.kept.remove(&pod).filter(|kept| kept.leads_to(address));
        let skip = Skip { told: self.topology.told_by(&pod), untold: self.untold.hushed(&pod, Instant::now()) };
        let target = Target { pod, address, tls, dial: crate::net::Dial::Tcp };
        self.asking.spawn(async move {
            let answer = asker.ask(&target, kept, skip).await;
            (target.pod, answer)
        });
    }

    fn answered(&mut self, pod: PodId, answer: Answer) {
        let Answer { outcome, why, past, kept } = answer;
        self.metrics.probed(&self.topology.table().cluster, label(outcome.as_ref().err().copied()));
        let here = self.topology.table().pods.get(&pod.name).is_some_and(|route| route.id == pod);
        if here {
            if let Some(kept) = kept {
                self.kept.insert(pod.clone(), kept);
            }
            self.note(&pod, outcome.as_ref().err().copied(), why);
            self.take(&pod, past);
        }
        if outcome.is_err() {
            self.doubts.notify_one();
        }
        self.handle(Event::Probed { pod, outcome });
    }

    /// The history comes before the answer it belongs to: sessions decide by the first table that names a new primary.
    fn take(&mut self, pod: &PodId, past: Past) {
        match past {
            Past::NotAsked => {}
            Past::Told(history) => {
                self.untold.told(pod);
                self.handle(Event::HistoryRead { pod: pod.clone(), history });
            }
            Past::Untold(timeline, lack) => {
                if self.untold.failed(pod, timeline, Instant::now()) {
                    let (cluster, why) = (&self.topology.table().cluster, self.asker.advice(&lack));
                    tracing::warn!(
                        %cluster, %pod, %timeline, %why,
                        "the timeline's history cannot be read; it is tried again. Without it a COMMIT that was in flight \
                         at a failover stays unknown (08007)"
                    );
                }
            }
        }
    }

    /// Logs how a pod's probes fare, when that changes.
    fn note(&mut self, pod: &PodId, failure: Option<ProbeFailure>, why: Option<String>) {
        let before = match failure {
            Some(failure) => self.failing.insert(pod.clone(), failure),
            None => self.failing.remove(pod),
        };
        let cluster = &self.topology.table().cluster;
        let why = why.unwrap_or_default();
        match failure {
            None if before.is_some() => {
                tracing::info!(%cluster, %pod, "the pod answers probes again")
            }
            Some(ProbeFailure::Refused) if before != failure => {
                tracing::error!(%cluster, %pod, %why, "the pod refuses probes; look at [cluster.probe]");
            }
            Some(failure) if before != Some(failure) => {
                tracing::warn!(%cluster, %pod, ?failure, %why, "the pod does not answer probes");
            }
            None | Some(_) => {}
        }
    }

    fn publish(&mut self, table: Arc<RoutingTable>) {
        let here = |pod: &PodId| table.pods.get(&pod.name).is_some_and(|route| route.id == *pod);
        self.kept.retain(|pod, _| here(pod));
        self.failing.retain(|pod, _| here(pod));
        self.untold.retain(here);
        let old = Arc::clone(&self.tables.borrow());
        // Whoever looks sees the newest table; sessions are woken only when their ways have changed, not by every probe
        // of a busy replica.
        self.tables.send_if_modified(|newest| {
            *newest = Arc::clone(&table);
            !old.same_ways(&table)
        });
        let (cluster, epoch) = (&table.cluster, table.epoch);
        match news::between(&old, &table) {
            Some(why) => {
                tracing::info!(%cluster, %epoch, primary = %news::primary(&table), %why, "routing table");
            }
            None => tracing::trace!(%cluster, %epoch, "routing table: lag and LSNs only"),
        }
        self.metrics.observe_table(&table);
    }
}

/// How a probe ended, as the metrics say it.
const fn label(failure: Option<ProbeFailure>) -> &'static str {
    match failure {
        None => "answered",
        Some(ProbeFailure::Unreachable) => "unreachable",
        Some(ProbeFailure::TimedOut) => "timed_out",
        Some(ProbeFailure::NotAccepting) => "not_accepting",
        Some(ProbeFailure::Refused) => "refused",
        Some(ProbeFailure::Garbled) => "garbled",
    }
}
