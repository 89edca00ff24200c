//! The question that goes out with a request before the COMMIT: once for a transaction, in no packet of its own, and what the
//! client is told with its help is as true as with the later one's.

use std::net::SocketAddr;

use super::cutter::{Cutter, Then, Way};
use super::{Form, NO_REPLAY, REPLAY, ROW, Reached, Rig, TABLE, begin, check, falls, row, told, walsenders};
use crate::pair::{Moor, Pair, Plan, kill, psql, shared};
use crate::raw::{Raw, bind, execute, parse, query, sync, unit};

/// The tags and bodies of whole frames.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let Some([tag, a, b, c, d]) = bytes.first_chunk() {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1;
        let Some((frame, rest)) = bytes.split_at_checked(length) else { break };
        frames.push((*tag, &frame[5..]));
        bytes = rest;
    }
    frames
}

/// How often pgmoor has asked, by what went to the server.
fn asked(cutter: &Cutter) -> usize {
    let seen = cutter.seen(Way::ToServer);
    frames(&seen).into_iter().filter(|frame| *frame == (b'E', b"pgmoor_guard\0\0\0\0\0")).count()
}

/// A wire on which everything is counted from now on.
fn count(rig: &Rig) {
    rig.cutter.set(Way::ToServer, usize::MAX, Then::Cut);
}

fn done(raw: &mut Raw, sql: &str) {
    let reply = raw.run(sql);
    assert_eq!(reply.code(), "", "{sql}: {reply:?}");
}

/// The same by the extended protocol.
fn done_extended(raw: &mut Raw, sql: &str) {
    raw.put(&unit(sql, &[]));
    let reply = raw.reply();
    assert_eq!(reply.code(), "", "{sql}: {reply:?}");
}

#[test]
fn a_transaction_of_several_statements_is_asked_about_once_and_waits_for_nothing() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    for continuity in [REPLAY, "commit_guard = \"pipelined\"", "commit_guard = \"autocommit\""] {
        let rig = Rig::new(&pair, continuity);
        let mut raw = Raw::login(rig.moor.rw());
        let runs = [done, done_extended];
        for (form, run) in [Form::Simple, Form::Extended].into_iter().zip(runs) {
            count(&rig);
            run(&mut raw, "begin");
            run(&mut raw, "insert into t values (1)");
            assert_eq!(asked(&rig.cutter), 0, "not before it is of use");
            let (out, back) = (rig.cutter.packets(Way::ToServer), rig.cutter.packets(Way::ToMoor));
            run(&mut raw, "select count(*) from t");
            assert_eq!(asked(&rig.cutter), 1, "{form:?}");
            assert_eq!(rig.cutter.packets(Way::ToServer), out + 1, "{form:?}: one packet there");
            assert_eq!(rig.cutter.packets(Way::ToMoor), back + 1, "{form:?}: one packet back");
            for sql in ["update t set id = id", "savepoint a", "insert into t values (2)", "release a"] {
                run(&mut raw, sql);
            }
            assert_eq!(asked(&rig.cutter), 1, "{form:?}: once");
            count(&rig);
            raw.put(&form.commit());
            assert_eq!(told(&raw.reply()), "COMMIT");
            assert_eq!(rig.cutter.seen(Way::ToServer).len(), form.commit().len(), "{form:?}: nothing but the COMMIT");
            assert_eq!(rig.cutter.packets(Way::ToServer), 1, "{form:?}: at once");
        }
    }
}

#[test]
fn what_reads_is_not_asked_about_nor_what_the_guard_is_off_for() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    for (continuity, writes) in [(REPLAY, "select 1"), ("commit_guard = \"off\"", ROW)] {
        let rig = Rig::new(&pair, continuity);
        let mut raw = Raw::login(rig.moor.rw());
        count(&rig);
        for sql in ["begin", writes, "select 2", "select 3", "commit"] {
            done(&mut raw, sql);
        }
        assert_eq!(asked(&rig.cutter), 0, "{continuity}");
    }
}

