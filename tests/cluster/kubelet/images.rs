//! The image table: how a container of each image runs as a process of this machine.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::trouble::{Result, Trouble};

/// A numeric user and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl User {
    /// The user of this name in this machine's /etc/passwd.
    pub fn named(name: &str) -> Result<Self> {
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let found = accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != name {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            Some(Self { uid, gid: fields.next()?.parse().ok()? })
        });
        found.ok_or_else(|| Trouble::new(format!("this machine has no user {name}")))
    }
}

/// Where a container's files are and what its image sets.
#[derive(Clone, Debug, Default)]
pub struct Image {
    user: Option<User>,
    path: Vec<PathBuf>,
    env: BTreeMap<String, String>,
    entrypoint: Vec<String>,
    binds: Vec<(PathBuf, PathBuf)>,
}

impl Image {
    /// An image whose programs are those of this machine.
    pub fn of_this_machine() -> Self {
        Self::default()
    }

    /// Runs as this user whatever the manifest says: the user the image's files belong to on this machine.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Puts a folder before the image's PATH.
    #[must_use]
    pub fn path(mut self, folder: impl Into<PathBuf>) -> Self {
        self.path.push(folder.into());
        self
    }

    /// Sets a variable; the manifest's own variables win.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// What runs when the manifest names no `command`.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Shows a file or folder of this machine inside of the container, read-only.
    #[must_use]
    pub fn bind(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push((host.into(), inside.into()));
        self
    }

    /// The user the table forces.
    pub fn forced_user(&self) -> Option<User> {
        self.user
    }

    /// What is shown inside: (path on this machine, path in the container).
    pub fn binds(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.binds.iter().map(|(host, inside)| (host.as_path(), inside.as_path()))
    }

    /// The words of a container that names no `command`.
    pub fn default_command(&self) -> &[String] {
        &self.entrypoint
    }

    /// The variables every container of this image starts with.
    pub fn base_env(&self) -> BTreeMap<String, String> {
        let mut path: Vec<String> = self.path.iter().map(|folder| folder.display().to_string()).collect();
        path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), path.join(":")),
            ("HOME".to_owned(), "/tmp".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        env.extend(self.env.clone());
        env
    }
}

/// All images that can be "pulled".
#[derive(Clone, Debug, Default)]
pub struct Images(BTreeMap<String, Image>);

impl Images {
    /// No image at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds an image under its full name and tag, as the manifest writes it.
    #[must_use]
    pub fn with(mut self, name: &str, image: Image) -> Self {
        self.0.insert(name.to_owned(), image);
        self
    }

    /// The image of this name.
    pub fn find(&self, name: &str) -> Option<&Image> {
        self.0.get(name)
    }
}
