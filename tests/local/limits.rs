//! Limits of pgmoor itself, and its end.

use super::pair::{Moor, Plan, psql, shared, until};
use super::raw::{Raw, frame, query};

#[test]
fn more_sessions_than_allowed_are_refused_and_a_place_is_free_again() {
    let pair = shared();
    let moor = Moor::start(&Plan { limits: "sessions = 2".to_owned(), ..pair.plan() });
    let first = Raw::login(moor.rw());
    let _second = Raw::login(moor.ro());
    assert_eq!(Raw::open(moor.rw()).unwrap().start(&[]).code(), "53300");
    first.hang_up();
    until("a place", || (Raw::open(moor.rw()).unwrap().start(&[]).status == 'I').then_some(()));
}

#[test]
fn a_message_over_the_limit_is_refused_in_words() {
    let pair = shared();
    let moor = Moor::start(&Plan { limits: "message_size = \"64KiB\"".to_owned(), ..pair.plan() });
    let mut raw = Raw::login(moor.rw());
    assert_eq!(raw.run(&format!("select length('{}')", "l".repeat(60_000))).one(), "60000");
    raw.put(&query(&"l".repeat(70_000)));
    assert_eq!(raw.reply().code(), "54000");
}

#[test]
fn a_client_that_vanishes_takes_its_backend_with_it() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login_with(moor.rw(), &[("application_name", "vanishing")]);
    raw.run("begin");
    raw.run("select pg_advisory_lock(4711)");
    raw.hang_up();
    until("the backend to end", || {
        (psql(pair.a, "select count(*) from pg_stat_activity where application_name = 'vanishing'") == "0")
            .then_some(())
    });
    until("the gauge to fall", || {
        (moor.metric(r#"pgmoor_sessions{endpoint="rw",state="attached"}"#) == 0.0).then_some(())
    });
}

#[test]
fn sigterm_lets_transactions_end_and_then_ends() {
    let pair = shared();
    let mut moor = pair.moor();
    psql(pair.a, "create table if not exists drained (id int); truncate drained");
    let mut idle = Raw::login(moor.rw());
    let mut busy = Raw::login(moor.rw());
    busy.run("begin");
    busy.run("insert into drained values (1)");
    moor.signal("TERM");
    let goodbye = idle.reply();
    assert_eq!((goodbye.code(), goodbye.status), ("57P01", ' '), "an idle session is told and closed");
    assert!(!moor.ended(), "a transaction is open");
    assert_eq!(busy.run("insert into drained values (2)").status, 'T');
    busy.put(&query("commit"));
    let end = busy.reply();
    assert_eq!((end.done.as_slice(), end.status), (&["COMMIT".to_owned()][..], 'I'));
    assert_eq!(busy.reply().code(), "57P01");
    assert_eq!(moor.wait_end(), Some(0));
    assert_eq!(psql(pair.a, "select count(*) from drained"), "2");
    psql(pair.a, "drop table drained");
}

#[test]
fn a_transaction_beyond_the_drain_deadline_is_told_and_ended() {
    let pair = shared();
    let mut moor = Moor::start(&Plan { continuity: "drain_deadline = \"500ms\"".to_owned(), ..pair.plan() });
    let mut busy = Raw::login(moor.rw());
    busy.run("begin");
    moor.signal("TERM");
    let goodbye = busy.reply();
    assert_eq!((goodbye.code(), goodbye.status), ("57P01", ' '));
    assert_eq!(moor.wait_end(), Some(0));
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_and_closed() {
    let pair = shared();
    let moor = pair.moor();
    for (bytes, code) in [
        (frame(b'R', b""), "08P01"),
        (frame(0, b""), "08P01"),
        (vec![b'Q', 0, 0, 0, 3], "08P01"),
        (vec![b'Q', 0xff, 0xff, 0xff, 0xff], "08P01"),
        (vec![b'Q', 0x7f, 0xff, 0xff, 0xff], "54000"),
        (frame(b'Q', b"select 1"), "08P01"),
        (frame(b'B', b"\0"), "08P01"),
        (frame(b'p', b"password\0"), "08P01"),
    ] {
        let mut raw = Raw::login(moor.rw());
        assert_eq!(raw.run("select 1").one(), "1");
        raw.put(&bytes);
        let reply = raw.reply();
        assert_eq!((reply.code(), reply.status), (code, ' '), "{bytes:?}: {reply:?}");
    }
}
