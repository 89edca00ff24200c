//! The phases of the process's life, as a signal everyone can watch, and the count of sessions that still run.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// How long those that are stopped may take to say so to their clients.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where in its life the process is. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// New sessions are welcome.
    Serving,
    /// No new sessions; those that live end at their next boundary.
    Draining,
    /// The grace time is over: whatever still runs ends now.
    Stopped,
}

impl Phase {
    /// As reports say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The side that decides. Kept by `app`; dropping it reads as [`Phase::Stopped`] to the watchers.
#[derive(Debug)]
pub struct Shutdown {
    phase: watch::Sender<Phase>,
    sessions: TaskTracker,
}

/// The side that obeys. Cheap to clone; everyone who must end has one.
#[derive(Clone, Debug)]
pub struct ShutdownWatch {
    phase: watch::Receiver<Phase>,
    sessions: TaskTracker,
}

impl Shutdown {
    /// A process that serves.
    pub fn new() -> (Self, ShutdownWatch) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        let sessions = TaskTracker::new();
        let watch = ShutdownWatch { phase: receiver, sessions: sessions.clone() };
        let shutdown = Self { phase: sender, sessions };
        (shutdown, watch)
    }

    /// Starts to drain; nothing happens if that has begun already.
    pub fn begin(&self) {
        self.advance(Phase::Draining);
    }

    /// Drains, waits at most `grace` for the tracked sessions, then stops, and gives the stopped ones time for a last word.
    /// Says how many sessions were still running when the time was over (0: all ended by themselves).
    ///
    /// # Cancel safety
    /// May be dropped: the drain goes on, and nothing is stopped.
    pub async fn finish(&self, grace: Duration) -> usize {
        self.begin();
        self.sessions.close();
        let ended = tokio::time::timeout(grace, self.sessions.wait()).await;
        let left = match ended {
            Ok(()) => 0,
            Err(_) => self.sessions.len(),
        };
        self.advance(Phase::Stopped);
        // Whoever was in the midst of something has a last word to say.
        let _ = tokio::time::timeout(LAST_WORDS, self.sessions.wait()).await;
        left
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

impl ShutdownWatch {
    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        if self.phase.has_changed().is_err() {
            return Phase::Stopped;
        }
        *self.phase.borrow()
    }

    /// Its changes, for those who wait for other things too.
    pub fn changes(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Whether new work is to be refused. Cheap: no await, no allocation.
    pub fn is_draining(&self) -> bool {
        self.phase() != Phase::Serving
    }

    /// Returns once the drain has begun (at once, if it has).
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns once the grace time is over.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    /// Runs a session's task; [`Shutdown::finish`] waits for it.
    pub fn spawn_session<F>(&self, session: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.sessions.spawn(session)
    }

    /// The sessions that run at this moment.
    pub fn running(&self) -> usize {
        self.sessions.len()
    }

    async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.clone();
        // An error means the deciding side is gone, which is as good as stopped.
        let _ = receiver.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn waits_for_sessions_that_end_by_themselves() {
        let (shutdown, watch) = Shutdown::new();
        assert!(!watch.is_draining());
        let inner = watch.clone();
        let session = watch.spawn_session(async move { inner.draining().await });
        assert_eq!(watch.running(), 1);
        assert_eq!(shutdown.finish(Duration::from_secs(30)).await, 0);
        assert_eq!(watch.phase(), Phase::Stopped);
        session.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_time_ends_the_wait_and_stops_the_rest() {
        let (shutdown, watch) = Shutdown::new();
        let inner = watch.clone();
        let (seen, was_seen) = oneshot::channel();
        let session = watch.spawn_session(async move {
            inner.stopped().await;
            seen.send(()).unwrap();
        });
        let started = tokio::time::Instant::now();
        assert_eq!(shutdown.finish(Duration::from_secs(30)).await, 1);
        assert_eq!(started.elapsed(), Duration::from_secs(30));
        was_seen.await.unwrap();
        session.await.unwrap();
    }

    #[tokio::test]
    async fn a_phase_never_goes_back() {
        let (shutdown, watch) = Shutdown::new();
        assert_eq!(shutdown.finish(Duration::ZERO).await, 0);
        shutdown.begin();
        assert_eq!(watch.phase(), Phase::Stopped);
    }

    #[tokio::test]
    async fn a_lost_signal_reads_as_stopped() {
        let (shutdown, watch) = Shutdown::new();
        drop(shutdown);
        watch.draining().await;
        watch.stopped().await;
        assert_eq!(watch.phase(), Phase::Stopped);
    }
}
