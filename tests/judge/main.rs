//! The judge: clients that keep books on a real cluster with random faults, and a verdict on what they were told. One seed
//! decides what each client does and what goes wrong when; real time adds the rest.
//!
//! ```text
//!   trial     one run, from the cluster's start to the verdict
//!   client · work · talk    a session, its operations, its conversation      chaos · wires    faults on the real cluster
//!   schedule · dice         what goes wrong, by the seed                     journal · audit · report
//!   history · verdict · counter · expected    pure: what was told and found, and what of it may not be
//!   fabricated              broken histories: the judge sees each of them
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(unreachable_pub, reason = "a test binary has no other users")]
#![allow(clippy::print_stdout, reason = "measurements are part of what these tests tell")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../support/raw.rs"]
mod raw;
#[allow(dead_code, reason = "the e2e tests use the rest of it")]
#[path = "../e2e/stage.rs"]
mod stage;
#[path = "../support/talk.rs"]
mod talk;

mod audit;
mod chaos;
mod client;
mod counter;
mod dice;
mod expected;
mod fabricated;
mod history;
mod journal;
mod report;
mod schedule;
mod trial;
mod verdict;
mod wires;
mod work;

use std::time::Duration;

use trial::{Length, Plan};

/// Short enough for every change: a few events of a seed that has good ones.
#[test]
fn short_run() {
    let (seed, events) = (number("JUDGE_SEED").unwrap_or(36), number("JUDGE_EVENTS").unwrap_or(4));
    let length = Length::Events(usize::try_from(events).unwrap());
    trial::run(Plan { seed, length, longest: Duration::from_secs(6), clients: 12 });
}

/// As long as one likes: JUDGE_SEED and JUDGE_MINUTES. A seed that is not given is drawn, and printed.
#[test]
#[ignore = "long: make chaos"]
fn long_run() {
    let (seed, minutes) = (number("JUDGE_SEED").unwrap_or_else(rand::random), number("JUDGE_MINUTES").unwrap_or(10));
    trial::run(Plan { seed, length: Length::Minutes(minutes), longest: Duration::from_secs(30), clients: 12 });
}

/// An environment variable that is a number, if it is there.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
