//! The questions pgmoor puts before a COMMIT, early or late, on their way through the relay: which are out, and what their
//! answers told. One session's, of one backend: what was told of a transaction is gone with its end, and with its backend.

use bytes::BytesMut;

use crate::config::CommitGuard;
use crate::continuity::commit::Mark;
use crate::continuity::guard::{Answer, Guard as Question, Known, Progress, Reply};
use crate::continuity::queue::Queue;
use crate::ids::PodId;
use crate::wire::backend::ERROR_RESPONSE;
use crate::wire::message::ErrorFields;

pub(super) use crate::continuity::guard::End;

/// Bytes of a question that the backend knows, and some to spare.
const PACKET: usize = 128;

/// One session's questions.
#[derive(Debug)]
pub(super) struct Guard {
    mode: CommitGuard,
    /// Counting what was sent to a backend that is gone: nothing is asked.
    paused: bool,
    /// The question before the request at the front is on its way.
    pub(super) asked_for_this: bool,
    /// The backend's pod; what is asked of another has no meaning there.
    pod: Option<PodId>,
    known: Known,
    /// Since something was asked of this backend.
    asked: Option<Box<Asked>>,
}

/// What was asked of a backend, and what its answers told.
#[derive(Debug, Default)]
struct Asked {
    out: Queue<Reply>,
    /// Of the COMMIT that is sent next, or was sent last.
    told: Option<Answer>,
    /// Of the transaction that is open; whether it still holds, the pipeline knows.
    early: Option<Answer>,
    /// What a backend that is gone has told.
    mark: Option<Mark>,
    /// The error that came instead of an answer: it is what the client's COMMIT is told.
    failure: Option<BytesMut>,
}

/// What a reply to a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Ours; more are due.
    More,
    /// The last of ours.
    Last,
    /// The question failed, and the client's unit with it: the client is told the error.
    Failed,
    /// Not the reply that is due.
    Unexpected,
}

impl Guard {
    /// `mode`: whether a COMMIT of a transaction that wrote is asked about.
    pub(super) const fn new(mode: CommitGuard) -> Self {
        Self {
            mode,
            paused: false,
            asked_for_this: false,
            pod: None,
            known: Known { prepared: false, era: None },
            asked: None,
        }
    }

    /// Whether questions are put.
    pub(super) const fn is_on(&self) -> bool {
        !matches!(self.mode, CommitGuard::Off) && !self.paused
    }

    /// The request at the front waits for the answer to the question before it.
    pub(super) fn makes_wait(&self) -> bool {
        let waits = matches!(self.mode, CommitGuard::On | CommitGuard::Autocommit);
        self.asked_for_this && waits && self.is_asking() && !self.paused
    }

    /// Whether questions are put before the end of a unit outside of any transaction, too.
    pub(super) fn asks_autocommit(&self) -> bool {
        self.mode == CommitGuard::Autocommit && !self.paused && !self.asked_for_this
    }

