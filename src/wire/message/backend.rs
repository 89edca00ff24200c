//! Views of what a server sends.

use super::{ReadError, Reader};
use crate::wire::{CancelKey, TxStatus};

/// The Authentication* family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk: the client is in.
    Ok,
    /// AuthenticationCleartextPassword: PasswordMessage is wanted.
    Cleartext,
    /// AuthenticationMD5Password: PasswordMessage with the MD5 form is wanted.
    Md5 {
        /// Goes into the hash.
        salt: [u8; 4],
    },
    /// AuthenticationSASL: SASLInitialResponse is wanted.
    Sasl(Mechanisms<'a>),
    /// AuthenticationSASLContinue: SASLResponse is wanted.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal: the server's last word before AuthenticationOk.
    SaslFinal(&'a [u8]),
    /// A method not spoken here: Kerberos, GSSAPI, SSPI, or newer.
    Unsupported {
        /// The code of the method.
        code: i32,
    },
}

impl<'a> Authentication<'a> {
    /// Reads the body of `R`.
    ///
    /// # Errors
    /// The body ends too early or goes on too long for its code.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let message = match r.i32()? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5 { salt: r.array()? },
            10 => return Ok(Self::Sasl(Mechanisms::read(r.rest())?)),
            11 => return Ok(Self::SaslContinue(r.rest())),
            12 => return Ok(Self::SaslFinal(r.rest())),
            code => return Ok(Self::Unsupported { code }),
        };
        r.end()?;
        Ok(message)
    }
}

/// The SASL mechanisms a server offers, in its order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mechanisms<'a>(&'a [u8]);

impl<'a> Mechanisms<'a> {
    fn read(list: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(list);
        while !r.text()?.is_empty() {}
        r.end()?;
        Ok(Self(list))
    }

    /// Their names.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|&b| b == 0).take_while(|name| !name.is_empty())
    }

    /// Whether `name` is offered.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|offered| offered == name.as_bytes())
    }
}

/// BackendKeyData: how to cancel this session's statements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The server process.
    pub process_id: i32,
    /// The secret: 4 bytes in protocol 3.0, 4 to 256 since 3.2.
    pub secret: &'a [u8],
}

/// Never shows the secret.
impl std::fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKeyData").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

impl<'a> BackendKeyData<'a> {
    /// Reads the body of `K`.
    ///
    /// # Errors
    /// The secret has fewer than 4 or more than 256 bytes.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (process_id, secret) = (r.i32()?, r.rest());
        match secret.len() {
            CancelKey::MIN_SECRET..=CancelKey::MAX_SECRET => Ok(Self { process_id, secret }),
            0..CancelKey::MIN_SECRET => Err(ReadError::Truncated),
            _ => Err(ReadError::Trailing),
        }
    }

    /// The key, to keep.
    #[must_use]
    pub fn to_key(&self) -> CancelKey {
        CancelKey { process_id: self.process_id, secret: self.secret.to_vec() }
    }
}

/// ParameterStatus: a setting's value now, at start or after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The setting's name in the server's spelling.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Reads the body of `S`.
    ///
    /// # Errors
    /// The body is not two terminated texts.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (name, value) = (r.text()?, r.text()?);
        r.end()?;
        Ok(Self { name, value })
    }
}

/// ReadyForQuery: the server waits for the next command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyForQuery {
    /// The transaction's status.
    pub status: TxStatus,
}

impl ReadyForQuery {
    /// Reads the body of `Z`.
    ///
    /// # Errors
    /// The body is not one of the bytes `I`, `T`, `E`.
    pub fn read(body: &[u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let status = TxStatus::from_byte(r.u8()?).ok_or(ReadError::Value("transaction status"))?;
        r.end()?;
        Ok(Self { status })
    }
}

/// CommandComplete: one statement is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The tag: the command's name, for some with a row count, such as `INSERT 0 1`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// Reads the body of `C`.
    ///
    /// # Errors
    /// The body is not one terminated text.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let tag = r.text()?;
        r.end()?;
        Ok(Self { tag })
    }

    /// The command's name, without a row count: `INSERT`, `CREATE TABLE`, `ROLLBACK`.
    #[must_use]
    pub fn command(&self) -> &'a [u8] {
        let end = self.tag.iter().position(u8::is_ascii_digit).unwrap_or(self.tag.len());
        self.tag[..end].trim_ascii_end()
    }

    /// The row count, for the commands that have one.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let last = self.tag.rsplit(|&b| b == b' ').next()?;
        std::str::from_utf8(last).ok()?.parse().ok()
    }
}

