//! What others may know of a pod's incarnation, and the orders a test may give it.
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::trouble::{Result, Trouble};
use super::container::Running;
use super::setup;
use super::supervise::Slots;

/// What the API server shows of the pod.
#[derive(Clone, Debug)]
pub enum Seen {
    /// The object.
    There(Arc<Pod>),
    /// It was removed.
    Gone,
}

impl Seen {
    /// The object as last seen; `None` when it was removed.
    pub fn pod(seen: &watch::Receiver<Self>) -> Option<Arc<Pod>> {
        match &*seen.borrow() {
            Self::There(pod) => Some(Arc::clone(pod)),
            Self::Gone => None,
        }
    }
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
    orders: mpsc::UnboundedSender<Ordered>,
}

/// An order and whom to tell when it is carried out.
pub type Ordered = (Order, oneshot::Sender<()>);

impl Incarnation {
    /// A pod that was just seen, whose own folder `folder` tells by its uid; and where its orders arrive.
    pub fn new(
        pod: &Pod,
        folder: impl FnOnce(&str) -> PathBuf,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Ordered>)> {
        let (namespace, name) = setup::names(pod)?;
        let uid = pod.metadata.uid.clone().ok_or_else(|| Trouble::new("a pod without a uid"))?;
        let (orders, arriving) = mpsc::unbounded_channel();
        let folder = folder(&uid);
        let about = Self { namespace, name, uid, ip: Mutex::new(None), slots: Slots::default(), folder, orders };
        Ok((Arc::new(about), arriving))
    }

    /// What only this incarnation has: volumes and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where its running containers are shown.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Notes its address.
    pub fn set_ip(&self, ip: Option<Ipv4Addr>) {
        *lock(&self.ip) = ip;
    }

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
