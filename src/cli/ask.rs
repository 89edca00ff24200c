//! One HTTP/1.1 request to a running pgmoor's admin address.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For the whole question and answer, where nothing has to happen before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A status of ten thousand pods is shorter.
const LONGEST: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("cannot be asked: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
    #[error("answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("the answer is not HTTP/1.1 as pgmoor speaks it")]
    Garbled,
}

/// The body of a 200.
pub(super) async fn get(admin: &str, path: &str) -> Result<String, AskError> {
    ask(admin, &format!("GET {path} HTTP/1.1\r\n"), PATIENCE).await
}

/// The body of a 200.
pub(super) async fn post(admin: &str, path: &str, token: Option<&str>, patience: Duration) -> Result<String, AskError> {
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    ask(admin, &format!("POST {path} HTTP/1.1\r\nContent-Length: 0\r\n{token}"), patience).await
}

async fn ask(admin: &str, head: &str, patience: Duration) -> Result<String, AskError> {
    let answer = tokio::time::timeout(patience, exchange(admin, head)).await;
    read(&answer.map_err(|_| AskError::TimedOut(patience))??)
}

async fn exchange(admin: &str, head: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(admin).await?;
    // The server closes after the answer, so the end of the stream is the end of the body.
    let request = format!("{head}Host: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// RFC 9112: a status line, fields, an empty line, the body. Only a body with a Content-Length is taken, so that one
/// that was cut short is noticed.
fn read(answer: &[u8]) -> Result<String, AskError> {
    let text = std::str::from_utf8(answer).map_err(|_| AskError::Garbled)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(AskError::Garbled)?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3))
        .and_then(|status| status.parse().ok())
        .ok_or(AskError::Garbled)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match (status, length == Some(body.len())) {
        (200, true) => Ok(body.to_owned()),
        (200, false) => Err(AskError::Garbled),
        (status, _) => Err(AskError::Refused { status, body: body.trim_end().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn takes_whole_answers_only() {
        let body = |answer: &str| read(answer.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").as_deref(), Ok("{}"));
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}").as_deref(), Ok("{}"));
        let refused = body("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n");
        assert_eq!(refused, Err("answered 404: no".to_owned()));
        let garbled = [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ];
        for answer in garbled {
            assert!(matches!(read(answer.as_bytes()), Err(AskError::Garbled)), "{answer}");
        }
    }

    #[tokio::test]
    async fn asks_and_hears() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await.unwrap();
            String::from_utf8(request).unwrap()
        });
        assert_eq!(get(&admin, "/x").await.unwrap(), "yes");
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /x HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(matches!(get(&admin, "/x").await, Err(AskError::Io(_))), "nobody listens any more");
    }
}
