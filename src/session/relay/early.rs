//! The commit guard's questions go out: before the COMMIT, or early, with a request before it that has to go anyway.
//!
//! An early question is put before the next request of a transaction that has written, if nothing is in flight. It has no
//! end of its own: PostgreSQL sends what it answers together with what that request is answered, so that it takes no packet
//! either way, and no wake-up. A COMMIT that comes when the answer is here, and still true, goes at once.
//! ```text
//!   client        pgmoor                                   PostgreSQL
//!   UPDATE   ───► UPDATE ────────────────────────────────►
//!            ◄─── UPDATE 1 ◄──────────────────────────────
//!   SELECT   ───► Bind, Execute, Close pgmoor_guard; SELECT ─►
//!            ◄─── rows     ◄─ the transaction's id and place; rows
//!   COMMIT   ───► COMMIT ────────────────────────────────►
//! ```
//! *If it fails*, the client's transaction has failed, and its request is told that error, which PostgreSQL skips: up to the
//! Sync of its unit, or, if it is a simple Query, up to a Sync that pgmoor then sends. What the client pipelines behind such
//! a Query waits for the answer, or it would be skipped with it. So nothing is asked before what ends a transaction or goes
//! back to a savepoint: that has to work in a failed one, too.

use bytes::BytesMut;

use crate::wire::frontend;
use crate::wire::message::write::frontend as write;

use super::guard::End;
use super::{FROM_BACKEND_ROWS, Relay};

impl Relay {
    /// Puts the early question before the request at the front, if that is one it may stand before.
    pub(super) fn ask_early(&mut self) {
        if !self.guard.is_on() || self.is_replaying() || self.journal.is_verifying() {
            return;
        }
        let meaning = match self.up.peek() {
            Some((frontend::QUERY | frontend::PARSE, Some(_))) => self.front_meaning(),
            Some((frontend::BIND, body @ Some(_))) => self.pipeline.meaning_of(frontend::BIND, body),
            _ => return,
        };
        if meaning.is_none_or(|script| script.follows_question()) {
            self.ask(End::Open, false);
            self.pipeline.asked_early();
        }
    }

    /// Asks for what tells a COMMIT's outcome. `sync`: before the Sync that commits.
    pub(super) fn ask(&mut self, end: End, sync: bool) {
        let forgotten = self.state.in_doubt() || self.pipeline.drops_statements();
        if let Some(question) = self.guard.question(end, forgotten) {
            self.up.inject(&question);
            self.pipeline.ours();
            if sync {
                self.pipeline.holds_sync_back();
            }
            self.down.set_interest(&FROM_BACKEND_ROWS);
        }
        self.guard.asked_for_this |= end != End::Open;
    }

    /// The request that was sent last is a simple Query with the early question before it.
    pub(super) fn is_asking_for_query(&self) -> bool {
        self.guard.is_asking_early() && self.pipeline.ends_with_query()
    }

    /// The early question failed, and a simple Query with it: the server waits for a Sync, and answers that in its place.
    pub(super) fn end_skipped(&mut self) {
        let mut sync = BytesMut::new();
        write::sync(&mut sync);
        self.up.inject(&sync);
    }
}
