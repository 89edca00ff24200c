//! Servers that break off, stall, or talk nonsense: every login ends, and none ends well.

use bytes::BytesMut;
use pgmoor::auth::Credentials;
use pgmoor::backend::ConnectError;
use pgmoor::wire::TxStatus;
use pgmoor::wire::message::write::backend as write;

use crate::fake::{Fake, Talk, connect, log_in, raw, shortly, soon, welcome};
use crate::password;

fn welcome_bytes() -> Vec<u8> {
    let mut out = BytesMut::new();
    welcome(&mut out);
    out.to_vec()
}

/// A login with a server that sends `bytes` and then hangs up.
async fn after(bytes: Vec<u8>) -> Result<(), ConnectError> {
    let fake = Fake::serve(async move |mut talk: Talk| {
        talk.startup().await;
        // The client may have gone before all was sent.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut talk.socket, &bytes).await;
    })
    .await;
    connect(&fake, &password("pencil"), &[]).await.map(drop)
}

#[tokio::test]
async fn a_server_that_hangs_up_at_any_byte_is_unreachable() {
    let whole = welcome_bytes();
    for end in 0..whole.len() {
        let error = after(whole[..end].to_vec()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable(_)), "after {end} bytes: {error}");
        assert!(error.is_transient());
    }
    after(whole).await.unwrap();
}

#[tokio::test]
async fn a_login_may_come_in_any_pieces() {
    let whole = welcome_bytes();
    for cut in 1..whole.len() {
        let bytes = whole.clone();
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            talk.socket.socket().unwrap().set_nodelay(true).unwrap();
            talk.bytes(&bytes[..cut]).await;
            tokio::task::yield_now().await;
            talk.bytes(&bytes[cut..]).await;
        })
        .await;
        let backend = connect(&fake, &Credentials::None, &[]).await.unwrap();
        assert_eq!(backend.parameters.len(), 2);
    }
}

#[tokio::test]
async fn bytes_behind_the_last_message_are_kept() {
    let mut bytes = welcome_bytes();
    bytes.extend_from_slice(b"S\0\0");
    let fake = Fake::serve(async move |mut talk: Talk| {
        talk.startup().await;
        talk.bytes(&bytes).await;
        talk.silence().await;
    })
    .await;
    let backend = connect(&fake, &Credentials::None, &[]).await.unwrap();
    // They came in one write; had they been cut off, they would still be in the socket.
    assert!(b"S\0\0".starts_with(&backend.received[..]));
}

fn frames(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

/// Messages that do not belong to a login, by name.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let ok = frames(write::authentication_ok);
    let behind_ok = |bytes: &[u8]| [&ok, bytes].concat();
    vec![
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("a huge message", b"R\x7f\xff\xff\xff".to_vec()),
        ("a message beyond 64 KiB", b"R\0\x01\0\0".to_vec()),
        ("a negative length", b"R\xff\xff\xff\xff".to_vec()),
        ("a length below its own", b"R\0\0\0\x03".to_vec()),
        ("zeros", vec![0; 100]),
        ("a row before anything", frames(|out| raw(out, b'D', b"\0\0"))),
        ("ready without a login", frames(|out| write::ready_for_query(out, TxStatus::Idle))),
        ("an empty authentication", frames(|out| raw(out, b'R', b""))),
        ("a short salt", frames(|out| raw(out, b'R', b"\0\0\0\x05ab"))),
        ("Kerberos", frames(|out| raw(out, b'R', b"\0\0\0\x02"))),
        ("GSSAPI", frames(|out| raw(out, b'R', b"\0\0\0\x07"))),
        ("SASL continued before it began", frames(|out| raw(out, b'R', b"\0\0\0\x0br=x"))),
        ("SASL ended before it began", frames(|out| raw(out, b'R', b"\0\0\0\x0cv=x"))),
        ("a list of mechanisms without an end", frames(|out| raw(out, b'R', b"\0\0\0\x0aSCRAM"))),
        ("an error without an end", frames(|out| raw(out, b'E', b"SFATAL\0C28000"))),
        ("a second login", behind_ok(&ok)),
        ("a row", behind_ok(&frames(|out| raw(out, b'D', b"\0\0")))),
        ("a key too short", behind_ok(&frames(|out| raw(out, b'K', b"\0\0\0\x01ab")))),
        ("a key too long", behind_ok(&frames(|out| raw(out, b'K', &[7; 300])))),
        ("a setting without an end", behind_ok(&frames(|out| raw(out, b'S', b"a\0b")))),
        ("an unknown status", behind_ok(&frames(|out| raw(out, b'Z', b"X")))),
        ("a transaction nobody began", behind_ok(&frames(|out| write::ready_for_query(out, TxStatus::InTransaction)))),
    ]
}

#[tokio::test]
async fn nonsense_ends_the_login() {
    for (what, bytes) in nonsense() {
        let error = after(bytes).await.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(_)), "{what}: {error}");
        assert!(!error.is_transient(), "{what}");
    }
}

#[tokio::test]
async fn a_mechanism_we_do_not_speak_is_an_authentication_fault() {
    for offered in [&["SCRAM-SHA-256-PLUS"][..], &["OAUTHBEARER"], &[]] {
        let error = after(frames(|out| write::authentication_sasl(out, offered))).await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth(_)), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_never_stops_talking_is_left() {
    let setting = |number: usize| frames(move |out| write::parameter_status(out, format!("setting{number}"), "x"));
    let notice = frames(|out| raw(out, b'N', &[b"SNOTICE\0M".as_slice(), &[b'x'; 60_000], b"\0\0"].concat()));
    let ok = frames(write::authentication_ok);
    let many: Vec<u8> = (0..1000).flat_map(setting).collect();
    for endless in [many, notice.repeat(20)] {
        let error = after([ok.clone(), endless, welcome_bytes()[ok.len()..].to_vec()].concat()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline() {
    for said in [0, 1, 9, 20] {
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            talk.bytes(&welcome_bytes()[..said]).await;
            talk.rest().await
        })
        .await;
        let error = log_in(&fake.target(), &Credentials::None, &[], shortly()).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut), "{error}");
        assert!(error.is_transient());
        assert_eq!(fake.end().await, b"", "the socket was closed");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let fake = Fake::serve(async |_talk: Talk| ()).await;
    let target = fake.target();
    drop(fake);
    let deadline = soon();
    loop {
        // The aborted task gives up its port when it is next scheduled.
        let error = log_in(&target, &Credentials::None, &[], deadline).await.unwrap_err();
        let ConnectError::Unreachable(error) = error else { panic!("{error}") };
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            break;
        }
        tokio::task::yield_now().await;
    }
}
