//! The journal of a run: one line for each operation and each fault, in a file, as they happen.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::history::Op;

/// An open journal; all its times count from its opening.
pub struct Journal {
    began: Instant,
    file: Mutex<BufWriter<File>>,
}

impl Journal {
    /// A new one in this folder.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        let file = Mutex::new(BufWriter::new(File::create(folder.join("journal"))?));
        Ok(Self { began: Instant::now(), file })
    }

    /// The time since its opening.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// An operation is over.
    pub fn op(&self, op: &Op) {
        self.line(&op.to_string());
    }

    /// Something else happened now.
    pub fn note(&self, what: &str) {
        self.line(&format!("[{:9.3}] {what}", self.now().as_secs_f64()));
        self.flush();
    }

    /// Everything is in the file.
    pub fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        drop(file.flush());
    }

    fn line(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A journal that cannot be written must not end the run it tells of.
        drop(writeln!(file, "{line}"));
    }
}
