//! Prepared statements of sessions that share backends: a name means what it means to its session.

use super::pair::{Moor, Plan, psql, shared};
use super::raw::{Raw, Reply, about, bind, execute, parse, sync};
use super::state::few;

fn ask(raw: &mut Raw, messages: &[Vec<u8>]) -> Reply {
    raw.put(&messages.concat());
    raw.reply()
}

/// Statements that backends have for everybody.
fn kept(raw: &mut Raw) -> String {
    raw.run(
        "select count(*) from pg_prepared_statements where name like 'pgmoor!_%' escape '!' and name <> 'pgmoor_guard'",
    )
    .one()
    .to_owned()
}

#[test]
fn one_name_is_many_statements() {
    let pair = shared();
    let moor = few(&pair, 2);
    let mut sessions: Vec<Raw> = (0..6).map(|_| Raw::login(moor.rw())).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        let reply = ask(session, &[parse("s", &format!("select {number} + $1::int")), sync()]);
        assert_eq!((reply.tags.as_str(), reply.code()), ("1Z", ""));
    }
    for _ in 0..3 {
        for (number, session) in sessions.iter_mut().enumerate() {
            let reply = ask(session, &[about(b'D', b'S', "s"), bind("", "s", &["10"]), execute("", 0), sync()]);
            assert_eq!((reply.one(), reply.tags.as_str()), ((number + 10).to_string().as_str(), "tT2DCZ"), "{reply:?}");
        }
    }
    let reply = ask(&mut sessions[0], &[about(b'C', b'S', "s"), sync()]);
    assert_eq!(reply.tags, "3Z");
    let reply = ask(&mut sessions[0], &[bind("", "s", &["1"]), execute("", 0), sync()]);
    assert_eq!(reply.code(), "26000");
    assert!(reply.errors[0].1.contains("\"s\""), "by the client's own name: {reply:?}");
    assert_eq!(ask(&mut sessions[1], &[bind("", "s", &["1"]), execute("", 0), sync()]).one(), "2");
}

#[test]
fn one_text_is_prepared_once_whoever_asks() {
    let pair = shared();
    let moor = few(&pair, 1);
    let mut sessions: Vec<Raw> = (0..5).map(|_| Raw::login(moor.rw())).collect();
    for (number, session) in sessions.iter_mut().enumerate() {
        let name = format!("name-{number}");
        let reply = ask(session, &[parse(&name, "select 'once'"), bind("", &name, &[]), execute("", 0), sync()]);
        assert_eq!((reply.one(), reply.tags.as_str()), ("once", "12DCZ"));
    }
    assert_eq!(kept(&mut sessions[0]), "1");
    // Without a name: from the second time on.
    for session in &mut sessions {
        let reply = ask(session, &[parse("", "select 'nameless'"), bind("", "", &[]), execute("", 0), sync()]);
        assert_eq!((reply.one(), reply.tags.as_str()), ("nameless", "12DCZ"));
    }
    assert_eq!(kept(&mut sessions[0]), "2");
}

#[test]
fn the_unnamed_statement_lives_from_one_unit_to_the_next() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    for round in 0..4 {
        let texts = [format!("select 'one', {round}"), format!("select 'two', {round}")];
        for (session, text) in [(&mut one, &texts[0]), (&mut two, &texts[1])] {
            assert_eq!(ask(session, &[parse("", text), about(b'D', b'S', ""), sync()]).tags, "1tTZ");
        }
        for (session, who) in [(&mut one, "one"), (&mut two, "two")] {
            assert_eq!(ask(session, &[bind("", "", &[]), execute("", 0), sync()]).rows[0][0].as_deref(), Some(who));
        }
    }
    one.run("select 1");
    assert_eq!(ask(&mut one, &[bind("", "", &[]), execute("", 0), sync()]).code(), "26000", "a simple query ends it");
    assert_eq!(ask(&mut two, &[bind("", "", &[]), execute("", 0), sync()]).rows[0][0].as_deref(), Some("two"));
}

