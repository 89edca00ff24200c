//! A transaction that the client has begun and PostgreSQL has not heard of: BEGIN is answered at once, and sent with the first real statement.
//!
//! ```text
//!   BEGIN ──► foretold: answered, kept in the journal ──► the next request ──► BEGIN goes out ──► its answer is checked
//!                 │                                                               │               against what was told
//!                 └─ the session may leave its backend here, or have none ◄───────┘ lost                │
//!                                                                     the next request goes out ◄───────┘
//! ```
//! To the journal it is a transaction that was lost right after its BEGIN. The statement waits for BEGIN's answer: a BEGIN that a
//! cancel request or a timeout struck would leave it outside of any transaction.

use bytes::BytesMut;

use crate::error::{Code, Complaint};
use crate::wire::frontend;
use crate::wire::message::Query;
use crate::wire::message::write::backend as write;
use crate::wire::sql;
use crate::wire::{HEADER_LEN, TxStatus};

use super::Relay;

impl Relay {
    /// Answers the frame at the front, if it is a BEGIN whose answer is known, and keeps it.
    pub(super) fn foretells(&mut self) -> bool {
        let here = !self.begun && self.pipeline.is_idle() && !self.is_open() && self.journal.is_blank();
        if !here {
            return false;
        }
        if !self.front_meaning().is_some_and(|script| script.only_begins()) {
            return false;
        }
        let Some((frontend::QUERY, Some(body))) = self.up.peek() else { return false };
        let opening = Query::read(body).ok().and_then(|query| sql::only_begins(query.text));
        let Some(opening) = opening.filter(|opening| self.writes || !opening.primary_only) else { return false };
        let count = HEADER_LEN + body.len();
        self.journal.sent(self.up.front(count));
        self.drop_front();
        let mut message = BytesMut::new();
        write::command_complete(&mut message, opening.tag);
        write::ready_for_query(&mut message, TxStatus::InTransaction);
        // Without an expectation nothing can differ from it.
        let _ = self.journal.hear(&message);
        self.down.inject(&message);
        self.begun = true;
        true
    }

    /// The first real statement is there: BEGIN goes out before it.
    pub(super) fn send_begin(&mut self) {
        self.begun = false;
        self.journal.rewind();
        let begin = self.journal.unfed(0).to_vec();
        let Some(Ok(query)) = begin.get(HEADER_LEN..).map(Query::read) else { return };
        let meaning = self.pipeline.read(query.text, false);
        self.pipeline.query(meaning, self.journal.position() + begin.len() as u64);
        self.journal.sent(&begin);
        self.up.inject(&begin);
    }

    /// BEGIN is on its way; what comes behind it waits for its answer.
    pub(super) fn is_beginning(&self) -> bool {
        !self.begun && self.journal.is_verifying() && self.lost.is_none()
    }

    /// The backend was lost before the transaction had begun there: another will hear of it.
    pub(super) fn begin_later(&mut self) {
        self.up.cut_sink();
        if self.is_beginning() {
            let names = self.pipeline.kept();
            self.pipeline.begin_again(names);
            self.journal.rewind();
        }
        self.begun = true;
    }

    /// The transaction status as the client knows it.
    pub(in crate::session) fn status(&self) -> TxStatus {
        if self.begun { TxStatus::InTransaction } else { self.pipeline.status() }
    }

    /// Without a backend, in a transaction that has failed: some requests need none. `false`: this one does.
    pub(super) fn answer_failed(&mut self) -> bool {
        if self.pipeline.status() != TxStatus::Failed {
            return false;
        }
        let Some((frontend::QUERY, Some(body))) = self.up.peek() else { return false };
        let meaning = self.pipeline.meaning_of(frontend::QUERY, Some(body));
        let ends =
            meaning.as_ref().is_some_and(|script| script.only_rolls_back() || (script.only_commits() && !self.untold));
        if ends {
            let mut message = BytesMut::new();
            write::command_complete(&mut message, "ROLLBACK");
            write::ready_for_query(&mut message, TxStatus::Idle);
            self.drop_front();
            self.pipeline.settle(TxStatus::Idle);
            self.untold = false;
            self.journal.clear();
            self.down.inject(&message);
            return true;
        }
        if meaning.is_none() && !self.untold {
            self.refuse(&Complaint::new(Code::InFailedTransaction), TxStatus::Failed);
            return true;
        }
        false
    }
}
