//! Logging in to a pod: every method, every way a server can refuse, stall, break off or lie, and a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "backend/fake.rs"]
mod fake;
#[path = "backend/hostile.rs"]
mod hostile;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "backend/query.rs"]
mod query;
#[path = "backend/real.rs"]
mod real;
#[path = "backend/tls.rs"]
mod tls;

use bytes::BytesMut;
use fake::{Fake, Talk, connect, soon};
use pgmoor::auth::{AuthError, Credentials, Password, ScramKeys, Secret, ServerFirst, md5_password};
use pgmoor::backend::{self, ConnectError};
use pgmoor::wire::CancelKey;
use pgmoor::wire::message::write::backend as write;

fn password(text: &str) -> Credentials {
    Credentials::Password(Password::new(text))
}

#[tokio::test]
async fn trust_needs_no_proof_and_the_startup_packet_says_who_we_are() {
    let fake = Fake::serve(async |mut talk: Talk| {
        let startup = talk.startup().await;
        talk.ready().await;
        startup
    })
    .await;
    let parameters = [("application_name", "probe"), ("user", "postgres"), ("options", "-c geqo=off")];
    let backend = connect(&fake, &Credentials::None, &parameters).await.unwrap();
    assert_eq!(backend.parameters["server_version"], "15.0");
    assert_eq!(backend.key.unwrap(), CancelKey { process_id: 42, secret: vec![1, 2, 3, 4] });
    assert_eq!(&backend.received[..], b"", "nothing was read ahead");
    let sent = b"\0\x03\0\0user\0alice\0database\0orders\0application_name\0probe\0options\0-c geqo=off\0\0";
    assert_eq!(fake.end().await, sent, "a parameter cannot change the user");
}

#[tokio::test]
async fn a_password_answers_cleartext_and_md5() {
    let fake = Fake::serve(async |mut talk: Talk| {
        talk.startup().await;
        talk.send(write::authentication_cleartext).await;
        let answer = talk.frame().await;
        talk.ready().await;
        answer
    })
    .await;
    connect(&fake, &password("pencil"), &[]).await.unwrap();
    assert_eq!(fake.end().await, (b'p', b"pencil\0".to_vec()));

    let fake = Fake::serve(async |mut talk: Talk| {
        talk.startup().await;
        talk.send(|out| write::authentication_md5(out, [9, 8, 7, 6])).await;
        let answer = talk.frame().await;
        talk.ready().await;
        answer
    })
    .await;
    connect(&fake, &password("pencil"), &[]).await.unwrap();
    let expected = md5_password("alice", "pencil", [9, 8, 7, 6]) + "\0";
    assert_eq!(fake.end().await, (b'p', expected.into_bytes()));
}

/// The server's side of SCRAM up to the client's proof; gives the server's last word, if the proof is right.
async fn scram(talk: &mut Talk, secret: Secret) -> Option<String> {
    talk.startup().await;
    talk.send(|out| write::authentication_sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])).await;
    let (_, first) = talk.frame().await;
    let first = first.strip_prefix(b"SCRAM-SHA-256\0").unwrap();
    let (server_first, next) = ServerFirst::new(secret, [3; 18]).handle(&first[4..]).unwrap();
    talk.send(|out| write::authentication_sasl_continue(out, server_first.as_bytes())).await;
    let (_, last) = talk.frame().await;
    next.handle(&last).ok().map(|(server_final, _)| server_final)
}

fn secret() -> Secret {
    Secret::from_password("pencil", b"sixteen bytes ..", 4096)
}

#[tokio::test]
async fn a_password_and_kept_keys_answer_scram() {
    let keys = ScramKeys::derive("pencil", b"sixteen bytes ..", 4096);
    for credentials in [password("pencil"), Credentials::ScramKeys(keys)] {
        let fake = Fake::serve(async |mut talk: Talk| {
            let last = scram(&mut talk, secret()).await.unwrap();
            talk.send(|out| write::authentication_sasl_final(out, last.as_bytes())).await;
            talk.ready().await;
        })
        .await;
        connect(&fake, &credentials, &[]).await.unwrap();
        fake.end().await;
    }
}

