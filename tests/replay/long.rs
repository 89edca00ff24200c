//! Requests longer than pgmoor's buffers, which it passes on in parts: run again like others, and not run before they are whole.

use std::net::SocketAddr;
use std::sync::Arc;

use super::pair::{Moor, POOL_OF_SESSIONS, Plan, until};
use super::raw::{Raw, bind, execute, parse, query, sync, unit};
use super::stage::{Scene, Talk as _, scenes};

scenes![
    a_long_statement_in_flight,
    a_very_long_statement_in_flight,
    a_long_statement_and_others,
    a_long_parse_in_flight,
    a_long_text_of_two_in_flight,
    a_long_text_that_commits_in_flight,
    half_of_it_is_here,
    half_of_it_was_sent,
    half_of_it_was_sent_behind_others,
    half_of_it_was_sent_outside_a_transaction,
    half_of_it_was_sent_and_lost_twice,
    half_of_a_parse_was_sent,
];

const LONG: usize = 60_000;
/// Some of it is on its way to the server, some of it waits in pgmoor, some has not come.
const HALF: usize = 40_000;

fn body() -> String {
    "b".repeat(LONG)
}

/// Inserts a row with this id, once the gate is open.
fn gated(id: u32) -> String {
    format!("insert into t select {id}, '{}' from gate", body())
}

fn insert(id: u32) -> String {
    format!("insert into t values ({id}, '{}')", body())
}

fn begun(s: &Scene) -> Raw {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c
}

fn holds_both(s: &Scene) {
    s.holds("select id, length(body) from t order by id", &format!("1,1 2,{LONG}"));
}

fn a_long_statement_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&query(&gated(2)));
    s.until_blocked(1);
    s.lose();
    gate.open();
    ends_well(s, &mut c);
}

fn a_very_long_statement_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&query(&format!("insert into t select 2, '{}' from gate", body().repeat(10))));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id, length(body) from t order by id", &format!("1,1 2,{}", 10 * LONG));
}

fn a_long_statement_and_others(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.say(&insert(2), "INSERT 0 1 T");
    c.put(&[query(&gated(3)), query("select count(*) from t"), query("commit")].concat());
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("INSERT 0 1 T");
    c.hear("3 SELECT 1 T");
    c.hear("COMMIT I");
    s.holds("select id, length(body) from t order by id", &format!("1,1 2,{LONG} 3,{LONG}"));
}

fn a_long_parse_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&[parse("", &gated(2)), bind("", "", &[]), execute("", 0), sync()].concat());
    s.until_blocked(1);
    s.lose();
    gate.open();
    ends_well(s, &mut c);
}

fn a_long_text_of_two_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&query(&format!("{}; select id from gate", insert(2))));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("1 INSERT 0 1 SELECT 1 T");
    c.say("commit", "COMMIT I");
    holds_both(s);
}

/// The COMMIT stands where only the last part of the text shows it.
fn a_long_text_that_commits_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&query(&format!("{}; commit", gated(2))));
    s.until_blocked(1);
    s.lose();
    gate.open();
    let reply = c.reply();
    match reply.code() {
        "" => holds_both(s),
        "40001" => s.holds("select count(*) from t", "0"),
        "08007" => s.holds("select count(*) in (0, 2) from t", "t"),
        _ => panic!("{reply:?}"),
    }
    assert_eq!(reply.status, 'I', "{reply:?}");
    c.say("select 'on'", "on SELECT 1 I");
}

/// Sends the beginning, and waits until pgmoor has taken it.
fn put_half(c: &mut Raw, frame: &[u8], half: usize) {
    c.put(&frame[..half]);
    // proc(5), /proc/net/tcp: number, local and remote address, state, transmit and receive queue.
    let (theirs, ours) = (in_hex(c.stream.peer_addr().unwrap()), in_hex(c.stream.local_addr().unwrap()));
    let taken = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line.get(1..3) == Some(&[theirs.as_str(), ours.as_str()]))?;
        line.get(4)?.ends_with(":00000000").then_some(())
    };
    until("pgmoor to read", taken);
}

/// An address as the kernel's table has it.
fn in_hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is none of the table's") };
    format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
}

/// The server is lost when so much of these frames is here; the rest comes, and the transaction ends.
fn lost_in_the_midst(s: &Scene, c: &mut Raw, frames: &[u8], half: usize) {
    put_half(c, frames, half);
    s.lose();
    c.put(&frames[half..]);
    ends_well(s, c);
}

