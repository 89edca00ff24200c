//! Drivers that people use do their normal work through pgmoor. The scripts in `tests/drivers/` need nothing but a
//! connection string, so that they serve on a real cluster too.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "support/drivers.rs"]
mod drivers;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "drivers/tokio.rs"]
mod tokio_postgres_work;

use std::time::Duration;

use drivers::Drivers;
use pair::{Moor, Pair, Plan, shared};

/// With passwords, as people have it.
pub(crate) fn moor(pair: &Pair) -> (Moor, String) {
    let plan = Plan {
        auth: "users_file = \"users.toml\"".to_owned(),
        users: "[[user]]\nname = \"app\"\npassword = \"app\"\n".to_owned(),
        ..pair.plan()
    };
    let moor = Moor::start(&plan);
    let dsn = format!("postgresql://app:app@{}:5432/app", moor.host());
    (moor, dsn)
}

fn work(script: &str) {
    let drivers = Drivers::ready().unwrap();
    let pair = shared();
    let (moor, dsn) = moor(&pair);
    let outcome = drivers.run(script, &dsn, Duration::from_secs(60)).unwrap();
    assert!(outcome.good && outcome.said.contains("\ndone "), "{script}:\n{}", outcome.said);
    for line in [
        "ok simple",
        "ok parameters",
        "ok prepared statements",
        "ok transactions and savepoints",
        "ok copy",
        "ok listen and notify",
        "ok cancel and timeout",
        "ok cursors",
    ] {
        assert!(outcome.said.lines().any(|said| said == line), "{script} skipped {line:?}:\n{}", outcome.said);
    }
    // Nothing pgmoor said itself, and nobody was moved.
    assert!(!moor.get("/metrics").unwrap().1.contains("pgmoor_errors_total{"), "{}", moor.log());
    assert!(!moor.log().contains("backend lost"), "{}", moor.log());
}

#[test]
fn psql() {
    work("psql.sh");
}

#[test]
fn psycopg() {
    work("psycopg.py");
}

#[test]
fn asyncpg() {
    work("asyncpg.py");
}

#[test]
fn node_postgres() {
    work("node.js");
}

#[tokio::test]
async fn tokio_postgres() {
    let (pair, moor, dsn) = tokio::task::spawn_blocking(|| {
        let pair = shared();
        let (moor, dsn) = moor(&pair);
        (pair, moor, dsn)
    })
    .await
    .unwrap();
    tokio_postgres_work::work(&dsn).await;
    assert!(!moor.get("/metrics").unwrap().1.contains("pgmoor_errors_total{"), "{}", moor.log());
    drop(pair);
}
