//! What the server did, and its answer was lost: told truly, and done once.

use super::pair::{psql, until};
use super::raw::{query, unit};
use super::stage::{Talk as _, said};
use super::wire::{Fault, Site, Way};

/// A request whose answer is lost.
struct Case {
    name: &'static str,
    /// What runs before it.
    first: &'static [&'static str],
    last: Vec<u8>,
    /// Its effect, to be seen on the server: 1.
    effect: &'static str,
    /// What may be said.
    allowed: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let case = |name, first, last, effect, allowed| Case { name, first, last, effect, allowed };
    vec![
        case(
            "auto",
            &[],
            query("insert into talk select 'auto', count(*), '' from talk where who = 'auto'"),
            "select count(*) from talk where who = 'auto'",
            &["!08007 I", "INSERT 0 1 I"],
        ),
        case(
            "unit",
            &[],
            unit("insert into talk select 'unit', count(*), $1 from talk where who = 'unit'", &["x"]),
            "select count(*) from talk where who = 'unit'",
            &["!08007 I", "INSERT 0 1 I"],
        ),
        case(
            "call",
            &[],
            query("call stepwise(1)"),
            "select count(*) from talk where who = 'step'",
            &["!08007 I", "CALL I"],
        ),
        case(
            "noted",
            &[],
            query("select noted((select count(*)::int from talk where who = 'noted'))"),
            "select count(*) from talk where who = 'noted'",
            &["!08007 I", "0 SELECT 1 I"],
        ),
        case(
            "counter",
            &[],
            query("select nextval('counter')"),
            "select case when is_called then last_value else 0 end from counter",
            &["!08007 I", "1 SELECT 1 I"],
        ),
        case(
            "prepared",
            &["begin", "insert into talk values ('two', 1, '')"],
            query("prepare transaction 'two'"),
            "select count(*) from pg_prepared_xacts",
            &["!08007 I", "PREPARE TRANSACTION I"],
        ),
        case(
            "commit",
            &["begin", "insert into talk values ('commit', 1, '')"],
            query("commit"),
            "select count(*) from talk where who = 'commit'",
            &["!08007 I", "COMMIT I"],
        ),
        case(
            "implicit",
            &[],
            query("insert into talk values ('implicit', 1, ''); select 2"),
            "select count(*) from talk where who = 'implicit'",
            &["!08007 I", "2 INSERT 0 1 SELECT 1 I"],
        ),
        case(
            "chain",
            &["begin", "insert into talk values ('chain', 1, '')"],
            query("commit and chain"),
            "select count(*) from talk where who = 'chain'",
            &["!08007 I", "!08007 E", "COMMIT T"],
        ),
    ]
}

/// What the server did, and nobody could be told.
#[test]
fn done_and_not_answered() {
    let site = Site::build("max_prepared_transactions = 20");
    psql(
        site.pair.a,
        "create function noted(int) returns int language sql as $$ insert into talk values ('noted', $1, '') returning n $$;
         create sequence counter;
         create procedure stepwise(int) language plpgsql as $$ begin insert into talk values ('step', $1, ''); commit; end $$",
    );
    for Case { name, first, last, effect, allowed } in cases() {
        // A COMMIT has a question before it, which is answered: only the answer to the request itself is lost.
        let rehearsed = rehearse(&site, first, &last, effect);
        let mut raw = site.client(name);
        for sql in first {
            assert_eq!(raw.run(sql).status, 'T', "{name}: {sql}");
        }
        site.wire.arm(name, Way::Down, rehearsed, Fault::Swallow);
        raw.put(&last);
        until(&format!("{name} to be done"), || (psql(site.pair.a, effect) == "1").then_some(()));
        site.wire.cut(name);
        let reply = raw.reply();
        assert!(allowed.contains(&said(&reply).as_str()), "{name}: {reply:?}");
        if reply.status != 'I' {
            raw.say("rollback", "ROLLBACK I");
        }
        raw.say("select 'on'", "on SELECT 1 I");
        assert_eq!(psql(site.pair.a, effect), "1", "{name} was done twice");
    }
}

