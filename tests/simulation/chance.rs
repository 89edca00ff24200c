//! What falls by chance in a run: numbers from a seed, and the trace by which two runs are compared.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// Numbers from a seed (splitmix64). What draws from its own never disturbs what another draws.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one, for another purpose.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to, and not, `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Both ends included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// So many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What happened in a run, in order.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Told>>);

struct Told {
    began: Instant,
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
    faults: Vec<String>,
}

impl Trace {
    /// `wordy`: keep the lines, not only their hash.
    pub(crate) fn new(wordy: bool) -> Self {
        let lines = wordy.then(Vec::new);
        let told = Told { began: Instant::now(), hasher: DefaultHasher::new(), lines, faults: Vec::new() };
        Self(Arc::new(Mutex::new(told)))
    }

    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        let mut told = self.0.lock().unwrap();
        let line = format!("{:>9.3}s {what}", told.began.elapsed().as_secs_f64());
        told.hasher.write(line.as_bytes());
        if let Some(lines) = &mut told.lines {
            lines.push(line);
        }
    }

    /// What is worth a line only to somebody who reads: in no hash.
    pub(crate) fn detail(&self, what: fmt::Arguments<'_>) {
        let mut told = self.0.lock().unwrap();
        let at = told.began.elapsed().as_secs_f64();
        if let Some(lines) = &mut told.lines {
            lines.push(format!("{at:>9.3}s   {what}"));
        }
    }

    /// Something that must never be.
    pub(crate) fn fault(&self, what: fmt::Arguments<'_>) {
        self.say(format_args!("FAULT {what}"));
        self.0.lock().unwrap().faults.push(what.to_string());
    }

    /// What must never be, and was.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.0.lock().unwrap().faults.clone()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.lock().unwrap().hasher.finish()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().lines.clone().unwrap_or_default()
    }
}
