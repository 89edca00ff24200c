//! The users pgmoor knows and the secrets they prove themselves with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// About a second of CPU for every login.
const MAX_ITERATIONS: u32 = 1_000_000;
/// In bytes; PostgreSQL's own salts have 16.
const MAX_SALT: usize = 256;

/// The users of the users file, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users(pub(super) BTreeMap<String, Secret>);

impl Users {
    /// What this user proves himself with; `None` for a stranger.
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        self.0.get(user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every user, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }
}

impl FromIterator<(String, Secret)> for Users {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(users: I) -> Self {
        Self(users.into_iter().collect())
    }
}

/// What a user proves himself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The password itself: pgmoor can log in to PostgreSQL with it.
    Password(Password),
    /// What PostgreSQL keeps of a password (`pg_authid.rolpassword`).
    Scram(ScramVerifier),
}

/// A password. It does not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl Password {
    /// Wraps the text as it is.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The text, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A SCRAM-SHA-256 verifier (RFC 5803), as PostgreSQL stores it: `SCRAM-SHA-256$4096:salt$stored:server`.
/// It does not show in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2, 1 to a million.
    pub iterations: u32,
    /// The salt, decoded, 1 to 256 bytes.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub stored_key: [u8; 32],
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: [u8; 32],
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl std::str::FromStr for ScramVerifier {
    /// What is wrong, without the secret itself.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is not of the form SCRAM-SHA-256$4096:salt$stored:server";
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(FORM)?;
        let (front, keys) = rest.split_once('$').ok_or(FORM)?;
        let (iterations, salt) = front.split_once(':').ok_or(FORM)?;
        let (stored, server) = keys.split_once(':').ok_or(FORM)?;
        let iterations: u32 = iterations.parse().map_err(|_| FORM)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err("has no iterations, or more than a million");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "has a salt that is not base64")?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err("has no salt, or one of more than 256 bytes");
        }
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

fn key(text: &str) -> Result<[u8; 32], &'static str> {
    let key = STANDARD.decode(text).map_err(|_| "has a key that is not base64")?;
    key.try_into().map_err(|_| "has a key that is not 32 bytes long")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn reads_what_postgres_stores() {
        let text = format!("SCRAM-SHA-256$4096:c2FsdA==${STORED}:{STORED}");
        let verifier: ScramVerifier = text.parse().unwrap();
        assert_eq!((verifier.iterations, verifier.salt.as_slice()), (4096, b"salt".as_slice()));
        assert_eq!((verifier.stored_key, verifier.server_key), ([1; 32], [1; 32]));
    }

    #[test]
    fn says_what_is_wrong_with_a_verifier() {
        let cases = [
            ("md5abc".to_owned(), "form"),
            (format!("SCRAM-SHA-256$x:c2FsdA==${STORED}:{STORED}"), "form"),
            (format!("SCRAM-SHA-256$0:c2FsdA==${STORED}:{STORED}"), "iterations"),
            (format!("SCRAM-SHA-256$4096:*${STORED}:{STORED}"), "salt"),
            (format!("SCRAM-SHA-256$4096:c2FsdA==${STORED}:c2FsdA=="), "32 bytes"),
        ];
        for (text, word) in cases {
            let problem = text.parse::<ScramVerifier>().unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let users: Users = [("app".to_owned(), Secret::Password(Password::new("hunter2")))].into_iter().collect();
        assert!(!format!("{users:?}").contains("hunter2"));
    }
}
