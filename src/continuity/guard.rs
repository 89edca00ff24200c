//! The commit guard's question: what is asked of the server before a COMMIT, and its answer.
//!
//! It is put early, together with a request of the transaction's that has to go anyway, or just before the COMMIT, in the
//! same packet (see [`End`]). One row comes back before the COMMIT is run, so that it is there although the COMMIT's own
//! answer is lost:
//!
//! | column | what | NULL |
//! |---|---|---|
//! | 1 | the transaction's id | it has none: it wrote nothing |
//! | 2 | the end of a WAL record written for this, which carries that id | the same |
//! | 3 | the timeline, in eight hexadecimal digits | the same |
//! | 4 | when the server's statistics were reset: at every start after a crash, and only then, unless by hand | not asked |
//! | 5 | `synchronous_commit`, as this COMMIT will have it, if nothing changes it | never |
//!
//! The record is an empty transactional logical message with the prefix `pgmoor`. It is written at any `wal_level`, takes
//! 64 bytes, needs no right, and is allowed in a read-only transaction; logical decoding shows it to output plugins that
//! ask for messages. Its place is given as its end. Inside a savepoint it makes PostgreSQL give the subtransaction an id.
//!
//! *Early.* The id stands from the transaction's first write on. Where the record that carries it was written serves the
//! proof as well as a place just before the COMMIT would: the commit's record comes behind either, and what is asked of a
//! record is whether it was replayed (see [`super::commit`]). The timeline and the era are those of the server that the
//! transaction runs on, and change only when that starts again. Column 5 may change: see `pipeline::early`. A row without an
//! id is true only as long as nothing more is run.
//!
//! What can make the question fail, and with it the client's transaction, so that the COMMIT, or the request that an early
//! question stood before, must be told as that error: a right to one of these functions revoked; the statement
//! `pgmoor_guard` deallocated without our knowing (a function that runs DEALLOCATE ALL); a cancel request or a
//! `statement_timeout` that strikes just then; a serialization failure that the transaction was due for; memory. On a
//! standby it does not fail: there is no id, and nothing else is looked at.
//!
//! *The statistics' age* is asked by the function below the view `pg_stat_bgwriter`, which needs no lock. PostgreSQL 13 to
//! 18 throw all statistics away when they start after a crash, and keep them over a start after a shutdown ("The Cumulative
//! Statistics System"). Of later versions that is not known: there the column is NULL, and a crash is taken to be possible.

use bytes::BytesMut;

use crate::ids::{PodName, Timeline};
use crate::wire::backend as tag;
use crate::wire::message::write::frontend as write;
use crate::wire::message::{DataRow, Target};

use super::commit::{Durability, Mark};

/// The name of the prepared statement and of the portal.
pub const NAME: &[u8] = b"pgmoor_guard";

/// Asks when the statistics were reset, in words that no setting of the session changes.
pub(super) const ERA: &str = "CASE WHEN \
pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.<) 190000 THEN \
pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_stat_get_bgwriter_stat_reset_time()), \
'YYYY-MM-DD HH24:MI:SS.US') END";

/// `bool`.
const BOOL: u32 = 16;

/// What is known of a backend for its next question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// It knows the question.
    pub prepared: bool,
    /// Its server's era.
    pub era: Option<String>,
}

/// How the question is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The statement is not there, or may not be: it is prepared (again).
    pub prepare: bool,
    /// Nothing is known of this server's era: it is asked for.
    pub first: bool,
    /// How it ends.
    pub end: End,
}

/// What the question ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Sync: a unit of its own, before a simple Query. Inside a transaction block it ends nothing.
    Sync,
    /// Flush: part of the client's own unit, before its Execute of a COMMIT or before the Sync that commits. Without it the
    /// server would keep the row back until the COMMIT is done.
    Flush,
    /// Nothing: early, right before a request of the client's inside its transaction. The answer comes with that request's.
    Open,
}

impl Guard {
    /// Appends the requests.
    pub fn append(self, buf: &mut BytesMut) {
        if self.prepare {
            write::close(buf, Target::Statement, NAME); // one that is not there is no error
            write::parse(buf, NAME, question(), &[BOOL]);
        }
        let era: &[u8] = if self.first { b"t" } else { b"f" };
        write::bind(buf, NAME, NAME, &[Some(era)]);
        write::execute(buf, NAME, 0);
        write::close(buf, Target::Portal, NAME);
        match self.end {
            End::Sync => write::sync(buf),
            End::Flush => write::flush(buf),
            End::Open => {}
        }
    }

    /// The reading of the replies.
    pub fn replies(self) -> Reply {
        let awaited = if self.prepare { Awaited::Unprepared } else { Awaited::Bound };
        Reply { awaited, end: self.end, answer: None, error: None }
    }
}

fn question() -> String {
    // The timeline does not depend on the place that the file's name is asked for.
    format!(
        "SELECT x, \
         CASE WHEN x IS NOT NULL THEN pg_catalog.pg_logical_emit_message(true, 'pgmoor', '') END, \
         CASE WHEN x IS NOT NULL THEN pg_catalog.substr(pg_catalog.pg_walfile_name('0/1'), 1, 8) END, \
         CASE WHEN $1 THEN {ERA} END, \
         pg_catalog.current_setting('synchronous_commit') \
         FROM (SELECT pg_catalog.pg_current_xact_id_if_assigned() AS x) AS guard"
    )
}

