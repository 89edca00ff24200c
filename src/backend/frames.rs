//! Messages of a server we do not trust: read one at a time, each bounded, and all of a login together.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ConnectError, QueryError};
use crate::net::Stream;
use crate::wire::HEADER_LEN;
use crate::wire::message::{ParameterStatus, ReadError};

/// Most settings a server may report; PostgreSQL reports about 15.
const MAX_PARAMETERS: usize = 256;

/// A connection while logging in: what is to be sent, and what was read ahead.
pub(super) struct Talk {
    pub(super) stream: Stream,
    pub(super) out: BytesMut,
    pub(super) received: BytesMut,
    /// Bytes the server may still send.
    left: usize,
}

/// One message, without its header.
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error(transparent)]
    Lost(#[from] io::Error),
    #[error("a message says its length is {0}")]
    Length(u32),
    #[error("the server sends more than is sensible")]
    TooMuch,
    #[error(transparent)]
    Body(#[from] ReadError),
}

impl Talk {
    pub(super) fn new(stream: Stream, left: usize) -> Self {
        Self { stream, out: BytesMut::with_capacity(512), received: BytesMut::with_capacity(4096), left }
    }

    pub(super) async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        self.stream.flush().await
    }

    pub(super) async fn frame(&mut self, limit: u32) -> Result<Frame, FrameError> {
        let frame = next_frame(&mut self.stream, &mut self.received, limit).await?;
        self.left = self.left.checked_sub(HEADER_LEN + frame.body.len()).ok_or(FrameError::TooMuch)?;
        Ok(frame)
    }
}

/// Reads one message whose length word is at most `limit`. Cancel safe: what was read stays in `received`.
pub(super) async fn next_frame(stream: &mut Stream, received: &mut BytesMut, limit: u32) -> Result<Frame, FrameError> {
    loop {
        if let Some(&[tag, a, b, c, d]) = received.first_chunk::<HEADER_LEN>() {
            let length = u32::from_be_bytes([a, b, c, d]);
            if !(4..=limit).contains(&length) {
                return Err(FrameError::Length(length));
            }
            let body = length as usize - 4;
            if received.len() >= HEADER_LEN + body {
                received.advance(HEADER_LEN);
                return Ok(Frame { tag, body: received.split_to(body).freeze() });
            }
        }
        if stream.read_buf(received).await? == 0 {
            return Err(FrameError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Notes what a `ParameterStatus` says.
pub(super) fn keep_parameter(parameters: &mut BTreeMap<String, String>, body: &[u8]) -> Result<(), FrameError> {
    let ParameterStatus { name, value } = ParameterStatus::read(body)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    parameters.insert(text(name), text(value));
    if parameters.len() > MAX_PARAMETERS { Err(FrameError::TooMuch) } else { Ok(()) }
}

impl From<FrameError> for ConnectError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Lost(error) => Self::Unreachable(error),
            FrameError::Length(_) | FrameError::TooMuch | FrameError::Body(_) => Self::Protocol(error.to_string()),
        }
    }
}

impl From<ReadError> for ConnectError {
    fn from(error: ReadError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<FrameError> for QueryError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Lost(error) => Self::Lost(error),
            FrameError::Length(_) | FrameError::TooMuch | FrameError::Body(_) => Self::Protocol(error.to_string()),
        }
    }
}

impl From<ReadError> for QueryError {
    fn from(error: ReadError) -> Self {
        Self::Protocol(error.to_string())
    }
}
