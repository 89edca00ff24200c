//! What falls by chance in a session's life: at random, or from a seed, so that a simulation can be run again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Dice. Clones share their seed. Never for secrets.
#[derive(Clone, Debug, Default)]
pub struct Dice {
    /// `None`: nobody knows what falls next.
    seed: Option<Arc<AtomicU64>>,
}

/// What splitmix64 adds at each step.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Dice {
    /// Dice that fall alike whenever they begin with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed: Some(Arc::new(AtomicU64::new(seed))) }
    }

    /// The next number.
    pub fn roll(&self) -> u64 {
        self.seed.as_ref().map_or_else(rand::random, |seed| mixed(seed.fetch_add(STEP, Ordering::Relaxed)))
    }
}

impl Dice {
    /// This time, give or take a tenth.
    pub fn about(&self, time: Duration) -> Duration {
        let tenth = time / 10;
        time - tenth + tenth.mul_f64((self.roll() % 1000) as f64 / 500.0)
    }
}

/// One step of splitmix64.
const fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_an_hour_is_within_a_tenth() {
        let (dice, hour) = (Dice::seeded(7), Duration::from_secs(3600));
        let ages: Vec<Duration> = (0..100).map(|_| dice.about(hour)).collect();
        assert!(ages.iter().all(|age| *age >= hour * 9 / 10 && *age <= hour * 11 / 10), "{ages:?}");
        assert!(ages.iter().max() > ages.iter().min());
    }

    #[test]
    fn a_seed_falls_alike_and_chance_does_not() {
        let thrown = |dice: Dice| [dice.roll(), dice.clone().roll(), dice.roll()];
        assert_eq!(thrown(Dice::seeded(7)), thrown(Dice::seeded(7)));
        assert_ne!(thrown(Dice::seeded(7)), thrown(Dice::seeded(8)));
        assert_ne!(thrown(Dice::default()), thrown(Dice::default()));
        // The first number of splitmix64 with seed 0, as its author's program prints it.
        assert_eq!(Dice::seeded(0).roll(), 0xE220_A839_7B1D_CDAF);
    }
}
