//! One run of pgbench, and what it and `/proc` say of it.
//!
//! Counted is from the first line of progress that tells of transactions (all clients are connected then) to the last.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::book::percentile;
use crate::meter::{Client, Look, Meter, Used};
use crate::process::tied;
use crate::programs::Programs;
use crate::stage::{DATABASE, SCRAM, Stage, TRUSTED};
use crate::target::Door;
use crate::trouble::{Result, Trouble, Trying as _};

/// More than this, and the looks were not at what they should have been.
const MOST_SKEW: f64 = 0.1;
/// How the complaint about that begins.
pub(crate) const BUSY: &str = "the machine is too busy";

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) protocol: Protocol,
    pub(crate) script: Script,
    pub(crate) clients: u32,
    pub(crate) tls: bool,
    pub(crate) door: Door,
    pub(crate) pace: Pace,
}

/// pgbench's `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// pgbench's own scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// One SELECT by key.
    Select,
    /// TPC-B-like: seven statements, of them four that write.
    Write,
}

/// How fast clients go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As fast as they are answered.
    Full,
    /// So many transactions a second, all clients together.
    Rate(f64),
    /// As fast as they are answered, on a new connection each time.
    Reconnect,
}

/// What came out.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) used: Used,
    /// Transactions meanwhile.
    pub(crate) count: f64,
    /// Of the latencies, in microseconds; where they were logged.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// All transactions of the run, also those before and after what was counted.
    pub(crate) whole: f64,
}

/// Runs it for so many seconds.
pub(crate) fn run(
    programs: &Programs,
    stage: &Stage,
    address: SocketAddr,
    proxy: Option<&[u32]>,
    load: &Load,
    seconds: u64,
) -> Result<Outcome> {
    let logs = tempfile::Builder::new().prefix("pgbench-").tempdir_in(stage.folder.path())?;
    let mut child = start(programs, address, load, seconds, logs.path())?;
    let meter = Meter { proxy, server: stage.postgres.pid(), client: Client::Tree(child.id()) };
    let watched = watch(&mut child, &meter);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Watched { count, first, last, complaint } = watched?;
    if !output.status.success() || complaint.is_some() {
        let complaint = complaint.unwrap_or_else(|| output.status.to_string());
        return Err(Trouble::new(format!("pgbench: {complaint}")));
    }
    let (Some(first), Some(last)) = (first, last) else {
        return Err(Trouble::new("pgbench told of no progress: the clients were not served in time"));
    };
    let mut latencies = latencies(logs.path(), first.0, last.0)?;
    latencies.sort_by(f64::total_cmp);
    let whole = after(&text, "number of transactions actually processed: ").unwrap_or(count);
    let (used, told) = (last.1.since(&first.1), last.0 - first.0);
    // The looks come a little after the lines, on a busy machine not always as much: rates are compared, not sums.
    let skew = (used.seconds / told - 1.0).abs();
    if skew > MOST_SKEW {
        let skew = skew * 100.0;
        return Err(Trouble::new(format!("{BUSY}: the time between two looks was off by {skew:.0} %")));
    }
    Ok(Outcome {
        count: count * used.seconds / told,
        used,
        p50: percentile(&latencies, 0.5),
        p99: percentile(&latencies, 0.99),
        whole,
    })
}

fn start(programs: &Programs, address: SocketAddr, load: &Load, seconds: u64, logs: &Path) -> Result<Child> {
    // A proxy that hangs must not hang the harness.
    let mut command = tied(Path::new("timeout"));
    command.args(["-s", "KILL", &(seconds + 30).to_string()]).arg(&programs.pgbench);
    command.args(["-n", "-P", "1", "--progress-timestamp", "-M", load.protocol.name()]);
    command.args(["-T", &seconds.to_string(), "-c", &load.clients.to_string()]);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.args(match load.script {
        Script::Select => ["-b", "select-only"],
        Script::Write => ["-b", "tpcb-like"],
    });
    command.args(match load.door {
        Door::Trust => ["-U", TRUSTED],
        Door::Scram => ["-U", SCRAM],
    });
    match load.pace {
        Pace::Full => {}
        Pace::Rate(rate) => {
            command.args(["--rate", &rate.to_string(), "-l", "--log-prefix"]).arg(logs.join("tx"));
        }
        Pace::Reconnect => {
            command.arg("-C");
        }
    }
    Stage::libpq(&mut command, load.tls);
    command.arg(DATABASE).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().trying(|| format!("{command:?}"))
}

/// What pgbench told while it ran. Looks stand beside pgbench's own time, in seconds.
#[derive(Default)]
struct Watched {
    count: f64,
    first: Option<(f64, Look)>,
    last: Option<(f64, Look)>,
    complaint: Option<String>,
}

fn watch(child: &mut Child, meter: &Meter<'_>) -> Result<Watched> {
    let mut watched = Watched::default();
    let stderr = child.stderr.take().ok_or_else(|| Trouble::new("pgbench without a stderr"))?;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        match progress(&line) {
            Some((_, 0.0)) if watched.first.is_none() => {}
            Some((at, rate)) => {
                let look = meter.look();
                if watched.first.is_none() {
                    watched.first = Some((at, look));
                } else {
                    let since = watched.last.or(watched.first).map_or(at, |(before, _)| before);
                    watched.count += rate * (at - since);
                    watched.last = Some((at, look));
                }
            }
            None if line.contains("error") || line.contains("aborted") || line.contains("fatal") => {
                watched.complaint.get_or_insert(line);
            }
            None => {}
        }
    }
    Ok(watched)
}

/// `progress: 1795631442.991 s, 5800.3 tps, lat ...`: when, and the rate since the line before.
fn progress(line: &str) -> Option<(f64, f64)> {
    let (at, rest) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
    Some((at.parse().ok()?, rest.split_once(" tps")?.0.parse().ok()?))
}

fn after(text: &str, before: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(before))?;
    line.split(['/', ' ']).next()?.parse().ok()
}

/// Microseconds each transaction took from when it was due, of those that ended between these times.
fn latencies(logs: &Path, from: f64, until: f64) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(logs)? {
        for line in fs::read_to_string(entry?.path())?.lines() {
            // client, number, latency, script, seconds, microseconds, schedule lag
            let fields: Vec<f64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
            let [_, _, latency, _, seconds, micros, ..] = fields.as_slice() else {
                continue;
            };
            let ended = seconds + micros / 1e6;
            if ended >= from && ended <= until {
                all.push(*latency);
            }
        }
    }
    Ok(all)
}
