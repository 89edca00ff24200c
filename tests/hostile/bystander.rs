//! A client that behaves and wants to be served in time, whatever others do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::raw::Raw;

/// The slowest answer it puts up with, on a machine that does many things at once.
const LIMIT: Duration = Duration::from_secs(2);

/// The client, at work until [`Bystander::content`].
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    work: JoinHandle<(u32, Duration)>,
}

impl Bystander {
    /// Queries on one session, and a new session now and then.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = std::thread::spawn(move || {
            let mut steady = Raw::login(server);
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while count == 0 || !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                // The one statement that the scripted server answers too.
                assert_eq!(steady.run("select 1").one(), "1");
                if count % 20 == 0 {
                    assert_eq!(Raw::login(server).run("select 1").one(), "1");
                }
                slowest = slowest.max(began.elapsed());
                count += 1;
            }
            (count, slowest)
        });
        Self { stop, work }
    }

    /// Ends it: it was served all the time.
    pub(crate) fn content(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, slowest) = self.work.join().unwrap();
        assert!(count > 0 && slowest < LIMIT, "{count} answers, the slowest after {slowest:?}");
    }
}
