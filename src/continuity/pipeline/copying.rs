//! What a COPY does to the requests in flight: until its end the server takes its data, and ignores Sync.

use super::{Note, Owed, Pipeline};

impl Pipeline {
    /// CopyInResponse: until CopyDone or CopyFail the server takes CopyData, and ignores Sync.
    pub fn copy_in(&mut self) -> Note {
        if !matches!(self.front(), Some(Owed::Query { .. } | Owed::Execute { .. })) {
            return Note::Unexpected;
        }
        let end = self.owed.iter().position(|owed| matches!(owed, Owed::CopyEnd { .. }));
        let until = end.unwrap_or(self.owed.len());
        let (before, mut at) = (self.owed.len(), 0);
        self.owed.retain(|owed| {
            at += 1;
            at > until || !matches!(owed, Owed::Sync { .. })
        });
        let ignored = before - self.owed.len();
        self.stray_syncs += ignored;
        if let Some(end) = end {
            let last = match self.owed.get_mut(end - ignored) {
                Some(Owed::CopyEnd { count }) => {
                    *count -= 1;
                    *count == 0
                }
                _ => false,
            };
            if last {
                self.owed.remove(end - ignored);
            }
        }
        self.copying = end.is_none();
        if matches!(self.owed.front(), Some(Owed::Execute { .. })) {
            self.open = !self
                .owed
                .iter()
                .any(|owed| matches!(owed, Owed::Sync { .. } | Owed::Query { .. } | Owed::Call { .. }));
        }
        Note::Plain
    }
}
