//! The fuzz targets' properties on every `cargo test`: the seeds of `fuzz/seeds`, and seeded mutations of them.
//!
//! No coverage guides these inputs; `fuzz/README.md` says how to let libFuzzer do that.

#![allow(clippy::expect_used, reason = "what a test cannot go on without ends it")]

#[path = "../fuzz/src/properties.rs"]
#[allow(unreachable_pub, reason = "the fuzz crate compiles it too")]
mod properties;

use pgmoor::wire;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

/// Mutations per target: about a second of a debug build.
const ROUNDS: usize = 20_000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry of the folder").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has seeds", folder.display());
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// A seed with bytes changed, cut out, doubled, or joined with a part of another seed.
fn mutate(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..8) {
        let from = random.random_range(0..=bytes.len());
        let to = random.random_range(from..=bytes.len().min(from + 16));
        match random.random_range(0..5) {
            0 if from < bytes.len() => bytes[from] = random.random(),
            1 if from < bytes.len() => bytes[from] ^= 1 << random.random_range(0..8),
            2 => drop(bytes.drain(from..to)),
            3 => {
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let cut = random.random_range(0..=other.len());
                bytes.truncate(from);
                bytes.extend(&other[cut..]);
            }
        }
    }
    bytes
}

fn run(target: &str, property: fn(&[u8])) {
    let seeds = seeds(target);
    for seed in &seeds {
        property(seed);
    }
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..ROUNDS {
        let bytes = mutate(&mut random, &seeds);
        let outcome = std::panic::catch_unwind(|| property(&bytes));
        assert!(outcome.is_ok(), "{target}, round {round}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn scan() {
    run("scan", properties::scan);
}

#[test]
fn startup() {
    run("startup", properties::startup);
}

#[test]
fn message() {
    run("message", properties::message);
}

#[test]
fn sql() {
    run("sql", properties::sql);
}
