//! A PostgreSQL cluster under Patroni from deploy/demo: started, asked, waited for. Truth is asked of PostgreSQL itself.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use tokio_postgres::{Client, Config, NoTls};

use super::kubelet::Kubelet;
use super::kubelet::images::{Image, Images, User};
use super::overlay::Overlay;
use super::plane::ControlPlane;
pub use super::pods::PodView;
use super::toolbox::{PatroniVersion, Toolbox};
use super::trouble::{Result, Trouble, Trying, eventually};

/// The image of deploy/demo without its tag.
pub const IMAGE: &str = "pgmoor-demo-patroni";
const PORT: u16 = 5432;
/// What deploy/demo lets in at once.
const CONNECTIONS: usize = 100;
/// How long a new cluster may take on a busy machine.
const START: Duration = Duration::from_secs(120);

/// A running cluster. Its pods end with the kubelet.
pub struct PatroniCluster {
    plane: Arc<ControlPlane>,
    kubelet: Arc<Kubelet>,
    namespace: String,
    version: PatroniVersion,
    passwords: BTreeMap<String, String>,
}

/// The image table's rows for deploy/demo: tag `4` is Patroni 4, tag `3` is Patroni 3.
pub fn images(toolbox: &Toolbox, plane: &ControlPlane) -> Result<Images> {
    // Patroni as pid 1 starts itself again by its own path, so it needs a program of its own as in any image.
    // Its children import that program, too, so it acts only when it is the main one.
    const PATRONI: &str =
        "#!/usr/bin/python3\nfrom patroni.__main__ import main\nif __name__ == '__main__':\n    main()\n";
    const PATRONICTL: &str =
        "#!/usr/bin/python3\nfrom patroni.ctl import ctl\nif __name__ == '__main__':\n    ctl(obj={})\n";
    let user = User::named("postgres")?;
    let mut images = Images::none();
    for (version, tag) in [(PatroniVersion::V4, "4"), (PatroniVersion::V3, "3")] {
        let bin = plane.folder().join(format!("patroni-{tag}-bin"));
        std::fs::create_dir_all(&bin)?;
        for (name, text) in [("patroni", PATRONI), ("patronictl", PATRONICTL)] {
            let program = bin.join(name);
            std::fs::write(&program, text)?;
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        }
        let library = toolbox.patroni(version).python_path;
        let image = Image::of_this_machine()
            .user(user)
            .bind(&bin, "/opt/patroni/bin")
            .bind(&library, "/opt/patroni/lib")
            .path("/opt/patroni/bin")
            .path(toolbox.postgres_bin())
            .env("PYTHONPATH", "/opt/patroni/lib")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        images = images.with(&format!("{IMAGE}:{tag}"), image);
    }
    Ok(images)
}

