//! COMMIT's answer is lost: what the client is told is what is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::pair::{Moor, PATIENCE, Pair, Plan, kill, psql, try_psql, until};
use super::raw::{Raw, Reply, bind, execute, parse, query, sync};

#[path = "commit/cost.rs"]
mod cost;
#[path = "commit/cutter.rs"]
mod cutter;
#[path = "commit/early.rs"]
mod early;
#[path = "commit/itself.rs"]
mod itself;

use cutter::{Cutter, Then, Way};

const TABLE: &str = "create table t (id int); create unlogged table u (id int)";
const REPLAY: &str = "commit_guard = \"on\"\nreplay_deadline = \"3s\"";
const NO_REPLAY: &str = "commit_guard = \"on\"\nreplay = false";
/// Positions are tried by so many clients at a time.
const CLIENTS: usize = 4;
/// In the text of the guard's own question, only every so many positions are tried.
const STRIDE: usize = 17;

/// A pgmoor whose way to the first primary can be cut.
struct Rig {
    cutter: Cutter,
    moor: Moor,
}

impl Rig {
    fn new(pair: &Pair, continuity: &str) -> Self {
        let cutter = Cutter::start(pair.a);
        let fixed = vec![("a".to_owned(), cutter.address), ("b".to_owned(), pair.b)];
        let moor = Moor::start(&Plan { fixed, continuity: continuity.to_owned(), ..Plan::default() });
        Self { cutter, moor }
    }
}

/// How the client says COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Simple,
    Extended,
}

impl Form {
    fn commit(self) -> Vec<u8> {
        match self {
            Self::Simple => query("commit"),
            Self::Extended => [parse("", "commit"), bind("", "", &[]), execute("", 0), sync()].concat(),
        }
    }
}

/// A transaction that has written row `id`, and waits for its COMMIT.
fn begin(raw: &mut Raw, id: usize) {
    assert_eq!(raw.run("begin").status, 'T');
    let reply = raw.run(&format!("insert into t values ({id})"));
    assert_eq!((reply.code(), reply.status), ("", 'T'), "{reply:?}");
}

/// What the client was told, in one word.
fn told(reply: &Reply) -> &str {
    match (reply.done.as_slice(), reply.code(), reply.status) {
        ([tag], "", 'I') if tag == "COMMIT" => "COMMIT",
        // An error before the Execute of a COMMIT leaves the transaction open and failed, as in PostgreSQL.
        ([], code @ ("40001" | "08007"), 'I') | ([], code @ "40001", 'E') => code,
        _ => panic!("none of the answers there may be: {reply:?}"),
    }
}

/// Holds what was told against what is there.
fn check(server: std::net::SocketAddr, id: usize, told: &str) {
    let there = psql(server, &format!("select count(*) from t where id = {id}"));
    match told {
        "COMMIT" => assert_eq!(there, "1", "row {id}: COMMIT was told"),
        "40001" => assert_eq!(there, "0", "row {id}: 40001 was told"),
        _ => assert!(there == "0" || there == "1", "row {id} is there {there} times"),
    }
}

/// The body of the first whole DataRow among these frames: before a COMMIT's own answer it is the guard's.
fn row(mut frames: &[u8]) -> Option<&[u8]> {
    while let Some([tag, a, b, c, d]) = frames.first_chunk() {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1;
        let (frame, rest) = frames.split_at_checked(length)?;
        if *tag == b'D' {
            return Some(&frame[5..]);
        }
        frames = rest;
    }
    None
}

fn row_came(frames: &[u8]) -> bool {
    row(frames).is_some()
}

/// Cuts a COMMIT at every byte position of one way, but for the `coarse` first bytes; counts what was told.
fn cut_everywhere(
    pair: &Pair,
    continuity: &str,
    form: Form,
    way: Way,
    coarse: usize,
    ids: usize,
    words: &[&str],
) -> BTreeMap<String, usize> {
    let next = AtomicUsize::new(0);
    let work = || {
        let rig = Rig::new(pair, continuity);
        let mut raw = Raw::login(rig.moor.rw());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let turn = next.fetch_add(1, Ordering::SeqCst);
            let at = if turn * STRIDE < coarse { turn * STRIDE } else { coarse + turn - coarse.div_ceil(STRIDE) };
            begin(&mut raw, ids + at);
            rig.cutter.set(way, at, Then::Cut);
            raw.put(&form.commit());
            let reply = raw.reply();
            let sprung = rig.cutter.disarm();
            let told = told(&reply);
            check(pair.a, ids + at, told);
            // A COMMIT is not sent before the answer to the guard's question is here: so it is never in doubt.
            let said = String::from_utf8_lossy(&rig.cutter.seen(Way::ToServer)).into_owned();
            assert!(words.contains(&told), "{form:?} {way:?} cut at {at}: {reply:?}; the server was told {said:?}");
            if reply.status == 'E' {
                assert_eq!(raw.run("rollback").status, 'I');
            }
            *counts.entry(told.to_owned()).or_default() += 1;
            rig.cutter.cut(); // the next question is prepared anew, and as long as this one
            assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
            if !sprung {
                assert_eq!(told, "COMMIT", "nothing was cut");
                return counts;
            }
        }
    };
    let mut all = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        for (word, count) in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
            *all.entry(word).or_default() += count;
        }
    });
    let positions = next.load(Ordering::SeqCst);
    assert!(positions > 50, "the answers alone are longer: {positions}");
    all
}

