//! A session's conversation with pgmoor in frames of the protocol: what is sent is the caller's, what comes back is read to
//! the last ReadyForQuery, and the end of a connection keeps its last words.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgmoor::auth::{ClientFirst, Password};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::raw;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The connection ended, with these last words.
    Ended(String),
    /// Nothing came in time.
    Late,
}

/// All answers up to a ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Rows, as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// Command tags.
    pub tags: Vec<String>,
    /// Errors: SQLSTATE and message.
    pub errors: Vec<(String, String)>,
    /// COPY data may be sent now; there was no ReadyForQuery.
    pub copying: bool,
}

impl Reply {
    /// A field of the first row.
    pub fn field(&self, at: usize) -> Option<&str> {
        self.rows.first()?.get(at)?.as_deref()
    }

    /// The first field of the first row as a number.
    pub fn number(&self) -> Option<i64> {
        self.field(0)?.parse().ok()
    }
}

/// One session.
pub struct Talk {
    stream: TcpStream,
    unread: BytesMut,
    patience: Duration,
    last_words: String,
    /// The transaction status of the last ReadyForQuery.
    pub status: u8,
    /// Channels of the notifications that came.
    pub notified: Vec<String>,
}

impl Talk {
    /// Connects and logs in with a password (SCRAM). Every later answer may take `patience`.
    pub async fn login(address: SocketAddr, user: &str, password: &Password, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let last_words = String::new();
        let mut talk =
            Self { stream, unread: BytesMut::new(), patience, last_words, status: b'I', notified: Vec::new() };
        let words = [("user", user), ("database", user)];
        talk.stream.write_all(&raw::startup(0x0003_0000, &words)).await?;
        let refused = |what: String| io::Error::other(format!("the login was refused: {what}"));
        let deadline = Instant::now() + patience;
        timeout_at(deadline, talk.prove(password)).await.map_err(|_| refused("no answer".to_owned()))??;
        talk.answers(1, deadline).await.map_err(|silence| refused(format!("{silence:?}")))?;
        Ok(talk)
    }

    /// The SASL exchange, up to AuthenticationOk.
    async fn prove(&mut self, password: &Password) -> io::Result<()> {
        let (message, first) = ClientFirst::begin(rand::random());
        self.expect(10).await?;
        let length = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes();
        let initial = [b"SCRAM-SHA-256\0".as_slice(), &length, message.as_bytes()].concat();
        self.stream.write_all(&raw::frame(b'p', &initial)).await?;
        let challenge = first.handle(&self.expect(11).await?).map_err(io::Error::other)?;
        let keys = password.keys(challenge.salt(), challenge.iterations());
        let (message, last) = challenge.answer(&keys).map_err(io::Error::other)?;
        self.stream.write_all(&raw::frame(b'p', message.as_bytes())).await?;
        last.handle(&self.expect(12).await?).map_err(io::Error::other)?;
        self.expect(0).await.map(drop)
    }

    /// The data of the Authentication message of this kind, which must come next.
    async fn expect(&mut self, kind: u32) -> io::Result<BytesMut> {
        let (tag, mut body) = self.frame().await?;
        if tag != b'R' || body.len() < 4 || body.get_u32() != kind {
            let words = String::from_utf8_lossy(&body).into_owned();
            return Err(io::Error::other(format!(
                "Authentication {kind} expected, not {:?}: {words}",
                char::from(tag)
            )));
        }
        Ok(body)
    }

    /// Sends the beginning of a frame. That the other side is gone shows with the rest of it.
    pub async fn send_part(&mut self, bytes: &[u8]) -> Result<(), Silence> {
        let sent = timeout_at(Instant::now() + self.patience, self.stream.write_all(bytes)).await;
        sent.map(drop).map_err(|_| Silence::Late)
    }

    /// Sends frames and reads all answers up to the ReadyForQuery number `readies`, or to a CopyInResponse.
    pub async fn send(&mut self, frames: &[u8], readies: usize) -> Result<Reply, Silence> {
        let deadline = Instant::now() + self.patience;
        match timeout_at(deadline, self.stream.write_all(frames)).await {
            // That the other side is gone shows, with its last words, when reading.
            Ok(Ok(()) | Err(_)) => self.answers(readies, deadline).await,
            Err(_) => Err(Silence::Late),
        }
    }

    async fn answers(&mut self, readies: usize, deadline: Instant) -> Result<Reply, Silence> {
        let mut reply = Reply::default();
        let mut left = readies;
        while left > 0 && !reply.copying {
            let (tag, body) = match timeout_at(deadline, self.frame()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return Err(Silence::Ended(format!("{} ({error})", self.last_words))),
                Err(_) => return Err(Silence::Late),
            };
            match tag {
                b'D' => reply.rows.push(row(body)),
                b'C' => reply.tags.push(texts(&body).swap_remove(0)),
                b'E' => {
                    let (code, text) = (field(&body, b'C'), field(&body, b'M'));
                    self.last_words = format!("{} {code}: {text}", field(&body, b'S'));
                    reply.errors.push((code, text));
                }
                b'G' => reply.copying = true,
                b'A' => self.notified.push(texts(&body[4..]).swap_remove(0)),
                b'Z' => {
                    self.status = body.first().copied().unwrap_or(b'?');
                    left -= 1;
                }
                _ => {}
            }
        }
        Ok(reply)
    }

    async fn frame(&mut self) -> io::Result<(u8, BytesMut)> {
        loop {
            if let Some(head) = self.unread.first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.unread.len() > length {
                    let mut frame = self.unread.split_to(length + 1);
                    let tag = frame[0];
                    frame.advance(5);
                    return Ok((tag, frame));
                }
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn texts(body: &[u8]) -> Vec<String> {
    body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// A field of an ErrorResponse (protocol "Error and Notice Message Fields").
fn field(body: &[u8], kind: u8) -> String {
    let fields = body.split(|byte| *byte == 0);
    let found = fields.filter_map(<[u8]>::split_first).find(|(tag, _)| **tag == kind);
    found.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}

fn row(mut body: BytesMut) -> Vec<Option<String>> {
    let fields = body.get_u16();
    let mut row = Vec::new();
    for _ in 0..fields {
        let length = usize::try_from(body.get_i32());
        row.push(length.ok().map(|length| String::from_utf8_lossy(&body.split_to(length)).into_owned()));
    }
    row
}
