//! One notification, as the frame that carries it, and who it says has sent it.

use bytes::{Bytes, BytesMut};

use crate::wire::HEADER_LEN;
use crate::wire::message::write::backend as write;
use crate::wire::message::{NotificationResponse, ReadError};

use super::Moment;
use super::channel::Channel;

/// The process id of nobody: given to a stranger whose own happens to be that of the session told.
const STRANGER: i32 = 0;

/// A NotificationResponse, whole and checked. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    frame: Bytes,
    /// Where the payload begins.
    payload: usize,
    after: Moment,
}

impl Notification {
    /// Takes a copy of a frame's body: what it was read from is not kept alive by it. `after`: the last moment that had passed
    /// when it came.
    ///
    /// # Errors
    /// It is not a notification.
    pub fn read(body: &[u8], after: Moment) -> Result<Self, ReadError> {
        let NotificationResponse { process_id, channel, payload } = NotificationResponse::read(body)?;
        let mut frame = BytesMut::with_capacity(HEADER_LEN + body.len());
        write::notification_response(&mut frame, process_id, channel, payload);
        Ok(Self { frame: frame.freeze(), payload: HEADER_LEN + 4 + channel.len() + 1, after })
    }

    /// The frame, as the server sent it.
    pub const fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The last moment that had passed when it came.
    pub const fn after(&self) -> Moment {
        self.after
    }

    /// The server process that has sent it.
    pub fn sender(&self) -> i32 {
        let at = HEADER_LEN;
        self.frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(STRANGER, i32::from_be_bytes)
    }

    /// The channel's name.
    pub fn channel(&self) -> &[u8] {
        &self.frame[HEADER_LEN + 4..self.payload - 1]
    }

    /// What was sent.
    pub fn payload(&self) -> &[u8] {
        &self.frame[self.payload..self.frame.len() - 1]
    }

    /// Is it about this channel?
    pub fn is_about(&self, channel: &Channel) -> bool {
        self.channel() == channel.as_bytes()
    }

    /// The frame as a session is told it, whose client knows its server by the process id `own`. Clients find out by that
    /// number whether they have sent a notification themselves. `held`: the server process whose notifications are the session's
    /// ([`Turn::process`](super::Turn::process) says when they are); `None`: it has none.
    pub fn told_to(&self, own: i32, held: Option<i32>) -> Bytes {
        match self.sender() {
            sender if Some(sender) == held => with_sender(&self.frame, own),
            sender if sender == own => with_sender(&self.frame, STRANGER),
            _ => self.frame.clone(),
        }
    }
}

/// The same NotificationResponse, sent by this process. A frame too short to be one stays as it is.
pub fn with_sender(frame: &Bytes, process_id: i32) -> Bytes {
    let mut copy = BytesMut::from(&frame[..]);
    if let Some(place) = copy.get_mut(HEADER_LEN..HEADER_LEN + 4) {
        place.copy_from_slice(&process_id.to_be_bytes());
    }
    copy.freeze()
}
