//! The extended protocol in an open transaction: statements, portals, row limits, pipelines.

use super::raw::{Raw, about, bind, cancel, execute, frame, parse, query, sync, unit};
use super::stage::{Scene, Talk as _, said, scenes};

scenes![
    unnamed_statements,
    statements_named_before,
    statements_named_inside,
    statements_closed_inside,
    the_unnamed_statement_of_before,
    the_unnamed_statement_of_inside,
    a_suspended_portal,
    portals_side_by_side,
    units_in_one_packet,
    executes_in_one_unit,
    a_pipeline_that_fails_half_way,
    a_unit_without_its_sync,
    a_unit_whose_answers_are_kept_back,
    described_and_never_run,
    begin_and_the_first_statement_in_one_packet,
    as_psycopg_does,
    as_jdbc_does,
    as_tokio_postgres_does,
    function_calls,
    cancelled_where_it_is_now,
];

/// Wants an answer of these tags, and this in short.
#[track_caller]
fn hear(raw: &mut Raw, tags: &str, wanted: &str) {
    let reply = raw.reply();
    assert_eq!((reply.tags.as_str(), said(&reply).as_str()), (tags, wanted), "{reply:?}");
}

fn run(statement: &str, values: &[&str]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0), sync()].concat()
}

const INSERT: &str = "insert into t values ($1::int, $2) returning id";

fn begun(s: &Scene) -> Raw {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c
}

fn unnamed_statements(s: &Scene) {
    let mut c = s.client();
    c.put(&unit("begin", &[]));
    hear(&mut c, "12CZ", "BEGIN T");
    c.put(&unit(INSERT, &["1", "a"]));
    hear(&mut c, "12DCZ", "1 INSERT 0 1 T");
    s.lose();
    c.put(&unit(INSERT, &["2", "b"]));
    hear(&mut c, "12DCZ", "2 INSERT 0 1 T");
    c.put(&unit("commit", &[]));
    hear(&mut c, "12CZ", "COMMIT I");
    s.holds("select id, body from t order by id", "1,a 2,b");
}

fn statements_named_before(s: &Scene) {
    let mut c = s.client();
    c.put(&[parse("put", INSERT), parse("get", "select id from t order by id"), sync()].concat());
    hear(&mut c, "11Z", "I");
    c.say("begin", "BEGIN T");
    c.put(&run("put", &["1", "a"]));
    hear(&mut c, "2DCZ", "1 INSERT 0 1 T");
    s.lose();
    c.put(&run("put", &["2", "b"]));
    hear(&mut c, "2DCZ", "2 INSERT 0 1 T");
    c.put(&[about(b'D', b'S', "get"), run("get", &[])].concat());
    hear(&mut c, "tT2DDCZ", "1 2 SELECT 2 T");
    c.say("commit", "COMMIT I");
    c.put(&run("put", &["3", "c"]));
    hear(&mut c, "2DCZ", "3 INSERT 0 1 I");
    s.holds("select id from t order by id", "1 2 3");
}

fn statements_named_inside(s: &Scene) {
    let mut c = begun(s);
    c.put(&[parse("put", INSERT), about(b'D', b'S', "put"), sync()].concat());
    hear(&mut c, "1tTZ", "T");
    c.put(&run("put", &["1", "a"]));
    hear(&mut c, "2DCZ", "1 INSERT 0 1 T");
    s.lose();
    c.put(&run("put", &["2", "b"]));
    hear(&mut c, "2DCZ", "2 INSERT 0 1 T");
    c.say("rollback", "ROLLBACK I");
    // A statement outlives the transaction it was prepared in, whatever its end; and the next loss.
    c.put(&run("put", &["3", "c"]));
    hear(&mut c, "2DCZ", "3 INSERT 0 1 I");
    s.lose_again();
    c.put(&run("put", &["4", "d"]));
    hear(&mut c, "2DCZ", "4 INSERT 0 1 I");
    s.holds("select id from t order by id", "3 4");
}

