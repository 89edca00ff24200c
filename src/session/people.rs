//! The users clients may log in as: what proves them, and what they are to PostgreSQL.

use std::collections::BTreeMap;

use rand::Rng;

use crate::auth::{Credentials, Password, Secret};
use crate::config::{self, AuthMethod};

/// Everyone known.
#[derive(Debug)]
pub struct People {
    method: AuthMethod,
    known: BTreeMap<String, Person>,
    /// Strangers are given an exchange too, made from this, so that nobody can tell who is known.
    mock_key: [u8; 32],
    salt: [u8; 16],
}

#[derive(Debug)]
enum Person {
    /// We know the password: PostgreSQL gets it in whatever form it asks for.
    Password(Password),
    /// We know the verifier only: the client's own proof opens PostgreSQL.
    Verifier(Secret),
}

impl People {
    /// From the configuration; fresh keys for strangers.
    pub fn new(auth: &config::Auth) -> Self {
        let known = auth.users.iter().map(|(name, secret)| {
            let person = match secret {
                config::Secret::Password(password) => Person::Password(Password::new(password.reveal())),
                config::Secret::Scram(scram) => Person::Verifier(Secret::from_parts(scram.iterations, &scram.salt, scram.stored_key, scram.server_key)),
            };
            (name.to_owned(), person)
        });
        let mut rng = rand::rng();
        Self { method: auth.method, known: known.collect(), mock_key: rng.random(), salt: rng.random() }
    }

    /// How clients prove who they are.
    pub fn method(&self) -> AuthMethod {
        self.method
    }

    /// What this user is to PostgreSQL, where that does not hang on the client's own login.
    pub fn credentials(&self, user: &str) -> Option<Credentials> {
        match self.known.get(user) {
            Some(Person::Password(password)) => Some(Credentials::Password(password.clone())),
            Some(Person::Verifier(_)) | None => None,
        }
    }

    /// What this user's proof is checked against; for a stranger, something nothing fits.
    pub async fn secret(&self, user: &str) -> Secret {
        match self.known.get(user) {
            Some(Person::Verifier(secret)) => secret.clone(),
            Some(Person::Password(password)) => {
                if let Some(keys) = password.remembered_keys(&self.salt, Secret::DEFAULT_ITERATIONS) {
                    return keys.secret();
                }
                // PBKDF2 takes milliseconds: not on a thread that serves sockets.
                let (password, salt) = (password.clone(), self.salt);
                let derived = tokio::task::spawn_blocking(move || password.keys(&salt, Secret::DEFAULT_ITERATIONS).secret()).await;
                derived.unwrap_or_else(|_| Secret::mock(&self.mock_key, user, Secret::DEFAULT_ITERATIONS))
            }
            None => Secret::mock(&self.mock_key, user, Secret::DEFAULT_ITERATIONS),
        }
    }
}
