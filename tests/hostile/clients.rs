//! Clients that do not speak the protocol, speak it badly, or not at all.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::bystander::Bystander;
use super::pair::{Moor, Plan, shared, until};
use super::raw::{Raw, bind, execute, frame, parse, query, startup, sync, with_length};

/// Sends `bytes`, closes its side, and reads what comes until the end. Nothing may take longer than `PATIENCE`.
fn throw(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no close after {bytes:?}"),
        Ok(_) | Err(_) => said,
    }
}

/// The same with the connection left open: pgmoor itself must end it.
fn throw_and_wait(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut raw = Raw::open(server).unwrap();
    raw.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    raw.put(bytes);
    let reply = raw.reply();
    assert_eq!(reply.status, ' ', "{bytes:?} was accepted: {reply:?}");
    reply.code().as_bytes().to_vec()
}

fn login() -> Vec<u8> {
    startup(0x0003_0000, &[("user", "app"), ("database", "app"), ("options", "-c work_mem=5MB"), ("_pq_.x", "1")])
}

#[test]
fn startup_packets_cut_at_each_byte_or_with_a_byte_changed() {
    let pair = shared();
    let moor = pair.moor();
    let before = moor.resident();
    let bystander = Bystander::start(moor.rw());
    let whole = login();
    for end in 0..whole.len() {
        assert_eq!(throw(moor.rw(), &whole[..end]), b"", "cut at {end}");
    }
    for at in 0..whole.len() {
        for value in [0, 0xff, whole[at] ^ 0x20] {
            let mut broken = whole.clone();
            broken[at] = value;
            let said = throw(moor.rw(), &broken);
            assert!(said.is_empty() || matches!(said[0], b'E' | b'R' | b'v' | b'N'), "byte {at} = {value}: {said:?}");
        }
    }
    bystander.content();
    assert!(!moor.ended());
    assert!(moor.resident() < before + (16 << 20), "{} bytes", moor.resident());
}

#[test]
fn lengths_and_requests_no_client_sends_are_refused_at_once() {
    let pair = shared();
    let moor = pair.moor();
    let bystander = Bystander::start(moor.rw());
    let code = |bytes: &[u8]| String::from_utf8(throw_and_wait(moor.rw(), bytes)).unwrap();
    let began = Instant::now();
    for length in [0_u32, 1, 3, 4, 7, 10_001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let mut packet = length.to_be_bytes().to_vec();
        packet.extend(0x0003_0000_u32.to_be_bytes());
        assert_eq!(code(&packet), "08P01", "length {length:x}");
    }
    for other in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 64],
    ] {
        assert_eq!(code(other), "08P01", "{other:?}");
    }
    assert_eq!(code(&startup(0x0003_0000, &[])), "08P01", "no user");
    assert_eq!(code(&startup(0x0004_0000, &[("user", "app")])), "08P01", "protocol 4");
    assert_eq!(code(&startup(0x0003_0000, &[("user", "app"), ("database", "app"), ("replication", "true")])), "0A000");
    let mut requests = Vec::new();
    for _ in 0..10 {
        requests.extend(with_length(&80_877_104_u32.to_be_bytes()));
    }
    let mut raw = Raw::open(moor.rw()).unwrap();
    raw.put(&requests);
    for _ in 0..4 {
        assert_eq!(raw.byte().unwrap(), b'N');
    }
    assert_eq!(raw.reply().code(), "08P01", "nobody asks for ever");
    for cancel in [
        &80_877_102_u32.to_be_bytes()[..],
        &[&80_877_102_u32.to_be_bytes()[..], &[0; 300]].concat(),
        &[&80_877_102_u32.to_be_bytes()[..], &[1; 8]].concat(),
    ] {
        let said = throw_and_wait(moor.rw(), &with_length(cancel));
        assert!(said.is_empty() || said == b"08P01");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "nothing waits for the login timeout");
    bystander.content();
}

