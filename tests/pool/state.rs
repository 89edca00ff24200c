//! Settings, roles and pins of sessions that share backends.

use super::pair::{Moor, Pair, Plan, psql, shared, until};
use super::raw::{Raw, bind, execute, frame, parse, query, sync};

/// A pgmoor with so few backends.
pub(crate) fn few(pair: &Pair, size: usize) -> Moor {
    Moor::start(&Plan { pool: format!("size = {size}\npod_size = 50"), ..pair.plan() })
}

/// Backends that do clients' work.
pub(crate) fn backends(pair: &Pair) -> String {
    psql(pair.a, "select count(*) from pg_stat_activity where usename = 'app' and application_name <> 'pgmoor listen'")
}

fn named(moor: &Moor, name: &str) -> Raw {
    Raw::login_with(moor.rw(), &[("application_name", name)])
}

#[test]
fn each_session_finds_its_own_settings_on_whatever_backend() {
    let pair = Pair::start("");
    psql(pair.a, "create role one; create role two; grant one, two to app");
    let moor = few(&pair, 2);
    let mut sessions: Vec<Raw> = (0..10).map(|number| named(&moor, &format!("session-{number}"))).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        session.run(&format!("set work_mem = '{}MB'; set app.number = '{number}'", number + 1));
        match number % 3 {
            0 => session.run("set role one"),
            1 => session.run("set time zone 'Asia/Tokyo'"),
            _ => session.run("set search_path = pg_catalog"),
        };
    }
    for round in 0..5 {
        for (number, session) in sessions.iter_mut().enumerate() {
            let reply = session.run(
                "select current_setting('application_name'), current_setting('work_mem'), \
                 current_setting('app.number'), current_user, current_setting('TimeZone') = 'Asia/Tokyo', \
                 current_setting('search_path') = 'pg_catalog'",
            );
            let truth = |is: bool| if is { "t" } else { "f" }.to_owned();
            let wanted = [
                format!("session-{number}"),
                format!("{}MB", number + 1),
                number.to_string(),
                if number % 3 == 0 { "one" } else { "app" }.to_owned(),
                truth(number % 3 == 1),
                truth(number % 3 == 2),
            ];
            let found: Vec<&str> = reply.rows[0].iter().map(|field| field.as_deref().unwrap()).collect();
            assert_eq!(found, wanted, "round {round}: {reply:?}");
        }
    }
    assert!(backends(&pair).parse::<u32>().unwrap() <= 2);
}

#[test]
fn what_was_never_set_is_nobody_s() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    one.run("set work_mem = '7MB'; set app.secret = 'one''s own'; set statement_timeout = '77s'");
    assert_eq!(two.run("show work_mem").one(), "4MB");
    assert_eq!(two.run("select coalesce(current_setting('app.secret', true), '')").one(), "");
    assert_eq!(one.run("select current_setting('app.secret')").one(), "one's own");
    one.run("begin; set local work_mem = '9MB'; commit");
    assert_eq!(one.run("show work_mem").one(), "7MB");
    one.run("reset all");
    assert_eq!(one.run("show work_mem").one(), "4MB");
    one.run("begin; set work_mem = '8MB'; rollback");
    assert_eq!(two.run("show work_mem").one(), "4MB");
    assert_eq!(one.run("show work_mem").one(), "4MB");
}

