//! Journals of frames: what runs, what is known of it, and that nothing panics, whatever the bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use bytes::BufMut as _;
use proptest::prelude::*;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.put_u32(u32::try_from(body.len() + 4).unwrap());
    frame.extend_from_slice(body);
    frame
}

fn query(text: &str) -> Vec<u8> {
    frame(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    frame(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str) -> Vec<u8> {
    frame(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn close(kind: char, name: &str) -> Vec<u8> {
    frame(b'C', format!("{kind}{name}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// Statements from before: `read`, `write`, `chain`, `switch`, and the unnamed one, which writes.
fn before(name: &[u8]) -> Option<Vec<u8>> {
    let text = match name {
        b"read" => "SELECT 1",
        b"write" | b"" => "INSERT INTO t VALUES (1)",
        b"chain" => "EXECUTE write",
        b"loop" => "EXECUTE loop",
        b"switch" => "SELECT pg_switch_wal()",
        b"slash" => "SELECT '\\'",
        _ => return None,
    };
    Some(text.as_bytes().to_vec())
}

fn of(frames: &[Vec<u8>]) -> (bool, Option<&'static str>) {
    let survey = survey(&frames.concat(), &before, true);
    (survey.reads_only, survey.outside.map(|outside| outside.as_str()))
}

const READS: (bool, Option<&str>) = (true, None);
const WRITES: (bool, Option<&str>) = (false, None);

#[test]
fn simple_queries() {
    assert_eq!(of(&[]), READS);
    assert_eq!(of(&[query("BEGIN"), query("SELECT 1; SELECT lower('a')"), query("COMMIT")]), READS);
    assert_eq!(of(&[query("SELECT 1; DELETE FROM t")]), WRITES);
    assert_eq!(of(&[query("SELECT pg_switch_wal()"), query("SELECT pg_advisory_lock(1)")]), (false, Some("server")));
    assert_eq!(of(&[query("COPY t TO STDOUT"), frame(b'd', b"drop table t"), frame(b'c', b"")]), READS);
    assert_eq!(of(&[query("COPY t FROM STDIN"), frame(b'd', b"1\n"), frame(b'c', b"")]), WRITES);
    assert_eq!(of(&[frame(b'F', b"\0\0\0\x01")]), WRITES);
    assert_eq!(of(&[frame(b'?', b"")]), WRITES);
}

#[test]
fn only_what_is_bound_runs() {
    assert_eq!(of(&[parse("a", "INSERT INTO t VALUES (1)"), frame(b'D', b"Sa\0"), sync()]), READS);
    assert_eq!(of(&[parse("a", "INSERT INTO t VALUES (1)"), bind("", "a"), execute(""), sync()]), WRITES);
    assert_eq!(of(&[parse("", "SELECT $1"), bind("", ""), execute(""), sync()]), READS);
    assert_eq!(of(&[parse("", "DELETE FROM t"), parse("", "SELECT 1"), bind("", ""), execute("")]), READS);
    assert_eq!(of(&[parse("a", "SELECT 1"), bind("p", "a"), execute("p"), execute("p"), bind("q", "a")]), READS);
    assert_eq!(of(&[parse("a", "SELECT 1"), bind("", "a"), parse("b", "SELECT f()"), bind("", "b")]), WRITES);
}

#[test]
fn statements_from_before_the_journal() {
    assert_eq!(of(&[bind("", "read"), execute("")]), READS);
    assert_eq!(of(&[bind("", "write"), execute("")]), WRITES);
    assert_eq!(of(&[bind("", "")]), WRITES, "the unnamed one");
    assert_eq!(of(&[parse("", "SELECT 1"), bind("", "")]), READS, "it gave way");
    assert_eq!(of(&[bind("", "switch")]), (false, Some("server")));
    assert_eq!(of(&[bind("", "unheard_of")]), WRITES);
    assert_eq!(of(&[parse("mine", "SELECT 1"), bind("", "mine")]), READS);
    // Perhaps the server refused the new one, for the old one is still there.
    assert_eq!(of(&[parse("write", "SELECT 1"), bind("", "write")]), WRITES);
    assert_eq!(of(&[close('S', "write"), parse("write", "SELECT 1"), bind("", "write")]), WRITES);
    assert_eq!(of(&[parse("read", "DELETE FROM t"), bind("", "read")]), WRITES);
    assert_eq!(of(&[bind("", "read"), parse("read", "DELETE FROM t"), bind("", "read")]), WRITES);
}

#[test]
fn sql_has_a_hand_in_the_same_names() {
    assert_eq!(of(&[query("EXECUTE read")]), READS);
    assert_eq!(of(&[query("EXECUTE write")]), WRITES);
    assert_eq!(of(&[query("EXECUTE unheard_of")]), WRITES);
    assert_eq!(of(&[query("EXPLAIN ANALYZE EXECUTE write")]), WRITES);
    assert_eq!(of(&[query("EXPLAIN EXECUTE write")]), READS);
    assert_eq!(of(&[query("PREPARE a AS DELETE FROM t")]), READS);
    assert_eq!(of(&[query("PREPARE a AS DELETE FROM t; EXECUTE a")]), WRITES);
    assert_eq!(of(&[query("PREPARE A AS SELECT 1"), bind("", "a"), execute("")]), READS);
    assert_eq!(of(&[query("PREPARE a AS SELECT pg_switch_wal()"), bind("", "a")]), (false, Some("server")));
    assert_eq!(of(&[parse("a", "DELETE FROM t"), query("EXECUTE a")]), WRITES);
    assert_eq!(of(&[query("EXECUTE chain")]), WRITES, "EXECUTE of an EXECUTE");
    assert_eq!(of(&[query("EXECUTE loop")]), READS, "the server refuses it, and so ends the search");
    assert_eq!(of(&[parse("a", "EXECUTE a"), bind("", "a")]), READS);
    let long = "n".repeat(70);
    assert_eq!(of(&[parse(&long, "DELETE FROM t"), bind("", &long[..63])]), WRITES, "63 bytes of a name count");
    assert_eq!(of(&[query(&format!("PREPARE {long} AS SELECT 1")), bind("", &long)]), READS);
}

#[test]
fn portals() {
    assert_eq!(of(&[execute("")]), WRITES, "nobody knows it");
    assert_eq!(of(&[bind("p", "read"), execute("q")]), WRITES);
    assert_eq!(of(&[query("DECLARE c CURSOR FOR SELECT 1"), execute("c")]), READS);
    assert_eq!(of(&[query("DECLARE c CURSOR FOR SELECT f()"), execute("c")]), WRITES);
    let long = "p".repeat(70);
    assert_eq!(of(&[bind(&long, "read"), execute(&long[..63])]), READS);
}

#[test]
fn texts_that_are_read_differently() {
    let hidden = query(r"SELECT '\', '; DELETE FROM t; SELECT pg_switch_wal() --'");
    let plain = survey(&hidden, &before, true);
    assert_eq!((plain.reads_only, plain.outside), (true, None), "two strings");
    let odd = survey(&hidden, &before, false);
    assert_eq!((odd.reads_only, odd.outside.map(|outside| outside.as_str())), (false, Some("server")));
    assert!(survey(&query("SELECT 'a'"), &before, false).reads_only, "without a backslash they are read alike");

    let turns = [query("SET LOCAL standard_conforming_strings = off"), hidden.clone()];
    assert_eq!(of(&turns), (false, Some("server")));
    assert_eq!(of(&[query("SET client_encoding = 'UTF8'"), hidden.clone()]), READS);
    assert_eq!(of(&[query("SELECT set_config($1, $2, true)"), hidden]), (false, Some("server")));
    // A text is read when it is parsed, not when it is bound.
    let name = parse("a", r"SELECT '\'");
    assert_eq!(of(&[name.clone(), query("RESET ALL"), bind("", "a")]), READS);
    assert_eq!(of(&[query("RESET ALL"), name, bind("", "a")]), WRITES);
    assert_eq!(of(&[query("RESET ALL"), bind("", "slash")]), READS);
    assert!(!survey(&bind("", "slash"), &before, false).reads_only);

    let latin = frame(b'Q', b"SELECT '\xe9'\0");
    assert!(!survey(&latin, &before, true).reads_only, "not UTF-8");
}

#[test]
fn what_is_malformed_is_not_known() {
    assert_eq!(of(&[frame(b'Q', b"SELECT 1")]), WRITES, "no NUL");
    assert_eq!(of(&[frame(b'Q', b"SELECT 1\0DELETE\0")]), WRITES);
    assert_eq!(of(&[frame(b'P', b"a\0SELECT 1\0")]), WRITES);
    assert_eq!(of(&[frame(b'B', b"a\0b")]), WRITES);
    assert_eq!(of(&[vec![b'Q', 0, 0, 0, 3, 0]]), WRITES, "shorter than its own length");
    assert_eq!(of(&[vec![b'Q', 0xff, 0xff, 0xff, 0xff]]), WRITES);
}

#[test]
fn a_cut_journal_never_only_reads() {
    let frames = [
        query("BEGIN"),
        parse("a", "SELECT lower($1)"),
        bind("p", "a"),
        execute("p"),
        sync(),
        query("SELECT pg_advisory_lock(1)"),
        close('P', "p"),
    ];
    let journal = frames.concat();
    let mut ends = vec![0];
    for frame in &frames {
        ends.push(ends.last().unwrap() + frame.len());
    }
    for cut in 0..journal.len() {
        let survey = survey(&journal[..cut], &before, true);
        let locked = cut >= ends[6];
        assert_eq!(survey.reads_only, ends.contains(&cut) && !locked, "{cut}");
        assert_eq!(survey.outside.is_some(), locked, "{cut}: what is cut was never run");
    }
}

/// One frame of what clients send, or nearly.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "SELECT 1",
        "DELETE FROM t",
        "EXECUTE a",
        "PREPARE a AS SELECT f()",
        "DECLARE a CURSOR FOR SELECT 1",
        "RESET ALL",
        "SELECT pg_switch_wal()",
        "SELECT '\\'",
        "BEGIN",
        "COPY t TO STDOUT",
        "DO $$ x $$",
        "EXPLAIN ANALYZE EXECUTE b",
        "",
    ];
    let names = ["", "a", "b", "read", "write"];
    let (name, other) = (prop::sample::select(names.to_vec()), prop::sample::select(names.to_vec()));
    let name = name.prop_map(str::to_owned).boxed();
    let text = prop::collection::vec(prop::sample::select(texts.to_vec()), 1..3).prop_map(|texts| texts.join(";"));
    prop_oneof![
        text.clone().prop_map(|text| query(&text)),
        (name.clone(), text).prop_map(|(name, text)| parse(&name, &text)),
        (name.clone(), other).prop_map(|(portal, name)| bind(&portal, name)),
        name.clone().prop_map(|name| execute(&name)),
        name.prop_map(|name| close('S', &name)),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..16)).prop_map(|(tag, body)| frame(tag, &body)),
        prop::collection::vec(any::<u8>(), 0..8),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..256), plain: bool) {
        survey(&bytes, &|_| Some(bytes.clone()), plain);
    }

    #[test]
    fn more_frames_are_never_more_harmless(frames in prop::collection::vec(any_frame(), 0..12), plain: bool) {
        let mut last = (true, None);
        let mut journal = Vec::new();
        for frame in frames {
            journal.extend_from_slice(&frame);
            let now = survey(&journal, &before, plain);
            // What is found outside stays; only a frame that was cut may turn out whole, and harmless.
            prop_assert!(last.1.is_none() || now.outside == last.1);
            let whole = last.0 || !ends_whole(&journal[..journal.len() - frame.len()]);
            prop_assert!(!now.reads_only || whole);
            last = (now.reads_only, now.outside);
        }
    }
}

fn ends_whole(mut journal: &[u8]) -> bool {
    while let Some((_, _, rest)) = split(journal) {
        journal = rest;
    }
    journal.is_empty()
}

#[test]
fn a_large_journal_takes_linear_time() {
    const SIZE: usize = 1 << 20;
    let repeat = |frame: Vec<u8>| frame.repeat(SIZE / frame.len());
    let mut chain = Vec::new();
    for n in 0..SIZE / 40 {
        chain.extend(parse(&n.to_string(), &format!("EXECUTE \"{}\"", n + 1)));
    }
    chain.extend(bind("", "0"));
    let large = parse("a", &format!("SELECT {}", "f(1), ".repeat(SIZE / 14)));
    let journals = [
        repeat(parse("a", "SELECT 1")),
        repeat([parse("a", "SELECT 1"), bind("", "a")].concat()),
        [large, repeat(bind("", "a"))].concat(),
        chain,
        query(&"EXECUTE read;".repeat(SIZE / 13)),
        query(&"PREPARE a AS SELECT 1;".repeat(SIZE / 22)),
    ];
    for journal in journals {
        survey(&journal, &before, true);
    }
}
