//! A server behind pgmoor that breaks off, lies, floods or is silent: its clients get an error of the catalogue.

use std::time::{Duration, Instant};

use super::bystander::Bystander;
use super::pair::{Moor, Plan, until};
use super::raw::{Raw, Reply, frame, query};
use super::scripted::{Part, Scripted, answer, greeting};

/// pgmoor before one scripted server; what the tests wait for is short.
fn moor(server: &Scripted) -> Moor {
    let plan = Plan {
        continuity: "hold = \"1500ms\"\nconnect_timeout = \"700ms\"".to_owned(),
        fixed: vec![("x".to_owned(), server.address)],
        ..Plan::default()
    };
    Moor::start(&plan)
}

/// Logs in to be given these parts, many at a time; gives each login's outcome.
fn logins(moor: &Moor, server: &Scripted, parts: Vec<Part>) -> Vec<(Raw, Reply)> {
    let rw = moor.rw();
    let names: Vec<String> = (0..parts.len()).map(|at| format!("part {at}")).collect();
    for (name, part) in names.iter().zip(parts) {
        server.plays(name, part);
    }
    let login = |name: &String| {
        let name = name.clone();
        std::thread::spawn(move || {
            let mut raw = Raw::open(rw).unwrap();
            let reply = raw.start(&[("scene.name", &name)]);
            (raw, reply)
        })
    };
    let logins: Vec<_> = names.iter().map(login).collect();
    logins.into_iter().map(|login| login.join().unwrap()).collect()
}

#[test]
fn a_login_cut_at_every_byte() {
    let server = Scripted::start();
    let moor = moor(&server);
    let bystander = Bystander::start(moor.rw());
    let whole = greeting();
    // Not all at once: each failure narrows the way for everybody, and somebody else wants in meanwhile.
    let ends: Vec<usize> = (0..whole.len()).collect();
    for ends in ends.chunks(20) {
        let parts = ends.iter().map(|end| Part::Login(whole[..*end].to_vec())).collect();
        for (end, (_, reply)) in ends.iter().zip(logins(&moor, &server, parts)) {
            assert_eq!((reply.code(), reply.status), ("57P03", ' '), "cut at {end}: {reply:?}");
        }
    }
    bystander.content();
}

#[test]
fn a_login_that_is_none() {
    let server = Scripted::start();
    let moor = moor(&server);
    let before = moor.resident();
    let bystander = Bystander::start(moor.rw());
    let ok = frame(b'R', &[0; 4]);
    let parts = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        vec![0; 100],
        vec![b'R', 0x7f, 0xff, 0xff, 0xff],
        vec![b'R', 0, 0, 0, 0],
        vec![b'R', 0xff, 0xff, 0xff, 0xff],
        frame(b'R', &[0, 0, 0, 99]),
        frame(b'R', b""),
        frame(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]),
        frame(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
        frame(b'E', b"SFATAL"),
        frame(b'Z', b"I"),
        [ok.clone(), frame(b'Z', b"?")].concat(),
        [ok.clone(), frame(b'Z', b"T")].concat(),
        [ok.clone(), frame(b'K', b"")].concat(),
        [ok.clone(), frame(b'D', b"\0\0")].concat(),
        [ok.clone(), vec![b'S', 0x7f, 0xff, 0xff, 0xff]].concat(),
        // Notices and settings without an end.
        [ok.clone(), frame(b'N', &[b'n'; 9000]).repeat(5000)].concat(),
        [ok, (0..100_000).flat_map(|at| frame(b'S', format!("name{at}\0value\0").as_bytes())).collect()].concat(),
    ];
    let count = parts.len();
    let outcomes = logins(&moor, &server, parts.into_iter().map(Part::Login).collect());
    assert_eq!(outcomes.len(), count);
    for (at, (_, reply)) in outcomes.into_iter().enumerate() {
        assert_eq!((reply.code(), reply.status), ("08004", ' '), "login {at}: {reply:?}");
    }
    assert!(moor.resident() < before + (32 << 20), "{} bytes", moor.resident());
    bystander.content();
}

#[test]
fn a_reply_cut_at_every_byte() {
    let server = Scripted::start();
    let moor = moor(&server);
    let bystander = Bystander::start(moor.rw());
    let whole = answer();
    let complete = whole.len() - 6;
    let parts = (0..=whole.len()).map(|end| Part::Reply(whole[..end].to_vec())).collect();
    for (end, (mut raw, hello)) in logins(&moor, &server, parts).into_iter().enumerate() {
        assert_eq!(hello.status, 'I', "{hello:?}");
        let reply = raw.run("select 1");
        let expected = if end < complete { "08007" } else { "" };
        assert_eq!((reply.code(), reply.status), (expected, 'I'), "cut at {end}: {reply:?}");
        assert!(reply.done.len() == usize::from(end >= complete), "{reply:?}");
        // The session lives: it gets a new backend, which plays the same part again.
        assert_eq!(raw.run("select 1").status, 'I');
    }
    bystander.content();
}

