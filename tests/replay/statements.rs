//! Simple queries in an open transaction.

use super::raw::query;
use super::stage::{Scene, Talk as _, said, scenes};

scenes![
    between_two_statements,
    commit_comes_next,
    rollback_comes_next,
    a_begin_and_nothing_else,
    a_statement_in_flight,
    more_is_sent_during_the_wait,
    a_text_of_many_statements_in_flight,
    a_text_that_begins_in_flight,
    savepoints,
    an_error_undone_by_a_savepoint,
    a_failed_transaction_stays_failed,
    a_failed_transaction_is_ended_by_commit,
    a_chained_transaction,
    a_chain_in_one_text,
    a_cursor,
    a_cursor_that_scrolls,
    a_notice_is_no_answer,
    an_empty_query,
    twice_in_one_transaction,
    a_transaction_after_a_replayed_one,
];

fn between_two_statements(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'before') returning body", "before INSERT 0 1 T");
    c.say("select count(*) from t", "1 SELECT 1 T");
    s.lose();
    c.say("insert into t values (2, 'after')", "INSERT 0 1 T");
    c.say("select id from t order by id", "1 2 SELECT 2 T");
    c.say("commit", "COMMIT I");
    s.holds("select id, body from t order by id", "1,before 2,after");
    s.until_seen("state like 'idle in transaction%'", 0);
}

fn commit_comes_next(s: &Scene) {
    let mut c = s.client();
    c.say("start transaction", "START TRANSACTION T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("update t set body = 'b'", "UPDATE 1 T");
    s.lose();
    c.say("end", "COMMIT I");
    s.holds("select id, body from t", "1,b");
}

fn rollback_comes_next(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("abort", "ROLLBACK I");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 I");
    s.holds("select id from t", "2");
}

fn a_begin_and_nothing_else(s: &Scene) {
    let (mut one, mut other, mut third) = (s.client(), s.client(), s.client());
    for c in [&mut one, &mut other, &mut third] {
        c.say("begin", "BEGIN T");
    }
    s.lose();
    one.say("commit", "COMMIT I");
    other.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    other.say("commit", "COMMIT I");
    third.say("rollback", "ROLLBACK I");
    s.holds("select id from t", "1");
}

fn a_statement_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query("insert into t select 2, 'b' from gate returning id"));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("2 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

fn more_is_sent_during_the_wait(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query("insert into t select 2, 'b' from gate"));
    s.until_blocked(1);
    s.lose();
    c.put(&[query("insert into t values (3, 'c')"), query("select id from t order by id")].concat());
    c.put(&[query("commit"), query("select 'out'")].concat());
    gate.open();
    c.hear("INSERT 0 1 T");
    c.hear("INSERT 0 1 T");
    c.hear("1 2 3 SELECT 3 T");
    c.hear("COMMIT I");
    c.hear("out SELECT 1 I");
    s.holds("select id from t order by id", "1 2 3");
}

fn a_text_of_many_statements_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.put(&query(
        "insert into t values (1, 'a'); insert into t select 2, 'b' from gate; insert into t values (3, 'c')",
    ));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("INSERT 0 1 INSERT 0 1 INSERT 0 1 T");
    c.say("commit; select count(*) from t", "3 COMMIT SELECT 1 I");
}

fn a_text_that_begins_in_flight(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.put(&query("begin; insert into t values (1, 'a'); select id from gate"));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("1 BEGIN INSERT 0 1 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn savepoints(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("savepoint one", "SAVEPOINT T");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 T");
    c.say("savepoint two", "SAVEPOINT T");
    c.say("insert into t values (3, 'c')", "INSERT 0 1 T");
    c.say("rollback to two", "ROLLBACK T");
    s.lose();
    c.say("select id from t order by id", "1 2 SELECT 2 T");
    c.say("insert into t values (4, 'd')", "INSERT 0 1 T");
    c.say("release two", "RELEASE T");
    c.say("rollback to one", "ROLLBACK T");
    c.say("insert into t values (5, 'e')", "INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 5");
}

fn an_error_undone_by_a_savepoint(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("savepoint s", "SAVEPOINT T");
    c.say("insert into t values (1, 'twice')", "!23505 E");
    c.say("select 1", "!25P02 E");
    c.say("rollback to s", "ROLLBACK T");
    c.say("select no_such_column from t", "!42703 E");
    c.say("rollback to s", "ROLLBACK T");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 T");
    s.lose();
    c.say("insert into t values (2, 'twice')", "!23505 E");
    c.say("rollback to s", "ROLLBACK T");
    c.say("insert into t values (3, 'c')", "INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 3");
}

