//! The watch of one cluster through the Kubernetes API: its pods by label selector, its leader object by name.
//! It needs `get`, `list` and `watch` on pods, and on the leader object's kind, in one namespace.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::picture::{Picture, Remark, Source};
use super::preset::{LeaderSource, Preset, demanded};
use super::sighting::Reading;
use super::watch::{Patience, Watch, Word};
use crate::config;
use crate::topology::evidence::Event;

/// TCP and TLS to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Words waiting to be heard; a watch that is faster waits.
const WORDS: usize = 64;

/// Why the API server cannot even be asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither a service account nor a kubeconfig is there.
    #[error("no service account ({in_cluster}) and no kubeconfig ({kubeconfig})")]
    Nowhere {
        /// What is missing of the service account.
        in_cluster: String,
        /// What is wrong with the kubeconfig.
        kubeconfig: String,
    },
    /// The client cannot be built: certificates, keys.
    #[error("Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// One cluster's watches, ready to run.
pub(super) struct Kubernetes {
    client: Client,
    settings: config::Kubernetes,
    preset: &'static Preset,
    events: mpsc::Sender<Event>,
}

impl Kubernetes {
    /// Reads the credentials; nothing is asked of the API server yet.
    ///
    /// # Errors
    /// The credentials are missing or not what they should be.
    pub(super) async fn new(settings: config::Kubernetes, events: mpsc::Sender<Event>) -> Result<Self, AccessError> {
        // kube takes the process's provider. Somebody else may have set one already: then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut access = access(&settings).await?;
        access.connect_timeout = Some(CONNECT_TIMEOUT);
        // The watch has deadlines and a back-off of its own; a second one below would only hide what is wrong.
        access.default_retry = false;
        Ok(Self { client: Client::try_from(access)?, preset: Preset::of(settings.preset), settings, events })
    }

