//! A Patroni of a few lines: what it is asked, and every way it can answer or not answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Takes one request, says `answer`, and closes; gives what it was asked.
async fn says(answer: &'static str) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request_of(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    (port, task)
}

async fn request_of(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

fn client(port: u16, login: Option<(&str, &str)>) -> Patroni {
    let login = login.map(|(user, password)| (user.to_owned(), config::Password::new(password)));
    Patroni::new(&config::Patroni { port, login, ca: None }).unwrap()
}

async fn ask(port: u16) -> Result<Reply, Silence> {
    let deadline = Instant::now() + Duration::from_secs(20);
    client(port, None).switchover(LOCAL, &"pg-0".into(), None, deadline).await
}

fn reply(status: u16, text: &str) -> Result<Reply, Silence> {
    Ok(Reply { status, text: text.to_owned() })
}

#[tokio::test]
async fn is_asked_for_a_switchover_in_its_own_terms() {
    let (port, task) = says("HTTP/1.0 200 OK\r\n\r\nSuccessfully switched over to \"pg-2\"").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let patroni = client(port, Some(("admin", "s:cret")));
    let told = patroni.switchover(LOCAL, &"pg-0".into(), Some(&"pg-2".into()), deadline).await.unwrap();
    assert!(told.agrees());
    assert_eq!(told.text, "Successfully switched over to \"pg-2\"");
    let request = task.await.unwrap();
    assert!(request.starts_with("POST /switchover HTTP/1.1\r\n"), "{request}");
    let lower = request.to_lowercase();
    let host = format!("host: 127.0.0.1:{port}\r\n");
    for header in ["content-type: application/json\r\n", "content-length: 36\r\n", &host] {
        assert!(lower.contains(header), "{header} in {request}");
    }
    assert!(request.contains("Basic YWRtaW46czpjcmV0\r\n"), "{request}"); // admin:s:cret
    assert!(request.ends_with("\r\n\r\n{\"leader\":\"pg-0\",\"candidate\":\"pg-2\"}"), "{request}");
}

#[tokio::test]
async fn its_refusals_are_told_word_for_word() {
    let cases = [
        (
            "HTTP/1.0 412 Precondition Failed\r\nContent-Type: text/html\r\n\r\nleader name does not match",
            412,
            "leader name does not match",
        ),
        ("HTTP/1.1 503 x\r\nContent-Length: 17\r\n\r\nSwitchover failed", 503, "Switchover failed"),
        ("HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nno auth\r\n0\r\n\r\n", 401, "no auth"),
        ("HTTP/1.0 500 Oops\r\n\r\n", 500, ""),
    ];
    for (answer, status, text) in cases {
        let (port, task) = says(answer).await;
        let told = ask(port).await;
        assert_eq!(told, reply(status, text), "{answer}");
        assert!(!told.unwrap().agrees());
        let request = task.await.unwrap();
        assert!(request.ends_with("\r\n\r\n{\"leader\":\"pg-0\"}"), "{request}");
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
    }
}

#[tokio::test]
async fn silence_says_whether_the_question_was_heard() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert!(matches!(ask(free).await, Err(Silence::NotAsked(_))), "nobody listens");
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nSuccess", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 2"]
    {
        let (port, _task) = says(answer).await;
        assert!(matches!(ask(port).await, Err(Silence::NoAnswer(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request_of(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    assert!(matches!(ask(port).await, Err(Silence::NoAnswer(why)) if why.contains("200")));
}

#[tokio::test]
async fn a_slow_one_has_its_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let deadline = Instant::now() + Duration::from_millis(100);
    let told = client(port, None).switchover(LOCAL, &"pg-0".into(), None, deadline).await;
    assert!(matches!(told, Err(Silence::NoAnswer(why)) if why.contains("time is over")));
    drop(listener);
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_ca_vouches_for() {
    use crate::net::tls::{ClientCerts, ServerFiles, TlsAcceptor};

    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let own = rcgen::generate_simple_self_signed(vec!["pg-0".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["pg-0".to_owned()]).unwrap();
    let (cert, key) = (put("crt", own.cert.pem()), put("key", own.signing_key.serialize_pem()));
    let strange = put("other", other.cert.pem());
    let acceptor = TlsAcceptor::new(&ServerFiles { cert: cert.clone(), key, clients: ClientCerts::Ignore }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    for (ca, vouched) in [(cert, true), (strange, false)] {
        let patroni = Patroni::new(&config::Patroni { port, login: None, ca: Some(ca) }).unwrap();
        let told = patroni.switchover(LOCAL, &"pg-0".into(), None, deadline).await;
        match vouched {
            true => assert_eq!(told, reply(200, "done")),
            false => assert!(matches!(told, Err(Silence::NotAsked(_))), "{told:?}"),
        }
    }
    let missing = config::Patroni { port, login: None, ca: Some(folder.path().join("none")) };
    assert!(Patroni::new(&missing).is_err());
}
