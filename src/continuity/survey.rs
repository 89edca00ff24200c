//! What the statements of a lost journal may do: whether they may run again, and whether they must not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::wire::message::{Bind, Execute, Parse, Query, ReadError};
use crate::wire::sql::{self, Outside};
use crate::wire::{HEADER_LEN, frontend};

use super::names::clip;

/// What the client frames of one journal may do, as far as their texts tell (see [`sql::Effects`] for how far that is).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Every statement is one that surely changes nothing but its session's state, which is gone with the backend: it may
    /// be run any number of times.
    pub reads_only: bool,
    /// A statement has an effect that a rollback does not take back: the transaction must not be run again.
    pub outside: Option<Outside>,
}

/// Reads a journal: the frames a client sent since its transaction (or autocommit unit) began. The last one may be cut
/// off; then something is not known, and the journal is not [`Survey::reads_only`].
///
/// `plain_texts` says that the session's `standard_conforming_strings` is on and its `client_encoding` keeps ASCII bytes
/// for ASCII characters (all but BIG5, GB18030, GBK, JOHAB, SJIS, SHIFT_JIS_2004 and UHC). Without it texts with a
/// backslash are not understood. `statement` gives the text of a prepared statement that was there before the journal
/// began, by its name, clipped to 63 bytes.
///
/// A name may stand for its former text as long as nobody knows whether the server took the new one; so a name's texts
/// are all judged when it is bound or executed. Each text is judged once, so the time is linear.
pub fn survey(journal: &[u8], statement: &dyn Fn(&[u8]) -> Option<Vec<u8>>, plain_texts: bool) -> Survey {
    let mut reader = Reader {
        statement,
        before: plain_texts,
        plain: plain_texts,
        names: BTreeMap::new(),
        portals: BTreeSet::new(),
        survey: Survey { reads_only: true, outside: None },
    };
    let mut rest = journal;
    while !rest.is_empty() {
        let Some((tag, body, behind)) = split(rest) else {
            reader.survey.reads_only = false;
            break;
        };
        if reader.frame(tag, body).is_err() {
            reader.survey.reads_only = false;
        }
        rest = behind;
    }
    reader.survey
}

/// The first frame's tag and body, and what follows it. `None` when it is not whole.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let (tag, length) = header.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let (body, behind) = rest.split_at_checked(usize::try_from(length.checked_sub(4)?).ok()?)?;
    Some((*tag, body, behind))
}

/// A text, and whether it was read as plain when it was sent.
type Sent<'a> = (Cow<'a, [u8]>, bool);

struct Reader<'a> {
    statement: &'a dyn Fn(&[u8]) -> Option<Vec<u8>>,
    /// Texts were read as [`sql`] reads them before the journal began.
    before: bool,
    /// They still are.
    plain: bool,
    /// What the journal's own statements stand for, as far as it has not been judged.
    names: BTreeMap<Vec<u8>, Name<'a>>,
    portals: BTreeSet<Vec<u8>>,
    survey: Survey,
}

#[derive(Default)]
struct Name<'a> {
    texts: Vec<Sent<'a>>,
    /// The text from before the journal was judged, or cannot be meant.
    settled: bool,
    /// The journal prepares it.
    own: bool,
}

impl<'a> Reader<'a> {
    fn frame(&mut self, tag: u8, body: &'a [u8]) -> Result<(), ReadError> {
        match tag {
            frontend::QUERY => {
                let text = Query::read(body)?.text;
                self.run(vec![(Cow::Borrowed(text), self.plain)]);
            }
            frontend::PARSE => {
                let parse = Parse::read(body)?;
                self.prepared(parse.name, Cow::Borrowed(parse.query));
            }
            frontend::BIND => {
                let bind = Bind::read(body)?;
                self.portals.insert(clip(bind.portal).to_vec());
                let texts = self.meant(bind.statement);
                self.run(texts);
            }
            frontend::EXECUTE => {
                // A portal from before: nobody knows what it runs.
                self.survey.reads_only &= self.portals.contains(clip(Execute::read(body)?.portal));
            }
            frontend::CLOSE
            | frontend::DESCRIBE
            | frontend::FLUSH
            | frontend::SYNC
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL
            | frontend::TERMINATE => {}
            // FunctionCall, and whatever does not belong here.
            _ => self.survey.reads_only = false,
        }
        Ok(())
    }

    fn prepared(&mut self, name: &[u8], text: Cow<'a, [u8]>) {
        let plain = self.plain;
        let entry = self.names.entry(clip(name).to_vec()).or_default();
        entry.own = true;
        if name.is_empty() {
            // The unnamed statement gives way even to a text that the server refuses.
            entry.settled = true;
            entry.texts.clear();
        }
        entry.texts.push((text, plain));
    }

    /// The texts a name may stand for, without those judged before.
    fn meant(&mut self, name: &[u8]) -> Vec<Sent<'a>> {
        let name = clip(name);
        let entry = self.names.entry(name.to_vec()).or_default();
        let mut texts = std::mem::take(&mut entry.texts);
        if !entry.settled {
            entry.settled = true;
            match (self.statement)(name) {
                Some(text) => texts.push((Cow::Owned(text), self.before)),
                None => self.survey.reads_only &= entry.own,
            }
        }
        texts
    }

    /// Judges texts, and those that they run by EXECUTE in their turn.
    fn run(&mut self, mut texts: Vec<Sent<'a>>) {
        while let Some((text, plain)) = texts.pop() {
            if std::str::from_utf8(&text).is_err() || !plain && text.contains(&b'\\') {
                self.survey.reads_only = false;
                self.saw(sql::suspects(&text));
                continue;
            }
            for statement in sql::statements(&text) {
                let effects = statement.effects();
                self.survey.reads_only &= effects.harmless;
                self.saw(effects.outside);
                self.plain &= !effects.rereads;
                if let Some(name) = effects.runs {
                    texts.extend(self.meant(name.as_bytes()));
                }
                if let Some((name, text)) = effects.prepares {
                    self.prepared(name.as_bytes(), Cow::Owned(text.to_vec()));
                }
                if let Some(portal) = effects.opens {
                    self.portals.insert(portal.into_bytes());
                }
            }
        }
    }

    fn saw(&mut self, outside: Option<Outside>) {
        if self.survey.outside.is_none() {
            self.survey.outside = outside;
        }
    }
}

#[cfg(test)]
mod tests;