#[test]
fn replies_that_are_none() {
    let server = Scripted::start();
    let moor = moor(&server);
    let before = moor.resident();
    let bystander = Bystander::start(moor.rw());
    let parts = vec![
        vec![0; 100],
        vec![b'Z', 0, 0, 0, 0],
        vec![b'D', 0xff, 0xff, 0xff, 0xff],
        vec![b'D', 0x7f, 0xff, 0xff, 0xff],
        frame(b'Z', b""),
        frame(b'Z', b"?"),
        frame(b'C', b"no end"),
        frame(b'E', b"no end"),
        frame(b'1', b""),
        frame(b'2', b""),
        frame(b'3', b""),
        frame(b'W', b"\0\0\0"),
        frame(b'R', &[0; 4]),
        frame(b'K', &[0; 8]),
        frame(b'v', &[0; 8]),
    ];
    for (at, (mut raw, hello)) in
        logins(&moor, &server, parts.into_iter().map(Part::Reply).collect()).into_iter().enumerate()
    {
        assert_eq!(hello.status, 'I');
        let reply = raw.run("select 1");
        assert_eq!((reply.code(), reply.status), ("08007", 'I'), "reply {at}: {reply:?}");
    }
    // What comes without being asked for ends that backend, not the session.
    let unasked = [answer(), answer(), frame(b'E', b"SERROR\0CXX000\0Mwhy\0\0")].concat();
    for (mut raw, hello) in logins(&moor, &server, vec![Part::Reply(unasked)]) {
        assert_eq!(hello.status, 'I');
        assert_eq!(raw.run("select 1").one(), "1");
        assert_eq!(raw.run("select 1").one(), "1");
    }
    // Broken off within a message whose beginning the client has already: nothing more can be said to it.
    let mut large = vec![b'D', 0, 0x10, 0, 0];
    large.resize(100_000, b'x');
    for (mut raw, _) in logins(&moor, &server, vec![Part::Reply(large)]) {
        raw.put(&query("select 1"));
        assert!(raw.closed());
    }
    bystander.content();
    assert!(!moor.ended() && moor.resident() < before + (16 << 20), "{} bytes", moor.resident());
}

#[test]
fn a_server_without_an_end() {
    let server = Scripted::start();
    let moor = moor(&server);
    let bystander = Bystander::start(moor.rw());
    let mut row = frame(b'D', &[0; 1000]);
    row[5..7].copy_from_slice(&[0, 0]);
    let notice = frame(b'N', &[b'n'; 60_000]);
    let before = moor.resident();
    let mut floods =
        logins(&moor, &server, vec![Part::Endless(row.clone()), Part::Endless(notice), Part::Endless(row)]);
    for (raw, _) in &mut floods {
        raw.put(&query("select 1"));
    }
    // Two of the clients read on and on, and hang up; the third reads nothing.
    let moved = moor.metric(r#"pgmoor_bytes_total{direction="to_client"}"#);
    let (first, others) = floods.split_at_mut(1);
    for (raw, _) in others {
        raw.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        for _ in 0..500 {
            if raw.frame().is_err() {
                break;
            }
        }
    }
    assert!(moor.metric(r#"pgmoor_bytes_total{direction="to_client"}"#) > moved);
    assert!(moor.resident() < before + (16 << 20), "{} bytes", moor.resident());
    assert!(!first.is_empty());
    drop(floods);
    until("the sessions to end", || (moor.status()?["sessions"]["attached"].as_u64()? <= 2).then_some(()));
    bystander.content();
}

#[test]
fn a_server_that_is_silent() {
    let server = Scripted::start();
    let moor = moor(&server);
    let bystander = Bystander::start(moor.rw());
    let began = Instant::now();
    let mut logins = logins(&moor, &server, vec![Part::Silent, Part::Mute]);
    let (mut mute, hello) = logins.pop().unwrap();
    let (_, silent) = logins.pop().unwrap();
    assert_eq!((silent.code(), silent.status), ("57P03", ' '), "{silent:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(hello.status, 'I');
    // After its login a server may take as long as it likes; the client may leave.
    mute.put(&query("select 1"));
    mute.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(mute.frame().is_err());
    mute.hang_up();
    bystander.content();
    until("the session to end", || (moor.status()?["sessions"]["attached"] == 0).then_some(()));
}
