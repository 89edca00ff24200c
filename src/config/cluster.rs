//! One PostgreSQL cluster as configured: its databases, how its pods are found, probed and talked to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::users::Password;
use crate::ids::{ClusterName, PodName};

/// One `[[cluster]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Unique among the clusters.
    pub name: ClusterName,
    /// The databases that are served by it.
    pub databases: Databases,
    /// The only users that are let in to it; `None`: every user.
    pub users: Option<BTreeSet<String>>,
    /// How its pods are found.
    pub discovery: Discovery,
    /// How its pods are asked what they are.
    pub probe: Probe,
    /// A replica that lags more does not serve reads.
    pub lag_limit: Duration,
    /// TLS towards its pods.
    pub tls: ServerTls,
    /// How its Patroni is asked for a switchover; `None`: it has none that takes our word.
    pub patroni: Option<Patroni>,
}

impl Cluster {
    /// Whether this user is let in to the cluster.
    pub fn admits(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}

/// The databases a cluster serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    /// `["*"]`: all that no other cluster names.
    Every,
    /// These.
    Named(BTreeSet<String>),
}

/// How a cluster's pods are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// By a watch of the Kubernetes API.
    Kubernetes(Kubernetes),
    /// They stand in the file; at least one, names unique.
    Fixed(Vec<FixedPod>),
}

/// Pods that Kubernetes runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The namespace of the pods and of the leader object.
    pub namespace: String,
    /// A label selector that matches the cluster's pods and no others.
    pub selector: String,
    /// Whose labels and leader object they are.
    pub preset: Preset,
    /// A kubeconfig file; `None`: the pod's service account, else `$KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// PostgreSQL's port in every pod.
    pub port: u16,
    /// The leader object's name, where it is not the preset's usual one.
    pub leader: Option<String>,
    /// A pod that carries this annotation is drained.
    pub drain_annotation: String,
}

/// One pod that stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedPod {
    /// What it is called; its `host:port` unless a name was given.
    pub name: PodName,
    /// An IP address (without brackets) or a DNS name, resolved at each probe.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
}

/// Whose labels and leader objects a cluster carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// Patroni as its own documentation sets it up.
    Patroni,
    /// Zalando's postgres-operator (spilo).
    Zalando,
    /// CloudNativePG.
    CloudNativePg,
    /// Crunchy's PGO.
    Crunchy,
    /// Percona's operator.
    Percona,
    /// StackGres.
    StackGres,
    /// KubeBlocks.
    KubeBlocks,
    /// No labels: the probes alone say who is primary.
    None,
}

impl Preset {
    /// Every preset, in the order the documentation lists them.
    pub const ALL: [Self; 8] = [
        Self::Patroni,
        Self::Zalando,
        Self::CloudNativePg,
        Self::Crunchy,
        Self::Percona,
        Self::StackGres,
        Self::KubeBlocks,
        Self::None,
    ];

    /// Whether its Patroni may be asked for a switchover. The other operators keep that to themselves: their own controller
    /// decides, and would undo ours or lose track of it.
    pub const fn takes_switchovers(self) -> bool {
        match self {
            Self::Patroni | Self::Zalando | Self::StackGres | Self::None => true,
            Self::CloudNativePg | Self::Crunchy | Self::Percona | Self::KubeBlocks => false,
        }
    }

    /// As the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patroni => "patroni",
            Self::Zalando => "zalando",
            Self::CloudNativePg => "cloudnative-pg",
            Self::Crunchy => "crunchy",
            Self::Percona => "percona",
            Self::StackGres => "stackgres",
            Self::KubeBlocks => "kubeblocks",
            Self::None => "none",
        }
    }
}

/// How a cluster's pods are asked what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The role the probe logs in as; it needs no rights but CONNECT (and pg_monitor for the timeline of a standby,
    /// EXECUTE on `pg_read_file(text, bigint, bigint, boolean)` for the history of timelines).
    pub user: String,
    /// Its password; `None` where PostgreSQL trusts pgmoor.
    pub password: Option<Password>,
    /// The database the probe logs in to.
    pub database: String,
    /// From one probe of a pod to the next.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
}

/// The REST interface of every pod's Patroni.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patroni {
    /// Its port, at the pod's own address.
    pub port: u16,
    /// Who may change things there, and his password; `None` where Patroni asks for neither.
    pub login: Option<(String, Password)>,
    /// With it TLS is spoken, and the certificate must be signed by this CA (PEM).
    pub ca: Option<PathBuf>,
}

/// TLS towards a cluster's pods; the words are libpq's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTls {
    /// Never.
    Disable,
    /// Where the pod offers it; nothing is verified.
    Prefer,
    /// Always; nothing is verified.
    Require,
    /// Always; the certificate must be signed by this CA.
    VerifyCa {
        /// PEM.
        ca: PathBuf,
    },
    /// Always; signed by this CA and made out to the pod's stable name.
    VerifyFull {
        /// PEM.
        ca: PathBuf,
        /// The pod's stable DNS name with `{pod}` where its name goes; `None`: the host of a fixed address.
        dns: Option<String>,
    },
}

impl ServerTls {
    /// The name a pod's certificate must be made out to, where a template says so.
    pub fn pod_dns(&self, pod: &PodName) -> Option<String> {
        match self {
            Self::VerifyFull { dns: Some(dns), .. } => Some(dns.replace("{pod}", pod.as_str())),
            Self::VerifyFull { dns: None, .. }
            | Self::VerifyCa { .. }
            | Self::Require
            | Self::Prefer
            | Self::Disable => None,
        }
    }
}
