//! An outbox between real sockets: nothing is lost, doubled, or out of order, whoever flushes and whatever a peer does.

use std::io::Read as _;
use std::net::{TcpListener as Listener, TcpStream as Peer};
use std::sync::atomic::AtomicBool;
use std::task::Wake;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::net::Socket;
use crate::net::pipe::Sink;

/// A thread of its own that gathers, with a runtime that never sleeps by itself.
struct Worker(Runtime);

impl Worker {
    fn new() -> Self {
        let ring = Ring::new().inspect_err(|error| eprintln!("without io_uring: {error}")).ok();
        OWN.set(Own::Outbox(Arc::new(Outbox::new(ring))));
        Self(Builder::new_current_thread().enable_io().build().unwrap())
    }

    /// Both ends of a connection; the other one gives up after a while.
    fn pair(&self) -> (Socket, Peer) {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        let near = Peer::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        near.set_nonblocking(true).unwrap();
        let near = {
            let _guard = self.0.enter();
            TcpStream::from_std(near).unwrap()
        };
        self.0.block_on(near.writable()).unwrap();
        (near.into(), far)
    }

    fn send(&self, socket: &mut Socket, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let _guard = self.0.enter();
        socket.poll_send(&mut Context::from_waker(waker), bytes)
    }

    /// Goes on until all of it is on its way.
    fn settle(&self, socket: &mut Socket) -> io::Result<bool> {
        self.0.block_on(poll_fn(|cx| socket.poll_settle(cx)))
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

fn sent(poll: Poll<io::Result<usize>>, bytes: &[u8]) {
    assert!(matches!(poll, Poll::Ready(Ok(count)) if count == bytes.len()), "{poll:?}");
}

fn hear(peer: &mut Peer, count: usize) -> Vec<u8> {
    let mut heard = vec![0; count];
    peer.read_exact(&mut heard).unwrap();
    heard
}

/// Nothing has come, and the connection stands.
fn is_silent(peer: &Peer) -> bool {
    peer.set_nonblocking(true).unwrap();
    let silent = peer.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    peer.set_nonblocking(false).unwrap();
    silent
}

#[test]
fn what_one_turn_sends_leaves_together_when_the_thread_is_about_to_sleep() {
    let worker = Worker::new();
    let mut pairs: Vec<_> = (0..5).map(|_| worker.pair()).collect();
    for (at, (socket, _)) in pairs.iter_mut().enumerate() {
        sent(worker.send(socket, &[at as u8; 7], Waker::noop()), &[0; 7]);
    }
    assert!(pairs.iter().all(|(_, peer)| is_silent(peer)));
    assert!(matches!(worker.settle(&mut pairs[0].0), Ok(false)), "it waits");
    before_sleep();
    for (at, (socket, peer)) in pairs.iter_mut().enumerate() {
        assert_eq!(hear(peer, 7), [at as u8; 7]);
        assert!(matches!(worker.settle(socket), Ok(true)));
    }
}

#[test]
fn as_many_as_may_wait_are_sent_at_once() {
    let worker = Worker::new();
    let mut pairs: Vec<_> = (0..MOST).map(|_| worker.pair()).collect();
    for (socket, peer) in &mut pairs {
        assert!(is_silent(peer));
        sent(worker.send(socket, b"x", Waker::noop()), b"x");
    }
    assert!(pairs.iter_mut().all(|(_, peer)| hear(peer, 1) == b"x"));
    let big = [7; SHORT];
    let ((mut one, mut peer), per_flush) = (worker.pair(), LARGEST / SHORT);
    let mut others: Vec<_> = (1..per_flush).map(|_| worker.pair()).collect();
    sent(worker.send(&mut one, &big, Waker::noop()), &big);
    assert!(is_silent(&peer));
    others.iter_mut().for_each(|(other, _)| sent(worker.send(other, &big, Waker::noop()), &big));
    assert_eq!(hear(&mut peer, SHORT), big);
}

#[test]
fn a_second_message_for_one_socket_stays_behind_the_first() {
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    for piece in [&b"one "[..], b"two ", b"three"] {
        sent(worker.send(&mut socket, piece, Waker::noop()), piece);
    }
    let long = vec![b'!'; SHORT + 1];
    sent(worker.send(&mut socket, &long, Waker::noop()), &long);
    assert_eq!(hear(&mut peer, 13), b"one two three");
    assert_eq!(hear(&mut peer, long.len()), long);
}

#[test]
fn what_is_written_past_the_outbox_goes_behind_what_waits() {
    use tokio::io::AsyncWriteExt as _;
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    sent(worker.send(&mut socket, b"first ", Waker::noop()), b"first ");
    worker.0.block_on(socket.write_all(b"second")).unwrap();
    sent(worker.send(&mut socket, b" last", Waker::noop()), b" last");
    worker.0.block_on(socket.shutdown()).unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "first second last");
}

#[test]
fn a_peer_that_does_not_read_is_owed_the_rest() {
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    let (mut other, mut glad) = worker.pair();
    SockRef::from(socket.tcp()).set_send_buffer_size(4096).unwrap();
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let mut all = Vec::new();
    for round in 0_u8..=255 {
        let piece = [round; SHORT];
        match worker.send(&mut socket, &piece, &waker) {
            Poll::Ready(count) => all.extend_from_slice(&piece[..count.unwrap()]),
            Poll::Pending => break,
        }
        sent(worker.send(&mut other, b"y", Waker::noop()), b"y");
        before_sleep();
    }
    assert!(flag.0.load(Ordering::Acquire), "who has something to do is woken");
    assert_eq!(hear(&mut glad, 1), b"y");
    let expected = all.len();
    let reader = thread::spawn(move || hear(&mut peer, expected));
    assert!(matches!(worker.settle(&mut socket), Ok(true)));
    assert_eq!(reader.join().unwrap(), all);
}

#[test]
fn a_broken_connection_is_told() {
    let worker = Worker::new();
    let (mut socket, peer) = worker.pair();
    let (mut other, mut glad) = worker.pair();
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer); // a reset
    let flag = Arc::new(Flag::default());
    sent(worker.send(&mut socket, b"lost", &Waker::from(Arc::clone(&flag))), b"lost");
    sent(worker.send(&mut other, b"kept", Waker::noop()), b"kept");
    before_sleep();
    assert!(flag.0.load(Ordering::Acquire));
    assert_eq!(hear(&mut glad, 4), b"kept");
    for _ in 0..2 {
        let error = worker.settle(&mut socket).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    }
    assert!(matches!(worker.send(&mut socket, b"more", Waker::noop()), Poll::Ready(Err(_))));
}

