//! Where a backend can be reached with a cancel request, and whether one is on its way: it must not hit what runs there next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wire::CancelKey;

use super::Target;

/// One backend, as far as a cancel request needs it.
#[derive(Debug)]
pub struct Berth {
    /// Where it is.
    pub target: Target,
    /// The server's own key for this backend; a server may give none.
    pub key: Option<CancelKey>,
    /// Cancel requests that were ever sent after it.
    cancels: AtomicUsize,
}

impl Berth {
    /// Of a backend that was just logged in.
    pub fn new(target: Target, key: Option<CancelKey>) -> Arc<Self> {
        Arc::new(Self { target, key, cancels: AtomicUsize::new(0) })
    }

    /// A cancel request is about to be sent after it.
    pub fn expect_cancel(&self) {
        self.cancels.fetch_add(1, Ordering::SeqCst);
    }

    /// Cancel requests that have been sent after it, or will be. One that comes late would hit another's statement: a backend
    /// for which this number has grown is not lent again.
    pub fn cancels(&self) -> usize {
        self.cancels.load(Ordering::SeqCst)
    }
}