/// NotificationResponse: somebody notified a channel this session listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotificationResponse<'a> {
    /// The notifying server process.
    pub process_id: i32,
    /// The channel.
    pub channel: &'a [u8],
    /// The payload; often empty.
    pub payload: &'a [u8],
}

impl<'a> NotificationResponse<'a> {
    /// Reads the body of `A`.
    ///
    /// # Errors
    /// The body ends too early, or a text is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (process_id, channel, payload) = (r.i32()?, r.text()?, r.text()?);
        r.end()?;
        Ok(Self { process_id, channel, payload })
    }
}

/// DataRow: one row's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRow<'a> {
    count: u16,
    values: &'a [u8],
}

impl<'a> DataRow<'a> {
    /// Reads the column count of `D`'s body; the values are read as they are asked for.
    ///
    /// # Errors
    /// There is no column count.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        Ok(Self { count: r.u16()?, values: r.rest() })
    }

    /// How many columns the row says it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether the row has no columns.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order; `None` is NULL.
    #[must_use]
    pub const fn columns(&self) -> Columns<'a> {
        Columns { left: self.count, reader: Reader::new(self.values) }
    }

    /// The value of one column as text; `None` when it is NULL, absent or not UTF-8.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&'a str> {
        std::str::from_utf8(self.columns().nth(column)?.ok()??).ok()
    }
}

/// Iterates over a row's values. Ends after the first error, and reports bytes left over as one.
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Result<Option<&'a [u8]>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.reader.value()
            }
            None => match self.reader.end() {
                Ok(()) => return None,
                Err(error) => Err(error),
            },
        };
        if value.is_err() {
            (self.left, self.reader) = (0, Reader::new(&[]));
        }
        Some(value)
    }
}

/// RowDescription: the shape of the rows that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: u16,
    fields: &'a [u8],
}

impl<'a> RowDescription<'a> {
    /// Bytes of a field behind its name: table oid, column, type oid, type length, modifier, format.
    const FIELD_TAIL: usize = 18;

    /// Reads the body of `T`.
    ///
    /// # Errors
    /// The fields are not as many as they say, or a name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (count, fields) = (r.u16()?, r.rest());
        for _ in 0..count {
            r.text()?;
            r.take(Self::FIELD_TAIL)?;
        }
        r.end()?;
        Ok(Self { count, fields })
    }

    /// The fields' names in order.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut r = Reader::new(self.fields);
        (0..self.count).map_while(move |_| {
            let name = r.text().ok()?;
            r.take(Self::FIELD_TAIL).ok()?;
            Some(name)
        })
    }
}

/// NegotiateProtocolVersion: the server knows less than the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The newest minor version of protocol 3 the server speaks.
    pub minor: u16,
    count: u32,
    options: &'a [u8],
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// Reads the body of `v`. PostgreSQL writes the whole version (196 610 for 3.2) where the manual says the minor
    /// number; both are understood.
    ///
    /// # Errors
    /// The version is of another major, or the options are not as many as they say.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let minor = match r.i32()? {
            code if code >> 16 == 3 || code >> 16 == 0 => (code & 0xffff) as u16,
            _ => return Err(ReadError::Value("protocol version")),
        };
        let count = u32::try_from(r.i32()?).map_err(|_| ReadError::Value("option count"))?;
        let options = r.rest();
        for _ in 0..count {
            r.text()?;
        }
        r.end()?;
        Ok(Self { minor, count, options })
    }

    /// The protocol options (`_pq_.…`) the server did not recognize.
    pub fn unrecognized(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut r = Reader::new(self.options);
        (0..self.count).map_while(move |_| r.text().ok())
    }
}
