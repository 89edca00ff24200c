//! A primary that crashes with a COMMIT in doubt and is promoted itself, to a timeline that leaves its own one beyond the mark.

use super::Form;
use super::cutter::{Then, Way};
use super::{REPLAY, Rig, TABLE, begin, guard_length, row_came, told};
use crate::pair::{Pair, psql, until};
use crate::raw::{Raw, query};

/// What the client is told, and how often its row is there. `flushed`: the WAL up to the mark outlives the crash.
fn crash(flushed: bool) -> (String, String) {
    // Nothing is to be on disk but by a commit.
    let pair = Pair::start("wal_writer_delay = 10s\nautovacuum = off");
    psql(pair.a, TABLE);
    let rig = Rig::new(&pair, REPLAY);
    let length = guard_length(&rig, Form::Simple);
    pair.caught_up();
    let mut raw = Raw::login(rig.moor.rw());
    begin(&mut raw, 7);
    // The question is answered; the COMMIT is held back.
    rig.cutter.set(Way::ToServer, length, Then::Hold);
    raw.put(&query("commit"));
    rig.cutter.wait_sprung();
    until("the guard's answer", || row_came(&rig.cutter.seen(Way::ToMoor)).then_some(()));
    if flushed {
        psql(pair.a, "create table flushed ()");
    }
    pair.kill9();
    rig.cutter.cut();
    until("pgmoor to know that nobody is the primary", || {
        let status = rig.moor.status()?;
        (!status["clusters"][0]["writes"]["to"]["pod"].is_string()).then_some(())
    });
    // Whatever comes now is not seen; the next thing it sees is the primary of a new timeline.
    rig.moor.signal("STOP");
    pair.promote_itself();
    for _ in 0..20 {
        psql(pair.a, "create table if not exists other (id int); insert into other values (1)");
    }
    rig.moor.signal("CONT");
    let reply = raw.reply();
    let told = told(&reply).to_owned();
    assert_eq!(raw.run("select 'on'").one(), "on", "the session lives");
    (told, psql(pair.a, "select count(*) from t where id = 7"))
}

#[test]
fn an_id_that_a_crashed_server_gives_out_again_is_not_taken_for_the_lost_one() {
    // It says "committed" of the id, on a timeline that left the mark's behind the mark.
    assert_eq!(crash(false), ("08007".to_owned(), "0".to_owned()));
}

#[test]
fn what_a_crashed_server_says_was_not_committed_is_run_again() {
    assert_eq!(crash(true), ("COMMIT".to_owned(), "1".to_owned()));
}