/// Statements behind the question, and how often is asked in all when the COMMIT is done.
#[test]
fn what_may_have_changed_since_is_asked_for_again() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    psql(pair.a, "create function mine() returns int language sql as 'select 1'");
    let rig = Rig::new(&pair, REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    for (between, times) in [
        (&["select 1"][..], 1),
        (&["set local statement_timeout = '30s'"], 1),
        (&["select set_config('app.user', '7', true)"], 1),
        (&["set local synchronous_commit = local"], 2),
        (&["select set_config('synchronous_commit', 'local', true)"], 2),
        (&["select mine()"], 2),
        (&["do 'begin end'"], 2),
        (&["savepoint a", "set local synchronous_commit = local", "rollback to a"], 2),
        (&["savepoint a", "rollback to a"], 2),
    ] {
        for sql in ["begin", ROW, "select 1"] {
            count(&rig);
            done(&mut raw, sql);
        }
        assert_eq!(asked(&rig.cutter), 1);
        between.iter().for_each(|sql| done(&mut raw, sql));
        let expected = raw.run("show synchronous_commit").one().to_owned();
        count(&rig);
        done(&mut raw, "commit");
        assert_eq!(1 + asked(&rig.cutter), times, "{between:?}");
        if times == 2 {
            let seen = rig.cutter.seen(Way::ToMoor);
            assert!(row(&seen).unwrap().ends_with(expected.as_bytes()), "{between:?}: as it is now");
        }
    }
    // What would end it at once is not worth the question.
    for sql in ["begin", ROW] {
        count(&rig);
        done(&mut raw, sql);
    }
    for sql in ["select mine()", "set local synchronous_commit = local", "rollback and chain"] {
        done(&mut raw, sql);
    }
    assert_eq!(asked(&rig.cutter), 0);
    done(&mut raw, "rollback");
}

#[test]
fn a_chained_transaction_is_asked_about_by_itself() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, NO_REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    count(&rig);
    for sql in ["begin", "insert into t values (1)", "select 1", "commit and chain", "select 1", "commit and chain"] {
        done(&mut raw, sql);
    }
    assert_eq!(asked(&rig.cutter), 1, "the second one has written nothing");
    let ask = |raw: &mut Raw| {
        for sql in ["insert into t values (2)", "select 1"] {
            done(raw, sql);
        }
    };
    ask(&mut raw);
    assert_eq!(asked(&rig.cutter), 2);
    rig.cutter.set(Way::ToMoor, 0, Then::Cut);
    raw.put(&query("commit"));
    assert_eq!(told(&raw.reply()), "COMMIT", "its own id tells");
    assert_eq!(psql(pair.a, "select count(*) from t where id = 2"), "1");
}

#[test]
fn what_is_pipelined_is_asked_about_at_its_commit() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    done(&mut raw, "begin");
    count(&rig);
    raw.put(&[query(ROW), query("select 1"), unit("select 2", &[]), query("commit")].concat());
    for status in ['T', 'T', 'T', 'I'] {
        let reply = raw.reply();
        assert_eq!((reply.code(), reply.status), ("", status), "{reply:?}");
    }
    assert_eq!(asked(&rig.cutter), 1);
    // A unit whose first statement the question stands before, and that commits.
    done(&mut raw, "begin");
    done(&mut raw, ROW);
    count(&rig);
    raw.put(&[parse("", "select 1"), bind("", "", &[]), execute("", 0), Form::Extended.commit()].concat());
    let reply = raw.reply();
    assert_eq!((reply.code(), reply.done.join(","), reply.status), ("", "SELECT 1,COMMIT".to_owned(), 'I'));
    assert_eq!(asked(&rig.cutter), 2, "what runs in the same unit may have changed it");
    assert_eq!(psql(pair.a, "select count(*) from t"), "2");
}

/// A right to one of the functions is revoked: every question fails.
fn refusing(server: SocketAddr) -> Moor {
    psql(server, "revoke execute on function pg_catalog.pg_current_xact_id_if_assigned() from public");
    psql(server, "alter role app nosuperuser; grant all on t to app");
    let fixed = vec![("a".to_owned(), server)];
    Moor::start(&Plan { fixed, continuity: REPLAY.to_owned(), ..Plan::default() })
}

