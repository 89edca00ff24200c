//! The three things a kubelet writes of one pod at the API server: that it is bound, its status, that it may go.
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::super::trouble::Result;
use super::incarnation::{Incarnation, Seen};
use super::status::Status;

/// The wait before a write that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// The writing side of one pod.
pub struct Register {
    api: Api<Pod>,
    name: String,
    uid: String,
    owed: bool,
}

impl Register {
    /// For this incarnation.
    pub fn new(client: kube::Client, about: &Incarnation) -> Self {
        let api = Api::namespaced(client, &about.namespace);
        Self { api, name: about.name.clone(), uid: about.uid.clone(), owed: false }
    }

    /// Binds the pod to our node, unless it is bound already; ends when it is, or is gone.
    pub async fn bind(&self, seen: &watch::Receiver<Seen>) {
        while let Some(pod) = Seen::pod(seen) {
            if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                return;
            }
            match self.bind_once().await {
                Ok(()) => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn bind_once(&self) -> Result<()> {
        let binding: Binding = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.name, "uid": self.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "moor"},
        }))?;
        let params = PostParams::default();
        let answer: std::result::Result<serde_json::Value, _> =
            self.api.create_subresource("binding", &self.name, &params, &binding).await;
        match answer {
            Ok(_) => Ok(()),
            // Bound by an earlier try whose answer was lost, or removed.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the pod's status. While it cannot be told, that is owed.
    pub async fn tell(&mut self, status: &Status) {
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid}, "status": status.object()}));
        let params = PatchParams::default();
        let telling = self.api.patch_status(&self.name, &params, &patch);
        self.owed = match timeout(Duration::from_secs(5), telling).await {
            Ok(Ok(_)) => false,
            // Removed.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => false,
            Ok(Err(_)) | Err(_) => true,
        };
    }

    /// Is there news of the pod that the API server has not got?
    pub fn owes(&self) -> bool {
        self.owed
    }

    /// The kubelet's last word: the object may go.
    pub async fn remove(&self, seen: &watch::Receiver<Seen>) {
        let only_this = Preconditions { uid: Some(self.uid.clone()), ..Preconditions::default() };
        let now =
            DeleteParams { grace_period_seconds: Some(0), preconditions: Some(only_this), ..DeleteParams::default() };
        while Seen::pod(seen).is_some() {
            match self.api.delete(&self.name, &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}
