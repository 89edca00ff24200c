//! The protocol through pgmoor: nothing is lost, reordered or invented.

use std::time::{Duration, Instant};

use super::pair::{psql, shared, until};
use super::raw::{Raw, about, bind, cancel, execute, frame, parse, query, startup, sync, unit, with_length};

#[test]
fn simple_queries_answer_with_every_result_in_order() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    assert_eq!(raw.run("select 1").one(), "1");
    let reply = raw.run("select 1; select 'two' as x; select generate_series(1, 3)");
    assert_eq!(reply.done, ["SELECT 1", "SELECT 1", "SELECT 3"]);
    assert_eq!(reply.rows.len(), 5);
    let reply = raw.run("select 1; select 1/0; select 2");
    assert_eq!((reply.done.len(), reply.code(), reply.status), (1, "22012", 'I'));
    assert_eq!(raw.run("").tags, "IZ");
    let reply = raw.run("begin");
    assert_eq!(reply.status, 'T');
    assert_eq!(raw.run("select 1/0").status, 'E');
    assert_eq!(raw.run("select 1").code(), "25P02");
    assert_eq!((raw.run("rollback").status, raw.run("select null").one()), ('I', "NULL"));
}

#[test]
fn the_extended_protocol_keeps_its_order_through_several_syncs_and_flush() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    // Four units at once: good, failing, good, and one that uses a named statement twice.
    let mut packet = unit("select $1::int + 1", &["41"]);
    packet.extend(unit("select 1 / $1::int", &["0"]));
    packet.extend(unit("select upper($1)", &["still here"]));
    packet.extend(parse("s", "select $1::text || '!'"));
    for value in ["a", "b"] {
        packet.extend(bind("", "s", &[value]));
        packet.extend(execute("", 0));
    }
    packet.extend(sync());
    raw.put(&packet);
    assert_eq!(raw.reply().one(), "42");
    let failed = raw.reply();
    assert_eq!((failed.code(), failed.tags.as_str()), ("22012", "1EZ"));
    assert_eq!(raw.reply().one(), "STILL HERE");
    let both = raw.reply();
    assert_eq!((both.tags.as_str(), both.rows.len()), ("12DC2DCZ", 2));

    // A Flush gets the answer out without a Sync; a portal is read in parts.
    raw.put(&parse("p", "select generate_series(1, 5)"));
    raw.put(&about(b'D', b'S', "p"));
    raw.put(&frame(b'H', b""));
    assert_eq!(raw.reply_to(b'T').tags, "1tT");
    raw.put(&[bind("c", "p", &[]), execute("c", 2), frame(b'H', b"")].concat());
    assert_eq!(raw.reply_to(b's').tags, "2DDs");
    raw.put(&[execute("c", 2), execute("c", 2), sync()].concat());
    assert_eq!(raw.reply().tags, "DDsDCZ");
    raw.put(&[about(b'C', b'S', "p"), sync()].concat());
    assert_eq!(raw.reply().tags, "3Z");
    raw.put(&[bind("", "p", &[]), sync()].concat());
    assert_eq!(raw.reply().code(), "26000");
}

#[test]
fn ten_thousand_pipelined_units_come_back_in_order() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    let mut sender = raw.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        use std::io::Write as _;
        for number in 0..10_000 {
            sender.write_all(&unit("select $1::int", &[&number.to_string()])).unwrap();
        }
    });
    for number in 0..10_000 {
        assert_eq!(raw.reply().one(), number.to_string());
    }
    sending.join().unwrap();
}

#[test]
fn messages_larger_than_the_buffers_pass_both_ways() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    let large = "x".repeat(5 << 20);
    let reply = raw.run(&format!("select '{large}'"));
    assert_eq!(reply.one(), large);
    raw.put(&unit("select $1::text", &[&large]));
    assert_eq!(raw.reply().one(), large);
    let columns: Vec<String> = (0..1000).map(|at| format!("'value {at}' as a_column_with_a_long_name_{at}")).collect();
    let reply = raw.run(&format!("select {}", columns.join(", ")));
    assert_eq!((reply.rows[0].len(), reply.rows[0][999].as_deref()), (1000, Some("value 999")));
    // An error whose message is larger than a buffer.
    let reply = raw.run(&format!(
        "do $$ begin raise exception using message = repeat('e', 100000), errcode = 'P0009'; end $$ -- {}",
        &large[..70_000]
    ));
    assert_eq!((reply.code(), reply.errors[0].1.len(), reply.status), ("P0009", 100_000, 'I'));
    let reply = raw.run("do $$ begin raise notice '%', repeat('n', 100000); raise warning 'w'; end $$");
    assert_eq!((reply.notices[0].1.len(), reply.notices[1].0.as_str()), (100_000, "01000"));
    assert_eq!(raw.run("select 1").one(), "1");
}

#[test]
fn notifications_reach_an_idle_client() {
    let pair = shared();
    let moor = pair.moor();
    let mut listener = Raw::login(moor.rw());
    assert_eq!(listener.run("listen news").done, ["LISTEN"]);
    let mut speaker = Raw::login(moor.rw());
    speaker.run("notify news, 'hello'");
    speaker.run("select pg_notify('news', repeat('x', 7999))");
    assert_eq!(listener.reply_to(b'A').notifications, [("news".to_owned(), "hello".to_owned())]);
    assert_eq!(listener.reply_to(b'A').notifications[0].1.len(), 7999);
    listener.run("unlisten *");
    speaker.run("notify news, 'unheard'");
    assert!(listener.run("select 1").notifications.is_empty());
}

