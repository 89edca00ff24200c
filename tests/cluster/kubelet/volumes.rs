//! A pod's volumes as folders of this machine: claims by name (they outlive the pod), the rest per incarnation.
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use super::super::trouble::{Result, Trouble, Trying};
use super::images::User;
use super::spec::{self, Data, Source, Sources};

/// The identity a pod shows to the API server, as the files that in-cluster clients read.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The ServiceAccount's bearer token.
    pub token: String,
    /// The certificate authority of the API server, PEM.
    pub ca: String,
}

impl Identity {
    /// The files of the folder /var/run/secrets/kubernetes.io/serviceaccount.
    pub fn files(&self, namespace: &str) -> Data {
        let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
        Data::from([file("token", &self.token), file("ca.crt", &self.ca), file("namespace", namespace)])
    }
}

/// Where folders are made.
#[derive(Clone, Debug)]
pub struct Places {
    /// Claims of the pod's namespace, one folder each.
    pub claims: PathBuf,
    /// What this incarnation alone has.
    pub incarnation: PathBuf,
}

/// The claims a pod mounts.
pub fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

/// Makes (or, called again, refreshes) every volume of the pod. `owner` is who its writable folders belong to.
pub fn prepare(
    pod: &Pod,
    ip: &str,
    sources: &Sources,
    identity: &Identity,
    places: &Places,
    owner: User,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut folders = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let folder = match &volume.persistent_volume_claim {
            Some(claim) => places.claims.join(&claim.claim_name),
            None => places.incarnation.join(&volume.name),
        };
        if volume.persistent_volume_claim.is_some() || volume.empty_dir.is_some() {
            writable(&folder, owner)?;
        } else {
            let (files, mode) =
                contents(pod, ip, volume, sources, identity).trying(|| format!("volume {}", volume.name))?;
            publish(&folder, &files, mode, owner).trying(|| format!("writing volume {}", volume.name))?;
        }
        folders.insert(volume.name.clone(), folder);
    }
    Ok(folders)
}

/// The read-only folder of the ServiceAccount, for the pods that do not refuse it.
pub fn service_account_folder(namespace: &str, identity: &Identity, places: &Places, owner: User) -> Result<PathBuf> {
    let folder = places.incarnation.join("kube-api-access");
    publish(&folder, &identity.files(namespace), 0o644, owner)?;
    Ok(folder)
}

fn writable(folder: &Path, owner: User) -> Result<()> {
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        chown(folder, Some(owner.uid), Some(owner.gid))?;
        fs::set_permissions(folder, Permissions::from_mode(0o2775))?;
    }
    Ok(())
}

/// The files of a volume that is made of API objects, and their mode.
fn contents(pod: &Pod, ip: &str, volume: &Volume, sources: &Sources, identity: &Identity) -> Result<(Data, u32)> {
    let mode = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    if let Some(map) = &volume.config_map {
        let data = sources.get(&Source::ConfigMap(map.name.clone()));
        return Ok((chosen(data, map.items.as_deref(), map.optional)?, mode(map.default_mode)));
    }
    if let Some(secret) = &volume.secret {
        let data = sources.get(&Source::Secret(secret.secret_name.clone().unwrap_or_default()));
        return Ok((chosen(data, secret.items.as_deref(), secret.optional)?, mode(secret.default_mode)));
    }
    if let Some(api) = &volume.downward_api {
        return Ok((downward(pod, ip, api.items.as_deref().unwrap_or_default())?, mode(api.default_mode)));
    }
    let projected =
        volume.projected.as_ref().ok_or_else(|| Trouble::new("this kind of volume is not known to this kubelet"))?;
    let mut files = Data::new();
    for part in projected.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            files.extend(chosen(
                sources.get(&Source::ConfigMap(map.name.clone())),
                map.items.as_deref(),
                map.optional,
            )?);
        }
        if let Some(secret) = &part.secret {
            files.extend(chosen(
                sources.get(&Source::Secret(secret.name.clone())),
                secret.items.as_deref(),
                secret.optional,
            )?);
        }
        if let Some(api) = &part.downward_api {
            files.extend(downward(pod, ip, api.items.as_deref().unwrap_or_default())?);
        }
        if let Some(token) = &part.service_account_token {
            files.insert(token.path.clone(), identity.token.clone().into_bytes());
        }
    }
    Ok((files, mode(projected.default_mode)))
}

