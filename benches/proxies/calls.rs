//! System calls for one transaction, by name: counted by perf, which disturbs little, else by strace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::pgbench::{self, Load};
use crate::process::{Process, output, tied};
use crate::programs::Programs;
use crate::stage::Stage;
use crate::target::Running;
use crate::trouble::{Result, Trouble};

/// What counts them.
#[derive(Clone, Debug)]
pub(crate) enum Counter {
    Perf(PathBuf),
    Strace(PathBuf),
}

/// All calls together, and each by its name.
const ALL: &str = "raw_syscalls:sys_enter";
const EACH: &str = "syscalls:sys_enter_";
/// What a proxy may spend its calls on: to count each of all there are takes perf twenty seconds to begin and end.
const NAMES: [&str; 22] = [
    "clock_gettime",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "futex",
    "getsockopt",
    "io_uring_enter",
    "madvise",
    "poll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sched_yield",
    "sendmsg",
    "sendto",
    "setsockopt",
    "splice",
    "timerfd_settime",
    "tee",
    "write",
    "writev",
];
const ATTACHED_WITHIN: Duration = Duration::from_secs(5);

impl Counter {
    /// perf, where this kernel and this user may count with it.
    pub(crate) fn find(perf: Option<PathBuf>, strace: Option<PathBuf>) -> Option<Self> {
        let works = |perf: &PathBuf| output(Command::new(perf).args(["stat", "-x,", "-e", ALL, "true"])).is_ok();
        perf.filter(works).map(Self::Perf).or_else(|| strace.map(Self::Strace))
    }

    /// Its name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Perf(_) => "perf",
            Self::Strace(_) => "strace, which slows what it counts",
        }
    }

    fn attach(&self, pids: &[u32], out: &Path, log: &Path) -> Result<Process> {
        let command = match self {
            Self::Perf(perf) => {
                let mut command = tied(perf);
                let events = NAMES.map(|name| format!("{EACH}{name}")).join(",");
                let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                command.args(["stat", "-x,", "-e", &format!("{ALL},{events}"), "-p", &pids.join(",")]);
                command.arg("-o").arg(out);
                command
            }
            Self::Strace(strace) => {
                let mut command = tied(strace);
                command.args(["-c", "-f"]).arg("-o").arg(out);
                command.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
                command
            }
        };
        let mut process = Process::start(command, log)?;
        let deadline = Instant::now() + ATTACHED_WITHIN;
        // perf does not say when it has begun.
        thread::sleep(Duration::from_millis(500));
        while matches!(self, Self::Strace(_)) && !fs::read_to_string(log)?.contains("attached") {
            if process.ended() || Instant::now() > deadline {
                return Err(Trouble::new(format!("strace cannot attach: {}", fs::read_to_string(log)?)));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// How often which call was made, the most frequent first; all together under the empty name.
    fn read(&self, text: &str) -> BTreeMap<String, f64> {
        match self {
            Self::Perf(_) => text.lines().filter_map(perf_line).collect(),
            Self::Strace(_) => text.lines().filter_map(strace_line).collect(),
        }
    }
}

/// `1234,,syscalls:sys_enter_read,...`
fn perf_line(line: &str) -> Option<(String, f64)> {
    let mut fields = line.split(',');
    let count = fields.next()?.parse().ok()?;
    let event = fields.nth(1)?;
    let name = if event == ALL { "" } else { event.strip_prefix(EACH)? };
    Some((name.to_owned(), count))
}

/// `50.00    0.000123           1      1234        12 epoll_wait`, without the 12 where nothing failed.
fn strace_line(line: &str) -> Option<(String, f64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let count = fields.get(3)?.parse().ok()?;
    fields.first()?.parse::<f64>().ok()?;
    let name = *fields.last()?;
    Some((if name == "total" { String::new() } else { name.to_owned() }, count))
}

/// Calls for one transaction: all of them, and in words which.
pub(crate) fn run(
    programs: &Programs,
    stage: &Stage,
    running: &Running,
    load: &Load,
    seconds: u64,
) -> Result<(f64, String)> {
    let counter = programs.counter.as_ref().ok_or_else(|| Trouble::new("neither perf nor strace is there"))?;
    let pids = running.pids().ok_or_else(|| Trouble::new("its processes are not known"))?;
    let folder = tempfile::Builder::new().prefix("calls-").tempdir_in(stage.folder.path())?;
    let (out, log) = (folder.path().join("out"), folder.path().join("log"));
    let process = counter.attach(pids, &out, &log)?;
    let outcome = pgbench::run(programs, stage, running.address, Some(pids), load, seconds);
    process.end("INT")?;
    let whole = outcome?.whole;
    let mut counts = counter.read(&fs::read_to_string(&out)?);
    let all = counts.remove("").ok_or_else(|| Trouble::new("nothing was counted"))? / whole;
    let mut each: Vec<(String, f64)> = counts.into_iter().map(|(name, count)| (name, count / whole)).collect();
    let others = all - each.iter().map(|(_, count)| count).sum::<f64>();
    each.push(("others".to_owned(), others));
    each.retain(|(_, count)| *count >= 0.05);
    each.sort_by(|a, b| b.1.total_cmp(&a.1));
    let words: Vec<String> = each.iter().map(|(name, count)| format!("{name} {count:.2}")).collect();
    Ok((all, words.join(", ")))
}
