//! Wires everything: starts the watches, the doors and the sessions, hands out what they share, and ends them in order.
//!
//! The only one that knows everyone. Order of the end: the listeners close, sessions leave at their next boundary, then
//! the watches stop, then the operators' door.

mod changes;
mod ebb;
mod keeper;
mod operator;
mod reading;
mod release;
mod reload;
mod share;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, SessionCounts, Sources};
use crate::config::{self, Config, Endpoint, LogLevel};
use crate::discovery::patroni::Patroni;
use crate::discovery::{self, Discovery, DiscoveryError, PodTls};
use crate::metrics::Metrics;
use crate::net::tls::TlsError;
use crate::net::{self, Stream, outbox};
use crate::session::bell::Bell;
use crate::session::registry::Registry;
use crate::session::{self, Realm, Shared};
use crate::shutdown::{Shutdown, ShutdownWatch};

use operator::{Operator, Ward};
use reading::Reading;
use reload::Reload;

/// Changes the level of the running log.
pub type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Why pgmoor cannot run.
#[derive(Debug)]
pub enum Failure {
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// TLS cannot be set up; says towards whom.
    Tls(String, TlsError),
    /// A cluster cannot be watched.
    Discovery(DiscoveryError),
    /// A fault of our own or of the system.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}; is another process using it?")
            }
            Self::Tls(whom, error) => write!(f, "TLS towards {whom}: {error}"),
            Self::Discovery(error) => write!(f, "cluster {}: {}", error.cluster, error.source),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs until SIGTERM or SIGINT, then drains. `path` is where `config` came from: it is read again after a SIGHUP, and when
/// it or a file it names has changed.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(config: Config, path: PathBuf, set_level: SetLevel) -> Result<(), Failure> {
    let started = Instant::now();
    let other = |error: &dyn fmt::Display| Failure::Other(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| other(&error))?);
    let (shutdown, watch) = Shutdown::new();
    let stop_watching = CancellationToken::new();
    // Before the certificates are read: what changes from here on is noticed.
    let reading = Reading::take(&path);
    tell_of_io_uring(&config);
    let doors = doors(&config)?;
    let admin: Vec<TcpListener> = config.listen.admin.iter().map(|address| bind(*address)).collect::<Result<_, _>>()?;
    let mut watches = Vec::new();
    let mut realms = Vec::new();
    for cluster in &config.clusters {
        let (discovery, realm) = watch_cluster(cluster, &metrics, &watch, &stop_watching).await?;
        watches.push(discovery);
        realms.push(Arc::new(realm));
    }
    let tables: Vec<_> = realms.iter().map(|realm| realm.routes.clone()).collect();
    let mut tasks = JoinSet::new();
    let first = share::first(&config, realms, Arc::clone(&metrics), watch.clone());
    let shared = Arc::new(first.map_err(|error| Failure::Tls("clients".to_owned(), error))?);
    for routes in &tables {
        tasks.spawn(release::paced(routes.clone(), shared.gates.clone()));
    }
    tasks.spawn(keeper::sweep(shared.pools.clone(), tables.clone()));
    let (clusters, registry) = (config.clusters.clone(), Arc::clone(&shared.registry));
    tasks.spawn(ebb::watch(Arc::clone(&registry), watch.clone()));
    let mut reload = Reload::new(config, path, &reading, shared, set_level).map_err(|error| other(&error))?;
    tasks.spawn(keeper::keep(reload.shared(), tables.clone(), Arc::clone(&metrics)));
    let operator = operator(&clusters, &watches, &registry, &metrics, &reload.config(), &mut tasks)?;
    let (sessions, in_force) = (counter(&registry), reload.config());
    let sources = Arc::new(Sources {
        metrics,
        tables,
        sessions,
        shutdown: watch.clone(),
        started,
        obey: Arc::new(operator).obey(),
        token: Arc::new(move || in_force.borrow().listen.admin_token.clone()),
    });
    for listener in admin {
        tasks.spawn(operators(listener, Arc::clone(&sources)));
    }
    for (endpoint, listener) in doors {
        info!(endpoint = endpoint.as_str(), address = ?listener.local_addr().ok(), "listening");
        tasks.spawn(clients(reload.shared(), listener, endpoint));
    }
    let clusters = clusters.len();
    info!(version = env!("CARGO_PKG_VERSION"), config = %reload.path().display(), clusters, "pgmoor runs");

    tokio::select! {
        stopped = stopped() => stopped.map_err(|error| other(&error))?,
        never = reload.run() => match never {},
    }
    info!(sessions = watch.running(), "draining");
    let left = shutdown.finish(reload.drain_deadline()).await;
    if left > 0 {
        warn!(sessions = left, "ended with sessions that were in the midst of something");
    }
    stop_watching.cancel();
    for discovery in watches {
        discovery.stopped().await;
    }
    while tasks.join_next().await.is_some() {}
    info!("pgmoor ends");
    Ok(())
}

