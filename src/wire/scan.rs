//! Frame boundaries in a byte stream: which bytes may pass unseen, and which frame deserves a look.
//!
//! ```text
//!   window ─► [tag len][body…] [tag len][body…] [tag len][bo
//!             └── boring, whole ──────────────┘  └─ does not fit yet
//!                        Pass(n)                     Wait (room left) │ streamed (buffer full)
//!
//!                 ┌──────── frame fits ────────┐
//!                 ▼                            │
//!   Boundary ─ boring, too large ─► Boring{left} ─ left = 0 ─► Boundary
//!        └──── of interest, too large: Head ─► Shown{tag, left} ─ Part…, last ─► Boundary
//! ```
//!
//! Nothing is decoded, copied or allocated. A boring frame that fits the buffer passes only whole, so that whoever
//! relays can put a message of its own after everything it has forwarded.

use super::HEADER_LEN;
use thiserror::Error;

/// A set of tags worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest([u64; 4]);

impl Interest {
    /// No tag at all.
    pub const NONE: Self = Self([0; 4]);

    /// Every tag.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// The same set and `tags`.
    #[must_use]
    pub const fn with(self, tags: &[u8]) -> Self {
        let mut bits = self.0;
        let mut i = 0;
        while i < tags.len() {
            bits[(tags[i] >> 6) as usize] |= 1 << (tags[i] & 63);
            i += 1;
        }
        Self(bits)
    }

    /// Whether `tag` is in the set.
    #[inline]
    #[must_use]
    pub const fn has(&self, tag: u8) -> bool {
        self.0[(tag >> 6) as usize] & (1 << (tag & 63)) != 0
    }
}

/// What to do with the first bytes of the window. Each step but `Wait` consumes them: the next window starts behind.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// So many bytes need no look: whole boring frames together, or some of a boring frame too large for the buffer.
    Pass(usize),
    /// A whole frame of interest: `5 + body.len()` bytes.
    Frame {
        /// Its tag.
        tag: u8,
        /// All of its body.
        body: &'a [u8],
    },
    /// A frame of interest too large for the buffer: `5 + part.len()` bytes of it.
    Head {
        /// Its tag.
        tag: u8,
        /// The first bytes of its body.
        part: &'a [u8],
        /// Bytes of the whole body.
        length: u32,
    },
    /// The next `part.len()` bytes of the frame that [`Step::Head`] began.
    Part {
        /// Its tag.
        tag: u8,
        /// The next bytes of its body.
        part: &'a [u8],
        /// Bytes of the whole body.
        length: u32,
        /// Whether the frame ends with them.
        last: bool,
    },
    /// More bytes are needed.
    Wait,
}

impl Step<'_> {
    /// How many bytes of the window this step consumes.
    #[must_use]
    pub const fn consumed(&self) -> usize {
        match self {
            Self::Pass(n) => *n,
            Self::Frame { body, .. } => HEADER_LEN + body.len(),
            Self::Head { part, .. } => HEADER_LEN + part.len(),
            Self::Part { part, .. } => part.len(),
            Self::Wait => 0,
        }
    }
}

/// The stream is not protocol 3, or not one we are willing to carry. It cannot be resynchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScanError {
    /// No message has tag 0.
    #[error("a message has tag 0")]
    ZeroTag,
    /// The length word counts itself, so it is at least 4; negative ones land here as well.
    #[error("message {:?} says its length is {length}", char::from(*tag))]
    Length {
        /// The frame's tag.
        tag: u8,
        /// The length word.
        length: i32,
    },
    /// Longer than allowed.
    #[error("message {:?} of {length} bytes is over the limit of {max}", char::from(*tag))]
    TooLong {
        /// The frame's tag.
        tag: u8,
        /// The length word.
        length: u32,
        /// The largest length word allowed.
        max: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next byte is a tag.
    Boundary,
    /// Inside a boring frame too large for the buffer.
    Boring { left: u32 },
    /// Inside a frame of interest too large for the buffer, whose body has so many bytes.
    Shown { tag: u8, left: u32, length: u32 },
}

/// Walks the headers of one direction of a connection. Of constant size; progress inside a large frame lives here.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// One of few that all share: a session has two scanners.
    interest: &'static Interest,
    max_frame: u32,
    state: State,
}

impl Scanner {
    /// A scanner at a frame boundary. `max_frame` limits the length word (the body's bytes + 4).
    #[must_use]
    pub const fn new(interest: &'static Interest, max_frame: u32) -> Self {
        Self { interest, max_frame, state: State::Boundary }
    }