    /// Counting what was sent to a backend that is gone.
    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stops putting questions, or goes on.
    pub(super) const fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Questions are out.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| !asked.out.is_empty())
    }

    /// Another backend is there.
    pub(super) fn arrived(&mut self, pod: PodId, known: Known) {
        (self.known, self.asked_for_this) = (known, false);
        self.pod = Some(pod);
    }

    /// The backend is given back: what is known of it.
    pub(super) fn left(&mut self) -> Known {
        self.asked = None;
        std::mem::take(&mut self.known)
    }

    /// The backend is gone. What its last answer told stays until it is taken.
    pub(super) fn backend_gone(&mut self) {
        let known = std::mem::take(&mut self.known);
        self.asked_for_this = false;
        let (Some(asked), Some(pod)) = (&mut self.asked, &self.pod) else { return };
        let last = asked.out.back().filter(|reply| reply.end() != End::Open).and_then(Reply::answer);
        if let Some(answer) = last.or(asked.told.as_ref()) {
            asked.mark = answer.mark(&pod.name, known.era.as_deref());
        }
        (asked.told, asked.early, asked.failure) = (None, None, None);
        asked.out.clear();
    }

    /// The bytes of a question. `forgotten`: the backend may have lost its prepared statements.
    pub(super) fn question(&mut self, end: End, forgotten: bool) -> Option<BytesMut> {
        self.pod.as_ref()?;
        let question = Question { prepare: !self.known.prepared || forgotten, first: self.known.era.is_none(), end };
        let mut packet = BytesMut::with_capacity(PACKET);
        question.append(&mut packet);
        let asked = self.asked.get_or_insert_default();
        asked.out.push_back(question.replies());
        if end == End::Open {
            asked.early = None;
        } else {
            (asked.told, asked.mark, self.asked_for_this) = (None, None, true);
        }
        self.known.prepared = true;
        Some(packet)
    }

    /// The early question is out.
    pub(super) fn is_asking_early(&self) -> bool {
        self.asked.as_ref().and_then(|asked| asked.out.back()).is_some_and(|reply| reply.end() == End::Open)
    }

    /// The early question told what tells a COMMIT's outcome. That a transaction has no id is true only as long as nothing
    /// more is run.
    pub(super) fn knows_early(&self) -> bool {
        self.asked.as_ref().and_then(|asked| asked.early.as_ref()).is_some_and(Answer::has_id)
    }

    /// The COMMIT that goes out now is one of which that is told.
    pub(super) fn vouch(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.told = asked.early.take();
        }
    }

    /// The prepared statements of the backend were dropped.
    pub(super) const fn forget(&mut self) {
        self.known.prepared = false;
    }

    /// A reply to the question that is due.
    pub(super) fn reply(&mut self, tag: u8, body: &[u8]) -> Told {
        let Some(asked) = &mut self.asked else { return Told::Unexpected };
        let Some(reply) = asked.out.front_mut() else { return Told::Unexpected };
        match reply.take(tag, body) {
            Progress::More => Told::More,
            Progress::Aside | Progress::Unexpected => Told::Unexpected,
            Progress::Done => {
                if let (None, Some(answer), Some(pod)) = (&self.known.era, reply.answer(), &self.pod) {
                    self.known.era = answer.mark(&pod.name, None).and_then(|mark| mark.era);
                }
                let (early, answer) = (reply.end() == End::Open, reply.take_answer());
                *(if early { &mut asked.early } else { &mut asked.told }) = answer;
                asked.out.pop_front();
                Told::Last
            }
            Progress::Failed => {
                self.known.prepared = false;
                // Where it was no unit of its own, the client's fails with it and is told the error.
                let alone = tag != ERROR_RESPONSE;
                // A transaction that had failed before is told ROLLBACK, as ever.
                let news = |body: &&[u8]| alone && ErrorFields::read(body).is_ok_and(|fields| fields.code != "25P02");
                asked.failure = reply.error().filter(news).map(error_response);
                asked.out.pop_front();
                if alone { Told::Last } else { Told::Failed }
            }
        }
    }

    /// The error of a question that failed, for the COMMIT behind it: that was told ROLLBACK.
    pub(super) fn take_failure(&mut self) -> Option<BytesMut> {
        self.asked.as_mut()?.failure.take()
    }

    /// The server skips what was behind an error: so many questions are still out.
    pub(super) fn keep(&mut self, count: usize) {
        let Some(asked) = &mut self.asked else { return };
        while asked.out.len() > count {
            asked.out.pop_front();
        }
    }

    /// No transaction is open: what was told of it is of no use.
    pub(super) fn transaction_ended(&mut self) {
        if let Some(asked) = &mut self.asked {
            (asked.told, asked.early, asked.mark, asked.failure) = (None, None, None, None);
        }
    }

    /// A unit ended, and its transaction did not: what was told of a COMMIT in it is of no use.
    pub(super) fn unit_ended(&mut self) {
        if let Some(asked) = &mut self.asked {
            (asked.told, asked.mark) = (None, None);
        }
    }

    /// What is known of the COMMIT in flight.
    pub(super) fn take_mark(&mut self) -> Option<Mark> {
        self.asked.as_mut()?.mark.take()
    }
}

fn error_response(body: &[u8]) -> BytesMut {
    let mut message = BytesMut::new();
    crate::session::answer::quote(&mut message, body);
    message
}
