//! The language of the `*.trace` files: events in, commands out, both as lines a person can read.
//!
//! ```text
//! # a comment
//! settings lag_limit=1s failures=3         (optional, first)
//! > 0ms leader pg-0                        (`-`: names nobody, `unused`: there is no leader object)
//! > 0ms relist pg-0/a:primary pg-1/b:replica,notready
//! > 5ms seen pg-0/a:primary,leaving        (flags: leaving notready noaddr zone=Z addr=A:P)
//! > 5ms gone pg-0/a
//! > 6ms answer pg-0/a primary tl=5 lsn=0/300 sys=7 asked=4ms
//! > 6ms answer pg-1/b standby tl=5 lag=10ms
//! > 6ms history pg-0/a tl=6 2=0/100 5=0/300 (each ancestor, and where it was left)
//! > 7ms fail pg-0/a timed_out
//! > 7ms doubt pg-0/a read_only
//! > 8ms drain pg-0 on
//! > 9ms watch lost
//! > 2s tick
//! > 2s run                                 (ticks at every deadline up to then)
//!   what came out: indented lines, made by TRACE_REWRITE=1
//! ```
//! Times are counted from the beginning. An answer is asked when it comes, is of system 7, and lags 0, unless it says otherwise.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pgmoor::ids::{ClusterName, PodId, PodName, SystemId, Timeline, Zone};
use pgmoor::topology::evidence::{Event, LeaderSighting, PodSighting, ProbeFailure, ProbeReport, RoleHint, Suspicion};
use pgmoor::topology::history::History;
use pgmoor::topology::routing::{Primary, Role, RoutingTable};
use pgmoor::topology::{Command, Settings, Topology};

/// Runs a script: its own text, with what comes out of the machine in the place of the indented lines.
pub(crate) fn run(script: &str) -> String {
    let start = Instant::now();
    let mut settings = Settings::default();
    let mut machine = None;
    let mut out = String::new();
    for line in script.lines() {
        if let Some(words) = line.strip_prefix("settings ") {
            assert!(machine.is_none(), "settings come first: {line}");
            words.split_whitespace().for_each(|word| set(&mut settings, word));
        }
        if line.starts_with("  ") {
            continue;
        }
        writeln!(out, "{line}").unwrap();
        if let Some(input) = line.strip_prefix("> ") {
            let machine = machine.get_or_insert_with(|| Topology::new(ClusterName::new("c"), settings.clone(), start));
            let (at, words) = input.split_once(' ').unwrap_or_else(|| panic!("an event is wanted: {line}"));
            step(machine, start, duration(at), words, &mut out);
        }
    }
    out
}

fn step(machine: &mut Topology, start: Instant, at: Duration, words: &str, out: &mut String) {
    if words == "run" {
        while let Some(next) = machine.poll_timeout().filter(|next| *next <= start + at) {
            machine.handle(next, Event::Tick);
            let when = format!("{:?}: ", next - start);
            drain(machine, &when, out);
        }
        return;
    }
    machine.handle(start + at, event(start, at, words));
    drain(machine, "", out);
}

fn drain(machine: &mut Topology, when: &str, out: &mut String) {
    while let Some(command) = machine.poll() {
        match command {
            Command::Publish(table) => write_table(&table, when, out),
            Command::Probe { pod, address } => writeln!(out, "  {when}probe {pod} at {address}").unwrap(),
        }
    }
}

fn write_table(table: &RoutingTable, when: &str, out: &mut String) {
    let primary = match &table.primary {
        Primary::Proven { pod, timeline } => format!("primary {pod} on {timeline}"),
        Primary::Nobody(vacancy) => format!("no primary, {}", vacancy.as_str()),
    };
    let stale = if table.stale { ", stale" } else { "" };
    write!(out, "  {when}table {}: {primary}, floor {}{stale}", table.epoch, table.floor).unwrap();
    for (timeline, end) in table.history.iter().flat_map(|history| history.ancestors()) {
        write!(out, ", {timeline} left at {end}").unwrap();
    }
    writeln!(out).unwrap();
    for route in table.pods.values() {
        let mut line = format!("    {} {}", route.id, route.role.as_str());
        if let Role::Replica { fit, lag, replayed } = route.role {
            line.push_str(if fit { ", fit" } else { ", unfit" });
            lag.iter().for_each(|lag| write!(line, ", lag {lag:?}").unwrap());
            replayed.iter().for_each(|lsn| write!(line, ", at {lsn}").unwrap());
        }
        for (is, what) in
            [(route.draining, ", draining"), (!route.ready, ", not ready"), (route.address.is_none(), ", no address")]
        {
            line.push_str(if is { what } else { "" });
        }
        writeln!(out, "{line}").unwrap();
    }
}

fn set(settings: &mut Settings, word: &str) {
    match word.split_once('=').unwrap_or_else(|| panic!("key=value is wanted: {word}")) {
        ("lag_limit", value) => settings.lag_limit = Some(duration(value)),
        ("failures", value) => settings.failures_to_doubt = value.parse().unwrap(),
        ("hunt_limit", value) => settings.hunt_limit = duration(value),
        ("deadline", value) => settings.probe_deadline = duration(value),
        (key, _) => panic!("unknown setting {key}"),
    }
}

fn duration(text: &str) -> Duration {
    let parsed = match text.strip_suffix("ms") {
        Some(millis) => millis.parse().map(Duration::from_millis),
        None => text.strip_suffix('s').unwrap_or("").parse().map(Duration::from_secs),
    };
    parsed.unwrap_or_else(|_| panic!("not a duration (5ms, 2s): {text:?}"))
}

