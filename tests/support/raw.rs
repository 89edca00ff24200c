//! A client that knows the protocol's frames and nothing else: it can send anything, and shows everything it gets.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};

/// One connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    unread: BytesMut,
    /// Of BackendKeyData: process id and secret.
    pub(crate) key: (u32, Vec<u8>),
}

/// Everything up to a ReadyForQuery, or the end of the connection.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    /// Text rows.
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Command tags.
    pub(crate) done: Vec<String>,
    /// ErrorResponses: SQLSTATE and message.
    pub(crate) errors: Vec<(String, String)>,
    /// NoticeResponses: SQLSTATE and message.
    pub(crate) notices: Vec<(String, String)>,
    /// ParameterStatus.
    pub(crate) parameters: Vec<(String, String)>,
    /// NotificationResponse: channel and payload.
    pub(crate) notifications: Vec<(String, String)>,
    /// The processes that have sent these.
    pub(crate) senders: Vec<u32>,
    /// The tag of every frame, in order.
    pub(crate) tags: String,
    /// Of the ReadyForQuery; a blank if the connection ended.
    pub(crate) status: char,
}

impl Reply {
    /// The one field of the one row.
    pub(crate) fn one(&self) -> &str {
        match self.rows.as_slice() {
            [row] if row.len() == 1 => row[0].as_deref().unwrap_or("NULL"),
            _ => panic!("one field expected: {self:?}"),
        }
    }

    /// The SQLSTATE of the first error, or nothing.
    pub(crate) fn code(&self) -> &str {
        self.errors.first().map_or("", |(code, _)| code)
    }
}

