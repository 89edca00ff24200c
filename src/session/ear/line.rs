//! The ear's connection: frames as they come, while what is to be said goes out.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::net::Stream;
use crate::topology::evidence::Suspicion;
use crate::wire::HEADER_LEN;
use crate::wire::message::write::frontend;
use crate::wire::scan::{Interest, Scanner, Step};

use super::room::{Fault, Room};

/// The longest frame that belongs here, as its length word counts. A notification has 8,000 bytes of payload at most, errors
/// and notices are a few lines.
const LONGEST: u32 = 64 * 1024;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// How long what a backend has said last may take to be read, once it is to be left. It has arrived already, or never will.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(100);

/// A logged-in connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: Stream,
    unread: BytesMut,
    /// To be written.
    out: BytesMut,
    /// Written, and perhaps still in TLS's own buffer.
    unflushed: bool,
    scanner: Scanner,
}

impl Line {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            stream: backend.stream,
            unread: backend.received,
            out: BytesMut::new(),
            unflushed: false,
            scanner: Scanner::new(&Interest::ALL, LONGEST),
        }
    }

    /// Takes something to be said.
    pub(super) fn say(&mut self, packet: &[u8]) {
        self.out.extend_from_slice(packet);
        self.unflushed = true;
    }

    /// Writes and reads until something was read, and lets `room` hear it. Both go on side by side: a server that has much to
    /// tell does not read before it has told it. Cancel safe.
    pub(super) fn poll_hear(&mut self, cx: &mut Context<'_>, room: &Room) -> Poll<Result<(), Fault>> {
        // That it cannot be written to shows when it is read, after its last words.
        let _ = self.poll_write(cx);
        ready!(self.poll_read(cx)).map_err(|_| Fault::Over(Suspicion::Vanished))?;
        Poll::Ready(self.hear(room))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(pin!(&mut self.stream).poll_write(cx, &self.out))?;
            let _ = self.out.split_to(count);
        }
        if self.unflushed {
            ready!(pin!(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unread.reserve(CHUNK);
        // Cancel safe, and so it may be made anew for each poll.
        match ready!(pin!(self.stream.read_buf(&mut self.unread)).poll(cx))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn hear(&mut self, room: &Room) -> Result<(), Fault> {
        let Self { unread, scanner, .. } = self;
        let (mut rest, whole) = (&unread[..], unread.len());
        let heard = room.hear(|| match scanner.step(rest, false) {
            Ok(Step::Frame { tag, body }) => {
                rest = &rest[HEADER_LEN + body.len()..];
                Ok(Some((tag, body)))
            }
            Ok(Step::Wait) => Ok(None),
            // Every tag is of interest, and the window is never full.
            Ok(Step::Pass(_) | Step::Head { .. } | Step::Part { .. }) | Err(_) => Err(Fault::Garbage),
        });
        let count = whole - rest.len();
        let _ = unread.split_to(count);
        heard
    }

    /// Lets `room` hear what has arrived, and ends. Nothing is written: the pod may be superseded.
    pub(super) async fn end_listening(mut self, room: &Room) {
        let rest = async {
            while self.stream.read_buf(&mut self.unread).await.is_ok_and(|count| count > 0) {
                if self.hear(room).is_err() {
                    return;
                }
                self.unread.reserve(CHUNK);
            }
        };
        let _ = timeout(LAST_WORDS, rest).await;
    }

    /// Ends in good order.
    pub(super) async fn say_goodbye(mut self) {
        frontend::terminate(&mut self.out);
        let goodbye = async {
            self.stream.write_all(&self.out).await?;
            self.stream.shutdown().await
        };
        // Who does not take it learns from the end of the connection.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}
