//! How many backends there are, who waits, and for how long.

use std::time::{Duration, Instant};

use super::pair::{Moor, Pair, Plan, psql, shared, until};
use super::raw::{Raw, cancel, query};
use super::state::{backends, few};

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let pair = shared();
    let moor = few(&pair, 1);
    let mut holder = Raw::login(moor.rw());
    holder.run("create table if not exists line (who int, at serial)");
    holder.run("truncate line restart identity");
    let mut waiters: Vec<Raw> = (0..8).map(|_| Raw::login(moor.rw())).collect();
    holder.run("begin");
    holder.run("select 1");
    for (number, waiter) in waiters.iter_mut().enumerate() {
        waiter.put(&query(&format!("insert into line (who) values ({number})")));
        // In line before the next one comes.
        until("it to stand in line", || {
            (moor.metric(r#"pgmoor_sessions{endpoint="rw",state="joining"}"#) == (number + 1) as f64).then_some(())
        });
    }
    holder.run("commit");
    for waiter in &mut waiters {
        assert_eq!(waiter.reply().code(), "");
    }
    assert_eq!(psql(pair.a, "select string_agg(who::text, ' ' order by at) from line"), "0 1 2 3 4 5 6 7");
}

#[test]
fn who_waits_too_long_is_told_and_goes_on() {
    let pair = shared();
    let pool = "size = 1\npod_size = 5".to_owned();
    let moor = Moor::start(&Plan { pool, continuity: "hold = \"500ms\"".to_owned(), ..pair.plan() });
    let (mut holder, mut waiter) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    holder.run("begin");
    holder.run("select 1");
    let began = Instant::now();
    let reply = waiter.run("select 2");
    assert_eq!((reply.code(), reply.status), ("53300", 'I'), "{reply:?}");
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    assert!(moor.metric(r#"pgmoor_errors_total{code="pool_exhausted"}"#) == 1.0);
    holder.run("commit");
    assert_eq!(waiter.run("select 2").one(), "2");
}

/// What RESET goes back to is a backend's own for ever: whoever waits for one of another kind gets the place, not the backend.
#[test]
fn who_waits_gets_no_backend_of_another_kind() {
    let pair = shared();
    let moor = few(&pair, 1);
    let of = |memory: &str| Raw::login_with(moor.rw(), &[("work_mem", memory)]);
    let (mut one, mut two) = (of("5MB"), of("6MB"));
    for _ in 0..3 {
        one.run("begin");
        assert_eq!(one.run("show work_mem").one(), "5MB");
        two.put(&query("show work_mem"));
        until("the other to stand in line", || {
            (moor.metric(r#"pgmoor_sessions{endpoint="rw",state="joining"}"#) == 1.0).then_some(())
        });
        one.run("commit");
        assert_eq!(two.reply().one(), "6MB");
        two.run("set work_mem = '7MB'; reset work_mem");
        assert_eq!(two.run("show work_mem").one(), "6MB");
    }
}

#[test]
fn a_pod_s_budget_holds_for_all_its_pools() {
    let pair = Pair::start("");
    psql(pair.a, "create role others login superuser");
    psql(pair.a, "create database elsewhere");
    let moor = Moor::start(&Plan { pool: "size = 3\npod_size = 3".to_owned(), ..pair.plan() });
    let of = |user: &str, database: &str| {
        Raw::login_with(moor.rw(), &[("user", user), ("database", database), ("application_name", "budget")])
    };
    let mut sessions = vec![of("app", "app"), of("others", "app"), of("app", "elsewhere"), of("others", "elsewhere")];
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let count = || psql(pair.a, "select count(*) from pg_stat_activity where usename in ('app', 'others')");
            // One whose connection was closed takes a moment to end.
            let lasting = || (0..5).map(|_| count().parse::<u32>().unwrap()).min().unwrap();
            (0..10).map(|_| lasting()).max().unwrap()
        });
        for _ in 0..10 {
            for session in &mut sessions {
                assert_eq!(session.run("select 1").one(), "1");
            }
        }
        watch.join().unwrap()
    });
    assert!(most <= 3, "{most}");
}

#[test]
fn the_least_number_stays_open_and_the_rest_goes() {
    let pair = Pair::start("");
    let pool = "size = 9\nmin = 2\nidle = \"1s\"".to_owned();
    let moor = Moor::start(&Plan { pool, ..pair.plan() });
    let mut sessions: Vec<Raw> = (0..5).map(|_| Raw::login(moor.rw())).collect();
    for session in &mut sessions {
        session.run("begin");
        session.run("select 1");
    }
    assert_eq!(backends(&pair), "5");
    for session in &mut sessions {
        session.run("commit");
    }
    until("idle backends to go", || (backends(&pair) == "2").then_some(()));
    // One that is ended comes back by itself.
    psql(pair.a, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'");
    assert_eq!(sessions[0].run("select 1").one(), "1");
    until("the least number", || (backends(&pair) == "2").then_some(()));
}

#[test]
fn a_backend_has_its_lifetime() {
    let pair = shared();
    let moor = Moor::start(&Plan { pool: "size = 1\nlifetime = \"2s\"".to_owned(), ..pair.plan() });
    let mut session = Raw::login(moor.rw());
    let first = session.run("select pg_backend_pid()").one().to_owned();
    until("another backend", || (session.run("select pg_backend_pid()").one() != first).then_some(()));
}

#[test]
fn sessions_keep_their_backend_where_that_is_asked_for() {
    let pair = Pair::start("");
    let moor = Moor::start(&Plan { pool: "mode = \"session\"\nsize = 9".to_owned(), ..pair.plan() });
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    let process = one.run("select pg_backend_pid()").one().to_owned();
    assert_ne!(two.run("select pg_backend_pid()").one(), process);
    one.run("set work_mem = '7MB'; prepare p as select 1");
    drop(one);
    // It is lent again, and nothing is left on it.
    until("its backend to be free", || {
        (moor.metric(r#"pgmoor_backends{cluster="demo",pod="a",state="idle"}"#) == 1.0).then_some(())
    });
    let mut three = Raw::login(moor.rw());
    assert_eq!(three.run("select pg_backend_pid()").one(), process);
    assert_eq!(three.run("show work_mem").one(), "4MB");
    assert_eq!(three.run("execute p").code(), "26000");
}

#[test]
fn a_cancel_request_never_hits_the_next_session_s_statement() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    let (process, secret) = one.key.clone();
    for _ in 0..30 {
        one.put(&query("select 1"));
        cancel(moor.rw(), process, &secret);
        let reply = one.reply();
        assert!(matches!(reply.code(), "" | "57014"), "{reply:?}");
        let reply = two.run("select pg_sleep(0.02), 'through'");
        assert_eq!((reply.code(), reply.done.len()), ("", 1), "{reply:?}");
    }
}
