//! Buffers that are lent only while bytes are in flight. Each thread keeps a few spare ones, so that lending costs nothing.
//!
//! A session that waits has none, which is what most sessions do most of the time. The spare ones are a thread's own, like
//! an allocator's cache: nothing is shared, nothing is locked, and who has a buffer owns it wholly. They stay initialised,
//! so that no read has to begin with filling one with zeros.

use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};

use super::BUFFER;

/// Spare buffers of one thread. It serves one session at a time: more are in use at once only where bytes wait.
const SPARE: usize = 8;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, or none, which is one without bytes.
#[derive(Default)]
pub(super) struct Lent(Vec<u8>);

impl Lent {
    /// Sees to it that there is one.
    pub(super) fn ask(&mut self) {
        if self.0.is_empty() {
            // A thread that ends has given its spare ones up already.
            let spare = KEPT.try_with(|kept| kept.borrow_mut().pop());
            self.0 = spare.ok().flatten().unwrap_or_else(|| vec![0; BUFFER]);
        }
    }

    /// Makes it larger: one that was grown is not lent again.
    pub(super) fn grow(&mut self, to: usize) {
        self.0.resize(to, 0);
    }

    /// Needed no more.
    pub(super) fn give_back(&mut self) {
        let bytes = mem::take(&mut self.0);
        if bytes.len() == BUFFER {
            let _ = KEPT.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < SPARE {
                    kept.push(bytes);
                }
            });
        }
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({})", self.0.len())
    }
}

/// How many spare buffers this thread has.
#[cfg(test)]
pub(super) fn spare() -> usize {
    KEPT.with_borrow(Vec::len)
}
