//! A lost backend's transaction, run again on the next: its requests fed from the journal, its answers checked against it.
//!
//! ```text
//!   wreck ──► Lost (nothing told yet) ──► attach ──► parked: the journal is fed in the client's place
//!     │                                                │ fed, and all the client has had came again
//!     │ cannot be run again                            ├──────────────► the client's own requests go on
//!     └─► told (40001, 08007)  ◄── fall_back ──────────┘ mismatch, deadline
//! ```
//! Until then nothing of it is visible to the client, and nothing that may commit is sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};

use crate::backend::Parameters;
use crate::continuity::commit::Mark;
use crate::continuity::journal::Spoiled;
use crate::continuity::loss::{Aftermath, Answer, Chance, Word, Wreck};
use crate::continuity::pipeline::Kept;
use crate::continuity::state::State;
use crate::continuity::survey::{Survey, survey};
use crate::error::Code;
use crate::net::pipe::Pipe;
use crate::wire::message::ParameterStatus;
use crate::wire::message::write::backend as write;
use crate::wire::{HEADER_LEN, TxStatus, backend, frontend};

use super::mooring::conforming;
use super::{Event, FROM_CLIENT, Farewell, Reading, Relay, speak};

/// Times that a server may vanish without a word and without an answer in between: it may be the statement that kills it.
const MOST_LOSSES: u32 = 3;

/// Encodings of clients in which a byte of ASCII may be part of another character (multibyte, "Supported Character Sets").
const HIDES_ASCII: [&str; 7] = ["BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"];

/// Bytes of notifications that wait for the end of a replay.
const ASIDE: usize = 64 * 1024;

/// What a lost backend left open, while it may still be made good.
#[derive(Debug)]
pub(super) struct Lost {
    /// What is told if it cannot be.
    wreck: Wreck,
    /// What the session has then, and what its statements mean.
    left: (State, Kept),
    /// What it had where the transaction began.
    start: (State, Kept),
    /// What it has if the COMMIT in flight took effect.
    committed: Option<State>,
    /// What tells the COMMIT's outcome.
    pub(super) mark: Option<Mark>,
    /// Running it again does no harm even if it was committed.
    harmless: bool,
    /// That it was not committed is known.
    certain: bool,
    /// Why it cannot be run again, although it may still be learned that it was committed.
    refused: Option<&'static str>,
    /// What the client has to be told of its server's settings at the end.
    news: Parameters,
    /// Notifications that came meanwhile.
    asides: BytesMut,
    flushed: bool,
    /// It has been run again: only what came aside is to be told.
    done: bool,
}

