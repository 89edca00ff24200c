//! Wires everything: starts the watches, the doors and the sessions, hands out what they share, and ends them in order.
//!
//! The only file that knows everyone. Order of the end: the listeners close, sessions leave at their next boundary, then
//! the watches stop, then the operators' door.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, SessionCounts, Sources};
use crate::backend::gate::{Gates, Pace};
use crate::config::{self, ClientTls, Config, Endpoint};
use crate::discovery::{self, Discovery, DiscoveryError, PodTls};
use crate::metrics::Metrics;
use crate::net;
use crate::net::tls::{ClientCerts, ServerFiles, TlsAcceptor, TlsError};
use crate::session::people::People;
use crate::session::registry::Registry;
use crate::session::{self, Realm, Shared, Terms};
use crate::shutdown::{Shutdown, ShutdownWatch};

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
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}; is another process using it?"),
            Self::Tls(whom, error) => write!(f, "TLS towards {whom}: {error}"),
            Self::Discovery(error) => write!(f, "cluster {}: {}", error.cluster, error.source),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn run(config: Config, path: PathBuf) -> Result<(), Failure> {
    let started = Instant::now();
    let other = |error: &dyn fmt::Display| Failure::Other(error.to_string());
    let metrics = Arc::new(Metrics::new().map_err(|error| other(&error))?);
    let (shutdown, watch) = Shutdown::new();
    let stop_watching = CancellationToken::new();
    let mut doors = Vec::new();
    for (endpoint, addresses) in [(Endpoint::Rw, &config.listen.rw), (Endpoint::Ro, &config.listen.ro)] {
        for address in addresses {
            doors.push((endpoint, bind(*address)?));
        }
    }
    let admin: Vec<TcpListener> = config.listen.admin.iter().map(|address| bind(*address)).collect::<Result<_, _>>()?;
    let mut watches = Vec::new();
    let mut realms = Vec::new();
    for cluster in &config.clusters {
        let (discovery, realm) = watch_cluster(cluster, &metrics, &stop_watching).await?;
        watches.push(discovery);
        realms.push(Arc::new(realm));
    }
    let tables = realms.iter().map(|realm| realm.routes.clone()).collect();
    let shared = Arc::new(share(&config, realms, Arc::clone(&metrics), watch.clone())?);
    let sources = Arc::new(Sources { metrics, tables, sessions: counter(&shared.registry), shutdown: watch.clone(), started });
    let mut tasks = JoinSet::new();
    for listener in admin {
        tasks.spawn(operators(listener, Arc::clone(&sources)));
    }
    for (endpoint, listener) in doors {
        info!(endpoint = endpoint.as_str(), address = ?listener.local_addr().ok(), "listening");
        tasks.spawn(clients(Arc::clone(&shared), listener, endpoint));
    }
    info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), clusters = config.clusters.len(), "pgmoor runs");

    stopped().await.map_err(|error| other(&error))?;
    info!(sessions = watch.running(), "draining");
    let left = shutdown.finish(config.continuity.drain_deadline).await;
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

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    net::listen(address).map_err(|error| Failure::Listen(address, error))
}

async fn watch_cluster(cluster: &config::Cluster, metrics: &Arc<Metrics>, stop: &CancellationToken) -> Result<(Discovery, Realm), Failure> {
    let tls = PodTls::new(cluster).map_err(|error| Failure::Tls(format!("the pods of cluster {}", cluster.name), error))?;
    let discovery = discovery::start(cluster, tls.clone(), Arc::clone(metrics), stop.clone()).await.map_err(Failure::Discovery)?;
    let evidence = discovery.evidence.clone();
    let realm = Realm {
        name: cluster.name.clone(),
        databases: cluster.databases.clone(),
        users: cluster.users.clone(),
        routes: discovery.routes.clone(),
        doubt: Box::new(move |pod, suspicion| evidence.report(pod, suspicion)),
        tls: Box::new(move |pod| tls.of(pod)),
    };
    Ok((discovery, realm))
}

fn share(config: &Config, realms: Vec<Arc<Realm>>, metrics: Arc<Metrics>, shutdown: ShutdownWatch) -> Result<Shared, Failure> {
    let (files, requires_tls) = match &config.tls {
        ClientTls::Off => (None, false),
        ClientTls::Prefer(files) => (Some(files), false),
        ClientTls::Require(files) => (Some(files), true),
    };
    let acceptor = files.map(|files| {
        let clients = files.client_ca.clone().map_or(ClientCerts::Ignore, ClientCerts::Require);
        TlsAcceptor::new(ServerFiles { cert: files.cert.clone(), key: files.key.clone(), clients })
    });
    let acceptor = acceptor.transpose().map_err(|error| Failure::Tls("clients".to_owned(), error))?;
    let (limits, continuity) = (&config.limits, &config.continuity);
    let width = |logins: usize| u32::try_from(logins).unwrap_or(u32::MAX);
    Ok(Shared {
        realms,
        people: People::new(&config.auth),
        acceptor,
        requires_tls,
        ro_falls_back: config.routing.ro_falls_back,
        zone: config.routing.zone.clone(),
        terms: Terms {
            login: limits.login_timeout,
            hold: continuity.hold,
            connect: continuity.connect_timeout,
            ask: continuity.ask,
            message_size: limits.message_size,
            session_state: limits.session_state,
        },
        gates: Gates::new(Pace { start: width(continuity.release_start), max: width(continuity.release_max) }),
        registry: Arc::default(),
        half_open: places(limits.startup_sessions),
        places: places(limits.sessions),
        held: places(continuity.held_sessions),
        metrics,
        shutdown,
    })
}

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

fn counter(registry: &Arc<Registry>) -> Arc<dyn Fn() -> SessionCounts + Send + Sync> {
    let registry = Arc::clone(registry);
    Arc::new(move || {
        let mut counts = SessionCounts::default();
        registry.each(|cluster, pod, state| counts.add(cluster, pod, state));
        counts
    })
}

/// Takes clients until the drain begins.
async fn clients(shared: Arc<Shared>, listener: TcpListener, endpoint: Endpoint) {
    let shutdown = shared.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.draining() => return,
        };
        match accepted {
            Ok((socket, _)) => {
                shutdown.spawn_session(session::serve(Arc::clone(&shared), socket, endpoint));
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