#[test]
fn the_same_primary_alive_wherever_an_answer_is_cut() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    for (at, form) in [Form::Simple, Form::Extended].into_iter().enumerate() {
        let counts = cut_everywhere(&pair, NO_REPLAY, form, Way::ToMoor, 0, (at + 1) * 10_000, &["COMMIT", "40001"]);
        // First the guard's answer, then the COMMIT's.
        assert!(counts["40001"] > 50 && counts["COMMIT"] > 15 + CLIENTS, "{form:?}: {counts:?}");
        // What was lost is run again.
        cut_everywhere(&pair, REPLAY, form, Way::ToMoor, 0, (at + 3) * 10_000, &["COMMIT"]);
    }
}

#[test]
fn the_same_primary_alive_wherever_a_request_is_cut() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    for (at, form) in [Form::Simple, Form::Extended].into_iter().enumerate() {
        // Up to the Bind it is the question's text that is cut.
        let coarse = guard_length(&Rig::new(&pair, REPLAY), form) - 100;
        let counts =
            cut_everywhere(&pair, NO_REPLAY, form, Way::ToServer, coarse, (at + 1) * 10_000, &["COMMIT", "40001"]);
        assert!(counts["40001"] > 100, "{form:?}: {counts:?}");
        // What was not cut at all, and where the Sync was that ends nothing any more.
        let done = CLIENTS + if form == Form::Extended { sync().len() } else { 0 };
        assert_eq!(counts["COMMIT"], done, "{form:?}: {counts:?}");
        // What was lost is run again.
        cut_everywhere(&pair, REPLAY, form, Way::ToServer, coarse, (at + 3) * 10_000, &["COMMIT"]);
    }
}

/// Sent in one packet with its question a COMMIT stays in doubt until that is answered; what is told is true all the same.
#[test]
fn a_pipelined_question_leaves_a_little_doubt() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let pipelined = "commit_guard = \"pipelined\"\nreplay_deadline = \"3s\"";
    let counts = cut_everywhere(&pair, pipelined, Form::Simple, Way::ToMoor, 0, 10_000, &["COMMIT", "08007"]);
    assert!(counts["08007"] > 10 && counts["COMMIT"] > 15, "{counts:?}");
}

/// A write outside of any transaction, by the extended protocol: its Sync is its COMMIT.
#[test]
fn an_autocommit_write_wherever_the_wire_is_cut() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let mut id = 100_000;
    for (way, step) in [(Way::ToMoor, 3), (Way::ToServer, 11)] {
        let rig = Rig::new(&pair, "commit_guard = \"autocommit\"\nreplay_deadline = \"3s\"");
        let mut raw = Raw::login(rig.moor.rw());
        let (mut at, mut sprung) = (0, true);
        while sprung {
            assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
            id += 1;
            rig.cutter.set(way, at, Then::Cut);
            raw.put(&super::raw::unit("insert into t select $1::int", &[&id.to_string()]));
            let reply = raw.reply();
            sprung = rig.cutter.disarm();
            assert_eq!((reply.code(), reply.done.len(), reply.status), ("", 1, 'I'), "{way:?} cut at {at}: {reply:?}");
            assert_eq!(psql(pair.a, &format!("select count(*) from t where id = {id}")), "1", "{way:?} cut at {at}");
            rig.cutter.cut();
            at += step;
        }
        assert!(at > 100, "{way:?}: {at}");
    }
}

/// The length of what pgmoor sends before the client's own COMMIT.
fn guard_length(rig: &Rig, form: Form) -> usize {
    let mut raw = Raw::login(rig.moor.rw());
    begin(&mut raw, 0);
    rig.cutter.set(Way::ToServer, usize::MAX, Then::Cut);
    raw.put(&form.commit());
    assert_eq!(told(&raw.reply()), "COMMIT");
    // By the extended protocol it goes between the client's Bind and its Execute.
    let behind = match form {
        Form::Simple => form.commit().len(),
        Form::Extended => [execute("", 0), sync()].concat().len(),
    };
    let length = rig.cutter.seen(Way::ToServer).len() - behind;
    // The next session is not to get the backend that knows the question already.
    rig.cutter.cut();
    length
}

