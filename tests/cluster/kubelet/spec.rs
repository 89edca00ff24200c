//! A pod's spec turned into what one of its processes gets: variables, words, mounts, user. Pure; tested below.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use super::super::trouble::{Result, Trouble};
use super::images::{Image, User};

/// A ConfigMap or a Secret of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A ConfigMap's name.
    ConfigMap(String),
    /// A Secret's name.
    Secret(String),
}

/// What is in a source: key to bytes.
pub type Data = BTreeMap<String, Vec<u8>>;

/// The sources read for a pod. One that is not there is not in the map.
pub type Sources = BTreeMap<Source, Data>;

/// A folder or file of this machine at a path of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On this machine.
    pub host: PathBuf,
    /// In the container.
    pub inside: PathBuf,
    /// May the container not write to it?
    pub read_only: bool,
}

/// Every source that the pod's variables and volumes name.
pub fn wanted(pod: &Pod) -> BTreeSet<Source> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            found.extend(from.config_map_ref.iter().map(|map| Source::ConfigMap(map.name.clone())));
            found.extend(from.secret_ref.iter().map(|secret| Source::Secret(secret.name.clone())));
        }
        for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            found.extend(from.config_map_key_ref.iter().map(|map| Source::ConfigMap(map.name.clone())));
            found.extend(from.secret_key_ref.iter().map(|secret| Source::Secret(secret.name.clone())));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        found.extend(volume.config_map.iter().map(|map| Source::ConfigMap(map.name.clone())));
        found.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()).map(Source::Secret));
        for part in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            found.extend(part.config_map.iter().map(|map| Source::ConfigMap(map.name.clone())));
            found.extend(part.secret.iter().map(|secret| Source::Secret(secret.name.clone())));
        }
    }
    found
}

/// The value of a `fieldRef` path. `ip` is the incarnation's address.
pub fn field(pod: &Pod, ip: &str, path: &str) -> Result<String> {
    let meta = &pod.metadata;
    let keyed = |map: &Option<BTreeMap<String, String>>, prefix: &str| -> Option<String> {
        let key = path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    let spec = pod.spec.as_ref();
    let plain = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "status.podIP" | "status.podIPs" => Some(ip.to_owned()),
        "status.hostIP" => Some("127.0.0.1".to_owned()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => Some(service_account(pod).to_owned()),
        "metadata.labels" => meta.labels.as_ref().map(downward_lines),
        "metadata.annotations" => meta.annotations.as_ref().map(downward_lines),
        _ => keyed(&meta.labels, "metadata.labels").or_else(|| keyed(&meta.annotations, "metadata.annotations")),
    };
    plain.ok_or_else(|| Trouble::new(format!("fieldRef {path} is not known to this kubelet")))
}

fn downward_lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect()
}

/// The pod's ServiceAccount.
pub fn service_account(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
}

/// The variables of a container, in the order Kubernetes builds them: the image's, `envFrom`, `env`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    image: &Image,
    sources: &Sources,
    ip: &str,
) -> Result<BTreeMap<String, String>> {
    let mut env = image.base_env();
    for from in container.env_from.iter().flatten() {
        let (source, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (Source::ConfigMap(map.name.clone()), map.optional),
            (None, Some(secret)) => (Source::Secret(secret.name.clone()), secret.optional),
            (None, None) => continue,
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        match sources.get(&source) {
            Some(data) => env.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)))),
            None if optional == Some(true) => {}
            None => return Err(Trouble::new(format!("{source:?} not found"))),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, variable, sources, ip, &env)? {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env)
}

