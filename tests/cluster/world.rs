//! One control plane and one kubelet for all tests of a test binary, gone when the last of them has ended.
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::kubelet::Kubelet;
use super::patroni::{self, PatroniCluster};
use super::plane::ControlPlane;
use super::toolbox::{PatroniVersion, Toolbox};
use super::trouble::{Result, Trouble};

static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());

/// A control plane, a kubelet and the runtime they live in. Each test uses namespaces of its own.
pub struct World {
    /// The control plane.
    pub plane: Arc<ControlPlane>,
    /// The kubelet of every namespace.
    pub kubelet: Arc<Kubelet>,
    /// Where all programs are.
    pub toolbox: Toolbox,
    // Last: the others end inside of it.
    runtime: Option<Runtime>,
}

impl World {
    /// The world of this test binary: the one another test has, or a new one. It ends with the last who holds it, so
    /// hold it for the whole test.
    pub fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(world) = shared.upgrade() {
            return Ok(world);
        }
        let world = Arc::new(Self::own()?);
        *shared = Arc::downgrade(&world);
        Ok(world)
    }

    /// A world that no other test sees: for faults of the control plane itself.
    pub fn own() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(4).build()?;
        let (toolbox, plane, kubelet) = runtime.block_on(async {
            let toolbox = Toolbox::ready().await?;
            let plane = Arc::new(ControlPlane::start(&toolbox).await?);
            let kubelet = Arc::new(Kubelet::start(&plane, patroni::images(&toolbox, &plane)?)?);
            Ok::<_, Trouble>((toolbox, plane, kubelet))
        })?;
        Ok(Self { plane, kubelet, toolbox, runtime: Some(runtime) })
    }

    /// Runs a test's future on the world's runtime.
    pub fn run<T>(&self, test: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(test),
            None => unreachable!("only drop takes the runtime"),
        }
    }

    /// Starts a Patroni cluster in a namespace of its own.
    pub async fn patroni(&self, namespace: &str, version: PatroniVersion, replicas: usize) -> Result<PatroniCluster> {
        PatroniCluster::start(&self.plane, &self.kubelet, namespace, version, replicas, None).await
    }

    /// The same with three pods, and room for that many connections in each PostgreSQL.
    pub async fn roomy(&self, namespace: &str, version: PatroniVersion, connections: usize) -> Result<PatroniCluster> {
        PatroniCluster::start(&self.plane, &self.kubelet, namespace, version, 3, Some(connections)).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Every task ends here, and with it every container and all that holds the kubelet's folder.
            runtime.shutdown_timeout(Duration::from_secs(20));
        }
    }
}
