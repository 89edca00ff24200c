//! Which version of protocol 3 to speak with a client.

use crate::wire::ProtocolVersion;

/// What a NegotiateProtocolVersion message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    /// The minor version we will speak.
    pub minor: u16,
    /// The protocol options asked for that we do not know.
    pub unrecognized: Vec<String>,
}

/// The minor version to speak with a client that asked for `requested`, and what to tell it before authentication when
/// that is less than it asked for. We speak 3.0 and 3.2 (there is no 3.1), and no protocol options at all.
#[must_use]
pub fn negotiate(requested: u16, extensions: &[String]) -> (u16, Option<Negotiation>) {
    let minor = match requested {
        0 | 1 => ProtocolVersion::V3_0.minor,
        _ => ProtocolVersion::LATEST.minor,
    };
    let less = minor != requested || !extensions.is_empty();
    (minor, less.then(|| Negotiation { minor, unrecognized: extensions.to_vec() }))
}
