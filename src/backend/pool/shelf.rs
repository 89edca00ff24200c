//! Who gets which backend of one pool: the idle ones, the line of those who wait, and how many are open.
//!
//! ```text
//!   find ──► Idle(b)      one that fits, the one used last first
//!        ├─► Room         none fits, and one more may be opened
//!        ├─► Replace(b)   none fits, none more may be opened: an idle one of another kind makes way
//!        └─► Nothing      stand in line: whoever gives one back hands it to the first
//! ```
//! No lock and no clock of its own: the pool has both.

use std::collections::BTreeMap;

/// Idle backends looked at for one that needs no change, before the first that fits is taken.
const GLANCE: usize = 16;

/// How well an idle backend serves a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it is.
    Exactly,
    /// With its settings changed.
    Changed,
    /// Not at all: it was logged in with other parameters.
    Not,
}

/// What there is for one who wants a backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<B> {
    /// This one.
    Idle(B),
    /// Leave to open one; it counts as open from now on.
    Room,
    /// Leave to open one in this one's place.
    Replace(B),
    /// Nothing now.
    Nothing,
}

/// One pool's backends.
#[derive(Debug)]
pub(super) struct Shelf<B, W> {
    /// The one given back last is last; each with the keeper's round in which it came.
    idle: Vec<(B, u64)>,
    /// By ticket: the lowest came first.
    line: BTreeMap<u64, W>,
    next_ticket: u64,
    open: usize,
}

impl<B, W> Shelf<B, W> {
    pub(super) const fn new() -> Self {
        Self { idle: Vec::new(), line: BTreeMap::new(), next_ticket: 0, open: 0 }
    }

    /// Backends that are open: idle, lent, or being opened.
    pub(super) const fn open(&self) -> usize {
        self.open
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// An idle backend that fits, or leave to open one of at most `size`. `room`: takes the place for one more, if there is one
    /// for this pod. Neither is asked for where an idle one fits.
    pub(super) fn find(
        &mut self,
        fit: impl Fn(&B) -> Fit,
        size: impl FnOnce() -> usize,
        room: impl FnOnce() -> bool,
    ) -> Found<B> {
        let mut usable = None;
        for (at, (backend, _)) in self.idle.iter().enumerate().rev() {
            match fit(backend) {
                Fit::Exactly => {
                    usable = Some(at);
                    break;
                }
                Fit::Changed => _ = usable.get_or_insert(at),
                Fit::Not => {}
            }
            if usable.is_some() && self.idle.len() - at >= GLANCE {
                break;
            }
        }
        if let Some(at) = usable {
            return Found::Idle(self.idle.remove(at).0);
        }
        if self.open < size() && room() {
            self.open += 1;
            return Found::Room;
        }
        if self.idle.is_empty() { Found::Nothing } else { Found::Replace(self.idle.remove(0).0) }
    }

    /// Stands in line.
    pub(super) fn wait(&mut self, who: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.line.insert(ticket, who);
        ticket
    }

    /// Waits no longer.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.line.remove(&ticket);
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<W> {
        self.line.pop_first().map(|(_, who)| who)
    }

    /// An open backend is idle from the keeper's `round` on.
    pub(super) fn keep(&mut self, backend: B, round: u64) {
        self.idle.push((backend, round));
    }

    /// One more is open, by another pool's leave.
    pub(super) fn opened(&mut self) {
        self.open += 1;
    }

    /// An open backend is closed.
    pub(super) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Takes the idle backend that was used longest ago, to be closed.
    pub(super) fn evict(&mut self) -> Option<B> {
        if self.idle.is_empty() { None } else { Some(self.idle.remove(0).0) }
    }

    /// Takes idle backends to be closed: those for whom `aged` says so, and of those idle since before `round` all but `min`
    /// open ones.
    pub(super) fn expire(&mut self, round: u64, min: usize, aged: impl Fn(&B) -> bool) -> Vec<B> {
        let mut gone = Vec::new();
        let mut at = 0;
        while at < self.idle.len() {
            let (backend, since) = &self.idle[at];
            if aged(backend) || (*since < round && self.open - gone.len() > min) {
                gone.push(self.idle.remove(at).0);
            } else {
                at += 1;
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Shelf<(char, u32), &'static str>;

    fn like(kind: char) -> impl Fn(&(char, u32)) -> Fit {
        move |(other, _)| if *other == kind { Fit::Changed } else { Fit::Not }
    }

    fn filled(kinds: &str) -> Small {
        let mut shelf = Small::new();
        for (number, kind) in (0..).zip(kinds.chars()) {
            assert_eq!(shelf.find(|_| Fit::Not, || 99, || true), Found::Room);
            shelf.keep((kind, number), 1);
        }
        shelf
    }

    #[test]
    fn the_one_used_last_is_used_first_unless_another_needs_no_change() {
        let mut shelf = filled("aab");
        assert_eq!(shelf.find(like('a'), || 3, || true), Found::Idle(('a', 1)));
        let mut shelf = filled("aab");
        let exact = |kept: &(char, u32)| if kept.1 == 0 { Fit::Exactly } else { like('a')(kept) };
        assert_eq!(shelf.find(exact, || 3, || true), Found::Idle(('a', 0)));
        let mut many = filled(&"a".repeat(3 * GLANCE));
        assert_eq!(
            many.find(exact, || 3, || true),
            Found::Idle(('a', 3 * GLANCE as u32 - 1)),
            "not looked for for ever"
        );
    }

    #[test]
    fn room_is_for_so_many_and_only_if_the_pod_has_it() {
        let mut shelf = Small::new();
        assert_eq!(shelf.find(like('a'), || 1, || false), Found::Nothing);
        assert_eq!(shelf.find(like('a'), || 1, || true), Found::Room);
        assert_eq!(shelf.find(like('a'), || 1, || panic!("not asked for")), Found::Nothing);
        shelf.closed();
        assert_eq!(shelf.find(like('a'), || 1, || true), Found::Room);
    }

    #[test]
    fn another_kind_makes_way_the_oldest_first() {
        let mut shelf = filled("abb");
        assert_eq!(shelf.find(like('c'), || 3, || true), Found::Replace(('a', 0)));
        assert_eq!(shelf.open(), 3);
    }

    #[test]
    fn the_line_keeps_its_order() {
        let mut shelf = Small::new();
        shelf.wait("first");
        let second = shelf.wait("second");
        shelf.wait("third");
        shelf.leave(second);
        assert_eq!((shelf.next(), shelf.next(), shelf.next()), (Some("first"), Some("third"), None));
    }

    #[test]
    fn idle_ones_leave_down_to_the_least_and_old_ones_in_any_case() {
        let mut shelf = filled("abcd");
        shelf.keep(('e', 9), 5);
        shelf.open += 1;
        assert_eq!(shelf.expire(5, 3, |_| false), [('a', 0), ('b', 1)]);
        (0..2).for_each(|_| shelf.closed());
        assert_eq!(shelf.expire(5, 3, |(kind, _)| *kind == 'd'), [('d', 3)]);
        assert_eq!(shelf.idle(), 2);
    }
}