/// The number of a descriptor that was closed is given out again: what waits for the old connection must not reach the new.
#[test]
fn what_waits_is_sent_before_its_socket_is_closed() {
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    let number = socket.tcp().as_raw_fd();
    sent(worker.send(&mut socket, b"last word", Waker::noop()), b"last word");
    drop(socket);
    let again: Vec<_> = (0..8).map(|_| worker.pair()).collect();
    assert!(again.iter().any(|(socket, _)| socket.tcp().as_raw_fd() == number));
    before_sleep();
    assert!(again.iter().all(|(_, peer)| is_silent(peer)));
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last word");
}

#[test]
fn a_session_may_go_on_on_another_thread() {
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    let (mut left, mut heir) = worker.pair();
    sent(worker.send(&mut socket, b"here ", Waker::noop()), b"here ");
    sent(worker.send(&mut left, b"bye", Waker::noop()), b"bye");
    thread::scope(|scope| {
        scope.spawn(|| {
            OWN.set(Own::Outbox(Arc::new(Outbox::new(Ring::new().ok()))));
            assert!(matches!(worker.settle(&mut socket), Ok(false)));
            sent(worker.send(&mut socket, b"and there ", Waker::noop()), b"and there ");
            drop(left);
            before_sleep();
        });
    });
    sent(worker.send(&mut socket, b"and back", Waker::noop()), b"and back");
    before_sleep();
    assert_eq!(hear(&mut peer, 23), b"here and there and back");
    assert_eq!(hear(&mut heir, 3), b"bye");
}

