//! Buffers that are lent only while bytes are in flight. Each thread keeps a few spare ones, so that lending costs nothing.
//!
//! A session that waits has none, which is what most sessions do most of the time. The spare ones are a thread's own, like
//! an allocator's cache: nothing is shared, nothing is locked, and who has a buffer owns it wholly. They stay initialised,
//! so that no read has to begin with filling one with zeros.

use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};

use super::{BUFFER, LARGE};

/// Spare buffers of one thread. It serves one session at a time: more are in use at once only where bytes wait.
const SPARE: usize = 8;
/// The same of the large ones.
const SPARE_LARGE: usize = 2;

/// How large a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// [`BUFFER`].
    Usual,
    /// [`LARGE`].
    Large,
}

/// A buffer, or none, which is one without bytes.
#[derive(Default)]
pub(super) struct Lent(Vec<u8>);

/// What a thread keeps.
#[derive(Debug)]
struct Kept {
    usual: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept { usual: Vec::new(), large: Vec::new() }) };
}

impl Size {
    /// In bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Usual => BUFFER,
            Self::Large => LARGE,
        }
    }
}

impl Lent {
    /// Asks for one.
    pub(super) fn new(size: Size) -> Self {
        // A thread that ends has given its spare ones up already.
        let spare = KEPT.try_with(|kept| kept.borrow_mut().shelf(size).0.pop());
        Self(spare.ok().flatten().unwrap_or_else(|| vec![0; size.bytes()]))
    }

    /// One for these bytes alone, which is not lent again.
    pub(super) fn just(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Makes it larger: one that was grown is not lent again.
    pub(super) fn grow(&mut self, to: usize) {
        self.0.resize(to, 0);
    }

    /// Needed no more.
    pub(super) fn give_back(&mut self) {
        let bytes = mem::take(&mut self.0);
        let size = match bytes.len() {
            BUFFER => Size::Usual,
            LARGE => Size::Large,
            _ => return,
        };
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let (shelf, most) = kept.shelf(size);
            if shelf.len() < most {
                shelf.push(bytes);
            }
        });
    }
}

impl Kept {
    /// The spare ones of a size, and how many there may be.
    const fn shelf(&mut self, size: Size) -> (&mut Vec<Vec<u8>>, usize) {
        match size {
            Size::Usual => (&mut self.usual, SPARE),
            Size::Large => (&mut self.large, SPARE_LARGE),
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
pub(super) fn spare(size: Size) -> usize {
    KEPT.with_borrow_mut(|kept| kept.shelf(size).0.len())
}
