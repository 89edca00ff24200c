//! The cases: each does one small thing of the byte path so many times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pgmoor::continuity::journal::Journal;
use pgmoor::continuity::pipeline::{Pipeline, Way};
use pgmoor::continuity::state::State;
use pgmoor::ids::{ClusterName, Lsn, PodId, PodName, SystemId, Timeline, Zone};
use pgmoor::topology::evidence::{Event, LeaderSighting, PodSighting, ProbeReport, RoleHint};
use pgmoor::topology::routing::{Need, RoutingTable};
use pgmoor::topology::{Settings, Topology};
use pgmoor::wire::scan::{Interest, Scanner, Step};
use pgmoor::wire::{MAX_BACKEND_FRAME, TxStatus, backend, sql, startup};

use crate::raw;

/// Its name, and what it does.
pub(crate) type Case = (&'static str, fn(u64));

/// All of them.
pub(crate) const CASES: &[Case] = &[
    ("scanner: 64 kB of rows of 100 B", |times| scan(&rows(), times)),
    ("scanner: the answer to one SELECT", |times| scan(&answer(), times)),
    ("pipeline: one simple SELECT", simple),
    ("pipeline: one SELECT, prepared before", prepared),
    ("pipeline: one SELECT, unnamed statement", unnamed),
    ("pipeline: reads a SELECT", |times| reads(SELECT.as_bytes(), times)),
    ("pipeline: reads a BEGIN", |times| reads(b"BEGIN;", times)),
    ("pipeline: reads a COMMIT", |times| reads(b"COMMIT", times)),
    ("pipeline: reads pgbench's INSERT", |times| reads(HISTORY.as_bytes(), times)),
    ("pipeline: reads an INSERT of 64 kB", |times| reads(rows_to_insert().as_bytes(), times)),
    ("pipeline: reads a script of 64 kB", |times| reads(script().as_bytes(), times)),
    ("pipeline: reads a SET", |times| reads(b"SET search_path = app, public", times)),
    ("sql: glances at a SELECT", |times| glance(SELECT.as_bytes(), times)),
    ("sql: glances at an INSERT of 1 kB", |times| glance(insert().as_bytes(), times)),
    ("journal: one request, one answer, a new page", page),
    ("journal: hash of 64 kB", hash),
    ("startup: reads a startup packet", startup_packet),
    ("routing: a writer chooses", |times| choose(&Need::Write, times)),
    ("routing: a reader chooses of two, by zone and load", |times| choose(&Need::Read { or_primary: true }, times)),
    ("routing: a session asks where it stands", standing),
    ("topology: a probe that says nothing new", probe),
];

const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 123456;";
const HISTORY: &str =
    "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 123456, -789, CURRENT_TIMESTAMP);";
/// What sessions may remember; nothing here comes near.
const LIMIT: usize = 1 << 20;
/// What the relay looks at among the backend's frames.
const FROM_BACKEND: Interest = Interest::NONE.with(&[
    backend::BIND_COMPLETE,
    backend::CLOSE_COMPLETE,
    backend::COMMAND_COMPLETE,
    backend::COPY_BOTH_RESPONSE,
    backend::COPY_IN_RESPONSE,
    backend::EMPTY_QUERY_RESPONSE,
    backend::ERROR_RESPONSE,
    backend::NOTICE_RESPONSE,
    backend::NOTIFICATION_RESPONSE,
    backend::NO_DATA,
    backend::PARAMETER_STATUS,
    backend::PARSE_COMPLETE,
    backend::PORTAL_SUSPENDED,
    backend::READY_FOR_QUERY,
    backend::ROW_DESCRIPTION,
]);

fn rows() -> Vec<u8> {
    let row = raw::frame(backend::DATA_ROW, &[b'x'; 95]);
    row.repeat(64 * 1024 / row.len())
}

/// RowDescription, DataRow, CommandComplete, ReadyForQuery, as pgbench gets them.
fn answer() -> Vec<u8> {
    let columns = [&[0, 1][..], b"abalance\0", &[0; 18]].concat();
    [
        raw::frame(backend::ROW_DESCRIPTION, &columns),
        raw::frame(backend::DATA_ROW, &[0, 1, 0, 0, 0, 1, b'0']),
        raw::frame(backend::COMMAND_COMPLETE, b"SELECT 1\0"),
        raw::frame(backend::READY_FOR_QUERY, b"I"),
    ]
    .concat()
}

fn insert() -> String {
    format!("INSERT INTO events (at, body) VALUES (now(), '{}')", "some words of an event, ".repeat(40))
}

/// As bulk loads send it.
fn rows_to_insert() -> String {
    let row = "(123456, now(), 'some words of an event', 1.5), ";
    format!("INSERT INTO events (id, at, body, weight) VALUES {}(0, now(), '', 0)", row.repeat(64 * 1024 / row.len()))
}

/// As migrations send it.
fn script() -> String {
    let statement = "UPDATE events SET weight = coalesce(weight, 0) + 1 WHERE id = 123456;\n";
    statement.repeat(64 * 1024 / statement.len())
}

fn scan(bytes: &[u8], times: u64) {
    let mut scanner = Scanner::new(&FROM_BACKEND, MAX_BACKEND_FRAME);
    for _ in 0..times {
        let mut window = black_box(bytes);
        while let Ok(step) = scanner.step(window, false) {
            let count = black_box(&step).consumed();
            if step == Step::Wait {
                break;
            }
            window = &window[count..];
        }
    }
}

/// One session's trackers.
struct Session {
    pipeline: Pipeline,
    state: State,
    end: u64,
}

impl Session {
    fn new() -> Self {
        Self { pipeline: Pipeline::default(), state: State::new(LIMIT), end: 0 }
    }

    fn goes_on(&mut self, bytes: u64) -> u64 {
        self.end += bytes;
        self.end
    }

    /// RowDescription, CommandComplete, ReadyForQuery.
    fn answered(&mut self) {
        black_box(self.pipeline.described());
        black_box(self.pipeline.command_complete(black_box(b"SELECT 1"), &mut self.state));
        black_box(self.pipeline.ready(TxStatus::Idle, &mut self.state));
    }

    fn runs(&mut self, statement: &[u8]) {
        self.pipeline.bind(b"", black_box(statement));
        self.pipeline.describe();
        self.pipeline.execute(b"");
        let end = self.goes_on(60);
        self.pipeline.sync(end);
    }
}

fn simple(times: u64) {
    let mut session = Session::new();
    for _ in 0..times {
        let meaning = session.pipeline.read(black_box(SELECT.as_bytes()), false);
        let end = session.goes_on(64);
        session.pipeline.query(meaning, end);
        session.answered();
    }
}

fn prepared(times: u64) {
    let mut session = Session::new();
    let body = raw::parse("P0_1", SELECT);
    session.pipeline.parse(
        b"P0_1",
        session.pipeline.read(SELECT.as_bytes(), false),
        &body[5..],
        Way::AsItIs,
        &session.state,
    );
    session.pipeline.sync(0);
    session.pipeline.parse_complete(&mut session.state);
    session.pipeline.ready(TxStatus::Idle, &mut session.state);
    for _ in 0..times {
        session.runs(b"P0_1");
        black_box(session.pipeline.bind_complete());
        session.answered();
    }
}

fn unnamed(times: u64) {
    let mut session = Session::new();
    let body = raw::parse("", SELECT);
    for _ in 0..times {
        session.pipeline.parse(
            b"",
            session.pipeline.read(black_box(SELECT.as_bytes()), false),
            black_box(&body[5..]),
            Way::AsItIs,
            &session.state,
        );
        session.runs(b"");
        black_box(session.pipeline.parse_complete(&mut session.state));
        black_box(session.pipeline.bind_complete());
        session.answered();
    }
}

fn reads(text: &[u8], times: u64) {
    let pipeline = Pipeline::default();
    for _ in 0..times {
        black_box(pipeline.read(black_box(text), false));
    }
}

fn glance(text: &[u8], times: u64) {
    for _ in 0..times {
        black_box(sql::glance(black_box(text)));
    }
}

fn page(times: u64) {
    let mut journal = Journal::new(Some(LIMIT));
    let (request, answer) = (raw::query(SELECT), answer());
    for _ in 0..times {
        journal.sent(black_box(&request));
        let _ = black_box(journal.hear(black_box(&answer)));
        journal.clear();
    }
}

fn hash(times: u64) {
    let mut journal = Journal::new(Some(LIMIT));
    let rows = rows();
    for _ in 0..times {
        let _ = black_box(journal.hear(black_box(&rows)));
    }
}

fn startup_packet(times: u64) {
    let parameters =
        [("user", "app"), ("database", "orders"), ("application_name", "pgbench"), ("client_encoding", "UTF8")];
    let packet = raw::startup(0x0003_0000, &parameters);
    for _ in 0..times {
        let _ = black_box(startup::parse(black_box(&packet)));
    }
}

fn choose(need: &Need, times: u64) {
    let (topology, _, _) = cluster();
    let table: &RoutingTable = topology.table();
    let zone = Zone::new("b");
    for dice in 0..times {
        black_box(table.choose(black_box(need), Some(&zone), |pod| pod.name.as_str().len(), dice));
    }
}

fn standing(times: u64) {
    let (topology, pods, _) = cluster();
    for _ in 0..times {
        black_box(topology.table().standing(black_box(&pods[0]), &Need::Write));
    }
}

fn probe(times: u64) {
    let (mut topology, pods, mut now) = cluster();
    for _ in 0..times {
        now += Duration::from_millis(1);
        topology.handle(now, answered(&pods[0], now, false));
        while let Some(command) = topology.poll() {
            black_box(command);
        }
    }
}

/// Three pods in two zones, the first of them the proven primary.
fn cluster() -> (Topology, [PodId; 3], Instant) {
    let now = Instant::now();
    let pods = ["pg-0", "pg-1", "pg-2"].map(|name| PodId::new(name, "0b6f1c2e"));
    let mut topology = Topology::new(ClusterName::new("orders"), Settings::default(), now);
    let sightings = pods.iter().zip(["a", "b", "b"]).map(|(pod, zone)| PodSighting {
        id: pod.clone(),
        address: Some(([10, 0, 0, 1], 5432).into()),
        label: if zone == "a" { RoleHint::Primary } else { RoleHint::Replica },
        ready: true,
        leaving: false,
        zone: Some(Zone::new(zone)),
    });
    topology.handle(now, Event::LeaderSeen(LeaderSighting::Names(PodName::new("pg-0"))));
    topology.handle(now, Event::Relisted(sightings.collect()));
    for (place, pod) in pods.iter().enumerate() {
        topology.handle(now, answered(pod, now, place > 0));
    }
    while topology.poll().is_some() {}
    (topology, pods, now)
}

fn answered(pod: &PodId, now: Instant, in_recovery: bool) -> Event {
    let report = ProbeReport {
        in_recovery,
        system_id: SystemId(7),
        timeline: Some(Timeline(1)),
        lsn: Some(Lsn(0x0300_0000)),
        lag: in_recovery.then_some(Duration::ZERO),
        asked_at: now,
    };
    Event::Probed { pod: pod.clone(), outcome: Ok(report) }
}
