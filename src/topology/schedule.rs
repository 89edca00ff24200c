//! When a pod is asked: one question in flight at a time, at a calm or a hunting cadence, at once when something is doubted.

use std::time::{Duration, Instant};

/// The questions put to one incarnation.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    /// When the question in flight was sent.
    in_flight: Option<Instant>,
    /// When the last question was sent, answered or not.
    asked: Option<Instant>,
    /// Somebody wants to know by then, whatever the cadence.
    wanted: Option<Instant>,
    /// Answers to questions asked before this are history.
    heard: Option<Instant>,
}

impl Asking {
    /// Asks as soon as may be. Many wishes are one question, and a storm of them (ten thousand sessions
    /// losing one pod) asks no faster than once per `gap`.
    pub(super) fn want(&mut self, now: Instant, gap: Duration) {
        let earliest = self.asked.map_or(now, |asked| now.max(asked + gap));
        self.wanted = Some(self.wanted.map_or(earliest, |wanted| wanted.min(earliest)));
    }

    /// When the next question is due at this cadence; `None` while one is in flight.
    pub(super) fn due(&self, cadence: Duration) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let regular = self.asked.map(|asked| asked + cadence);
        [self.wanted, regular].into_iter().flatten().min()
    }

    /// When the last question was sent.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// A question goes out.
    pub(super) fn send(&mut self, now: Instant) {
        self.in_flight = Some(now);
        self.asked = Some(now);
        self.wanted = None;
    }

    /// An answer to the question asked at `asked_at`. False when it is history and changes nothing.
    pub(super) fn answered(&mut self, asked_at: Instant) -> bool {
        if self.heard.is_some_and(|heard| asked_at < heard) {
            return false;
        }
        self.heard = Some(asked_at);
        self.in_flight = None;
        true
    }

    /// The question failed. False when none is in flight: it was given up (and counted) before.
    pub(super) fn failed(&mut self) -> bool {
        let Some(sent) = self.in_flight.take() else {
            return false;
        };
        self.heard = self.heard.max(Some(sent));
        true
    }

    /// When the question in flight is given up.
    pub(super) fn give_up_at(&self, patience: Duration) -> Option<Instant> {
        self.in_flight.map(|sent| sent + patience)
    }

    /// Gives the question up: whatever it still brings is history.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.in_flight = None;
        self.heard = self.heard.max(Some(now));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do as the first")]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_millis(50);
    const CALM: Duration = Duration::from_secs(1);

    #[test]
    fn wishes_are_one_question_and_never_faster_than_the_gap() {
        let start = Instant::now();
        let mut asking = Asking::default();
        assert_eq!(asking.due(CALM), None, "nobody wants anything");
        asking.want(start, GAP);
        assert_eq!(asking.due(CALM), Some(start));
        asking.send(start);
        asking.want(start, GAP);
        asking.want(start + GAP / 2, GAP);
        assert_eq!(asking.due(CALM), None, "one in flight");
        assert!(asking.answered(start));
        assert_eq!(asking.due(CALM), Some(start + GAP));
        asking.send(start + GAP);
        assert!(asking.failed());
        assert_eq!(asking.due(CALM), Some(start + GAP + CALM), "the wishes were one");
    }

    #[test]
    fn what_was_given_up_is_history() {
        let start = Instant::now();
        let mut asking = Asking::default();
        asking.send(start);
        assert_eq!(asking.give_up_at(2 * CALM), Some(start + 2 * CALM));
        asking.give_up(start + 2 * CALM);
        assert!(!asking.failed(), "no question in flight");
        asking.send(start + 3 * CALM);
        assert!(!asking.answered(start), "the answer to the question given up");
        assert_eq!(asking.due(CALM), None, "it does not answer the second question");
        assert!(asking.answered(start + 3 * CALM));
    }
}
