//! Statements, verbs, values and hints, by tables; and that nothing panics, whatever the text.

#![allow(clippy::too_many_lines, clippy::type_complexity, clippy::wildcard_enum_match_arm, reason = "tables")]

use super::*;
use proptest::prelude::*;

fn split(text: &str) -> Vec<String> {
    statements(text.as_bytes()).map(|s| String::from_utf8_lossy(s.text()).trim().to_owned()).collect()
}

fn verb(text: &str) -> Verb {
    let all: Vec<_> = statements(text.as_bytes()).collect();
    assert_eq!(all.len(), 1, "{text:?} is one statement");
    all[0].verb()
}

fn hints(text: &str) -> Hints {
    statements(text.as_bytes()).fold(Hints::default(), |found, s| found.union(s.hints()))
}

fn name(name: &str) -> String {
    name.to_owned()
}

fn values(list: &[&str]) -> Setting {
    Setting::Values(list.iter().map(|v| (*v).to_owned()).collect())
}

fn set(name: &str, value: Setting) -> Verb {
    Verb::Set { scope: Scope::Session, name: name.to_owned(), value }
}

#[test]
fn semicolons_cut_only_at_the_top() {
    let cases: [(&str, &[&str]); 22] = [
        ("", &[""]),
        ("  -- nothing", &["-- nothing"]),
        (";;", &[""]),
        ("a;b", &["a", "b"]),
        ("a;;b;", &["a", "b"]),
        ("a; -- the end", &["a"]),
        ("';';\";\"", &["';'", "\";\""]),
        ("'a'';';b", &["'a'';'", "b"]),
        (r"'\';b", &[r"'\'", "b"]),
        (r"E'\';b'", &[r"E'\';b'"]),
        ("E'a'\n'\\';b';c", &["E'a'\n'\\';b'", "c"]),
        ("E'a' '\\';b", &["E'a' '\\'", "b"]),
        ("E'a' -- it's\n'\\';b';c", &["E'a' -- it's\n'\\';b'", "c"]),
        ("$$;$$;$a$;$$;$b$;$a$;b", &["$$;$$", "$a$;$$;$b$;$a$", "b"]),
        ("a$b$;c$b$;d", &["a$b$", "c$b$", "d"]),
        ("$1;$2", &["$1", "$2"]),
        ("/* ; /* ; */ ; */ a;b", &["/* ; /* ; */ ; */ a", "b"]),
        ("a--;\n;b", &["a--;", "b"]),
        ("a+/*;*/b;c", &["a+/*;*/b", "c"]),
        ("'open;b", &["'open;b"]),
        ("CREATE RULE r AS ON INSERT TO t DO (a; b); c", &["CREATE RULE r AS ON INSERT TO t DO (a; b)", "c"]),
        ("a); b", &["a)", "b"]),
    ];
    for (text, expected) in cases {
        assert_eq!(split(text), expected, "{text:?}");
    }
}

#[test]
fn a_routine_s_body_is_part_of_it() {
    let routine = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql \
                   BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END";
    assert_eq!(split(&format!("{routine}; COMMIT")), [routine, "COMMIT"]);
    assert_eq!(split("create procedure p() begin atomic; end; b"), ["create procedure p() begin atomic; end", "b"]);
    assert_eq!(split("create function begin() as 'x'; b"), ["create function begin() as 'x'", "b"]);
    assert_eq!(split("BEGIN; END"), ["BEGIN", "END"], "a transaction is no body");
    assert_eq!(split("create table begin (atomic int); b"), ["create table begin (atomic int)", "b"]);
}

