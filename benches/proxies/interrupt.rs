//! Ctrl-C and SIGTERM: the turn that runs is the last one, what was measured is reported, and everything is cleaned up.

use std::sync::OnceLock;
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::trouble::Result;

static SEEN: OnceLock<&str> = OnceLock::new();

/// Listens from now on.
pub(crate) fn listen() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            let seen = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            let _ = SEEN.set(seen);
        });
    });
    Ok(())
}

/// The signal that came, if it is time to end.
pub(crate) fn seen() -> Option<&'static str> {
    SEEN.get().copied()
}
