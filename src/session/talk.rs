//! A conversation of pgmoor's own with a backend, before or between the client's: frames one by one, nothing lost of what is the client's.

use std::sync::Arc;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::Parameters;
use crate::net::Stream;
use crate::wire::message::ParameterStatus;
use crate::wire::scan::{Interest, ScanError, Scanner, Step};
use crate::wire::{HEADER_LEN, backend as tag};

/// Bytes of one reply at most; more is not an answer to what was asked.
const MOST: usize = 4 << 20;

/// Every tag: each frame is looked at.
const EVERYTHING: Interest = {
    let mut tags = [0_u8; 255];
    let mut at = 0;
    while at < tags.len() {
        tags[at] = at as u8 + 1;
        at += 1;
    }
    Interest::NONE.with(&tags)
};

/// The backend is of no more use.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Protocol(#[from] ScanError),
    #[error("the connection ended")]
    Ended,
    #[error("too long an answer")]
    TooLong,
    #[error("no answer in time")]
    Late,
}

/// A backend that is being talked to.
#[derive(Debug)]
pub(super) struct Talk {
    stream: Stream,
    unread: BytesMut,
    /// Notifications: they are the client's.
    kept: BytesMut,
    /// The settings the server has reported.
    parameters: Parameters,
    scanner: Scanner,
}

impl Talk {
    /// `unread`: bytes that were read too much before.
    pub(super) fn new(stream: Stream, unread: BytesMut, parameters: Parameters) -> Self {
        Self { stream, unread, kept: BytesMut::new(), parameters, scanner: Scanner::new(&EVERYTHING, MOST as u32) }
    }

    /// Sends requests.
    pub(super) async fn say(&mut self, packet: &[u8]) -> Result<(), Broken> {
        self.stream.write_all(packet).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next frame: its tag and body.
    pub(super) async fn hear(&mut self) -> Result<(u8, BytesMut), Broken> {
        loop {
            let found = match self.scanner.step(&self.unread, false)? {
                Step::Frame { tag, body } => Some((tag, HEADER_LEN + body.len())),
                Step::Pass(_) | Step::Wait | Step::Head { .. } | Step::Part { .. } => None,
            };
            let Some((tag, count)) = found else {
                if self.unread.len() > MOST {
                    return Err(Broken::TooLong);
                }
                if self.stream.read_buf(&mut self.unread).await? == 0 {
                    return Err(Broken::Ended);
                }
                continue;
            };
            let mut frame = self.unread.split_to(count);
            if tag == tag::NOTIFICATION_RESPONSE && self.kept.len() < MOST {
                self.kept.extend_from_slice(&frame);
            }
            let body = frame.split_off(HEADER_LEN);
            if tag == tag::PARAMETER_STATUS
                && let Ok(status) = ParameterStatus::read(&body)
            {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                Arc::make_mut(&mut self.parameters).insert(text(status.name), text(status.value));
            }
            return Ok((tag, body));
        }
    }

    /// The connection, the client's bytes that came meanwhile, and the settings as they are now.
    pub(super) fn end(mut self) -> (Stream, BytesMut, Parameters) {
        self.kept.extend_from_slice(&self.unread);
        (self.stream, self.kept, self.parameters)
    }
}