#[test]
fn transaction_control() {
    let cases = [
        ("begin", Verb::Begin),
        ("/* x */ BEGIN -- y", Verb::Begin),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", Verb::Begin),
        ("START TRANSACTION", Verb::Begin),
        ("START nothing", Verb::Write),
        ("COMMIT", Verb::Commit { chain: false }),
        ("COMMIT WORK AND CHAIN", Verb::Commit { chain: true }),
        ("END TRANSACTION AND NO CHAIN", Verb::Commit { chain: false }),
        ("COMMIT PREPARED 'x'", Verb::FinishPrepared),
        ("ROLLBACK", Verb::Rollback { chain: false }),
        ("ABORT AND CHAIN", Verb::Rollback { chain: true }),
        ("ROLLBACK PREPARED 'x'", Verb::FinishPrepared),
        ("ROLLBACK WORK TO SAVEPOINT A", Verb::RollbackTo { savepoint: name("a") }),
        ("ROLLBACK TO \"A\"", Verb::RollbackTo { savepoint: name("A") }),
        ("ROLLBACK TO savepoint", Verb::RollbackTo { savepoint: name("savepoint") }),
        ("SAVEPOINT a", Verb::Savepoint { name: name("a") }),
        ("SAVEPOINT", Verb::Write),
        ("RELEASE SAVEPOINT a", Verb::Release { name: name("a") }),
        ("RELEASE a", Verb::Release { name: name("a") }),
        ("PREPARE TRANSACTION 'x'", Verb::PrepareTransaction),
        ("SET TRANSACTION READ ONLY", Verb::SetTransaction),
        ("SET LOCAL TRANSACTION ISOLATION LEVEL SERIALIZABLE", Verb::SetTransaction),
        ("SET CONSTRAINTS ALL DEFERRED", Verb::SetTransaction),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Verb::SetCharacteristics),
        ("\"begin\"", Verb::Write),
        ("", Verb::Empty),
        ("/* open", Verb::Empty),
    ];
    for (text, expected) in cases {
        assert_eq!(verb(text), expected, "{text:?}");
    }
}

#[test]
fn settings() {
    let local = |name: &str, value| Verb::Set { scope: Scope::Local, name: name.to_owned(), value };
    let cases = [
        ("SET a = 1", set("a", values(&["1"]))),
        ("set Session A To 'It''s'", set("a", values(&["It's"]))),
        ("SET LOCAL a TO On", local("a", values(&["on"]))),
        ("SET a = DEFAULT", set("a", Setting::Default)),
        ("SET \"DateStyle\" = ISO, \"DMY\"", set("datestyle", values(&["iso", "DMY"]))),
        ("SET my.Var TO x", set("my.var", values(&["x"]))),
        ("SET a=-1.5e3", set("a", values(&["-1.5e3"]))),
        ("SET a = + 2", set("a", values(&["2"]))),
        (r"SET a = E'\x41\n\u00e9\101\''", set("a", values(&["A\né\u{41}'"]))),
        (r"SET a = U&'d\0061t\+000061\\'", set("a", values(&["data\\"]))),
        ("SET a = $x$it's$x$", set("a", values(&["it's"]))),
        ("SET a = 'b'\n  'c'", set("a", values(&["bc"]))),
        ("SET a = 'b' -- it's\n  'c'''", set("a", values(&["bc'"]))),
        ("SET a = f(x)", set("a", Setting::Raw(name("f(x)")))),
        ("SET a = X'1'", set("a", Setting::Raw(name("X'1'")))),
        ("SET search_path TO a, \"B c\", '$user'", set("search_path", values(&["a", "B c", "$user"]))),
        ("SET TIME ZONE 'UTC'", set("timezone", values(&["UTC"]))),
        ("SET LOCAL TIME ZONE -3", local("timezone", values(&["-3"]))),
        ("SET TIME ZONE LOCAL", set("timezone", Setting::Default)),
        ("SET TIME ZONE INTERVAL '1' HOUR", set("timezone", Setting::Raw(name("INTERVAL '1' HOUR")))),
        ("SET NAMES 'UTF8'", set("client_encoding", values(&["UTF8"]))),
        ("SET NAMES", set("client_encoding", Setting::Default)),
        ("SET NAMES DEFAULT", set("client_encoding", Setting::Default)),
        ("SET SCHEMA 'S'", set("search_path", values(&["S"]))),
        ("SET XML OPTION DOCUMENT", set("xmloption", values(&["document"]))),
        ("SET session = 1", Verb::Write),
        ("SET a FROM CURRENT", Verb::Write),
        ("SET a", Verb::Write),
        ("SET", Verb::Write),
        ("RESET a", Verb::Reset { name: name("a") }),
        ("RESET My.Var", Verb::Reset { name: name("my.var") }),
        ("RESET TIME ZONE", Verb::Reset { name: name("timezone") }),
        ("RESET TRANSACTION ISOLATION LEVEL", Verb::Reset { name: name("transaction_isolation") }),
        ("RESET ALL", Verb::ResetAll),
    ];
    for (text, expected) in cases {
        assert_eq!(verb(text), expected, "{text:?}");
    }
}

