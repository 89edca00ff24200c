//! The stage of a test: a Patroni cluster in a namespace of its own, with pgmoor deployed in front of it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};

use crate::cluster::overlay::Overlay;
use crate::cluster::patroni::PatroniCluster;
use crate::cluster::proxy::{Port, Proxy};
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::cluster::world::World;

/// Patroni's ttl of 20 s, a promotion, and the patience a busy machine needs.
pub const FAILOVER: Duration = Duration::from_secs(90);

/// One cluster and its pgmoor.
pub struct Stage {
    pub cluster: PatroniCluster,
    pub proxy: Proxy,
    name: String,
    // Last: the others end inside of it.
    _world: Arc<World>,
}

impl Stage {
    /// Sets the stage and plays; what failed is told with everybody's logs.
    pub fn play<F: Future<Output = ()>>(
        name: &str,
        version: PatroniVersion,
        adapt: impl FnOnce(Overlay) -> Overlay,
        test: impl FnOnce(Arc<Self>) -> F,
    ) {
        Self::set(name, async |world: &World| world.patroni(name, version, 3).await.unwrap(), adapt, test);
    }

    /// The same, each PostgreSQL having room for so many connections.
    pub fn play_roomy<F: Future<Output = ()>>(
        name: &str,
        connections: usize,
        adapt: impl FnOnce(Overlay) -> Overlay,
        test: impl FnOnce(Arc<Self>) -> F,
    ) {
        let start = async |world: &World| world.roomy(name, PatroniVersion::V4, connections).await.unwrap();
        Self::set(name, start, adapt, test);
    }

    fn set<F: Future<Output = ()>>(
        name: &str,
        start: impl AsyncFnOnce(&World) -> PatroniCluster,
        adapt: impl FnOnce(Overlay) -> Overlay,
        test: impl FnOnce(Arc<Self>) -> F,
    ) {
        let world = World::shared().unwrap();
        let held = Arc::clone(&world);
        held.run(async move {
            let began = Instant::now();
            let cluster = start(&world).await;
            let binary = Path::new(env!("CARGO_BIN_EXE_pgmoor"));
            let proxy = Proxy::deploy(&cluster, binary, adapt).await.unwrap();
            println!("{name}: cluster and pgmoor up after {:.1} s", began.elapsed().as_secs_f64());
            let stage = Arc::new(Self { _world: world, cluster, proxy, name: name.to_owned() });
            test(stage).await;
        });
    }

    /// One client session as user `app` through one of pgmoor's pods, chosen by `seed`.
    pub async fn client(&self, port: Port, seed: usize) -> Client {
        let addresses = self.proxy.addresses(port).await.unwrap();
        let address = addresses[seed % addresses.len()];
        let mut config = tokio_postgres::Config::new();
        config.hostaddr(address.ip()).host(address.ip().to_string()).port(address.port());
        config.user("app").password(self.cluster.password("app").unwrap()).dbname("app");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Says something measured, with the test's name.
    pub fn tell(&self, what: &str) {
        println!("{}: {what}", self.name);
    }

    /// Changes Patroni's dynamic configuration through its REST interface.
    pub async fn configure(&self, json: &str) {
        let primary = self.cluster.primary().await.unwrap();
        let ip = self.cluster.pod(&primary).await.unwrap().ip.unwrap();
        let mut rest = TcpStream::connect((ip, 8008)).await.unwrap();
        let request = format!(
            "PATCH /config HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        );
        rest.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        rest.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(" 200 "), "Patroni refused {json}: {answer}");
    }

    /// Turns synchronous replication on and waits until Patroni has written down who may be promoted: PostgreSQL waits
    /// for the standby one turn of Patroni's loop earlier, and until then nobody could take over.
    pub async fn synchronous(&self) {
        self.configure(r#"{"synchronous_mode": true}"#).await;
        let path = "jsonpath={.metadata.annotations.sync_standby}";
        let sync = || async {
            let standby = self.cluster.kubectl(&["get", "configmap", "demo-sync", "-o", path]).await.ok()?;
            (!standby.trim().is_empty()).then_some(())
        };
        eventually("a synchronous standby", FAILOVER, sync).await.unwrap();
    }

    /// A metric of all pgmoor pods, summed: every line that begins with `prefix`.
    pub async fn metric(&self, prefix: &str) -> f64 {
        let mut sum = 0.0;
        for address in self.proxy.addresses(Port::Admin).await.unwrap() {
            let mut http = TcpStream::connect(address).await.unwrap();
            http.write_all(b"GET /metrics HTTP/1.1\r\nHost: pgmoor\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            http.read_to_string(&mut text).await.unwrap();
            sum += text
                .lines()
                .filter(|line| line.starts_with(prefix))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>();
        }
        sum
    }

    /// Everybody's last words, for the text of a failure.
    pub async fn logs(&self) -> String {
        format!("{}\n{}", self.proxy.logs(60).await, self.cluster.logs(20).await)
    }
}
