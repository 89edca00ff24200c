//! Ctrl-C and SIGTERM: the turn that runs is the last one, what was measured is reported, and everything is cleaned up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::trouble::Result;

static SEEN: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
pub(crate) fn listen() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            SEEN.store(true, Ordering::Relaxed);
        });
    });
    Ok(())
}

/// Whether it is time to end.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}
