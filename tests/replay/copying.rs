//! COPY FROM STDIN across a loss: done before it, or in the midst of it.

use super::raw::{Raw, bind, execute, frame, parse, query, sync};
use super::stage::{Scene, Talk as _, said, scenes};

scenes![
    done_before_the_loss,
    in_the_midst,
    in_the_midst_of_a_frame,
    in_the_extended_protocol,
    given_up_by_the_client_after_the_loss,
    failed_before_the_loss,
    more_than_the_cap_in_the_midst,
    more_than_the_cap_before,
    by_itself,
];

/// Rows of about a kilobyte.
fn data(from: usize, to: usize) -> Vec<u8> {
    (from..=to).flat_map(|id| format!("{id}\t{}\n", "y".repeat(1000)).into_bytes()).collect()
}

fn begun(s: &Scene) -> Raw {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c
}

fn open(c: &mut Raw) {
    c.put(&query("copy t from stdin"));
    let reply = c.reply_to(b'G');
    assert_eq!(reply.tags, "G", "{reply:?}");
}

/// Nothing is half way to the server, which has the rows.
fn until_taken(s: &Scene) {
    s.until_seen("wait_event = 'ClientRead' and query ~ '^copy'", 1);
}

fn done_before_the_loss(s: &Scene) {
    let mut c = begun(s);
    open(&mut c);
    for part in data(1, 100).chunks(777) {
        c.put(&frame(b'd', part));
    }
    c.put(&frame(b'c', b""));
    c.hear("COPY 100 T");
    s.lose();
    c.say("select count(*) from t", "100 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select count(*), sum(length(body)) from t", "100,100000");
}

fn in_the_midst(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (0, 'first')", "INSERT 0 1 T");
    open(&mut c);
    let data = data(1, 200);
    let (before, after) = data.split_at(100_077);
    c.put(&frame(b'd', before));
    until_taken(s);
    s.lose();
    c.put(&[frame(b'd', after), frame(b'c', b"")].concat());
    c.hear("COPY 200 T");
    c.say("commit", "COMMIT I");
    s.holds("select count(*), sum(length(body)) from t", "201,200005");
}

fn in_the_midst_of_a_frame(s: &Scene) {
    let mut c = begun(s);
    open(&mut c);
    let bytes = [frame(b'd', &data(1, 100)), frame(b'd', &data(101, 200)), frame(b'c', b"")].concat();
    let (before, after) = bytes.split_at(150_000);
    c.put(before);
    until_taken(s);
    s.lose();
    c.put(after);
    c.hear("COPY 200 T");
    c.say("commit", "COMMIT I");
    s.holds("select count(*), sum(length(body)) from t", "200,200000");
}

fn in_the_extended_protocol(s: &Scene) {
    let mut c = begun(s);
    c.put(&[parse("", "copy t from stdin"), bind("", "", &[]), execute("", 0), frame(b'H', b"")].concat());
    assert_eq!(c.reply_to(b'G').tags, "12G");
    c.put(&frame(b'd', &data(1, 50)));
    until_taken(s);
    s.lose();
    c.put(&[frame(b'd', &data(51, 60)), frame(b'c', b""), sync()].concat());
    c.hear("COPY 60 T");
    c.say("commit", "COMMIT I");
    s.holds("select count(*) from t", "60");
}

fn given_up_by_the_client_after_the_loss(s: &Scene) {
    let mut c = begun(s);
    c.say("savepoint s", "SAVEPOINT T");
    open(&mut c);
    c.put(&frame(b'd', &data(1, 50)));
    until_taken(s);
    s.lose();
    c.put(&frame(b'f', b"changed my mind\0"));
    c.hear("!57014 E");
    c.say("rollback to s", "ROLLBACK T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t", "1");
}

fn failed_before_the_loss(s: &Scene) {
    let mut c = begun(s);
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("savepoint s", "SAVEPOINT T");
    open(&mut c);
    c.put(&[frame(b'd', b"not a number\trow\n"), frame(b'd', &data(1, 30)), frame(b'c', b"")].concat());
    c.hear("!22P02 E");
    c.say("rollback to s", "ROLLBACK T");
    s.lose();
    c.say("insert into t values (2, 'b')", "INSERT 0 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select id from t order by id", "1 2");
}

fn more_than_the_cap_in_the_midst(s: &Scene) {
    let mut c = begun(s);
    open(&mut c);
    c.put(&[frame(b'd', &data(1, 700)), frame(b'd', &data(701, 1400))].concat());
    until_taken(s);
    s.lose();
    c.put(&[frame(b'd', &data(1401, 1500)), frame(b'c', b"")].concat());
    c.hear("!40001 E");
    c.say("select 1", "!25P02 E");
    c.say("rollback", "ROLLBACK I");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 I");
    s.holds("select count(*) from t", "1");
}

fn more_than_the_cap_before(s: &Scene) {
    let (mut goes_on, mut commits) = (begun(s), begun(s));
    for (c, from) in [(&mut goes_on, 1), (&mut commits, 5001)] {
        open(c);
        c.put(&[frame(b'd', &data(from, from + 1499)), frame(b'c', b"")].concat());
        c.hear("COPY 1500 T");
    }
    s.lose();
    goes_on.say("select 1", "!40001 E");
    goes_on.say("rollback", "ROLLBACK I");
    commits.say("commit", "!40001 I");
    commits.say("select 1", "1 SELECT 1 I");
    s.holds("select count(*) from t", "0");
}

/// Outside a transaction: it was not complete, so it is not there; run again or told so, but never half.
fn by_itself(s: &Scene) {
    let mut c = s.client();
    open(&mut c);
    c.put(&frame(b'd', &data(1, 50)));
    until_taken(s);
    s.lose();
    c.put(&[frame(b'd', &data(51, 60)), frame(b'c', b"")].concat());
    let reply = c.reply();
    let there = match said(&reply).as_str() {
        "COPY 60 I" => "60",
        "!40001 I" | "!08007 I" => "0",
        other => panic!("{other}: {reply:?}"),
    };
    s.holds("select count(*) from t", there);
    c.say("select 'on'", "on SELECT 1 I");
}
