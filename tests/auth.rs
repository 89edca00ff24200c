//! Authentication from outside: both SCRAM machines against each other, secrets as PostgreSQL writes them, nothing shown.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]

use pgmoor::auth::{AuthError, ClientFirst, Credentials, Password, ScramKeys, Secret, ServerFirst, md5_password};

const SALT: &[u8] = b"sixteen bytes ..";

/// A whole exchange: what the client ends with, and what the server ends with.
fn exchange(
    secret: Secret,
    keys: impl FnOnce(&[u8], u32) -> ScramKeys,
) -> Result<(ScramKeys, Result<(), AuthError>), AuthError> {
    let (client_first, client) = ClientFirst::begin([1; 18]);
    let (server_first, server) = ServerFirst::new(secret, [2; 18]).handle(client_first.as_bytes())?;
    let challenge = client.handle(server_first.as_bytes())?;
    let keys = keys(challenge.salt(), challenge.iterations());
    let (client_final, client) = challenge.answer(&keys)?;
    let (server_final, keys) = server.handle(client_final.as_bytes())?;
    Ok((keys, client.handle(server_final.as_bytes())))
}

#[test]
fn the_right_password_satisfies_both_sides_and_leaves_keys_that_log_in_again() {
    let secret = Secret::from_password("pencil", SALT, 4096);
    let password = Password::new("pencil");
    let (keys, client) = exchange(secret.clone(), |salt, rounds| password.keys(salt, rounds)).unwrap();
    client.unwrap();
    let (_, client) = exchange(secret, |_, _| keys).unwrap();
    client.unwrap();
}

#[test]
fn a_wrong_password_and_an_unknown_user_cannot_be_told_apart() {
    let derive = |salt: &[u8], rounds| ScramKeys::derive("wrong", salt, rounds);
    let known = Secret::from_password("pencil", SALT, 4096);
    assert_eq!(exchange(known.clone(), derive).unwrap_err(), AuthError::WrongPassword);
    let mock = Secret::mock(&[7; 32], "nobody", 4096);
    assert_eq!(exchange(mock.clone(), derive).unwrap_err(), AuthError::WrongPassword);
    assert_eq!(mock, Secret::mock(&[7; 32], "nobody", 4096), "asked twice, the salt is the same");
    assert_ne!(mock, Secret::mock(&[7; 32], "somebody", 4096));
    assert_ne!(mock, Secret::mock(&[8; 32], "nobody", 4096));
    assert_eq!(mock.to_string().len(), known.to_string().len());
}

#[test]
fn a_server_without_the_secret_is_found_out() {
    // It knows StoredKey (it can check the client) but not ServerKey.
    let right = Secret::from_password("pencil", SALT, 4096).to_string();
    let other = Secret::from_password("other", SALT, 4096).to_string();
    let (front, _) = right.rsplit_once(':').unwrap();
    let (_, server_key) = other.rsplit_once(':').unwrap();
    let forged = format!("{front}:{server_key}").parse().unwrap();
    let (_, client) = exchange(forged, |salt, rounds| ScramKeys::derive("pencil", salt, rounds)).unwrap();
    assert_eq!(client, Err(AuthError::ServerNotProven));
}

#[test]
fn a_secret_reads_what_it_writes_and_nothing_else() {
    // Of RFC 7677's example, as PostgreSQL would store it.
    let text =
        Secret::from_password("pencil", b"[m\x99h\x9d\x12\x35\x8e\xec\xa0K\x14\x12\x36\xfa\x81", 4096).to_string();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(text.parse::<Secret>().unwrap().to_string(), text);
    for bad in [
        "",
        "pencil",
        "md5c20ad4d76fe97759aa27a0c99bff6710",
        "SCRAM-SHA-1$4096:W22Z$AAAA:AAAA",
        &text.replace("4096", "0"),
        &text.replace("4096", "+4096"),
        &text.replace("4096", "1000001"),
        &text.replace("W22Z", "*22Z"),
        &text.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        &text.replace("WG5d", ""),
        &text.replace(":wf", "wf"),
        &format!("{text}="),
    ] {
        assert!(bad.parse::<Secret>().is_err(), "{bad}");
    }
}

#[test]
fn passwords_are_prepared_as_postgresql_prepares_them() {
    let keys = |password| Secret::from_password(password, SALT, 1).to_string();
    // A no-break space becomes a space, a soft hyphen nothing, a Roman numeral its letters (RFC 4013 §3).
    assert_eq!(keys("a\u{a0}b"), keys("a b"));
    assert_eq!(keys("I\u{ad}X"), keys("IX"));
    assert_eq!(keys("\u{2168}"), keys("IX"));
    assert_ne!(keys("IX"), keys("ix"));
    // What SASLprep forbids is used as it is.
    assert_ne!(keys("a\u{7}b"), keys("ab"));
    assert_ne!(keys("\u{ad}"), keys(""));
}

#[test]
fn derived_keys_are_remembered_by_salt_and_iterations_and_shared_by_clones() {
    let password = Password::new("pencil");
    let clone = password.clone();
    assert!(clone.remembered_keys(SALT, 2).is_none());
    let keys = password.keys(SALT, 2);
    assert_eq!(clone.remembered_keys(SALT, 2).unwrap().secret(), keys.secret());
    assert!(clone.remembered_keys(SALT, 3).is_none());
    assert!(clone.remembered_keys(b"another", 2).is_none());
    for rounds in 3..50 {
        password.keys(SALT, rounds);
    }
    assert!(clone.remembered_keys(SALT, 2).is_none(), "the memory is bounded");
    assert!(clone.remembered_keys(SALT, 49).is_some());
}

#[test]
fn debug_shows_no_secret() {
    let keys = ScramKeys::derive("pencil", SALT, 1);
    let all = format!(
        "{:?} {:?} {:?} {:?}",
        Credentials::Password(Password::new("pencil")),
        Credentials::ScramKeys(keys.clone()),
        keys.secret(),
        ServerFirst::new(keys.secret(), [0; 18]),
    );
    assert_eq!(
        all,
        "Password(Password(***)) ScramKeys(ScramKeys(***)) Secret(***) \
         ServerFirst { secret: Secret(***), nonce: \"AAAAAAAAAAAAAAAAAAAAAAAA\" }"
    );
}

#[test]
fn md5_depends_on_everything() {
    let answer = md5_password("alice", "secret", [1, 2, 3, 4]);
    assert_eq!(answer.len(), 35);
    for other in [
        md5_password("alice", "secret", [1, 2, 3, 5]),
        md5_password("alicf", "secret", [1, 2, 3, 4]),
        md5_password("alice", "secres", [1, 2, 3, 4]),
    ] {
        assert_ne!(answer, other);
    }
}