/// Where clients come in.
fn doors(config: &Config) -> Result<Vec<(Endpoint, TcpListener)>, Failure> {
    let mut doors = Vec::new();
    for (endpoint, addresses) in [(Endpoint::Rw, &config.listen.rw), (Endpoint::Ro, &config.listen.ro)] {
        for address in addresses {
            doors.push((endpoint, bind(*address)?));
        }
    }
    Ok(doors)
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    net::listen(address).map_err(|error| Failure::Listen(address, error))
}

async fn watch_cluster(
    cluster: &config::Cluster,
    metrics: &Arc<Metrics>,
    shutdown: &ShutdownWatch,
    stop: &CancellationToken,
) -> Result<(Discovery, Realm), Failure> {
    let tls =
        PodTls::new(cluster).map_err(|error| Failure::Tls(format!("the pods of cluster {}", cluster.name), error))?;
    let discovery =
        discovery::start(cluster, tls.clone(), Arc::clone(metrics), stop.clone()).await.map_err(Failure::Discovery)?;
    let evidence = discovery.evidence.clone();
    let realm = Realm {
        name: cluster.name.clone(),
        databases: cluster.databases.clone(),
        users: cluster.users.clone(),
        routes: discovery.routes.clone(),
        bell: Bell::hang(discovery.routes.clone(), shutdown),
        doubt: Arc::new(move |pod, suspicion| evidence.report(pod, suspicion)),
        tls: Arc::new(move |pod| tls.of(pod)),
    };
    Ok((discovery, realm))
}

/// Makes the one who carries operators' orders out; what they mark is looked after by a task for each cluster.
fn operator(
    clusters: &[config::Cluster],
    watches: &[Discovery],
    registry: &Arc<Registry>,
    metrics: &Arc<Metrics>,
    in_force: &watch::Receiver<Arc<Config>>,
    tasks: &mut JoinSet<()>,
) -> Result<Operator, Failure> {
    let mut wards = Vec::new();
    for (cluster, discovery) in clusters.iter().zip(watches) {
        let ward = Arc::new(ward(cluster, discovery, registry, metrics, in_force.clone())?);
        tasks.spawn(operator::keep(Arc::clone(&ward)));
        wards.push(ward);
    }
    Ok(Operator::new(wards))
}

/// What an operator's orders to a cluster need. A CA that cannot be read is told now, and read again when it is needed.
fn ward(
    cluster: &config::Cluster,
    discovery: &Discovery,
    registry: &Arc<Registry>,
    metrics: &Arc<Metrics>,
    in_force: watch::Receiver<Arc<Config>>,
) -> Result<Ward, Failure> {
    if let Some(patroni) = &cluster.patroni {
        Patroni::new(patroni)
            .map_err(|error| Failure::Tls(format!("the Patroni of cluster {}", cluster.name), error))?;
    }
    Ok(Ward {
        name: cluster.name.clone(),
        routes: discovery.routes.clone(),
        drains: discovery.drains.clone(),
        patroni: cluster.patroni.clone(),
        registry: Arc::clone(registry),
        metrics: Arc::clone(metrics),
        patience: Arc::new(move || {
            let continuity = &in_force.borrow().continuity;
            // Those who have left wait meanwhile, and Patroni needs its time as well.
            continuity.drain_deadline.min(continuity.hold / 2)
        }),
        marks: Mutex::default(),
        switching: Mutex::default(),
        timed: Notify::new(),
    })
}

/// Whether it is to be had where it is wanted.
fn tell_of_io_uring(config: &Config) {
    match config.limits.io_uring.then(outbox::probe) {
        Some(Ok(())) => info!("short messages leave together, by io_uring"),
        Some(Err(error)) => info!(%error, "no io_uring here (limits.io_uring): each message is sent by itself"),
        None => {}
    }
}

fn counter(registry: &Arc<Registry>) -> Arc<dyn Fn() -> SessionCounts + Send + Sync> {
    let registry = Arc::clone(registry);
    Arc::new(move || {
        let mut counts = SessionCounts::default();
        registry.each(|cluster, pod, state| counts.add(cluster, pod, state));
        counts
    })
}

/// Takes clients until the drain begins; each is given what holds when it comes.
async fn clients(shared: watch::Receiver<Arc<Shared>>, listener: TcpListener, endpoint: Endpoint) {
    let shutdown = shared.borrow().shutdown.clone();
    // One wait for all of them: a client that comes begins none.
    let mut draining = pin!(shutdown.draining());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let shared = Arc::clone(&shared.borrow());
                shutdown.spawn_session(session::serve(shared, Stream::from(socket), Some(peer), endpoint));
            }
            Err(error) => {
                // Out of file descriptors, most likely: others have to leave first.
                warn!(%error, endpoint = endpoint.as_str(), "a client could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn operators(listener: TcpListener, sources: Arc<Sources>) {
    if let Err(error) = admin::serve(listener, sources).await {
        warn!(%error, "the operators' door is closed");
    }
}

/// Returns once SIGTERM or SIGINT has come.
async fn stopped() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
