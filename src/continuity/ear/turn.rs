//! One session's turn at a backend: which of that server process's notifications are the session's own.

use super::Moment;
use super::notification::Notification;

/// The turn. A server process works for many sessions, one after the other, and what it notified for the last one may still be
/// on its way when the next one has it. So a notification is a session's own if it came after a moment at which the turn had
/// begun had passed, and before one at which the turn was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    process_id: i32,
    from: Moment,
    until: Option<Moment>,
}

impl Turn {
    /// At the backend of this process id. `from`: a moment taken when it was there, before anything was sent to it.
    ///
    /// What the session notifies before that has passed is taken for somebody else's.
    pub const fn new(process_id: i32, from: Moment) -> Self {
        Self { process_id, from, until: None }
    }

    /// The backend was given back. `until`: a moment taken when the last answer had come from it.
    pub const fn end(&mut self, until: Moment) {
        self.until = Some(until);
    }

    /// The moment it begins with.
    pub const fn from(&self) -> Moment {
        self.from
    }

    /// The server process, if what it has sent here is the session's own: for [`Notification::told_to`].
    pub fn process(&self, notification: &Notification) -> Option<i32> {
        let came = notification.after();
        let within = came >= self.from && self.until.is_none_or(|until| came < until);
        (within && notification.sender() == self.process_id).then_some(self.process_id)
    }
}
