//! What is harmless and what is outside the transaction, by tables both ways.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "tables")]

use super::super::harmless::{NEWER, STEADY, VOLATILE};
use super::super::keyword::NO_FUNCTION;
use super::super::statements;
use super::*;

fn harmless(text: &str) -> bool {
    statements(text.as_bytes()).all(|statement| statement.effects().harmless)
}

fn outside(text: &str) -> Option<(&'static str, String)> {
    let found = statements(text.as_bytes()).find_map(|statement| statement.effects().outside)?;
    Some((found.as_str(), found.describe()))
}

#[test]
fn texts_that_change_nothing() {
    let cases = [
        "",
        "-- nothing",
        "SELECT 1",
        "select a, \"insert\", 'delete' from t -- into",
        "SELECT count(*), MAX(a), pg_catalog.lower(b) FROM t GROUP BY b",
        "SELECT \"lower\"('A'), Lower ('B'), pg_catalog . upper /* x */ ('c')",
        "((SELECT 1) UNION ALL (SELECT 2))",
        "VALUES (1, 'a'), (2, 'b')",
        "TABLE t",
        "SHOW ALL",
        "SHOW work_mem",
        "SELECT a FROM t WHERE b IN (1, 2) AND NOT (c) OR EXISTS (SELECT 1) AND d = ANY ($1) AND e <> ALL (ARRAY[1])",
        "SELECT 1 FROM t FOR UPDATE",
        "SELECT 1 FROM t FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT 1 FROM t FOR SHARE; SELECT 1 FROM t FOR KEY SHARE NOWAIT",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "WITH a (x, y) AS (SELECT 1, 2), b(z) AS MATERIALIZED (SELECT 3), c(v) AS NOT MATERIALIZED (TABLE t) SELECT 1",
        "WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT sum(n) FROM r",
        "SELECT (WITH a(x) AS (SELECT 1) SELECT x FROM a)",
        "SELECT x::varchar(10), y::pg_catalog.numeric(10, 2), CAST(z AS my.type(3)), v::character varying(3)",
        "SELECT timestamp(3) '2020-01-01', a::timestamp(3) with time zone, interval '1 day', current_timestamp(3)",
        "SELECT * FROM (VALUES (1)) t(a) JOIN (SELECT 1) AS u (b) ON (t.a = u.b)",
        "SELECT * FROM a LEFT JOIN (b CROSS JOIN (c)) USING (id)",
        "SELECT * FROM a x JOIN (b) USING (id)",
        "SELECT * FROM unnest($1) WITH ORDINALITY o(a, n)",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[1])) AS t(a, b)",
        "SELECT count(*) FILTER (WHERE a), rank() OVER (PARTITION BY (a) ORDER BY (b)), sum(a) OVER w FROM t WINDOW w AS ()",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT a, b FROM t GROUP BY GROUPING SETS ((a), ROLLUP (a, b), CUBE (a))",
        "SELECT a FROM t GROUP BY ROLLUP (a), CUBE (b)",
        "SELECT a LIKE ('x'), b ILIKE ('y'), c NOT ILIKE ('z'), d SIMILAR TO ('v'), e AT TIME ZONE ('UTC')",
        "SELECT extract(year FROM a), substring(b FROM 1 FOR 2), trim(both from c), position('a' in d), overlay(a placing b from 1)",
        "SELECT coalesce(a, b), nullif(a, b), greatest(1, 2), least(1, 2), a BETWEEN (1) AND (2), row(1, 2), case when (a) then (b) end",
        "SELECT a OPERATOR(pg_catalog.+) (b) FROM t",
        "SELECT now(), random(), clock_timestamp(), gen_random_uuid(), current_setting('a.b', true), pg_sleep(1)",
        "SELECT set_config('app.tenant', $1, true)",
        "SELECT pg_advisory_xact_lock(hashtext('a'))",
        "SELECT pg_is_in_recovery(), pg_current_wal_lsn(), version(), format_type(a, b), pg_get_viewdef(c)",
        "SELECT (information_schema._pg_expandarray(i.indkey)).n FROM pg_index i",
        "SELECT to_jsonb(t), jsonb_build_object('a', 1), json_agg(t), row_to_json(t), jsonb_path_query(a, '$.x') FROM t",
        "SELECT DISTINCT ON (a) lower(b) FROM t",
        "SELECT * FROM t TABLESAMPLE system (10) REPEATABLE (1) LIMIT (1) OFFSET (2)",
        "SELECT * FROM t FETCH FIRST (1) ROWS ONLY",
        "SELECT U&'\\0061', $$ insert into $$, E'\\' delete '",
        "BEGIN; SAVEPOINT a; ROLLBACK TO a; RELEASE a; COMMIT; ROLLBACK AND CHAIN; END",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION READ ONLY; SET LOCAL a.b = 'c'; SET a.b = 'd'; RESET a.b; SET ROLE x; SET CONSTRAINTS ALL DEFERRED",
        "LISTEN a; UNLISTEN *; DISCARD ALL; DEALLOCATE ALL; RESET ALL; SET SESSION AUTHORIZATION x",
        "PREPARE p AS INSERT INTO t VALUES (1)",
        "EXECUTE p(1, lower('a'))",
        "LOCK TABLE t IN SHARE MODE",
        "DECLARE c CURSOR WITH HOLD FOR SELECT lower(a) FROM t; FETCH 10 FROM c; MOVE c; CLOSE c",
        "EXPLAIN DELETE FROM t",
        "EXPLAIN (VERBOSE, FORMAT json) INSERT INTO t SELECT f()",
        "EXPLAIN (SELECT f())",
        "EXPLAIN ANALYZE VERBOSE SELECT lower(a) FROM t",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT 1",
        "EXPLAIN (ANALYZE) EXECUTE p",
        "COPY t (a, b) TO STDOUT WITH (FORMAT csv, FORCE_QUOTE (a))",
        "COPY (SELECT lower(a) FROM t) TO STDOUT (FORMAT csv)",
    ];
    for text in cases {
        assert!(harmless(text), "{text}");
        assert_eq!(outside(text), None, "{text}");
    }
}