#[test]
fn sql_finds_what_a_parse_has_made() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    ask(&mut one, &[parse("mine", "select 'mine'"), sync()]);
    assert_eq!(two.run("execute mine").code(), "26000");
    assert_eq!(one.run("execute mine").one(), "mine");
    assert_eq!(two.run("execute mine").code(), "26000");
    assert_eq!(ask(&mut one, &[bind("", "mine", &[]), execute("", 0), sync()]).one(), "mine");
    assert_eq!(one.run("deallocate mine").done, ["DEALLOCATE"]);
    assert_eq!(ask(&mut one, &[bind("", "mine", &[]), execute("", 0), sync()]).code(), "26000");
    // The other way round, and as a driver does it.
    two.run("prepare yours as select 'yours'");
    assert_eq!(one.run("execute yours").code(), "26000");
    assert_eq!(ask(&mut two, &[bind("", "yours", &[]), execute("", 0), sync()]).one(), "yours");
    ask(&mut two, &[parse("again", "select 'again'"), sync()]);
    let deallocate = [parse("", "deallocate again"), bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(ask(&mut two, &deallocate).done, ["DEALLOCATE"]);
    for all in ["deallocate all", "discard all"] {
        ask(&mut one, &[parse("p", "select 'p'"), sync()]);
        assert_eq!(one.run(all).code(), "");
        assert_eq!(ask(&mut one, &[bind("", "p", &[]), execute("", 0), sync()]).code(), "26000", "{all}");
        assert_eq!(ask(&mut two, &[bind("", "yours", &[]), execute("", 0), sync()]).one(), "yours", "{all}");
    }
}

#[test]
fn a_name_that_is_taken_is_taken() {
    let pair = shared();
    let moor = few(&pair, 2);
    let mut one = Raw::login(moor.rw());
    assert_eq!(ask(&mut one, &[parse("s", "select 1"), sync()]).code(), "");
    let reply = ask(&mut one, &[parse("s", "select 2"), sync()]);
    assert_eq!(reply.code(), "42P05");
    assert!(reply.errors[0].1.contains("\"s\""), "{reply:?}");
    assert_eq!(ask(&mut one, &[bind("", "s", &[]), execute("", 0), sync()]).one(), "1");
    // What fails is not there, for nobody.
    let reply = ask(&mut one, &[parse("f", "select nonsense"), bind("", "f", &[]), execute("", 0), sync()]);
    assert_eq!((reply.code(), reply.tags.as_str()), ("42703", "EZ"));
    assert_eq!(ask(&mut one, &[bind("", "f", &[]), execute("", 0), sync()]).code(), "26000");
    let mut two = Raw::login(moor.rw());
    assert_eq!(ask(&mut two, &[parse("f", "select nonsense"), sync()]).code(), "42703");
}

#[test]
fn units_that_are_sent_ahead_find_what_they_mean() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    let ahead = [
        parse("a", "select 'first'"),
        sync(),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
        about(b'C', b'S', "a"),
        parse("a", "select 'second'"),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
        parse("b", "select nonsense"),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
        bind("", "b", &[]),
        sync(),
        bind("", "a", &[]),
        execute("", 0),
        sync(),
    ];
    for _ in 0..3 {
        one.put(&ahead.concat());
        let replies: Vec<Reply> = (0..6).map(|_| one.reply()).collect();
        let tags: Vec<&str> = replies.iter().map(|reply| reply.tags.as_str()).collect();
        assert_eq!(tags, ["1Z", "2DCZ", "312DCZ", "EZ", "EZ", "2DCZ"], "{replies:?}");
        assert_eq!((replies[1].one(), replies[2].one(), replies[5].one()), ("first", "second", "second"));
        assert_eq!(ask(&mut two, &[bind("", "a", &[]), execute("", 0), sync()]).code(), "26000");
        assert_eq!(ask(&mut one, &[about(b'C', b'S', "a"), sync()]).tags, "3Z");
    }
}

#[test]
fn the_statements_of_one_backend_are_bounded_and_those_of_a_session_are_not() {
    let pair = shared();
    let moor = Moor::start(&Plan { pool: "size = 1\nstatements = 5".to_owned(), ..pair.plan() });
    let mut one = Raw::login(moor.rw());
    for number in 0..20 {
        assert_eq!(ask(&mut one, &[parse(&format!("s{number}"), &format!("select {number}")), sync()]).tags, "1Z");
    }
    for number in (0..20).rev() {
        let name = format!("s{number}");
        assert_eq!(ask(&mut one, &[bind("", &name, &[]), execute("", 0), sync()]).one(), number.to_string());
    }
    assert_eq!(kept(&mut one), "5");
    // Many in one unit: none of them can make room for another.
    let mut unit: Vec<Vec<u8>> = Vec::new();
    for number in 0..20 {
        let name = format!("s{number}");
        unit.extend([bind("", &name, &[]), execute("", 0)]);
    }
    unit.push(sync());
    let reply = ask(&mut one, &unit);
    assert_eq!((reply.code(), reply.rows.len()), ("", 20), "{reply:?}");
}