    /// Changes what is worth a look, from the next frame that begins.
    pub const fn set_interest(&mut self, interest: &'static Interest) {
        self.interest = interest;
    }

    /// What is worth a look.
    #[must_use]
    pub const fn interest(&self) -> &'static Interest {
        self.interest
    }

    /// The longest frame it takes, as its length word counts.
    #[must_use]
    pub const fn max_frame(&self) -> u32 {
        self.max_frame
    }

    /// Forgets the frame that was being streamed: the next byte begins one, in another stream.
    pub const fn renew(&mut self) {
        self.state = State::Boundary;
    }

    /// Whether the next byte begins a frame: not inside a large frame that is being streamed.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state, State::Boundary)
    }

    /// Bytes still to come of the large frame being streamed; 0 at a boundary.
    #[must_use]
    pub const fn left(&self) -> u32 {
        match self.state {
            State::Boundary => 0,
            State::Boring { left } | State::Shown { left, .. } => left,
        }
    }

    /// Looks at `window`: the unread bytes, starting where the last step ended.
    ///
    /// `full` says that `window` is as long as a frame may be that passes only whole: one that goes beyond it is streamed in
    /// parts. It is at least [`HEADER_LEN`] bytes long then.
    ///
    /// # Errors
    /// A header that no server or client would send. What came before it has passed; the stream ends here.
    #[inline]
    pub fn step<'a>(&mut self, window: &'a [u8], full: bool) -> Result<Step<'a>, ScanError> {
        match self.state {
            State::Boundary => self.walk(window, 0, full),
            State::Boring { left } => {
                let here = clip(left, window);
                if here < left as usize {
                    self.state = State::Boring { left: left - here as u32 };
                    return Ok(if here == 0 { Step::Wait } else { Step::Pass(here) });
                }
                self.state = State::Boundary;
                self.walk(window, here, false)
            }
            State::Shown { tag, left, length } => {
                let here = clip(left, window);
                if here == 0 {
                    return Ok(Step::Wait);
                }
                let left = left - here as u32;
                self.state = if left == 0 { State::Boundary } else { State::Shown { tag, left, length } };
                Ok(Step::Part { tag, part: &window[..here], length, last: left == 0 })
            }
        }
    }

    /// The hot loop: hops from header to header from `pos`, which is a boundary.
    #[inline]
    fn walk<'a>(&mut self, window: &'a [u8], mut pos: usize, full: bool) -> Result<Step<'a>, ScanError> {
        while let Some(&[tag, a, b, c, d]) = window[pos..].first_chunk::<HEADER_LEN>() {
            let length = u32::from_be_bytes([a, b, c, d]);
            if let Err(error) = self.check(tag, length) {
                return if pos > 0 { Ok(Step::Pass(pos)) } else { Err(error) };
            }
            let end = pos + 1 + length as usize;
            let fits = end <= window.len();
            if fits && !self.interest.has(tag) {
                pos = end;
                continue;
            }
            if pos > 0 {
                return Ok(Step::Pass(pos));
            }
            return Ok(self.first(window, tag, length, full));
        }
        Ok(if pos > 0 { Step::Pass(pos) } else { Step::Wait })
    }

    /// The frame at the window's very start, when it is of interest or does not fit.
    fn first<'a>(&mut self, window: &'a [u8], tag: u8, length: u32, full: bool) -> Step<'a> {
        let end = 1 + length as usize;
        if end <= window.len() {
            return Step::Frame { tag, body: &window[HEADER_LEN..end] };
        }
        if !full {
            return Step::Wait;
        }
        let left = (end - window.len()) as u32;
        if self.interest.has(tag) {
            let length = length - 4;
            self.state = State::Shown { tag, left, length };
            Step::Head { tag, part: &window[HEADER_LEN..], length }
        } else {
            self.state = State::Boring { left };
            Step::Pass(window.len())
        }
    }

    #[inline]
    const fn check(&self, tag: u8, length: u32) -> Result<(), ScanError> {
        if tag == 0 {
            return Err(ScanError::ZeroTag);
        }
        if (length as i32) < 4 {
            return Err(ScanError::Length { tag, length: length as i32 });
        }
        if length > self.max_frame {
            return Err(ScanError::TooLong { tag, length, max: self.max_frame });
        }
        Ok(())
    }
}

/// How many of `left` bytes the window holds.
#[inline]
fn clip(left: u32, window: &[u8]) -> usize {
    window.len().min(left as usize)
}

#[cfg(test)]
mod tests;
