//! Every program the cluster is made of: where each one is, and whether it is there.
//!
//! What is missing is installed or built once (see [`install`]), in a cache that later runs share.
pub mod install;
pub mod mirror;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::trouble::{Result, Trouble};

/// The Kubernetes release that is built.
pub const KUBERNETES: &str = "1.20.2";
/// The Patroni 4 release that is installed.
pub const PATRONI_4: &str = "4.1.5";

/// Which Patroni a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PatroniVersion {
    /// Debian 12's own, 3.0.
    V3,
    /// The current one.
    V4,
}

/// How Patroni is run: `python3 -m patroni CONFIG` with `PYTHONPATH=python_path`.
#[derive(Clone, Debug)]
pub struct Patroni {
    /// Debian's Python, which user postgres may run and which has Patroni's dependencies.
    pub python: PathBuf,
    /// What goes into `PYTHONPATH`.
    pub python_path: PathBuf,
}

/// The programs of the cluster. Every path is readable by every user when root made the cache in its default place.
#[derive(Clone, Debug)]
pub struct Toolbox {
    cache: PathBuf,
}

impl Toolbox {
    /// Makes sure that everything is there, and tells on standard error what it does. The first time it takes about
    /// seven minutes on two cores; after that well under a second.
    pub async fn ready() -> Result<Self> {
        tokio::task::spawn_blocking(Self::ready_blocking).await?
    }

    /// [`Self::ready`] for code without a runtime.
    pub fn ready_blocking() -> Result<Self> {
        let toolbox = Self { cache: cache_folder()? };
        install::all(&toolbox)?;
        Ok(toolbox)
    }

    /// The folder that survives: `$PGMOOR_CACHE`, else `/var/cache/pgmoor` for root, else `pgmoor` in the user's cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The etcd server.
    pub fn etcd(&self) -> PathBuf {
        self.etcd_folder().join("usr/bin/etcd")
    }

    /// The API server.
    pub fn kube_apiserver(&self) -> PathBuf {
        self.kubernetes_folder().join("kube-apiserver")
    }

    /// The controllers, StatefulSet's above all.
    pub fn kube_controller_manager(&self) -> PathBuf {
        self.kubernetes_folder().join("kube-controller-manager")
    }

    /// The command line client.
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes_folder().join("kubectl")
    }

    /// The folder with `postgres`, `initdb`, `pg_ctl`, `psql` of PostgreSQL 15.
    pub fn postgres_bin(&self) -> PathBuf {
        PathBuf::from("/usr/lib/postgresql/15/bin")
    }

    /// Patroni of this version.
    pub fn patroni(&self, version: PatroniVersion) -> Patroni {
        let python_path = match version {
            PatroniVersion::V3 => self.patroni_folder(version).join("usr/lib/python3/dist-packages"),
            PatroniVersion::V4 => self.patroni_folder(version),
        };
        Patroni { python: PathBuf::from("/usr/bin/python3"), python_path }
    }

    fn etcd_folder(&self) -> PathBuf {
        self.cache.join("etcd-3.4")
    }

    fn kubernetes_folder(&self) -> PathBuf {
        self.cache.join(format!("kubernetes-{KUBERNETES}")).join("bin")
    }

    fn patroni_folder(&self, version: PatroniVersion) -> PathBuf {
        match version {
            PatroniVersion::V3 => self.cache.join("patroni-3.0"),
            PatroniVersion::V4 => self.cache.join(format!("patroni-{PATRONI_4}")),
        }
    }
}

/// Are we root? Known from the owner of our own entry in /proc, so without unsafe code.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("PGMOOR_CACHE") {
        return Ok(std::path::absolute(folder)?);
    }
    if is_root() {
        // Not below root's home: user postgres, whom the pods run as, could not read it there.
        return Ok(PathBuf::from("/var/cache/pgmoor"));
    }
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("pgmoor"))
        .ok_or_else(|| Trouble::new("no folder for the test cluster's programs: set PGMOOR_CACHE"))
}
