//! Slow clients: they get back-pressure, not pgmoor's memory.

use std::io::Read as _;
use std::time::Duration;

use super::pair::{psql, shared, until};
use super::raw::{Raw, query};

#[test]
fn a_client_that_does_not_read_stops_the_server_and_costs_nothing() {
    let pair = shared();
    let moor = pair.moor();
    let before = moor.resident();
    let mut slow = Raw::login(moor.rw());
    slow.put(&query("select repeat('z', 1000000) from generate_series(1, 200) as slow_rows"));
    // PostgreSQL's own socket is full: it waits for pgmoor, which waits for the client.
    until("the server to be stopped", || {
        (psql(
            pair.a,
            "select count(*) from pg_stat_activity where query ~ 'as slow_rows$' and wait_event = 'ClientWrite'",
        ) == "1")
            .then_some(())
    });
    let held = moor.resident().saturating_sub(before);
    assert!(held < 8 << 20, "a client that does not read costs {held} bytes");
    // Somebody else is served at once meanwhile.
    assert_eq!(Raw::login(moor.rw()).run("select 1").one(), "1");
    slow.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut total = 0_usize;
    let mut bytes = vec![0; 1 << 20];
    while total < 200_000_000 {
        let count = slow.stream.read(&mut bytes).unwrap();
        assert!(count > 0, "ended after {total} bytes");
        total += count;
    }
    let held = moor.resident().saturating_sub(before);
    assert!(held < 8 << 20, "and {held} bytes after it has read");
}

#[test]
fn a_server_that_does_not_read_stops_the_client() {
    let pair = shared();
    let moor = pair.moor();
    let before = moor.resident();
    let raw = Raw::login(moor.rw());
    let mut sender = raw.stream.try_clone().unwrap();
    // A statement that sleeps, and megabytes of requests behind it.
    let sending = std::thread::spawn(move || {
        use std::io::Write as _;
        sender.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let flood = query(&format!("select pg_sleep(3600) -- {}", "f".repeat(1 << 20)));
        let mut sent = 0;
        while sent < 500 && sender.write_all(&flood).is_ok() {
            sent += 1;
        }
        sent
    });
    assert!(sending.join().unwrap() < 100, "the client was stopped");
    let held = moor.resident().saturating_sub(before);
    assert!(held < 16 << 20, "requests that wait cost {held} bytes");
    let backend =
        "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep.3600.' and usename = 'app'";
    psql(pair.a, backend);
}