#[test]
fn texts_that_may_change_something() {
    let cases = [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON (a) WHEN MATCHED THEN DELETE",
        "TRUNCATE t",
        "CREATE TABLE t ()",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DROP TABLE t",
        "NOTIFY a",
        "CALL p()",
        "DO 'begin end'",
        "ANALYZE t",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "GRANT a TO b",
        "COPY t FROM STDIN",
        "COPY (INSERT INTO t VALUES (1) RETURNING a) TO STDOUT",
        "COPY (SELECT f()) TO STDOUT",
        "SELECT 1 INTO t",
        "SELECT 1 INTO TEMP t",
        "WITH a AS (INSERT INTO t VALUES (1) RETURNING a) SELECT 1",
        "WITH a AS (update t set a = 1 returning a) SELECT 1",
        "WITH a AS (SELECT 1) DELETE FROM t",
        "SELECT f()",
        "SELECT s.lower('a')",
        "SELECT db.pg_catalog.lower('a')",
        "SELECT \"Lower\"('a')",
        "SELECT \"in\"('a'), 1",
        "SELECT 1 WHERE f /* x */ (1)",
        "SELECT pg_catalog.nextval('s')",
        "SELECT nextval('s')",
        "SELECT setval('s', 1)",
        "SELECT currval('s'), lastval()",
        "SELECT pg_notify('a', 'b')",
        "SELECT query_to_xml('delete from t', true, true, '')",
        "SELECT ts_stat('select f()')",
        "SELECT lo_create(0)",
        "SELECT txid_current()",
        "SELECT treat(1 as lo_unlink)",
        "SELECT * FROM a, f(1) AS (a int)",
        "WITH a AS (SELECT 1) (SELECT 1) ORDER BY f(1)",
        "WITH a AS (SELECT 1) (SELECT 1) ORDER BY 1, f(1)",
        "WITH a AS (SELECT 1) SELECT 1, f(1)",
        "WITH RECURSIVE r(n) AS (SELECT 1) CYCLE n SET c USING p (SELECT 1) ORDER BY 1, g(2)",
        "SELECT DISTINCT ON (a) f(b) FROM t",
        "SELECT a OPERATOR(pg_catalog.+) f(b)",
        "SELECT a OPERATOR(mine.+) b",
        "SELECT filter(1), 2",
        "SELECT over(1), 2",
        "SELECT join(1)",
        "SELECT 1 WHERE NOT ilike(1)",
        "SELECT by(1)",
        "SELECT cube(1)",
        "SELECT system(1)",
        "SELECT first(a) FROM t",
        "SELECT materialized(1)",
        "SELECT 1 WHERE NOT materialized(1)",
        "SELECT (a).f(1)",
        "SELECT t.as, f(1) FROM t",
        "SELECT sub.varchar(1)",
        "SELECT information_schema.mine(1)",
        "SELECT U&\"!006ff\" UESCAPE '!' (1)",
        "SELECT U&\"\\006ff\"(1)",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT $a$ open $$",
        "SELECT \"open",
        "VALUES (f(1))",
        "EXECUTE p(f())",
        "DECLARE c CURSOR FOR SELECT f()",
        "EXPLAIN ANALYZE DELETE FROM t",
        "EXPLAIN (ANALYZE) SELECT f()",
        "EXPLAIN (\"analyze\") DELETE FROM t",
        "EXPLAIN (U&\"!0061nalyze\" UESCAPE '!') DELETE FROM t",
        "EXPLAIN (ANALYZE off) DELETE FROM t; EXPLAIN (ANALYZE) DELETE FROM t",
        "EXPLAIN ANALYZE VERBOSE INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "this is no SQL",
        "((DELETE FROM t))",
    ];
    for text in cases {
        assert!(!harmless(text), "{text}");
        assert_eq!(outside(text), None, "{text}");
    }
}

