//! TLS towards clients: off, prefer, require.

use std::time::{Duration, Instant};

use super::pair::{Moor, Pair, Plan, run_psql, shared, until};
use super::raw::{Raw, query, startup, with_length};

fn with_tls(pair: &Pair, mode: &str, folder: &std::path::Path) -> Moor {
    with_tls_and(pair, mode, folder, String::new())
}

fn with_tls_and(pair: &Pair, mode: &str, folder: &std::path::Path, limits: String) -> Moor {
    let certified = rcgen::generate_simple_self_signed(vec!["pgmoor.test".to_owned()]).unwrap();
    let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let tls = format!("mode = \"{mode}\"\ncert = \"{}\"\nkey = \"{}\"", cert.display(), key.display());
    Moor::start(&Plan { tls, limits, ..pair.plan() })
}

fn connect(moor: &Moor, sslmode: &str, more: &str) -> Result<String, String> {
    let dsn = format!("hostaddr={} host=pgmoor.test user=app dbname=app sslmode={sslmode} {more}", moor.host());
    let (good, out, err) = run_psql(&dsn, &["-Atqc", "select 'in'", "-c", "\\conninfo"], &[]);
    if good { Ok(out) } else { Err(err) }
}

#[test]
fn without_tls_only_clients_that_insist_on_it_are_turned_away() {
    let pair = shared();
    let moor = pair.moor();
    assert!(!connect(&moor, "prefer", "").unwrap().contains("SSL"));
    assert!(connect(&moor, "require", "").unwrap_err().contains("server does not support SSL"));
}

#[test]
fn preferred_tls_serves_both_and_can_be_verified() {
    let pair = shared();
    let folder = tempfile::tempdir().unwrap();
    let moor = with_tls(&pair, "prefer", folder.path());
    assert!(!connect(&moor, "disable", "").unwrap().contains("SSL"));
    assert!(connect(&moor, "require", "").unwrap().contains("TLSv1.3"));
    assert!(connect(&moor, "require", "ssl_max_protocol_version=TLSv1.2").unwrap().contains("TLSv1.2"));
    let root = format!("sslrootcert={}", folder.path().join("tls.crt").display());
    assert!(connect(&moor, "verify-full", &root).unwrap().contains("in"));
    // Large results go through TLS records, both ways.
    let dsn = format!("host={} user=app dbname=app sslmode=require", moor.host());
    let (good, out, err) = run_psql(&dsn, &["-Atqc", "select repeat('t', 5000000)"], &[]);
    assert!(good && out.len() == 5_000_000, "{err}");
    // Bytes in the clear behind the SSLRequest would count as the client's own: refused.
    let mut raw = Raw::open(moor.rw()).unwrap();
    raw.put(
        &[with_length(&80_877_103_u32.to_be_bytes()), startup(0x0003_0000, &[("user", "app")]), query("select 1")]
            .concat(),
    );
    assert_eq!(raw.reply().code(), "08P01");
    // A handshake that is none ends its connection and nothing else.
    let mut raw = Raw::open(moor.rw()).unwrap();
    raw.put(&with_length(&80_877_103_u32.to_be_bytes()));
    assert_eq!(raw.byte().unwrap(), b'S');
    raw.put(&[0x42; 500]);
    assert!(raw.closed());
    assert!(connect(&moor, "require", "").is_ok());
}

#[test]
fn a_handshake_that_stops_halfway_ends_with_the_login_and_gives_its_place_back() {
    let pair = shared();
    let folder = tempfile::tempdir().unwrap();
    let limits = "login_timeout = \"2s\"\nstartup_sessions = 2".to_owned();
    let moor = with_tls_and(&pair, "prefer", folder.path(), limits);
    // The first bytes of a ClientHello, and nothing more.
    let began = Instant::now();
    let mut halves = [(); 2].map(|()| {
        let mut raw = Raw::open(moor.rw()).unwrap();
        raw.put(&with_length(&80_877_103_u32.to_be_bytes()));
        assert_eq!(raw.byte().unwrap(), b'S');
        raw.put(&[0x16, 3, 1, 2, 0, 1, 0]);
        raw
    });
    assert!(halves.iter_mut().all(Raw::closed));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(15), "{took:?}");
    assert!(connect(&moor, "require", "").unwrap().contains("TLSv1.3"));
    until("both to be counted", || {
        (moor.metric(r#"pgmoor_errors_total{code="startup_timeout"}"#) == 2.0).then_some(())
    });
}

#[test]
fn required_tls_refuses_the_others_and_says_why() {
    let pair = shared();
    let folder = tempfile::tempdir().unwrap();
    let moor = with_tls(&pair, "require", folder.path());
    assert!(connect(&moor, "require", "").unwrap().contains("TLSv1.3"));
    let refused = connect(&moor, "disable", "").unwrap_err();
    assert!(refused.contains("TLS connections only"), "{refused}");
    assert_eq!(Raw::open(moor.rw()).unwrap().start(&[]).code(), "28000");
}
