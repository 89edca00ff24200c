//! What sessions are given, made from the configuration: at the start, and anew for the sessions that come after a reload.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::backend::gate::{Gates, Pace};
use crate::backend::pool::{Bounds, Pools};
use crate::config::{ClientTls, Cluster, Config, PoolMode};
use crate::continuity::Settings;
use crate::metrics::Metrics;
use crate::net::Dial;
use crate::net::tls::{ClientCerts, ServerFiles, TlsAcceptor, TlsError};
use crate::session::dice::Dice;
use crate::session::ear::Ears;
use crate::session::people::People;
use crate::session::{Realm, Shared, Terms};
use crate::shutdown::ShutdownWatch;

/// Waits between two tries to join, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// What the first sessions are given.
///
/// # Errors
/// The certificate towards clients cannot be used.
pub(super) fn first(
    config: &Config,
    realms: Vec<Arc<Realm>>,
    metrics: Arc<Metrics>,
    shutdown: ShutdownWatch,
) -> Result<Shared, TlsError> {
    let (limits, continuity) = (&config.limits, &config.continuity);
    let width = |logins: usize| u32::try_from(logins).unwrap_or(u32::MAX);
    let gates = Gates::new(Pace { start: width(continuity.release_start), max: width(continuity.release_max) });
    let dial = Dial::default();
    Ok(Shared {
        ears: Ears::new(gates.clone(), dial.clone(), Arc::clone(&metrics), shutdown.clone()),
        realms,
        people: Arc::new(People::new(&config.auth)),
        identities: Arc::default(),
        acceptor: acceptor(&config.tls)?,
        requires_tls: requires_tls(&config.tls),
        ro_falls_back: config.routing.ro_falls_back,
        settings: Arc::new(settings(config)),
        terms: terms(config),
        gates,
        pools: Pools::new(bounds(config)),
        seen: Arc::default(),
        dial,
        dice: Dice::default(),
        registry: Arc::default(),
        half_open: places(limits.startup_sessions),
        places: places(limits.sessions),
        held: places(continuity.held_sessions),
        metrics,
        shutdown,
    })
}

/// What sessions are given from now on, where `config` holds instead of `before`. `new_files`: the files of `[tls]` have
/// changed. Counts, gates and watches go on.
///
/// # Errors
/// The certificate towards clients cannot be used.
pub(super) fn anew(shared: &Shared, before: &Config, config: &Config, new_files: bool) -> Result<Shared, TlsError> {
    let acceptor = if new_files || config.tls != before.tls { acceptor(&config.tls)? } else { shared.acceptor.clone() };
    shared.pools.rebound(bounds(config));
    // The keys derived from passwords are worth keeping.
    let same_people = config.auth == before.auth;
    let people = if same_people { Arc::clone(&shared.people) } else { Arc::new(shared.people.renewed(&config.auth)) };
    Ok(Shared {
        realms: shared.realms.iter().map(|realm| admitting(realm, &config.clusters)).collect(),
        people,
        acceptor,
        requires_tls: requires_tls(&config.tls),
        ro_falls_back: config.routing.ro_falls_back,
        settings: Arc::new(settings(config)),
        terms: terms(config),
        ..shared.clone()
    })
}

/// The same cluster, for the databases and users it is for now.
fn admitting(realm: &Arc<Realm>, clusters: &[Cluster]) -> Arc<Realm> {
    match clusters.iter().find(|cluster| cluster.name == realm.name) {
        Some(cluster) if cluster.databases != realm.databases || cluster.users != realm.users => {
            let (databases, users) = (cluster.databases.clone(), cluster.users.clone());
            Arc::new(Realm { databases, users, ..Realm::clone(realm) })
        }
        Some(_) | None => Arc::clone(realm),
    }
}

fn acceptor(tls: &ClientTls) -> Result<Option<TlsAcceptor>, TlsError> {
    let files = match tls {
        ClientTls::Off => return Ok(None),
        ClientTls::Prefer(files) | ClientTls::Require(files) => files,
    };
    let clients = files.client_ca.clone().map_or(ClientCerts::Ignore, ClientCerts::Require);
    TlsAcceptor::new(&ServerFiles { cert: files.cert.clone(), key: files.key.clone(), clients }).map(Some)
}

fn requires_tls(tls: &ClientTls) -> bool {
    match tls {
        ClientTls::Require(_) => true,
        ClientTls::Off | ClientTls::Prefer(_) => false,
    }
}

fn bounds(config: &Config) -> Bounds {
    let pool = &config.pool;
    Bounds { size: pool.size, min: pool.min, pod_size: pool.pod_size, idle: pool.idle, lifetime: pool.lifetime }
}

fn settings(config: &Config) -> Settings {
    let continuity = &config.continuity;
    Settings {
        zone: config.routing.zone.clone(),
        hold: continuity.hold,
        drain: continuity.drain_deadline,
        retry_first: RETRY.0,
        retry_most: RETRY.1,
    }
}

fn terms(config: &Config) -> Terms {
    let (limits, continuity) = (&config.limits, &config.continuity);
    Terms {
        login: limits.login_timeout,
        hold: continuity.hold,
        connect: continuity.connect_timeout,
        ask: continuity.ask,
        pools: config.pool.mode == PoolMode::Transaction,
        lifetime: config.pool.lifetime,
        statements: config.pool.statements,
        replay: continuity.replay.clone(),
        guard: continuity.commit_guard,
        message_size: limits.message_size,
        session_state: limits.session_state,
    }
}

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}
