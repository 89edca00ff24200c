//! COPY through pgmoor: in, out, failed and cancelled.

use super::pair::{psql, shared, until};
use super::raw::{Raw, cancel, frame, query, sync};

const ROWS: usize = 50_000;
/// About a kilobyte: `ROWS` of them are 50 MB.
const WIDTH: usize = 1000;

#[test]
fn fifty_megabytes_go_in_and_come_out() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    assert_eq!(raw.run("create temp table large (id int, body text)").done, ["CREATE TABLE"]);
    raw.put(&query("copy large from stdin"));
    assert_eq!(raw.reply_to(b'G').tags, "G");
    let body = "y".repeat(WIDTH);
    // Rows and frames need not agree: 7,919 rows a frame is far over any buffer, the last byte stands alone.
    let text: Vec<u8> = (0..ROWS).flat_map(|id| format!("{id}\t{body}\n").into_bytes()).collect();
    for part in text.chunks(7919 * 1003) {
        raw.put(&frame(b'd', part));
    }
    raw.put(&frame(b'd', b""));
    raw.put(&frame(b'c', b""));
    assert_eq!(raw.reply().done, [format!("COPY {ROWS}")]);
    assert_eq!(raw.run("select sum(length(body)) from large").one(), (ROWS * WIDTH).to_string());

    raw.put(&query("copy (select id, body from large order by id) to stdout; select 'after'"));
    assert_eq!(raw.reply_to(b'H').tags, "H");
    let mut bytes = 0;
    loop {
        match raw.frame().unwrap() {
            (b'd', body) => bytes += body.len(),
            (b'c', _) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, text.len());
    let reply = raw.reply();
    assert_eq!((reply.done[0].as_str(), reply.one()), ("COPY 50000", "after"));
    assert!(
        moor.metric(r#"pgmoor_bytes_total{direction="to_backend"}"#) > (bytes - (1 << 20)) as f64,
        "all but what a session has not told yet"
    );
    assert!(moor.resident() < 100 << 20, "pgmoor holds {} bytes", moor.resident());
}

#[test]
fn a_failed_copy_leaves_the_session_in_step() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    raw.run("create temp table small (id int)");
    // The client gives up.
    raw.put(&query("copy small from stdin"));
    raw.reply_to(b'G');
    raw.put(&[frame(b'd', b"1\n"), frame(b'f', b"changed my mind\0")].concat());
    assert_eq!(raw.reply().code(), "57014");
    // The server gives up in the midst; what the client still sends is ignored.
    raw.put(&query("copy small from stdin"));
    raw.reply_to(b'G');
    raw.put(&frame(b'd', b"not a number\n"));
    assert_eq!(raw.reply_to(b'E').code(), "22P02");
    for _ in 0..1000 {
        raw.put(&frame(b'd', b"2\n"));
    }
    raw.put(&frame(b'c', b""));
    assert_eq!(raw.reply().tags, "Z");
    assert_eq!(raw.run("select count(*) from small").one(), "0");
    // In the extended protocol, with the Sync after the CopyDone.
    raw.put(
        &[
            super::raw::parse("", "copy small from stdin"),
            super::raw::bind("", "", &[]),
            super::raw::execute("", 0),
            frame(b'H', b""),
        ]
        .concat(),
    );
    assert_eq!(raw.reply_to(b'G').tags, "12G");
    raw.put(&[frame(b'd', b"7\n"), frame(b'c', b""), sync()].concat());
    assert_eq!(raw.reply().tags, "CZ");
    assert_eq!(raw.run("select id from small").one(), "7");
}

#[test]
fn a_copy_can_be_cancelled() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    raw.put(&query("copy (select pg_sleep(60), 'copied') to stdout"));
    until("the COPY to run", || {
        (psql(
            pair.a,
            "select count(*) from pg_stat_activity where query ~ '''copied''' and state = 'active' and usename = 'app'",
        ) == "1")
            .then_some(())
    });
    cancel(moor.rw(), raw.key.0, &raw.key.1);
    let reply = raw.reply();
    assert_eq!((reply.code(), reply.status), ("57014", 'I'));
    raw.run("create temp table fed (id int)");
    raw.put(&query("copy fed from stdin"));
    raw.reply_to(b'G');
    raw.put(&frame(b'd', b"1\n"));
    cancel(moor.rw(), raw.key.0, &raw.key.1);
    // PostgreSQL looks for a cancel between two rows.
    raw.put(&[frame(b'd', b"2\n"), frame(b'd', b"3\n")].concat());
    assert_eq!(raw.reply_to(b'E').code(), "57014");
    raw.put(&frame(b'c', b""));
    assert_eq!(raw.reply().tags, "Z");
    assert_eq!(raw.run("select 'in step'").one(), "in step");
}
