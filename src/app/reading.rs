//! The configuration as it stands on disk at one moment: what it says, and a digest of every file it is made of.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::config::{ClientTls, Cluster, Config, ConfigError, ServerTls};

/// What stood in some files; `None` in one that could not be read.
pub(super) type Digests = BTreeMap<PathBuf, Option<[u8; 32]>>;

/// Everything read at one moment.
pub(super) struct Reading {
    /// What it says.
    pub(super) config: Result<Config, ConfigError>,
    /// The configuration file, the files it names, and the certificates: all that were met before an error.
    pub(super) digests: Digests,
}

impl Reading {
    /// Reads the configuration file and all that it names. Waits for the disk.
    pub(super) fn take(path: &Path) -> Self {
        let met = RefCell::new(Digests::new());
        let read = |path: &Path| {
            let text = std::fs::read(path);
            met.borrow_mut().insert(path.to_owned(), text.as_ref().ok().map(digest));
            text.and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            })
        };
        let file = path.display().to_string();
        let env = |name: &str| std::env::var(name).ok();
        let config = match read(path) {
            Ok(text) => Config::parse(&text, &file, &env, &read),
            Err(error) => Err(ConfigError::Unreadable { file, reason: error.to_string() }),
        };
        let mut digests = met.into_inner();
        if let Ok(config) = &config {
            let authorities = config.clusters.iter().filter_map(authority);
            digests.extend(look(client_tls(&config.tls).into_iter().chain(authorities)));
        }
        Self { config, digests }
    }
}

/// What stands in these files now. Waits for the disk.
pub(super) fn look<'a>(files: impl Iterator<Item = &'a Path>) -> Digests {
    files.map(|file| (file.to_owned(), std::fs::read(file).ok().map(digest))).collect()
}

/// The files of `[tls]`.
pub(super) fn client_tls(tls: &ClientTls) -> Vec<&Path> {
    match tls {
        ClientTls::Off => Vec::new(),
        ClientTls::Prefer(files) | ClientTls::Require(files) => {
            [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()]
                .into_iter()
                .flatten()
                .map(PathBuf::as_path)
                .collect()
        }
    }
}

/// The file that says whose certificates a cluster's pods may show.
pub(super) fn authority(cluster: &Cluster) -> Option<&Path> {
    match &cluster.tls {
        ServerTls::VerifyCa { ca } | ServerTls::VerifyFull { ca, .. } => Some(ca),
        ServerTls::Disable | ServerTls::Prefer | ServerTls::Require => None,
    }
}

fn digest(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