#[test]
fn a_question_that_fails_is_told_to_the_request_behind_it() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let moor = refusing(pair.a);
    let mut raw = Raw::login(moor.rw());
    let prepared = [parse("p", "select 1"), sync()].concat();
    raw.put(&prepared);
    assert_eq!(raw.reply().code(), "");
    let bound = [bind("", "p", &[]), execute("", 0), sync()].concat();
    for behind in [query("select 1"), unit("select 1", &[]), bound, query("copy t from stdin")] {
        done(&mut raw, "begin");
        done(&mut raw, ROW);
        raw.put(&behind);
        let reply = raw.reply();
        assert_eq!((reply.code(), reply.errors.len(), reply.status), ("42501", 1, 'E'), "{reply:?}");
        assert!(reply.done.is_empty(), "{reply:?}");
        assert_eq!(raw.run("select 1").code(), "25P02");
        let reply = raw.run("commit");
        assert_eq!((reply.code(), reply.done.join(","), reply.status), ("", "ROLLBACK".to_owned(), 'I'));
        // What is pipelined behind it is answered, too, each in its turn.
        done(&mut raw, "begin");
        done(&mut raw, ROW);
        raw.put(&[behind, query("select 2"), unit("select 3", &[]), query("rollback")].concat());
        for (code, status) in [("42501", 'E'), ("25P02", 'E'), ("25P02", 'E'), ("", 'I')] {
            let reply = raw.reply();
            assert_eq!((reply.code(), reply.status), (code, status), "{reply:?}");
        }
    }
    // What leads out of it needs no question.
    for end in [&["rollback"][..], &["savepoint a", "rollback to a", "rollback"]] {
        done(&mut raw, "begin");
        if end.len() > 1 {
            done(&mut raw, end[0]);
        }
        done(&mut raw, ROW);
        end[usize::from(end.len() > 1)..].iter().for_each(|sql| done(&mut raw, sql));
    }
    assert_eq!(psql(pair.a, "select count(*) from t"), "0");
}

#[test]
fn a_question_that_fails_at_the_commit_is_told_once() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let moor = refusing(pair.a);
    let mut raw = Raw::login(moor.rw());
    for form in [Form::Simple, Form::Extended] {
        done(&mut raw, "begin");
        done(&mut raw, ROW);
        raw.put(&form.commit());
        let reply = raw.reply();
        assert_eq!((reply.code(), reply.done.len()), ("42501", 0), "{form:?}: {reply:?}");
        if reply.status == 'E' {
            let reply = raw.run("rollback");
            assert_eq!(
                (reply.code(), reply.done.join(","), reply.status),
                ("", "ROLLBACK".to_owned(), 'I'),
                "{form:?}"
            );
        }
    }
    assert_eq!(psql(pair.a, "select count(*) from t"), "0");
}

/// A transaction that has written row `id` and was asked about.
fn begin_asked(raw: &mut Raw, id: usize) {
    begin(raw, id);
    assert_eq!(raw.run("select 'asked'").one(), "asked");
}

#[test]
fn a_commit_wherever_the_wire_is_cut() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let mut id = 0;
    for (continuity, words) in [(NO_REPLAY, &["COMMIT", "40001"][..]), (REPLAY, &["COMMIT"])] {
        for form in [Form::Simple, Form::Extended] {
            for way in [Way::ToServer, Way::ToMoor] {
                let rig = Rig::new(&pair, continuity);
                let mut raw = Raw::login(rig.moor.rw());
                for at in 0.. {
                    id += 1;
                    begin_asked(&mut raw, id);
                    rig.cutter.set(way, at, Then::Cut);
                    raw.put(&form.commit());
                    let reply = raw.reply();
                    let sprung = rig.cutter.disarm();
                    let told = told(&reply);
                    check(pair.a, id, told);
                    assert!(words.contains(&told), "{form:?} {way:?} cut at {at}: {reply:?}");
                    // Cut on its way back it has been done; nothing of what went before was cut.
                    assert!(way == Way::ToServer || told == "COMMIT", "{form:?} cut at {at}: {reply:?}");
                    if reply.status == 'E' {
                        assert_eq!(raw.run("rollback").status, 'I');
                    }
                    rig.cutter.cut();
                    if !sprung {
                        assert!(at >= 12, "{form:?} {way:?}: {at}");
                        break;
                    }
                }
            }
        }
    }
}

/// The wire is cut within the question or its answer, and the request behind it is lost with it.
#[test]
fn a_request_wherever_its_question_is_cut() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let mut id = 0;
    for (way, step) in [(Way::ToMoor, 1), (Way::ToServer, 7)] {
        for form in [Form::Simple, Form::Extended] {
            let rig = Rig::new(&pair, REPLAY);
            let mut raw = Raw::login(rig.moor.rw());
            let (mut at, mut sprung) = (0, true);
            while sprung {
                id += 1;
                begin(&mut raw, id);
                rig.cutter.set(way, at, Then::Cut);
                let request = if form == Form::Simple { query("select 'it'") } else { unit("select 'it'", &[]) };
                raw.put(&request);
                let reply = raw.reply();
                assert_eq!((reply.code(), reply.status), ("", 'T'), "{form:?} {way:?} cut at {at}: {reply:?}");
                assert_eq!(reply.one(), "it", "{form:?} {way:?} cut at {at}");
                sprung = rig.cutter.disarm();
                // Another backend, which was not asked, or was by the next request: the answer of the old one is not used.
                raw.put(&form.commit());
                assert_eq!(told(&raw.reply()), "COMMIT", "{form:?} {way:?} cut at {at}");
                check(pair.a, id, "COMMIT");
                rig.cutter.cut();
                at += step;
            }
            assert!(at > 100, "{form:?} {way:?}: {at}");
        }
    }
}

