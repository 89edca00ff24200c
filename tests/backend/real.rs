//! A real PostgreSQL: every method of `pg_hba.conf`, SCRAM passed through, TLS, cancel, and servers that take no logins.

use std::time::Duration;

use pgmoor::auth::{AuthError, ClientFirst, Credentials, Secret, ServerFirst};
use pgmoor::backend::{self, Backend, ConnectError, Login, QueryError, Target};
use pgmoor::ids::PodId;
use pgmoor::net::Dial;
use pgmoor::net::tls::{BackendTls, TlsMode};
use tokio::time::Instant;

use crate::fake::soon;
use crate::password;
use crate::postgres::{self, PASSWORD, Postgres};
use crate::tls::Authority;

/// `None`, with a word on it, where PostgreSQL is not installed.
#[expect(clippy::print_stdout, reason = "the test's own output")]
fn server(settings: &str, tls: Option<(&str, &str)>) -> Option<Postgres> {
    if !postgres::installed() {
        println!("skipped: PostgreSQL 15 is not installed");
        return None;
    }
    Some(Postgres::start_with(settings, tls).unwrap())
}

fn target(server: &Postgres, tls: BackendTls) -> Target {
    Target { pod: PodId::new("pg-0", "a"), address: server.address(), tls, dial: Dial::Tcp }
}

async fn log_in(server: &Postgres, user: &str, credentials: &Credentials) -> Result<Backend, ConnectError> {
    let login = Login { user, database: "postgres", parameters: &[], credentials };
    backend::connect(&target(server, BackendTls::disabled()), &login, soon()).await
}

fn code(error: &ConnectError) -> &str {
    error.server_error().map_or("", |said| said.code.as_str())
}

#[tokio::test]
async fn every_method_lets_the_right_password_in_and_no_other() {
    let Some(server) = server("", None) else {
        return;
    };
    for user in ["scram", "md5", "clear", "trusted"] {
        let mut backend = log_in(&server, user, &password(PASSWORD)).await.unwrap();
        let rows = backend.simple_query("SELECT current_user, NULL; SELECT 2", soon()).await.unwrap();
        assert_eq!(rows, [vec![Some(user.to_owned()), None], vec![Some("2".to_owned())]]);
        assert!(backend.key.is_some() && backend.parameters["server_version"].starts_with("15"));
    }
    for user in ["scram", "md5", "clear", "nobody"] {
        let error = log_in(&server, user, &password("wrong")).await.unwrap_err();
        let expected = if user == "nobody" { "28000" } else { "28P01" };
        assert_eq!(code(&error), expected, "{user}: {error}");
        assert!(!error.is_transient());
    }
    let error = log_in(&server, "refused", &password(PASSWORD)).await.unwrap_err();
    assert_eq!(code(&error), "28000", "{error}");
    let error = log_in(&server, "scram", &Credentials::None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Auth(AuthError::NoAnswer { .. })), "{error}");
}

#[tokio::test]
async fn a_clients_own_scram_login_opens_postgresql_without_its_password() {
    let Some(server) = server("", None) else {
        return;
    };
    let stored = server.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'").unwrap();
    // A client logs in to us, with the secret PostgreSQL has stored.
    let (client_first, client) = ClientFirst::begin([1; 18]);
    let secret: Secret = stored.parse().unwrap();
    let (server_first, ours) = ServerFirst::new(secret, [2; 18]).handle(client_first.as_bytes()).unwrap();
    let challenge = client.handle(server_first.as_bytes()).unwrap();
    let Credentials::Password(known) = password(PASSWORD) else { panic!() };
    let keys = known.keys(challenge.salt(), challenge.iterations());
    let (client_final, _) = challenge.answer(&keys).unwrap();
    let (_, keys) = ours.handle(client_final.as_bytes()).unwrap();
    // We log in to PostgreSQL with what is left of that.
    log_in(&server, "scram", &Credentials::ScramKeys(keys.clone())).await.unwrap();
    server.psql(&format!("ALTER ROLE scram PASSWORD '{PASSWORD}'")).unwrap();
    let error = log_in(&server, "scram", &Credentials::ScramKeys(keys)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Auth(AuthError::OtherSecret)), "another salt: {error}");
}