pub(crate) fn event(start: Instant, at: Duration, text: &str) -> Event {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["tick"] => Event::Tick,
        ["watch", "lost"] => Event::WatchLost,
        ["watch", "restored"] => Event::WatchRestored,
        ["leader", "-"] => Event::LeaderSeen(LeaderSighting::Nobody),
        ["leader", "unused"] => Event::LeaderSeen(LeaderSighting::NotUsed),
        ["leader", name] => Event::LeaderSeen(LeaderSighting::Names(PodName::new(name))),
        ["relist", pods @ ..] => Event::Relisted(pods.iter().map(|pod| sighting(pod)).collect()),
        ["seen", pod] => Event::PodSeen(sighting(pod)),
        ["gone", pod] => Event::PodGone(pod_id(pod)),
        ["drain", pod, "on"] => Event::Drain { pod: PodName::new(pod), on: true },
        ["drain", pod, "off"] => Event::Drain { pod: PodName::new(pod), on: false },
        ["doubt", pod, what] => Event::Doubted { pod: pod_id(pod), suspicion: suspicion(what) },
        ["fail", pod, why] => Event::Probed { pod: pod_id(pod), outcome: Err(failure(why)) },
        ["history", pod, timeline, ancestors @ ..] => {
            Event::HistoryRead { pod: pod_id(pod), history: history(timeline, ancestors) }
        }
        ["answer", pod, role, rest @ ..] => {
            Event::Probed { pod: pod_id(pod), outcome: Ok(report(start, at, role, rest)) }
        }
        _ => panic!("not an event: {text}"),
    }
}

fn pod_id(text: &str) -> PodId {
    let (name, uid) = text.split_once('/').unwrap_or_else(|| panic!("name/uid is wanted: {text}"));
    PodId::new(name, uid)
}

/// `pg-0/a:primary,leaving`; pg-N's address is 10.0.0.N+1, unless it says otherwise.
fn sighting(text: &str) -> PodSighting {
    let mut words = text.splitn(2, ':');
    let id = pod_id(words.next().unwrap_or_default());
    let ordinal: u8 = id.name.as_str().rsplit('-').next().unwrap().parse().unwrap();
    let mut seen = PodSighting {
        id,
        address: Some(SocketAddr::from(([10, 0, 0, ordinal + 1], 5432))),
        label: RoleHint::Unknown,
        ready: true,
        leaving: false,
        zone: None,
    };
    for flag in words.next().unwrap_or_default().split(',').filter(|flag| !flag.is_empty()) {
        match flag.split_once('=') {
            None if flag == "primary" => seen.label = RoleHint::Primary,
            None if flag == "replica" => seen.label = RoleHint::Replica,
            None if flag == "notready" => seen.ready = false,
            None if flag == "leaving" => seen.leaving = true,
            None if flag == "noaddr" => seen.address = None,
            Some(("zone", zone)) => seen.zone = Some(Zone::new(zone)),
            Some(("addr", address)) => seen.address = Some(address.parse().unwrap()),
            None | Some(_) => panic!("unknown flag {flag} of {text}"),
        }
    }
    seen
}

fn report(start: Instant, at: Duration, role: &str, rest: &[&str]) -> ProbeReport {
    let mut report = ProbeReport {
        in_recovery: match role {
            "primary" => false,
            "standby" => true,
            other => panic!("primary or standby is wanted: {other}"),
        },
        system_id: SystemId(7),
        timeline: None,
        lsn: None,
        lag: (role == "standby").then_some(Duration::ZERO),
        asked_at: start + at,
    };
    for word in rest {
        match word.split_once('=').unwrap_or_else(|| panic!("key=value is wanted: {word}")) {
            ("tl", value) => report.timeline = Some(Timeline(value.parse().unwrap())),
            ("lsn", value) => report.lsn = Some(value.parse().unwrap()),
            ("lag", "-") => report.lag = None,
            ("lag", value) => report.lag = Some(duration(value)),
            ("sys", value) => report.system_id = SystemId(value.parse().unwrap()),
            ("asked", value) => report.asked_at = start + duration(value),
            (key, _) => panic!("unknown word {key} of an answer"),
        }
    }
    report
}

fn history(timeline: &str, ancestors: &[&str]) -> History {
    let timeline = timeline.strip_prefix("tl=").unwrap_or_else(|| panic!("tl=number is wanted: {timeline}"));
    let file: String = ancestors.iter().map(|line| format!("{}\tno reason\n", line.replace('=', "\t"))).collect();
    History::parse(Timeline(timeline.parse().unwrap()), &file).unwrap()
}

fn failure(text: &str) -> ProbeFailure {
    [
        ProbeFailure::Unreachable,
        ProbeFailure::TimedOut,
        ProbeFailure::NotAccepting,
        ProbeFailure::Refused,
        ProbeFailure::Garbled,
    ]
    .into_iter()
    .find(|failure| failure.as_str() == text)
    .unwrap_or_else(|| panic!("not a probe failure: {text}"))
}

fn suspicion(text: &str) -> Suspicion {
    [Suspicion::ReadOnly, Suspicion::ShuttingDown, Suspicion::ConnectFailed, Suspicion::Vanished]
        .into_iter()
        .find(|suspicion| suspicion.as_str() == text)
        .unwrap_or_else(|| panic!("not a suspicion: {text}"))
}