/// Bytes that come before the answer itself; what was done is undone.
fn rehearse(site: &Site, first: &[&str], last: &[u8], effect: &str) -> u64 {
    if first.is_empty() {
        return 0;
    }
    let mut raw = site.client("rehearsal");
    for sql in first {
        raw.run(sql);
    }
    site.wire.reset("rehearsal");
    raw.put(last);
    let reply = raw.reply();
    let answer = 5 + reply.done[0].len() + 1 + 6;
    let before = site.wire.seen("rehearsal")[1] - answer as u64;
    if reply.done == ["PREPARE TRANSACTION"] {
        raw.run("rollback prepared 'two'");
    }
    raw.run("rollback");
    raw.run("delete from talk where who in ('commit', 'chain')");
    assert_eq!(psql(site.pair.a, effect), "0");
    before
}

/// A ROLLBACK that nobody answered is one all the same; the transaction is not run again.
#[test]
fn a_rollback_in_flight() {
    let site = Site::build("");
    for (way, name) in [(Way::Up, "unheard"), (Way::Down, "unanswered")] {
        let mut raw = site.client(name);
        raw.say("begin", "BEGIN T");
        raw.say(&format!("insert into talk values ('{name}', 1, '')"), "INSERT 0 1 T");
        site.wire.arm(name, way, 0, Fault::Swallow);
        raw.put(&query("rollback"));
        until("it to be sent", || (site.wire.seen(name)[usize::from(way == Way::Down)] > 0).then_some(()));
        site.wire.cut(name);
        raw.hear("ROLLBACK I");
        raw.say("select count(*) from talk", "0 SELECT 1 I");
    }
}

/// A transaction that was run again is committed once, whatever becomes of the answer.
#[test]
fn a_replayed_transaction_s_commit_is_not_answered() {
    let site = Site::build("");
    for (way, name) in [(Way::Up, "unheard"), (Way::Down, "unanswered")] {
        let mut raw = site.client(name);
        raw.say("begin", "BEGIN T");
        raw.say(&format!("insert into talk values ('{name}', 1, '') returning n"), "1 INSERT 0 1 T");
        site.wire.cut(name);
        raw.say("insert into talk select who, 2, '' from talk", "INSERT 0 1 T");
        site.wire.arm(name, way, 0, Fault::Swallow);
        raw.put(&query("commit"));
        until("it to be sent", || (site.wire.seen(name)[usize::from(way == Way::Down)] > 0).then_some(()));
        site.wire.cut(name);
        let reply = raw.reply();
        let count = psql(site.pair.a, &format!("select count(*) from talk where who = '{name}'"));
        match (said(&reply).as_str(), count.as_str()) {
            ("COMMIT I", "2") | ("!08007 I", "0" | "2") | ("!40001 I", "0") => {}
            (said, count) => panic!("{name}: {said}, and there are {count} rows"),
        }
        psql(site.pair.a, "delete from talk");
        raw.say("select 'on'", "on SELECT 1 I");
    }
}

/// The server says that it goes; its connection ends later. What is sent in between is not for it any more.
#[test]
fn sent_after_the_server_s_last_word() {
    let site = Site::build("");
    let cases = [
        ("commits", "begin", "commit", "COMMIT I"),
        ("writes", "select 1", "insert into talk values ('writes', 2, '')", "INSERT 0 1 I"),
    ];
    for (name, first, last, wanted) in cases {
        let mut raw = site.client(name);
        raw.run(first);
        if name == "commits" {
            raw.say("insert into talk values ('commits', 1, '')", "INSERT 0 1 T");
        }
        site.wire.hold_open(name);
        site.wire.reset(name);
        let end =
            format!("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = '{name}'");
        assert_eq!(psql(site.pair.a, &end), "t");
        until("its last word", || (site.wire.seen(name)[1] > 0).then_some(()));
        // Long enough for pgmoor to have read it.
        std::thread::sleep(std::time::Duration::from_millis(50));
        raw.put(&query(last));
        std::thread::sleep(std::time::Duration::from_millis(50));
        site.wire.cut(name);
        raw.hear(wanted);
        assert_eq!(psql(site.pair.a, &format!("select count(*) from talk where who = '{name}'")), "1");
    }
}
