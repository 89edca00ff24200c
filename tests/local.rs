//! pgmoor as a process in front of a real primary and its standby: what a client of it sees.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "local/commit.rs"]
mod commit;
#[path = "local/copy.rs"]
mod copy;
#[path = "local/failover.rs"]
mod failover;
#[path = "local/flow.rs"]
mod flow;
#[path = "local/limits.rs"]
mod limits;
#[path = "local/login.rs"]
mod login;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "local/protocol.rs"]
mod protocol;
#[path = "support/raw.rs"]
mod raw;
#[path = "local/routing.rs"]
mod routing;
#[path = "local/tls.rs"]
mod tls;
#[path = "support/wire.rs"]
mod wire;
