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
}

#[derive(Clone, Debug)]
enum Person {
    /// We know the password: PostgreSQL gets it in whatever form it asks for. The salt is for the client's own exchange,
    /// one for each, as strangers have one each.
    Password(Password, [u8; 16]),
    /// We know the verifier only: the client's own proof opens PostgreSQL.
    Verifier(Secret),
}

impl People {
    /// From the configuration; fresh keys for strangers.
    pub fn new(auth: &config::Auth) -> Self {
        Self { method: auth.method, known: BTreeMap::new(), mock_key: rand::rng().random() }.renewed(auth)
    }

    /// From a newer configuration. Whoever has kept his secret is met as before, and so are strangers.
    pub fn renewed(&self, auth: &config::Auth) -> Self {
        let known = auth.users.iter().map(|(name, secret)| (name.to_owned(), self.person(name, secret)));
        Self { method: auth.method, known: known.collect(), mock_key: self.mock_key }
    }

    fn person(&self, name: &str, secret: &config::Secret) -> Person {
        match (secret, self.known.get(name)) {
            (config::Secret::Password(password), Some(known @ Person::Password(kept, _)))
                if kept.reveal() == password.reveal() =>
            {
                known.clone()
            }
            (config::Secret::Password(password), _) => {
                Person::Password(Password::new(password.reveal()), rand::rng().random())
            }
            (config::Secret::Scram(scram), _) => {
                Person::Verifier(Secret::from_parts(scram.iterations, &scram.salt, scram.stored_key, scram.server_key))
            }
        }
    }

    /// How clients prove who they are.
    pub fn method(&self) -> AuthMethod {
        self.method
    }

    /// What this user is to PostgreSQL, where that does not hang on the client's own login.
    pub fn credentials(&self, user: &str) -> Option<Credentials> {
        match self.known.get(user) {
            Some(Person::Password(password, _)) => Some(Credentials::Password(password.clone())),
            Some(Person::Verifier(_)) | None => None,
        }
    }

    /// What this user's proof is checked against; for a stranger, something nothing fits.
    pub async fn secret(&self, user: &str) -> Secret {
        match self.known.get(user) {
            Some(Person::Verifier(secret)) => secret.clone(),
            Some(Person::Password(password, salt)) => {
                if let Some(keys) = password.remembered_keys(salt, Secret::DEFAULT_ITERATIONS) {
                    return keys.secret();
                }
                // PBKDF2 takes milliseconds: not on a thread that serves sockets.
                let (password, salt) = (password.clone(), *salt);
                let derived =
                    tokio::task::spawn_blocking(move || password.keys(&salt, Secret::DEFAULT_ITERATIONS).secret())
                        .await;
                derived.unwrap_or_else(|_| Secret::mock(&self.mock_key, user, Secret::DEFAULT_ITERATIONS))
            }
            None => Secret::mock(&self.mock_key, user, Secret::DEFAULT_ITERATIONS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(users: &[(&str, &str)]) -> config::Auth {
        let secret = |password: &str| config::Secret::Password(config::Password::new(password));
        let users = users.iter().map(|(name, password)| ((*name).to_owned(), secret(password))).collect();
        config::Auth { method: AuthMethod::Scram, users }
    }

    #[tokio::test]
    async fn a_renewal_touches_only_those_who_have_changed() {
        let before = People::new(&auth(&[("kept", "a"), ("moved", "b"), ("gone", "c")]));
        let after = before.renewed(&auth(&[("kept", "a"), ("moved", "bb"), ("come", "d")]));
        for name in ["kept", "never there"] {
            assert!(before.secret(name).await == after.secret(name).await, "{name} is met as before");
        }
        for name in ["moved", "gone", "come"] {
            assert!(before.secret(name).await != after.secret(name).await, "{name} is not");
        }
        let known = |people: &People, name| match people.credentials(name) {
            Some(Credentials::Password(password)) => Some(password.reveal().to_owned()),
            Some(Credentials::None | Credentials::ScramKeys(_)) | None => None,
        };
        assert_eq!((known(&after, "moved"), known(&after, "gone")), (Some("bb".to_owned()), None));
    }

    #[tokio::test]
    async fn nobody_can_tell_the_known_by_their_salt() {
        let people = People::new(&auth(&[("a", "same"), ("b", "same")]));
        assert!(
            people.secret("a").await != people.secret("b").await,
            "strangers have a salt each, and so do the known"
        );
    }
}
