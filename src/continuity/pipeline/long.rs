//! Requests longer than a buffer: what they may do is read from their beginning at first, and from all of them once it is there.
//!
//! A server runs nothing of a message before it has its last byte, so what was not sent whole has not been run
//! (protocol-overview, "Messaging Overview": the length says where a message ends).

use crate::continuity::script;
use crate::continuity::state::State;
use crate::wire::frontend;
use crate::wire::message::{Parse, Query};
use crate::wire::sql;

use super::{Meaning, Owed, Pipeline, Way, tells};

/// Longer texts are read only if a glance settles them: by its tokens a text of this length takes a millisecond or two
/// (`make bench-micro`: "reads a script of 64 kB"), and the thread's other sessions wait meanwhile.
const LONGEST: usize = 64 * 1024;

impl Pipeline {
    /// A simple Query too large for one buffer begins: `part` of its body is here.
    pub fn query_begins(&mut self, part: &[u8], end: u64) {
        self.query(self.read(part, true), end);
    }

    /// A Parse too large for one buffer begins; its body goes on with [`Self::parse_goes_on`].
    pub fn parse_begins(&mut self, name: &[u8], text: &[u8], part: &[u8], state: &State) {
        self.parse(name, self.read(text, true), part, Way::AsItIs, state);
    }

    /// More of the body of the last frame: kept if that is a Parse, while there is room for it.
    pub fn parse_goes_on(&mut self, part: &[u8], state: &State) {
        let Some(Owed::Parse { body, .. }) = self.owed.back_mut() else { return };
        if body.as_ref().is_some_and(|kept| kept.len() + part.len() > state.limit()) {
            *body = None;
        } else if let Some(kept) = body {
            kept.extend_from_slice(part);
        }
    }

    /// All of a large frame is sent: its text is read again. `body`: a Query's, if it is there.
    pub fn is_whole(&mut self, tag: u8, body: Option<&[u8]>) {
        let read = match (tag, self.owed.back()) {
            (frontend::QUERY, Some(Owed::Query { .. })) => {
                body.and_then(|body| Query::read(body).ok()).and_then(|query| self.read_long(query.text))
            }
            (frontend::PARSE, Some(Owed::Parse { body: Some(body), .. })) => {
                Parse::read(body).ok().and_then(|parse| self.read_long(parse.query))
            }
            _ => None,
        };
        let Some(read) = read else { return };
        match self.owed.back_mut() {
            Some(Owed::Query { meaning, .. }) => {
                self.reads_rows |= tells(&read);
                *meaning = read;
            }
            Some(Owed::Parse { meaning, .. }) => {
                self.tells |= tells(&read);
                *meaning = read;
            }
            _ => {}
        }
    }

    /// `None`: it is too long to be read.
    fn read_long(&self, text: &[u8]) -> Option<Meaning> {
        if text.len() <= LONGEST {
            return Some(self.read(text, false));
        }
        let plainly = !(self.unreadable && text.contains(&b'\\'));
        (plainly && sql::glance(text) && sql::calls_only_known(text)).then_some(None)
    }

    /// What the client ever sent was sent on as far as `until`: a request that ends later was not run.
    pub fn was_sent(&mut self, until: u64) {
        if let Some(last @ (Owed::Query { .. } | Owed::Call { .. })) = self.owed.back_mut()
            && let Owed::Query { end, .. } | Owed::Call { end } = *last
            && end > until
        {
            *last = Owed::Query { meaning: script::nothing(), done: 0, end };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last request means, once its beginning and the rest of it have been sent.
    fn meaning(tag: u8, body: &[u8], whole: bool) -> Meaning {
        let (mut pipeline, state) = (Pipeline::default(), State::new(1 << 20));
        let (part, rest) = body.split_at(10);
        if tag == frontend::QUERY {
            pipeline.query_begins(part, 100);
        } else {
            pipeline.parse_begins(b"", &part[1..], part, &state);
        }
        pipeline.parse_goes_on(rest, &state);
        pipeline.is_whole(tag, whole.then_some(body));
        match pipeline.owed.back() {
            Some(Owed::Query { meaning, .. } | Owed::Parse { meaning, .. }) => meaning.clone(),
            _ => panic!("nothing is owed"),
        }
    }

    fn query(text: &str) -> Meaning {
        meaning(frontend::QUERY, &[text.as_bytes(), b"\0"].concat(), true)
    }

    #[test]
    fn a_text_is_read_again_once_all_of_it_is_there() {
        assert_eq!(query("insert into t values (1), (now())"), None);
        let script = query("insert into t values (1); commit").unwrap();
        assert!(!script.is_cut() && script.may_commit() && script.acts().len() == 2);
        assert_eq!(meaning(frontend::PARSE, b"\0insert into t values (1)\0\0\0", false), None);
        assert!(!meaning(frontend::PARSE, b"\0set a.b to 'c', d\0\0\0", false).unwrap().is_cut());
    }

    #[test]
    fn what_is_not_there_may_do_anything() {
        assert!(meaning(frontend::QUERY, b"insert into t values (1)\0", false).unwrap().is_cut());
        assert!(meaning(frontend::QUERY, b"no text ends without its NUL", true).unwrap().is_cut());
    }

    #[test]
    fn the_longest_are_read_only_where_a_glance_is_enough() {
        let padding = " ".repeat(LONGEST);
        assert_eq!(query(&format!("insert into t values (1, now()),{padding}(2, now())")), None);
        assert!(query(&format!("insert into t values (1, mine()),{padding}(2, now())")).unwrap().is_cut());
        assert!(query(&format!("insert into t values (1);{padding}select 1")).unwrap().is_cut());
        let mut strange = Pipeline::default();
        strange.conforming_strings(false);
        assert_eq!(strange.read_long(format!("select '',{padding}1").as_bytes()), Some(None));
        assert_eq!(strange.read_long(format!("select '\\',{padding}1").as_bytes()), None);
    }

    #[test]
    fn what_was_not_sent_whole_does_nothing() {
        let mut pipeline = Pipeline::default();
        pipeline.query_begins(b"insert", 100);
        pipeline.was_sent(100);
        assert!(matches!(pipeline.owed.back(), Some(Owed::Query { meaning: Some(script), .. }) if script.is_cut()));
        pipeline.was_sent(99);
        assert!(
            matches!(pipeline.owed.back(), Some(Owed::Query { meaning: Some(script), .. }) if !script.may_commit())
        );
        let mut pipeline = Pipeline::default();
        pipeline.call(100);
        pipeline.was_sent(99);
        assert!(matches!(pipeline.owed.back(), Some(Owed::Query { meaning: Some(_), done: 0, end: 100 })));
    }
}
