//! The demo: what clients of pgmoor see while the primary dies, live in a terminal. `make demo`, `make demo CLUSTER=1`.
//!
//! ```text
//!   local · pods      two stages: servers of this machine under `fixed` discovery; Patroni under a real control plane
//!   story             the clients: what they do through pgmoor, and the verdict
//!   writer · session  one client that writes and keeps account; one that has built up state and checks it
//!   watch             what pgmoor itself says about where writes go
//!   trio · install    three PostgreSQL servers; PostgreSQL itself
//!   screen            lines, ticks, colours
//! ```
#![allow(clippy::disallowed_methods, reason = "the demo lives in real time; nobody pauses its clock")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod install;
mod local;
mod pods;
mod screen;
mod session;
mod story;
mod trio;
mod watch;
mod writer;

use std::process::ExitCode;
use std::sync::Arc;

use cluster::trouble::{Result, Trouble};
use screen::{Screen, Tone};
use tokio::signal::unix::{SignalKind, signal};

/// As a shell says it of a program that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let screen = Arc::new(Screen::new());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => local::run(&screen),
        ["--cluster"] => pods::run(&screen),
        _ => Err(Trouble::new("usage: demo [--cluster]")),
    };
    match outcome {
        Ok(Outcome::AsPromised) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(trouble) => {
            screen.event(Tone::Bad, &format!("the demo could not be shown: {trouble}"));
            ExitCode::FAILURE
        }
    }
}

/// How the demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Every connection was kept and every acknowledged row is there once.
    AsPromised,
    /// Not so.
    Broken,
    /// Ctrl-C.
    Interrupted,
}

/// Plays a stage unless Ctrl-C or SIGTERM comes first; what the stage has started ends as its values are dropped.
async fn unless_interrupted(screen: &Screen, stage: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = stage => return outcome,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    screen.event(Tone::Bad, "interrupted");
    Ok(Outcome::Interrupted)
}

/// The pgmoor that cargo has built beside this program.
fn pgmoor() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.parent().and_then(|examples| examples.parent()).map(|target| target.join("pgmoor"));
    binary.filter(|binary| binary.exists()).ok_or_else(|| Trouble::new("pgmoor is not built: run `cargo build`"))
}
