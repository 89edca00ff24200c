//! A TCP connection whose short messages may leave together with those of others: see [`super::outbox`].

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::outbox::Outgoing;
use super::pipe::{Sink, Source};

/// A connection. What is written to it is sent at once; what a relay sends ([`Sink`]) may wait for the end of its turn.
#[derive(Debug)]
pub struct Socket {
    /// Before the connection, so that it is dropped, and what waits is sent, before that is closed.
    outgoing: Outgoing,
    tcp: TcpStream,
}

impl Socket {
    /// The connection itself. To read or write it here goes past what waits.
    pub const fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection alone: nothing waits any more.
    pub fn into_tcp(self) -> TcpStream {
        let Self { outgoing, tcp } = self;
        drop(outgoing);
        tcp
    }
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self { outgoing: Outgoing::default(), tcp }
    }
}

impl Source for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.tcp.poll_read_ready(cx).map(|_| ()) // the read tells what is wrong
    }

    /// Without asking first whether there is something: that was asked, or costs less than the answer.
    fn poll_take(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut taken = None;
            let read = self.tcp.try_io(Interest::READABLE, || {
                let count = (&*SockRef::from(&self.tcp)).read(room)?;
                if 0 < count && count < room.len() {
                    // That was all: the next look waits for more without a system call (epoll(7), "edge-triggered").
                    taken = Some(count);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(count)
            });
            match (taken, read) {
                (Some(count), _) | (None, Ok(count)) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_read_ready(cx))?;
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (None, Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Sink for Socket {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.poll_send(cx, &mut self.tcp, bytes)
    }

    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.outgoing.poll_settle(cx, &mut self.tcp)
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { outgoing, tcp } = self.get_mut();
        ready!(outgoing.poll_flush(cx, tcp))?;
        Pin::new(tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { outgoing, tcp } = self.get_mut();
        ready!(outgoing.poll_flush(cx, tcp))?;
        Pin::new(tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { outgoing, tcp } = self.get_mut();
        outgoing.poll_flush(cx, tcp)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { outgoing, tcp } = self.get_mut();
        ready!(outgoing.poll_flush(cx, tcp))?;
        Pin::new(tcp).poll_shutdown(cx)
    }
}
