//! One pod from its binding to its removal: a task that boots it, tells its status, ends it, and bears the faults.
//!
//! ```text
//!   seen --bind--> boot: attach storage, take an address, make volumes --> run --deletionTimestamp--> end --> removed
//!                    ^                                                      |
//!                    +------- return_node -------- lost (power off) <-------+
//! ```
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::children::Signal;
use super::super::trouble::{Result, Trouble};
use super::container::Running;
use super::node::Node;
use super::setup::{self, Prepared};
use super::status::{News, Status};
use super::supervise::{Demand, RestartPolicy, Slots, Supervisor};
use super::volumes;

/// What the API server shows of the pod.
#[derive(Clone, Debug)]
pub enum Seen {
    /// The object.
    There(Arc<Pod>),
    /// It was removed.
    Gone,
}

/// How a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its power goes: every process is gone, and nobody tells the API server.
    PowerOff,
    /// It hangs: no process moves, sockets stay open, storage stays attached, nobody tells the API server.
    Frozen,
}

/// An order of a test.
#[derive(Debug)]
pub enum Order {
    /// The node is lost.
    Lose(Loss),
    /// The node is back: after `PowerOff` it boots its pods anew, with fresh addresses.
    Return,
}

/// What others may know of a pod's incarnation.
pub struct Incarnation {
    /// Its namespace.
    pub namespace: String,
    /// Its name, the stable part of its identity.
    pub name: String,
    /// Its uid, the other part.
    pub uid: String,
    ip: Mutex<Option<Ipv4Addr>>,
    slots: Slots,
    folder: PathBuf,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>,
}

impl Incarnation {
    /// Its address, once it has one.
    pub fn ip(&self) -> Option<Ipv4Addr> {
        *lock(&self.ip)
    }

    /// Its running containers.
    pub fn containers(&self) -> Vec<Arc<Running>> {
        lock(&self.slots).values().cloned().collect()
    }

    /// A running container by name.
    pub fn container(&self, name: &str) -> Option<Arc<Running>> {
        lock(&self.slots).get(name).cloned()
    }

    /// Its logs, one file per container.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("containers")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join("log")).filter(|path| path.exists()).collect()
    }

    /// Gives an order and waits until it is carried out.
    pub async fn order(&self, order: Order) -> Result<()> {
        let (done, carried_out) = oneshot::channel();
        let gone = || Trouble::new(format!("pod {} ({}) is gone", self.name, self.uid));
        self.orders.send((order, done)).map_err(|_| gone())?;
        carried_out.await.map_err(|_| gone())
    }
}

/// The task of one pod.
pub struct PodTask {
    node: Arc<Node>,
    api: Api<Pod>,
    about: Arc<Incarnation>,
    seen: watch::Receiver<Seen>,
    orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>,
    status: Status,
}

/// How a boot of the pod came to its end.
enum Outcome {
    /// It is to be removed, or was.
    Ended,
    /// Its node lost its power.
    Lost,
}

impl PodTask {
    /// A task for a pod that was just seen, and what others may know of it.
    pub fn new(node: Arc<Node>, pod: &Pod, seen: watch::Receiver<Seen>) -> Result<(Self, Arc<Incarnation>)> {
        let (namespace, name) = setup::names(pod)?;
        let uid = pod.metadata.uid.clone().ok_or_else(|| Trouble::new("a pod without a uid"))?;
        let (order, orders) = mpsc::unbounded_channel();
        let about = Arc::new(Incarnation {
            folder: node.incarnation(&uid),
            namespace: namespace.clone(),
            name,
            uid,
            ip: Mutex::new(None),
            slots: Slots::default(),
            orders: order,
        });
        let api = Api::namespaced(node.client.clone(), &namespace);
        let task = Self { node, api, about: Arc::clone(&about), seen, orders, status: Status::new(pod) };
        Ok((task, about))
    }

    /// Runs until the pod is removed.
    pub async fn run(mut self) {
        self.bind().await;
        loop {
            match self.boot().await {
                Outcome::Ended => break,
                Outcome::Lost => self.until_returned().await,
            }
        }
        self.remove().await;
        drop(std::fs::remove_dir_all(self.about.folder.join("volumes")));
    }

