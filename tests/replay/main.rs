//! A lost transaction is run again on the next primary, and its client notices nothing; or it is told the truth.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

mod answers;
mod bounds;
mod characteristics;
mod copying;
mod cut;
mod deferred;
#[path = "../support/drivers.rs"]
mod drivers;
mod extended;
mod long;
mod losses;
mod mismatch;
mod names;
#[path = "../support/pair.rs"]
mod pair;
mod people;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/raw.rs"]
mod raw;
mod reads;
mod stage;
mod statements;
mod wire;
mod writes;
