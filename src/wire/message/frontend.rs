//! Views of what a client sends.

use super::{ReadError, Reader};

/// Query: one text, any number of statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text, without its NUL.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads the body of `Q`.
    ///
    /// # Errors
    /// The body is not one terminated text.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let text = r.text()?;
        r.end()?;
        Ok(Self { text })
    }
}

/// Parse: prepares a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty is the unnamed one.
    pub name: &'a [u8],
    /// The statement's text.
    pub query: &'a [u8],
    /// The parameter types as sent: an Int16 count and as many Int32 oids.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of `P`.
    ///
    /// # Errors
    /// A text is not terminated, or the types are not as many as they say.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (name, query, types) = (r.text()?, r.text()?, r.rest());
        let count = r.u16()?;
        r.take(usize::from(count) * 4)?;
        r.end()?;
        Ok(Self { name, query, types })
    }

    /// The parameter types' oids; 0 is left to the server.
    pub fn type_oids(&self) -> impl Iterator<Item = u32> + 'a {
        let oids = self.types.get(2..).unwrap_or_default();
        oids.chunks_exact(4).map(|c| c.iter().fold(0, |n, &b| n << 8 | u32::from(b)))
    }
}

/// Bind: makes a portal of a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty is the unnamed one.
    pub portal: &'a [u8],
    /// The prepared statement's name.
    pub statement: &'a [u8],
    /// Everything behind the names as sent: formats, parameters, result formats. Not looked into.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the body of `B`; a leading part of it will do when it has both names.
    ///
    /// # Errors
    /// A name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        Ok(Self { portal: r.text()?, statement: r.text()?, rest: r.rest() })
    }
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `S`: a prepared statement.
    Statement,
    /// `P`: a portal.
    Portal,
}

impl Target {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// Describe: asks for the shape of a statement or portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Describe<'a> {
    /// What kind of thing is meant.
    pub target: Target,
    /// Its name; empty is the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Describe<'a> {
    /// Reads the body of `D`.
    ///
    /// # Errors
    /// The kind is neither `S` nor `P`, or the name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let (target, name) = target_and_name(body)?;
        Ok(Self { target, name })
    }
}

/// Close: forgets a statement or portal. No error when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// What kind of thing is meant.
    pub target: Target,
    /// Its name; empty is the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Close<'a> {
    /// Reads the body of `C`.
    ///
    /// # Errors
    /// The kind is neither `S` nor `P`, or the name is not terminated.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let (target, name) = target_and_name(body)?;
        Ok(Self { target, name })
    }
}

fn target_and_name(body: &[u8]) -> Result<(Target, &[u8]), ReadError> {
    let mut r = Reader::new(body);
    let target = match r.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(ReadError::Value("kind")),
    };
    let name = r.text()?;
    r.end()?;
    Ok((target, name))
}

/// Execute: runs a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name; empty is the unnamed one.
    pub portal: &'a [u8],
    /// Rows to return at most; 0 and below mean all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads the body of `E`.
    ///
    /// # Errors
    /// The name is not terminated, or the row count is missing.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (portal, max_rows) = (r.text()?, r.i32()?);
        r.end()?;
        Ok(Self { portal, max_rows })
    }
}

/// PasswordMessage: a password in clear text, or its MD5 form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordMessage<'a> {
    /// The password, without its NUL.
    pub password: &'a [u8],
}

/// Never shows the password.
impl std::fmt::Debug for PasswordMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordMessage").finish_non_exhaustive()
    }
}

impl<'a> PasswordMessage<'a> {
    /// Reads the body of `p`, when a password was asked for.
    ///
    /// # Errors
    /// The body is not one terminated text.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let password = r.text()?;
        r.end()?;
        Ok(Self { password })
    }
}

/// SASLInitialResponse: the mechanism the client chose, and its first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism's name.
    pub mechanism: &'a [u8],
    /// The first message; `None` when the client sent none.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of `p`, when SASL was offered.
    ///
    /// # Errors
    /// The mechanism is not terminated, or the data is not as long as it says.
    pub fn read(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut r = Reader::new(body);
        let (mechanism, data) = (r.text()?, r.value()?);
        r.end()?;
        Ok(Self { mechanism, data })
    }
}

/// SASLResponse: a further message of the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslResponse<'a> {
    /// The message.
    pub data: &'a [u8],
}

impl<'a> SaslResponse<'a> {
    /// Takes the body of `p` as it is; any bytes are a SASLResponse.
    #[must_use]
    pub const fn read(body: &'a [u8]) -> Self {
        Self { data: body }
    }
}
