//! What is kept of a password for SCRAM: the server's verifier, the keys of a login, and how both come from a password.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AuthError;

/// 32 bytes of SHA-256.
pub(super) type Key = [u8; 32];

/// Most iterations taken from anyone: about a second of CPU.
pub(super) const MAX_ITERATIONS: u32 = 1_000_000;
/// Longest salt taken from anyone, in bytes. PostgreSQL's own are 16.
pub(super) const MAX_SALT: usize = 256;

/// PostgreSQL's stored form of a password (`rolpassword`): proves a client without knowing its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// The text is not a SCRAM secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM secret (expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey): {0}")]
pub struct SecretError(&'static str);

/// The two keys of one password under one salt and iteration count: enough to log in, without the password.
#[derive(Clone)]
pub struct ScramKeys {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl Secret {
    /// Iterations PostgreSQL uses unless told otherwise.
    pub const DEFAULT_ITERATIONS: u32 = 4096;

    /// The secret made of these parts: those of `rolpassword`, decoded.
    pub fn from_parts(iterations: u32, salt: &[u8], stored_key: [u8; 32], server_key: [u8; 32]) -> Self {
        Self { iterations, salt: salt.to_vec(), stored_key, server_key }
    }

    /// Builds the secret as PostgreSQL would. Costs `iterations` rounds of PBKDF2.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        ScramKeys::derive(password, salt, iterations).secret()
    }

    /// A secret no password fits, always the same for the same user and process: unknown users get the same exchange
    /// as known ones.
    pub fn mock(process_key: &[u8; 32], user: &str, iterations: u32) -> Self {
        let part = |what: &str| hmac(process_key, &[what.as_bytes(), b"\0", user.as_bytes()]);
        Self {
            iterations,
            salt: part("salt")[..16].to_vec(),
            stored_key: part("stored key"),
            server_key: part("server key"),
        }
    }
}

impl ScramKeys {
    /// Derives the keys: SASLprep, PBKDF2, two HMACs (RFC 5802 §3).
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let prepared = prepare(password);
        let salted =
            pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(prepared.as_bytes(), salt, iterations.clamp(1, MAX_ITERATIONS));
        Self {
            iterations,
            salt: salt.to_vec(),
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// Were they derived with this salt and iteration count?
    pub fn fits(&self, salt: &[u8], iterations: u32) -> bool {
        self.iterations == iterations && self.salt == salt
    }

    /// Whether both are of the same password, salt and iteration count.
    pub(super) fn are_same(&self, other: &Self) -> bool {
        let keys = self.client_key.ct_eq(&other.client_key) & self.server_key.ct_eq(&other.server_key);
        self.fits(&other.salt, other.iterations) && keys.into()
    }

    /// The verifier that accepts these keys.
    pub fn secret(&self) -> Secret {
        Secret {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(SecretError("another prefix"))?;
        let (front, back) = rest.split_once('$').ok_or(SecretError("no second $"))?;
        let (iterations, salt) = front.split_once(':').ok_or(SecretError("no salt"))?;
        let (stored, server) = back.split_once(':').ok_or(SecretError("no ServerKey"))?;
        let iterations = parse_iterations(iterations).ok_or(SecretError("iterations out of range"))?;
        let salt = BASE64.decode(salt).map_err(|_| SecretError("salt is not base64"))?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(SecretError("salt of no sensible length"));
        }
        let key = |text| decode_key(text).ok_or(SecretError("a key is not 32 bytes of base64"));
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

impl fmt::Display for Secret {
    /// The text PostgreSQL stores; it is as good as a password hash, so keep it out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

/// SASLprep as PostgreSQL does it: what cannot be prepared is used as it is.
fn prepare(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        Ok(_) | Err(_) => Cow::Borrowed(password),
    }
}

pub(super) fn parse_iterations(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let count = text.parse().ok().filter(|_| digits)?;
    (1..=MAX_ITERATIONS).contains(&count).then_some(count)
}

pub(super) fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

pub(super) fn sha256(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

pub(super) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    // HMAC takes keys of any length; ours is one block at most, padded with zeros as RFC 2104 says.
    let mut block = [0; 64];
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|at| left[at] ^ right[at])
}

/// Equal? Takes the same time whatever the answer.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// Takes `name=value` off the front of a SCRAM message.
pub(super) fn attribute<'a>(rest: &mut &'a str, name: char) -> Result<&'a str, AuthError> {
    let (first, remaining) = rest.split_once(',').unwrap_or((rest, ""));
    let value = first
        .strip_prefix(name)
        .and_then(|value| value.strip_prefix('='))
        .ok_or(AuthError::Malformed("an attribute is missing"))?;
    *rest = remaining;
    Ok(value)
}
