//! One pod from its binding to its removal: a task that boots it, tells its status, ends it, and bears the faults.
//!
//! ```text
//!   seen --bind--> boot: attach storage, take an address, make volumes --> run --deletionTimestamp--> end --> removed
//!                    ^                                                      |
//!                    +------- return_node -------- lost (power off) <-------+
//! ```
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::children::Signal;
use super::super::trouble::{Result, Trouble};
use super::incarnation::{Incarnation, Loss, Order, Ordered, Seen};
use super::node::Node;
use super::register::Register;
use super::setup::{self, Prepared};
use super::status::{News, Status};
use super::supervise::{Demand, RestartPolicy, Supervisor};
use super::volumes;

/// The task of one pod.
pub struct PodTask {
    node: Arc<Node>,
    register: Register,
    about: Arc<Incarnation>,
    seen: watch::Receiver<Seen>,
    orders: mpsc::UnboundedReceiver<Ordered>,
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
        let (about, orders) = Incarnation::new(pod, |uid| node.incarnation(uid))?;
        let register = Register::new(node.client.clone(), &about);
        let status = Status::new(pod);
        let task = Self { node, register, about: Arc::clone(&about), seen, orders, status };
        Ok((task, about))
    }

    /// Runs until the pod is removed.
    pub async fn run(mut self) {
        self.register.bind(&self.seen).await;
        loop {
            match self.boot().await {
                Outcome::Ended => break,
                Outcome::Lost => self.until_returned().await,
            }
        }
        self.register.remove(&self.seen).await;
        drop(std::fs::remove_dir_all(self.about.folder().join("volumes")));
    }

    /// The pod as last seen; `None` when it was removed.
    fn pod(&self) -> Option<Arc<Pod>> {
        Seen::pod(&self.seen)
    }

    async fn tell(&mut self) {
        self.register.tell(&self.status).await;
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
        let Some((ip, prepared)) = self.prepare().await else {
            return Outcome::Ended;
        };
        let (demand, demanded) = watch::channel(Demand::Run);
        let (news_tx, news) = mpsc::unbounded_channel();
        let policy = self
            .pod()
            .and_then(|pod| pod.spec.as_ref().map(|spec| RestartPolicy::named(spec.restart_policy.as_deref())));
        let mut care = JoinSet::new();
        for (container, launch) in &prepared.containers {
            let supervisor = Supervisor {
                launch: launch.clone(),
                container: container.clone(),
                ip,
                policy: policy.unwrap_or(RestartPolicy::Always),
                demand: demanded.clone(),
                slots: Arc::clone(self.about.slots()),
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
                    self.about.set_ip(Some(ip));
                    self.status.ip = Some(ip);
                    return Some((ip, prepared));
                }
                Err(trouble) => {
                    self.status
                        .hear_of_all(&News::Waiting("CreateContainerConfigError".to_owned(), trouble.to_string()));
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
                () = sleep(Duration::from_secs(if self.register.owes() { 1 } else { 2 })), if !frozen => {
                    if self.register.owes() {
                        self.tell().await;
                    }
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
                let seconds =
                    pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
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
        self.about.set_ip(None);
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
}

async fn attach(node: Arc<Node>, about: Arc<Incarnation>, pod: Option<Arc<Pod>>) -> Vec<OwnedMutexGuard<()>> {
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
