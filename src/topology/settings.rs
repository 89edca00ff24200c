//! What may be tuned in the topology machine.

use std::time::Duration;

/// What may be tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often every pod is probed in quiet times.
    pub probe_interval: Duration,
    /// How often candidates are probed while no primary is proven, and a primary whose last probe failed.
    pub hunt_interval: Duration,
    /// How long a hunt stays fast after the last news; then it calms down to `probe_interval`
    /// (a standby cluster never has a primary and must not be hunted for ever).
    pub hunt_limit: Duration,
    /// A probe's own deadline, kept by the shell. A probe without an outcome after twice as long is forgotten and
    /// counts as timed out.
    pub probe_deadline: Duration,
    /// How many probes in a row must time out before a proven primary is proven no more. At least 1.
    pub failures_to_doubt: u32,
    /// A replica that lags more than this (or cannot say) serves no reads. `None`: any lag will do.
    pub lag_limit: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            hunt_interval: Duration::from_millis(50),
            hunt_limit: Duration::from_secs(60),
            probe_deadline: Duration::from_secs(1),
            failures_to_doubt: 3,
            lag_limit: None,
        }
    }
}

impl Settings {
    /// Zeros would make the machine spin, or doubt a primary that never failed.
    pub(super) fn sane(mut self) -> Self {
        let least = Duration::from_millis(1);
        self.hunt_interval = self.hunt_interval.max(least);
        self.probe_interval = self.probe_interval.max(self.hunt_interval);
        self.probe_deadline = self.probe_deadline.max(least);
        self.failures_to_doubt = self.failures_to_doubt.max(1);
        self
    }
}
