//! What a test puts before every PostgreSQL. pgmoor is told another port than PostgreSQL's own; there, on each pod's own
//! address, stands an outpost (a relay, a door) that leads on, over all incarnations of the pods.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::kubelet::Kubelet;
use super::overlay::Overlay;

/// The port pgmoor is told.
const PORT: u16 = 6432;
const POSTGRESQL: u16 = 5432;

/// The outposts of some pods, by pod and address.
pub struct Outposts<T> {
    known: Arc<Mutex<BTreeMap<(String, Ipv4Addr), T>>>,
    task: JoinHandle<()>,
}

impl<T: Send + 'static> Outposts<T> {
    /// Sets up one for these pods, and for every incarnation of them that comes. `build` is given the pod's name, where the
    /// outpost is to listen, and where PostgreSQL does; it is tried again until it succeeds.
    pub fn set_up(
        kubelet: Arc<Kubelet>,
        namespace: &str,
        pods: &[&str],
        build: impl Fn(&str, SocketAddr, SocketAddr) -> Option<T> + Send + 'static,
    ) -> Self {
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let (namespace, pods) = (namespace.to_owned(), pods.iter().map(|pod| (*pod).to_owned()).collect());
        let task = tokio::spawn(follow(kubelet, namespace, pods, build, Arc::clone(&known)));
        Self { known, task }
    }

    /// Does something with each outpost there is. None is built meanwhile.
    pub fn each(&self, mut act: impl FnMut(&str, &T)) {
        lock(&self.known).iter().for_each(|((pod, _), outpost)| act(pod, outpost));
    }
}

impl<T> Drop for Outposts<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells pgmoor to go by the outposts.
pub fn told(overlay: Overlay) -> Overlay {
    overlay.replace("preset = \"patroni\" }", &format!("preset = \"patroni\", port = {PORT} }}"))
}

/// A new incarnation has a new address: it gets its outpost long before its PostgreSQL listens.
async fn follow<T>(
    kubelet: Arc<Kubelet>,
    namespace: String,
    pods: Vec<String>,
    build: impl Fn(&str, SocketAddr, SocketAddr) -> Option<T>,
    known: Arc<Mutex<BTreeMap<(String, Ipv4Addr), T>>>,
) {
    loop {
        let mut there = Vec::new();
        for pod in &pods {
            for incarnation in kubelet.incarnations(&namespace, pod) {
                there.extend(incarnation.ip().map(|ip| (pod.clone(), ip)));
            }
        }
        {
            let mut known = lock(&known);
            known.retain(|key, _| there.contains(key));
            for key in there.into_iter().filter(|key| !known.contains_key(key)).collect::<Vec<_>>() {
                if let Some(outpost) = build(&key.0, (key.1, PORT).into(), (key.1, POSTGRESQL).into()) {
                    known.insert(key, outpost);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
