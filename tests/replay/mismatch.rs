//! What cannot be told again as it was told: 40001, and nothing of it remains.

use super::raw::{bind, execute, parse, query, sync, unit};
use super::stage::{Scene, Talk as _, said, scenes};

scenes![
    the_time_was_told,
    the_time_was_told_and_commit_comes_next,
    the_time_was_told_and_rollback_comes_next,
    the_time_was_told_in_a_unit,
    what_was_read_has_changed,
    fewer_rows_were_touched,
    an_error_instead_of_a_result,
    a_result_instead_of_an_error,
    a_mismatch_with_a_statement_in_flight,
    a_mismatch_with_a_commit_sent_during_the_wait,
    a_mismatch_after_a_savepoint,
    a_number_of_a_sequence_was_told,
    a_session_lock_was_taken,
    another_server_was_written_to,
    a_program_was_run,
];

/// Under a failover these may come out the same by chance.
mod alive {
    use crate::stage::Scene;

    #[test]
    fn the_number_of_the_transaction_was_told() {
        crate::stage::alone("the_number_of_the_transaction_was_told", |s: &Scene| {
            super::mismatched(s, "select txid_current() > 0, txid_current()");
            super::mismatched(s, "select pg_backend_pid()");
        });
    }
}

/// A transaction that was told `sql` is lost; the session goes on.
fn mismatched(s: &Scene, sql: &str) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    let reply = c.run(sql);
    assert_eq!((reply.status, reply.code()), ('T', ""), "{reply:?}");
    s.lose();
    c.say("insert into t values (2, 'b')", "!40001 E");
    c.say("select 1", "!25P02 E");
    c.say("rollback", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
    c.say("insert into t values (1, 'again')", "INSERT 0 1 I");
    c.say("delete from t", "DELETE 1 I");
}

fn the_time_was_told(s: &Scene) {
    mismatched(s, "select clock_timestamp(), now()");
}

fn the_time_was_told_and_commit_comes_next(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    assert_eq!(c.run("select now()").status, 'T');
    s.lose();
    c.say("commit", "!40001 I");
    c.say("select count(*) from t", "0 SELECT 1 I");
}

fn the_time_was_told_and_rollback_comes_next(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    assert_eq!(c.run("select now()").status, 'T');
    s.lose();
    c.say("rollback", "ROLLBACK I");
    c.say("select count(*) from t", "0 SELECT 1 I");
}

fn the_time_was_told_in_a_unit(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.put(&unit("insert into t values ($1::int, now()::text) returning body", &["1"]));
    assert_eq!(c.reply().tags, "12DCZ");
    s.lose();
    c.put(&[parse("x", "select 1"), bind("", "x", &[]), execute("", 0), sync()].concat());
    c.hear("!40001 E");
    c.put(&unit("select 1", &[]));
    c.hear("!25P02 E");
    c.put(&unit("rollback", &[]));
    c.hear("ROLLBACK I");
    // The Parse that was answered by the error has not happened.
    c.put(&[bind("", "x", &[]), execute("", 0), sync()].concat());
    c.hear("!26000 I");
    s.holds("select count(*) from t", "0");
}

fn what_was_read_has_changed(s: &Scene) {
    s.witness().say("insert into t values (1, 'old')", "INSERT 0 1 I");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("select body from t where id = 1", "old SELECT 1 T");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 T");
    s.witness().say("update t set body = 'new' where id = 1", "UPDATE 1 I");
    s.lose();
    c.say("update t set body = 'mine'", "!40001 E");
    c.say("rollback", "ROLLBACK I");
    s.holds("select id, body from t", "1,new");
}

fn fewer_rows_were_touched(s: &Scene) {
    s.witness().say("insert into t values (1, 'x'), (2, 'x'), (3, 'y')", "INSERT 0 3 I");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("select 1", "1 SELECT 1 T");
    c.say("insert into t select id + 10, body from t where body = 'x'", "INSERT 0 2 T");
    s.witness().say("delete from t where id = 2", "DELETE 1 I");
    s.lose();
    c.say("commit", "!40001 I");
    s.holds("select id from t order by id", "1 3");
}

fn an_error_instead_of_a_result(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("select count(*) from t", "0 SELECT 1 T");
    c.say("insert into t values (1, 'mine')", "INSERT 0 1 T");
    // The other one waits for the end of the first, and gets its place when that is lost.
    let mut other = s.witness();
    other.put(&query("insert into t values (1, 'theirs')"));
    s.lose();
    // After a failover nobody else is there.
    let reply = c.run("select body from t");
    match said(&reply).as_str() {
        "!40001 E" => {
            c.say("rollback", "ROLLBACK I");
            other.hear("INSERT 0 1 I");
            s.holds("select body from t", "theirs");
        }
        "mine SELECT 1 T" => {
            c.say("commit", "COMMIT I");
            s.holds("select body from t", "mine");
        }
        answer => panic!("{answer}: {reply:?}"),
    }
}

