//! How bytes reach the kernel past tokio: many sends in one system call, by io_uring, or one by itself.
//!
//! Unsafe code, for what nothing safe offers: telling the kernel an address. What it needs to be sound
//! is in one place each: bytes and sockets are there until a call here returns, for no send is left open behind it. The
//! sockets do not block (tokio's never do) and `MSG_DONTWAIT` is said besides, so the kernel answers at once instead of
//! keeping a send, and with it an address, for later.
#![expect(unsafe_code, reason = "6 to 27 % of a small query's CPU: pgmoor beside pgmoor/epoll in `make bench`")]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use io_uring::{IoUring, Probe, opcode, types};
use socket2::SockRef;

use super::{MOST, Send};

/// An error instead of a signal where the peer is gone (send(2)), and never a wait.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// One thread's way of many sends at once.
pub(super) struct Ring(IoUring);

/// What became of one send: bytes that were taken, or an error's number.
pub(super) type Outcome = Result<usize, i32>;

impl Ring {
    /// Must be called by the thread that uses it.
    pub(super) fn new() -> io::Result<Self> {
        // The kernel need not interrupt its only user for what it finishes anyway while that one asks; since Linux 6.0.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .build(MOST as u32)
            .or_else(|_| IoUring::new(MOST as u32))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if probe.is_supported(opcode::Send::CODE) { Ok(Self(ring)) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Sends each its part of `bytes`, in this order, and says in the same order what became of it.
    ///
    /// # Errors
    /// The ring is of no use any more: it has to be dropped. What became of the sends without an outcome is not known.
    pub(super) fn send(&mut self, bytes: &[u8], sends: &[Send], outcomes: &mut Vec<Option<Outcome>>) -> io::Result<()> {
        outcomes.clear();
        outcomes.resize(sends.len(), None);
        let mut begin = 0;
        for (number, send) in (0_u64..).zip(sends) {
            let part = &bytes[begin..send.end];
            begin = send.end;
            let entry = opcode::Send::new(types::Fd(send.socket), part.as_ptr(), part.len() as u32)
                .flags(FLAGS)
                .build()
                .user_data(number);
            // SAFETY: the part lives in `bytes` and the descriptor is open (`Send::socket`) until this function returns; by
            // then the kernel has answered, or the ring is given up with what the kernel has not taken from it.
            unsafe { self.0.submission().push(&entry) }.map_err(io::Error::other)?;
        }
        let mut left = sends.len();
        while left > 0 {
            let submitted = self.0.submit_and_wait(left);
            for done in self.0.completion() {
                let outcome = outcomes.get_mut(done.user_data() as usize).filter(|outcome| outcome.is_none());
                *outcome.ok_or_else(|| io::Error::other("an answer to nothing"))? =
                    Some(usize::try_from(done.result()).map_err(|_| -done.result()));
                left -= 1;
            }
            match submitted {
                Err(error) if left > 0 && error.kind() != io::ErrorKind::Interrupted => {
                    // What the kernel has not taken it never will: it is still to be sent.
                    let untaken = self.0.submission().len();
                    outcomes.iter_mut().rev().take(untaken).for_each(|outcome| *outcome = Some(Err(libc::EAGAIN)));
                    return Err(error);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Sends without a ring.
pub(super) fn send(socket: RawFd, bytes: &[u8]) -> Outcome {
    // SAFETY: the descriptor is open while a send to it waits here (`Send::socket`).
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    loop {
        match SockRef::from(&socket).send_with_flags(bytes, FLAGS) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}