fn chosen(data: Option<&Data>, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Data> {
    let Some(data) = data else {
        return if optional == Some(true) {
            Ok(Data::new())
        } else {
            Err(Trouble::new("its ConfigMap or Secret is not there"))
        };
    };
    let Some(items) = items else {
        return Ok(data.clone());
    };
    let pick = |item: &KeyToPath| data.get(&item.key).map(|bytes| (item.path.clone(), bytes.clone()));
    items.iter().map(|item| pick(item).ok_or_else(|| Trouble::new(format!("no key {}", item.key)))).collect()
}

fn downward(pod: &Pod, ip: &str, items: &[DownwardAPIVolumeFile]) -> Result<Data> {
    let one = |item: &DownwardAPIVolumeFile| {
        let reference =
            item.field_ref.as_ref().ok_or_else(|| Trouble::new("only fieldRef is known to this kubelet"))?;
        Ok((item.path.clone(), spec::field(pod, ip, &reference.field_path)?.into_bytes()))
    };
    items.iter().map(one).collect()
}

/// Writes files the way the kubelet does: `name -> ..data/name`, `..data -> ..N`, and a change swaps `..data` in one
/// rename, so that a reader sees all files of one version. Does nothing when the contents are there already.
fn publish(folder: &Path, files: &Data, mode: u32, owner: User) -> Result<()> {
    fs::create_dir_all(folder)?;
    let current = folder.join("..data");
    let same = |(name, bytes): (&String, &Vec<u8>)| fs::read(current.join(name)).is_ok_and(|there| there == *bytes);
    let count = |path: &Path| fs::read_dir(path).map(|entries| entries.count()).ok();
    if files.iter().all(same) && count(&current) == Some(files.len()) {
        return Ok(());
    }
    let before = fs::read_link(&current).ok();
    let version =
        before.iter().filter_map(|path| path.to_str()?.strip_prefix("..v")?.parse::<u64>().ok()).max().unwrap_or(0) + 1;
    let fresh = folder.join(format!("..v{version}"));
    for (name, bytes) in files {
        let path = fresh.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&fresh))?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        chown(&path, Some(owner.uid), Some(owner.gid))?;
    }
    fs::create_dir_all(&fresh)?;
    let next = folder.join("..data_tmp");
    symlink(format!("..v{version}"), &next)?;
    fs::rename(&next, &current)?;
    for top in files.keys().filter_map(|name| name.split('/').next()) {
        let link = folder.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    before.map_or(Ok(()), |old| Ok(fs::remove_dir_all(folder.join(old))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_swaps_all_files_at_once_and_removes_the_old_version() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("config");
        let me = User { uid: my_id("-u"), gid: my_id("-g") };
        let data = |text: &str| {
            Data::from([("a.toml".to_owned(), text.as_bytes().to_vec()), ("d/b".to_owned(), b"x".to_vec())])
        };
        publish(&folder, &data("one"), 0o600, me).unwrap();
        let first = fs::read_link(folder.join("..data")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a.toml")).unwrap(), "one");
        assert_eq!(fs::read_to_string(folder.join("d/b")).unwrap(), "x");
        assert_eq!(fs::metadata(folder.join("a.toml")).unwrap().permissions().mode() & 0o777, 0o600);
        publish(&folder, &data("two"), 0o600, me).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a.toml")).unwrap(), "two");
        assert!(!folder.join(first).exists());
    }

    fn my_id(which: &str) -> u32 {
        let output = std::process::Command::new("id").arg(which).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}