#[tokio::test]
async fn a_server_that_skips_or_forges_its_own_proof_is_left() {
    for forged in [None, Some(format!("v={}", "A".repeat(43) + "="))] {
        let fake = Fake::serve(async move |mut talk: Talk| {
            scram(&mut talk, secret()).await.unwrap();
            if let Some(forged) = forged {
                talk.send(|out| write::authentication_sasl_final(out, forged.as_bytes())).await;
            }
            talk.ready().await;
        })
        .await;
        let error = connect(&fake, &password("pencil"), &[]).await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth(AuthError::ServerNotProven)), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn keys_of_another_secret_are_never_sent() {
    let keys = ScramKeys::derive("pencil", b"another salt ...", 4096);
    let fake = Fake::serve(async |mut talk: Talk| {
        talk.startup().await;
        talk.send(|out| write::authentication_sasl(out, &["SCRAM-SHA-256"])).await;
        let (_, first) = talk.frame().await;
        let (server_first, _) = ServerFirst::new(secret(), [3; 18]).handle(&first[18..]).unwrap();
        talk.send(|out| write::authentication_sasl_continue(out, server_first.as_bytes())).await;
        talk.rest().await
    })
    .await;
    let error = connect(&fake, &Credentials::ScramKeys(keys), &[]).await.unwrap_err();
    assert!(matches!(error, ConnectError::Auth(AuthError::OtherSecret)), "{error}");
    assert_eq!(fake.end().await, b"");
}

#[tokio::test]
async fn credentials_that_cannot_answer_send_nothing() {
    let keys = || Credentials::ScramKeys(ScramKeys::derive("pencil", b"salt", 1));
    let asks: [fn(&mut BytesMut); 3] = [
        write::authentication_cleartext,
        |out| write::authentication_md5(out, [0; 4]),
        |out| write::authentication_sasl(out, &["SCRAM-SHA-256"]),
    ];
    for (ask, credentials) in [
        (asks[0], Credentials::None),
        (asks[1], Credentials::None),
        (asks[2], Credentials::None),
        (asks[0], keys()),
        (asks[1], keys()),
    ] {
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            talk.send(ask).await;
            talk.rest().await
        })
        .await;
        let error = connect(&fake, &credentials, &[]).await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth(AuthError::NoAnswer { .. })), "{error}");
        assert_eq!(fake.end().await, b"");
    }
}

#[tokio::test]
async fn a_no_is_sorted_into_never_and_not_now() {
    for (code, when_logged_in, transient) in [
        ("28P01", false, false),
        ("28000", false, false),
        ("3D000", true, false),
        ("42501", true, false),
        ("57P03", false, true),
        ("57P01", true, true),
        ("57P02", false, true),
        ("53300", false, true),
        ("53400", true, true),
        ("", false, false),
    ] {
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            if when_logged_in {
                talk.send(write::authentication_ok).await;
            }
            let mut error = b"SFATAL\0VFATAL\0".to_vec();
            if !code.is_empty() {
                error.extend_from_slice(format!("C{code}\0").as_bytes());
            }
            error.extend_from_slice(b"Mno\0Dwhy\0\0");
            talk.raw(b'E', &error).await;
        })
        .await;
        let error = connect(&fake, &Credentials::None, &[]).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{error}");
        assert_eq!(matches!(error, ConnectError::NotAccepting(_)), transient, "{error}");
        let said = error.server_error().unwrap();
        assert_eq!((said.code.as_str(), said.message.as_str()), (code, "no"));
        assert_eq!(said.detail.as_deref(), Some("why"));
        assert!(said.body.ends_with(b"Mno\0Dwhy\0\0") && said.ends_session());
    }
}

#[tokio::test]
async fn a_cancel_request_is_sent_and_waited_for() {
    let key = CancelKey { process_id: 42, secret: vec![1, 2, 3, 4] };
    let fake = Fake::serve(async |mut talk: Talk| talk.exactly(16).await).await;
    backend::cancel(&fake.target(), &key, soon()).await.unwrap();
    assert_eq!(fake.end().await, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x2a\x01\x02\x03\x04");

    let fake = Fake::serve(async |talk: Talk| talk.silence().await).await;
    let error = backend::cancel(&fake.target(), &key, fake::shortly()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
