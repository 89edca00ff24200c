//! Questions of our own on a logged-in backend.

use std::time::Duration;

use bytes::BytesMut;
use pgmoor::auth::Credentials;
use pgmoor::backend::{QueryError, Rows};
use pgmoor::wire::TxStatus;
use pgmoor::wire::message::write::backend as write;
use tokio::time::Instant;

use crate::fake::{Fake, Talk, connect, raw, soon};

/// Asks a server that answers with these bytes and hangs up.
async fn ask(answer: impl FnOnce(&mut BytesMut) + Send + 'static) -> Result<Rows, QueryError> {
    let fake = Fake::serve(async move |mut talk: Talk| {
        talk.startup().await;
        talk.ready().await;
        assert_eq!(talk.frame().await, (b'Q', b"SELECT 1\0".to_vec()));
        let mut out = BytesMut::new();
        answer(&mut out);
        let _ = tokio::io::AsyncWriteExt::write_all(&mut talk.socket, &out).await;
    })
    .await;
    let mut backend = connect(&fake, &Credentials::None, &[]).await.unwrap();
    let answer = backend.simple_query("SELECT 1", soon()).await;
    if answer.is_ok() {
        assert_eq!(backend.parameters["TimeZone"], "CET");
        fake.end().await;
    }
    answer
}

#[tokio::test]
async fn the_rows_of_all_results_are_collected() {
    let rows = ask(|out| {
        write::row_description(out, &["a", "b"]);
        write::data_row(out, &[Some(b"1"), None]);
        write::command_complete(out, "SELECT 1");
        raw(out, b'N', b"SNOTICE\0Mhello\0\0");
        write::notification_response(out, 7, "channel", "");
        write::parameter_status(out, "TimeZone", "CET");
        write::data_row(out, &[Some("\u{e9}".as_bytes())]);
        write::command_complete(out, "SELECT 1");
        write::ready_for_query(out, TxStatus::Idle);
    })
    .await
    .unwrap();
    assert_eq!(rows, [vec![Some("1".into()), None], vec![Some("\u{e9}".into())]]);
}

#[tokio::test]
async fn an_error_is_told_after_ready_and_a_fatal_one_at_once() {
    for (severity, ready) in [("ERROR", true), ("FATAL", false)] {
        let error = ask(move |out| {
            raw(out, b'E', format!("S{severity}\0V{severity}\0C42601\0Mno\0\0").as_bytes());
            if ready {
                write::ready_for_query(out, TxStatus::Idle);
            }
        })
        .await
        .unwrap_err();
        let QueryError::Server(said) = error else { panic!("{error}") };
        assert_eq!((said.severity.as_str(), said.code.as_str()), (severity, "42601"));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error() {
    let too_much = |out: &mut BytesMut| {
        for _ in 0..20 {
            write::data_row(out, &[Some(&[b'x'; 0x10000])]);
        }
    };
    type Answer = fn(&mut BytesMut);
    let answers: [(&str, Answer); 5] = [
        ("too much in one row", |out| raw(out, b'D', &[0; 1 << 20])),
        ("too much in all rows", too_much),
        ("a row cut short", |out| raw(out, b'D', b"\0\x02\0\0\0\x01x")),
        ("COPY", |out| raw(out, b'G', b"\0\0\0")),
        ("nonsense", |out| raw(out, 0, b"")),
    ];
    for (what, answer) in answers {
        let error = ask(answer).await.unwrap_err();
        assert!(matches!(error, QueryError::Protocol(_)), "{what}: {error}");
    }
    let error = ask(|out| out.extend_from_slice(b"T\0\0")).await.unwrap_err();
    assert!(matches!(error, QueryError::Lost(_)), "{error}");
}

#[tokio::test]
async fn no_answer_ends_at_the_deadline() {
    let fake = Fake::serve(async |mut talk: Talk| {
        talk.startup().await;
        talk.ready().await;
        talk.silence().await;
    })
    .await;
    let mut backend = connect(&fake, &Credentials::None, &[]).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(100);
    let error = backend.simple_query("SELECT pg_sleep(60)", deadline).await.unwrap_err();
    assert!(matches!(error, QueryError::TimedOut), "{error}");
}