#[test]
fn values_flatten_as_set_config_takes_them() {
    let list = values(&["a", "B\"c"]);
    assert_eq!(list.flat("search_path").as_deref(), Some(r#""a", "B""c""#));
    assert_eq!(list.flat("datestyle").as_deref(), Some("a, B\"c"));
    assert_eq!(Setting::Default.flat("a"), None);
    assert_eq!(Setting::Raw(name("x")).flat("a"), None);
}

#[test]
fn roles() {
    let role = |scope, role: Option<&str>| Verb::SetRole { scope, role: role.map(name) };
    let user = |scope, user: Option<&str>| Verb::SetSessionAuthorization { scope, user: user.map(name) };
    let (session, local) = (Scope::Session, Scope::Local);
    let cases = [
        ("SET ROLE Bob", role(session, Some("bob"))),
        ("SET SESSION ROLE \"Bob\"", role(session, Some("Bob"))),
        ("SET LOCAL ROLE 'Bob'", role(local, Some("Bob"))),
        ("SET ROLE NONE", role(session, None)),
        ("SET ROLE \"NONE\"", role(session, Some("NONE"))),
        ("SET role TO bob", role(session, Some("bob"))),
        ("SET role = DEFAULT", role(session, None)),
        ("RESET ROLE", role(session, None)),
        ("SET SESSION AUTHORIZATION Bob", user(session, Some("bob"))),
        ("SET SESSION SESSION AUTHORIZATION 'Bob'", user(session, Some("Bob"))),
        ("SET LOCAL SESSION AUTHORIZATION bob", user(local, Some("bob"))),
        ("SET SESSION AUTHORIZATION DEFAULT", user(session, None)),
        ("SET session_authorization = bob", user(session, Some("bob"))),
        ("RESET SESSION AUTHORIZATION", user(session, None)),
        ("RESET session_authorization", user(session, None)),
        ("SET ROLE a b", Verb::Write),
    ];
    for (text, expected) in cases {
        assert_eq!(verb(text), expected, "{text:?}");
    }
}

#[test]
fn things_a_session_has() {
    let cursor = |cursor: &str, hold| Verb::DeclareCursor { name: name(cursor), hold };
    let cases = [
        ("DISCARD ALL", Verb::Discard(Discard::All)),
        ("DISCARD PLANS", Verb::Discard(Discard::Plans)),
        ("DISCARD SEQUENCES", Verb::Discard(Discard::Sequences)),
        ("DISCARD TEMPORARY", Verb::Discard(Discard::Temp)),
        ("DISCARD TEMP", Verb::Discard(Discard::Temp)),
        ("DISCARD", Verb::Write),
        ("LISTEN Ch", Verb::Listen { channel: name("ch") }),
        ("LISTEN \"Ch\"\"x\"", Verb::Listen { channel: name("Ch\"x") }),
        (r#"LISTEN U&"d\0061t""#, Verb::Listen { channel: name("dat") }),
        ("UNLISTEN ch", Verb::Unlisten { channel: Some(name("ch")) }),
        ("UNLISTEN *", Verb::Unlisten { channel: None }),
        ("PREPARE p (int) AS SELECT $1", Verb::Prepare { name: name("p") }),
        ("PREPARE transaction AS SELECT 1", Verb::Prepare { name: name("transaction") }),
        ("DEALLOCATE PREPARE p", Verb::Deallocate { name: Some(name("p")) }),
        ("DEALLOCATE prepare", Verb::Deallocate { name: Some(name("prepare")) }),
        ("DEALLOCATE ALL", Verb::Deallocate { name: None }),
        ("DEALLOCATE \"all\"", Verb::Deallocate { name: Some(name("all")) }),
        ("EXECUTE p(1)", Verb::Execute { name: name("p") }),
        ("DECLARE c CURSOR FOR SELECT 1", cursor("c", false)),
        ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1", cursor("c", true)),
        ("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", cursor("c", false)),
        ("DECLARE c", Verb::Write),
        ("FETCH ALL FROM c", Verb::Fetch),
        ("MOVE c", Verb::Fetch),
        ("CLOSE C", Verb::CloseCursor { name: Some(name("c")) }),
        ("CLOSE ALL", Verb::CloseCursor { name: None }),
        ("LOAD 'auto_explain'", Verb::Load),
        ("CREATE TEMP TABLE t ()", Verb::CreateTemp),
        ("create or replace local temporary view v as select 1", Verb::CreateTemp),
        ("CREATE GLOBAL TEMP SEQUENCE s", Verb::CreateTemp),
        ("CREATE TABLE pg_temp.t ()", Verb::CreateTemp),
        ("CREATE FUNCTION \"pg_temp\" . f() RETURNS int", Verb::CreateTemp),
        ("CREATE TABLE temp ()", Verb::Write),
        ("CREATE TABLE pg_temp ()", Verb::Write),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", Verb::CreateTemp),
        ("DROP TABLE t", Verb::Drop),
    ];
    for (text, expected) in cases {
        assert_eq!(verb(text), expected, "{text:?}");
    }
}

#[test]
fn reads_and_writes() {
    let cases = [
        ("SELECT 1", Verb::Read),
        ("select'x'", Verb::Read),
        ("((SELECT 1) UNION SELECT 2)", Verb::Read),
        ("VALUES (1)", Verb::Read),
        ("TABLE t", Verb::Read),
        ("SHOW ALL", Verb::Read),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Verb::Read),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM a", Verb::Write),
        ("WITH a AS (SELECT 'insert' AS \"insert\") SELECT 1", Verb::Read),
        ("EXPLAIN DELETE FROM t", Verb::Read),
        ("EXPLAIN ANALYZE DELETE FROM t", Verb::Write),
        ("EXPLAIN (ANALYZE, BUFFERS) DELETE FROM t", Verb::Write),
        ("EXPLAIN (ANALYZE off, COSTS on) DELETE FROM t", Verb::Read),
        ("EXPLAIN (\"analyze\") DELETE FROM t", Verb::Write),
        ("EXPLAIN (SELECT 1)", Verb::Read),
        ("INSERT INTO t VALUES (1)", Verb::Write),
        ("VACUUM", Verb::Write),
        ("selection", Verb::Write),
        ("12", Verb::Write),
        ("COPY t (a, b) FROM STDIN WITH (FORMAT csv)", Verb::CopyIn),
        ("COPY (SELECT a FROM stdin) TO STDOUT", Verb::CopyOut),
        ("COPY \"from\" TO stdout", Verb::CopyOut),
        ("COPY t FROM '/file'", Verb::Write),
        ("COPY t", Verb::Write),
        ("CALL p()", Verb::Call),
        ("DO $$ begin end $$", Verb::Do),
    ];
    for (text, expected) in cases {
        assert_eq!(verb(text), expected, "{text:?}");
    }
}

#[test]
fn identifiers_are_cut_at_63_bytes_as_the_server_does() {
    let channel = |text: &str| match verb(&format!("LISTEN {text}")) {
        Verb::Listen { channel } => channel,
        other => panic!("{other:?}"),
    };
    assert_eq!(channel(&"A".repeat(64)), "a".repeat(63));
    assert_eq!(channel(&"é".repeat(32)), "é".repeat(31), "never inside a character");
    assert_eq!(channel(&format!("\"{}\"", "A".repeat(63))), "A".repeat(63));
}

#[test]
fn escapes_that_are_no_escapes_stay() {
    let value = |text: &str| match verb(&format!("SET a = {text}")) {
        Verb::Set { value: Setting::Values(values), .. } => values.concat(),
        other => panic!("{other:?}"),
    };
    assert_eq!(value(r"E'\q\xg\u12\U0000'"), r"qxgu12U0000");
    assert_eq!(value(r"E'\377'"), "\u{fffd}");
    assert_eq!(value(r"U&'\12 \+12'"), r"\12 \+12");
    assert_eq!(value(r"U&'\D83D\DE00'"), "\u{1f600}");
    assert_eq!(value(r"U&'\D83D'"), "");
    assert_eq!(value(r"'\n'"), r"\n");
}

#[test]
fn the_settings_that_set_config_names_are_found() {
    let cases = [
        ("SELECT set_config('app.tenant', $1, false)", vec!["app.tenant"]),
        ("SELECT pg_catalog.set_config(E'App.X', 'v', false), set_config('b.c', 'd', true)", vec!["app.x", "b.c"]),
        ("SELECT set_config($1, $2, false), set_config(a || 'b', 'c', false)", vec![]),
        ("SELECT 'set_config(', ('not.this')", vec![]),
    ];
    for (text, names) in cases {
        let found: Vec<String> = statements(text.as_bytes()).flat_map(|statement| statement.configured()).collect();
        assert_eq!(found, names, "{text}");
    }
}

#[test]
fn a_row_tells_what_set_config_set() {
    let session = |name: &str| Column::Session(name.to_owned());
    let cases = [
        ("SELECT set_config('App.Tenant', $1::text, false)", Some(vec![session("app.tenant")])),
        ("select pg_catalog.set_config(E'a.b', ('x' || $2), FALSE) AS b /* c */", Some(vec![session("a.b")])),
        ("SELECT set_config('a.b', 'c', true)", Some(vec![Column::Local])),
        (
            "SELECT set_config('a', '1', false), set_config('b', '2', true), set_config('c', NULL, false)",
            Some(vec![session("a"), Column::Local, session("c")]),
        ),
        ("SELECT set_config('a', f('x'), false)", None),
        ("SELECT set_config('a', (SELECT b FROM t), false)", None),
        ("SELECT set_config('a', 'b', $1)", None),
        ("SELECT set_config($1, 'b', false)", None),
        ("SELECT set_config('a', 'b', false) FROM t", None),
        ("SELECT set_config('a', 'b', false) WHERE false", None),
        ("SELECT set_config('a', 'b', false), 1", None),
        ("SELECT 1, set_config('a', 'b', false)", None),
        ("SELECT other.set_config('a', 'b', false)", None),
        ("WITH x AS (SELECT 1) SELECT set_config('a', 'b', false)", None),
        ("SELECT set_config('a', 'b', false) /* open", None),
        ("SELECT set_config('a', 'b'", None),
    ];
    for (text, expected) in cases {
        let told = statements(text.as_bytes()).next().and_then(|statement| statement.assigns());
        assert_eq!(told, expected, "{text}");
    }
}

#[test]
fn hints_are_found_at_any_depth() {
    let none = Hints::default();
    let set_config = Hints { set_config: true, ..none };
    let lock = Hints { advisory_lock: true, ..none };
    let unlock = Hints { advisory_unlock: true, ..none };
    let temp = Hints { into_temp: true, ..none };
    let cases = [
        ("SELECT set_config('a', 'b', false)", set_config),
        ("SELECT (SELECT pg_catalog . SET_CONFIG /* x */ ('a', 'b', false))", set_config),
        ("INSERT INTO t SELECT \"set_config\"('a', 'b', false)", set_config),
        (r#"SELECT U&"set\005fconfig"('a', 'b', false)"#, set_config),
        ("SELECT 'set_config(', \"Set_Config\"(1), set_config", none),
        ("SELECT $$ set_config( $$ -- set_config(", none),
        ("SELECT pg_advisory_lock(1)", lock),
        ("SELECT 1 FROM t WHERE pg_try_advisory_lock_shared(1, 2)", lock),
        ("SELECT pg_advisory_lock_shared(1)", lock),
        ("SELECT pg_try_advisory_lock(1)", lock),
        ("SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1)", none),
        ("SELECT pg_advisory_unlock_all()", unlock),
        ("SELECT pg_advisory_unlock(1), pg_advisory_unlock_shared(1)", unlock),
        ("SELECT 1 INTO TEMP t", temp),
        ("SELECT 1INTO TEMPORARY TABLE t", temp),
        ("WITH a AS (SELECT 1) SELECT * INTO LOCAL TEMP t FROM a", temp),
        ("SELECT 1 INTO pg_temp.t", temp),
        ("INSERT INTO \"temp\" SELECT 1", none),
        ("SELECT 1 INTO t", none),
    ];
    for (text, expected) in cases {
        assert_eq!(hints(text), expected, "{text:?}");
        assert_eq!(expected.is_empty(), expected == none);
    }
    let all = hints("SELECT set_config(1); SELECT pg_advisory_lock(1), pg_advisory_unlock(1) INTO TEMP t");
    assert_eq!(all, Hints { set_config: true, advisory_lock: true, advisory_unlock: true, into_temp: true });
}

#[test]
fn a_glance_settles_the_common_statements() {
    let yes = [
        "SELECT 1",
        "  select a, b from t where x = $1 and y <> 'z' ; ",
        "INSERT INTO t (a_b) VALUES ($1) RETURNING id",
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 2;",
        "delete from t",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "SELECT a & b, offset_1, pg_sleep(1)",
    ];
    for text in yes {
        assert!(glance(text.as_bytes()), "{text:?}");
    }
    let no = [
        "",
        "SELECTED",
        "BEGIN",
        "SET a = 1",
        "SELECT 1; COMMIT",
        "SELECT 1;;",
        "-- c\nSELECT 1",
        "SELECT Set_Config('a', 'b', false)",
        "SELECT pg_try_ADVISORY_lock(1)",
        "SELECT 1 INTO TEMP t",
        "SELECT 1 INTO pg_temp.t",
        r#"SELECT U&"\0073et_config"('a', 'b', false)"#,
    ];
    for text in no {
        assert!(!glance(text.as_bytes()), "{text:?}");
    }
}

/// Texts that come close to what the lexer must tell apart.
fn sql() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "select ",
        "INSERT ",
        "with ",
        "update ",
        "begin",
        "end",
        "case",
        "atomic ",
        "create ",
        "function ",
        "or replace ",
        "set ",
        "session ",
        "local ",
        "time zone ",
        "role ",
        "into ",
        "temp ",
        "TEMPORARY ",
        "pg_temp",
        ".",
        "set_config",
        "pg_advisory_lock",
        "pg_try_advisory_",
        "lock",
        "(",
        ")",
        ";",
        ",",
        "=",
        "to ",
        "'",
        "\"",
        "\\",
        "E'",
        "U&\"",
        "U&'",
        "$",
        "$$",
        "$a$",
        "$1",
        "--",
        "/*",
        "*/",
        "\n",
        " ",
        "1",
        "1e5",
        ".5",
        "+",
        "-",
        "a",
        "é",
        "\0",
        "explain ",
        "analyze ",
        "copy ",
        "from ",
        "stdin",
        "prepare ",
        "all",
        "\\0073et_config",
        "and chain",
        "declare ",
        "cursor ",
    ];
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_glance_never_promises_too_much(start in prop::sample::select(&["", "select ", "INSERT ", "with "][..]), rest in sql()) {
        let text = [start.as_bytes(), &rest].concat();
        let all: Vec<_> = statements(&text).collect();
        for statement in &all {
            let (verb, hints) = (statement.verb(), statement.hints());
            if glance(&text) {
                prop_assert_eq!(all.len(), 1);
                prop_assert!(matches!(verb, Verb::Read | Verb::Write), "{:?}", verb);
                prop_assert!(hints.is_empty(), "{:?}", hints);
            }
        }
    }

    #[test]
    fn statements_are_pieces_of_the_text_in_order(text in sql()) {
        let mut pos = 0;
        let mut count = 0;
        for statement in statements(&text) {
            let start = statement.text().as_ptr() as usize - text.as_ptr() as usize;
            prop_assert!(start >= pos);
            prop_assert!(text[pos..start].iter().filter(|&&b| b == b';').count() >= usize::from(count > 0));
            pos = start + statement.text().len();
            count += 1;
        }
        prop_assert!(count >= 1 && pos <= text.len());
    }

    #[test]
    fn a_statement_by_itself_is_what_it_was_among_others(text in sql()) {
        for statement in statements(&text) {
            let alone: Vec<_> = statements(statement.text()).collect();
            prop_assert_eq!(alone.len(), 1);
            prop_assert_eq!(alone[0].verb(), statement.verb());
        }
    }
}

#[test]
fn long_texts_take_linear_time() {
    // Each of these is quadratic in a lexer that looks for the same end again and again: minutes instead of moments.
    let patterns = ["'a'\n", "$a$b", "$abcdefgh ", "/*", "'a' --\n", "((", "E'\\", "\"\"", "case ", "$$a$"];
    for pattern in patterns {
        let text = pattern.repeat(1_000_000 / pattern.len());
        let seen =
            statements(text.as_bytes()).map(|s| s.text().len() + usize::from(s.hints().is_empty())).sum::<usize>();
        assert!(seen > 0);
        let routine = format!("create function f() begin atomic {text}");
        assert!(matches!(statements(routine.as_bytes()).next().map(|s| s.verb()), Some(Verb::Write)));
    }
}
