//! Many sessions on few backends: each finds its own state, waits its turn, and is told the truth.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test cannot go on without ends it")]
#![allow(dead_code, reason = "the support is shared by several suites")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/raw.rs"]
mod raw;

#[path = "pool/bounds.rs"]
mod bounds;
#[path = "pool/channels.rs"]
mod channels;
#[path = "pool/logins.rs"]
mod logins;
#[path = "pool/sends.rs"]
mod sends;
#[path = "pool/state.rs"]
mod state;
#[path = "pool/statements.rs"]
mod statements;