#[test]
fn what_no_rollback_takes_back() {
    let cases = [
        ("SELECT pg_advisory_lock(1)", "advisory_lock", "pg_advisory_lock() was called"),
        ("SELECT 1 WHERE pg_try_advisory_lock_shared(1)", "advisory_lock", "pg_try_advisory_lock_shared() was called"),
        ("SELECT pg_advisory_unlock_all()", "advisory_lock", "pg_advisory_unlock_all() was called"),
        ("INSERT INTO t SELECT * FROM dblink('x', 'y') AS t(a int)", "remote", "dblink() was called"),
        ("SELECT ext . DBLINK_exec('x')", "remote", "dblink_exec() was called"),
        ("SELECT \"http_post\"('x')", "remote", "http_post() was called"),
        ("SELECT pg_catalog.pg_terminate_backend(1)", "signal", "pg_terminate_backend() was called"),
        ("UPDATE t SET a = pg_cancel_backend(b)", "signal", "pg_cancel_backend() was called"),
        ("SELECT pg_switch_wal()", "server", "pg_switch_wal() was called"),
        ("SELECT pg_start_backup('x')", "server", "pg_start_backup() was called"),
        ("SELECT pg_drop_replication_slot('x')", "replication", "pg_drop_replication_slot() was called"),
        (
            "SELECT pg_logical_slot_get_changes('x', null, null)",
            "replication",
            "pg_logical_slot_get_changes() was called",
        ),
        ("SELECT lo_export(1, 'x')", "server_file", "lo_export() was called"),
        ("SELECT pg_file_write('a', 'b', true)", "server_file", "pg_file_write() was called"),
        ("COPY t TO '/file'", "server_file", "COPY to a file was run"),
        ("COPY (SELECT 1) TO PROGRAM 'x'", "server_file", "COPY with a PROGRAM was run"),
        ("COPY t FROM PROGRAM 'x'", "server_file", "COPY with a PROGRAM was run"),
        ("ALTER SYSTEM SET a = 1", "server", "ALTER SYSTEM was run"),
        ("CHECKPOINT", "server", "CHECKPOINT was run"),
        ("CREATE DATABASE a", "cluster", "CREATE or DROP DATABASE was run"),
        ("DROP TABLESPACE a", "cluster", "CREATE or DROP TABLESPACE was run"),
        ("DROP SUBSCRIPTION a", "replication", "CREATE, ALTER or DROP SUBSCRIPTION was run"),
        ("VACUUM (FULL) t", "maintenance", "VACUUM was run"),
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "maintenance", "a statement with CONCURRENTLY was run"),
        ("REINDEX (VERBOSE) INDEX CONCURRENTLY i", "maintenance", "a statement with CONCURRENTLY was run"),
        ("REINDEX (VERBOSE) DATABASE d", "maintenance", "REINDEX of a schema or database was run"),
        ("PREPARE TRANSACTION 'x'", "two_phase", "PREPARE TRANSACTION was run"),
        ("ROLLBACK PREPARED 'x'", "two_phase", "COMMIT or ROLLBACK PREPARED was run"),
        ("LOAD 'x'", "load", "LOAD was run"),
        ("DO $$ begin perform Pg_Switch_Wal (); end $$", "server", "pg_switch_wal() was called"),
        ("EXPLAIN ANALYZE SELECT pg_switch_wal()", "server", "pg_switch_wal() was called"),
        ("DECLARE c CURSOR FOR SELECT pg_switch_wal()", "server", "pg_switch_wal() was called"),
        ("EXECUTE p(pg_switch_wal())", "server", "pg_switch_wal() was called"),
        ("CALL p(pg_switch_wal())", "server", "pg_switch_wal() was called"),
    ];
    for (text, label, words) in cases {
        assert_eq!(outside(text), Some((label, words.to_owned())), "{text}");
        assert!(!harmless(text), "{text}");
        assert!(Outside::LABELS.contains(&label));
    }
    assert!(Outside::LABELS.is_sorted());
}