fn a_result_instead_of_an_error(s: &Scene) {
    s.witness().say("insert into t values (1, 'theirs')", "INSERT 0 1 I");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("savepoint s", "SAVEPOINT T");
    c.say("insert into t values (1, 'mine')", "!23505 E");
    c.say("rollback to s", "ROLLBACK T");
    s.witness().say("delete from t", "DELETE 1 I");
    s.lose();
    c.say("insert into t values (2, 'b')", "!40001 E");
    // A savepoint of a lost transaction is nothing to come back to.
    let reply = c.run("rollback to s");
    assert_eq!(reply.status, 'E', "{reply:?}");
    c.say("rollback", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
}

fn a_mismatch_with_a_statement_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    assert_eq!(c.run("select clock_timestamp()").status, 'T');
    c.put(&query("insert into t select id, 'b' from gate"));
    s.until_blocked(1);
    s.lose();
    c.hear("!40001 E");
    gate.open();
    c.say("rollback", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
}

fn a_mismatch_with_a_commit_sent_during_the_wait(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    assert_eq!(c.run("select clock_timestamp()").status, 'T');
    c.put(&query("insert into t select id + 1, 'b' from gate"));
    s.until_blocked(1);
    s.lose();
    c.put(&[query("commit"), query("select count(*) from t")].concat());
    gate.open();
    c.hear("!40001 E");
    // PostgreSQL ends a failed transaction so; an error is as true.
    let reply = c.reply();
    assert_eq!(reply.status, 'I', "{reply:?}");
    assert!(reply.code() == "40001" || reply.done == ["ROLLBACK"], "{reply:?}");
    c.hear("0 SELECT 1 I");
    s.holds("select count(*) from t", "0");
}

fn a_mismatch_after_a_savepoint(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("savepoint s", "SAVEPOINT T");
    assert_eq!(c.run("select clock_timestamp()").status, 'T');
    // Undone, but told: what the client knows can rest on it.
    c.say("rollback to s", "ROLLBACK T");
    s.lose();
    c.say("commit", "!40001 I");
    s.holds("select count(*) from t", "0");
}

fn a_number_of_a_sequence_was_told(s: &Scene) {
    s.witness().say("create table numbered (id serial, body text)", "CREATE TABLE I");
    let (mut told, mut untold) = (s.client(), s.client());
    for c in [&mut told, &mut untold] {
        c.say("begin", "BEGIN T");
    }
    told.say("insert into numbered (body) values ('told') returning id", "1 INSERT 0 1 T");
    untold.say("insert into numbered (body) values ('untold')", "INSERT 0 1 T");
    s.lose();
    // The next server may not have heard of the number that was given out.
    let reply = told.run("commit");
    let kept = match said(&reply).as_str() {
        "!40001 I" => "",
        "COMMIT I" => "1,told",
        other => panic!("{other}: {reply:?}"),
    };
    s.holds("select id, body from numbered where body = 'told'", kept);
    untold.say("commit", "COMMIT I");
    s.holds("select count(*) from numbered where body = 'untold'", "1");
}

fn a_session_lock_was_taken(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    assert_eq!(c.run("select pg_advisory_lock(hashtext(current_schema()))").status, 'T');
    s.lose();
    // The session is tied to a backend that is gone, or its transaction is lost: never a silent replay.
    let reply = c.run("commit");
    assert!(matches!((reply.code(), reply.status), ("40001", 'I') | ("57P01", ' ')), "{reply:?}");
    s.holds("select count(*) from t", "0");
}

fn another_server_was_written_to(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.witness().say("create table outside (id int)", "CREATE TABLE I");
    let write = format!("insert into {}.outside values (1)", s.name);
    let dsn = "'dbname=app user=app host=127.0.0.1 port=' || inet_server_port()";
    c.say(&format!("select public.dblink_exec({dsn}, '{write}')"), "INSERT 0 1 SELECT 1 T");
    s.lose();
    c.say("select 1", "!40001 E");
    c.say("rollback", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
    s.holds("select count(*) from outside", "1");
}

fn a_program_was_run(s: &Scene) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = folder.path().join("ran");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say(&format!("copy (select 'ran') to program 'cat >> {}'", file.display()), "COPY 1 T");
    s.lose();
    c.say("commit", "!40001 I");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "ran\n");
    s.holds("select count(*) from t", "0");
}
