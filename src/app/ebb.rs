//! Notices that many sessions have left, and has what they took given back to the system.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::memory;
use crate::session::registry::Registry;
use crate::shutdown::ShutdownWatch;

/// How often sessions are counted.
const ROUND: Duration = Duration::from_millis(500);

/// Between two times that memory is given back: who comes and goes in waves pays for its pages once in a while, not each time.
const PAUSE: Duration = Duration::from_secs(10);

/// Sessions that are worth it: about a megabyte.
const WORTH: usize = 256;

/// Sessions that leave in one round of those that are leaving still: the others are waited for.
const STREAM: usize = 32;

/// Runs until the process drains: then its memory is given back anyway.
pub(super) async fn watch(registry: Arc<Registry>, shutdown: ShutdownWatch) {
    let mut tide = Tide::default();
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = shutdown.draining() => return,
        }
        let (sessions, most) = registry.tide();
        let out = tide.is_out(sessions, most);
        if !out || last.is_some_and(|last| last.elapsed() < PAUSE) {
            continue;
        }
        let began = Instant::now();
        let given = spawn_blocking(memory::give_back).await.unwrap_or(false);
        debug!(given, took = ?began.elapsed(), gone = tide.gone(), "memory of sessions that have left");
        tide.turns();
        last = Some(Instant::now());
    }
}

/// How many sessions there were and are.
#[derive(Debug, Default)]
struct Tide {
    /// At most, since memory was given back.
    most: usize,
    now: usize,
    /// Memory was given back while some were leaving: those who stayed a little longer held on to pages of the others'.
    early: bool,
    /// Some left in the last round.
    leaving: bool,
}

impl Tide {
    /// So many are there, and `most` of them were at once since the last round. Whether enough have left, a quarter at least, and
    /// no more are just leaving; or those few have left now that were leaving still when memory was given back.
    const fn is_out(&mut self, sessions: usize, most: usize) -> bool {
        let leaving = most.saturating_sub(sessions);
        self.leaving = leaving > 0;
        self.now = sessions;
        if most > self.most {
            self.most = most;
        }
        let many = self.gone() >= WORTH && self.gone() >= self.most / 4 && leaving < STREAM;
        many || self.early && self.gone() > 0 && !self.leaving
    }

    const fn gone(&self) -> usize {
        self.most - self.now
    }

    /// What they took was given back.
    const fn turns(&mut self) {
        self.most = self.now;
        self.early = self.leaving;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round in which nobody comes.
    fn falls(tide: &mut Tide, sessions: usize) -> bool {
        let before = tide.now;
        tide.is_out(sessions, before.max(sessions))
    }

    #[test]
    fn is_out_once_many_have_left_and_nobody_is_just_leaving() {
        let mut tide = Tide::default();
        let rounds = [
            (0, false),
            (5_000, false),
            (4_900, false), // few
            (3_600, false), // more may leave
            (0, false),
            (0, true),
            (10, true),
        ];
        for (at, (sessions, out)) in rounds.into_iter().enumerate() {
            assert_eq!(falls(&mut tide, sessions), out, "round {at}");
        }
        tide.turns();
        assert!(!falls(&mut tide, 10));
        assert!(!falls(&mut tide, WORTH + 9));
        assert!(!falls(&mut tide, 10) && !falls(&mut tide, 10), "one fewer than it is worth");
        assert!(!falls(&mut tide, WORTH + 10));
        assert!(!falls(&mut tide, 10) && falls(&mut tide, 10));
    }

    #[test]
    fn the_last_ones_of_a_wave_are_noticed_when_memory_was_given_back_before_they_left() {
        let mut tide = Tide::default();
        assert!(
            !falls(&mut tide, 2_000) && !falls(&mut tide, 200) && falls(&mut tide, 180),
            "a machine that is busy: 20 in a round"
        );
        tide.turns();
        assert!(!falls(&mut tide, 180), "nobody left since");
        assert!(!falls(&mut tide, 0), "more may leave");
        assert!(falls(&mut tide, 0));
        tide.turns();
        assert!(!falls(&mut tide, 100) && !falls(&mut tide, 0) && !falls(&mut tide, 0), "of no wave");
    }

    #[test]
    fn a_wave_between_two_rounds_is_noticed_in_the_next() {
        let mut tide = Tide::default();
        assert!(!tide.is_out(0, 2_000), "more may leave");
        assert!(tide.is_out(0, 0));
        tide.turns();
        assert!(!tide.is_out(3, 40) && !tide.is_out(0, 3) && !tide.is_out(0, 0), "few that come and go");
    }

    #[test]
    fn a_few_of_very_many_are_not_worth_it() {
        let mut tide = Tide::default();
        assert!(!falls(&mut tide, 10_000) && !falls(&mut tide, 7_600) && !falls(&mut tide, 7_600));
        assert!(!falls(&mut tide, 7_500) && falls(&mut tide, 7_500));
    }

    #[test]
    fn those_who_leave_one_by_one_are_noticed_too() {
        let mut tide = Tide::default();
        let left = (0..=1_000).rev().step_by(5).find(|sessions| falls(&mut tide, *sessions));
        assert_eq!(left, Some(740));
    }
}
