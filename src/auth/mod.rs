//! What proves who someone is: PostgreSQL's password methods, for clients that log in to us and for us logging in to PostgreSQL.

mod md5;
mod scram_client;
mod scram_server;
mod secret;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

pub use md5::md5_password;
pub use scram_client::{Challenge, ClientFirst, ClientLast};
pub use scram_server::{ServerFinal, ServerFirst};
pub use secret::{ScramKeys, Secret, SecretError};

/// The one SASL mechanism spoken here; `-PLUS` (channel binding) is neither offered nor chosen.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// Most derived keys a password remembers: one per (salt, iterations), that is, one per PostgreSQL cluster it is used with.
const REMEMBERED: usize = 8;

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The proof is wrong, or there is no such user: the two look the same.
    #[error("the password is wrong")]
    WrongPassword,
    /// The other side's message is not what RFC 5802 says.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The other side wants something that is not done here.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// The server ended the exchange with this error (`e=`).
    #[error("the server ended the SCRAM exchange: {0}")]
    Rejected(String),
    /// The server does not know the password: it is not the one it claims to be.
    #[error("the server could not prove that it knows the password")]
    ServerNotProven,
    /// The server asks for a method these credentials cannot answer.
    #[error("PostgreSQL asks for {wanted}, which {have} cannot answer")]
    NoAnswer {
        /// The method asked for.
        wanted: &'static str,
        /// The kind of credentials at hand.
        have: &'static str,
    },
    /// Kept SCRAM keys fit one salt and iteration count only, and PostgreSQL has others for this role.
    #[error("PostgreSQL has another SCRAM secret for this role than pgmoor (salt or iterations differ)")]
    OtherSecret,
}

/// What a login to PostgreSQL is proven with. Debug shows no secret.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Nothing: `trust`, or a certificate.
    #[default]
    None,
    /// A password: answers cleartext, md5 and SCRAM.
    Password(Password),
    /// Keys kept from the client's own SCRAM login: answer SCRAM only, and only if PostgreSQL's secret for the role
    /// has the same salt and iterations as ours.
    ScramKeys(ScramKeys),
}

impl Credentials {
    /// Whether they are the same proof.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Password(one), Self::Password(other)) => Arc::ptr_eq(&one.inner, &other.inner),
            (Self::ScramKeys(one), Self::ScramKeys(other)) => one.are_same(other),
            (Self::None | Self::Password(_) | Self::ScramKeys(_), _) => false,
        }
    }
}

/// A password and the SCRAM keys already derived from it. Clones share the keys.
#[derive(Clone)]
pub struct Password {
    inner: Arc<Known>,
}

struct Known {
    text: String,
    derived: Mutex<Vec<ScramKeys>>,
}

impl Password {
    /// Wraps the password; nothing is derived yet.
    pub fn new(text: impl Into<String>) -> Self {
        Self { inner: Arc::new(Known { text: text.into(), derived: Mutex::new(Vec::new()) }) }
    }

    /// The password in the clear.
    pub fn reveal(&self) -> &str {
        &self.inner.text
    }

    /// The keys for this salt and iteration count if they were derived before. Never waits.
    pub fn remembered_keys(&self, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let derived = self.inner.derived.try_lock()?;
        derived.iter().find(|keys| keys.fits(salt, iterations)).cloned()
    }

    /// The keys for this salt and iteration count; derives and remembers them at first (PBKDF2: milliseconds of CPU and
    /// more, so not for a thread that serves sockets). Two callers at once derive once.
    pub fn keys(&self, salt: &[u8], iterations: u32) -> ScramKeys {
        let mut derived = self.inner.derived.lock();
        if let Some(at) = derived.iter().position(|keys| keys.fits(salt, iterations)) {
            return derived[at].clone();
        }
        let keys = ScramKeys::derive(&self.inner.text, salt, iterations);
        if derived.len() == REMEMBERED {
            derived.remove(0);
        }
        derived.push(keys.clone());
        keys
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}