fn a_failed_transaction_stays_failed(s: &Scene) {
    let (mut saved, mut plain) = (s.client(), s.client());
    for (c, id) in [(&mut saved, 1), (&mut plain, 2)] {
        c.say("begin", "BEGIN T");
        c.say(&format!("insert into t values ({id}, 'a')"), "INSERT 0 1 T");
    }
    saved.say("savepoint s", "SAVEPOINT T");
    for c in [&mut saved, &mut plain] {
        c.say("select 1/0", "!22012 E");
    }
    s.lose();
    for c in [&mut saved, &mut plain] {
        c.say("select 1", "!25P02 E");
    }
    saved.say("rollback to s", "ROLLBACK T");
    saved.say("insert into t values (3, 'c')", "INSERT 0 1 T");
    saved.say("commit", "COMMIT I");
    plain.say("rollback", "ROLLBACK I");
    s.holds("select id from t order by id", "1 3");
}

fn a_failed_transaction_is_ended_by_commit(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("select 1/0", "!22012 E");
    s.lose();
    c.say("commit", "ROLLBACK I");
    s.holds("select count(*) from t", "0");
}

/// What was committed before the chain is there once, whatever becomes of what follows.
fn a_chained_transaction(s: &Scene) {
    s.witness().say("create table log (id int)", "CREATE TABLE I");
    let mut c = s.client();
    c.say("begin isolation level serializable", "BEGIN T");
    c.say("insert into log values (1)", "INSERT 0 1 T");
    c.say("commit and chain", "COMMIT T");
    c.say("insert into log values (2)", "INSERT 0 1 T");
    s.lose();
    let reply = c.run("show transaction_isolation");
    match said(&reply).as_str() {
        "serializable SHOW T" => {
            c.say("commit", "COMMIT I");
            s.holds("select id from log order by id", "1 2");
        }
        "!40001 E" => {
            c.say("rollback", "ROLLBACK I");
            s.holds("select id from log order by id", "1");
        }
        other => panic!("{other}: {reply:?}"),
    }
    c.say("show transaction_isolation", "read committed SHOW I");
}

fn a_cursor(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("declare c cursor for select id from wide order by id", "DECLARE CURSOR T");
    c.say("fetch 3 from c", "1 2 3 FETCH 3 T");
    c.say("move 1000 in c", "MOVE 1000 T");
    s.lose();
    c.say("fetch 2 from c", "1004 1005 FETCH 2 T");
    c.say("insert into t select id from wide where id = 7", "INSERT 0 1 T");
    c.say("close c", "CLOSE CURSOR T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "7");
}

fn a_cursor_that_scrolls(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("declare c scroll cursor for select id from wide order by id", "DECLARE CURSOR T");
    c.say("fetch absolute 500 from c", "500 FETCH 1 T");
    c.say("fetch backward 2 from c", "499 498 FETCH 2 T");
    s.lose();
    c.say("fetch prior from c", "497 FETCH 1 T");
    c.say("insert into t values (1, 'a'); update t set body = 'b'", "INSERT 0 1 UPDATE 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select body from t", "b");
}

fn a_notice_is_no_answer(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    // Its text is never the same twice.
    let reply = c.run("do $$ begin raise warning 'at %', clock_timestamp(); end $$");
    assert_eq!(reply.notices.len(), 1, "{reply:?}");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    let reply = c.run("commit");
    assert_eq!((reply.done.as_slice(), reply.notices.len()), (&["COMMIT".to_owned()][..], 0), "{reply:?}");
    s.holds("select id from t", "1");
}

fn an_empty_query(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    assert_eq!(c.run("").tags, "IZ");
    assert_eq!(c.run(" -- nothing\n ;").tags, "IZ");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    assert_eq!(c.run("").tags, "IZ");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn twice_in_one_transaction(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("insert into t values (2, 'b') returning id", "2 INSERT 0 1 T");
    s.lose_again();
    c.say("insert into t values (3, 'c') returning id", "3 INSERT 0 1 T");
    s.lose_again();
    c.say("select id from t order by id", "1 2 3 SELECT 3 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

fn a_transaction_after_a_replayed_one(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("commit", "COMMIT I");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 I");
    c.say("begin", "BEGIN T");
    c.say("insert into t values (3, 'c')", "INSERT 0 1 T");
    s.lose_again();
    // Neither the first transaction nor the autocommit insert is run again.
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

fn a_chain_in_one_text(s: &Scene) {
    let gate = s.gate();
    s.witness().say("create table log (id int)", "CREATE TABLE I");
    let mut c = s.client();
    c.put(&query("begin; insert into log values (1); commit and chain; insert into log select 2 from gate"));
    s.until_blocked(1);
    s.lose();
    gate.open();
    let reply = c.reply();
    // The first was committed for certain: to run it again would be to commit it twice.
    assert!(reply.code() == "" || reply.code() == "08007", "{reply:?}");
    c.say("rollback", "ROLLBACK I");
    s.holds("select id from log where id = 1", "1");
}
