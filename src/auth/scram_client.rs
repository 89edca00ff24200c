//! The client's side of SCRAM-SHA-256 (RFC 5802, 7677): we prove a password to PostgreSQL, and it proves its secret to us.
//!
//! `ClientFirst` --server-first--> `Challenge` --keys--> `ClientLast` --server-final--> done

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::AuthError;
use super::secret::{Key, MAX_SALT, ScramKeys, attribute, decode_key, hmac, parse_iterations, same, sha256, xor};

/// "n,,": no channel binding, no authorization identity.
const GS2_HEADER: &str = "n,,";
/// `GS2_HEADER` in base64.
const BINDING: &str = "biws";
/// Longest message taken from a server, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Our first message was sent; waits for the server's.
#[derive(Debug)]
pub struct ClientFirst {
    nonce: String,
    /// The message without its gs2 header.
    bare: String,
}

/// The server's salt and iterations are known; waits for the keys that belong to them.
#[derive(Debug)]
pub struct Challenge {
    nonce: String,
    salt: Vec<u8>,
    iterations: u32,
    /// client-first-message-bare + "," + server-first-message.
    transcript: String,
}

/// Our proof was sent; waits for the server's.
#[derive(Debug)]
pub struct ClientLast {
    signature: Key,
}

impl ClientFirst {
    /// Begins an exchange: gives client-first-message. `nonce` must be fresh from a cryptographic source. The user name
    /// is left empty, as libpq does: the startup packet has it.
    pub fn begin(nonce: [u8; 18]) -> (String, Self) {
        let nonce = BASE64.encode(nonce);
        let bare = format!("n=,r={nonce}");
        (format!("{GS2_HEADER}{bare}"), Self { nonce, bare })
    }

    /// Takes server-first-message.
    ///
    /// # Errors
    /// Malformed, a nonce that is not ours extended, or iterations beyond a million.
    pub fn handle(self, server_first: &[u8]) -> Result<Challenge, AuthError> {
        let message = text(server_first)?;
        if message.starts_with("m=") {
            return Err(AuthError::Unsupported("a mandatory SCRAM extension"));
        }
        let mut rest = message;
        let nonce = attribute(&mut rest, 'r')?;
        if nonce.len() <= self.nonce.len()
            || !nonce.starts_with(&self.nonce)
            || !nonce.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(AuthError::Malformed("the nonce is not ours extended"));
        }
        let salt = BASE64
            .decode(attribute(&mut rest, 's')?)
            .ok()
            .filter(|salt| !salt.is_empty() && salt.len() <= MAX_SALT)
            .ok_or(AuthError::Malformed("the salt is not base64 of a sensible length"))?;
        let iterations =
            parse_iterations(attribute(&mut rest, 'i')?).ok_or(AuthError::Malformed("iterations out of range"))?;
        Ok(Challenge { nonce: nonce.to_owned(), salt, iterations, transcript: format!("{},{message}", self.bare) })
    }
}

impl Challenge {
    /// The salt to derive the keys with.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The rounds of PBKDF2 to derive the keys with.
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Gives client-final-message.
    ///
    /// # Errors
    /// `OtherSecret`: the keys were derived with another salt or iteration count.
    pub fn answer(self, keys: &ScramKeys) -> Result<(String, ClientLast), AuthError> {
        if !keys.fits(&self.salt, self.iterations) {
            return Err(AuthError::OtherSecret);
        }
        let unproven = format!("c={BINDING},r={}", self.nonce);
        let signed: [&[u8]; 3] = [self.transcript.as_bytes(), b",", unproven.as_bytes()];
        let proof = xor(&keys.client_key, &hmac(&sha256(&keys.client_key), &signed));
        let signature = hmac(&keys.server_key, &signed);
        let client_final = format!("{unproven},p={}", BASE64.encode(proof));
        Ok((client_final, ClientLast { signature }))
    }
}

impl ClientLast {
    /// Takes server-final-message.
    ///
    /// # Errors
    /// `ServerNotProven`, `Rejected`, or malformed.
    pub fn handle(self, server_final: &[u8]) -> Result<(), AuthError> {
        let mut rest = text(server_final)?;
        if let Some(reason) = rest.strip_prefix("e=") {
            return Err(AuthError::Rejected(reason.chars().take(100).collect()));
        }
        let signature = decode_key(attribute(&mut rest, 'v')?)
            .ok_or(AuthError::Malformed("the signature is not 32 bytes of base64"))?;
        if same(&signature, &self.signature) { Ok(()) } else { Err(AuthError::ServerNotProven) }
    }
}

fn text(message: &[u8]) -> Result<&str, AuthError> {
    if message.len() > MAX_MESSAGE {
        return Err(AuthError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| AuthError::Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn sent() -> ClientFirst {
        ClientFirst { nonce: "rOprNGfwEbeRWgbNEkqO".into(), bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into() }
    }

    fn proven() -> (String, ClientLast) {
        let challenge = sent().handle(SERVER_FIRST.as_bytes()).unwrap();
        let keys = ScramKeys::derive("pencil", challenge.salt(), challenge.iterations());
        challenge.answer(&keys).unwrap()
    }

    #[test]
    fn the_exchange_of_rfc_7677() {
        let (client_final, last) = proven();
        assert_eq!(
            client_final,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        last.handle(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        let forged = format!("v={}", BASE64.encode([0; 32]));
        for (server_final, error) in [
            (forged.as_str(), AuthError::ServerNotProven),
            ("e=other-error", AuthError::Rejected("other-error".into())),
            ("", AuthError::Malformed("an attribute is missing")),
            ("v=AAAA", AuthError::Malformed("the signature is not 32 bytes of base64")),
        ] {
            assert_eq!(proven().1.handle(server_final.as_bytes()), Err(error), "{server_final}");
        }
    }

    #[test]
    fn a_hostile_first_message_is_refused() {
        for hostile in [
            "",
            "r=",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=xOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO\u{e9},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=*,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=W22ZaJ0SNY7soEsUEjb6gQ==",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=+1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999999999999999",
            "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        ] {
            assert!(sent().handle(hostile.as_bytes()).is_err(), "{hostile}");
        }
        assert!(sent().handle(b"r=\xff").is_err());
        assert!(sent().handle(&vec![b'r'; MAX_MESSAGE + 1]).is_err());
        assert!(sent().handle(SERVER_FIRST.as_bytes()).is_ok());
    }

    #[test]
    fn keys_of_another_secret_are_not_sent() {
        let challenge = sent().handle(SERVER_FIRST.as_bytes()).unwrap();
        let keys = ScramKeys::derive("pencil", b"another salt", 4096);
        assert_eq!(challenge.answer(&keys).unwrap_err(), AuthError::OtherSecret);
    }
}
