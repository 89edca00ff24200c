//! A kubelet whose containers are processes of this machine, with all of a kubelet that a StatefulSet relies on.
//!
//! ```text
//!   mod          watches pods; one task each
//!   pod          a pod from its binding to its removal      register   what is written of it at the API server
//!   incarnation  what others may know and order of it       status     what its status says
//!   supervise    a container over its restarts              probe      is it ready, is it alive
//!   container    namespaces and a root of its own           node       addresses, storage, paths to the API server
//!   setup        manifest -> sources, volumes, launches     volumes    claims by name, ConfigMaps, Secrets, tokens
//!   spec         manifest -> variables, words, mounts       images     how an image runs here
//! ```
//! What is not there: a scheduler (every pod fits), a network plugin (a pod's address is a loopback address of this
//! machine, fresh for each incarnation), volume provisioning (a claim is a folder), image pulls (a table), `kubectl exec`.
pub mod container;
pub mod images;
pub mod incarnation;
pub mod node;
mod pod;
mod probe;
mod register;
mod setup;
mod spec;
mod status;
mod supervise;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::plane::ControlPlane;
use super::relay::Relay;
use super::trouble::{Result, Trouble};
use images::Images;
use incarnation::{Incarnation, Seen};
use node::Node;
use pod::PodTask;

/// The running kubelet. Dropping it ends every container.
pub struct Kubelet {
    node: Arc<Node>,
    pods: Pods,
    task: JoinHandle<()>,
}

/// Every pod seen and not removed yet, by uid.
type Pods = Arc<Mutex<BTreeMap<String, Known>>>;

struct Known {
    about: Arc<Incarnation>,
    seen: watch::Sender<Seen>,
    order: u64,
}

impl Kubelet {
    /// Starts to serve every pod of the plane. Needs root and a tokio runtime that outlives it.
    pub fn start(plane: &Arc<ControlPlane>, images: Images) -> Result<Self> {
        if !super::toolbox::is_root() {
            return Err(Trouble::new(
                "the test cluster's containers need root: mounts and PID namespaces of their own",
            ));
        }
        let node = Arc::new(Node::new(Arc::clone(plane), images)?);
        let pods = Pods::default();
        let task = tokio::spawn(watch_pods(Arc::clone(&node), Arc::clone(&pods)));
        Ok(Self { node, pods, task })
    }

    /// Adds images to the table.
    pub fn add_images(&self, add: impl FnOnce(Images) -> Images) {
        let mut images = self.node.images();
        let before = std::mem::take(&mut *images);
        *images = add(before);
    }

    /// The newest incarnation of the pod of this name.
    pub fn incarnation(&self, namespace: &str, pod: &str) -> Result<Arc<Incarnation>> {
        let newest = self.incarnations(namespace, pod).pop();
        newest.ok_or_else(|| Trouble::new(format!("the kubelet knows no pod {namespace}/{pod}")))
    }

    /// All incarnations of this name that are not removed yet, the oldest first.
    pub fn incarnations(&self, namespace: &str, pod: &str) -> Vec<Arc<Incarnation>> {
        let pods = lock(&self.pods);
        let mut found: Vec<_> =
            pods.values().filter(|known| known.about.namespace == namespace && known.about.name == pod).collect();
        found.sort_by_key(|known| known.order);
        found.into_iter().map(|known| Arc::clone(&known.about)).collect()
    }

    /// The path that the pods of this name have to the API server: what a test stalls or cuts. It stays over incarnations.
    pub async fn api_path(&self, namespace: &str, pod: &str) -> Result<Arc<Relay>> {
        self.node.api_path(namespace, pod).await
    }

    /// The last lines of every log of the newest incarnation.
    pub fn log_tail(&self, namespace: &str, pod: &str, lines: usize) -> String {
        let Ok(about) = self.incarnation(namespace, pod) else {
            return format!("no log of {namespace}/{pod}");
        };
        let logs = about.logs();
        logs.iter().map(|log| format!("--- {}\n{}\n", log.display(), super::children::tail(log, lines))).collect()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch_pods(node: Arc<Node>, pods: Pods) {
    let api: Api<Pod> = Api::all(node.client.clone());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    let mut tasks = JoinSet::new();
    let mut listed = BTreeSet::new();
    let mut order = 0;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.metadata.uid.clone());
                    order += 1;
                    show(&node, &pods, pod, order, &mut tasks);
                }
                Some(Ok(Event::InitDone)) => {
                    for (_, known) in lock(&pods).iter().filter(|(uid, _)| !listed.contains(*uid)) {
                        known.seen.send_replace(Seen::Gone);
                    }
                }
                Some(Ok(Event::Apply(pod))) => {
                    order += 1;
                    show(&node, &pods, pod, order, &mut tasks);
                }
                Some(Ok(Event::Delete(pod))) => {
                    if let Some(known) = lock(&pods).get(&pod.metadata.uid.unwrap_or_default()) {
                        known.seen.send_replace(Seen::Gone);
                    }
                }
                // The API server is away; the watcher tries again, and pods run on meanwhile.
                Some(Err(_)) => tokio::time::sleep(Duration::from_millis(300)).await,
                None => return,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn show(node: &Arc<Node>, pods: &Pods, pod: Pod, order: u64, tasks: &mut JoinSet<()>) {
    let Some(uid) = pod.metadata.uid.clone() else {
        return;
    };
    let mut known = lock(pods);
    if let Some(known) = known.get(&uid) {
        known.seen.send_replace(Seen::There(Arc::new(pod)));
        return;
    }
    let (seen, watched) = watch::channel(Seen::There(Arc::new(pod.clone())));
    let Ok((task, about)) = PodTask::new(Arc::clone(node), &pod, watched) else {
        return;
    };
    known.insert(uid.clone(), Known { about, seen, order });
    let pods = Arc::clone(pods);
    tasks.spawn(async move {
        task.run().await;
        lock(&pods).remove(&uid);
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
