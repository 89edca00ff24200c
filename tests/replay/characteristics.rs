//! Kinds of transactions: isolation, read only, and how they are asked for.

use super::raw::unit;
use super::stage::{Scene, Talk as _, scenes};

scenes![
    said_by_begin,
    said_by_the_first_statement,
    said_for_the_session,
    repeatable_read,
    serializable,
    read_only,
    said_in_the_extended_protocol,
    locks_are_taken_again,
];

fn said_by_begin(s: &Scene) {
    let mut c = s.client();
    c.say("begin transaction isolation level serializable, read write, deferrable", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("show transaction_isolation", "serializable SHOW T");
    c.say("show transaction_deferrable", "on SHOW T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn said_by_the_first_statement(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("set transaction isolation level repeatable read", "SET T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("show transaction_isolation", "repeatable read SHOW T");
    c.say("set transaction read only", "SET T");
    c.say("insert into t values (2, 'b')", "!25006 E");
    c.say("commit", "ROLLBACK I");
    c.say("show transaction_isolation", "read committed SHOW I");
}

fn said_for_the_session(s: &Scene) {
    let mut c = s.client();
    c.say("set session characteristics as transaction isolation level repeatable read", "SET I");
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("show transaction_isolation", "repeatable read SHOW T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

/// Its snapshot is another one; nothing the client saw contradicts it.
fn repeatable_read(s: &Scene) {
    s.witness().say("insert into t values (1, 'old')", "INSERT 0 1 I");
    let mut c = s.client();
    c.say("begin isolation level repeatable read", "BEGIN T");
    c.say("select body from t where id = 1", "old SELECT 1 T");
    s.witness().say("insert into t values (2, 'unseen')", "INSERT 0 1 I");
    s.lose();
    c.say("insert into t values (3, 'c')", "INSERT 0 1 T");
    c.say("select count(*) from t where id <> 2", "2 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

fn serializable(s: &Scene) {
    s.witness().say("insert into t values (1, 'a')", "INSERT 0 1 I");
    let mut c = s.client();
    c.say("begin isolation level serializable", "BEGIN T");
    c.say("select count(*) from t", "1 SELECT 1 T");
    s.lose();
    c.say("insert into t select count(*) + 1, 'next' from t", "INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

fn read_only(s: &Scene) {
    let mut c = s.client();
    c.say("begin read only", "BEGIN T");
    c.say("select id from wide where id = 7", "7 SELECT 1 T");
    s.lose();
    c.say("select id from wide where id = 8", "8 SELECT 1 T");
    c.say("insert into t values (1, 'a')", "!25006 E");
    c.say("rollback", "ROLLBACK I");
}

fn said_in_the_extended_protocol(s: &Scene) {
    let mut c = s.client();
    c.put(&unit("begin isolation level serializable read only", &[]));
    c.hear("BEGIN T");
    c.put(&unit("select id from wide where id = $1::int", &["7"]));
    c.hear("7 SELECT 1 T");
    s.lose();
    c.put(&unit("show transaction_isolation", &[]));
    c.hear("serializable SHOW T");
    c.put(&unit("commit", &[]));
    c.hear("COMMIT I");
}

/// The lost transaction's locks are gone, the replayed one holds them again.
fn locks_are_taken_again(s: &Scene) {
    s.witness().say("insert into t values (1, 'a')", "INSERT 0 1 I");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("select id from t where id = 1 for update", "1 SELECT 1 T");
    c.say("select pg_advisory_xact_lock(hashtext(current_schema()))", "SELECT 1 T");
    s.lose();
    c.say("select 1", "1 SELECT 1 T");
    let mut other = s.witness();
    other.say("select id from t where id = 1 for update nowait", "!55P03 I");
    other.say("select pg_try_advisory_lock(hashtext(current_schema()))", "f SELECT 1 I");
    c.say("commit", "COMMIT I");
    other.say("select id from t where id = 1 for update nowait", "1 SELECT 1 I");
}
