//! pgmoor itself from deploy/pgmoor: its pods run a binary of this machine beside a Patroni cluster, with its own RBAC.
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::kubelet::Kubelet;
use super::kubelet::images::Image;
use super::overlay::Overlay;
use super::patroni::{PatroniCluster, connect_to};
use super::plane::ControlPlane;
use super::pods::PodView;
use super::trouble::{Result, Trouble, eventually};

/// The image of deploy/pgmoor, with the tag it has there.
pub const IMAGE: &str = "pgmoor:0.1.0";
const SELECTOR: &str = "app.kubernetes.io/name=pgmoor";

/// A port of pgmoor's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Leads to the primary.
    Rw,
    /// Leads to a replica.
    Ro,
    /// HTTP for operators.
    Admin,
}

impl Port {
    fn number(self) -> u16 {
        match self {
            Self::Rw => 5432,
            Self::Ro => 5433,
            Self::Admin => 9187,
        }
    }
}

/// pgmoor's Deployment in the namespace of a Patroni cluster.
pub struct Proxy {
    plane: Arc<ControlPlane>,
    kubelet: Arc<Kubelet>,
    namespace: String,
    app_password: String,
}

impl Proxy {
    /// Applies deploy/pgmoor for this cluster, its image being `binary`, and waits until its pods are ready. `adapt` may
    /// change the manifests as any overlay may, e.g. `|o| o.replace("[log]", "[continuity]\n    hold = \"5s\"\n    [log]")`.
    pub async fn deploy(
        cluster: &PatroniCluster,
        binary: &Path,
        adapt: impl FnOnce(Overlay) -> Overlay,
    ) -> Result<Self> {
        let inside = "/usr/local/bin/pgmoor";
        let image = Image::of_this_machine().bind(std::path::absolute(binary)?, inside).entrypoint([inside]);
        cluster.kubelet().add_images(|images| images.with(IMAGE, image));
        // The API server of the tests knows disruption budgets by their beta name only.
        let overlay =
            Overlay::of("pgmoor", cluster.namespace()).replace("apiVersion: policy/v1", "apiVersion: policy/v1beta1");
        adapt(overlay).apply(&cluster.plane().kubectl()).await?;
        let proxy = Self {
            plane: Arc::clone(cluster.plane()),
            kubelet: Arc::clone(cluster.kubelet()),
            namespace: cluster.namespace().to_owned(),
            app_password: cluster.password("app")?.to_owned(),
        };
        proxy.wait_ready(Duration::from_secs(60)).await?;
        Ok(proxy)
    }

    /// Waits until every pod the Deployment wants is there and ready, and no other.
    pub async fn wait_ready(&self, limit: Duration) -> Result<()> {
        let limit_seconds = format!("--timeout={}s", limit.as_secs());
        let rollout = ["--namespace", &self.namespace, "rollout", "status", "deployment/pgmoor", &limit_seconds];
        if let Err(trouble) = self.plane.kubectl().run(&rollout).await {
            return Err(Trouble::new(format!("{trouble}\n{}", self.logs(40).await)));
        }
        let settled =
            || async { self.pods().await.ok()?.iter().all(|pod| pod.ready && !pod.terminating).then_some(()) };
        eventually("the old pods of pgmoor to go", limit, settled).await
    }

    /// Its pods, by name.
    pub async fn pods(&self) -> Result<Vec<PodView>> {
        PodView::list(self.plane.client()?, &self.namespace, SELECTOR).await
    }

    /// Where a port of every ready pod is.
    pub async fn addresses(&self, port: Port) -> Result<Vec<SocketAddr>> {
        let pods = self.pods().await?.into_iter().filter(|pod| pod.ready && !pod.terminating);
        Ok(pods.filter_map(|pod| pod.ip).map(|ip| (ip, port.number()).into()).collect())
    }

    /// A connection of user `app` to database `app` through the first ready pod.
    pub async fn connect(&self, port: Port) -> Result<Client> {
        let addresses = self.addresses(port).await?;
        let address = addresses.first().ok_or_else(|| Trouble::new("no pod of pgmoor is ready"))?;
        connect_to(*address, "app", &self.app_password, "app").await
    }

    /// The last lines of every pod's log.
    pub async fn logs(&self, lines: usize) -> String {
        let pods = self.pods().await.unwrap_or_default();
        pods.iter().map(|pod| self.kubelet.log_tail(&self.namespace, &pod.name, lines)).collect()
    }
}