#[test]
fn what_another_backend_told_is_not_used() {
    let pair = Pair::start("");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    let mut raw = Raw::login(rig.moor.rw());
    begin_asked(&mut raw, 1);
    rig.cutter.cut();
    count(&rig);
    assert_eq!(raw.run("select 'on'").one(), "on", "it was run again");
    let before = asked(&rig.cutter);
    assert_eq!(raw.run("select 'on'").one(), "on");
    assert!(asked(&rig.cutter) > before || before == 1, "its new backend is asked");
    rig.cutter.set(Way::ToMoor, 0, Then::Cut);
    raw.put(&query("commit"));
    assert_eq!(told(&raw.reply()), "COMMIT");
    check(pair.a, 1, "COMMIT");
}

/// A primary that dies with a COMMIT whose answer is lost, and the standby that takes over.
fn fail_over(reached: Reached, continuity: &str, writes: &[&str], reuse: bool) -> (String, String) {
    // Nothing is to be on disk, or sent, but by a commit.
    let pair = Pair::start("wal_writer_delay = 10s\nautovacuum = off");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, continuity);
    pair.caught_up();
    let mut raw = Raw::login(rig.moor.rw());
    if reached == Reached::Nothing {
        kill("STOP", &walsenders(&pair));
    }
    count(&rig);
    for sql in ["begin"].iter().chain(writes).chain(&["select 'asked'"]) {
        done(&mut raw, sql);
    }
    assert_eq!(asked(&rig.cutter), 1);
    if reached == Reached::Mark {
        psql(pair.a, "insert into u values (0); create table flushed ()");
        pair.caught_up();
        kill("STOP", &walsenders(&pair));
    }
    // The COMMIT's answer stays on the way.
    rig.cutter.set(Way::ToMoor, 0, Then::Hold);
    raw.put(&query("commit"));
    rig.cutter.wait_sprung();
    assert_eq!(asked(&rig.cutter), 0, "the COMMIT went at once");
    let told = falls(&pair, &rig, &mut raw, reached, reuse);
    (told, psql(pair.b, "select count(*) from t where id = 7"))
}

#[test]
fn a_commit_is_told_as_what_the_next_primary_has_of_it() {
    let expect = |told: &str, rows: &str| (told.to_owned(), rows.to_owned());
    assert_eq!(fail_over(Reached::Commit, NO_REPLAY, &[ROW], false), expect("COMMIT", "1"));
    assert_eq!(fail_over(Reached::Mark, NO_REPLAY, &[ROW], false), expect("40001", "0"));
    assert_eq!(fail_over(Reached::Nothing, NO_REPLAY, &[ROW], true), expect("40001", "0"));
}

/// What the record stands for is the transaction, although the subtransaction whose id it carries was rolled back.
#[test]
fn a_subtransaction_that_was_rolled_back_has_told_of_its_transaction() {
    let writes = [ROW, "savepoint a", "insert into t values (8)"];
    let expect = |told: &str, rows: &str| (told.to_owned(), rows.to_owned());
    assert_eq!(fail_over(Reached::Commit, NO_REPLAY, &writes, false), expect("COMMIT", "1"));
    assert_eq!(fail_over(Reached::Mark, NO_REPLAY, &writes, false), expect("40001", "0"));
    assert_eq!(fail_over(Reached::Nothing, NO_REPLAY, &writes, true), expect("40001", "0"));
}

#[test]
fn sessions_that_share_backends_commit_what_they_wrote() {
    // What one of them was told of its transaction is not another's.
    let pair = shared();
    psql(pair.a, "create table if not exists early (id int)");
    let moor = pair.moor();
    let mut raws: Vec<Raw> = (0..4).map(|_| Raw::login(moor.rw())).collect();
    for turn in 0..20 {
        for raw in &mut raws {
            done(raw, "begin");
            done(raw, "insert into early values (1)");
            done(raw, if turn % 2 == 0 { "select 1" } else { "update early set id = 2 where false" });
        }
        for raw in &mut raws {
            done(raw, if turn % 3 == 0 { "rollback" } else { "commit" });
        }
    }
    assert_eq!(psql(pair.a, "select count(*) from early"), (13 * 4).to_string());
}
