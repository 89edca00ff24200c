//! The configuration in force, and how a newer one takes its place: after a SIGHUP, and when a file of it has changed.
//!
//! What changes is what sessions are given when they start: they take it once, and no lock is met after that. A newer
//! configuration is checked and its certificates are read before anything is swapped, so an error changes nothing.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::metrics;
use crate::session::Shared;

use super::reading::{self, Digests, Reading};
use super::{SetLevel, changes, share};

/// How often the files are looked at. Not by notifications: Kubernetes swaps a symlink three folders up, and a network
/// file system tells nobody.
const EVERY: Duration = Duration::from_secs(5);

/// The configuration in force.
pub(super) struct Reload {
    path: PathBuf,
    hangup: Signal,
    /// What holds now: the newest good configuration, except for the keys that wait for a restart.
    in_force: watch::Sender<Arc<Config>>,
    /// The newest good configuration.
    wanted: Config,
    /// The files as they were when the newest good configuration was read.
    good: Digests,
    /// The files as they were when they were last read, good or not.
    seen: Digests,
    /// The files at the start: what the watches of the clusters have read.
    started_with: Digests,
    shared: watch::Sender<Arc<Shared>>,
    set_level: SetLevel,
}

impl Reload {
    /// `config` holds and was read from `path`; `reading` is what stands there now.
    ///
    /// # Errors
    /// No notice of SIGHUP can be had.
    pub(super) fn new(
        config: Config,
        path: PathBuf,
        reading: &Reading,
        shared: Arc<Shared>,
        set_level: SetLevel,
    ) -> io::Result<Self> {
        let files = reading.digests.clone();
        // What has changed since `config` was read is not forgotten: it is read again at the first look.
        let seen = if reading.config.as_ref() == Ok(&config) { files.clone() } else { Digests::new() };
        Ok(Self {
            path,
            hangup: signal(SignalKind::hangup())?,
            in_force: watch::Sender::new(Arc::new(config.clone())),
            wanted: config,
            good: files.clone(),
            seen,
            started_with: files,
            shared: watch::Sender::new(shared),
            set_level,
        })
    }

    /// Where the configuration is read from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What holds, at any moment.
    pub(super) fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.in_force.subscribe()
    }

    /// How long sessions may go on with what they are in the midst of, as it holds now.
    pub(super) fn drain_deadline(&self) -> Duration {
        self.in_force.borrow().continuity.drain_deadline
    }

    /// What sessions that start now are given.
    pub(super) fn shared(&self) -> watch::Receiver<Arc<Shared>> {
        self.shared.subscribe()
    }

    /// Keeps the configuration in force the newest one. May be dropped at any time.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                Some(()) = self.hangup.recv() => true,
                _ = looks.tick() => false,
            };
            let (path, seen) = (self.path.clone(), self.seen.clone());
            // A disk that hangs must not hold up a thread that serves sockets.
            let read = spawn_blocking(move || (asked || is_old(&seen)).then(|| Reading::take(&path)));
            match read.await {
                Ok(Some(reading)) => self.read(reading),
                Ok(None) => {}
                Err(error) => error!(%error, "the configuration could not be read again"),
            }
        }
    }

    /// What stands in the files now is to hold.
    fn read(&mut self, reading: Reading) {
        let outcome = match self.take_up(&reading) {
            Ok(outcome) => outcome,
            Err(error) => {
                error!(%error, "the new configuration is refused; everything stays as it was");
                metrics::Reload::Failed
            }
        };
        if outcome == metrics::Reload::Unchanged {
            info!(config = %self.path.display(), "the configuration was read again; nothing has changed");
        }
        self.seen = reading.digests;
        self.shared.borrow().metrics.reloaded(outcome);
    }

    fn take_up(&mut self, reading: &Reading) -> Result<metrics::Reload, String> {
        let wanted = reading.config.as_ref().map_err(ToString::to_string)?;
        let in_force = Arc::clone(&self.in_force.borrow());
        let taken = changes::taken_up(&in_force, wanted);
        let new_files = self.has_new(&reading.digests, reading::client_tls(&taken.tls));
        let shared = Arc::clone(&self.shared.borrow());
        let shared = share::anew(&shared, &in_force, &taken, new_files);
        let shared = shared.map_err(|error| format!("TLS towards clients: {error}"))?;

        let mut changed = changes::between(&in_force, &taken);
        changed.extend(new_files.then(|| "the files of tls".to_owned()));
        let news = !changed.is_empty() || *wanted != self.wanted;
        self.shared.send_replace(Arc::new(shared));
        if taken.log.level != in_force.log.level {
            (self.set_level)(taken.log.level);
        }
        let waiting = self.waiting(&taken, wanted, &reading.digests);
        if news {
            info!(config = %self.path.display(), changed = changed.join(", "), "configuration reloaded");
        }
        if !waiting.is_empty() {
            warn!(keys = waiting.join(", "), "these keys have changed and wait for a restart");
        }
        self.in_force.send_replace(Arc::new(taken));
        self.wanted = wanted.clone();
        self.good = reading.digests.clone();
        Ok(if news { metrics::Reload::Ok } else { metrics::Reload::Unchanged })
    }

    /// Whether one of these files is not what it was when the newest good configuration was read.
    fn has_new(&self, now: &Digests, files: Vec<&Path>) -> bool {
        files.into_iter().any(|file| self.good.get(file) != now.get(file))
    }

    /// What is wanted and cannot be had without a restart.
    fn waiting(&self, taken: &Config, wanted: &Config, now: &Digests) -> Vec<String> {
        let mut keys = changes::between(taken, wanted);
        for cluster in &taken.clusters {
            let file = reading::authority(cluster).filter(|file| self.started_with.get(*file) != now.get(*file));
            keys.extend(file.map(|_| format!("cluster.{}.tls.ca (the file)", cluster.name)));
        }
        keys
    }
}

/// Whether the files are others than those seen. Those never seen are.
fn is_old(seen: &Digests) -> bool {
    seen.is_empty() || reading::look(seen.keys().map(PathBuf::as_path)) != *seen
}
