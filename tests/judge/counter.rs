//! What one client's counter can be, while answers are lost: at least what was acknowledged or seen, and at most one more
//! for each attempt of which nobody knows. Such an attempt may take effect late: a COMMIT can wait on the server for longer
//! than the client waited for its answer.

use crate::history::{Did, Op, Told};
use crate::verdict::Violation;

/// The counter as its own client can know it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    least: i64,
    /// Attempts with an unknown outcome that were not seen to have taken effect.
    pending: i64,
}

impl Counter {
    /// It is at least this.
    pub fn least(&self) -> i64 {
        self.least
    }

    /// It is at most this.
    pub fn most(&self) -> i64 {
        self.least + self.pending
    }

    /// Follows the client's next operation.
    pub fn follow(&mut self, op: &Op) -> Option<Violation> {
        match (&op.did, &op.told) {
            (Did::Touch(saw), Told::Done) => {
                self.least += 1;
                self.sees(op, saw.unwrap_or(0))
            }
            (Did::Version(saw), Told::Done) => self.sees(op, saw.unwrap_or(0)),
            (Did::Touch(_), Told::Unknown | Told::Dropped(_) | Told::Stuck | Told::Wrong(_)) => {
                self.pending += 1;
                None
            }
            (Did::Touch(_), Told::Lost | Told::Refused | Told::Conflict) => None,
            (
                Did::Version(_)
                | Did::Nothing
                | Did::Transfer { .. }
                | Did::Rows(_)
                | Did::Key(_)
                | Did::Total(_)
                | Did::State(_),
                _,
            ) => None,
        }
    }

    fn sees(&mut self, op: &Op, saw: i64) -> Option<Violation> {
        if saw < self.least {
            return Some(Violation::WentBack(op.clone(), self.least));
        }
        if saw > self.most() {
            let most = self.most();
            *self = Self { least: saw, pending: 0 };
            return Some(Violation::Ahead(op.clone(), most));
        }
        *self = Self { least: saw, pending: self.most() - saw };
        None
    }
}