/// Where a string ends is the session's own matter, too: what comes behind it is a statement or is none.
#[test]
fn backslashes_are_read_as_each_session_s_server_reads_them() {
    let pair = Pair::start("");
    psql(pair.a, "alter role app set standard_conforming_strings = off");
    let moor = few(&pair, 1);
    drop(Raw::login(moor.rw()));
    // Greeted with what the first one was told.
    let (mut off, mut on) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    on.run("set standard_conforming_strings = on");
    for round in 1..=3 {
        let reply = off.run(&format!(r"select '\''; set work_mem = '{round}MB'"));
        assert_eq!(reply.rows[0][0].as_deref(), Some("'"));
        let reply = on.run(&format!(r"select '\'; set work_mem = '1{round}MB'"));
        assert_eq!(reply.rows[0][0].as_deref(), Some(r"\"));
        assert_eq!(off.run("show work_mem").one(), format!("{round}MB"));
        assert_eq!(on.run("show work_mem").one(), format!("1{round}MB"));
    }
}

#[test]
fn a_setting_that_cannot_be_made_again_ends_its_session_and_runs_nothing() {
    let pair = Pair::start("");
    psql(pair.a, "create role passing; grant passing to app; create table t (id int); grant all on t to passing");
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    one.run("set role passing");
    assert_eq!(two.run("select 1").one(), "1");
    psql(pair.a, "drop owned by passing; drop role passing");
    one.put(&query("insert into t values (1)"));
    let reply = one.reply();
    assert_eq!(reply.code(), "57P01", "{reply:?}");
    assert_eq!(psql(pair.a, "select count(*) from t"), "0", "it must not run as somebody else");
    assert_eq!(two.run("select current_user").one(), "app");
}

/// FunctionCall of a function without arguments.
fn call(number: u32) -> Vec<u8> {
    frame(b'F', &[&number.to_be_bytes()[..], &[0; 6]].concat())
}

#[test]
fn what_a_function_has_set_is_not_the_next_session_s() {
    let pair = Pair::start("");
    psql(
        pair.a,
        "create function be(text) returns text language sql as $$ select set_config('app.tenant', $1, false) $$; \
         create function wander() returns void language plpgsql as $$ begin set search_path = 'nowhere'; end $$",
    );
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    let tenant = "select coalesce(current_setting('app.tenant', true), '') || current_setting('search_path')";
    let fresh = two.run(tenant).one().to_owned();
    for call in ["select be('secret')", "select wander()", "do $$ begin perform be('secret'); end $$"] {
        assert_eq!(one.run(call).code(), "");
        assert_eq!(two.run(tenant).one(), fresh, "{call}");
    }
    one.put(&[parse("s", "select be($1)"), bind("", "s", &["secret"]), execute("", 0), sync()].concat());
    assert_eq!(one.reply().one(), "secret");
    assert_eq!(two.run(tenant).one(), fresh, "by a prepared statement");
    // What is run is somewhere else than in the text that runs it, or beyond what is read of that.
    one.run("prepare p as select be('secret')");
    one.put(&[parse("q", "select be('secret')"), sync()].concat());
    assert_eq!(one.reply().code(), "");
    let long = format!("select '{}', be('secret')", "x".repeat(100_000));
    for text in ["execute p", "execute q", &long] {
        assert_eq!(one.run(text).code(), "");
        assert_eq!(two.run(tenant).one(), fresh, "{}", &text[..9]);
    }
    let number: u32 = psql(pair.a, "select 'wander'::regproc::oid").parse().unwrap();
    one.put(&call(number));
    assert_eq!(one.reply().code(), "");
    assert_eq!(two.run(tenant).one(), fresh, "by its number");
    one.run("insert into pg_temp.t select 1"); // an error: nothing is set
    assert_eq!(two.run(tenant).one(), fresh);
}

#[test]
fn what_pins_keeps_its_backend_and_others_have_the_rest() {
    let pair = Pair::start("");
    let moor = few(&pair, 2);
    let (mut pinned, mut other) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    pinned.run("create temp table mine (id int); insert into mine values (7)");
    let process = pinned.run("select pg_backend_pid()").one().to_owned();
    for _ in 0..5 {
        assert_ne!(other.run("select pg_backend_pid()").one(), process);
        assert_eq!(pinned.run("select id from mine").one(), "7");
    }
    assert_eq!(moor.metric(r#"pgmoor_pinned_sessions{reason="temp_object"}"#), 1.0);
    pinned.run("drop table mine");
    // It is unpinned, and its backend is anybody's.
    until("the pin to go", || (moor.metric(r#"pgmoor_pinned_sessions{reason="temp_object"}"#) == 0.0).then_some(()));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        seen.insert(other.run("select pg_backend_pid()").one().to_owned());
        seen.insert(pinned.run("select pg_backend_pid()").one().to_owned());
    }
    assert!(seen.contains(&process) || seen.len() == 1, "{seen:?}");
    drop(pinned);
    assert_eq!(other.run("select count(*) from pg_class where relname = 'mine'").one(), "0");
}

#[test]
fn an_open_transaction_is_its_session_s_alone() {
    let pair = shared();
    psql(pair.a, "create table if not exists alone (id int)");
    let moor = few(&pair, 2);
    let (mut open, mut other) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    open.run("begin");
    open.run("insert into alone values (1)");
    for _ in 0..3 {
        assert_eq!(other.run("select count(*) from alone").one(), "0");
    }
    assert_eq!(open.run("select count(*) from alone").one(), "1");
    assert_eq!(open.run("rollback").status, 'I');
}

#[test]
fn a_session_that_hangs_up_within_a_transaction_leaves_nothing_to_the_next() {
    let pair = shared();
    psql(pair.a, "create table if not exists gone (id int)");
    let moor = few(&pair, 1);
    for id in 0..5 {
        let mut leaver = Raw::login(moor.rw());
        leaver.run("begin");
        leaver.run(&format!("insert into gone values ({id})"));
        leaver.run("set work_mem = '7MB'");
        leaver.hang_up();
        let mut next = Raw::login(moor.rw());
        let reply = next.run("select (select count(*) from gone), current_setting('work_mem')");
        assert_eq!(reply.rows, [[Some("0".to_owned()), Some("4MB".to_owned())]]);
    }
}
