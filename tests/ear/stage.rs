//! Ears in front of servers, with routes the test draws itself, and what a listening session would do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgmoor::auth::{Credentials, Password};
use pgmoor::backend::gate::{Gates, Pace};
use pgmoor::config::Databases;
use pgmoor::continuity::ear::{Channel, Heard, Notification};
use pgmoor::ids::{Epoch, PodId, Timeline};
use pgmoor::metrics::Metrics;
use pgmoor::net::Dial;
use pgmoor::net::tls::BackendTls;
use pgmoor::session::Realm;
use pgmoor::session::bell::Bell;
use pgmoor::session::ear::{Caller, Ears, Home, Subscription};
use pgmoor::shutdown::Shutdown;
use pgmoor::topology::evidence::Suspicion;
use pgmoor::topology::routing::{Primary, Role, Route, RoutingTable, Vacancy};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::pair::{PATIENCE, psql};
use crate::raw::Raw;

/// Silence that is long enough to be believed.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);

/// Ears, and the routes they see.
pub(crate) struct Stage {
    pub(crate) ears: Ears,
    pub(crate) realm: Arc<Realm>,
    pub(crate) home: Home,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gates: Gates,
    /// What they doubted.
    pub(crate) doubts: Arc<Mutex<Vec<(PodId, Suspicion)>>>,
    servers: BTreeMap<String, SocketAddr>,
    tables: watch::Sender<Arc<RoutingTable>>,
    /// Kept: when it is dropped, all ends.
    _shutdown: Shutdown,
}

pub(crate) fn pod(name: &str) -> PodId {
    PodId::new(name, "uid")
}

fn table(servers: &BTreeMap<String, SocketAddr>, epoch: u64, primary: Option<&str>) -> Arc<RoutingTable> {
    let timeline = Timeline(u32::try_from(epoch).unwrap());
    let route = |(name, address): (&String, &SocketAddr)| {
        let role = match primary {
            Some(primary) if primary == name => Role::Primary,
            Some(_) | None => Role::Unknown,
        };
        let id = pod(name);
        (id.name.clone(), Route { id, address: Some(*address), role, draining: false, ready: true, zone: None })
    };
    Arc::new(RoutingTable {
        cluster: "stage".into(),
        epoch: Epoch(epoch),
        primary: primary
            .map_or(Primary::Nobody(Vacancy::Unproven), |name| Primary::Proven { pod: pod(name), timeline }),
        tenure: epoch,
        pods: servers.iter().map(route).collect(),
        floor: timeline,
        stale: false,
        history: None,
    })
}

impl Stage {
    /// In front of these servers, the first of them the primary.
    pub(crate) fn new(servers: &[(&str, SocketAddr)]) -> Self {
        Self::with(servers, Some(servers[0].0), Dial::Tcp)
    }

    pub(crate) fn with(servers: &[(&str, SocketAddr)], primary: Option<&str>, dial: Dial) -> Self {
        Self::over(servers, primary, dial, BackendTls::disabled())
    }

