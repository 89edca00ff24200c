//! What went wrong in the test cluster, as one text a person can act on; and waiting for a condition.
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// A result of the test cluster.
pub type Result<T> = std::result::Result<T, Trouble>;

/// A failure, told in words. Its `Debug` is its text, so that `unwrap()` in a test prints something readable.
pub struct Trouble(String);

impl Trouble {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `Trouble` itself is no `Error`, so that every error converts into it with `?`, its sources included.
impl<E: Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self(text)
    }
}

/// Says what was tried when something failed.
pub trait Trying<T> {
    /// Puts `what` before the failure's own text.
    fn trying(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Trouble>> Trying<T> for std::result::Result<T, E> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Trouble(format!("{}: {}", what(), error.into())))
    }
}

/// Asks `look` again every 50 ms until it answers `Some`; after `limit` fails, naming `what` was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        // A look that hangs must not outlive the limit either.
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() < deadline => {}
            Ok(None) | Err(_) => {
                return Err(Trouble(format!("waited {limit:?} in vain for {what}")));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
