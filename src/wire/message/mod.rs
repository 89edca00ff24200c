//! What is inside a frame: lazy views over a body, and writers that append frames to a buffer.
//!
//! A view borrows; it decodes what was asked for and never panics, whatever the bytes. Names and texts are bytes: their
//! encoding is the session's affair.

mod backend;
mod fields;
mod frontend;
pub mod write;

pub use backend::{
    Authentication, BackendKeyData, Columns, CommandComplete, DataRow, Mechanisms, NegotiateProtocolVersion,
    NotificationResponse, ParameterStatus, ReadyForQuery, RowDescription,
};
pub use fields::{ErrorFields, Severity};
pub use frontend::{
    Bind, Close, Describe, Execute, Parse, PasswordMessage, Query, SaslInitialResponse, SaslResponse, Target,
};

use thiserror::Error;

/// The body is not what its tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// It ends inside a field.
    #[error("the message ends too early")]
    Truncated,
    /// A text has no NUL behind it.
    #[error("a text in the message is not terminated")]
    Unterminated,
    /// Bytes follow the last field.
    #[error("bytes follow the message's last field")]
    Trailing,
    /// A field has a value the protocol does not know.
    #[error("the message's {0} is not valid")]
    Value(&'static str),
}

/// Reads fields off the front of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(ReadError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(ReadError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ReadError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ReadError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, ReadError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A text up to its NUL, without it.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], ReadError> {
        let end = memchr::memchr(0, self.0).ok_or(ReadError::Unterminated)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    /// A value behind its Int32 length; -1 is NULL.
    pub(crate) fn value(&mut self) -> Result<Option<&'a [u8]>, ReadError> {
        match self.i32()? {
            -1 => Ok(None),
            n => Ok(Some(self.take(usize::try_from(n).map_err(|_| ReadError::Value("value length"))?)?)),
        }
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn end(self) -> Result<(), ReadError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReadError::Trailing) }
    }
}

#[cfg(test)]
mod tests;