#[test]
fn a_thread_that_says_nothing_of_its_sleep_sends_at_once() {
    let worker = Worker::new();
    OWN.set(Own::Nothing);
    let (mut socket, mut peer) = worker.pair();
    sent(worker.send(&mut socket, b"now", Waker::noop()), b"now");
    assert_eq!(hear(&mut peer, 3), b"now");
}

#[test]
fn without_a_ring_it_is_the_same() {
    let worker = Worker::new();
    OWN.set(Own::Outbox(Arc::new(Outbox::new(None))));
    let (mut one, mut first) = worker.pair();
    let (mut two, mut second) = worker.pair();
    sent(worker.send(&mut one, b"one", Waker::noop()), b"one");
    sent(worker.send(&mut two, b"two", Waker::noop()), b"two");
    assert!(is_silent(&first));
    before_sleep();
    assert_eq!((hear(&mut first, 3), hear(&mut second, 3)), (b"one".to_vec(), b"two".to_vec()));
}

/// What is done between a few sockets.
#[derive(Clone, Debug)]
enum Act {
    Send(usize, usize),
    Read(usize, usize),
    Settle(usize),
    Sleep,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..3_usize, prop_oneof![1..40_usize, 1..=SHORT, SHORT + 1..3 * SHORT]).prop_map(|(of, count)| Act::Send(of, count)),
        3 => (0..3_usize, 1..20_000_usize).prop_map(|(of, count)| Act::Read(of, count)),
        1 => (0..3_usize).prop_map(Act::Settle),
        2 => Just(Act::Sleep),
    ];
    prop::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// Peers with little room that read now and then: each gets exactly what was taken for it, in order.
    #[test]
    fn each_peer_gets_what_was_taken_for_it(acts in acts()) {
        let worker = Worker::new();
        let mut pairs: Vec<_> = (0..3).map(|_| worker.pair()).collect();
        let mut taken: Vec<Vec<u8>> = vec![Vec::new(); 3];
        let mut heard: Vec<Vec<u8>> = vec![Vec::new(); 3];
        for (socket, peer) in &pairs {
            SockRef::from(socket.tcp()).set_send_buffer_size(4096).unwrap();
            SockRef::from(peer).set_recv_buffer_size(16 * 1024).unwrap();
            peer.set_nonblocking(true).unwrap();
        }
        let mut next = 0_u8;
        for act in acts {
            match act {
                Act::Send(of, count) => {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    if let Poll::Ready(count) = worker.send(&mut pairs[of].0, &bytes, Waker::noop()) {
                        taken[of].extend_from_slice(&bytes[..count.unwrap()]);
                    }
                }
                Act::Read(of, count) => {
                    let mut room = vec![0; count];
                    if let Ok(count) = pairs[of].1.read(&mut room) {
                        heard[of].extend_from_slice(&room[..count]);
                    }
                }
                Act::Settle(of) => {
                    let _guard = worker.0.enter();
                    let _ = pairs[of].0.poll_settle(&mut Context::from_waker(Waker::noop()));
                }
                Act::Sleep => before_sleep(),
            }
        }
        for (((mut socket, mut peer), taken), mut heard) in pairs.into_iter().zip(taken).zip(heard) {
            peer.set_nonblocking(false).unwrap();
            let left = taken.len() - heard.len();
            let reader = thread::spawn(move || hear(&mut peer, left));
            before_sleep();
            prop_assert!(worker.settle(&mut socket).unwrap());
            heard.extend(reader.join().unwrap());
            prop_assert!(heard == taken);
        }
    }
}

#[test]
fn what_takes_long_is_preceded_by_what_waits() {
    let worker = Worker::new();
    let (mut socket, mut peer) = worker.pair();
    sent(worker.send(&mut socket, b"one", Waker::noop()), b"one");
    worker.0.block_on(before_each(async { assert_eq!(hear(&mut peer, 3), b"one") }));
    let (mut other, _far) = worker.pair();
    let long = [0; SHORT + 1];
    sent(worker.send(&mut socket, b"two", Waker::noop()), b"two");
    sent(worker.send(&mut other, &long, Waker::noop()), &long);
    assert_eq!(hear(&mut peer, 3), b"two", "before many bytes for another");
}