fn statements_closed_inside(s: &Scene) {
    let mut c = s.client();
    c.put(&[parse("old", "select 1"), parse("kept", "select 2"), sync()].concat());
    hear(&mut c, "11Z", "I");
    c.say("begin", "BEGIN T");
    c.put(&[run("old", &[]), about(b'C', b'S', "old"), parse("old", "select 3"), sync()].concat());
    hear(&mut c, "2DCZ", "1 SELECT 1 T");
    hear(&mut c, "31Z", "T");
    c.put(&[run("kept", &[]), about(b'C', b'S', "kept"), sync()].concat());
    hear(&mut c, "2DCZ", "2 SELECT 1 T");
    hear(&mut c, "3Z", "T");
    s.lose();
    c.put(&run("old", &[]));
    hear(&mut c, "2DCZ", "3 SELECT 1 T");
    c.put(&run("kept", &[]));
    hear(&mut c, "EZ", "!26000 E");
    c.say("rollback", "ROLLBACK I");
    c.put(&run("old", &[]));
    hear(&mut c, "2DCZ", "3 SELECT 1 I");
}

fn the_unnamed_statement_of_before(s: &Scene) {
    let mut c = s.client();
    c.put(&[parse("b", "begin"), parse("", "select count(*) from t where id > $1::int"), sync()].concat());
    hear(&mut c, "11Z", "I");
    c.put(&[bind("", "b", &[]), execute("", 0), sync()].concat());
    hear(&mut c, "2CZ", "BEGIN T");
    c.put(&run("", &["0"]));
    hear(&mut c, "2DCZ", "0 SELECT 1 T");
    s.lose();
    c.put(&run("", &["-1"]));
    hear(&mut c, "2DCZ", "0 SELECT 1 T");
    c.say("commit", "COMMIT I");
}