    pub(crate) fn over(servers: &[(&str, SocketAddr)], primary: Option<&str>, dial: Dial, tls: BackendTls) -> Self {
        let servers: BTreeMap<_, _> = servers.iter().map(|(name, server)| ((*name).to_owned(), *server)).collect();
        let (tables, routes) = watch::channel(table(&servers, 1, primary));
        let doubts = Arc::<Mutex<Vec<_>>>::default();
        let noted = Arc::clone(&doubts);
        let (shutdown, watch) = Shutdown::new();
        let realm = Arc::new(Realm {
            name: "stage".into(),
            databases: Databases::Every,
            users: None,
            bell: Bell::hang(routes.clone(), &watch),
            routes,
            doubt: Arc::new(move |pod, suspicion| noted.lock().unwrap().push((pod.clone(), suspicion))),
            tls: Arc::new(move |_| tls.clone()),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let gates = Gates::new(Pace { start: 1, max: 4 });
        let ears = Ears::new(gates.clone(), dial, Arc::clone(&metrics), watch);
        let home = Home::new(&realm.name, "app");
        Self { ears, realm, home, metrics, gates, doubts, servers, tables, _shutdown: shutdown }
    }

    /// Shows another primary, or none.
    pub(crate) fn show(&self, primary: Option<&str>) {
        let epoch = self.tables.borrow().epoch.0 + 1;
        self.tables.send_replace(table(&self.servers, epoch, primary));
    }

    /// Shows the table again with this changed.
    pub(crate) fn change(&self, change: impl FnOnce(&mut RoutingTable)) {
        let mut changed = RoutingTable::clone(&self.tables.borrow());
        changed.epoch.0 += 1;
        change(&mut changed);
        self.tables.send_replace(Arc::new(changed));
    }

    /// A session of this user, and of everybody's password.
    pub(crate) fn caller(&self, user: &str) -> Caller {
        Caller {
            database: "app".to_owned(),
            user: user.to_owned(),
            credentials: Credentials::Password(Password::new(crate::postgres::PASSWORD)),
            encoding: "UTF8".to_owned(),
            timeout: Duration::from_secs(5),
        }
    }

    /// A session of user `app` that listens to these, confirmed.
    pub(crate) async fn listener(&self, channels: &[&str]) -> Subscription {
        self.listener_as("app", channels).await
    }

    pub(crate) async fn listener_as(&self, user: &str, channels: &[&str]) -> Subscription {
        let subscription = self.ears.subscribe(&self.realm, self.caller(user));
        listen(&subscription, channels).await;
        subscription
    }

    /// Waits until sessions may go to this pod.
    pub(crate) async fn ready(&self, name: &str) {
        timeout(PATIENCE, self.ears.ready(&self.home, &pod(name))).await.unwrap();
    }

    /// The value of one line of the metrics.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.render().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }
}

/// Adds channels, and waits until the server listens to them.
pub(crate) async fn listen(subscription: &Subscription, channels: &[&str]) {
    for channel in channels {
        subscription.add(&Channel::from(*channel));
    }
    for channel in channels {
        let confirmed = timeout(PATIENCE, subscription.confirmed(&Channel::from(*channel))).await;
        confirmed.unwrap_or_else(|_| panic!("{channel:?} is not confirmed")).unwrap();
    }
}

/// The next notification.
pub(crate) async fn next(subscription: &Subscription) -> Notification {
    match timeout(PATIENCE, subscription.next()).await.unwrap() {
        Heard::Notification(notification) => notification,
        Heard::Overrun => panic!("overrun"),
    }
}

/// Its channel and payload.
pub(crate) async fn next_text(subscription: &Subscription) -> (String, String) {
    let notification = next(subscription).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(notification.channel()), text(notification.payload()))
}

/// The next one's payload.
pub(crate) async fn payload(subscription: &Subscription) -> String {
    next_text(subscription).await.1
}

/// Nothing comes for a while.
pub(crate) async fn silent(subscription: &Subscription) {
    if let Ok(heard) = timeout(SILENCE, subscription.next()).await {
        panic!("heard {heard:?}");
    }
}

/// A session of its own on a server, that notifies.
pub(crate) struct Notifier(pub(crate) Raw);

impl Notifier {
    pub(crate) fn on(server: SocketAddr) -> Self {
        Self(Raw::login(server))
    }

    /// Notifies, and returns when it is committed.
    pub(crate) fn notify(&mut self, channel: &str, payload: &str) {
        let literal = |text: &str| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let reply = self.0.run(&format!("SELECT pg_notify({}, {})", literal(channel), literal(payload)));
        assert_eq!(reply.code(), "", "{reply:?}");
    }
}

/// What the server's view of its sessions says of the ears there.
pub(crate) fn ears_on(server: SocketAddr, column: &str) -> Vec<String> {
    let sql = format!("SELECT {column} FROM pg_stat_activity WHERE application_name = 'pgmoor listen' ORDER BY 1");
    psql(server, &sql).lines().map(str::to_owned).collect()
}
