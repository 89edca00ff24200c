//! Reads in flight: what the client has of them is checked and skipped, and it gets each row once.

use std::io::Read as _;

use super::raw::{Raw, bind, execute, frame, parse, query, sync, unit};
use super::stage::{Scene, Talk as _, scenes};

scenes![
    many_rows_in_a_transaction,
    many_rows_by_themselves,
    many_rows_of_a_portal,
    large_rows_in_a_transaction,
    large_rows_by_themselves,
    results_before_and_behind,
    units_of_readers_in_one_packet,
    simple_readers_in_one_packet,
    a_reader_that_has_not_begun,
    a_reader_in_a_read_only_transaction,
    copy_to_in_a_transaction,
    copy_to_by_itself,
    lost_twice_in_one_answer,
    a_text_that_sets_and_reads,
    a_text_that_is_a_whole_transaction,
    half_a_row_of_another_size,
];

/// 100,000 rows of 330 bytes: more than all buffers between two ends hold, so that it is in flight while nobody reads.
const WIDE: &str = "select id, body, body, body, body, body, body, body, body, body, body from wide order by id";
const HUGE: &str = "select id, body from huge order by id";
const MIB: usize = 1 << 20;

/// The server has more to say than anybody takes.
fn until_stuck(s: &Scene, count: usize) {
    s.until_seen("wait_event = 'ClientWrite'", count);
}

/// Reads rows `from` and what follows, each with its number and `width` bytes in all, as long as `more` says.
fn read_rows(raw: &mut Raw, from: usize, width: impl Fn(usize) -> usize, mut more: impl FnMut(usize) -> bool) -> usize {
    let mut next = from;
    while more(next) {
        let (tag, body) = raw.frame().unwrap();
        assert_eq!(char::from(tag), 'D', "row {next}: {}", String::from_utf8_lossy(&body));
        let number = next.to_string();
        assert_eq!(&body[6..6 + number.len()], number.as_bytes(), "rows are out of order");
        assert_eq!(body.len(), width(number.len()), "row {next}");
        next += 1;
    }
    next
}

fn wide(digits: usize) -> usize {
    2 + 4 + digits + 10 * (4 + 32)
}

fn huge(digits: usize) -> usize {
    2 + 4 + digits + 4 + MIB
}

#[track_caller]
fn head(raw: &mut Raw, tags: &str) {
    for tag in tags.chars() {
        let (found, body) = raw.frame().unwrap();
        assert_eq!(char::from(found), tag, "{}", String::from_utf8_lossy(&body));
    }
}

fn many_rows_in_a_transaction(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query(WIDE));
    head(&mut c, "T");
    let next = read_rows(&mut c, 1, wide, |row| row < 5_000);
    until_stuck(s, 1);
    s.lose();
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    c.hear("SELECT 100000 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn many_rows_by_themselves(s: &Scene) {
    let mut c = s.client();
    c.put(&query(WIDE));
    head(&mut c, "T");
    let next = read_rows(&mut c, 1, wide, |row| row < 777);
    until_stuck(s, 1);
    s.lose();
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    c.hear("SELECT 100000 I");
    c.say("select 'on'", "on SELECT 1 I");
}

fn many_rows_of_a_portal(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.put(&[parse("", WIDE), bind("p", "", &[]), execute("p", 90_000), sync()].concat());
    head(&mut c, "12");
    let next = read_rows(&mut c, 1, wide, |row| row < 2_000);
    until_stuck(s, 1);
    s.lose();
    let next = read_rows(&mut c, next, wide, |row| row <= 90_000);
    head(&mut c, "sZ");
    c.put(&[execute("p", 0), sync()].concat());
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    c.hear("SELECT 10000 T");
    c.say("commit", "COMMIT I");
}

/// Takes some bytes of the stream itself: into the midst of the third row.
fn cut_a_row(s: &Scene, c: &mut Raw) -> Vec<u8> {
    let mut bytes = vec![0; 2 * MIB + 300_001];
    c.stream.read_exact(&mut bytes).unwrap();
    until_stuck(s, 1);
    bytes
}