#[test]
fn a_rollback_takes_these_back() {
    let cases = [
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT 'pg_switch_wal()', pg_switch_wal FROM t -- pg_switch_wal()",
        "EXPLAIN SELECT pg_switch_wal()",
        "PREPARE p AS SELECT pg_switch_wal()",
        "COPY t FROM '/file'",
        "REINDEX TABLE t",
        "CREATE INDEX i ON t (a)",
        "ALTER TABLE t ADD a int",
        "SELECT nextval('s')",
        "DO $$ begin insert into t values (1); end $$",
        "CALL p(1)",
    ];
    for text in cases {
        assert_eq!(outside(text), None, "{text}");
    }
}

#[test]
fn what_changes_how_texts_are_read() {
    let rereads = |text: &str| statements(text.as_bytes()).any(|statement| statement.effects().rereads);
    let yes = [
        "SET standard_conforming_strings = off",
        "SET LOCAL Standard_Conforming_Strings TO DEFAULT",
        "SET NAMES 'SJIS'",
        "SET client_encoding TO gbk",
        "RESET client_encoding",
        "RESET ALL",
        "DISCARD ALL",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SELECT set_config('standard_' || 'conforming_strings', 'off', false)",
        "SELECT set_config($1, $2, true)",
        "SELECT set_config('a', 'b', true), set_config(c, d, true) FROM t",
        "INSERT INTO t SELECT pg_catalog.set_config('client_encoding', 'x', true)",
    ];
    for text in yes {
        assert!(rereads(text), "{text}");
    }
    let no = [
        "SET standard_conforming_strings = on",
        "SET NAMES 'UTF8'",
        "SET client_encoding = 'utf-8'",
        "SET search_path = a, b",
        "SELECT set_config('a.b', $1, true), set_config('c', 'd', false)",
        "DISCARD PLANS",
    ];
    for text in no {
        assert!(!rereads(text), "{text}");
    }
}

#[test]
fn what_a_statement_makes_and_runs() {
    let effects = |text: &'static str| statements(text.as_bytes()).next().unwrap().effects();
    let prepared = effects("PREPARE \"P\" (int, as_if) AS SELECT f($1)").prepares;
    assert_eq!(prepared, Some(("P".to_owned(), &b" SELECT f($1)"[..])));
    assert_eq!(effects("EXPLAIN ANALYZE EXECUTE Q(1)").runs, Some("q".to_owned()));
    assert_eq!(effects("EXECUTE q").runs, Some("q".to_owned()));
    assert_eq!(effects("EXPLAIN EXECUTE q").runs, None);
    assert_eq!(effects("DECLARE C CURSOR FOR SELECT 1").opens, Some("c".to_owned()));
}

#[test]
fn the_lists_are_sorted_and_tell_no_name_twice() {
    for list in [STEADY, VOLATILE, NEWER, NO_FUNCTION] {
        assert!(list.is_sorted_by(|a, b| a < b));
    }
    for name in VOLATILE.iter().chain(NEWER) {
        assert!(!STEADY.contains(name) && VOLATILE.contains(name) != NEWER.contains(name), "{name}");
    }
    for name in STEADY.iter().chain(VOLATILE).chain(NEWER) {
        assert_eq!(Outside::of_function(name), None, "{name}");
    }
}

#[test]
fn deep_and_long_texts_take_linear_time() {
    let patterns = [
        "(",
        "with a as (",
        "explain analyze ",
        "explain (",
        "prepare p as ",
        "declare c cursor for ",
        "f(",
        "a.",
        "::f(",
        "copy (",
        "pg_switch_wal ",
        ")f(",
        "set_config('a',",
        "execute p(",
        "do $$",
        "reindex (",
        ", ",
        "operator(",
    ];
    for pattern in patterns {
        for start in ["", "select ", "do "] {
            let text = [start, &pattern.repeat(200_000 / pattern.len())].concat();
            for statement in statements(text.as_bytes()) {
                let effects = statement.effects();
                assert!(effects.outside.is_none() || !effects.harmless);
            }
            assert!(suspects(text.as_bytes()).is_none());
        }
    }
}
