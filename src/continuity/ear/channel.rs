//! A channel's name, and how it is said in SQL.

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;

/// Bytes of a name that PostgreSQL keeps (`NAMEDATALEN` - 1).
const MOST: usize = 63;

/// The name of a channel: bytes in the encoding of the client that says it, as many as PostgreSQL keeps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel(Bytes);

impl Channel {
    /// The channel that is meant by this name, quotes undone and letters folded: a longer one is cut as PostgreSQL cuts it,
    /// not within a character.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        let end = match std::str::from_utf8(name) {
            Ok(text) if name.len() > MOST => text.floor_char_boundary(MOST),
            Ok(_) | Err(_) => name.len().min(MOST),
        };
        Self(Bytes::copy_from_slice(&name[..end]))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends one statement about it. A quoted identifier is any bytes but NUL, with `"` doubled; no encoding PostgreSQL
    /// takes from clients has that byte within a longer character.
    pub(super) fn say(&self, sql: &mut Vec<u8>, verb: &str) {
        sql.extend_from_slice(verb.as_bytes());
        sql.extend_from_slice(b" \"");
        for byte in &self.0 {
            if *byte == b'"' {
                sql.push(b'"');
            }
            sql.push(*byte);
        }
        sql.extend_from_slice(b"\";");
    }
}

impl Borrow<[u8]> for Channel {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Channel {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
