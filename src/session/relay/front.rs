//! The request at the front: what its text means, read once, however often the request is looked at before it goes.

use crate::continuity::script::Meaning;
use crate::wire::frontend;

use super::Relay;

/// A text that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// Where its request stands in all that came through this pipe.
    at: u64,
    /// Where statements end could be told.
    plainly: bool,
    meaning: Meaning,
}

impl Relay {
    /// What the text of the request at the front would do: of a Query or a Parse that is there whole.
    pub(super) fn front_meaning(&mut self) -> Meaning {
        let (at, plainly) = (self.up.position(), self.pipeline.reads_plainly());
        if let Some(read) = self.read.as_ref().filter(|read| read.at == at && read.plainly == plainly) {
            return read.meaning.clone();
        }
        let Some((tag @ (frontend::QUERY | frontend::PARSE), body @ Some(_))) = self.up.peek() else { return None };
        let again = tag == frontend::PARSE && plainly && body.is_some_and(|body| self.state.is_dull_again(body));
        let meaning = if again { None } else { self.pipeline.meaning_of(tag, body) };
        self.read = Some(Read { at, plainly, meaning: meaning.clone() });
        meaning
    }
}