#[test]
fn garbage_instead_of_a_password() {
    let pair = shared();
    let plan = Plan {
        auth: "users_file = \"users.toml\"".to_owned(),
        users: "[[user]]\nname = \"app\"\npassword = \"p\"\n".to_owned(),
        ..pair.plan()
    };
    let moor = Moor::start(&plan);
    let first = |data: &[u8]| {
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        body.extend(data);
        frame(b'p', &body)
    };
    let good = first(b"n,,n=,r=abcdefghijklmnopqrstuvwx");
    for (answer, code) in [
        (query("select 1"), "08P01"),
        (frame(b'X', b""), "08P01"),
        (frame(b'p', b""), "08P01"),
        (frame(b'p', b"SCRAM-SHA-1\0\0\0\0\0"), "08P01"),
        (frame(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"), "08P01"),
        (frame(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xff"), "08P01"),
        (first(b""), "08P01"),
        (first(&[0xff; 100]), "08P01"),
        (first(b"p=tls-unique,,n=,r=abc"), "08P01"),
        (vec![b'p', 0, 0, 0, 0], "08P01"),
        (vec![b'p', 0xff, 0xff, 0xff, 0xff], "08P01"),
        (vec![b'p', 0x7f, 0xff, 0xff, 0xff], "08P01"),
        (vec![0; 5], "08P01"),
        ([good.clone(), frame(b'p', b"")].concat(), "08P01"),
        ([good.clone(), frame(b'p', b"c=biws,r=other,p=AAAA")].concat(), "08P01"),
        ([good.clone(), frame(b'p', &[b'c'; 60_000])].concat(), "08P01"),
        ([good, query("drop table x")].concat(), "08P01"),
    ] {
        let mut raw = Raw::open(moor.rw()).unwrap();
        raw.put(&startup(0x0003_0000, &[("user", "app"), ("database", "app")]));
        assert_eq!(raw.frame().unwrap().0, b'R');
        raw.put(&answer);
        let reply = raw.reply();
        assert_eq!((reply.code(), reply.status), (code, ' '), "{answer:?}: {reply:?}");
    }
}

#[test]
fn sessions_that_turn_to_garbage_at_every_byte() {
    let pair = shared();
    let moor = pair.moor();
    let before = moor.resident();
    let bystander = Bystander::start(moor.rw());
    let good =
        [parse("s", "select $1::int"), bind("", "s", &["1"]), execute("", 0), sync(), query("select 2")].concat();
    // Cut: the client goes in the midst of a frame.
    for end in (0..good.len()).step_by(3) {
        let mut raw = Raw::login(moor.rw());
        raw.put(&good[..end]);
        raw.hang_up();
    }
    // A length word that is none, in each frame.
    for (tag, length) in
        [(b'P', 0_u32), (b'B', 3), (b'E', 0x8000_0000), (b'S', 0xffff_ffff), (b'Q', 0x7fff_ffff), (b'd', 0xffff_fffe)]
    {
        let mut raw = Raw::login(moor.rw());
        raw.put(&[&[tag][..], &length.to_be_bytes()].concat());
        let reply = raw.reply();
        assert!(matches!(reply.code(), "08P01" | "54000") && reply.status == ' ', "{tag} {length:x}: {reply:?}");
    }
    // Every type of message, with a body that fits none: an error of one side or the other, or nothing; never a hang.
    for tag in 1..=255_u8 {
        let mut raw = Raw::login(moor.rw());
        raw.put(&[frame(tag, &[0xfe; 20]), sync(), frame(b'X', b"")].concat());
        raw.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(raw.closed(), "type {tag} hangs");
    }
    bystander.content();
    assert!(!moor.ended());
    until("every session to be gone", || (moor.status()?["sessions"]["attached"] == 0).then_some(()));
    assert!(moor.resident() < before + (24 << 20), "{} bytes", moor.resident());
}

#[test]
fn a_thousand_half_open_connections_are_let_go_and_nobody_notices() {
    let pair = shared();
    let limits = "startup_sessions = 1010\nlogin_timeout = \"4s\"".to_owned();
    let moor = Moor::start(&Plan { limits, ..pair.plan() });
    let before = moor.resident();
    let bystander = Bystander::start(moor.rw());
    let began = Instant::now();
    let whole = login();
    let mut half: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(moor.rw()).unwrap()).collect();
    for (at, stream) in half.iter_mut().enumerate() {
        stream.write_all(&whole[..at % 40]).unwrap();
    }
    until("all of them to be accepted", || {
        (moor.metric(r#"pgmoor_sessions{endpoint="rw",state="login"}"#) >= 990.0).then_some(())
    });
    assert!(moor.resident() < before + (40 << 20), "{} bytes", moor.resident());
    // One byte now and then does not buy time: the login has one deadline.
    let mut slow = TcpStream::connect(moor.rw()).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let started = Instant::now();
    let mut bytes = whole.iter();
    loop {
        let _ = bytes.next().map(|byte| slow.write_all(&[*byte]));
        let mut answer = [0; 1];
        match slow.read(&mut answer) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => break,
        }
        assert!(started.elapsed() < Duration::from_secs(10), "a slow login is let in for ever");
    }
    for stream in &mut half {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.windows(5).any(|code| code == b"08006"), "told of its deadline: {said:?}");
    }
    assert!(
        began.elapsed() > Duration::from_secs(4) && began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    bystander.content();
    // One more than allowed is told so at once.
    drop(half);
    let full = Moor::start(&Plan { limits: "startup_sessions = 2".to_owned(), ..pair.plan() });
    let waiting = [TcpStream::connect(full.rw()).unwrap(), TcpStream::connect(full.rw()).unwrap()];
    until("both to be accepted", || {
        (full.metric(r#"pgmoor_sessions{endpoint="rw",state="login"}"#) == 2.0).then_some(())
    });
    assert_eq!(throw_and_wait(full.rw(), &login()), b"53300");
    drop(waiting);
    until("a place", || (Raw::open(full.rw()).unwrap().start(&[]).status == 'I').then_some(()));
}
