//! What we answer when PostgreSQL asks us to prove who we are, and what it must prove in turn.
//!
//! ```text
//! Nothing ─ cleartext, md5 ─> Sent ─ Ok
//!    └──── SASL ─> Begun ─ continue ─> Proven ─ final ─> Mutual ─ Ok
//! ```
//! `Ok` out of any other state but `Nothing` (trust) is a server that skipped its own proof.

use bytes::BytesMut;

use super::{ConnectError, Login};
use crate::auth::{AuthError, Challenge, ClientFirst, ClientLast, Credentials, SCRAM_SHA_256, ScramKeys, md5_password};
use crate::wire::message::Authentication;
use crate::wire::message::write::frontend as write;

/// How far the proof has come.
pub(super) enum Proof {
    /// Nothing was asked yet.
    Nothing,
    /// A password, or its md5 form, was sent.
    Sent,
    /// SCRAM: our first message was sent.
    Begun(ClientFirst),
    /// SCRAM: our proof was sent.
    Proven(ClientLast),
    /// SCRAM: the server has proven itself.
    Mutual,
}

impl Proof {
    /// The server says it is satisfied: are we?
    pub(super) fn accepted(self) -> Result<(), AuthError> {
        match self {
            Self::Nothing | Self::Sent | Self::Mutual => Ok(()),
            Self::Begun(_) | Self::Proven(_) => Err(AuthError::ServerNotProven),
        }
    }

    /// Takes what the server asks, appends the answer to `out`.
    pub(super) async fn answer(
        self,
        asked: Authentication<'_>,
        login: &Login<'_>,
        out: &mut BytesMut,
    ) -> Result<Self, ConnectError> {
        match (self, asked) {
            (Self::Nothing, Authentication::Cleartext) => {
                write::password(out, password(login, "a password in the clear")?);
                Ok(Self::Sent)
            }
            (Self::Nothing, Authentication::Md5 { salt }) => {
                let password = password(login, "an md5 password")?;
                write::password(out, md5_password(login.user, password, salt));
                Ok(Self::Sent)
            }
            (Self::Nothing, Authentication::Sasl(mechanisms)) => {
                if !mechanisms.has(SCRAM_SHA_256) {
                    return Err(AuthError::Unsupported("none of the SASL mechanisms offered is SCRAM-SHA-256").into());
                }
                if matches!(login.credentials, Credentials::None) {
                    return Err(no_answer(login, "SCRAM-SHA-256").into());
                }
                let (first, state) = ClientFirst::begin(rand::random());
                write::sasl_initial_response(out, SCRAM_SHA_256, Some(first.as_bytes()));
                Ok(Self::Begun(state))
            }
            (Self::Begun(state), Authentication::SaslContinue(server_first)) => {
                let challenge = state.handle(server_first)?;
                let keys = keys(login, &challenge).await?;
                let (last, state) = challenge.answer(&keys)?;
                write::sasl_response(out, last.as_bytes());
                Ok(Self::Proven(state))
            }
            (Self::Proven(state), Authentication::SaslFinal(server_final)) => {
                state.handle(server_final)?;
                Ok(Self::Mutual)
            }
            (_, Authentication::Unsupported { code }) => Err(ConnectError::Protocol(format!(
                "PostgreSQL asks for authentication method {code}, not spoken here"
            ))),
            _ => Err(ConnectError::Protocol("authentication messages out of order".into())),
        }
    }
}

fn password<'a>(login: &Login<'a>, wanted: &'static str) -> Result<&'a str, AuthError> {
    match login.credentials {
        Credentials::Password(password) => Ok(password.reveal()),
        Credentials::None | Credentials::ScramKeys(_) => Err(no_answer(login, wanted)),
    }
}

async fn keys(login: &Login<'_>, challenge: &Challenge) -> Result<ScramKeys, ConnectError> {
    match login.credentials {
        Credentials::ScramKeys(keys) => Ok(keys.clone()),
        Credentials::Password(password) => {
            let (salt, iterations) = (challenge.salt(), challenge.iterations());
            if let Some(keys) = password.remembered_keys(salt, iterations) {
                return Ok(keys);
            }
            // PBKDF2 takes milliseconds: not on a thread that serves other sessions.
            let (password, salt) = (password.clone(), salt.to_vec());
            tokio::task::spawn_blocking(move || password.keys(&salt, iterations))
                .await
                .map_err(|error| ConnectError::Unreachable(std::io::Error::other(error)))
        }
        Credentials::None => Err(no_answer(login, "SCRAM-SHA-256").into()),
    }
}

fn no_answer(login: &Login<'_>, wanted: &'static str) -> AuthError {
    let have = match login.credentials {
        Credentials::None => "no credentials",
        Credentials::Password(_) => "a password",
        Credentials::ScramKeys(_) => "keys kept from the client's SCRAM login",
    };
    AuthError::NoAnswer { wanted, have }
}
