//! The packets without a tag that open a connection (protocol "Start-up", "SSL Session Encryption", "Canceling Requests in
//! Progress"): a length word, a code, and what the code asks for.

mod negotiate;
mod options;

pub use negotiate::{Negotiation, negotiate};

use super::{CancelKey, MAX_STARTUP_PACKET};
use std::collections::BTreeMap;
use thiserror::Error;

/// The code of CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// The code of SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The code of GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// Settings with this prefix are for us, not for PostgreSQL.
pub const MOOR_PREFIX: &str = "pgmoor.";
/// Parameters with this prefix are protocol options, not settings.
const EXTENSION_PREFIX: &str = "_pq_.";
/// Parameters with a meaning of their own; the server compares these names exactly, all others without case.
const RESERVED: [&str; 4] = ["user", "database", "options", "replication"];

/// One packet without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// SSLRequest: answer `S` and speak TLS, or `N`. Another packet follows either way.
    Ssl,
    /// GSSENCRequest: answer `N`. Another packet follows.
    GssEnc,
    /// CancelRequest: act on it and hang up without an answer.
    Cancel(CancelKey),
    /// StartupMessage.
    Startup(Startup),
}

/// What a StartupMessage asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// The minor version of protocol 3 requested.
    pub minor: u16,
    /// The user; never empty.
    pub user: String,
    /// The database; the user's name when none was given.
    pub database: String,
    /// All other parameters, names in lower case: settings, and `options` without what was ours. Bytes that are not
    /// UTF-8 are replaced.
    pub parameters: BTreeMap<String, String>,
    /// The `pgmoor.*` settings, from `options` or given as parameters; names in lower case, without the prefix.
    pub moor: BTreeMap<String, String>,
    /// Whether a replication connection is wanted, and which.
    pub replication: Replication,
    /// The protocol options asked for, full names (`_pq_.…`).
    pub extensions: Vec<String>,
}

/// The startup parameter `replication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// An ordinary connection.
    #[default]
    Off,
    /// Physical replication; no database.
    Physical,
    /// Logical replication, of one database.
    Logical,
}

/// Why this is no way to open a connection. Nothing can follow but the end of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartupError {
    /// A TLS ClientHello: the client speaks TLS from the first byte on (`sslnegotiation=direct`).
    #[error("a TLS handshake came without an SSLRequest (sslnegotiation=direct)")]
    DirectTls,
    /// Letters: an HTTP request, most likely.
    #[error(
        "this is not the PostgreSQL protocol: plain text came, such as an HTTP request; this port speaks PostgreSQL"
    )]
    PlainText,
    /// Shorter than a header, or longer than PostgreSQL would take.
    #[error("invalid length of startup packet: {0}")]
    Length(u32),
    /// A version of the protocol with another major number.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// Before the dot.
        major: u16,
        /// After the dot.
        minor: u16,
    },
    /// A special request of a kind unknown.
    #[error("unknown request code {0} in startup packet")]
    Request(u32),
    /// The layout is wrong.
    #[error("invalid startup packet layout: {0}")]
    Layout(&'static str),
    /// No user name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A parameter has a value it cannot have.
    #[error("invalid value for startup parameter \"{0}\"")]
    Parameter(String),
}

/// Reads one packet off the front of `input`, and says how many bytes it took. `None`: more bytes are needed.
///
/// # Errors
/// As soon as the bytes there prove that no packet can come of them.
pub fn parse(input: &[u8]) -> Result<Option<(Packet, usize)>, StartupError> {
    early(input)?;
    let Some(&[l0, l1, l2, l3, c0, c1, c2, c3]) = input.first_chunk::<8>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let code = u32::from_be_bytes([c0, c1, c2, c3]);
    check_code(code, length)?;
    let Some(body) = input.get(8..length) else {
        return Ok(None);
    };
    let packet = match code {
        SSL_REQUEST => Packet::Ssl,
        GSSENC_REQUEST => Packet::GssEnc,
        CANCEL_REQUEST => Packet::Cancel(cancel_key(body)?),
        _ => Packet::Startup(startup(code as u16, body)?),
    };
    Ok(Some((packet, length)))
}

/// What the first bytes prove before the packet is whole: missing ones count as 0, which makes the smallest number.
fn early(input: &[u8]) -> Result<(), StartupError> {
    match input.first() {
        None | Some(0) => {}
        Some(0x16) => return Err(StartupError::DirectTls),
        Some(byte) if byte.is_ascii_alphabetic() => return Err(StartupError::PlainText),
        Some(_) => {}
    }
    let at = |i: usize| input.get(i).copied().unwrap_or(0);
    let length = u32::from_be_bytes([at(0), at(1), at(2), at(3)]);
    if length as usize > MAX_STARTUP_PACKET || (input.len() >= 4 && length < 8) {
        return Err(StartupError::Length(length));
    }
    let major = u16::from_be_bytes([at(4), at(5)]);
    if input.len() >= 6 && major != 3 && major != (CANCEL_REQUEST >> 16) as u16 {
        return Err(StartupError::Version { major, minor: u16::from_be_bytes([at(6), at(7)]) });
    }
    Ok(())
}