/// The replies to one [`Guard`], read one by one.
#[derive(Debug)]
pub struct Reply {
    awaited: Awaited,
    end: End,
    answer: Option<Answer>,
    error: Option<Vec<u8>>,
}

/// The row that answers a question. It is read only where a COMMIT's answer was lost: most never are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// The transaction has an id, and a record that carries it.
    pub fn has_id(&self) -> bool {
        let first = self.0.get(2..).and_then(|columns| columns.first_chunk());
        first.is_some_and(|length| i32::from_be_bytes(*length) >= 0) // else it is NULL
    }

    /// The mark the row gives; `None` if it is not such a row. `pod`: where it was asked. `known`: what is known already of
    /// that backend's era.
    pub fn mark(&self, pod: &PodName, known: Option<&str>) -> Option<Mark> {
        let columns: Vec<Option<&str>> = DataRow::read(&self.0)
            .ok()?
            .columns()
            .map(|column| column.ok()?.map(std::str::from_utf8).transpose().ok())
            .collect::<Option<_>>()?;
        let [xid, lsn, timeline, era, durability] = columns.as_slice() else { return None };
        let mark = Mark {
            pod: pod.clone(),
            xid: xid.map(str::parse).transpose().ok()?,
            lsn: lsn.map(str::parse).transpose().ok()?,
            timeline: timeline.map(read_timeline).unwrap_or(Some(Timeline(0)))?,
            era: era.or(known).map(str::to_owned),
            durability: Durability::read((*durability)?)?,
        };
        // An id comes with a place on a timeline, and no id with none.
        let whole = mark.xid.is_some() == mark.lsn.is_some() && mark.xid.is_some() == (mark.timeline.0 > 0);
        whole.then_some(mark)
    }
}

/// The reply that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// CloseComplete of the statement.
    Unprepared,
    /// ParseComplete.
    Prepared,
    /// BindComplete.
    Bound,
    /// DataRow.
    Row,
    /// CommandComplete.
    Run,
    /// CloseComplete of the portal.
    Closed,
    /// ReadyForQuery.
    Ready,
    /// Nothing more.
    Nothing,
}

/// What a reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One of ours; more are due.
    More,
    /// The last of ours: the answer is there.
    Done,
    /// The last of ours: the question failed, and the transaction with it. If it did not end with a Sync of its own, the
    /// server skips the rest of the client's unit, up to its Sync; a simple Query, too, and what is behind that.
    Failed,
    /// A notice, a notification or a parameter: it comes at any time and is the client's.
    Aside,
    /// None of those that are due: the server broke the protocol, or we lost count.
    Unexpected,
}

impl Reply {
    /// The row: there as soon as it came, whatever comes of the rest.
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|_| self.error.is_none())
    }

    /// The row, after the last reply.
    pub fn take_answer(&mut self) -> Option<Answer> {
        self.answer.take()
    }

    /// How the question ended.
    pub fn end(&self) -> End {
        self.end
    }

    /// The body of the ErrorResponse, if there was one.
    pub fn error(&self) -> Option<&[u8]> {
        self.error.as_deref()
    }

    /// Takes the next reply of the server.
    pub fn take(&mut self, tag: u8, body: &[u8]) -> Progress {
        if matches!(tag, tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS) {
            return Progress::Aside;
        }
        match (self.awaited, tag) {
            (Awaited::Nothing, _) => Progress::Unexpected,
            (Awaited::Ready, tag::READY_FOR_QUERY) => self.finish(),
            (_, tag::ERROR_RESPONSE) if self.error.is_none() => {
                self.error = Some(body.to_vec());
                self.awaited = Awaited::Ready;
                match self.end {
                    End::Sync => Progress::More,
                    End::Flush | End::Open => self.finish(),
                }
            }
            (Awaited::Unprepared, tag::CLOSE_COMPLETE) => self.await_next(Awaited::Prepared),
            (Awaited::Prepared, tag::PARSE_COMPLETE) => self.await_next(Awaited::Bound),
            (Awaited::Bound, tag::BIND_COMPLETE) => self.await_next(Awaited::Row),
            (Awaited::Row, tag::DATA_ROW) => {
                self.answer = Some(Answer(body.to_vec()));
                self.await_next(Awaited::Run)
            }
            (Awaited::Run, tag::COMMAND_COMPLETE) => self.await_next(Awaited::Closed),
            (Awaited::Closed, tag::CLOSE_COMPLETE) => match self.end {
                End::Sync => self.await_next(Awaited::Ready),
                End::Flush | End::Open => self.finish(),
            },
            _ => {
                self.awaited = Awaited::Nothing;
                Progress::Unexpected
            }
        }
    }

    fn await_next(&mut self, next: Awaited) -> Progress {
        self.awaited = next;
        Progress::More
    }

    fn finish(&mut self) -> Progress {
        self.awaited = Awaited::Nothing;
        if self.error.is_some() { Progress::Failed } else { Progress::Done }
    }
}

/// A timeline as the names of WAL files say it.
pub(super) fn read_timeline(text: &str) -> Option<Timeline> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten().map(Timeline)
}

#[cfg(test)]
mod tests;
