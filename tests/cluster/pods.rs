//! Pods as the API server shows them.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::Api;
use kube::api::ListParams;

use super::trouble::{Result, Trying};

/// A pod as the API server shows it.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub uid: String,
    /// Its address, once the kubelet has told it.
    pub ip: Option<Ipv4Addr>,
    /// Its condition Ready.
    pub ready: bool,
    /// Has it a deletionTimestamp?
    pub terminating: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often its containers were started again.
    pub restarts: i32,
}

impl PodView {
    /// The pods of a namespace that have these labels, by name.
    pub async fn list(client: kube::Client, namespace: &str, selector: &str) -> Result<Vec<Self>> {
        let api: Api<Pod> = Api::namespaced(client, namespace);
        let found =
            api.list(&ListParams::default().labels(selector)).await.trying(|| format!("pods of {namespace}"))?;
        let mut pods: Vec<_> = found.items.into_iter().map(Self::of).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// One pod.
    pub async fn get(client: kube::Client, namespace: &str, name: &str) -> Result<Self> {
        let api: Api<Pod> = Api::namespaced(client, namespace);
        Ok(Self::of(api.get(name).await.trying(|| format!("pod {namespace}/{name}"))?))
    }

    /// Patroni's label `role`.
    pub fn role(&self) -> Option<&str> {
        self.labels.get("role").map(String::as_str)
    }

    fn of(pod: Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let is_ready = |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            ip: status.pod_ip.and_then(|ip| ip.parse().ok()),
            ready: status.conditions.iter().flatten().any(is_ready),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            labels: pod.metadata.labels.unwrap_or_default(),
            restarts: status.container_statuses.iter().flatten().map(|container| container.restart_count).sum(),
        }
    }
}