    /// Watches until the receiver of the events is dropped, or this future is.
    pub(super) async fn run(self) {
        let reading = Reading {
            preset: self.preset,
            port: self.settings.port,
            drain_annotation: self.settings.drain_annotation.clone(),
        };
        let mut picture = Picture::new(reading);
        let (words, mut heard) = mpsc::channel(WORDS);
        let mut watches = JoinSet::new();
        watches.spawn(self.pods(words.clone()).run());
        let mut scoped = self.known_objects();
        for (source, name) in scoped.iter().flatten() {
            watches.spawn(self.object(*source, name, words.clone()).run());
        }
        while let Some((source, word)) = heard.recv().await {
            if scoped.is_none() {
                scoped = self.learn_scope(&picture, source, &word);
                for (source, name) in scoped.iter().flatten() {
                    watches.spawn(self.object(*source, name, words.clone()).run());
                }
            }
            let (events, remarks) = picture.hear(source, word);
            for remark in remarks {
                note(&self.settings, remark);
            }
            for event in events {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The leader objects to watch; `None` while the scope is not known yet.
    fn known_objects(&self) -> Option<Vec<(Source, String)>> {
        let scope = demanded(&self.settings.selector);
        match (self.preset.leader, &self.settings.leader, self.preset.scope(&scope)) {
            (LeaderSource::NotUsed, _, _) => Some(Vec::new()),
            (LeaderSource::Patroni, Some(name), _) => {
                Some(vec![(Source::ConfigMap, name.clone()), (Source::Endpoints, name.clone())])
            }
            (LeaderSource::CloudNativePg, Some(name), _) => Some(vec![(Source::Cluster, name.clone())]),
            (LeaderSource::Patroni | LeaderSource::CloudNativePg, None, Some(scope)) => Some(self.objects_of(scope)),
            (LeaderSource::Patroni | LeaderSource::CloudNativePg, None, None) => None,
        }
    }

    fn objects_of(&self, scope: &str) -> Vec<(Source, String)> {
        match self.preset.leader {
            LeaderSource::NotUsed => Vec::new(),
            LeaderSource::Patroni => {
                vec![(Source::ConfigMap, format!("{scope}-leader")), (Source::Endpoints, scope.to_owned())]
            }
            LeaderSource::CloudNativePg => vec![(Source::Cluster, scope.to_owned())],
        }
    }

    /// The selector does not name the scope: the pods' own labels do, once there are pods.
    fn learn_scope(&self, picture: &Picture, source: Source, word: &Word) -> Option<Vec<(Source, String)>> {
        let objects: &[DynamicObject] = match (source, word) {
            (Source::Pods, Word::Listed(objects)) => objects,
            (Source::Pods, Word::Changed(object)) => std::slice::from_ref(object),
            (Source::Pods, Word::Gone(_) | Word::Lost(_) | Word::Works)
            | (Source::ConfigMap | Source::Endpoints | Source::Cluster, _) => return None,
        };
        match picture.scope(objects) {
            Ok(scope) => scope.map(|scope| self.objects_of(&scope)),
            Err(why) => {
                tracing::error!(selector = %self.settings.selector, "{why}: no leader object is watched");
                None
            }
        }
    }

    fn pods(&self, words: mpsc::Sender<(Source, Word)>) -> Watch<Source> {
        Watch {
            api: self.api("", "v1", "Pod", "pods"),
            labels: Some(self.settings.selector.clone()),
            fields: None,
            source: Source::Pods,
            words,
            patience: Patience::default(),
        }
    }

    fn object(&self, source: Source, name: &str, words: mpsc::Sender<(Source, Word)>) -> Watch<Source> {
        let api = match source {
            Source::Pods => self.api("", "v1", "Pod", "pods"),
            Source::ConfigMap => self.api("", "v1", "ConfigMap", "configmaps"),
            Source::Endpoints => self.api("", "v1", "Endpoints", "endpoints"),
            Source::Cluster => self.api("postgresql.cnpg.io", "v1", "Cluster", "clusters"),
        };
        Watch {
            api,
            labels: None,
            fields: Some(format!("metadata.name={name}")),
            source,
            words,
            patience: Patience::default(),
        }
    }

    /// Objects are read without their kind's schema: one strange field must not make the whole list unreadable.
    fn api(&self, group: &str, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(self.client.clone(), &self.settings.namespace, &resource)
    }
}

/// The named kubeconfig; else the pod's service account; else the user's own kubeconfig.
async fn access(settings: &config::Kubernetes) -> Result<kube::Config, AccessError> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &settings.kubeconfig {
        let file = Kubeconfig::read_from(path)?;
        return Ok(kube::Config::from_custom_kubeconfig(file, &options).await?);
    }
    if settings.context.is_some() {
        return Ok(kube::Config::from_kubeconfig(&options).await?);
    }
    match kube::Config::incluster() {
        Ok(access) => Ok(access),
        Err(in_cluster) => kube::Config::from_kubeconfig(&options).await.map_err(|error| AccessError::Nowhere {
            in_cluster: in_cluster.to_string(),
            kubeconfig: error.to_string(),
        }),
    }
}

fn note(settings: &config::Kubernetes, remark: Remark) {
    let (namespace, selector) = (&settings.namespace, &settings.selector);
    match remark {
        Remark::Broken(source, why) => tracing::warn!(
            %namespace, %selector, watch = ?source, error = %why,
            "the watch is broken; what is known is kept, and probes go on"
        ),
        Remark::Denied(source, why) => tracing::warn!(
            %namespace, %selector, watch = ?source, error = %why,
            "the API server does not allow this watch (it takes get, list and watch in this namespace)"
        ),
        Remark::Works(source) => {
            tracing::info!(%namespace, %selector, watch = ?source, "the watch works again")
        }
        Remark::Odd(why) => {
            tracing::warn!(%namespace, %selector, "a pod object was skipped: {why}")
        }
    }
}