/// The rest of the rows, behind these bytes.
fn finish_huge(c: &mut Raw, mut bytes: Vec<u8>, ending: &str) {
    let head = usize::from(u16::from_be_bytes([bytes[3], bytes[4]])) + 1;
    assert_eq!(bytes[0], b'T');
    bytes.drain(..head);
    for row in 1..=40_usize {
        let length = 5 + huge(row.to_string().len());
        if bytes.len() < length {
            let at = bytes.len();
            bytes.resize(length, 0);
            c.stream.read_exact(&mut bytes[at..]).unwrap();
        }
        let rest = bytes.split_off(length);
        let number = row.to_string();
        assert_eq!((bytes[0], &bytes[11..11 + number.len()]), (b'D', number.as_bytes()), "row {row}");
        let body = &bytes[15 + number.len()..];
        let (first, mut others) = (&body[..32], body.chunks_exact(32));
        assert!(others.all(|part| part == first), "row {row} is not what it was");
        bytes = rest;
    }
    assert!(bytes.is_empty());
    c.hear(ending);
}

fn large_rows_in_a_transaction(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query(HUGE));
    let bytes = cut_a_row(s, &mut c);
    s.lose();
    finish_huge(&mut c, bytes, "SELECT 40 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn large_rows_by_themselves(s: &Scene) {
    let mut c = s.client();
    c.put(&query(HUGE));
    let bytes = cut_a_row(s, &mut c);
    s.lose();
    finish_huge(&mut c, bytes, "SELECT 40 I");
    c.say("select 'on'", "on SELECT 1 I");
}

