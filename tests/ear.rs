//! LISTEN over a shared backend: order, names, failovers, slow clients, lying servers; against real PostgreSQL, and scripted ones.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "ear/catching_up.rs"]
mod catching_up;
#[path = "ear/hearing.rs"]
mod hearing;
#[path = "ear/logins.rs"]
mod logins;
#[path = "ear/losses.rs"]
mod losses;
#[path = "ear/lying.rs"]
mod lying;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "ear/properties.rs"]
mod properties;
#[path = "support/raw.rs"]
mod raw;
#[path = "ear/stage.rs"]
mod stage;
