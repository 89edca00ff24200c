//! The server's side of SCRAM-SHA-256 (RFC 5802, 7677): a client proves its password to us, we prove the secret to it.
//!
//! `ServerFirst` --client-first--> `ServerFinal` --client-final--> `ScramKeys`

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::AuthError;
use super::secret::{ScramKeys, Secret, attribute, decode_key, hmac, same, sha256, xor};

/// Longest message taken from a client, in bytes; PostgreSQL's limit.
const MAX_MESSAGE: usize = 1024;

/// Waits for the client's first message.
#[derive(Debug)]
pub struct ServerFirst {
    secret: Secret,
    /// Our part of the nonce.
    nonce: String,
}

/// Waits for the client's proof.
#[derive(Debug)]
pub struct ServerFinal {
    secret: Secret,
    /// The gs2 header, base64: must come back in `c=`.
    binding: String,
    nonce: String,
    /// client-first-message-bare + "," + server-first-message.
    transcript: String,
}

impl ServerFirst {
    /// Begins an exchange; `nonce` must be fresh from a cryptographic source. For an unknown user give `Secret::mock`.
    pub fn new(secret: Secret, nonce: [u8; 18]) -> Self {
        Self { secret, nonce: BASE64.encode(nonce) }
    }

    /// Takes client-first-message, gives server-first-message. The user name in it is ignored, as PostgreSQL does: the
    /// startup packet's counts.
    ///
    /// # Errors
    /// Malformed, or channel binding was asked for.
    pub fn handle(self, client_first: &[u8]) -> Result<(String, ServerFinal), AuthError> {
        let message = text(client_first)?;
        let (flag, bare) = gs2_header(message)?;
        if bare.starts_with("m=") {
            return Err(AuthError::Unsupported("a mandatory SCRAM extension"));
        }
        let mut rest = bare;
        let _user = attribute(&mut rest, 'n')?;
        let client_nonce = attribute(&mut rest, 'r')?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthError::Malformed("the nonce is empty or not printable"));
        }
        let nonce = format!("{client_nonce}{}", self.nonce);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&self.secret.salt), self.secret.iterations);
        let next = ServerFinal {
            binding: BASE64.encode(format!("{flag},,")),
            transcript: format!("{bare},{server_first}"),
            nonce,
            secret: self.secret,
        };
        Ok((server_first, next))
    }
}

impl ServerFinal {
    /// Takes client-final-message, gives server-final-message and the keys with which to log in to PostgreSQL as this
    /// client.
    ///
    /// # Errors
    /// `WrongPassword`, or malformed.
    pub fn handle(self, client_final: &[u8]) -> Result<(String, ScramKeys), AuthError> {
        let message = text(client_final)?;
        // The proof is the last attribute: everything before it is signed.
        let (unproven, proof) = message.rsplit_once(",p=").ok_or(AuthError::Malformed("no proof"))?;
        let mut rest = unproven;
        if attribute(&mut rest, 'c')? != self.binding {
            return Err(AuthError::Malformed("the channel binding does not match"));
        }
        if attribute(&mut rest, 'r')? != self.nonce {
            return Err(AuthError::Malformed("the nonce does not match"));
        }
        let proof = decode_key(proof).ok_or(AuthError::Malformed("the proof is not 32 bytes of base64"))?;
        let signed: [&[u8]; 3] = [self.transcript.as_bytes(), b",", unproven.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.secret.stored_key, &signed));
        if !same(&sha256(&client_key), &self.secret.stored_key) {
            return Err(AuthError::WrongPassword);
        }
        let server_final = format!("v={}", BASE64.encode(hmac(&self.secret.server_key, &signed)));
        let keys = ScramKeys {
            iterations: self.secret.iterations,
            salt: self.secret.salt,
            client_key,
            server_key: self.secret.server_key,
        };
        Ok((server_final, keys))
    }
}

/// Splits off the gs2 header (RFC 5802 §7): the channel binding flag and what follows the header.
fn gs2_header(message: &str) -> Result<(&str, &str), AuthError> {
    let mut parts = message.splitn(3, ',');
    let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(AuthError::Malformed("no gs2 header"));
    };
    match flag.as_bytes() {
        // "y": the client could bind and thinks we cannot. It is right.
        b"n" | b"y" => {}
        [b'p', b'=', ..] => return Err(AuthError::Unsupported("SCRAM channel binding")),
        _ => return Err(AuthError::Malformed("unknown channel binding flag")),
    }
    if authzid.is_empty() { Ok((flag, bare)) } else { Err(AuthError::Unsupported("SCRAM authorization identity")) }
}

fn text(message: &[u8]) -> Result<&str, AuthError> {
    if message.len() > MAX_MESSAGE {
        return Err(AuthError::Malformed("too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| AuthError::Malformed("not UTF-8"))?;
    if text.contains('\0') {
        return Err(AuthError::Malformed("a zero byte"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn server() -> ServerFirst {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ServerFirst {
            secret: Secret::from_password("pencil", &salt, 4096),
            nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
        }
    }

    fn waiting() -> ServerFinal {
        server().handle(CLIENT_FIRST.as_bytes()).unwrap().1
    }

    #[test]
    fn the_exchange_of_rfc_7677() {
        let (server_first, last) = server().handle(CLIENT_FIRST.as_bytes()).unwrap();
        assert_eq!(server_first, format!("r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        let (server_final, keys) = last.handle(format!("c=biws,r={NONCE},p={PROOF}").as_bytes()).unwrap();
        assert_eq!(server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(keys.secret(), server().secret);
    }

    #[test]
    fn first_messages_that_are_refused() {
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=user",
            "n,,r=abc,n=user",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "n,,n=user,r=\u{e9}",
            "n,,n=user,r=a\0",
            "n,,m=x,n=user,r=abc",
            "n,a=admin,n=user,r=abc",
            "p=tls-server-end-point,,n=user,r=abc",
            "x,,n=user,r=abc",
            "yy,,n=user,r=abc",
        ] {
            assert!(server().handle(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(server().handle(b"n,,n=user,r=\xff").is_err());
        let long = format!("n,,n=user,r={}", "a".repeat(MAX_MESSAGE));
        assert!(server().handle(long.as_bytes()).is_err());
        // An extension after the nonce is ignored, and y is as good as n.
        assert!(server().handle(b"y,,n=,r=abc,x=1").is_ok());
    }

    #[test]
    fn final_messages_that_are_refused() {
        let zeros = BASE64.encode([0; 32]);
        for (bad, wrong_password) in [
            (format!("c=biws,r={NONCE},p={zeros}"), true),
            (format!("c=biws,r={NONCE},x=1,p={PROOF}"), true),
            (format!("c=eSws,r={NONCE},p={PROOF}"), false),
            (format!("c=biws,r={NONCE}x,p={PROOF}"), false),
            (format!("c=biws,r=,p={PROOF}"), false),
            (format!("r={NONCE},c=biws,p={PROOF}"), false),
            (format!("c=biws,r={NONCE}"), false),
            (format!("c=biws,r={NONCE},p="), false),
            (format!("c=biws,r={NONCE},p={PROOF}AAAA"), false),
            (String::new(), false),
        ] {
            let error = waiting().handle(bad.as_bytes()).unwrap_err();
            assert_eq!(error == AuthError::WrongPassword, wrong_password, "{bad}: {error}");
        }
    }
}