const fn check_code(code: u32, length: usize) -> Result<(), StartupError> {
    match code {
        SSL_REQUEST | GSSENC_REQUEST if length != 8 => Err(StartupError::Layout("an encryption request has a body")),
        CANCEL_REQUEST if length < 12 + CancelKey::MIN_SECRET || length > 12 + CancelKey::MAX_SECRET => {
            Err(StartupError::Layout("a cancel request has a secret of 4 to 256 bytes"))
        }
        SSL_REQUEST | GSSENC_REQUEST | CANCEL_REQUEST => Ok(()),
        _ if code >> 16 == 3 => Ok(()),
        _ => Err(StartupError::Request(code)),
    }
}

fn cancel_key(body: &[u8]) -> Result<CancelKey, StartupError> {
    let (pid, secret) = body.split_first_chunk::<4>().ok_or(StartupError::Layout("a cancel request has no key"))?;
    Ok(CancelKey { process_id: i32::from_be_bytes(*pid), secret: secret.to_vec() })
}

fn startup(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    let mut asked = Startup { minor, ..Startup::default() };
    let mut rest = body;
    loop {
        let name = take_text(&mut rest)?;
        if name.is_empty() {
            break;
        }
        let value = take_text(&mut rest)?;
        asked.take_parameter(name, value)?;
    }
    if !rest.is_empty() {
        return Err(StartupError::Layout("expected terminator as last byte"));
    }
    asked.finish()
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], StartupError> {
    let end = rest.iter().position(|&b| b == 0).ok_or(StartupError::Layout("a text is not terminated"))?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(text)
}

impl Startup {
    /// A later parameter of the same name wins, as in PostgreSQL.
    fn take_parameter(&mut self, name: &[u8], value: &[u8]) -> Result<(), StartupError> {
        let name = String::from_utf8_lossy(name);
        match &*name {
            "user" => self.user = exact(&name, value)?,
            "database" => self.database = exact(&name, value)?,
            "replication" => {
                self.replication = replication(value).ok_or_else(|| StartupError::Parameter(name.into_owned()))?;
            }
            "options" => {
                self.parameters.insert(name.into_owned(), String::from_utf8_lossy(value).into_owned());
            }
            _ => self.take_setting(&name, value)?,
        }
        Ok(())
    }

    fn take_setting(&mut self, name: &str, value: &[u8]) -> Result<(), StartupError> {
        let folded = name.to_ascii_lowercase();
        let value = String::from_utf8_lossy(value).into_owned();
        if name.starts_with(EXTENSION_PREFIX) {
            self.extensions.push(name.to_owned());
        } else if RESERVED.contains(&&*folded) || folded.starts_with(EXTENSION_PREFIX) {
            // `USER` is no parameter to PostgreSQL. Folded and passed on it would become the real one.
            return Err(StartupError::Parameter(name.to_owned()));
        } else if let Some(ours) = folded.strip_prefix(MOOR_PREFIX) {
            self.moor.insert(ours.to_owned(), value);
        } else {
            self.parameters.insert(folded, value);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Self, StartupError> {
        if self.user.is_empty() {
            return Err(StartupError::NoUser);
        }
        if self.database.is_empty() {
            self.database.clone_from(&self.user);
        }
        if let Some(options) = self.parameters.remove("options") {
            let rest = options::take_ours(&options, &mut self.moor);
            if !rest.is_empty() {
                self.parameters.insert("options".to_owned(), rest);
            }
        }
        Ok(self)
    }

    /// The settings the client asked for, by name: those in `options`, then the parameters, which win.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        if let Some(options) = self.parameters.get("options") {
            settings.extend(options::settings(options));
        }
        let own = self.parameters.iter().filter(|(name, _)| *name != "options");
        settings.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        settings
    }
}

/// A name that decides who the client is must be what it says, byte for byte.
fn exact(name: &str, value: &[u8]) -> Result<String, StartupError> {
    String::from_utf8(value.to_vec()).map_err(|_| StartupError::Parameter(name.to_owned()))
}

/// `database`, or a boolean as PostgreSQL spells them.
fn replication(value: &[u8]) -> Option<Replication> {
    let word = value.to_ascii_lowercase();
    if value == b"database" {
        return Some(Replication::Logical);
    }
    let begins = |full: &str, least: usize| word.len() >= least && full.as_bytes().starts_with(&word);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || word == b"1" {
        Some(Replication::Physical)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == b"0" {
        Some(Replication::Off)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
