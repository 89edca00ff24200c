//! Servers that break off, stall, lie or talk too much; in memory, in a time of their own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use pgmoor::continuity::ear::{ANSWER, CATCH_UP, Channel, GRACE};
use pgmoor::net::{Dial, Dialer, Stream};
use pgmoor::session::ear::Subscription;
use pgmoor::topology::evidence::Suspicion;
use pgmoor::wire::message::write::backend as write;
use pgmoor::wire::{CancelKey, TxStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{SILENCE, Stage, payload, pod, silent};

/// Connections as the servers get them: to which address, and their end of it.
type Door = mpsc::UnboundedReceiver<(SocketAddr, DuplexStream)>;

fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 5432).into()
}

/// Two pods, `a` at 10.0.0.1 the primary and `b` at 10.0.0.2, connections to which come out of the door.
fn stage() -> (Stage, Door) {
    let (sender, door) = mpsc::unbounded_channel();
    let dialer: Dialer = Arc::new(move |to| {
        let (near, far) = tokio::io::duplex(4096);
        let taken = sender.send((to, far)).map_err(|_| std::io::ErrorKind::ConnectionRefused.into());
        Box::pin(std::future::ready(taken.map(|()| Stream::Memory(Box::new(near)))))
    });
    let pods = [("a", address(1)), ("b", address(2))];
    (Stage::with(&pods, Some("a"), Dial::Memory(dialer)), door)
}

fn subscribe(stage: &Stage, channels: &[&str]) -> Subscription {
    let subscription = stage.ears.subscribe(&stage.realm, stage.caller("app"));
    channels.iter().for_each(|channel| subscription.add(&Channel::from(*channel)));
    subscription
}

/// Waits until the server listens to this channel. Not for ever: in this time of its own, for ever takes no time.
async fn confirmed(listener: &Subscription, channel: &str) {
    timeout(Duration::from_secs(60), listener.confirmed(&channel.into())).await.unwrap().unwrap();
}

/// The server's end of one connection.
struct Server {
    socket: DuplexStream,
    unread: BytesMut,
}

impl Server {
    /// Takes a connection and lets it in, up to and without the first LISTEN.
    async fn let_in(door: &mut Door) -> (SocketAddr, Self) {
        let (to, socket) = timeout(Duration::from_secs(60), door.recv()).await.unwrap().unwrap();
        let mut server = Self { socket, unread: BytesMut::new() };
        let length = server.socket.read_u32().await.unwrap();
        let mut startup = vec![0; length as usize - 4];
        server.socket.read_exact(&mut startup).await.unwrap();
        let startup = String::from_utf8_lossy(&startup).into_owned();
        assert!(startup.contains("application_name\0pgmoor listen\0client_encoding\0UTF8\0"), "{startup:?}");
        server
            .say(|out| {
                write::authentication_ok(out);
                write::backend_key_data(out, &CancelKey { process_id: 42, secret: vec![1, 2, 3, 4] });
                write::ready_for_query(out, TxStatus::Idle);
            })
            .await;
        assert!(server.query().await.unwrap().contains("idle_session_timeout"));
        server.answer().await;
        (to, server)
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        // A proxy that has left is none of the server's business.
        let _ = self.socket.write_all(bytes).await;
    }

    async fn say(&mut self, message: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        message(&mut out);
        self.bytes(&out).await;
    }

