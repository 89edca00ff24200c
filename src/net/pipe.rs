//! One direction of a relay: a bounded buffer, the scanner that walks it, and how far its bytes have come.
//!
//! ```text
//!   buf: [ sent │ passed, to be written │ read, not looked at yet │ room ]
//!        0      start                   passed                    end
//! ```
//! Bytes move from right to left of these marks: `poll_fill` reads, `step` looks, `pass` releases, `poll_drain` writes.
//! All progress lives here, so a relay may be dropped between any two polls. The buffer is [`lent`]: without bytes in it
//! there is none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::HEADER_LEN;
use crate::wire::scan::{Interest, ScanError, Scanner, Step};

mod lent;

use lent::{Lent, Size};

/// Bytes of one direction's buffer. A frame that fits is forwarded only whole; a larger one is streamed.
pub const BUFFER: usize = 16 * 1024;

/// Bytes of the buffer while so many come that the usual one is filled at once: fewer turns for the same bytes.
pub const LARGE: usize = 64 * 1024;

/// Bytes that are to wait move to a buffer of their own size, if they are no more than these.
const FEW: usize = 1024;

/// What is left of a frame is moved to the front of a buffer, to be read on from there, if it is no more than this.
const SHORT: usize = BUFFER / 2;

/// Where a pipe's bytes come from.
pub trait Source: AsyncRead + Unpin {
    /// Whether a read may find something. `Pending` is certain, and says so when it changes; `Ready` promises nothing.
    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Reads what is there; 0 bytes are the end.
    fn poll_take(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        Pin::new(self).poll_read(cx, &mut room).map_ok(|()| room.filled().len())
    }
}

/// Where a pipe's bytes go to.
pub trait Sink: AsyncWrite + Unpin {
    /// Like `poll_write`, but what it took may wait for the end of this turn of its thread.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// Looks after what was sent. `Ready(true)`: all of it is on its way; `Ready(false)`: it waits, and the task that sent
    /// it is woken if anything is to be done.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        Pin::new(self).poll_flush(cx).map_ok(|()| true)
    }
}

/// One direction.
#[derive(Debug)]
pub struct Pipe {
    buf: Lent,
    start: usize,
    passed: usize,
    end: usize,
    scanner: Scanner,
    /// Bytes that were passed or skipped, ever.
    taken: u64,
    moved: u64,
    /// What suits the bytes that came last.
    size: Size,
    /// Written, and perhaps not on its way yet.
    unsettled: bool,
}

impl Pipe {
    /// An empty direction whose scanner shows the frames of `interest` and refuses those longer than `max_frame`.
    pub fn new(interest: &'static Interest, max_frame: u32) -> Self {
        Self {
            buf: Lent::default(),
            start: 0,
            passed: 0,
            end: 0,
            scanner: Scanner::new(interest, max_frame),
            taken: 0,
            moved: 0,
            size: Size::Usual,
            unsettled: false,
        }
    }

    /// Nothing read and not written.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Everything that was passed has been written.
    pub fn is_drained(&self) -> bool {
        self.start == self.passed
    }

    /// Bytes read that nobody has looked at.
    pub fn unseen(&self) -> usize {
        self.end - self.passed
    }

    /// The frame that comes next, without taking it: its tag, and its body if it is there whole. `None`: in the midst of
    /// a large frame, or more bytes are to come that there is room for.
    pub fn peek(&self) -> Option<(u8, Option<&[u8]>)> {
        let window = &self.buf[self.passed..self.end];
        let [tag, a, b, c, d] = *window.first_chunk::<HEADER_LEN>()?;
        if !self.scanner.at_boundary() {
            return None;
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let body = window.get(HEADER_LEN..1 + length);
        let bad = !(4..=self.scanner.max_frame() as usize).contains(&length);
        (body.is_some() || window.len() >= BUFFER || bad).then_some((tag, body))
    }

    /// The header of the frame that comes next is none: to step says why.
    pub fn is_broken(&self) -> bool {
        let header = self.buf[self.passed..self.end].first_chunk::<HEADER_LEN>();
        let length = header.map_or(4, |[_, a, b, c, d]| u32::from_be_bytes([*a, *b, *c, *d]));
        self.scanner.at_boundary() && !(4..=self.scanner.max_frame()).contains(&length)
    }

    /// Not in the midst of a large frame that is being streamed.
    pub fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }

    /// Bytes written and not counted yet.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes written since this was asked last.
    pub fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Reads what is there, at most what fits. `Ready(0)` is the end of the stream; `Pending` also when there is no room.
    pub fn poll_fill<S: Source>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<usize>> {
        if (self.buf.is_empty() || self.is_stowed()) && stream.poll_readable(cx).is_pending() {
            return Poll::Pending; // not worth a buffer
        }
        self.make_room();
        if self.end == self.buf.len() {
            return Poll::Pending; // room comes with a drain, which the caller polls too
        }
        let read = stream.poll_take(cx, &mut self.buf[self.end..]);
        if let Poll::Ready(Ok(count)) = read {
            self.end += count;
            self.suit(count, self.end == self.buf.len());
        }
        self.rest();
        read
    }

    /// Chooses the size for the next bytes by what came at once.
    const fn suit(&mut self, count: usize, full: bool) {
        if full && count >= SHORT {
            self.size = Size::Large;
        } else if count < BUFFER {
            self.size = Size::Usual;
        }
    }

    /// Whether a fill could take bytes.
    pub fn has_room(&self) -> bool {
        self.end < self.buf.len() || self.buf.is_empty() || (self.is_drained() && (self.start > 0 || self.is_stowed()))
    }