    /// The pod as last seen; `None` when it was removed.
    fn pod(&self) -> Option<Arc<Pod>> {
        match &*self.seen.borrow() {
            Seen::There(pod) => Some(Arc::clone(pod)),
            Seen::Gone => None,
        }
    }

    async fn bind(&self) {
        while let Some(pod) = self.pod() {
            if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                return;
            }
            let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.about.name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": "moor"}});
            let bound: std::result::Result<serde_json::Value, _> = match serde_json::from_value::<Binding>(body) {
                Ok(binding) => self.api.create_subresource("binding", &self.about.name, &PostParams::default(), &binding).await,
                Err(_) => return,
            };
            match bound {
                Ok(_) => return,
                // Bound by an earlier try whose answer was lost, or removed.
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => return,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// One boot: from nothing to the end of all its containers.
    async fn boot(&mut self) -> Outcome {
        let (ending, _guards) = tokio::select! {
            guards = attach(Arc::clone(&self.node), Arc::clone(&self.about), self.pod()) => (false, guards),
            () = until_ending(self.seen.clone()) => (true, Vec::new()),
        };
        if ending {
            return Outcome::Ended;
        }
        let Some((ip, prepared)) = self.prepare().await else { return Outcome::Ended };
        let (demand, demanded) = watch::channel(Demand::Run);
        let (news_tx, news) = mpsc::unbounded_channel();
        let policy = self.pod().and_then(|pod| pod.spec.as_ref().map(|spec| RestartPolicy::named(spec.restart_policy.as_deref())));
        let mut care = JoinSet::new();
        for (container, launch) in &prepared.containers {
            let supervisor = Supervisor {
                launch: launch.clone(),
                container: container.clone(),
                ip,
                policy: policy.unwrap_or(RestartPolicy::Always),
                demand: demanded.clone(),
                slots: Arc::clone(&self.about.slots),
                news: news_tx.clone(),
            };
            care.spawn(supervisor.run());
        }
        drop(news_tx);
        let outcome = self.live(ip, &prepared, &demand, news, &mut care).await;
        while care.join_next().await.is_some() {}
        outcome
    }

    /// Takes an address and makes what the containers need, again and again until it can be made.
    async fn prepare(&mut self) -> Option<(Ipv4Addr, Prepared)> {
        let mut ip = None;
        loop {
            let pod = self.pod().filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
            let made = async {
                let ip = *ip.get_or_insert(self.node.fresh_address()?);
                let prepared = setup::prepare(&self.node, &pod, ip).await?;
                self.first_containers(&prepared).await?;
                Ok((ip, prepared))
            };
            let made: Result<_> = made.await;
            match made {
                Ok((ip, prepared)) => {
                    *lock(&self.about.ip) = Some(ip);
                    self.status.ip = Some(ip);
                    return Some((ip, prepared));
                }
                Err(trouble) => {
                    self.status.hear_of_all(&News::Waiting("CreateContainerConfigError".to_owned(), trouble.to_string()));
                    self.tell().await;
                    drop(timeout(Duration::from_millis(500), self.seen.changed()).await);
                }
            }
        }
    }

    async fn first_containers(&self, prepared: &Prepared) -> Result<()> {
        for launch in &prepared.first {
            let ended = launch.start().await?.child().ended().await;
            if !ended.success() {
                return Err(Trouble::new(format!("init container {}: {ended}", launch.name)));
            }
        }
        Ok(())
    }

    /// The time in which containers run or end.
    async fn live(
        &mut self,
        ip: Ipv4Addr,
        prepared: &Prepared,
        demand: &watch::Sender<Demand>,
        mut news: mpsc::UnboundedReceiver<(String, News)>,
        care: &mut JoinSet<()>,
    ) -> Outcome {
        let mut frozen = false;
        self.seen.mark_changed();
        self.tell().await;
        loop {
            tokio::select! {
                heard = news.recv(), if !frozen => match heard {
                    Some((container, what)) => {
                        self.status.hear(&container, what);
                        self.tell().await;
                    }
                    None if *demand.borrow() != Demand::Run => return Outcome::Ended,
                    // All ended for good by themselves: the pod stays until it is deleted.
                    None => { until_ending(self.seen.clone()).await; return Outcome::Ended }
                },
                changed = self.seen.changed(), if !frozen => {
                    if changed.is_err() { demand.send_replace(Demand::Vanish); } else { self.follow(demand); }
                }
                Some((order, done)) = self.orders.recv() => {
                    match order {
                        Order::Lose(Loss::PowerOff) => {
                            demand.send_replace(Demand::Vanish);
                            while care.join_next().await.is_some() {}
                            let _ = done.send(());
                            return Outcome::Lost;
                        }
                        Order::Lose(Loss::Frozen) => { frozen = true; self.signal_all(Signal::Stop); }
                        Order::Return => { frozen = false; self.signal_all(Signal::Cont); self.seen.mark_changed(); }
                    }
                    let _ = done.send(());
                }
                () = sleep(Duration::from_secs(2)), if !frozen => {
                    if let Some(pod) = self.pod() {
                        drop(setup::refresh(&self.node, &pod, ip, prepared).await);
                    }
                }
            }
        }
    }

    /// Turns a deletion into the containers' deadline; a later, shorter grace moves it forward.
    fn follow(&mut self, demand: &watch::Sender<Demand>) {
        /// What the kubelet grants a pod that was removed by force.
        const FORCED: Duration = Duration::from_secs(2);
        let grace = match &*self.seen.borrow_and_update() {
            Seen::Gone => FORCED,
            Seen::There(pod) if pod.metadata.deletion_timestamp.is_none() => return,
            Seen::There(pod) => {
                let seconds = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                Duration::from_secs(seconds.unwrap_or(30))
            }
        };
        let deadline = Instant::now() + grace;
        demand.send_if_modified(|demand| {
            let sooner = match *demand {
                Demand::Run => true,
                Demand::End(now) => deadline < now,
                Demand::Vanish => false,
            };
            if sooner {
                *demand = Demand::End(deadline);
            }
            sooner
        });
    }

    fn signal_all(&self, signal: Signal) {
        for container in self.about.containers() {
            drop(container.child().signal_all(signal));
        }
    }

    /// The time without a node. The object may change, end or go meanwhile.
    async fn until_returned(&mut self) {
        *lock(&self.about.ip) = None;
        while let Some((order, done)) = self.orders.recv().await {
            let _ = done.send(());
            match order {
                Order::Return => break,
                Order::Lose(_) => {}
            }
        }
        self.status.hear_of_all(&News::Ended(137));
        self.status.hear_of_all(&News::Restarting);
    }

    /// Tells the API server the pod's status.
    async fn tell(&self) {
        let patch = json!({"metadata": {"uid": self.about.uid}, "status": self.status.object()});
        for _ in 0..3 {
            match self.api.patch_status(&self.about.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => return,
                // Removed, or another pod has the name now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => return,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The kubelet's last word: the object may go.
    async fn remove(&self) {
        let only_this = Preconditions { uid: Some(self.about.uid.clone()), ..Preconditions::default() };
        let now = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(only_this), ..DeleteParams::default() };
        while self.pod().is_some() {
            match self.api.delete(&self.about.name, &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

async fn attach(node: Arc<Node>, about: Arc<Incarnation>, pod: Option<Arc<Pod>>) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
    let mut claims = pod.as_deref().map(volumes::claims).unwrap_or_default();
    claims.sort();
    let mut guards = Vec::new();
    for claim in claims {
        guards.push(node.attach(&about.namespace, &claim).await);
    }
    guards
}

/// Waits until the pod is deleted or gone.
async fn until_ending(mut seen: watch::Receiver<Seen>) {
    let ending = |seen: &Seen| match seen {
        Seen::There(pod) => pod.metadata.deletion_timestamp.is_some(),
        Seen::Gone => true,
    };
    drop(seen.wait_for(ending).await);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