impl PatroniCluster {
    /// Applies deploy/demo in a namespace of its own and waits until one primary and all replicas are ready. With room for
    /// that many connections, if it says so.
    pub async fn start(
        plane: &Arc<ControlPlane>,
        kubelet: &Arc<Kubelet>,
        namespace: &str,
        version: PatroniVersion,
        replicas: usize,
        connections: Option<usize>,
    ) -> Result<Self> {
        let tag = match version {
            PatroniVersion::V3 => "3",
            PatroniVersion::V4 => "4",
        };
        let scale = serde_json::json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "demo"}, "spec": {"replicas": replicas}});
        let overlay = Overlay::of("demo", namespace).tag(IMAGE, tag).merge(scale.to_string());
        let room = |connections| format!("max_connections: {connections}");
        let overlay = overlay.replace(&room(CONNECTIONS), &room(connections.unwrap_or(CONNECTIONS)));
        // There are no Services here: until a test tells the pods where pgmoor is, their hook is refused at once.
        overlay.replace("http://pgmoor-admin:9187", "http://127.0.0.1:1").apply(&plane.kubectl()).await?;
        let secrets: Api<Secret> = Api::namespaced(plane.client()?, namespace);
        let secret = secrets.get("demo").await.trying(|| "reading the passwords of deploy/demo".to_owned())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let passwords =
            secret.data.unwrap_or_default().into_iter().map(|(user, bytes)| (user, text(bytes.0))).collect();
        let (plane, kubelet) = (Arc::clone(plane), Arc::clone(kubelet));
        let cluster = Self { plane, kubelet, namespace: namespace.to_owned(), version, passwords };
        cluster.wait_ready(replicas, START).await?;
        cluster.wait_primary(None, START).await?;
        Ok(cluster)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The kubelet that runs its pods: for the faults.
    pub fn kubelet(&self) -> &Arc<Kubelet> {
        &self.kubelet
    }

    /// The control plane it lives in.
    pub fn plane(&self) -> &Arc<ControlPlane> {
        &self.plane
    }

    /// What this Patroni writes into a leader's label `role`.
    pub fn leader_label(&self) -> &'static str {
        match self.version {
            PatroniVersion::V3 => "master",
            PatroniVersion::V4 => "primary",
        }
    }

    /// kubectl in this namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let words: Vec<&str> = ["--namespace", &self.namespace].iter().chain(args).copied().collect();
        self.plane.kubectl().run(&words).await
    }

    /// Its pods, by name.
    pub async fn pods(&self) -> Result<Vec<PodView>> {
        PodView::list(self.plane.client()?, &self.namespace, "cluster-name=demo").await
    }

    /// One pod.
    pub async fn pod(&self, name: &str) -> Result<PodView> {
        PodView::get(self.plane.client()?, &self.namespace, name).await
    }

    /// The labels of a pod.
    pub async fn labels(&self, pod: &str) -> Result<BTreeMap<String, String>> {
        Ok(self.pod(pod).await?.labels)
    }

    /// Where PostgreSQL of a pod listens, as the kubelet knows it: right even while the pod's status is old.
    pub fn address(&self, pod: &str) -> Result<SocketAddr> {
        let ip = self.kubelet.incarnation(&self.namespace, pod)?.ip();
        ip.map(|ip| (ip, PORT).into())
            .ok_or_else(|| Trouble::new(format!("pod {}/{pod} has no address yet", self.namespace)))
    }

    /// The password of a user of deploy/demo: `postgres`, `replicator`, `pgmoor`, `app`.
    pub fn password(&self, user: &str) -> Result<&str> {
        let key = match user {
            "postgres" => "superuser",
            "replicator" => "replication",
            other => other,
        };
        self.passwords
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| Trouble::new(format!("deploy/demo has no user {user}")))
    }

    /// The superuser's connection to a pod, past every proxy.
    pub async fn connect(&self, pod: &str) -> Result<Client> {
        self.connect_as(pod, "postgres", "postgres").await
    }

    /// A connection of any user of deploy/demo to a pod, past every proxy.
    pub async fn connect_as(&self, pod: &str, user: &str, database: &str) -> Result<Client> {
        connect_to(self.address(pod)?, user, self.password(user)?, database).await
    }

    /// Asks PostgreSQL of a pod whether it is a primary.
    pub async fn is_primary(&self, pod: &str) -> Result<bool> {
        let ask = async {
            let client = self.connect(pod).await?;
            let row = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await?;
            Ok(row.try_get(0)?)
        };
        tokio::time::timeout(Duration::from_secs(3), ask)
            .await
            .map_err(|_| Trouble::new(format!("{pod} does not answer")))?
    }

    /// Every pod whose PostgreSQL says it is a primary: two, while an old one is a zombie.
    pub async fn primaries(&self) -> Result<Vec<String>> {
        let pods = self.pods().await?;
        let asked = futures::future::join_all(pods.iter().map(|pod| self.is_primary(&pod.name))).await;
        let primaries = pods.into_iter().zip(asked).filter(|(_, answer)| matches!(answer, Ok(true)));
        Ok(primaries.map(|(pod, _)| pod.name).collect())
    }

    /// The holder of Patroni's leader lock: an annotation of the ConfigMap `demo-leader`.
    pub async fn leader(&self) -> Result<Option<String>> {
        let api: Api<ConfigMap> = Api::namespaced(self.plane.client()?, &self.namespace);
        let object = api.get_opt("demo-leader").await?;
        let annotations = object.and_then(|object| object.metadata.annotations).unwrap_or_default();
        Ok(annotations.get("leader").filter(|name| !name.is_empty()).cloned())
    }

    /// The primary: named by the leader lock, and its PostgreSQL agrees.
    pub async fn primary(&self) -> Result<String> {
        let leader = self.leader().await?.ok_or_else(|| Trouble::new("nobody holds the leader lock"))?;
        if self.is_primary(&leader).await? {
            Ok(leader)
        } else {
            Err(Trouble::new(format!("{leader} holds the lock but is in recovery")))
        }
    }

    /// Waits for a primary, one other than `not` when that is given.
    pub async fn wait_primary(&self, not: Option<&str>, limit: Duration) -> Result<String> {
        let found = || async { self.primary().await.ok().filter(|primary| Some(primary.as_str()) != not) };
        self.explained(eventually(&format!("a primary of {} other than {not:?}", self.namespace), limit, found).await)
            .await
    }

    /// Waits until there are this many pods, all ready, none ending, and each replica of them streams from the primary.
    pub async fn wait_ready(&self, replicas: usize, limit: Duration) -> Result<()> {
        let ready = || async {
            let pods = self.pods().await.ok()?;
            (pods.len() == replicas && pods.iter().all(|pod| pod.ready && !pod.terminating)).then_some(())?;
            let primary = self.connect(&self.primary().await.ok()?).await.ok()?;
            let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            let streams: i64 = primary.query_one(streaming, &[]).await.ok()?.try_get(0).ok()?;
            (usize::try_from(streams).ok()? + 1 >= replicas).then_some(())
        };
        self.explained(eventually(&format!("{replicas} ready pods of {}", self.namespace), limit, ready).await).await
    }

    /// Waits until none of the pods with these uids is left.
    pub async fn wait_replaced(&self, uids: &[String], limit: Duration) -> Result<()> {
        let replaced = || async { self.pods().await.ok()?.iter().all(|pod| !uids.contains(&pod.uid)).then_some(()) };
        self.explained(eventually(&format!("new pods of {}", self.namespace), limit, replaced).await).await
    }

    /// The last lines of every pod's log, and what `kubectl get pods` shows: for the text of a failure.
    pub async fn logs(&self, lines: usize) -> String {
        let mut text = self
            .kubectl(&["get", "pods", "-o", "wide", "--show-labels"])
            .await
            .unwrap_or_else(|trouble| trouble.to_string());
        for pod in self.pods().await.unwrap_or_default() {
            text.push_str(&self.kubelet.log_tail(&self.namespace, &pod.name, lines));
        }
        text
    }

    async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Ok(found) => Ok(found),
            Err(trouble) => Err(Trouble::new(format!("{trouble}\n{}", self.logs(40).await))),
        }
    }
}

/// A plain connection that gives up after five seconds; its driver ends with it.
pub async fn connect_to(address: SocketAddr, user: &str, password: &str, database: &str) -> Result<Client> {
    let mut config = Config::new();
    config.hostaddr(address.ip()).host(address.ip().to_string()).port(address.port());
    config.user(user).password(password).dbname(database).application_name("pgmoor tests");
    let connecting = config.connect(NoTls);
    let (client, connection) = match tokio::time::timeout(Duration::from_secs(5), connecting).await {
        Ok(connected) => connected.trying(|| format!("connecting to {address} as {user}"))?,
        Err(_) => {
            return Err(Trouble::new(format!("connecting to {address} as {user}: no answer in five seconds")));
        }
    };
    // Its errors reach the client's own calls.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