fn ends_well(s: &Scene, c: &mut Raw) {
    c.hear("INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    holds_both(s);
}

fn half_of_it_is_here(s: &Scene) {
    lost_in_the_midst(s, &mut begun(s), &query(&insert(2)), 9_000);
}

fn half_of_it_was_sent(s: &Scene) {
    lost_in_the_midst(s, &mut begun(s), &query(&insert(2)), HALF);
}

fn half_of_it_was_sent_behind_others(s: &Scene) {
    let mut c = begun(s);
    c.say("select count(*) from t", "1 SELECT 1 T");
    let unit = unit("select count(*) + $1::int from t", &["1"]);
    let frames = [&unit[..], &query(&insert(2))].concat();
    put_half(&mut c, &frames, HALF);
    c.hear("2 SELECT 1 T");
    s.lose();
    c.put(&frames[HALF..]);
    ends_well(s, &mut c);
}

fn half_of_it_was_sent_outside_a_transaction(s: &Scene) {
    let mut c = s.client();
    c.say("insert into t values (1, 'a')", "INSERT 0 1 I");
    let frame = query(&insert(2));
    put_half(&mut c, &frame, HALF);
    s.until_seen("backend_type = 'client backend'", 1);
    s.lose();
    c.put(&frame[HALF..]);
    c.hear("INSERT 0 1 I");
    holds_both(s);
}

fn half_of_it_was_sent_and_lost_twice(s: &Scene) {
    let mut c = begun(s);
    let frame = query(&insert(2));
    put_half(&mut c, &frame, HALF);
    s.lose();
    s.until_seen("backend_type = 'client backend'", 1);
    s.lose_again();
    c.put(&frame[HALF..]);
    ends_well(s, &mut c);
}

fn half_of_a_parse_was_sent(s: &Scene) {
    let frames = [parse("long", &insert(2)), bind("", "long", &[]), execute("", 0), sync()].concat();
    lost_in_the_midst(s, &mut begun(s), &frames, HALF);
}

/// Wherever it is cut: around the header, the buffer's end, the frame's, and in between.
#[test]
fn it_is_cut_anywhere() {
    let s = Scene::new(super::stage::shared(), "cut_anywhere", None);
    let frame = query(&insert(2));
    let edges = [1, 4, 5, 6, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, frame.len() - 1, frame.len()];
    let mut c = s.client();
    for cut in edges.into_iter().chain((3_000..frame.len()).step_by(3_517)) {
        c.say("begin", "BEGIN T");
        c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
        put_half(&mut c, &frame, cut);
        s.lose();
        c.put(&frame[cut..]);
        c.hear("INSERT 0 1 T");
        c.say("select count(*), sum(length(body)) from t", &format!("2,{} SELECT 1 T", LONG + 1));
        c.say("rollback", "ROLLBACK I");
    }
    assert_eq!(c.run("select count(*) from t").one(), "0");
}

/// Where nothing is run again, the half that was sent is answered once, and the other half is nobody's: not even the
/// backend's that a session which listens gets at once.
fn half_of_it_is_told(name: &str, pool: &str) {
    let stage = super::stage::shared();
    let plan = Plan { pool: pool.to_owned(), continuity: "replay = false".to_owned(), ..stage.pair.plan() };
    let moor = Moor::start(&plan);
    let befores = [("select 1", 'I'), ("listen events", 'I'), ("begin", 'T'), ("begin; listen events", 'T')];
    for (number, (before, status)) in befores.into_iter().enumerate() {
        let s = Scene::new(Arc::clone(&stage), &format!("{name}_{number}"), None);
        let mut c = s.client_of(&moor);
        let reply = c.run(before);
        assert_eq!((reply.status, reply.code()), (status, ""), "{reply:?}");
        let frame = query(&insert(2));
        put_half(&mut c, &frame, HALF);
        s.until_seen("backend_type = 'client backend'", 1);
        s.lose();
        c.hear(if status == 'I' { "!40001 I" } else { "!40001 E" });
        c.put(&frame[HALF..]);
        if status == 'T' {
            c.say("rollback", "ROLLBACK I");
        }
        c.say("select count(*) from t", "0 SELECT 1 I");
    }
}

#[test]
fn half_of_it_was_sent_and_nothing_is_run_again() {
    half_of_it_is_told("half_and_nothing", "size = 500\npod_size = 500");
}

#[test]
fn half_of_it_was_sent_and_nothing_is_run_again_with_a_backend_for_each_session() {
    half_of_it_is_told("half_and_nothing_each", POOL_OF_SESSIONS);
}