    /// The next query; `None` at a goodbye or the end.
    async fn query(&mut self) -> Option<String> {
        loop {
            if let Some(&[tag, a, b, c, d]) = self.unread.first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.unread.len() > length {
                    let frame = self.unread.split_to(length + 1);
                    let text = String::from_utf8_lossy(&frame[5..]).trim_end_matches('\0').to_owned();
                    return (tag == b'Q').then_some(text);
                }
            }
            if self.socket.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn answer(&mut self) {
        self.say(|out| {
            write::command_complete(out, "LISTEN");
            write::ready_for_query(out, TxStatus::Idle);
        })
        .await;
    }

    async fn notify(&mut self, channel: &str, payload: &str) {
        self.say(|out| write::notification_response(out, 9, channel, payload)).await;
    }

    /// Takes one LISTEN as PostgreSQL would.
    async fn listened(&mut self) -> String {
        let query = self.query().await.unwrap();
        assert!(query.starts_with("LISTEN"), "{query}");
        self.answer().await;
        query
    }

    /// Says nothing more; gives what else is said to it up to the end.
    async fn rest(mut self) -> Vec<u8> {
        let mut bytes = self.unread.to_vec();
        let _ = self.socket.read_to_end(&mut bytes).await;
        bytes
    }
}

/// What an ear has to close its connection for, said after its LISTEN.
fn lies() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    vec![
        ("noise", vec![0xff; 200]),
        ("zeros", vec![0; 64]),
        ("a page of HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a notification of a gigabyte", b"A\x40\0\0\0\0\0\0\x01c\0".to_vec()),
        ("one that claims no length", b"A\0\0\0\x03".to_vec()),
        ("one that is not terminated", b"A\0\0\0\x0a\0\0\0\x01cc".to_vec()),
        ("one with something behind it", b"A\0\0\0\x0f\0\0\0\x01c\0p\0xyz".to_vec()),
        ("rows", frame(&|out| write::data_row(out, &[Some(b"1")]))),
        ("a login", frame(&|out| write::authentication_ok(out))),
        ("an open transaction", frame(&|out| write::ready_for_query(out, TxStatus::InTransaction))),
        ("a ReadyForQuery that is none", b"Z\0\0\0\x04".to_vec()),
        ("an answer too many", {
            let mut out = frame(&|out| write::ready_for_query(out, TxStatus::Idle));
            out.extend(frame(&|out| write::ready_for_query(out, TxStatus::Idle)));
            out
        }),
        ("an error that is none", b"E\0\0\0\x08SERR".to_vec()),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lies_is_left_and_the_next_try_is_as_good_as_the_first() {
    for (lie, bytes) in lies() {
        let (stage, mut door) = stage();
        let listener = subscribe(&stage, &["c"]);
        let (_, mut server) = Server::let_in(&mut door).await;
        server.query().await.unwrap();
        server.bytes(&bytes).await;
        let said = timeout(Duration::from_secs(1), server.rest()).await;
        assert!(said.is_ok(), "{lie}: the connection stays");
        assert!(stage.doubts.lock().unwrap().contains(&(pod("a"), Suspicion::Vanished)), "{lie}");
        let (_, mut server) = Server::let_in(&mut door).await;
        assert_eq!(server.listened().await, "LISTEN \"c\";", "{lie}");
        confirmed(&listener, "c").await;
        server.notify("c", "good").await;
        assert_eq!(payload(&listener).await, "good", "{lie}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_breaks_off_again_and_again_is_not_asked_in_a_storm() {
    let (stage, mut door) = stage();
    let _listener = subscribe(&stage, &["c"]);
    let until = Instant::now() + Duration::from_secs(10);
    let mut times = 0;
    while timeout(until - Instant::now(), async {
        let (_, server) = Server::let_in(&mut door).await;
        drop(server);
    })
    .await
    .is_ok()
    {
        times += 1;
        assert!(times < 60, "within {:?}", until - Instant::now());
    }
    assert!(times > 20, "{times} times in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_left_after_a_while() {
    let (stage, mut door) = stage();
    let listener = subscribe(&stage, &["c"]);
    let (_, mut server) = Server::let_in(&mut door).await;
    server.query().await.unwrap();
    let began = Instant::now();
    server.rest().await;
    assert_eq!(began.elapsed().as_secs(), ANSWER.as_secs());
    assert!(timeout(SILENCE, listener.confirmed(&"c".into())).await.is_err());
    // Now it stalls in the login.
    let (_, socket) = door.recv().await.unwrap();
    let began = Instant::now();
    let mut stalled = Server { socket, unread: BytesMut::new() };
    stalled.unread.reserve(1024);
    while stalled.socket.read_buf(&mut stalled.unread).await.unwrap() > 0 {}
    assert!((4..=5).contains(&began.elapsed().as_secs()), "the login's own limit");
    assert!(stage.doubts.lock().unwrap().contains(&(pod("a"), Suspicion::ConnectFailed)));
    let mut good = Server::let_in(&mut door).await.1;
    good.listened().await;
    confirmed(&listener, "c").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_a_server_that_stalls() {
    let (stage, mut door) = stage();
    let listener = subscribe(&stage, &["c"]);
    let mut server = Server::let_in(&mut door).await.1;
    server.listened().await;
    confirmed(&listener, "c").await;

    let began = Instant::now();
    listener.passed(listener.moment()).await;
    assert!((CATCH_UP..CATCH_UP * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    // The next waits anew: the question is still out, and its own is not sent yet.
    let began = Instant::now();
    listener.passed(listener.moment()).await;
    assert!((CATCH_UP..CATCH_UP * 2).contains(&began.elapsed()), "{:?}", began.elapsed());

    stage.show(Some("b"));
    let began = Instant::now();
    stage.ears.ready(&stage.home, &pod("b")).await;
    assert!((GRACE..GRACE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    let began = Instant::now();
    stage.ears.ready(&stage.home, &pod("b")).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "who comes later does not wait again");
}

#[tokio::test(start_paused = true)]
async fn what_has_arrived_from_a_superseded_primary_is_told_and_nothing_is_said_to_it() {
    let (stage, mut door) = stage();
    let listener = subscribe(&stage, &["c"]);
    let (to, mut old) = Server::let_in(&mut door).await;
    assert_eq!(to, address(1));
    old.listened().await;
    confirmed(&listener, "c").await;

    // All at once: it says something, is superseded, and a channel is wanted. The ear has not looked in between.
    for n in 0..20 {
        old.notify("c", &n.to_string()).await;
    }
    listener.add(&"d".into());
    listener.passed(listener.moment()).await; // needs a look: so the question of `d` is out
    let mut said = old.query().await.unwrap();
    assert_eq!(said, "LISTEN \"d\";");
    for n in 20..40 {
        old.notify("c", &n.to_string()).await;
    }
    listener.add(&"e".into());
    stage.show(Some("b"));
    let (to, mut new) = Server::let_in(&mut door).await;
    assert_eq!(to, address(2));
    for n in 0..40 {
        assert_eq!(payload(&listener).await, n.to_string());
    }
    assert_eq!(old.rest().await, b"", "not even a goodbye");
    // What was promised goes first, the others follow.
    said.clear();
    while said.len() < "LISTEN \"c\";LISTEN \"d\";LISTEN \"e\";".len() {
        said += &new.listened().await;
    }
    assert_eq!(said, "LISTEN \"c\";LISTEN \"d\";LISTEN \"e\";");
    stage.ears.ready(&stage.home, &pod("b")).await;
    silent(&listener).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_may_come_one_by_one_and_much_may_come_before_an_answer() {
    let (stage, mut door) = stage();
    let listener = subscribe(&stage, &["c"]);
    let (_, mut server) = Server::let_in(&mut door).await;
    server.listened().await;
    let mut out = BytesMut::new();
    write::notification_response(&mut out, 9, "c", "in pieces");
    write::notification_response(&mut out, 9, "nobody's", "");
    while out.has_remaining() {
        server.bytes(&out.split_to(1)).await;
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(payload(&listener).await, "in pieces");
    // It does not read before it has told everything, while there is much to be said to it.
    let names: VecDeque<Channel> = (0..1000).map(|n| Channel::from(&*format!("{n:060}"))).collect();
    names.iter().for_each(|name| listener.add(name));
    for n in 0..1000 {
        server.notify("c", &format!("{n} {}", "x".repeat(100))).await;
    }
    for n in 0..1000 {
        assert!(payload(&listener).await.starts_with(&format!("{n} ")));
    }
    let answering = tokio::spawn(async move {
        while server.query().await.is_some() {
            server.answer().await
        }
    });
    for name in &names {
        listener.confirmed(name).await.unwrap();
    }
    drop(listener);
    timeout(Duration::from_secs(1), answering).await.unwrap().unwrap();
}