impl Raw {
    /// A connection on which nothing was said.
    pub(crate) fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: BytesMut::new(), key: (0, Vec::new()) })
    }

    /// A session of user and database `app`.
    pub(crate) fn login(server: SocketAddr) -> Self {
        Self::login_with(server, &[])
    }

    /// The same with further startup parameters.
    pub(crate) fn login_with(server: SocketAddr, parameters: &[(&str, &str)]) -> Self {
        let mut raw = Self::open(server).unwrap();
        let reply = raw.start(parameters);
        assert_eq!((reply.status, reply.code()), ('I', ""), "{reply:?}");
        raw
    }

    /// Sends the startup packet, and reads to the first ReadyForQuery or the end.
    pub(crate) fn start(&mut self, parameters: &[(&str, &str)]) -> Reply {
        let mut all = vec![("user", "app"), ("database", "app")];
        all.retain(|(name, _)| !parameters.iter().any(|(other, _)| other == name));
        all.extend(parameters);
        self.put(&startup(0x0003_0000, &all));
        self.reply()
    }

    /// Sends bytes. That the other side is gone shows when reading.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Runs a simple query to its end.
    pub(crate) fn run(&mut self, sql: &str) -> Reply {
        self.put(&query(sql));
        self.reply()
    }

    /// One byte that is no frame: the answer to an SSLRequest.
    pub(crate) fn byte(&mut self) -> io::Result<u8> {
        while self.unread.is_empty() {
            self.more()?;
        }
        Ok(self.unread.get_u8())
    }

    /// The next frame; an error at the end of the connection.
    pub(crate) fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((tag, length)) = self.head()
                && self.unread.len() > length
            {
                let frame = self.unread.split_to(length + 1);
                return Ok((tag, frame[5..].to_vec()));
            }
            self.more()?;
        }
    }

    fn head(&self) -> Option<(u8, usize)> {
        let [tag, a, b, c, d] = *self.unread.first_chunk::<5>()?;
        Some((tag, u32::from_be_bytes([a, b, c, d]) as usize))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; 256 * 1024];
        let count = loop {
            match self.stream.read(&mut bytes) {
                // With a timeout, so does a process that was stopped and goes on (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&bytes[..count]);
        Ok(())
    }

    /// Frames up to a ReadyForQuery, or the end of the connection. Silence for too long is a failure.
    pub(crate) fn reply(&mut self) -> Reply {
        self.reply_to(b'Z')
    }

    /// Frames up to and with one of tag `last`, or the end of the connection.
    pub(crate) fn reply_to(&mut self, last: u8) -> Reply {
        let mut reply = Reply { status: ' ', ..Reply::default() };
        loop {
            let (tag, body) = match self.frame() {
                Ok(frame) => frame,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("no answer; so far {reply:?}")
                }
                Err(_) => return reply,
            };
            reply.tags.push(char::from(tag));
            self.note(&mut reply, tag, &body);
            if tag == last {
                return reply;
            }
        }
    }

    fn note(&mut self, reply: &mut Reply, tag: u8, body: &[u8]) {
        match tag {
            b'D' => reply.rows.push(row(body)),
            b'C' => reply.done.push(texts(body).remove(0)),
            b'E' => reply.errors.push(complaint(body)),
            b'N' => reply.notices.push(complaint(body)),
            b'S' => {
                let mut pair = texts(body).into_iter();
                reply.parameters.push((pair.next().unwrap(), pair.next().unwrap()));
            }
            b'A' => {
                reply.senders.push(u32::from_be_bytes(*body.first_chunk().unwrap()));
                let mut pair = texts(&body[4..]).into_iter();
                reply.notifications.push((pair.next().unwrap(), pair.next().unwrap()));
            }
            b'K' => self.key = (u32::from_be_bytes(*body.first_chunk().unwrap()), body[4..].to_vec()),
            b'Z' => reply.status = char::from(body[0]),
            _ => {}
        }
    }

    /// Has the other side closed, after whatever it still had to say?
    pub(crate) fn closed(&mut self) -> bool {
        loop {
            match self.frame() {
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
        }
    }

    /// Hangs up without a word.
    pub(crate) fn hang_up(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Asks on a connection of its own to cancel what the session of this key runs.
pub(crate) fn cancel(server: SocketAddr, process: u32, secret: &[u8]) {
    let mut raw = Raw::open(server).unwrap();
    let mut packet = 80_877_102_u32.to_be_bytes().to_vec();
    packet.extend(process.to_be_bytes());
    packet.extend(secret);
    raw.put(&with_length(&packet));
    assert!(raw.closed(), "a cancel request is not answered");
}

/// A startup packet.
pub(crate) fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        packet.extend(text(name));
        packet.extend(text(value));
    }
    packet.push(0);
    with_length(&packet)
}

/// A packet without a tag.
pub(crate) fn with_length(packet: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(packet.len() + 4).unwrap().to_be_bytes().to_vec();
    bytes.extend(packet);
    bytes
}

/// A frame.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(with_length(body));
    bytes
}

/// A simple query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &text(sql))
}

/// Parse, with no parameter types given.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    frame(b'P', &[&text(name)[..], &text(sql), &[0, 0]].concat())
}

/// Bind with text parameters and text results.
pub(crate) fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [text(portal), text(statement)].concat();
    body.extend([0, 0]);
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    frame(b'B', &body)
}

/// Execute.
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[&text(portal)[..], &rows.to_be_bytes()].concat())
}

/// Describe or Close, of a statement (`S`) or portal (`P`).
pub(crate) fn about(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    frame(tag, &[&[kind][..], &text(name)].concat())
}

/// Sync.
pub(crate) fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// A whole unit: an unnamed statement with these values.
pub(crate) fn unit(sql: &str, values: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", values), execute("", 0), sync()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn texts(body: &[u8]) -> Vec<String> {
    body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>().unwrap();
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().unwrap();
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            rest = after;
            continue;
        };
        row.push(Some(String::from_utf8_lossy(&after[..length]).into_owned()));
        rest = &after[length..];
    }
    row
}

fn complaint(body: &[u8]) -> (String, String) {
    let field = |tag: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&tag));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    (field(b'C'), field(b'M'))
}
