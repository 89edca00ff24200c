//! Where one listener's notifications wait, and who is woken when there is one.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::continuity::ear::{Channel, Heard, Inbox, Notification, Overrun};

/// One listener's.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    inbox: Inbox,
    /// Who waits, while it is empty.
    waker: Option<Waker>,
}

impl Mailbox {
    /// Puts one in.
    ///
    /// # Errors
    /// It does not fit; the listener is told of that instead.
    pub(super) fn push(&self, notification: Notification) -> Result<(), Overrun> {
        let mut inside = self.inside.lock();
        let pushed = inside.inbox.push(notification);
        let waker = inside.waker.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Takes one out.
    pub(super) fn poll_take(&self, cx: &Context<'_>) -> Poll<Heard> {
        let mut inside = self.inside.lock();
        if let Some(heard) = inside.inbox.take() {
            return Poll::Ready(heard);
        }
        if !inside.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inside.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Throws away what is about this channel.
    pub(super) fn forget(&self, channel: &Channel) {
        self.inside.lock().inbox.forget(channel);
    }
}
