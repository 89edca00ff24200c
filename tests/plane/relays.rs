//! What the relay does to a connection, mode by mode.
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::SOON;
use crate::cluster::ports::free_port;
use crate::cluster::relay::{Direction, Mode, Relay};
use crate::cluster::trouble::eventually;

#[tokio::test]
async fn a_relay_passes_stalls_and_drops_each_direction_by_itself() {
    let relay = Relay::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"one").await, b"one");
    relay.set_direction(Direction::FromTarget, Mode::Stall);
    assert_eq!(say(&mut stream, b"two").await, b"", "held");
    relay.set(Mode::Pass);
    assert_eq!(hear(&mut stream).await, b"two", "nothing is lost by a stall");
    relay.set_direction(Direction::ToTarget, Mode::Drop);
    assert_eq!(say(&mut stream, b"three").await, b"", "gone");
    relay.set(Mode::Pass);
    assert_eq!(say(&mut stream, b"four").await, b"four", "the connection lived on, the lost bytes stay lost");
    relay.set(Mode::Stall);
    let mut late = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(say(&mut late, b"late").await, b"", "accepted and held");
    relay.set(Mode::Pass);
    assert_eq!(hear(&mut late).await, b"late");
    late.shutdown().await.unwrap();
    assert_eq!(late.read(&mut [0]).await.unwrap(), 0, "an end of stream goes through, in good order");
}

#[tokio::test]
async fn a_relay_cuts_refuses_resets_and_retargets() {
    let relay = Relay::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    assert_eq!(say(&mut stream, b"one").await, b"one");
    assert_eq!(relay.connections(), 1);
    relay.set(Mode::Cut);
    let reset = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let refused = || async { TcpStream::connect(relay.address()).await.err().map(|error| error.kind()) };
    assert_eq!(eventually("a refusal", SOON, refused).await.unwrap(), ErrorKind::ConnectionRefused);
    relay.set(Mode::Pass);
    let taken = || async { TcpStream::connect(relay.address()).await.ok() };
    let mut stream = eventually("to be taken again", SOON, taken).await.unwrap();
    assert_eq!(say(&mut stream, b"two").await, b"two");

    let nobody = free_port(Ipv4Addr::LOCALHOST).unwrap();
    relay.retarget(nobody);
    assert_eq!(say(&mut stream, b"three").await, b"three", "who is connected stays where it is");
    relay.reset();
    assert!(stream.read(&mut [0]).await.is_err(), "until a reset");
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    assert!(stream.read(&mut [0]).await.is_err(), "a target that refuses shows as a reset");
    let gone = || async { (relay.connections() == 0).then_some(()) };
    eventually("every connection to be counted out", SOON, gone).await.unwrap();
}

/// A server that says again what it hears.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    address
}

async fn say(stream: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).await.unwrap();
    hear(stream).await
}

/// What comes within a while that is long for a loopback; empty when nothing does.
async fn hear(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = vec![0; 64];
    let count = match tokio::time::timeout(Duration::from_millis(300), stream.read(&mut heard)).await {
        Ok(count) => count.unwrap(),
        Err(_) => 0,
    };
    heard.truncate(count);
    heard
}