fn the_unnamed_statement_of_inside(s: &Scene) {
    let mut c = begun(s);
    c.put(&[parse("", INSERT), sync()].concat());
    hear(&mut c, "1Z", "T");
    s.lose();
    c.put(&run("", &["1", "a"]));
    hear(&mut c, "2DCZ", "1 INSERT 0 1 T");
    s.lose_again();
    c.put(&run("", &["2", "b"]));
    hear(&mut c, "2DCZ", "2 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

fn a_suspended_portal(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(
        &[
            parse("many", "select id from wide where id > $1::int order by id"),
            bind("p", "many", &["100"]),
            execute("p", 3),
            sync(),
        ]
        .concat(),
    );
    hear(&mut c, "12DDDsZ", "101 102 103 T");
    c.put(&[execute("p", 2), sync()].concat());
    hear(&mut c, "DDsZ", "104 105 T");
    s.lose();
    c.put(&[execute("p", 2), sync()].concat());
    hear(&mut c, "DDsZ", "106 107 T");
    c.put(&[about(b'D', b'P', "p"), execute("p", 1), about(b'C', b'P', "p"), sync()].concat());
    hear(&mut c, "TDs3Z", "108 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn portals_side_by_side(s: &Scene) {
    let mut c = begun(s);
    let ask = "select id from wide where id between $1::int and $1::int + 4 order by id";
    c.put(&[parse("five", ask), bind("a", "five", &["10"]), bind("b", "five", &["20"]), execute("a", 1)].concat());
    c.put(&[execute("b", 4), sync()].concat());
    hear(&mut c, "122DsDDDDsZ", "10 20 21 22 23 T");
    s.lose();
    c.put(&[execute("a", 3), execute("b", 4), execute("a", 9), sync()].concat());
    hear(&mut c, "DDDsDCDCZ", "11 12 13 24 14 SELECT 1 SELECT 1 T");
    c.say("commit", "COMMIT I");
}

fn units_in_one_packet(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.put(
        &[
            unit("begin", &[]),
            unit(INSERT, &["1", "a"]),
            unit(INSERT, &["2", "b"]),
            unit("select id from gate", &[]),
            unit("select count(*) from t", &[]),
            unit(INSERT, &["3", "c"]),
        ]
        .concat(),
    );
    s.until_blocked(1);
    hear(&mut c, "12CZ", "BEGIN T");
    hear(&mut c, "12DCZ", "1 INSERT 0 1 T");
    s.lose();
    gate.open();
    hear(&mut c, "12DCZ", "2 INSERT 0 1 T");
    hear(&mut c, "12DCZ", "1 SELECT 1 T");
    hear(&mut c, "12DCZ", "2 SELECT 1 T");
    hear(&mut c, "12DCZ", "3 INSERT 0 1 T");
    c.put(&unit("commit", &[]));
    hear(&mut c, "12CZ", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

fn executes_in_one_unit(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    let insert = |id: &str, body: &str| [bind("", "put", &[id, body]), execute("", 0)].concat();
    c.put(
        &[
            parse("put", INSERT),
            insert("1", "a"),
            insert("2", "b"),
            parse("", "select id from gate"),
            bind("", "", &[]),
            execute("", 0),
            insert("3", "c"),
            sync(),
        ]
        .concat(),
    );
    s.until_blocked(1);
    s.lose();
    gate.open();
    hear(&mut c, "12DC2DC12DC2DCZ", "1 2 1 3 INSERT 0 1 INSERT 0 1 SELECT 1 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

fn a_pipeline_that_fails_half_way(s: &Scene) {
    let gate = s.gate();
    let mut c = begun(s);
    c.put(&[unit(INSERT, &["1", "a"]), unit("savepoint s", &[])].concat());
    let failing = parse("", "select 1/(id - id) from wide where id = $1::int");
    c.put(&[failing, bind("", "", &["5"]), execute("", 0), execute("", 0), sync()].concat());
    c.put(&[unit("select 1", &[]), unit("rollback to s", &[]), unit("select id from gate", &[])].concat());
    s.until_blocked(1);
    hear(&mut c, "12DCZ", "1 INSERT 0 1 T");
    hear(&mut c, "12CZ", "SAVEPOINT T");
    s.lose();
    gate.open();
    hear(&mut c, "12EZ", "!22012 E");
    hear(&mut c, "EZ", "!25P02 E");
    hear(&mut c, "12CZ", "ROLLBACK T");
    hear(&mut c, "12DCZ", "1 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1");
}

fn a_unit_without_its_sync(s: &Scene) {
    let mut c = begun(s);
    c.put(&[parse("", INSERT), bind("", "", &["1", "a"]), execute("", 0), frame(b'H', b"")].concat());
    let reply = c.reply_to(b'C');
    assert_eq!((reply.tags.as_str(), said(&reply).as_str()), ("12DC", "1 INSERT 0 1  "), "{reply:?}");
    s.lose();
    c.put(&[bind("", "", &["2", "b"]), execute("", 0), sync()].concat());
    hear(&mut c, "2DCZ", "2 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

/// The server answers nothing before a Sync or Flush; but what it kept back it delivers with its last word.
fn a_unit_whose_answers_are_kept_back(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (0, 'first')", "INSERT 0 1 T");
    c.put(&[parse("", INSERT), bind("", "", &["1", "a"])].concat());
    // Bound: its text is what the session runs.
    s.until_seen("query ~ 'values .[$]1'", 1);
    s.lose();
    c.put(&[execute("", 0), sync()].concat());
    hear(&mut c, "12DCZ", "1 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "0 1");
}

fn described_and_never_run(s: &Scene) {
    let mut c = begun(s);
    c.put(
        &[parse("", INSERT), about(b'D', b'S', ""), bind("p", "", &["1", "a"]), about(b'D', b'P', "p"), sync()]
            .concat(),
    );
    hear(&mut c, "1tT2TZ", "T");
    s.lose();
    c.put(&[execute("p", 0), sync()].concat());
    hear(&mut c, "DCZ", "1 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn begin_and_the_first_statement_in_one_packet(s: &Scene) {
    let mut c = s.client();
    let begin = [parse("", "begin"), bind("", "", &[]), execute("", 0)].concat();
    c.put(&[&begin[..], &unit(INSERT, &["1", "a"])].concat());
    hear(&mut c, "12C12DCZ", "1 BEGIN INSERT 0 1 T");
    s.lose();
    c.put(&unit(INSERT, &["2", "b"]));
    hear(&mut c, "12DCZ", "2 INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

/// BEGIN as a simple query; parameters with the unnamed statement, Describe of the portal; named from the fifth time on.
fn as_psycopg_does(s: &Scene) {
    let mut c = s.client();
    c.say("BEGIN", "BEGIN T");
    let described = |statement: &str, values: &[&str]| {
        [bind("", statement, values), about(b'D', b'P', ""), execute("", 0), sync()].concat()
    };
    for id in ["1", "2"] {
        c.put(&[parse("", INSERT), described("", &[id, "a"])].concat());
        hear(&mut c, "12TDCZ", &format!("{id} INSERT 0 1 T"));
    }
    c.put(&[parse("_pg3_0", INSERT), described("_pg3_0", &["3", "a"])].concat());
    hear(&mut c, "12TDCZ", "3 INSERT 0 1 T");
    s.lose();
    c.put(&described("_pg3_0", &["4", "b"]));
    hear(&mut c, "2TDCZ", "4 INSERT 0 1 T");
    c.say("COMMIT", "COMMIT I");
    s.holds("select count(*), max(id) from t", "4,4");
}

/// BEGIN as a named statement, once parsed; a fetch size; DISCARD of portals by Close.
fn as_jdbc_does(s: &Scene) {
    let mut c = s.client();
    let ask = "select id from wide order by id";
    c.put(
        &[
            parse("S_1", "BEGIN"),
            bind("", "S_1", &[]),
            execute("", 0),
            parse("S_2", ask),
            bind("C_3", "S_2", &[]),
            about(b'D', b'P', "C_3"),
            execute("C_3", 4),
            sync(),
        ]
        .concat(),
    );
    hear(&mut c, "12C12TDDDDsZ", "1 2 3 4 BEGIN T");
    c.put(&[execute("C_3", 4), sync()].concat());
    hear(&mut c, "DDDDsZ", "5 6 7 8 T");
    s.lose();
    c.put(&[execute("C_3", 4), sync()].concat());
    hear(&mut c, "DDDDsZ", "9 10 11 12 T");
    c.put(&[about(b'C', b'P', "C_3"), parse("S_4", "COMMIT"), bind("", "S_4", &[]), execute("", 0), sync()].concat());
    hear(&mut c, "312CZ", "COMMIT I");
    // The next transaction, with what was parsed in the first.
    let again = [bind("", "S_1", &[]), execute("", 0), bind("C_5", "S_2", &[]), execute("C_5", 2), sync()].concat();
    c.put(&again);
    hear(&mut c, "2C2DDsZ", "1 2 BEGIN T");
    s.lose_again();
    c.put(&[execute("C_5", 2), sync()].concat());
    hear(&mut c, "DDsZ", "3 4 T");
    c.put(&run("S_4", &[]));
    hear(&mut c, "2CZ", "COMMIT I");
}

/// Statements are prepared in a unit of their own; closes come along with the next; several are polled at once.
fn as_tokio_postgres_does(s: &Scene) {
    let mut c = s.client();
    c.say("BEGIN", "BEGIN T");
    c.put(&[parse("s0", INSERT), about(b'D', b'S', "s0"), sync()].concat());
    hear(&mut c, "1tTZ", "T");
    c.put(
        &[run("s0", &["1", "a"]), run("s0", &["2", "b"]), about(b'C', b'S', "s0"), sync(), query("SAVEPOINT sp")]
            .concat(),
    );
    hear(&mut c, "2DCZ", "1 INSERT 0 1 T");
    hear(&mut c, "2DCZ", "2 INSERT 0 1 T");
    hear(&mut c, "3Z", "T");
    hear(&mut c, "CZ", "SAVEPOINT T");
    s.lose();
    c.put(&[parse("s1", INSERT), about(b'D', b'S', "s1"), sync()].concat());
    hear(&mut c, "1tTZ", "T");
    c.put(&[run("s1", &["3", "c"]), query("RELEASE sp"), query("COMMIT")].concat());
    hear(&mut c, "2DCZ", "3 INSERT 0 1 T");
    hear(&mut c, "CZ", "RELEASE T");
    hear(&mut c, "CZ", "COMMIT I");
    s.holds("select id from t order by id", "1 2 3");
}

/// FunctionCall of `int4pl`, in text.
fn add(left: &str, right: &str) -> Vec<u8> {
    let mut body = 177_u32.to_be_bytes().to_vec();
    body.extend([0, 0, 0, 2]);
    for value in [left, right] {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    frame(b'F', &body)
}

fn function_calls(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&add("2", "3"));
    hear(&mut c, "VZ", "T");
    s.lose();
    c.put(&add("4", "5"));
    hear(&mut c, "VZ", "T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

/// The client's key is for the backend it has now.
fn cancelled_where_it_is_now(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("savepoint s", "SAVEPOINT T");
    let gate = s.gate();
    c.put(&query("select id from gate"));
    s.until_blocked(1);
    cancel(s.stage.moor.rw(), c.key.0, &c.key.1);
    c.hear("!57014 E");
    gate.open();
    c.say("rollback to s", "ROLLBACK T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}
