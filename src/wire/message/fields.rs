//! The fields of ErrorResponse and NoticeResponse.

use super::{ReadError, Reader};
use std::borrow::Cow;
use std::fmt;

/// How bad it is (field `V`, never translated; else `S`, which may be).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The statement failed; the session lives.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions of the server end.
    Panic,
    /// Notices, from here on.
    Warning,
    /// The usual notice.
    Notice,
    /// Asked for by a client.
    Debug,
    /// Wanted by the client.
    Info,
    /// Meant for the log.
    Log,
}

impl Severity {
    /// Every severity.
    pub const ALL: [Self; 8] =
        [Self::Error, Self::Fatal, Self::Panic, Self::Warning, Self::Notice, Self::Debug, Self::Info, Self::Log];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Log => "LOG",
        }
    }

    /// Whether the session is over after it.
    #[must_use]
    pub const fn ends_session(self) -> bool {
        matches!(self, Self::Fatal | Self::Panic)
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str().as_bytes() == word)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an ErrorResponse or NoticeResponse says, as far as we use it. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `V`, or `S` from servers before 9.6. One in another language counts as an error.
    pub severity: Severity,
    /// `C`: the SQLSTATE.
    pub code: Cow<'a, str>,
    /// `M`: the primary message.
    pub message: Cow<'a, str>,
    /// `D`: more about it.
    pub detail: Option<Cow<'a, str>>,
    /// `H`: what to do about it.
    pub hint: Option<Cow<'a, str>>,
}

impl<'a> ErrorFields<'a> {
    /// The three fields that every error has.
    #[must_use]
    pub fn new(severity: Severity, code: impl Into<Cow<'a, str>>, message: impl Into<Cow<'a, str>>) -> Self {
        Self { severity, code: code.into(), message: message.into(), detail: None, hint: None }
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'a, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'a, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads the body of `E` or `N`. Fields of types we do not know are skipped, as the protocol demands.
    ///
    /// # Errors
    /// A field or the list of them is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (mut spoken, mut plain) = (None, None);
        let mut fields = Self::new(Severity::Error, "", "");
        loop {
            let field = r.u8().map_err(|_| ReadError::Unterminated)?;
            if field == 0 {
                break;
            }
            let value = r.text()?;
            match field {
                b'S' => spoken = Severity::from_bytes(value),
                b'V' => plain = Severity::from_bytes(value),
                b'C' => fields.code = String::from_utf8_lossy(value),
                b'M' => fields.message = String::from_utf8_lossy(value),
                b'D' => fields.detail = Some(String::from_utf8_lossy(value)),
                b'H' => fields.hint = Some(String::from_utf8_lossy(value)),
                _ => {}
            }
        }
        r.end()?;
        fields.severity = plain.or(spoken).unwrap_or(Severity::Error);
        Ok(fields)
    }

    /// The same, owning its texts.
    #[must_use]
    pub fn into_owned(self) -> ErrorFields<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        ErrorFields {
            severity: self.severity,
            code: own(self.code),
            message: own(self.message),
            detail: self.detail.map(own),
            hint: self.hint.map(own),
        }
    }
}
