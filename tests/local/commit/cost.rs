//! What the commit guard costs: the same load with and without it, turn by turn. It measures, so it is run by itself:
//! `cargo test --release --test local commit::cost -- --ignored --nocapture`.
#![allow(clippy::print_stdout, reason = "measurements are what this is for")]

use std::process::Command;

use crate::pair::{Moor, Pair, Plan, psql};

const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";
/// Each of the loads is run so often for each pgmoor, in turn.
const ROUNDS: usize = 5;
const SECONDS: &str = "4";

/// A load: its name, how pgbench makes it.
const LOADS: [(&str, &[&str]); 5] = [
    ("one UPDATE in a block, simple protocol, 1 client", &["-f", "UPDATE", "-M", "simple", "-c", "1"]),
    ("one UPDATE in a block, prepared, 1 client", &["-f", "UPDATE", "-M", "prepared", "-c", "1"]),
    ("one UPDATE in a block, prepared, 16 clients", &["-f", "UPDATE", "-M", "prepared", "-c", "16"]),
    ("TPC-B-like, prepared, 1 client", &["-b", "tpcb-like", "-M", "prepared", "-c", "1"]),
    ("TPC-B-like, prepared, 16 clients", &["-b", "tpcb-like", "-M", "prepared", "-c", "16"]),
];

const UPDATE: &str = "\
\\set id random(1, 100000 * :scale)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :id;
COMMIT;
";

/// Transactions a second, and milliseconds for one on average.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    latency: f64,
}

fn pgbench(host: &str, port: &str, load: &[&str], script: &str) -> Measured {
    let load = load.iter().map(|word| if *word == "UPDATE" { script } else { word });
    let output = Command::new(PGBENCH)
        .args(["-n", "-h", host, "-p", port, "-U", "app", "-T", SECONDS])
        .args(load)
        .arg("app")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let number = |before: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(before)).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    Measured { rate: number("tps = "), latency: number("latency average = ") }
}

fn median(mut all: Vec<Measured>) -> Measured {
    all.sort_by(|a, b| a.latency.total_cmp(&b.latency));
    all[all.len() / 2]
}

#[test]
#[ignore = "it measures for minutes, and wants the machine for itself"]
fn cost() {
    // Durable, unlike the servers of the other tests: a commit's cost is its flush.
    let pair = Pair::start("fsync = on\nfull_page_writes = on\nshared_buffers = '256MB'\nmax_wal_size = '4GB'");
    let (host, port) = (pair.a.ip().to_string(), pair.a.port().to_string());
    let made = Command::new(PGBENCH)
        .args(["-i", "-q", "-s", "20", "-h", &host, "-p", &port, "-U", "app", "app"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("update.sql");
    std::fs::write(&script, UPDATE).unwrap();
    let script = script.to_str().unwrap();
    let moor = |guard: &str| Moor::start(&Plan { continuity: format!("commit_guard = \"{guard}\""), ..pair.plan() });
    let (off, on) = (moor("off"), moor("on"));
    println!("{:<50} {:>10} {:>10} {:>8} {:>11} {:>11} {:>9}", "", "off, tps", "on, tps", "", "off, ms", "on, ms", "");
    for (name, load) in LOADS {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            psql(pair.a, "checkpoint");
            without.push(pgbench(off.host(), "5432", load, script));
            psql(pair.a, "checkpoint");
            with.push(pgbench(on.host(), "5432", load, script));
        }
        let (without, with) = (median(without), median(with));
        println!(
            "{name:<50} {:>10.0} {:>10.0} {:>7.1}% {:>11.3} {:>11.3} {:>+9.3}",
            without.rate,
            with.rate,
            (with.rate / without.rate - 1.0) * 100.0,
            without.latency,
            with.latency,
            with.latency - without.latency,
        );
    }
}
