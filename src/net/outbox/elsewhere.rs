//! Where the kernel is not Linux there is no ring, so nothing is gathered.

use std::convert::Infallible;
use std::io;
use std::os::fd::RawFd;

use super::Send;

/// There is none.
pub(super) struct Ring(Infallible);

/// What became of one send: bytes that were taken, or an error's number.
pub(super) type Outcome = Result<usize, i32>;

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(&mut self, _: &[u8], _: &[Send], _: &mut Vec<Option<Outcome>>) -> io::Result<()> {
        match self.0 {}
    }
}

/// Nothing ever waits to be sent so.
pub(super) fn send(_: RawFd, _: &[u8]) -> Outcome {
    Err(libc::ENOSYS)
}