#[test]
fn a_table_that_changes_is_parsed_anew_where_postgresql_would() {
    let pair = shared();
    psql(pair.a, "drop table if exists changing; create table changing (id int); insert into changing values (7)");
    let moor = few(&pair, 3);
    let mut sessions: Vec<Raw> = (0..3).map(|_| Raw::login(moor.rw())).collect();
    let text = "select * from changing";
    for session in &mut sessions {
        session.run("begin");
        let reply = ask(session, &[parse("s", text), bind("", "s", &[]), execute("", 0), sync()]);
        assert_eq!(reply.one(), "7");
    }
    for session in &mut sessions {
        session.run("commit");
    }
    psql(pair.a, "alter table changing add body text default 'new'");
    // Who has parsed it before is told, as by PostgreSQL.
    let reply = ask(&mut sessions[0], &[bind("", "s", &[]), execute("", 0), sync()]);
    assert_eq!(reply.code(), "0A000", "{reply:?}");
    // Who parses it now has what is there now, though backends know the text already.
    for round in 0..4 {
        let mut fresh = Raw::login(moor.rw());
        let reply =
            ask(&mut fresh, &[parse("s", text), about(b'D', b'S', "s"), bind("", "s", &[]), execute("", 0), sync()]);
        assert_eq!((reply.code(), reply.rows.len()), ("", 1), "round {round}: {reply:?}");
        assert_eq!(reply.rows[0], [Some("7".to_owned()), Some("new".to_owned())]);
        let reply = ask(&mut fresh, &[parse("", text), bind("", "", &[]), execute("", 0), sync()]);
        assert_eq!(reply.rows[0], [Some("7".to_owned()), Some("new".to_owned())], "{reply:?}");
    }
    psql(pair.a, "alter table changing drop column body");
    for session in &mut sessions {
        session.run("begin");
        let reply = ask(session, &[parse("t", text), bind("", "t", &[]), execute("", 0), sync()]);
        assert_eq!((reply.code(), reply.rows.len()), ("", 1), "{reply:?}");
        assert_eq!(reply.rows[0], [Some("7".to_owned())]);
    }
    for session in &mut sessions {
        session.run("commit");
    }
}

#[test]
fn one_text_under_two_paths_is_two_statements() {
    let pair = shared();
    for schema in ["here", "there"] {
        psql(
            pair.a,
            &format!(
                "create schema if not exists {schema}; drop table if exists {schema}.which; create table {schema}.which as select '{schema}'::text as name"
            ),
        );
    }
    let moor = few(&pair, 1);
    let (mut here, mut there) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    here.run("set search_path = here");
    there.run("set search_path = there");
    for _ in 0..4 {
        for (session, schema) in [(&mut here, "here"), (&mut there, "there")] {
            let named = [parse("", "select name from which"), bind("", "", &[]), execute("", 0), sync()];
            assert_eq!(ask(session, &named).one(), schema);
        }
    }
}

#[test]
fn large_statements_and_large_values_are_no_exception() {
    let pair = shared();
    let moor = few(&pair, 1);
    let (mut one, mut two) = (Raw::login(moor.rw()), Raw::login(moor.rw()));
    let long = format!("select length('{}') + $1::int", "x".repeat(100_000));
    assert_eq!(ask(&mut one, &[parse("long", &long), sync()]).tags, "1Z");
    ask(&mut one, &[parse("echo", "select length($1::text)"), sync()]);
    let value = "y".repeat(300_000);
    for _ in 0..3 {
        assert_eq!(two.run("select 1").one(), "1");
        assert_eq!(ask(&mut one, &[bind("", "long", &["1"]), execute("", 0), sync()]).one(), "100001");
        assert_eq!(ask(&mut one, &[bind("", "echo", &[&value]), execute("", 0), sync()]).one(), "300000");
    }
}