#[tokio::test]
async fn a_running_query_is_cancelled_and_the_backend_lives() {
    let Some(server) = server("", None) else {
        return;
    };
    let mut backend = log_in(&server, "trusted", &Credentials::None).await.unwrap();
    let key = backend.key.clone().unwrap();
    let running = async {
        let error = backend.simple_query("SELECT pg_sleep(60)", soon()).await.unwrap_err();
        let QueryError::Server(said) = error else { panic!("{error}") };
        assert_eq!(said.code, "57014");
        backend.simple_query("SELECT 1", soon()).await.unwrap();
    };
    let cancelling = async {
        let pid = key.process_id;
        let asleep = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
        let deadline = soon();
        while server.psql(&asleep).unwrap() != "1" {
            assert!(Instant::now() < deadline, "the query never began");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        backend::cancel(&target(&server, BackendTls::disabled()), &key, soon()).await.unwrap();
    };
    tokio::join!(running, cancelling);
}

#[tokio::test]
async fn tls_is_spoken_with_postgresql_for_logins_and_cancels() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("pg-0.pg.db.svc");
    let Some(server) = server("", Some((&certificate, &key))) else {
        return;
    };
    let tls = authority.trusted(TlsMode::VerifyFull, "pg-0.pg.db.svc");
    let credentials = password(PASSWORD);
    let login = Login { user: "scram", database: "postgres", parameters: &[], credentials: &credentials };
    let mut backend = backend::connect(&target(&server, tls.clone()), &login, soon()).await.unwrap();
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(backend.simple_query(ssl, soon()).await.unwrap(), [[Some("t".to_owned())]]);
    backend::cancel(&target(&server, tls), backend.key.as_ref().unwrap(), soon()).await.unwrap();
    let wrong = authority.trusted(TlsMode::VerifyFull, "pg-1.pg.db.svc");
    let error = backend::connect(&target(&server, wrong), &login, soon()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_full_and_a_stopped_server_are_no_lasting_refusal() {
    let settings = "max_connections = 5\nsuperuser_reserved_connections = 2\nmax_wal_senders = 0\nwal_level = minimal";
    let Some(mut server) = server(settings, None) else {
        return;
    };
    let mut held = Vec::new();
    let error = loop {
        match log_in(&server, "trusted", &Credentials::None).await {
            Ok(backend) => held.push(backend),
            Err(error) => break error,
        }
        assert!(held.len() < 5);
    };
    assert_eq!(code(&error), "53300");
    assert!(error.is_transient(), "{error}");

    let mut backend = held.remove(0);
    server.signal("INT").unwrap();
    server.wait_end().unwrap();
    let error = backend.simple_query("SELECT 1", soon()).await.unwrap_err();
    match error {
        QueryError::Server(said) => assert_eq!(said.code, "57P01"),
        QueryError::Lost(_) => {}
        QueryError::TimedOut | QueryError::Protocol(_) => panic!("{error}"),
    }
    let error = log_in(&server, "trusted", &Credentials::None).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    server.restart().unwrap();
    log_in(&server, "trusted", &Credentials::None).await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_is_left_at_the_deadline() {
    let Some(server) = server("", None) else {
        return;
    };
    server.signal("STOP").unwrap();
    let login = Login { user: "trusted", database: "postgres", parameters: &[], credentials: &Credentials::None };
    let deadline = Instant::now() + Duration::from_millis(200);
    let error = backend::connect(&target(&server, BackendTls::disabled()), &login, deadline).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut), "{error}");
    server.signal("CONT").unwrap();
    log_in(&server, "trusted", &Credentials::None).await.unwrap();
}
