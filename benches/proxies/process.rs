//! Child processes that end with the harness, and what `/proc` says of CPU and memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::trouble::{Result, Trouble, Trying as _};

/// `USER_HZ`: what `/proc/PID/stat` counts CPU in. It is 100 on every Linux that Debian builds.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process of ours. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts it; its output goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).trying(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().trying(|| format!("starting {command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ended?
    pub(crate) fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Asks it to end (`INT`, `TERM`) and waits until it has.
    pub(crate) fn end(mut self, signal: &str) -> Result<()> {
        let pid = self.pid().to_string();
        Command::new("sh").args(["-c", "kill \"$@\"", "kill", &format!("-{signal}"), &pid]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that the kernel ends with this process.
pub(crate) fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same, and as user postgres where we are root: PgBouncer refuses to be root.
pub(crate) fn tied_as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Runs a command to its end; what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().trying(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Trouble::new(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said))))
}

/// One look at the processes that some have started, and those at theirs.
pub(crate) struct Trees(BTreeMap<u32, Usage>);

struct Usage {
    parent: u32,
    own: u64,
    /// What its children had used when they ended and were waited for.
    reaped: u64,
}

impl Trees {
    /// These processes and all below them.
    pub(crate) fn now(roots: &[u32]) -> Self {
        // Not every kernel tells a process's children (CONFIG_PROC_CHILDREN): then every process has to be looked at.
        let tells = Path::new("/proc/thread-self/children").exists();
        let mut next = if tells { roots.to_vec() } else { numbers("/proc").collect() };
        let mut all = BTreeMap::new();
        while let Some(pid) = next.pop() {
            if let Some(usage) = usage(pid)
                && all.insert(pid, usage).is_none()
                && tells
            {
                next.extend(children(pid));
            }
        }
        Self(all)
    }

    /// CPU seconds that these processes and all they have started ever used.
    pub(crate) fn cpu(&self, roots: &[u32]) -> f64 {
        let ticks: u64 = self.pids(roots).map(|pid| self.0[&pid].own + self.0[&pid].reaped).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// The processes of these trees.
    fn pids<'a>(&'a self, roots: &'a [u32]) -> impl Iterator<Item = u32> {
        self.0.keys().copied().filter(|pid| self.descends(*pid, roots))
    }

    fn descends(&self, mut pid: u32, roots: &[u32]) -> bool {
        loop {
            if roots.contains(&pid) {
                return true;
            }
            match self.0.get(&pid) {
                Some(usage) if usage.parent != pid => pid = usage.parent,
                Some(_) | None => return false,
            }
        }
    }
}

/// CPU seconds of one process, without its children.
pub(crate) fn alone(pid: u32) -> f64 {
    usage(pid).map_or(0.0, |usage| usage.own as f64 / TICKS_PER_SECOND)
}

fn children(pid: u32) -> Vec<u32> {
    let threads = numbers(&format!("/proc/{pid}/task"));
    let lists = threads.filter_map(|thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn numbers(folder: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Parent and CPU ticks from `/proc/PID/stat`, all threads included (proc(5)).
fn usage(pid: u32) -> Option<Usage> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have blanks in it. After it: state, parent (field 4), ..., utime (14), stime, cutime, cstime.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let parent = u32::try_from(number(4)?).ok()?;
    Some(Usage { parent, own: number(14)? + number(15)?, reaped: number(16)? + number(17)? })
}

/// CPU seconds the whole machine was busy since it started.
pub(crate) fn machine_busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice.
    let busy = fields.take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4));
    busy.filter_map(|(_, field)| field.parse::<u64>().ok()).sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Bytes of memory that belong to these trees: proportional set size.
pub(crate) fn memory(roots: &[u32]) -> Result<f64> {
    let trees = Trees::now(roots);
    let all = trees.pids(roots).map(|pid| {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).trying(|| format!("reading {file}"))?;
        let kilobytes =
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
        let kilobytes: f64 = kilobytes.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(kilobytes * 1024.0)
    });
    all.sum()
}
