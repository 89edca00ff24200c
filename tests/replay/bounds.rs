//! Where replay ends: switched off, the cap, the deadline, a client that leaves, a cancel, losses one after the other.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::pair::{Moor, Pair, Plan, psql, until};
use super::raw::{Raw, cancel, frame, query};
use super::stage::{Scene, Stage, Talk as _, counted, direct, shared};

/// A pgmoor with other bounds, in front of the same pair.
fn moor(stage: &Stage, continuity: &str) -> Moor {
    Moor::start(&Plan { continuity: continuity.to_owned(), ..stage.pair.plan() })
}

fn begun(s: &Scene, moor: &Moor, id: u32) -> Raw {
    let mut c = s.client_of(moor);
    c.say("begin", "BEGIN T");
    c.say(&format!("insert into t values ({id}, 'a')"), "INSERT 0 1 T");
    c
}

fn refused(moor: &Moor, reason: &str) -> f64 {
    counted(moor, "pgmoor_replays_total", &[&format!("reason=\"{reason}\"")])
}

#[test]
fn switched_off() {
    let stage = shared();
    let moor = moor(&stage, "replay = false");
    let s = Scene::new(stage, "switched_off", None);
    let gate = s.gate();
    let (mut open, mut commits, mut running) = (begun(&s, &moor, 1), begun(&s, &moor, 2), begun(&s, &moor, 3));
    running.put(&query("select id from gate"));
    s.until_blocked(1);
    s.lose();
    running.hear("!40001 E");
    gate.open();
    open.say("select 1", "!40001 E");
    open.say("rollback", "ROLLBACK I");
    commits.say("commit", "!40001 I");
    running.say("rollback", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
    open.say("insert into t values (4, 'd')", "INSERT 0 1 I");
    assert_eq!(counted(&moor, "pgmoor_replays_total", &["outcome=\"replayed\""]), 0.0);
    assert!(refused(&moor, "off") >= 1.0, "{}", moor.get("/metrics").unwrap().1);
}

#[test]
fn the_cap_is_on_one_transaction() {
    let stage = shared();
    let moor = moor(&stage, "replay_size = \"16KiB\"");
    let s = Scene::new(stage, "the_cap", None);
    let long = |id: u32, length: usize| format!("insert into t values ({id}, '{}')", "x".repeat(length));
    let (mut under, mut over, mut summed) = (begun(&s, &moor, 1), begun(&s, &moor, 2), begun(&s, &moor, 3));
    under.say(&long(11, 14_000), "INSERT 0 1 T");
    over.say(&long(12, 17_000), "INSERT 0 1 T");
    for id in 0..20 {
        summed.say(&long(100 + id, 1000), "INSERT 0 1 T");
    }
    // One after the other, each is small.
    let mut often = s.client_of(&moor);
    for id in 0..20 {
        often.say("begin", "BEGIN T");
        often.say(&long(200 + id, 1000), "INSERT 0 1 T");
        if id < 19 {
            often.say("commit", "COMMIT I");
        }
    }
    // A long answer counts for nothing: it is not remembered.
    let mut reader = begun(&s, &moor, 5);
    reader.say("select sum(length(body)) from public.huge", "41943040 SELECT 1 T");
    assert_eq!(reader.run("select body from public.huge where id < 3").rows.len(), 2);
    s.lose();
    under.say("commit", "COMMIT I");
    over.say("select 1", "!40001 E");
    over.say("rollback", "ROLLBACK I");
    summed.say("commit", "!40001 I");
    often.say("commit", "COMMIT I");
    reader.say("commit", "COMMIT I");
    s.holds("select count(*) from t where id < 200", "3");
    s.holds("select count(*) from t where id >= 200", "20");
    // The next transaction is none of the last one's business.
    summed.say("begin", "BEGIN T");
    summed.say("insert into t values (6, 'f')", "INSERT 0 1 T");
    s.lose();
    summed.say("commit", "COMMIT I");
    assert_eq!(refused(&moor, "size"), 2.0, "{}", moor.get("/metrics").unwrap().1);
}

#[test]
fn the_deadline_is_on_the_replay_itself_too() {
    let stage = shared();
    let moor = moor(&stage, "replay_deadline = \"1s\"");
    let s = Scene::new(stage, "the_deadline", None);
    let mut c = begun(&s, &moor, 1);
    c.say("insert into t select 2, 'b' from gate", "INSERT 0 1 T");
    // Whoever comes now to run it again waits.
    let gate = {
        let mut asker = s.witness();
        asker.put(&query("begin; lock table gate in access exclusive mode"));
        s.lose();
        asker.hear("BEGIN LOCK TABLE T");
        asker
    };
    let began = Instant::now();
    c.say("select 1", "!40001 E");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    c.say("rollback", "ROLLBACK I");
    gate.hang_up();
    c.say("select count(*) from t", "0 SELECT 1 I");
    // What the given-up backend held is free.
    c.say("insert into t values (1, 'again')", "INSERT 0 1 I");
    s.until_seen("true", 1);
    assert_eq!(refused(&moor, "deadline"), 1.0, "{}", moor.get("/metrics").unwrap().1);
}

/// A transaction whose replay stands before the gate.
fn replaying_at_the_gate(s: &Scene, moor: &Moor) -> (Raw, Raw) {
    let mut c = begun(s, moor, 1);
    c.say("insert into t select 2, 'b' from gate", "INSERT 0 1 T");
    let mut gate = s.witness();
    gate.put(&query("begin; lock table gate in access exclusive mode"));
    s.stage.terminate(&s.name);
    gate.hear("BEGIN LOCK TABLE T");
    c.put(&query("select id from t order by id"));
    s.until_blocked(1);
    (c, gate)
}

#[test]
fn a_replay_is_cancelled() {
    let stage = shared();
    let s = Scene::new(stage, "cancelled", None);
    let (mut c, gate) = replaying_at_the_gate(&s, &s.stage.moor);
    cancel(s.stage.moor.rw(), c.key.0, &c.key.1);
    let reply = c.reply();
    assert!(matches!((reply.code(), reply.status), ("57014" | "40001", 'E')), "{reply:?}");
    c.say("rollback", "ROLLBACK I");
    drop(gate);
    c.say("select count(*) from t", "0 SELECT 1 I");
    s.until_seen("wait_event_type = 'Lock'", 0);
}

#[test]
fn a_client_leaves_during_its_replay() {
    let stage = shared();
    let moor = moor(&stage, "");
    let s = Scene::new(stage, "leaver", None);
    let (mut c, mut gate) = replaying_at_the_gate(&s, &moor);
    c.put(&frame(b'X', b""));
    c.hang_up();
    until("pgmoor to let it go", || (counted(&moor, "pgmoor_sessions", &[]) == 0.0).then_some(()));
    gate.say("commit", "COMMIT I");
    s.until_seen("true", 0);
    s.holds("select count(*) from t", "0");
}

#[test]
fn a_replay_is_lost_in_its_turn() {
    let stage = shared();
    let s = Scene::new(stage, "in_its_turn", None);
    let (mut c, mut gate) = replaying_at_the_gate(&s, &s.stage.moor);
    for _ in 0..3 {
        s.stage.terminate(&s.name);
        s.until_blocked(1);
    }
    gate.say("commit", "COMMIT I");
    c.hear("1 2 SELECT 2 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

/// The pair's first server dies, comes back, dies again in the midst of the replay, and the other takes over.
#[test]
fn nobody_comes_for_long_and_then_one_after_the_other() {
    let pair = Pair::start("");
    psql(pair.a, "create table t (id int, body text); create table gate as select 1 as id");
    pair.caught_up();
    let moor = pair.moor();
    let brief = Moor::start(&Plan { continuity: "replay_deadline = \"1s\"".to_owned(), ..pair.plan() });
    let begun = |moor: &Moor, id: u32| {
        let mut c = Raw::login_with(moor.rw(), &[("application_name", "client")]);
        c.say("begin", "BEGIN T");
        c.say(&format!("insert into t select {id}, 'a' from gate"), "INSERT 0 1 T");
        c
    };
    let (mut asks, mut silent, mut commits) = (begun(&brief, 1), begun(&brief, 2), begun(&brief, 3));
    let (mut kept, mut leaver) = (begun(&moor, 4), begun(&moor, 5));
    pair.kill9();
    let began = Instant::now();
    asks.put(&query("insert into t values (1, 'b')"));
    kept.put(&query("insert into t values (4, 'b')"));
    leaver.put(&query("insert into t values (5, 'b')"));
    until("some to be held", || (moor.metric("pgmoor_holds") >= 2.0).then_some(()));
    asks.hear("!40001 E");
    assert!(began.elapsed() >= Duration::from_millis(900) && began.elapsed() < Duration::from_secs(10));
    silent.say("select 1", "!40001 E");
    commits.say("commit", "!40001 I");
    leaver.hang_up();
    until("the hang-up to be noticed", || (moor.metric("pgmoor_holds") == 1.0).then_some(()));

    // It comes back. Either the replay waits at the gate, or it has passed and whoever would shut the gate waits.
    pair.restart();
    let mut gate = direct(pair.a, "gate", "public");
    gate.put(&query("begin; lock table gate in access exclusive mode"));
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    until("one to wait for the other", || (psql(pair.a, waiting) == "1").then_some(()));
    pair.kill9();
    pair.promote();
    kept.hear("INSERT 0 1 T");
    kept.say("select id, body from t order by body", "4,a 4,b SELECT 2 T");
    kept.say("commit", "COMMIT I");
    assert_eq!(psql(pair.b, "select string_agg(id::text, ' ') from t"), "4 4");
    for c in [&mut asks, &mut silent] {
        c.say("select 1", "!25P02 E");
        c.say("rollback", "ROLLBACK I");
    }
    for c in [&mut asks, &mut commits] {
        c.say("select count(*) from t", "2 SELECT 1 I");
    }
    let left = "select count(*) from pg_stat_activity where application_name = 'client' and state like 'idle in%'";
    until("no transaction to be open", || (psql(pair.b, left) == "0").then_some(()));
    assert_eq!(counted(&brief, "pgmoor_replays_total", &["reason=\"deadline\""]), 3.0);
}

/// A planned move: what is still open when the pod has drained long enough is run again elsewhere.
#[test]
fn a_pod_drains_past_its_deadline() {
    let pair = Pair::start("");
    psql(pair.a, "create table t (id int, body text)");
    psql(
        pair.a,
        "create table wide as select g as id, repeat(md5(g::text), 10) as body from generate_series(1, 100000) g",
    );
    pair.caught_up();
    let moor = Moor::start(&Plan { continuity: "drain_deadline = \"1s\"".to_owned(), ..pair.plan() });
    let begun = |id: u32| {
        let mut c = Raw::login_with(moor.rw(), &[("application_name", "client")]);
        c.say("begin", "BEGIN T");
        c.say(&format!("insert into t values ({id}, 'a')"), "INSERT 0 1 T");
        c
    };
    let (mut open, mut commits, mut reads, mut told) = (begun(1), begun(2), begun(3), begun(4));
    assert_eq!(told.run("select clock_timestamp()").status, 'T');
    reads.put(&query("select id, body from wide order by id"));
    let stuck = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    until("the reader to be stuck", || (psql(pair.a, stuck) == "1").then_some(()));
    let mut finishes = begun(5);
    let mut pinned = Raw::login_with(moor.rw(), &[("application_name", "client")]);
    pinned.run("create temp table mine (id int)");
    let pins = || moor.metric(r#"pgmoor_pinned_sessions{reason="temp_object"}"#);
    until("the pin to be counted", || (pins() == 1.0).then_some(()));
    assert_eq!(moor.status().unwrap()["pins"]["temp_object"], 1);
    let began = Instant::now();
    let mut order = std::net::TcpStream::connect(moor.admin()).unwrap();
    order.write_all(b"POST /drain?pod=a HTTP/1.1\r\nhost: pgmoor\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    order.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    finishes.say("commit", "COMMIT I");
    let left = "select count(*) from pg_stat_activity where application_name = 'client'";
    until("all to leave", || (psql(pair.a, left) == "0").then_some(()));
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    let reply = pinned.reply();
    assert_eq!((reply.code(), reply.status), ("57P01", ' '), "{reply:?}");
    until("the pin to be gone", || (pins() == 0.0).then_some(()));
    open.put(&query("insert into t values (1, 'b')"));
    pair.caught_up();
    pair.stop();
    pair.promote();
    open.hear("INSERT 0 1 T");
    open.say("commit", "COMMIT I");
    commits.say("commit", "COMMIT I");
    let reply = reads.reply();
    assert_eq!((reply.rows.len(), reply.status), (100_000, 'T'));
    reads.say("commit", "COMMIT I");
    told.say("select 1", "!40001 E");
    told.say("rollback", "ROLLBACK I");
    assert_eq!(psql(pair.b, "select string_agg(id || body, ' ' order by id, body) from t"), "1a 1b 2a 3a 5a");
}

/// Fifty at once, each with its own data.
#[test]
fn fifty_open_transactions() {
    let pair = Pair::start("max_connections = 300");
    psql(pair.a, "create table t (id int, step int, body text)");
    pair.caught_up();
    let moor = pair.moor();
    let mut clients: Vec<Raw> = (0..50)
        .map(|id| {
            let mut c = Raw::login(moor.rw());
            c.say("begin", "BEGIN T");
            for step in 0..5 {
                c.say(
                    &format!("insert into t values ({id}, {step}, repeat('x', 100)) returning id"),
                    &format!("{id} INSERT 0 1 T"),
                );
            }
            c
        })
        .collect();
    pair.kill9();
    // A COMMIT that is sent to a dying server is another matter.
    let attached = r#"pgmoor_sessions{endpoint="rw",state="attached"}"#;
    until("all losses to be noticed", || (moor.metric(attached) == 0.0).then_some(()));
    for (id, c) in clients.iter_mut().enumerate() {
        c.put(&[query(&format!("insert into t values ({id}, 5, '')")), query("commit")].concat());
    }
    let began = Instant::now();
    pair.promote();
    for c in &mut clients {
        c.hear("INSERT 0 1 T");
        c.hear("COMMIT I");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(psql(pair.b, "select count(*), count(distinct (id, step)) from t"), "300|300");
    assert_eq!(counted(&moor, "pgmoor_replays_total", &["outcome=\"replayed\""]), 50.0);
}