fn value_of(
    pod: &Pod,
    variable: &EnvVar,
    sources: &Sources,
    ip: &str,
    so_far: &BTreeMap<String, String>,
) -> Result<Option<String>> {
    match &variable.value_from {
        None => Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), so_far))),
        Some(EnvVarSource { field_ref: Some(reference), .. }) => field(pod, ip, &reference.field_path).map(Some),
        Some(EnvVarSource { config_map_key_ref: Some(r), .. }) => {
            keyed(sources, &Source::ConfigMap(r.name.clone()), &r.key, r.optional == Some(true))
        }
        Some(EnvVarSource { secret_key_ref: Some(r), .. }) => {
            keyed(sources, &Source::Secret(r.name.clone()), &r.key, r.optional == Some(true))
        }
        Some(_) => Err(Trouble::new(format!(
            "variable {}: this kind of valueFrom is not known to this kubelet",
            variable.name
        ))),
    }
}

fn keyed(sources: &Sources, source: &Source, key: &str, optional: bool) -> Result<Option<String>> {
    match sources.get(source).and_then(|data| data.get(key)) {
        Some(value) => Ok(Some(text(value))),
        None if optional => Ok(None),
        None => Err(Trouble::new(format!("{source:?} has no key {key}"))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Kubernetes' `$(NAME)`: replaced when known, left as it is when not; `$$(NAME)` is the text `$(NAME)`.
pub fn expand(input: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = from.strip_prefix("$(").and_then(|name| name.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&from[..name.len() + 3]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    out
}

/// The words to run: the manifest's `command` and `args`, or the image's entry point.
pub fn command(container: &Container, image: &Image, env: &BTreeMap<String, String>) -> Vec<String> {
    let command = container.command.as_deref().filter(|words| !words.is_empty());
    let words = command.unwrap_or_else(|| image.default_command());
    words.iter().chain(container.args.iter().flatten()).map(|word| expand(word, env)).collect()
}

/// Who the container runs as: the image table's word, then the container's, then the pod's, else root as in any runtime.
pub fn user(pod: &Pod, container: &Container, image: &Image) -> User {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    let uid = of_container.and_then(|own| own.run_as_user).or_else(|| of_pod?.run_as_user);
    let gid = of_container.and_then(|own| own.run_as_group).or_else(|| of_pod?.run_as_group);
    let number = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    image.forced_user().unwrap_or_else(|| User { uid: number(uid), gid: number(gid) })
}

/// Where the pod's volumes (name to folder) appear in this container.
pub fn mounts(
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let folder =
            volumes.get(&mount.name).ok_or_else(|| Trouble::new(format!("volume {} is not in the pod", mount.name)))?;
        let below = mount.sub_path_expr.as_deref().map(|path| expand(path, env)).or_else(|| mount.sub_path.clone());
        let host = below.map_or_else(|| folder.clone(), |path| folder.join(path));
        mounts.push(Mount {
            host,
            inside: Path::new(&mount.mount_path).to_owned(),
            read_only: mount.read_only == Some(true),
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_words_follow_kubernetes_rules() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let cases = [
            ("$(A)x", "1x"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("a$b $(A", "a$b $(A"),
            ("$$$(A)", "$1"),
            ("${A}", "${A}"),
            ("", ""),
        ];
        for (input, wanted) in cases {
            assert_eq!(expand(input, &env), wanted, "{input}");
        }
    }

    #[test]
    fn a_later_variable_sees_the_earlier_ones() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "pg-0", "namespace": "db", "uid": "u", "labels": {"role": "primary"}},
            "spec": {"containers": [{"name": "c", "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "ADDRESS", "value": "$(IP):5432"},
                {"name": "ROLE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['role']"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ]}]}
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(wanted(&pod), BTreeSet::from([Source::Secret("s".into())]));
        let missing = environment(&pod, container, &Image::of_this_machine(), &Sources::new(), "127.0.0.9");
        assert!(missing.unwrap_err().to_string().contains("no key k"));
        let sources = Sources::from([(Source::Secret("s".into()), Data::from([("k".into(), b"v".to_vec())]))]);
        let env = environment(&pod, container, &Image::of_this_machine(), &sources, "127.0.0.9").unwrap();
        assert_eq!(env["ADDRESS"], "127.0.0.9:5432");
        assert_eq!(env["ROLE"], "primary");
        assert_eq!(env["SECRET"], "v");
    }
}
