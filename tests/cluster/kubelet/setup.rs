//! From a pod's manifest to what can be started: its sources read, its volumes made, each container's launch.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::Api;

use super::super::trouble::{Result, Trouble, Trying};
use super::container::Launch;
use super::images::{Image, User};
use super::node::Node;
use super::spec::{self, Data, Mount, Source, Sources};
use super::volumes::{self, Identity, Places};

/// Where in-cluster clients look for the ServiceAccount.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod ready to be started.
pub struct Prepared {
    /// The launches of its init containers, in order.
    pub first: Vec<Launch>,
    /// The launches of its containers.
    pub containers: Vec<(Container, Launch)>,
    /// What [`refresh`] needs.
    identity: Identity,
    owner: User,
}

/// Reads and makes all that the pod needs. Fails while something it names is not there.
pub async fn prepare(node: &Node, pod: &Pod, ip: Ipv4Addr) -> Result<Prepared> {
    let spec = pod.spec.as_ref().ok_or_else(|| Trouble::new("a pod without a spec"))?;
    let (namespace, name) = names(pod)?;
    let identity = identity(node, pod, &namespace).await?;
    let sources = read(node, pod, &namespace).await?;
    let places = places(node, pod, &namespace);
    let owner = owner(node, pod)?;
    let folders = volumes::prepare(pod, &ip.to_string(), &sources, &identity, &places, owner)?;
    let account = match spec.automount_service_account_token {
        Some(false) => None,
        Some(true) | None => Some(volumes::service_account_folder(&namespace, &identity, &places, owner)?),
    };
    let api = node.api_path(&namespace, &name).await?.address();
    let launch = |container: &Container| -> Result<Launch> {
        let image = image(node, container)?;
        let mut env = spec::environment(pod, container, &image, &sources, &ip.to_string())?;
        env.insert("HOSTNAME".to_owned(), name.clone());
        env.insert("KUBERNETES_SERVICE_HOST".to_owned(), api.ip().to_string());
        env.insert("KUBERNETES_SERVICE_PORT".to_owned(), api.port().to_string());
        env.insert("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), api.port().to_string());
        launch(pod, container, &image, env, &folders, account.as_ref(), &places)
    };
    let first = spec.init_containers.iter().flatten().map(launch).collect::<Result<_>>()?;
    let containers =
        spec.containers.iter().map(|container| Ok((container.clone(), launch(container)?))).collect::<Result<_>>()?;
    Ok(Prepared { first, containers, identity, owner })
}

/// Reads the sources again and brings the pod's volumes up to date; variables stay as they were, as with any kubelet.
pub async fn refresh(node: &Node, pod: &Pod, ip: Ipv4Addr, prepared: &Prepared) -> Result<()> {
    let (namespace, _) = names(pod)?;
    let sources = read(node, pod, &namespace).await?;
    let places = places(node, pod, &namespace);
    volumes::prepare(pod, &ip.to_string(), &sources, &prepared.identity, &places, prepared.owner).map(drop)
}

/// A pod's namespace and name.
pub fn names(pod: &Pod) -> Result<(String, String)> {
    let meta = &pod.metadata;
    meta.namespace.clone().zip(meta.name.clone()).ok_or_else(|| Trouble::new("a pod without a name"))
}

fn places(node: &Node, pod: &Pod, namespace: &str) -> Places {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Places { claims: node.claims(namespace), incarnation: node.incarnation(uid).join("volumes") }
}

fn image(node: &Node, container: &Container) -> Result<Image> {
    let name = container.image.as_deref().unwrap_or_default();
    node.images().find(name).cloned().ok_or_else(|| Trouble::new(format!("the image table has no {name}")))
}

/// Whom the pod's writable volumes belong to: its first container's user, of the group `fsGroup` when that is set.
fn owner(node: &Node, pod: &Pod) -> Result<User> {
    let spec = pod.spec.as_ref().ok_or_else(|| Trouble::new("a pod without a spec"))?;
    let container = spec.containers.first().ok_or_else(|| Trouble::new("a pod without containers"))?;
    let image = image(node, container)?;
    let mut user = spec::user(pod, container, &image);
    let group =
        spec.security_context.as_ref().and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    if image.forced_user().is_none() {
        user.gid = group.unwrap_or(user.gid);
    }
    Ok(user)
}

async fn identity(node: &Node, pod: &Pod, namespace: &str) -> Result<Identity> {
    let account = spec::service_account(pod);
    let token = match node.plane.service_account_token(namespace, account).await {
        Ok(token) => token,
        // No controller of this plane makes the account `default`; a pod that names no account gets no rights.
        Err(_) if account == "default" => String::new(),
        Err(trouble) => return Err(trouble),
    };
    Ok(Identity { token, ca: node.authority.clone() })
}

async fn read(node: &Node, pod: &Pod, namespace: &str) -> Result<Sources> {
    let maps: Api<ConfigMap> = Api::namespaced(node.client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(node.client.clone(), namespace);
    let mut sources = Sources::new();
    for source in spec::wanted(pod) {
        let data: Option<Data> = match &source {
            Source::ConfigMap(name) => maps.get_opt(name).await.trying(|| format!("reading {source:?}"))?.map(|map| {
                let texts = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
                texts
                    .chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)))
                    .collect()
            }),
            Source::Secret(name) => {
                secrets.get_opt(name).await.trying(|| format!("reading {source:?}"))?.map(|secret| {
                    secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
                })
            }
        };
        if let Some(data) = data {
            sources.insert(source, data);
        }
    }
    Ok(sources)
}

fn launch(
    pod: &Pod,
    container: &Container,
    image: &Image,
    env: BTreeMap<String, String>,
    folders: &BTreeMap<String, PathBuf>,
    account: Option<&PathBuf>,
    places: &Places,
) -> Result<Launch> {
    let (_, hostname) = names(pod)?;
    let mut mounts: Vec<Mount> = image
        .binds()
        .map(|(host, inside)| Mount { host: host.to_owned(), inside: inside.to_owned(), read_only: true })
        .collect();
    mounts.extend(spec::mounts(container, folders, &env)?);
    if let Some(folder) = account.filter(|_| !mounts.iter().any(|mount| mount.inside.as_os_str() == ACCOUNT)) {
        mounts.push(Mount { host: folder.clone(), inside: PathBuf::from(ACCOUNT), read_only: true });
    }
    // Outer mounts first, so that an inner one is not covered by them.
    mounts.sort_by_key(|mount| mount.inside.components().count());
    let security = container.security_context.as_ref();
    let drops = security.and_then(|security| security.capabilities.as_ref()?.drop.as_ref());
    let no_new = security.and_then(|security| security.allow_privilege_escalation) == Some(false);
    let folder = places.incarnation.parent().unwrap_or(&places.incarnation).join("containers").join(&container.name);
    Ok(Launch {
        name: format!("{hostname}/{}", container.name),
        log: folder.join("log"),
        folder,
        hostname,
        command: spec::command(container, image, &env),
        env,
        mounts,
        user: spec::user(pod, container, image),
        read_only_root: security.and_then(|security| security.read_only_root_filesystem) == Some(true),
        confined: no_new || drops.is_some_and(|drops| drops.iter().any(|name| name == "ALL")),
        working_dir: container.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
    })
}
