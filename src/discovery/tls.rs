//! TLS towards each pod of one cluster: the same settings for all, and the name each one's certificate must be made out to.

use std::collections::BTreeMap;

use crate::config::{Cluster, Discovery, ServerTls};
use crate::ids::PodName;
use crate::net::tls::{BackendTls, TlsError, TlsMode};

/// TLS towards the pods of one cluster. Clones share the certificates.
#[derive(Clone, Debug)]
pub struct PodTls {
    base: BackendTls,
    settings: ServerTls,
    /// The hosts of fixed pods.
    hosts: BTreeMap<PodName, String>,
}

impl PodTls {
    /// Reads the CA.
    ///
    /// # Errors
    /// The CA file is missing or holds no certificate.
    pub fn new(cluster: &Cluster) -> Result<Self, TlsError> {
        let (mode, ca) = match &cluster.tls {
            ServerTls::Disable => (TlsMode::Disable, None),
            ServerTls::Prefer => (TlsMode::Prefer, None),
            ServerTls::Require => (TlsMode::Require, None),
            ServerTls::VerifyCa { ca } => (TlsMode::VerifyCa, Some(ca.as_path())),
            ServerTls::VerifyFull { ca, dns: _ } => (TlsMode::VerifyFull, Some(ca.as_path())),
        };
        let hosts = match &cluster.discovery {
            Discovery::Kubernetes(_) => BTreeMap::new(),
            Discovery::Fixed(pods) => pods.iter().map(|pod| (pod.name.clone(), pod.host.clone())).collect(),
        };
        Ok(Self { base: BackendTls::new(mode, ca)?, settings: cluster.tls.clone(), hosts })
    }

    /// TLS towards this pod. A pod whose name is no DNS name goes by its address, which no certificate
    /// is made out to: `verify-full` then refuses it.
    pub fn of(&self, pod: &PodName) -> BackendTls {
        let name = self.settings.pod_dns(pod).or_else(|| self.hosts.get(pod).cloned());
        name.and_then(|name| self.base.with_name(&name).ok()).unwrap_or_else(|| self.base.clone())
    }
}
