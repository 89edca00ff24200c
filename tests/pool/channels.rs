//! LISTEN of sessions that have no backend of their own.

use super::pair::{Moor, Pair, Plan, psql, shared, until};
use super::raw::{Raw, Reply, query};
use super::state::{backends, few};

/// Notifications come by themselves: asks until this many have come.
fn heard(raw: &mut Raw, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    until("notifications", || {
        payloads.extend(raw.run("select 1").notifications.into_iter().map(|(_, payload)| payload));
        (payloads.len() >= count).then_some(())
    });
    payloads
}

#[test]
fn many_listen_and_few_backends_are_taken() {
    let pair = Pair::start("");
    let moor = few(&pair, 2);
    let mut listeners: Vec<Raw> = (0..20).map(|_| Raw::login(moor.rw())).collect();
    for (number, listener) in listeners.iter_mut().enumerate() {
        assert_eq!(listener.run(&format!("listen all_of_us; listen only_{number}")).done, ["LISTEN", "LISTEN"]);
    }
    let mut other = Raw::login(moor.rw());
    for number in 0..3 {
        other.run(&format!("notify all_of_us, '{number}'"));
    }
    other.run("notify only_7, 'seven'");
    for (number, listener) in listeners.iter_mut().enumerate() {
        let wanted: &[&str] = if number == 7 { &["0", "1", "2", "seven"] } else { &["0", "1", "2"] };
        assert_eq!(heard(listener, wanted.len()), wanted, "listener {number}");
    }
    assert!(backends(&pair).parse::<u32>().unwrap() <= 2);
    listeners[0].run("unlisten all_of_us");
    other.run("notify all_of_us, 'later'");
    assert_eq!(heard(&mut listeners[1], 1), ["later"]);
    assert_eq!(listeners[0].run("select 1").notifications, []);
}

/// As PostgreSQL does: a session's own comes before the end of the command that sent it, from the process it knows.
#[test]
fn what_a_session_sends_itself_comes_before_the_command_ends() {
    let pair = shared();
    let moor = few(&pair, 2);
    let mut one = Raw::login(moor.rw());
    one.run("listen mine");
    let own = one.key.0;
    for sql in ["notify mine, 'a'", "select pg_notify('mine', 'a')", "begin; notify mine, 'a'; commit"] {
        let reply: Reply = one.run(sql);
        assert_eq!(reply.notifications, [("mine".to_owned(), "a".to_owned())], "{sql}: {reply:?}");
        assert_eq!(reply.senders, [own], "{sql}");
    }
}

#[test]
fn what_is_rolled_back_is_not_heard() {
    let pair = shared();
    let moor = few(&pair, 2);
    let (mut one, mut other) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    one.run("begin");
    one.run("listen undone");
    one.run("rollback");
    other.run("notify undone, 'never'");
    one.run("listen done");
    other.run("notify done, 'ever'");
    assert_eq!(heard(&mut one, 1), ["ever"]);
    // Within a transaction nothing comes.
    one.run("begin");
    one.run("select 1");
    other.run("notify done, 'later'");
    assert_eq!(one.run("select pg_sleep(0.2)").notifications, []);
    one.put(&query("commit"));
    let reply = one.reply();
    assert_eq!(reply.notifications, [("done".to_owned(), "later".to_owned())], "before the COMMIT ends: {reply:?}");
}

#[test]
fn nothing_that_is_sent_after_a_failover_is_missed() {
    let pair = Pair::start("");
    psql(pair.a, "create table t (id int)");
    pair.caught_up();
    let moor = Moor::start(&Plan { pool: "size = 4\npod_size = 20".to_owned(), ..pair.plan() });
    let mut listeners: Vec<Raw> = (0..5).map(|_| Raw::login(moor.rw())).collect();
    for listener in &mut listeners {
        listener.run("listen news");
    }
    let mut sender = Raw::login(moor.rw());
    sender.run("notify news, 'before'");
    for listener in &mut listeners {
        assert_eq!(heard(listener, 1), ["before"]);
    }
    pair.kill9();
    sender.put(&query("notify news, 'after 0'"));
    pair.promote();
    assert!(matches!(sender.reply().code(), "" | "08007"));
    for number in 1..20 {
        assert_eq!(sender.run(&format!("notify news, 'after {number}'")).code(), "");
    }
    let wanted: Vec<String> = (1..20).map(|number| format!("after {number}")).collect();
    for listener in &mut listeners {
        let mut found = heard(listener, wanted.len());
        found.retain(|payload| payload != "after 0"); // it was in flight
        if found.len() < wanted.len() {
            found.extend(heard(listener, 1));
        }
        assert_eq!(found, wanted);
    }
}
