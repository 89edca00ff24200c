//! One process tree that is a container: namespaces and a root of its own, one log, and a way to run a command inside.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::super::children::{Child, Program, Signal};
use super::super::trouble::{Result, Trouble, eventually};
use super::images::User;
use super::spec::Mount;

/// The runtime's script; written next to the sandboxes, so that a test binary needs no file of the source tree.
const ENTER: &str = include_str!("enter.sh");

/// Everything a container is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What errors and the process table call it.
    pub name: String,
    /// A folder of its own for the script and the mount point.
    pub folder: PathBuf,
    /// Where both its outputs go; appended to.
    pub log: PathBuf,
    /// The host name it sees: the pod's name.
    pub hostname: String,
    /// What runs, words already expanded.
    pub command: Vec<String>,
    /// All its variables.
    pub env: BTreeMap<String, String>,
    /// What it sees beside this machine's files.
    pub mounts: Vec<Mount>,
    /// Who it is.
    pub user: User,
    /// Is its root read-only?
    pub read_only_root: bool,
    /// Has it no capability?
    pub confined: bool,
    /// Where it starts.
    pub working_dir: String,
}

/// A running container. Dropping it kills every process of it.
pub struct Running {
    child: Child,
    env: BTreeMap<String, String>,
    user: User,
}

impl Launch {
    /// Starts the container and waits until its own program runs.
    pub async fn start(&self) -> Result<Running> {
        if self.command.is_empty() {
            return Err(Trouble::new(format!(
                "{}: neither the manifest nor the image table names a command",
                self.name
            )));
        }
        let sandbox = self.folder.join("root");
        std::fs::create_dir_all(&sandbox)?;
        let script = self.folder.join("enter.sh");
        std::fs::write(&script, ENTER)?;
        let flag = |set: bool| if set { "1" } else { "0" };
        let mut program =
            Program::new(&self.name, "/bin/sh").own_pids().clear_env().arg(&script).arg(&sandbox).arg(&self.hostname);
        program = program.args([self.user.uid.to_string(), self.user.gid.to_string()]);
        program = program.args([flag(self.read_only_root), flag(self.confined), &self.working_dir]);
        for mount in &self.mounts {
            program = program.arg(&mount.host).arg(&mount.inside).arg(if mount.read_only { "ro" } else { "rw" });
        }
        program = program.arg("--").args(&self.command);
        for (key, value) in &self.env {
            program = program.env(key, value);
        }
        let child = program.start(&self.log)?;
        let begun = || async { (child.status().is_some() || child.pid().is_some_and(entered)).then_some(()) };
        eventually(&format!("{} to begin", self.name), Duration::from_secs(20), begun).await?;
        Ok(Running { child, env: self.env.clone(), user: self.user })
    }
}

/// Has the runtime's script handed over to the container's own program? Only then is the root its own.
fn entered(pid: u32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
    let own_root = std::fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root != Path::new("/"));
    own_root && !first.ends_with(b"chroot") && !first.ends_with(b"setpriv") && !first.ends_with(b"/env")
}

impl Running {
    /// The process tree.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Sends a signal to pid 1 of the container, as `docker stop` or the kubelet do.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Runs a command inside, as the container's user; its combined output, or what went wrong. It cannot outlive `limit`.
    pub async fn exec(&self, words: &[String], limit: Duration) -> Result<String> {
        let pid = self.child.pid().ok_or_else(|| Trouble::new("the container does not run"))?;
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--pid", "--ipc", "--uts", "--root", "--wd", "--"]);
        command.args([
            "/usr/bin/setpriv",
            "--reuid",
            &self.user.uid.to_string(),
            "--regid",
            &self.user.gid.to_string(),
            "--clear-groups",
        ]);
        command.args(["--", "/usr/bin/timeout", "--signal=KILL", &format!("{:.3}", limit.as_secs_f64().max(0.001))]);
        command.args(words).env_clear().envs(&self.env).kill_on_drop(true).stdin(std::process::Stdio::null());
        let output = tokio::time::timeout(limit + Duration::from_secs(2), command.output()).await??;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            Ok(text)
        } else {
            Err(Trouble::new(format!("{words:?}: {}: {text}", output.status)))
        }
    }
}
