//! Child processes that end with us, however we end: by a stop, by a drop, or because the test was killed.
//!
//! Each child has a thread of its own that spawns it, waits for it and ends with it. That thread is what the
//! kernel's parent-death signal (`setpriv --pdeathsig`) is tied to, so it must live exactly as long as the child.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::trouble::{Result, Trouble, Trying};

/// What may be sent to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Term,
    /// SIGINT: PostgreSQL's fast shutdown.
    Int,
    /// SIGKILL: end now.
    Kill,
    /// SIGSTOP: freeze.
    Stop,
    /// SIGCONT: thaw.
    Cont,
    /// SIGHUP: reload.
    Hup,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
            Self::Hup => "HUP",
        }
    }

    /// Sends this signal to processes. Those that are gone already are not an error.
    pub fn send(self, pids: &[u32]) -> Result<()> {
        if pids.is_empty() {
            return Ok(());
        }
        let status = Command::new("sh")
            .args([
                "-c",
                r#"signal=$1; shift; for pid; do kill -"$signal" "$pid" 2>/dev/null; done; :"#,
                "kill",
                self.name(),
            ])
            .args(pids.iter().map(u32::to_string))
            .stdin(Stdio::null())
            .status()?;
        if status.success() { Ok(()) } else { Err(Trouble::new(format!("sending {} failed: {status}", self.name()))) }
    }
}

/// A program to be started as a child.
pub struct Program {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    clear_env: bool,
    folder: Option<PathBuf>,
    user: Option<String>,
    own_pids: bool,
}

impl Program {
    /// A program by its path (or its name in PATH); `name` is what errors call it.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            folder: None,
            user: None,
            own_pids: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives it only the variables set with [`Self::env`], none of ours.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Starts it in this folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Runs it as this user (only root can).
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Gives it a PID namespace and /proc of its own, as a container has (only root can). It is pid 1 there, and all
    /// it ever forks ends with it, even what has left its process group and session as PostgreSQL does.
    #[must_use]
    pub fn own_pids(mut self) -> Self {
        self.own_pids = true;
        self
    }

    /// Starts it; both its outputs are appended to the file `log`.
    pub fn start(self, log: &Path) -> Result<Child> {
        let name = self.name.clone();
        let mut command = self.command(log).trying(|| format!("starting {name}"))?;
        let (pid_tx, pid_rx) = std::sync::mpsc::channel();
        let (ended_tx, ended_rx) = watch::channel(None);
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let mut process = match command.spawn() {
                Ok(process) => process,
                Err(error) => return drop(pid_tx.send(Err(error))),
            };
            drop(pid_tx.send(Ok(process.id())));
            // A wait cannot fail for a child of ours that nobody else reaps; were it to, the child counts as killed.
            let status = process.wait().unwrap_or_else(|_| ExitStatus::from_raw(9));
            ended_tx.send_replace(Some(status));
        })?;
        let pid = pid_rx.recv()?.trying(|| format!("starting {name}"))?;
        let log = log.to_owned();
        Ok(Child { name, pid, own_pids: self.own_pids, log, ended: ended_rx, thread: Some(thread) })
    }

    fn command(&self, log: &Path) -> Result<Command> {
        let out = File::options().create(true).append(true).open(log)?;
        let mut words: Vec<OsString> = ["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from).to_vec();
        if self.own_pids {
            words.extend(["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"].map(OsString::from));
        }
        if let Some(user) = &self.user {
            // Changing the user clears the parent-death signal, so it is asked for again after it.
            let switch = [format!("--reuid={user}"), format!("--regid={user}")].map(OsString::from);
            words.push("setpriv".into());
            words.extend(switch);
            words.extend(["--init-groups", "--pdeathsig", "KILL", "--"].map(OsString::from));
        }
        words.push(self.program.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        if self.clear_env {
            command.env_clear();
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

/// A running child. Dropping it kills it and waits for its end.
pub struct Child {
    name: String,
    /// The process we spawned; with `own_pids` that is the one that waits outside of the namespace.
    pid: u32,
    own_pids: bool,
    log: PathBuf,
    ended: watch::Receiver<Option<ExitStatus>>,
    thread: Option<JoinHandle<()>>,
}

impl Child {
    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program's process id as this machine sees it; `None` once it has ended (or, with `own_pids`, not begun).
    pub fn pid(&self) -> Option<u32> {
        if self.status().is_some() {
            None
        } else if self.own_pids {
            let children = format!("/proc/{0}/task/{0}/children", self.pid);
            std::fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()
        } else {
            Some(self.pid)
        }
    }

    /// With `own_pids`: every process inside its namespace. Else the program alone.
    pub fn family(&self) -> Vec<u32> {
        let Some(first) = self.pid() else {
            return Vec::new();
        };
        if !self.own_pids {
            return vec![first];
        }
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(own) = namespace(first) else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| namespace(*pid).as_ref() == Some(&own))
            .collect()
    }

    /// How it ended; `None` while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The thread went without a word: it was torn down with the process.
            Ok(None) | Err(_) => ExitStatus::from_raw(9),
        }
    }

    /// Signals the program; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal.send(self.pid().as_slice())
    }

    /// Signals the program and, with `own_pids`, everything it has forked: SIGSTOP here freezes a whole container.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        signal.send(&self.family())
    }

    /// Asks it to end, and after `grace` kills it. Returns how it ended.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term)?;
        match tokio::time::timeout(grace, self.ended()).await {
            Ok(status) => Ok(status),
            Err(_) => self.kill().await,
        }
    }

    /// Kills it (with `own_pids`: and all it forked) and waits for its end.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.kill_now()?;
        Ok(self.ended().await)
    }

    fn kill_now(&self) -> Result<()> {
        if self.status().is_some() {
            return Ok(());
        }
        // The namespace's init first: the process outside of it only waits, and passes its own death on.
        let mut pids = self.pid().as_slice().to_vec();
        if !pids.contains(&self.pid) {
            pids.push(self.pid);
        }
        Signal::Kill.send(&pids)
    }

    /// Where its outputs go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.kill_now());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The last lines of a file, if they are not longer than half a kilobyte each, or a word on why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let part = 64 * 1024 + 512 * lines as u64;
        file.seek(SeekFrom::Start(length.saturating_sub(part)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}
