//! Bad input at every door of a pgmoor process, from clients and from servers: a clear error or a close, bounded memory,
//! and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "hostile/bystander.rs"]
mod bystander;
#[path = "hostile/clients.rs"]
mod clients;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/raw.rs"]
mod raw;
#[path = "hostile/scripted.rs"]
mod scripted;
#[path = "hostile/servers.rs"]
mod servers;
