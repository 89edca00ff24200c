//! Faults on demand, to a pod by name: crashes, freezes, lost nodes, deletions, a cut path to the API server.
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

use super::children::Signal;
use super::kubelet::Kubelet;
pub use super::kubelet::incarnation::Loss;
use super::kubelet::incarnation::Order;
use super::patroni::PatroniCluster;
use super::relay::Mode;
use super::trouble::{Result, Trouble, Trying};

/// Which processes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// Patroni's own, Python; PostgreSQL goes on. Stopped, this makes a primary a zombie.
    Patroni,
    /// PostgreSQL's; Patroni goes on.
    Postgres,
}

/// SIGKILL to every process of the pod at once. The kubelet starts its containers again: same uid, same address.
pub fn kill9(kubelet: &Kubelet, namespace: &str, pod: &str) -> Result<()> {
    let containers = kubelet.incarnation(namespace, pod)?.containers();
    if containers.is_empty() {
        return Err(Trouble::new(format!("no container of {namespace}/{pod} runs")));
    }
    // pid 1 of a namespace takes all others with it.
    containers.iter().try_for_each(|container| container.signal(Signal::Kill))
}

/// SIGSTOP to a part of the pod.
pub fn freeze(kubelet: &Kubelet, namespace: &str, pod: &str, part: Part) -> Result<()> {
    signal(kubelet, namespace, pod, part, Signal::Stop)
}

/// SIGCONT to a part of the pod.
pub fn thaw(kubelet: &Kubelet, namespace: &str, pod: &str, part: Part) -> Result<()> {
    signal(kubelet, namespace, pod, part, Signal::Cont)
}

/// A signal to a part of the pod.
pub fn signal(kubelet: &Kubelet, namespace: &str, pod: &str, part: Part, signal: Signal) -> Result<()> {
    let all = kubelet.incarnation(namespace, pod)?.containers();
    let chosen: Vec<u32> =
        all.iter().flat_map(|container| container.child().family()).filter(|pid| part.has(*pid)).collect();
    if chosen.is_empty() {
        return Err(Trouble::new(format!("{namespace}/{pod} has no process that is {part:?}")));
    }
    signal.send(&chosen)
}

/// The processes of the pod that call themselves this: `walsender`, `walreceiver`.
pub fn processes(kubelet: &Kubelet, namespace: &str, pod: &str, title: &str) -> Result<Vec<u32>> {
    let containers = kubelet.incarnation(namespace, pod)?.containers();
    let is_it =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.contains(title));
    Ok(containers.iter().flat_map(|container| container.child().family()).filter(is_it).collect())
}

impl Part {
    fn has(self, pid: u32) -> bool {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match self {
            Self::Whole => true,
            Self::Patroni => name.starts_with("python"),
            Self::Postgres => name == "postgres",
        }
    }
}

/// The pod's node is lost: see [`Loss`]. The API server is told nothing; the pod's labels and readiness stay.
pub async fn lose_node(kubelet: &Kubelet, namespace: &str, pod: &str, loss: Loss) -> Result<()> {
    kubelet.incarnation(namespace, pod)?.order(Order::Lose(loss)).await
}

/// The node of every lost incarnation of this name is back.
pub async fn return_node(kubelet: &Kubelet, namespace: &str, pod: &str) -> Result<()> {
    for incarnation in kubelet.incarnations(namespace, pod) {
        incarnation.order(Order::Return).await?;
    }
    Ok(())
}

/// Deletes a pod as `kubectl delete pod` does, with its own grace period or another; returns at once, the uid deleted.
/// 0 removes the object without waiting for its kubelet.
pub async fn delete_pod(cluster: &PatroniCluster, pod: &str, grace: Option<Duration>) -> Result<String> {
    let api: Api<Pod> = Api::namespaced(cluster.plane().client()?, cluster.namespace());
    let uid = cluster.pod(pod).await?.uid;
    let seconds = grace.map(|grace| u32::try_from(grace.as_secs())).transpose()?;
    let params = DeleteParams { grace_period_seconds: seconds, ..DeleteParams::default() };
    api.delete(pod, &params).await.trying(|| format!("deleting pod {pod}"))?;
    Ok(uid)
}

/// Sets what happens between the pods of this name and the API server; it stays over incarnations until set to `Pass`.
pub async fn api_path(kubelet: &Kubelet, namespace: &str, pod: &str, mode: Mode) -> Result<()> {
    kubelet.api_path(namespace, pod).await?.set(mode);
    Ok(())
}
