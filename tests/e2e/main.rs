//! The main job on the real thing: a real control plane, real Patroni, pgmoor from deploy/, and clients that must notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(unreachable_pub, reason = "a test binary has no other users")]
#![allow(clippy::print_stdout, reason = "measurements are part of what these tests tell")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "../cluster/mod.rs"]
mod cluster;

#[path = "../mass/crowd.rs"]
mod crowd;
#[path = "../support/drivers.rs"]
mod drivers_of_all;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/talk.rs"]
mod talk;
#[path = "../drivers/tokio.rs"]
mod tokio_postgres_work;
#[path = "../support/wire.rs"]
mod wire;

mod api;
mod commit;
mod cuts;
mod drivers;
mod fence;
mod ledger;
mod mass;
mod moves;
mod observer;
mod planned;
mod routing;
mod sleepers;
mod stage;