fn results_before_and_behind(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.put(&query(&format!("select 'before'; insert into t values (1, 'a'); {WIDE}; select 'behind'")));
    head(&mut c, "TDCCT");
    let next = read_rows(&mut c, 1, wide, |row| row < 100);
    until_stuck(s, 1);
    s.lose();
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    c.hear("behind SELECT 100000 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn units_of_readers_in_one_packet(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    let read = |id: &str| unit("select id, body from wide where id = $1::int", &[id]);
    c.put(&[read("1"), read("2"), unit("select id from gate", &[]), read("3"), read("4")].concat());
    s.until_blocked(1);
    c.hear("1,c4ca4238a0b923820dcc509a6f75849b SELECT 1 I");
    s.lose();
    gate.open();
    c.hear("2,c81e728d9d4c2f636f067f89cc14862c SELECT 1 I");
    c.hear("1 SELECT 1 I");
    c.hear("3,eccbc87e4b5ce2fe28308fd9f2a7baf3 SELECT 1 I");
    c.hear("4,a87ff679a2f3e71d9181a67b7542122c SELECT 1 I");
    c.say("select 'on'", "on SELECT 1 I");
}

fn simple_readers_in_one_packet(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.put(&[query("select id from wide where id = 5"), query("select id from gate"), query("table gate")].concat());
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("5 SELECT 1 I");
    c.hear("1 SELECT 1 I");
    c.hear("1 SELECT 1 I");
}

fn a_reader_that_has_not_begun(s: &Scene) {
    let gate = s.gate();
    let (mut simple, mut extended) = (s.client(), s.client());
    simple.put(&query("select id from gate"));
    extended.put(&unit("select id from gate where id = $1::int", &["1"]));
    s.until_blocked(2);
    s.lose();
    gate.open();
    simple.hear("1 SELECT 1 I");
    assert_eq!(extended.reply().tags, "12DCZ");
}

fn a_reader_in_a_read_only_transaction(s: &Scene) {
    let mut c = s.client();
    c.say("begin isolation level repeatable read, read only", "BEGIN T");
    c.put(&[parse("w", WIDE), bind("", "w", &[]), execute("", 0), frame(b'H', b"")].concat());
    head(&mut c, "12");
    let next = read_rows(&mut c, 1, wide, |row| row < 30_000);
    until_stuck(s, 1);
    s.lose();
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    head(&mut c, "C");
    c.put(&sync());
    c.hear("T");
    c.say("insert into t values (1, 'a')", "!25006 E");
    c.say("rollback", "ROLLBACK I");
}

fn copy_out(s: &Scene, status: char) {
    let mut c = s.client();
    if status == 'T' {
        c.say("begin", "BEGIN T");
        c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    }
    c.put(&query(&format!("copy ({WIDE}) to stdout")));
    head(&mut c, "H");
    let mut read = |from: usize, to: usize| {
        for row in from..to {
            let (tag, body) = c.frame().unwrap();
            assert_eq!(char::from(tag), 'd', "{}", String::from_utf8_lossy(&body));
            assert!(body.starts_with(format!("{row}\t").as_bytes()), "rows are out of order at {row}");
        }
    };
    read(1, 20_000);
    until_stuck(s, 1);
    s.lose();
    read(20_000, 100_001);
    head(&mut c, "c");
    c.hear(&format!("COPY 100000 {status}"));
    if status == 'T' {
        c.say("commit", "COMMIT I");
        s.holds("select id from t", "1");
    }
}

fn copy_to_in_a_transaction(s: &Scene) {
    copy_out(s, 'T');
}

fn copy_to_by_itself(s: &Scene) {
    copy_out(s, 'I');
}

fn lost_twice_in_one_answer(s: &Scene) {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query(WIDE));
    head(&mut c, "T");
    let next = read_rows(&mut c, 1, wide, |row| row < 50);
    until_stuck(s, 1);
    s.lose();
    let next = read_rows(&mut c, next, wide, |row| row < 40_000);
    s.lose_again();
    let next = read_rows(&mut c, next, wide, |row| row < 80_000);
    s.lose_again();
    read_rows(&mut c, next, wide, |row| row <= 100_000);
    c.hear("SELECT 100000 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

/// Its settings are the session's, once.
fn a_text_that_sets_and_reads(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.put(&query("set work_mem = '7MB'; prepare p as select 'prepared'; select id from gate"));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("1 SET PREPARE SELECT 1 I");
    c.say("show work_mem", "7MB SHOW I");
    c.say("execute p", "prepared SELECT 1 I");
    s.lose_again();
    c.say("show work_mem", "7MB SHOW I");
    c.say("execute p", "prepared SELECT 1 I");
}

fn a_text_that_is_a_whole_transaction(s: &Scene) {
    let gate = s.gate();
    let mut c = s.client();
    c.put(&query("begin read only; select count(*) from wide; select id from gate; commit; select 2"));
    s.until_blocked(1);
    s.lose();
    gate.open();
    c.hear("100000 1 2 BEGIN SELECT 1 SELECT 1 COMMIT SELECT 1 I");
    c.say("select 'on'", "on SELECT 1 I");
}

/// Half a message is there, and its other half is not what it was: nothing true can be said any more.
fn half_a_row_of_another_size(s: &Scene) {
    let mut witness = s.witness();
    // More than all sockets on the way hold: of less, everything may be on its way to the client before the loss.
    let rows = "select 40 * k + id as id, body from huge, generate_series(0, 3) as k";
    witness.say(&format!("create table large as {rows}"), "SELECT 160 I");
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.put(&query("select id, body from large order by id"));
    let bytes = cut_a_row(s, &mut c);
    assert_eq!(bytes[0], b'T');
    witness.say("update large set body = body || '!' where id = 1", "UPDATE 1 I");
    s.stage.pair.caught_up(); // else a failover takes the update along
    s.lose();
    // What had left for the client before the loss may still come, and be whole; then its connection ends.
    let mut more = Vec::new();
    let _ = c.stream.read_to_end(&mut more);
    let all = [bytes, more].concat();
    assert!(!all.windows(15).any(|part| part == b"SELECT 160\0Z\0\0\0"), "it was told that this was all");
    s.holds("select count(*) from t", "0");
}
