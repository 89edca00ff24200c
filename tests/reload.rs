//! A pgmoor process whose configuration changes while it runs: what it takes up, what it refuses, and what it leaves alone.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/raw.rs"]
mod raw;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pair::{Moor, Pair, Plan, run_psql, shared, until};
use raw::Raw;

/// The process looks at its files every five seconds; twice that, for a busy machine.
const POLLED: Duration = Duration::from_secs(10);

const APP: &str = "[[user]]\nname = \"app\"\npassword = \"app\"\n";
const SCRAM: &str = "[[user]]\nname = \"scram\"\npassword = \"se cr\u{e9}t\"\n";

/// Users and certificates lie here, beside the configuration of no process.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file in its place at once, as `mv` does.
    fn put(&self, name: &str, text: &str) {
        put(&self.path(name), text);
    }

    fn put_certificate(&self) {
        let certified = rcgen::generate_simple_self_signed(vec!["pgmoor.test".to_owned()]).unwrap();
        self.put("tls.crt", &certified.cert.pem());
        self.put("tls.key", &certified.signing_key.serialize_pem());
    }

    fn moor(&self, pair: &Pair) -> Moor {
        let auth = format!("method = \"scram-sha-256\"\nusers_file = \"{}\"", self.path("users.toml").display());
        Moor::start(&Plan { auth, ..pair.plan() })
    }
}

fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// The file the process was started with.
fn config(moor: &Moor) -> PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", moor.pid())).unwrap();
    line.trim_end_matches('\0').rsplit('\0').next().unwrap().into()
}

fn reloads(moor: &Moor, outcome: &str) -> f64 {
    moor.metric(&format!("pgmoor_reloads_total{{outcome=\"{outcome}\"}}"))
}

/// Makes a change, sends SIGHUP and waits until one of them has come to this.
fn hangup(moor: &Moor, outcome: &str, change: impl FnOnce()) {
    // Before the change, which may be noticed before the signal.
    let before = reloads(moor, outcome);
    change();
    moor.signal("HUP");
    until(&format!("a reload that ends {outcome}"), || (reloads(moor, outcome) > before).then_some(()));
}

fn login(moor: &Moor, user: &str, password: &str) -> Result<(), String> {
    let dsn = format!("host={} user={user} dbname=app", moor.host());
    let (good, _, err) = run_psql(&dsn, &["-Atqc", "select 1"], &[("PGPASSWORD", password)]);
    if good { Ok(()) } else { Err(err) }
}

#[test]
fn users_come_and_go_with_a_hangup_and_sessions_stay() {
    let pair = shared();
    let files = Files::new();
    files.put("users.toml", APP);
    let moor = files.moor(&pair);
    login(&moor, "app", "app").unwrap();
    assert!(login(&moor, "scram", postgres::PASSWORD).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dsn = format!("{} password=app", moor.dsn());
    let (session, connection) = runtime.block_on(tokio_postgres::connect(&dsn, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(connection);
    runtime.block_on(session.batch_execute("set work_mem = '7777kB'")).unwrap();

    hangup(&moor, "ok", || files.put("users.toml", SCRAM));
    login(&moor, "scram", postgres::PASSWORD).unwrap();
    assert!(login(&moor, "app", "app").unwrap_err().contains("password authentication failed"), "removed");
    let row = runtime.block_on(session.query_one("show work_mem", &[])).unwrap();
    assert_eq!(row.get::<_, String>(0), "7777kB", "the session of the removed user goes on");

    hangup(&moor, "unchanged", || ());
    login(&moor, "scram", postgres::PASSWORD).unwrap();
}

#[test]
fn a_broken_file_changes_nothing_and_its_place_is_told() {
    let pair = shared();
    let files = Files::new();
    files.put("users.toml", APP);
    let moor = files.moor(&pair);
    let config = config(&moor);
    let good = std::fs::read_to_string(&config).unwrap();
    let hold = good.lines().position(|line| line == "[continuity]").unwrap() + 2;
    let bad = good.replace("[continuity]", "[continuity]\nhold = \"soon\"");
    hangup(&moor, "failed", || {
        put(&config, &bad);
        files.put("users.toml", SCRAM);
    });
    let place = format!("pgmoor.toml:{hold}:8: continuity.hold: \"soon\"");
    until(&place, || moor.log().contains(&place).then_some(()));
    login(&moor, "app", "app").unwrap();
    assert!(login(&moor, "scram", postgres::PASSWORD).is_err());

    // The same for what lies beside it.
    hangup(&moor, "failed", || {
        files.put("users.toml", "[[user]]\nname = \"app\"\npasword = \"app\"\n");
        put(&config, &good);
    });
    until("the place of the slip", || moor.log().contains("users.toml:3:1: user.pasword").then_some(()));
    login(&moor, "app", "app").unwrap();

    hangup(&moor, "ok", || files.put("users.toml", SCRAM));
    login(&moor, "scram", postgres::PASSWORD).unwrap();
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken_up() {
    let pair = shared();
    let moor = pair.moor();
    let config = config(&moor);
    let good = std::fs::read_to_string(&config).unwrap();
    let changed = good
        .replace(":5433\"", ":5434\"")
        .replace("[limits]", "[limits]\nsessions = 77")
        .replace("level = \"debug\"", "level = \"info\"")
        .replace("databases = [\"*\"]", "databases = [\"other\"]\nlag_limit = \"77s\"");
    hangup(&moor, "ok", || put(&config, &changed));
    let log = moor.log();
    let line = log.lines().find(|line| line.contains("wait for a restart")).unwrap();
    for key in ["listen.ro", "limits.sessions", "cluster.demo.lag_limit"] {
        assert!(line.contains(key), "{key} in {line}");
    }
    assert!(!line.contains("log.level") && !line.contains("databases"), "{line}");
    // Taken up: the database is not served any more, and the log speaks of less.
    let refused = Raw::open(moor.rw()).unwrap().start(&[]);
    assert_eq!(refused.code(), "3D000", "{refused:?}");
    hangup(&moor, "ok", || put(&config, &good.replace("level = \"debug\"", "level = \"info\"")));
    drop(Raw::login(moor.rw()));
    let log = moor.log();
    let since = log.split("configuration reloaded").nth(1).unwrap();
    assert!(!since.contains("DEBUG"), "{since}");
}

#[test]
fn a_new_certificate_is_served_without_a_word() {
    let pair = shared();
    let files = Files::new();
    files.put_certificate();
    let tls = format!(
        "mode = \"require\"\ncert = \"{}\"\nkey = \"{}\"",
        files.path("tls.crt").display(),
        files.path("tls.key").display()
    );
    let moor = Moor::start(&Plan { tls, ..pair.plan() });
    let verified = || {
        let root = files.path("tls.crt");
        let dsn = format!(
            "hostaddr={} host=pgmoor.test user=app dbname=app sslmode=verify-full sslrootcert={}",
            moor.host(),
            root.display()
        );
        run_psql(&dsn, &["-Atqc", "select 1"], &[]).0
    };
    assert!(verified());
    files.put_certificate();
    let replaced = Instant::now();
    assert!(!verified(), "the client trusts the new one only");
    until("the new certificate", || verified().then_some(()));
    assert!(replaced.elapsed() < POLLED, "{:?}", replaced.elapsed());
}
