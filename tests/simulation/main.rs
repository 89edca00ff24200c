//! The whole proxy below its sockets, simulated from a seed: time that does not pass by itself, a network in memory, a
//! scripted PostgreSQL, and whatever can go wrong; whole runs by the thousand.
//!
//! `SIMULATION_SEEDS=n` runs so many seeds; `SIMULATION_SEED=n` runs one, twice, and prints its trace.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(unreachable_pub, reason = "a test binary has no other users")]
#![allow(clippy::disallowed_methods, reason = "how long all of it takes is told in real time")]
#![allow(clippy::print_stdout, reason = "a trace is what a failing seed has to tell")]

mod chance;
mod client;
mod cluster;
mod ledger;
mod network;
mod server;
mod sql;
mod talk;
mod world;

use std::time::Duration;

use tokio::time::sleep;

use client::Counts;
use world::World;

/// How many seeds a run of all tests takes.
const SEEDS: u64 = 2_000;

/// What came of one seed.
struct Outcome {
    hash: u64,
    faults: Vec<String>,
    lines: Vec<String>,
    counts: Vec<Counts>,
}

/// Runs one seed to its end.
fn run(seed: u64, wordy: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, wordy);
        let mut rng = chance::Rng::new(!seed);
        let trace = world.trace.clone();
        let mut tasks = Vec::new();
        for number in 1..=rng.between(2, 4) {
            let mut client = world.client(number);
            let work = rng.between(8, 16);
            tasks.push(tokio::spawn(async move {
                client.work(work).await;
                client
            }));
        }
        world.misfortunes().await;
        let mut clients = Vec::new();
        for task in tasks {
            clients.push(task.await.unwrap());
        }
        world.close_pools();
        // Longer than any silence goes unnoticed, and than anyone may take to say goodbye.
        sleep(Duration::from_secs(40)).await;
        world.judge(&clients);
        let counts = clients.iter().map(|client| client.counts).collect();
        drop((clients, world));
        sleep(Duration::from_millis(1)).await; // who rings for new tables sees that there will be none
        let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        if left > 0 {
            trace.fault(format_args!("{left} tasks left behind"));
        }
        Outcome { hash: trace.hash(), faults: trace.faults(), lines: trace.lines(), counts }
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

/// Says what a seed has to tell, and fails.
fn fail(seed: u64, faults: &[String]) -> ! {
    let again = run(seed, true);
    for line in &again.lines {
        println!("{line}");
    }
    panic!("seed {seed}: {}\nAgain: SIMULATION_SEED={seed} cargo test --test simulation", faults.join("; "));
}

#[test]
fn whatever_befalls_it_the_proxy_keeps_its_word() {
    if let Some(seed) = number("SIMULATION_SEED") {
        if std::env::var_os("RUST_LOG").is_some() {
            // What the proxy itself says, among nothing else: it knows no simulated time.
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
        }
        let (first, again) = (run(seed, true), run(seed, true));
        for line in &first.lines {
            println!("{line}");
        }
        let differs = first.lines.iter().zip(&again.lines).find(|(one, other)| one != other);
        assert_eq!(first.hash, again.hash, "the same seed ran otherwise: {differs:#?}");
        assert!(first.faults.is_empty(), "seed {seed}: {}", first.faults.join("; "));
        return;
    }
    let began = std::time::Instant::now();
    let from = number("SIMULATION_FROM").unwrap_or(0);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut total = Counts::default();
    let mut bad = Vec::new();
    for seed in from..from + seeds {
        let outcome = run(seed, false);
        if !outcome.faults.is_empty() {
            println!("seed {seed}: {}", outcome.faults.join("; "));
            bad.push((seed, outcome.faults));
        }
        for counts in outcome.counts {
            total.units += counts.units;
            total.lost += counts.lost;
            total.unknown += counts.unknown;
            total.other += counts.other;
            total.ended += counts.ended;
        }
    }
    println!("{seeds} seeds in {:?}: {total:?}", began.elapsed());
    if let Some((seed, faults)) = bad.first() {
        fail(*seed, faults);
    }
    // A run in which nothing goes wrong proves nothing.
    assert!(
        seeds < 100 || (total.units > seeds && total.lost + total.unknown > seeds / 20),
        "too little happened: {total:?}"
    );
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in 0..20 {
        assert_eq!(run(seed, false).hash, run(seed, false).hash, "seed {seed}");
    }
}