    /// What is here waits for something else than its sink. A few bytes do so in a buffer of their own size: those that are lent
    /// go round quickly among all sessions of a thread, and stay in its cache.
    pub fn stow(&mut self) {
        let count = self.end - self.start;
        if (1..=FEW).contains(&count) && !self.is_stowed() {
            self.buf = Lent::just(&self.buf[self.start..self.end]);
            self.passed -= self.start;
            (self.start, self.end) = (0, count);
        }
    }

    fn is_stowed(&self) -> bool {
        (1..BUFFER).contains(&self.buf.len())
    }

    /// Sees to it that there is room, if there can be any: what waits to be written stays where it is.
    fn make_room(&mut self) {
        if self.buf.is_empty() {
            self.buf = Lent::new(self.size);
        } else if self.is_drained() && self.unseen() <= SHORT && self.buf.len() != self.size.bytes() {
            let mut other = Lent::new(self.size);
            let unseen = self.unseen();
            other[..unseen].copy_from_slice(&self.buf[self.passed..self.end]);
            self.buf = other;
            (self.start, self.passed, self.end) = (0, 0, unseen);
        } else if self.is_drained() && (self.unseen() <= SHORT || self.end == self.buf.len()) {
            self.move_up();
        }
    }

    fn move_up(&mut self) {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.passed -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Without bytes there is no need of a buffer.
    fn rest(&mut self) {
        if self.is_empty() && !self.buf.is_empty() {
            (self.start, self.passed, self.end) = (0, 0, 0);
            self.buf.give_back();
        }
    }

    /// Looks at what was read: the next bytes to pass, or the next frame of interest.
    /// A `Frame` stays where it is until [`Self::pass`] or [`Self::skip`]; every other step must be followed by one of them.
    ///
    /// # Errors
    /// The stream is not the protocol any more.
    pub fn step(&mut self) -> Result<Step<'_>, ScanError> {
        let window = &self.buf[self.passed..self.end];
        self.scanner.step(window, window.len() >= BUFFER)
    }

    /// The next `count` bytes, which a step spoke of.
    pub fn front(&self, count: usize) -> &[u8] {
        &self.buf[self.passed..self.passed + count]
    }

    /// The longest frame it takes, as its length word counts.
    pub fn max_frame(&self) -> u32 {
        self.scanner.max_frame()
    }

    /// Changes what is worth a look, from the next frame that begins.
    pub fn set_interest(&mut self, interest: &'static Interest) {
        self.scanner.set_interest(interest);
    }

    /// Where the next byte to look at stands in all that ever came.
    pub fn position(&self) -> u64 {
        self.taken
    }

    /// The next `count` bytes may be written.
    pub fn pass(&mut self, count: usize) {
        self.passed += count;
        self.taken += count as u64;
    }

    /// The next `count` bytes are thrown away.
    pub fn skip(&mut self, count: usize) {
        self.taken += count as u64;
        if self.is_drained() {
            self.start += count;
            self.passed += count;
        } else {
            self.buf.copy_within(self.passed + count..self.end, self.passed);
            self.end -= count;
        }
        self.rest();
    }

    /// Puts a message of our own behind what was passed. Only between frames: see [`Self::at_boundary`].
    pub fn inject(&mut self, message: &[u8]) {
        self.reserve(message.len());
        let behind = self.passed + message.len();
        self.buf.copy_within(self.passed..self.end, behind);
        self.buf[self.passed..behind].copy_from_slice(message);
        self.passed = behind;
        self.end += message.len();
    }

    /// Puts bytes behind everything that was read: what a login read too much.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.buf[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Room for so many bytes, however many there are already.
    fn reserve(&mut self, count: usize) {
        if count > 0 {
            if self.buf.is_empty() {
                self.buf = Lent::new(Size::Usual);
            }
            if self.buf.len() - self.end < count {
                self.move_up();
                if self.is_stowed() {
                    // What has grown beyond a few bytes is no less than a usual buffer: there has to be room behind it.
                    let mut other = Lent::new(Size::Usual);
                    other[..self.end].copy_from_slice(&self.buf[..self.end]);
                    self.buf = other;
                }
                self.buf.grow(self.buf.len().max(self.end + count));
            }
        }
    }

    /// Takes as many of these bytes as there is room for, as if they had been read.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        self.make_room();
        let count = bytes.len().min(self.buf.len() - self.end);
        self.buf[self.end..self.end + count].copy_from_slice(&bytes[..count]);
        self.end += count;
        self.rest();
        count
    }

    /// Another source follows one that is gone: its first byte begins a frame.
    pub fn renew_source(&mut self) {
        self.scanner.renew();
    }

    /// The source is gone: what it sent and nobody looked at is thrown away. `false`: it went in the midst of a frame
    /// whose beginning was passed already, so nothing can follow it.
    pub fn cut_source(&mut self) -> bool {
        self.end = self.passed;
        self.rest();
        self.scanner.at_boundary()
    }

    /// The sink is gone: what was passed and not written is thrown away.
    pub fn cut_sink(&mut self) {
        self.start = self.passed;
        self.rest();
    }

    /// Writes what was passed. `Ready(Ok)`: all of it.
    pub fn poll_drain<S: Sink>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>> {
        if self.is_drained() && !self.unsettled {
            return Poll::Ready(Ok(()));
        }
        while self.start < self.passed {
            match stream.poll_send(cx, &self.buf[self.start..self.passed]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.start += count;
                    self.moved += count as u64;
                    self.unsettled = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.rest();
        if self.unsettled {
            self.unsettled = !ready!(stream.poll_settle(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
