//! Who is let in, on both sides of pgmoor.

use super::pair::{Moor, Plan, psql, run_psql, shared};
use super::postgres::PASSWORD;
use super::raw::{Raw, frame};

/// A pgmoor that asks for passwords, with these users.
fn with_users(plan: Plan, users: &[(&str, &str, &str)]) -> Moor {
    let users = users.iter().map(|(name, key, value)| format!("[[user]]\nname = \"{name}\"\n{key} = \"{value}\"\n"));
    Moor::start(&Plan { auth: "users_file = \"users.toml\"".to_owned(), users: users.collect(), ..plan })
}

fn login(moor: &Moor, user: &str, password: &str) -> Result<String, String> {
    let dsn = format!("host={} user={user} dbname=app", moor.host());
    let (good, out, err) =
        run_psql(&dsn, &["-Atqc", "select current_user || ' ' || session_user"], &[("PGPASSWORD", password)]);
    if good { Ok(out) } else { Err(err) }
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let pair = shared();
    let moor = with_users(pair.plan(), &[("app", "password", "right")]);
    assert_eq!(login(&moor, "app", "right").unwrap(), "app app");
    let wrong = login(&moor, "app", "wrong").unwrap_err();
    let unknown = login(&moor, "nobody", "wrong").unwrap_err();
    assert!(wrong.contains("28P01") || wrong.contains("password authentication failed"), "{wrong}");
    assert_eq!(wrong, unknown);
    assert_eq!(moor.metric("pgmoor_auth_failures_total"), 2.0);
    // Frame by frame, too: the same offer, and a first message of the same shape.
    let exchange = |user: &str| {
        let mut raw = Raw::open(moor.rw()).unwrap();
        raw.put(&super::raw::startup(0x0003_0000, &[("user", user), ("database", "app")]));
        let offer = raw.frame().unwrap();
        let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend(u32::try_from(first.len()).unwrap().to_be_bytes());
        body.extend(first);
        raw.put(&frame(b'p', &body));
        let (tag, answer) = raw.frame().unwrap();
        let text = String::from_utf8_lossy(&answer[4..]).into_owned();
        let shape: Vec<usize> = text.split(',').map(str::len).collect();
        let again = text.split(',').nth(1).unwrap().to_owned();
        (offer, tag, shape, again)
    };
    let (known, stranger) = (exchange("app"), exchange("nobody"));
    assert_eq!((&known.0, known.1, &known.2), (&stranger.0, stranger.1, &stranger.2));
    assert_eq!(stranger.3, exchange("nobody").3, "a stranger has one salt, as users have");
    assert_ne!(stranger.3, exchange("nobody else").3, "{known:?}");
}

#[test]
fn every_method_postgresql_asks_for_is_answered() {
    let pair = shared();
    let users = ["scram", "md5", "clear", "trusted"];
    let listed: Vec<_> = users.iter().map(|user| (*user, "password", PASSWORD)).collect();
    let moor = with_users(pair.plan(), &listed);
    for user in users {
        assert_eq!(login(&moor, user, PASSWORD).unwrap(), format!("{user} {user}"));
    }
}

#[test]
fn a_verifier_is_enough_to_pass_the_clients_proof_on() {
    let pair = shared();
    let secret = psql(pair.a, "select rolpassword from pg_authid where rolname = 'scram'");
    assert!(secret.starts_with("SCRAM-SHA-256$"));
    let moor = with_users(pair.plan(), &[("scram", "secret", &secret)]);
    assert_eq!(login(&moor, "scram", PASSWORD).unwrap(), "scram scram");
    assert!(login(&moor, "scram", "wrong").unwrap_err().contains("password authentication failed"));
    // One that is not PostgreSQL's own opens pgmoor, and PostgreSQL says no: the client is told so.
    psql(pair.a, "create role stale login password 'old'; alter role stale password null");
    let moor = with_users(pair.plan(), &[("refused", "password", "mine"), ("md5", "secret", &secret)]);
    let refused = login(&moor, "refused", "mine").unwrap_err();
    assert!(
        refused.contains("pg_hba.conf rejects connection") && !refused.contains("pgmoor"),
        "PostgreSQL's own words: {refused}"
    );
    let cannot = login(&moor, "md5", PASSWORD).unwrap_err();
    assert!(cannot.contains("PostgreSQL refused the login"), "{cannot}");
    psql(pair.a, "drop role stale");
}

#[test]
fn an_unknown_database_is_refused_in_postgresqls_own_words() {
    let pair = shared();
    let moor = pair.moor();
    let reply = Raw::open(moor.rw()).unwrap().start(&[("database", "nowhere")]);
    assert_eq!(reply.errors, [("3D000".to_owned(), "database \"nowhere\" does not exist".to_owned())]);
    let reply = Raw::open(moor.rw()).unwrap().start(&[("user", "stranger")]);
    assert_eq!(reply.errors, [("28000".to_owned(), "role \"stranger\" does not exist".to_owned())]);
    let reply = Raw::open(moor.rw()).unwrap().start(&[("options", "-c no_such_setting=1")]);
    assert_eq!(reply.code(), "42704");
    let named = Moor::start(&Plan { cluster: "databases = [\"app\"]\nusers = [\"app\"]".to_owned(), ..pair.plan() });
    let reply = Raw::open(named.rw()).unwrap().start(&[("database", "postgres")]);
    assert_eq!(reply.code(), "3D000");
    assert!(reply.errors[0].1.starts_with("pgmoor: "), "{reply:?}");
    let reply = Raw::open(named.rw()).unwrap().start(&[("user", "postgres")]);
    assert_eq!(reply.code(), "28P01");
    let reply = Raw::open(named.rw()).unwrap().start(&[("replication", "database")]);
    assert_eq!(reply.code(), "0A000");
}
