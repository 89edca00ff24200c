//! The machine as a node: folders, addresses, storage attachments, images and the pods' paths to the API server.
use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use super::super::plane::ControlPlane;
use super::super::ports::Subnet;
use super::super::relay::Relay;
use super::super::trouble::{Result, Trouble, Trying};
use super::images::Images;

/// A pod's or claim's namespace and name.
pub type Key = (String, String);

/// What all pods of a kubelet share.
pub struct Node {
    /// The control plane it serves.
    pub plane: Arc<ControlPlane>,
    /// A client that may do everything.
    pub client: kube::Client,
    /// The authority of the API server, PEM.
    pub authority: String,
    images: Mutex<Images>,
    addresses: Mutex<Addresses>,
    attachments: Mutex<BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    paths: tokio::sync::Mutex<BTreeMap<Key, Arc<Relay>>>,
    folder: TempDir,
    /// Locked while we live; see [`data_folder`].
    _claim: File,
}

impl Node {
    /// A node of this plane.
    pub fn new(plane: Arc<ControlPlane>, images: Images) -> Result<Self> {
        let client = plane.client()?;
        let file = plane.authority_file();
        let authority = std::fs::read_to_string(&file).trying(|| format!("reading {}", file.display()))?;
        let (folder, claim) = data_folder()?;
        Ok(Self {
            plane,
            client,
            authority,
            images: Mutex::new(images),
            addresses: Mutex::new(Addresses::default()),
            attachments: Mutex::default(),
            paths: tokio::sync::Mutex::default(),
            folder,
            _claim: claim,
        })
    }

    /// The image table.
    pub fn images(&self) -> MutexGuard<'_, Images> {
        lock(&self.images)
    }

    /// An address that no pod of this node has had.
    pub fn fresh_address(&self) -> Result<Ipv4Addr> {
        lock(&self.addresses).next()
    }

    /// Where the claims of a namespace are.
    pub fn claims(&self, namespace: &str) -> PathBuf {
        self.folder.path().join("claims").join(namespace)
    }

    /// A folder for what this incarnation alone has; its logs, too.
    pub fn incarnation(&self, uid: &str) -> PathBuf {
        self.folder.path().join("pods").join(uid)
    }

    /// Attaches a claim to a pod: waits until no other pod has it. A frozen pod of a lost node keeps it.
    pub async fn attach(&self, namespace: &str, claim: &str) -> OwnedMutexGuard<()> {
        let key = (namespace.to_owned(), claim.to_owned());
        let claim = Arc::clone(lock(&self.attachments).entry(key).or_default());
        claim.lock_owned().await
    }

    /// The relay between the pods of this name and the API server; made at first use.
    pub async fn api_path(&self, namespace: &str, pod: &str) -> Result<Arc<Relay>> {
        let mut paths = self.paths.lock().await;
        let key = (namespace.to_owned(), pod.to_owned());
        if let Some(path) = paths.get(&key) {
            return Ok(Arc::clone(path));
        }
        let path = Arc::new(Relay::start(self.plane.address()).await?);
        paths.insert(key, Arc::clone(&path));
        Ok(path)
    }
}

/// Loopback addresses, given out once each: a reused address would hide the very faults the tests look for.
#[derive(Default)]
struct Addresses {
    subnets: Vec<Subnet>,
    next: u8,
}

impl Addresses {
    fn next(&mut self) -> Result<Ipv4Addr> {
        const FIRST: u8 = 10;
        if self.subnets.is_empty() || self.next == u8::MAX {
            self.subnets.push(Subnet::take()?);
            self.next = FIRST;
        }
        let host = self.next;
        self.next += 1;
        let subnet = self.subnets.last().ok_or_else(|| Trouble::new("no subnet"))?;
        Ok(subnet.address(host))
    }
}

/// A folder for the pods' data, claimed by a lock. Folders whose test was killed before it could clean up are removed.
fn data_folder() -> Result<(TempDir, File)> {
    const PREFIX: &str = "pgmoor-kubelet-";
    let place = data_place();
    for entry in std::fs::read_dir(&place)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let abandoned = File::open(entry.path().join("claim")).is_ok_and(|claim| claim.try_lock().is_ok());
            if abandoned {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    }
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&place)?;
    // Locked under another name first: nobody ever sees a claim that is not locked.
    let (making, made) = (folder.path().join("making"), folder.path().join("claim"));
    let claim = File::create(&making)?;
    claim.lock()?;
    std::fs::rename(making, made)?;
    Ok((folder, claim))
}

/// A place for data: memory, when the machine has a large one mounted that programs can run from; else the disk.
fn data_place() -> PathBuf {
    const ENOUGH_KIB: u64 = 4 << 20;
    let memory = Path::new("/dev/shm");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let options = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(1)? == "/dev/shm").then(|| fields.nth(1).unwrap_or_default())
    });
    let large = options.is_some_and(|options| {
        let size =
            options.split(',').find_map(|option| option.strip_prefix("size=")?.strip_suffix('k')?.parse::<u64>().ok());
        size.is_some_and(|size| size >= ENOUGH_KIB) && !options.split(',').any(|option| option == "noexec")
    });
    if large { memory.to_owned() } else { std::env::temp_dir() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