/// What became of the requests in flight when the backend was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum Fate {
    /// Nothing was in flight, or nothing of it was lost.
    Unharmed,
    /// They were answered with errors: they could not be run again, for this reason.
    Told(&'static str),
    /// They are open: another backend is needed, at once.
    Open,
    /// A message is half delivered: the client cannot be told anything.
    Cut(&'static str),
}

impl Relay {
    /// The backend is gone: its requests in flight are kept to be run again, or answered, once. `unforeseen`: it said no word.
    pub(in crate::session) fn wreck(&mut self, unforeseen: bool) -> Fate {
        self.backend_gone();
        self.losses += u32::from(unforeseen);
        self.lost.take_if(|lost| lost.done);
        if self.begun || self.is_beginning() {
            self.begin_later();
            return if self.half { Fate::Cut("half_delivered") } else { Fate::Unharmed };
        }
        if self.lost.is_some() && (self.parked.is_none() || self.journal.is_verifying()) {
            if self.losses > MOST_LOSSES {
                return self.fall_back();
            }
            self.unfeed();
            self.begin_again();
            return Fate::Open;
        }
        self.feed_rest();
        self.up.cut_sink();
        let mark = self.guard.take_mark();
        let committed = mark.is_some().then(|| self.state.committed());
        // The client does not know yet that its unit has ended: what it did to the session comes with doing it again.
        let again = std::mem::take(&mut self.withheld) && self.only_read();
        self.pipeline.was_sent(self.journal.position());
        let mut wreck = self.pipeline.lose(&mut self.state);
        if self.unrun && wreck.chance != Chance::Needless {
            wreck.chance = Chance::Open;
        }
        if wreck.chance == Chance::Needless && !self.half && !again {
            self.losses = 0;
            let told = self.tell(wreck);
            return told.map_or(Fate::Unharmed, Fate::Told);
        }
        match self.hope(&wreck, mark) {
            Ok(hope) => {
                let left = (self.state.clone(), self.pipeline.kept());
                let start = (hope.start, self.pipeline.kept().at_start());
                let asks = hope.mark.is_some();
                self.lost = Some(Box::new(Lost {
                    wreck,
                    left,
                    start,
                    committed: committed.filter(|_| asks),
                    mark: hope.mark,
                    harmless: hope.harmless,
                    certain: false,
                    refused: hope.refused,
                    news: Parameters::default(),
                    asides: BytesMut::new(),
                    flushed: false,
                    done: false,
                }));
                self.begin_again();
                Fate::Open
            }
            Err(why) if self.half => Fate::Cut(why),
            Err(why) => {
                self.tell(wreck);
                Fate::Told(why)
            }
        }
    }

    fn backend_gone(&mut self) {
        (self.backend, self.setting_up) = (None, None);
        // Of what is checked and skipped the client gets nothing.
        self.half |= !self.down.cut_source() && !self.journal.is_verifying();
        self.down.renew_source();
        self.guard.backend_gone();
    }

    /// Nothing in the journal changes anything but the session.
    fn only_read(&self) -> bool {
        let Some(start) = self.state.at_start() else { return false };
        self.journal.requests().is_ok_and(|requests| self.survey(requests, &start).reads_only)
    }

    fn survey(&self, requests: &[u8], start: &State) -> Survey {
        let encoding = self.told.get("client_encoding").map_or("", String::as_str);
        let plain = self.pipeline.reads_plainly() && !HIDES_ASCII.contains(&encoding);
        survey(requests, &|name| start.text_of(name), plain)
    }

    /// What can still be made good.
    fn hope(&self, wreck: &Wreck, mark: Option<Mark>) -> Result<Hope, &'static str> {
        let start = self.state.at_start().ok_or("statements")?;
        let requests = self.journal.requests();
        let refused = match requests {
            _ if self.losses > MOST_LOSSES => Some("losses"),
            Ok(requests) => {
                let found = self.survey(requests, &start);
                match found.outside {
                    // Not one of them was run.
                    _ if self.unrun => return Ok(Hope { start, mark: None, harmless: true, refused: None }),
                    Some(outside) => Some(outside.as_str()),
                    None if found.reads_only => {
                        return Ok(Hope { start, mark: None, harmless: true, refused: None });
                    }
                    None => None,
                }
            }
            Err(spoiled) => Some(spoiled.as_str()),
        };
        match (wreck.chance, mark, refused) {
            (Chance::Open | Chance::Needless, _, None) => Ok(Hope { start, mark: None, harmless: false, refused }),
            (Chance::Open | Chance::Needless, _, Some(why)) => Err(why),
            // It wrote nothing, whether it was committed or not; a notification is all it may have sent.
            (Chance::Commit | Chance::Sync, Some(mark), None)
                if mark.is_empty() && !notifies(requests.unwrap_or_default()) =>
            {
                Ok(Hope { start, mark: None, harmless: true, refused })
            }
            (Chance::Commit | Chance::Sync, Some(mark), _) if mark.is_empty() => Err("commit"),
            (Chance::Commit | Chance::Sync, Some(mark), refused) => {
                Ok(Hope { start, mark: Some(mark), harmless: false, refused })
            }
            (Chance::Commit | Chance::Sync, None, _) => Err("commit"),
            (Chance::Doubtful, _, _) => Err("doubtful"),
        }
    }

    /// The COMMIT in doubt, and the session's state if it took effect.
    pub(in crate::session) fn case(&self) -> Option<(&Mark, &State)> {
        let lost = self.lost.as_ref()?;
        lost.mark.as_ref().zip(lost.committed.as_ref())
    }

    /// Requests are open that a lost backend left.
    pub(in crate::session) fn is_open(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| !lost.done)
    }

    /// Requests are fed from the journal.
    pub(super) fn is_replaying(&self) -> bool {
        self.parked.is_some()
    }

    /// What may commit has to wait.
    pub(super) fn is_gated(&self) -> bool {
        self.journal.is_verifying() && self.lost.as_ref().is_some_and(|lost| !lost.harmless)
    }

    /// The last Sync has to wait: it commits the autocommit unit before it.
    pub(super) fn is_sync_gated(&self) -> bool {
        self.is_gated() && self.lost.as_ref().is_some_and(|lost| lost.wreck.chance == Chance::Sync)
    }

    /// What belongs to no answer has to wait: the client is not where the backend is.
    pub(super) fn is_holding_asides(&self) -> bool {
        self.lost.is_some()
    }

    /// Back to where the transaction began.
    fn begin_again(&mut self) {
        let Some(lost) = &mut self.lost else { return };
        lost.flushed = false;
        lost.news = Parameters::default();
        self.state = lost.start.0.clone();
        self.pipeline.begin_again(lost.start.1.clone());
        self.journal.rewind();
    }

    /// A backend is there, in the state where the lost transaction began: it is run again.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(in crate::session) fn replay(&mut self, parameters: &Parameters) -> Result<(), &'static str> {
        let Some(lost) = &mut self.lost else { return Ok(()) };
        lost.certain |= lost.mark.take().is_some();
        if let Some(why) = lost.refused {
            return Err(why);
        }
        lost.news = Arc::clone(parameters);
        let feed = Pipe::new(&FROM_CLIENT, self.up.max_frame());
        self.parked = Some(Box::new(self.feed_from(feed)));
        Ok(())
    }

    /// Requests come from this pipe now; gives back the one they came from.
    fn feed_from(&mut self, pipe: Pipe) -> Pipe {
        self.read = None;
        std::mem::replace(&mut self.up, pipe)
    }

    /// Journal to buffer. The client's connection is watched meanwhile.
    pub(super) fn poll_feed(&mut self, cx: &mut Context<'_>) -> Result<bool, Event> {
        let read = self.up.unseen();
        let fed = self.up.fill(self.journal.unfed(read));
        while let (Some(parked), Farewell::Not) = (&mut self.parked, self.farewell) {
            match parked.poll_fill(cx, &mut self.client) {
                Poll::Ready(Ok(0) | Err(_)) => self.farewell = Farewell::Unsaid,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        Ok(fed > 0)
    }

    /// All requests were fed and all that the client has had came again: it goes on by itself.
    pub(super) fn replay_ends(&mut self) -> Result<bool, Event> {
        if self.parked.is_none() || self.waits || !self.journal.unfed(self.up.unseen()).is_empty() {
            return Ok(false);
        }
        if self.journal.is_verifying() {
            // Of a unit without its end the server may keep answers back that the first one had let go.
            if self.pipeline.has_open_unit() && self.lost.as_ref().is_some_and(|lost| !lost.flushed) {
                self.flush_once();
                return Ok(false);
            }
            if self.pipeline.depth() > 0 {
                return Ok(false);
            }
            return Err(Event::Mismatch); // it has nothing more to say
        }
        if self.up.unseen() > 0 || !self.up.is_drained() {
            return Ok(false);
        }
        if let Some(parked) = self.parked.take() {
            self.feed_from(*parked);
        }
        self.half = false; // where the client is in a message, the backend is
        if let Some(lost) = &mut self.lost {
            lost.done = true;
        }
        Ok(true)
    }

    /// What came aside while a replay was under way; once the client is between two messages.
    pub(super) fn tell_asides(&mut self) -> bool {
        if !self.down.at_boundary() {
            return false;
        }
        let Some(lost) = self.lost.take_if(|lost| lost.done) else { return false };
        let mut message = self.news(&lost.news);
        message.extend_from_slice(&lost.asides);
        self.down.inject(&message);
        true
    }

    /// What the client does not know of its server's reported settings.
    pub(super) fn news(&mut self, parameters: &Parameters) -> BytesMut {
        let mut message = BytesMut::new();
        if Arc::ptr_eq(&self.told, parameters) {
            return message;
        }
        for (name, value) in parameters.iter().filter(|(name, value)| self.told.get(*name) != Some(value)) {
            write::parameter_status(&mut message, name, value);
        }
        self.pipeline.conforming_strings(conforming(parameters));
        if self.told.keys().all(|name| parameters.contains_key(name)) {
            self.told = Arc::clone(parameters);
        } else {
            let known = parameters.iter().map(|(name, value)| (name.clone(), value.clone()));
            Arc::make_mut(&mut self.told).extend(known);
        }
        message
    }

    /// Tells it. Where there is nothing to tell, the client's and the backend's become one and the same.
    pub(super) fn tell_news(&mut self, parameters: &mut Parameters) {
        if share(&mut self.told, parameters) {
            return;
        }
        let news = self.news(parameters);
        if !news.is_empty() {
            self.down.inject(&news);
        }
    }

    /// Makes the server deliver what it holds back (protocol-message-formats, "Flush").
    pub(super) fn flush_once(&mut self) {
        let Some(lost) = &mut self.lost else { return };
        if self.up.at_boundary() && !std::mem::replace(&mut lost.flushed, true) {
            let mut message = BytesMut::new();
            message.put_u8(frontend::FLUSH);
            message.put_u32(4);
            self.up.inject(&message);
        }
    }

    /// A message that belongs to no answer, while a replay is under way: notices were told before.
    pub(super) fn put_aside(&mut self, tag: u8, count: usize) {
        let frame = self.down.front(count);
        if let Some(lost) = &mut self.lost {
            if tag == backend::PARAMETER_STATUS
                && let Some(Ok(status)) = frame.get(HEADER_LEN..).map(ParameterStatus::read)
            {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                Arc::make_mut(&mut lost.news).insert(text(status.name), text(status.value));
            }
            if tag == backend::NOTIFICATION_RESPONSE && lost.asides.len() + count <= ASIDE {
                lost.asides.extend_from_slice(frame);
            }
        }
        self.down.skip(count);
    }

    /// Everything in the journal counts as sent: what is in flight is then all that the client waits for.
    fn feed_rest(&mut self) {
        let Some(parked) = self.parked.take() else { return };
        self.lost = None;
        self.guard.pause(true);
        loop {
            self.up.cut_sink();
            let fed = self.up.fill(self.journal.unfed(self.up.unseen()));
            let before = self.up.unseen();
            // What is wrong with a request was said when it was sent first.
            let walked = self.observe_client(false);
            if walked.is_err() || (fed == 0 && self.up.unseen() == before) {
                break;
            }
        }
        self.guard.pause(false);
        self.feed_from(*parked);
    }

    /// The client's own pipe is back; what was fed is forgotten.
    fn unfeed(&mut self) {
        if let Some(parked) = self.parked.take() {
            self.feed_from(*parked);
        }
        self.up.cut_sink();
    }

    /// It cannot be run again: the client is told, and goes on.
    pub(in crate::session) fn fall_back(&mut self) -> Fate {
        self.backend_gone();
        let Some(lost) = self.lost.take() else { return self.begin_failed() };
        self.unfeed();
        let Lost { mut wreck, left: (state, kept), certain, .. } = *lost;
        self.state = state;
        let status = if wreck.after == Aftermath::Clean { TxStatus::Idle } else { TxStatus::Failed };
        self.pipeline.begin_again(kept);
        self.pipeline.settle(status);
        if certain {
            for answer in wreck.answers.iter_mut().chain(&mut wreck.open) {
                if answer.word == Word::Error(Code::CommitUnknown) {
                    answer.word = Word::Error(Code::TransactionLost);
                }
            }
        }
        if self.half {
            return Fate::Cut("half_delivered");
        }
        self.tell(wreck);
        Fate::Told("fell_back")
    }

    /// A BEGIN was answered with something else than was foretold.
    fn begin_failed(&mut self) -> Fate {
        self.up.cut_sink();
        let names = self.pipeline.kept();
        self.pipeline.begin_again(names);
        self.pipeline.settle(TxStatus::Failed);
        self.untold = true;
        self.turn_page(Aftermath::Untold);
        Fate::Told("begin")
    }

    /// The COMMIT whose answer was lost took effect: this is its answer.
    pub(in crate::session) fn tell_committed(&mut self, parameters: &Parameters) {
        let Some(lost) = self.lost.take() else { return };
        let Lost { wreck, left: (state, kept), committed, .. } = *lost;
        self.state = committed.unwrap_or(state);
        self.pipeline.begin_again(kept);
        self.turn_page(Aftermath::Clean);
        let mut message = self.news(parameters);
        if wreck.chance == Chance::Commit {
            write::command_complete(&mut message, "COMMIT");
        }
        if wreck.open.is_some() {
            self.reading = Reading::Leftovers(TxStatus::Idle);
        } else {
            write::ready_for_query(&mut message, TxStatus::Idle);
        }
        self.down.inject(&message);
    }

    /// Every request in flight is answered, once. Says what was told, if that is an error.
    fn tell(&mut self, wreck: Wreck) -> Option<&'static str> {
        let mut message = BytesMut::new();
        let answered = |answer: &Answer| match answer.word {
            Word::Error(code) => Some(code.label()),
            Word::Nothing | Word::RolledBack => None,
        };
        let told = wreck.answers.iter().chain(&wreck.open).find_map(answered);
        for answer in wreck.answers {
            speak(&mut message, answer, &self.shared.metrics);
            write::ready_for_query(&mut message, answer.status);
        }
        if let Some(answer) = wreck.open {
            speak(&mut message, answer, &self.shared.metrics);
            self.reading = Reading::Leftovers(answer.status);
        }
        self.orphaned = !self.up.at_boundary();
        self.untold = wreck.after == Aftermath::Untold || (self.untold && wreck.after == Aftermath::Failed);
        self.down.inject(&message);
        self.turn_page(wreck.after);
        told
    }

    /// What was said up to here is never run again. After a failed transaction that goes for what is said before its end.
    pub(super) fn turn_page(&mut self, after: Aftermath) {
        self.journal.clear();
        if after != Aftermath::Clean {
            self.journal.spoil(Spoiled::Strange);
        }
        self.state.checkpoint();
        self.pipeline.turn_page();
    }
}

/// Whether the word NOTIFY stands in these requests.
fn notifies(requests: &[u8]) -> bool {
    requests.windows(6).any(|word| word.eq_ignore_ascii_case(b"notify"))
}

/// What may be made good, and how.
struct Hope {
    start: State,
    mark: Option<Mark>,
    harmless: bool,
    refused: Option<&'static str>,
}

/// Whether both are equal: then both are the one that lies lower in memory, so that all who ever meet come to share one, which
/// needs no comparing.
fn share(one: &mut Parameters, other: &mut Parameters) -> bool {
    if Arc::ptr_eq(one, other) {
        return true;
    }
    let equal = one == other;
    if equal && Arc::as_ptr(one) < Arc::as_ptr(other) {
        *other = Arc::clone(one);
    } else if equal {
        *one = Arc::clone(other);
    }
    equal
}
