//! What was heard for one listener and not taken by it yet: in order, and bounded.

use std::collections::VecDeque;

use super::channel::Channel;
use super::notification::Notification;

/// Bytes that wait at most, with what it takes to keep them. A server cannot be asked to hold notifications back (with
/// one listening connection for all, one slow client would hold back everybody's, and in the end fill the server's own
/// queue), so they wait here. A few ten thousand of the usual size outlast a slow moment or a long transaction; what one
/// client may take of the proxy's memory stays that of a few large rows.
pub const MOST: usize = 4 << 20;

/// What keeping one notification costs besides its bytes.
const KEPT: usize = 64;

/// Places an empty queue may keep.
const SMALL: usize = 32;

/// One listener's queue.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: VecDeque<Notification>,
    /// What it weighs.
    weight: usize,
    overrun: bool,
}

/// The next thing a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody notified a channel it listens to.
    Notification(Notification),
    /// More came than may wait: what is to come has a hole, and the session cannot go on as if it had none.
    Overrun,
}

/// More came than may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl Inbox {
    /// Another one has come.
    ///
    /// # Errors
    /// It does not fit. All that waits is dropped with it, so that nothing is kept for a session that has to end.
    pub fn push(&mut self, notification: Notification) -> Result<(), Overrun> {
        let weight = weight(&notification);
        if self.overrun || self.weight + weight > MOST {
            *self = Self { overrun: true, ..Self::default() };
            return Err(Overrun);
        }
        self.weight += weight;
        self.queue.push_back(notification);
        Ok(())
    }

    /// Takes the next; after an overrun there is nothing else any more.
    pub fn take(&mut self) -> Option<Heard> {
        if self.overrun {
            return Some(Heard::Overrun);
        }
        let next = self.queue.pop_front()?;
        self.weight -= weight(&next);
        if self.queue.is_empty() && self.queue.capacity() > SMALL {
            self.queue = VecDeque::new(); // what a burst took is given back
        }
        Some(Heard::Notification(next))
    }

    /// Whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.overrun
    }

    /// The listener does not listen to this channel any more: PostgreSQL, too, tells nothing of it after an UNLISTEN.
    pub fn forget(&mut self, channel: &Channel) {
        self.queue.retain(|waiting| !waiting.is_about(channel));
        self.weight = self.queue.iter().map(weight).sum();
    }
}

fn weight(notification: &Notification) -> usize {
    notification.frame().len() + KEPT
}