/// Whose end is replicated how far when the primary dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// The commit record.
    Commit,
    /// The mark's record, and not the commit's.
    Mark,
    /// Nothing of the transaction.
    Nothing,
}

/// The processes on `a` that send WAL.
fn walsenders(pair: &Pair) -> Vec<u32> {
    let pids = psql(pair.a, "select pid from pg_stat_replication");
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// A primary that dies with a COMMIT whose answer is lost, and the standby that takes over.
fn fail_over(reached: Reached, form: Form, continuity: &str, writes: &str, reuse: bool) -> (String, String) {
    // Nothing is to be on disk, or sent, but by a commit.
    let pair = Pair::start("wal_writer_delay = 10s\nautovacuum = off");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, continuity);
    let length = guard_length(&rig, form);
    pair.caught_up();
    let mut raw = Raw::login(rig.moor.rw());
    if reached == Reached::Nothing {
        kill("STOP", &walsenders(&pair));
    }
    assert_eq!(raw.run("begin").status, 'T');
    assert_eq!(raw.run(writes).code(), "");
    // The question goes out and is answered; then the COMMIT.
    rig.cutter.set(Way::ToServer, length, Then::Hold);
    raw.put(&form.commit());
    rig.cutter.wait_sprung();
    let xid = until("the guard's answer", || {
        let seen = rig.cutter.seen(Way::ToMoor);
        let row = row(&seen)?; // the number of columns, the length of the first, the first
        let length = usize::from(row[5]);
        Some(String::from_utf8_lossy(&row[6..6 + length]).into_owned())
    });
    if reached == Reached::Mark {
        psql(pair.a, "insert into u values (0); create table flushed ()");
        pair.caught_up();
        kill("STOP", &walsenders(&pair));
    }
    // Its answer stays on the way.
    rig.cutter.let_go_into(Way::ToMoor, 0, Then::Hold);
    rig.cutter.wait_sprung();
    let told = falls(&pair, &rig, &mut raw, reached, reuse);
    // What the id alone would say, and it is not always the truth.
    let alone = try_psql(pair.b, &format!("select pg_xact_status('{xid}')")).unwrap_or_default();
    let expected = match (reached, reuse) {
        (Reached::Commit, _) | (Reached::Nothing, true) => "committed",
        (Reached::Mark, _) => "aborted",
        (Reached::Nothing, false) => "",
    };
    assert_eq!(alone, expected, "{reached:?}");
    (told, psql(pair.b, "select count(*) from t where id = 7"))
}

/// The first primary is gone with the COMMIT's answer still on the way, and the second takes over. `reuse`: it has given out the
/// same ids again before pgmoor can ask it. What the client is told; its session goes on.
fn falls(pair: &Pair, rig: &Rig, raw: &mut Raw, reached: Reached, reuse: bool) -> String {
    if reached == Reached::Commit {
        pair.caught_up();
    }
    if reuse {
        rig.moor.signal("STOP");
    }
    pair.kill9();
    rig.cutter.cut();
    pair.promote();
    if reuse {
        for _ in 0..20 {
            psql(pair.b, "create table if not exists other (id int); insert into other values (1)");
        }
        rig.moor.signal("CONT");
    }
    let reply = raw.reply();
    assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
    told(&reply).to_owned()
}

const ROW: &str = "insert into t values (7)";

#[test]
fn a_commit_that_had_reached_the_standby_is_told_as_commit() {
    assert_eq!(fail_over(Reached::Commit, Form::Simple, NO_REPLAY, ROW, false), ("COMMIT".to_owned(), "1".to_owned()));
}

#[test]
fn a_commit_that_had_not_reached_the_standby_though_its_writes_had_is_lost() {
    assert_eq!(fail_over(Reached::Mark, Form::Extended, NO_REPLAY, ROW, false), ("40001".to_owned(), "0".to_owned()));
}

#[test]
fn a_commit_that_had_not_reached_the_standby_is_run_again() {
    // The promotion of a standby may take its time on a busy machine.
    let patient = "commit_guard = \"on\"\nreplay_deadline = \"30s\"";
    assert_eq!(fail_over(Reached::Mark, Form::Simple, patient, ROW, false), ("COMMIT".to_owned(), "1".to_owned()));
}

#[test]
fn a_commit_whose_id_was_given_out_again_is_lost() {
    // The new primary says "committed" of the id: it was another's.
    assert_eq!(fail_over(Reached::Nothing, Form::Simple, NO_REPLAY, ROW, true), ("40001".to_owned(), "0".to_owned()));
}