#[test]
fn a_cancel_request_reaches_the_statement_of_its_key_and_no_other() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    let (process, secret) = raw.key.clone();
    let backend = raw.run("select pg_backend_pid()").one().to_owned();
    assert_ne!(process.to_string(), backend, "the key is pgmoor's own");
    raw.put(&query("select pg_sleep(60)"));
    let running = || {
        psql(
            pair.a,
            &format!(
                "select count(*) from pg_stat_activity where pid = {backend} and query ~ 'pg_sleep' and state = 'active'"
            ),
        ) == "1"
    };
    until("the statement to run", || running().then_some(()));

    let mut wrong = secret.clone();
    wrong[0] ^= 1;
    cancel(moor.rw(), process, &wrong);
    cancel(moor.rw(), process + 1, &secret);
    cancel(moor.rw(), process, b"");
    assert_eq!(moor.metric(r#"pgmoor_cancels_total{outcome="forwarded"}"#), 0.0);
    assert!(running(), "a wrong key does nothing");

    let began = Instant::now();
    cancel(moor.rw(), process, &secret);
    let reply = raw.reply();
    assert_eq!((reply.code(), reply.status), ("57014", 'I'));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(moor.metric(r#"pgmoor_cancels_total{outcome="forwarded"}"#), 1.0);
    cancel(moor.rw(), process, &secret);
    assert_eq!(raw.run("select 'alive'").one(), "alive");
}

#[test]
fn unknown_minor_versions_and_options_are_negotiated_down() {
    let pair = shared();
    let moor = pair.moor();
    // 3.9999 is what libpq sends to keep servers honest ("grease").
    for (version, extension, said) in [
        (0x0003_0002_u32, None, None),
        (0x0003_270f, None, Some(vec![])),
        (0x0003_270f, Some("_pq_.test_protocol_negotiation"), Some(vec!["_pq_.test_protocol_negotiation"])),
        (0x0003_0000, Some("_pq_.other"), Some(vec!["_pq_.other"])),
    ] {
        let mut raw = Raw::open(moor.rw()).unwrap();
        let mut parameters = vec![("user", "app"), ("database", "app")];
        parameters.extend(extension.map(|name| (name, "1")));
        raw.put(&startup(version, &parameters));
        let (mut tag, mut body) = raw.frame().unwrap();
        assert_eq!(tag == b'v', said.is_some(), "version {version:x}");
        if let Some(options) = said {
            assert_eq!(u32::from_be_bytes(*body[4..].first_chunk().unwrap()) as usize, options.len());
            for option in options {
                assert!(body.windows(option.len()).any(|window| window == option.as_bytes()));
            }
            let minor = u32::from_be_bytes(*body.first_chunk().unwrap());
            assert!(minor == 2 || minor == 0x0003_0002 || minor == 0x0003_0000 || minor == 0, "minor {minor:x}");
            (tag, body) = raw.frame().unwrap();
        }
        assert_eq!((tag, body), (b'R', vec![0, 0, 0, 0]));
        assert_eq!(raw.reply().status, 'I');
        assert_eq!(raw.run("select 1").one(), "1");
        let (process, secret) = raw.key.clone();
        assert_eq!(secret.len() > 4, version != 0x0003_0000, "long keys with 3.2");
        raw.put(&query("select pg_sleep(60)"));
        until("the statement to run", || {
            (psql(pair.a, "select count(*) from pg_stat_activity where query ~ 'select pg_sleep' and state = 'active' and usename = 'app'") != "0").then_some(())
        });
        cancel(moor.rw(), process, &secret);
        assert_eq!(raw.reply().code(), "57014");
    }
    let mut raw = Raw::open(moor.rw()).unwrap();
    raw.put(&startup(0x0002_0000, &[("user", "app")]));
    assert_eq!(raw.reply().code(), "08P01");
}

#[test]
fn requests_for_encryption_that_is_not_offered_are_declined_and_the_login_goes_on() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::open(moor.rw()).unwrap();
    raw.put(&with_length(&80_877_104_u32.to_be_bytes()));
    assert_eq!(raw.byte().unwrap(), b'N', "GSSENCRequest");
    raw.put(&with_length(&80_877_103_u32.to_be_bytes()));
    assert_eq!(raw.byte().unwrap(), b'N', "SSLRequest");
    assert_eq!(raw.start(&[]).status, 'I');
    assert_eq!(raw.run("select 1").one(), "1");
    raw.put(&frame(b'X', b""));
    assert!(raw.closed());
}

#[test]
fn what_a_client_sends_with_its_startup_packet_is_run() {
    let pair = shared();
    let moor = pair.moor();
    let mut raw = Raw::open(moor.rw()).unwrap();
    let packet = startup(
        0x0003_0000,
        &[("user", "app"), ("database", "app"), ("application_name", "eager"), ("options", "-c work_mem=7MB")],
    );
    raw.put(&[packet, query("show application_name"), query("show work_mem"), frame(b'X', b"")].concat());
    assert_eq!(raw.reply().status, 'I');
    assert_eq!(raw.reply().one(), "eager");
    assert_eq!(raw.reply().one(), "7MB");
    assert!(raw.closed());
}
