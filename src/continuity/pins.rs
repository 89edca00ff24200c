//! Pins: what ties a session to one backend because it cannot be carried to another.

/// One reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    /// A session-level advisory lock is held.
    AdvisoryLock,
    /// A cursor WITH HOLD is open.
    HeldCursor,
    /// A library was loaded with LOAD.
    Load,
    /// Settings and prepared statements take more than `limits.session_state`.
    StateTooLarge,
    /// A temporary table, view or sequence exists.
    TempObject,
}

impl Pin {
    /// Every pin, in alphabetical order.
    pub const ALL: [Self; 5] =
        [Self::AdvisoryLock, Self::HeldCursor, Self::Load, Self::StateTooLarge, Self::TempObject];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdvisoryLock => "advisory_lock",
            Self::HeldCursor => "held_cursor",
            Self::Load => "load",
            Self::StateTooLarge => "state_too_large",
            Self::TempObject => "temp_object",
        }
    }

    /// What the client is told: what it is, and what unpins.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::AdvisoryLock => {
                "a session advisory lock is held (release it with pg_advisory_unlock, or take transaction-level ones)"
            }
            Self::HeldCursor => "a cursor WITH HOLD is open (CLOSE it)",
            Self::Load => "a library was loaded with LOAD (put it into session_preload_libraries)",
            Self::StateTooLarge => "its settings and prepared statements take more than limits.session_state",
            Self::TempObject => "a temporary table, view or sequence exists (DROP it, or DISCARD TEMP)",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u8);

impl Pins {
    /// Adds one.
    pub fn insert(&mut self, pin: Pin) {
        self.0 |= pin.bit();
    }

    /// Takes one away.
    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !pin.bit();
    }

    /// Is it there.
    pub const fn has(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    /// Is none there.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are there, in alphabetical order.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.has(*pin))
    }

    /// DISCARD ALL drops temporary objects, cursors and advisory locks; a loaded library stays.
    pub fn unpin_discarded(&mut self) {
        self.0 &= Pin::Load.bit();
    }

    /// These pins, corrected by what the server says. It cannot say whether LOAD ran or what pgmoor failed to remember.
    #[must_use]
    pub const fn corrected(self, told: Self) -> Self {
        Self(told.0 | self.0 & (Pin::Load.bit() | Pin::StateTooLarge.bit()))
    }

    /// The pins in words, for a client.
    pub fn describe(self) -> String {
        self.iter().map(Pin::describe).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_corrects_what_it_can_see() {
        let mut seen = Pins::default();
        seen.insert(Pin::TempObject);
        seen.insert(Pin::Load);
        let mut told = Pins::default();
        told.insert(Pin::AdvisoryLock);
        let pins = seen.corrected(told);
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::AdvisoryLock, Pin::Load]);
    }

    #[test]
    fn discard_all_keeps_a_loaded_library() {
        let mut pins = Pins::default();
        for pin in Pin::ALL {
            pins.insert(pin);
        }
        pins.unpin_discarded();
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::Load]);
    }
}