#[test]
fn subtransactions_stand_for_their_transaction() {
    let writes = "savepoint a; insert into t values (7); savepoint b; insert into t values (8)";
    assert_eq!(
        fail_over(Reached::Commit, Form::Extended, NO_REPLAY, writes, false),
        ("COMMIT".to_owned(), "1".to_owned())
    );
    assert_eq!(
        fail_over(Reached::Mark, Form::Extended, NO_REPLAY, writes, false),
        ("40001".to_owned(), "0".to_owned())
    );
}

#[test]
fn what_wrote_to_unlogged_tables_alone_is_told_by_its_commit() {
    let writes = "insert into u values (7)";
    assert_eq!(fail_over(Reached::Commit, Form::Extended, NO_REPLAY, writes, false).0, "COMMIT");
    assert_eq!(fail_over(Reached::Mark, Form::Extended, NO_REPLAY, writes, false).0, "40001");
    assert_eq!(fail_over(Reached::Nothing, Form::Extended, NO_REPLAY, writes, true).0, "40001");
}

#[test]
fn after_a_crash_on_the_same_timeline_nobody_knows() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    begin(&mut raw, 7);
    rig.cutter.set(Way::ToMoor, usize::MAX, Then::Hold);
    // The row of the guard comes, the COMMIT's answer does not.
    let length = guard_answer(&rig, &pair);
    rig.cutter.set(Way::ToMoor, length, Then::Hold);
    raw.put(&query("commit"));
    rig.cutter.wait_sprung();
    assert!(row_came(&rig.cutter.seen(Way::ToMoor)));
    // One backend dies hard: PostgreSQL starts all over, on the same timeline.
    let pid = psql(pair.a, "select pid from pg_stat_activity where usename = 'app' limit 1");
    kill("KILL", &[pid.parse().unwrap()]);
    rig.cutter.cut();
    let reply = raw.reply();
    assert_eq!(told(&reply), "08007");
    assert_eq!(rig.moor.metric(r#"pgmoor_errors_total{code="commit_unknown"}"#), 1.0);
    assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
}

/// How long the answer to the guard is, on a backend that has not been asked before.
fn guard_answer(rig: &Rig, pair: &Pair) -> usize {
    let before = psql(pair.a, "select pg_current_xact_id()");
    let mut raw = Raw::login(rig.moor.rw());
    begin(&mut raw, 0);
    rig.cutter.set(Way::ToMoor, usize::MAX, Then::Hold);
    raw.put(&query("commit"));
    assert_eq!(told(&raw.reply()), "COMMIT");
    assert_eq!(before.len(), psql(pair.a, "select pg_current_xact_id()").len(), "as many digits");
    rig.cutter.seen(Way::ToMoor).len() - "C....COMMIT\0Z....I".len()
}

#[test]
fn a_commit_that_waits_for_its_standby_is_told_when_that_has_it() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    pair.caught_up();
    psql(pair.a, "alter system set synchronous_standby_names = '*'");
    psql(pair.a, "select pg_reload_conf()");
    until("a synchronous standby", || {
        (psql(pair.a, "select sync_state from pg_stat_replication") == "sync").then_some(())
    });
    let mut raw = Raw::login(rig.moor.rw());
    begin(&mut raw, 7);
    kill("STOP", &walsenders(&pair));
    rig.cutter.set(Way::ToServer, usize::MAX, Then::Cut);
    raw.put(&query("commit"));
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until("the commit to wait", || (psql(pair.a, waits) == "1").then_some(()));
    rig.cutter.cut();
    // The backend that waited is ended: committed, and not replicated. What is to prove its replication waits now.
    let behind = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query = 'COMMIT'";
    until("the barrier to wait", || {
        (psql(pair.a, behind) == "1" && psql(pair.a, "select count(*) from t") == "1").then_some(())
    });
    raw.stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let early = raw.frame();
    assert!(early.is_err(), "told before the standby has it: {early:?}");
    raw.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(psql(pair.b, "select count(*) from t"), "0");
    let began = Instant::now();
    kill("CONT", &walsenders(&pair));
    assert_eq!(told(&raw.reply()), "COMMIT");
    assert!(began.elapsed() < PATIENCE);
    pair.caught_up();
    assert_eq!(psql(pair.b, "select count(*) from t where id = 7"), "1");
}

#[test]
fn a_transaction_that_wrote_nothing_is_no_trouble() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    for at in 0..3 {
        assert_eq!(raw.run("begin").status, 'T');
        // Its tag says that it wrote; it did not.
        assert_eq!(raw.run("update t set id = 1 where false").done, ["UPDATE 0"]);
        rig.cutter.set(Way::ToMoor, [0, 40, 100][at], Then::Cut);
        raw.put(&query("commit"));
        let reply = raw.reply();
        rig.cutter.disarm();
        if row_came(&rig.cutter.seen(Way::ToMoor)) {
            assert_eq!(told(&reply), "COMMIT");
        } else {
            told(&reply);
        }
        assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
    }
}
