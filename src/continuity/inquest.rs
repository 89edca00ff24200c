//! After a COMMIT's answer was lost: what the next server is asked, and how its answers become a verdict.
//!
//! ```text
//!   Asking ──► judged: lost, unknown ──────────────────────────────► Done
//!    ▲  │  └─► in progress, or no history yet ──► Again (later; then the orphan's end is asked for as well)
//!    └──┘
//!       └────► committed ──► Barrier ──► Done(committed)
//! ```
//! It runs on the session's own new connection, before anything of the client's, in simple Queries.
//!
//! *The orphan.* A server does not notice at once that its client is gone: the transaction goes on to be in progress, idle or
//! waiting for a standby. Nobody can hear it any more, so its end is asked for, by the id that it runs: the COMMIT is then
//! either done or will never be. A role may end its own backends; if it may not, we ask on.
//!
//! *The barrier.* A backend that dies while its COMMIT waits for a standby leaves a transaction that is committed and not
//! replicated. So before COMMIT is told, a transaction that writes one empty record commits, as durably as the lost one was
//! to: WAL is replicated in order, so what came before is replicated when that commit returns. PostgreSQL gives up waiting
//! with a mere WARNING when it is cancelled: then the barrier is not passed, and is tried again.

use bytes::BytesMut;

use crate::ids::{PodName, Timeline};
use crate::topology::history::History;
use crate::wire::message::write::frontend as write;
use crate::wire::message::{CommandComplete, DataRow, ErrorFields, ReadyForQuery, Severity};
use crate::wire::{TxStatus, backend};

use super::commit::{Durability, Mark, Status, Verdict, Why, Witness, judge};
use super::guard::{ERA, read_timeline};

/// One inquest on one backend.
#[derive(Debug)]
pub struct Inquest {
    mark: Mark,
    pod: PodName,
    resumed: bool,
    stage: Stage,
    /// ReadyForQuery that are still due.
    due: usize,
    heard: Heard,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The question; `end_orphan`: and the end of a backend that still runs the transaction.
    Asking { end_orphan: bool },
    /// It is committed; now it is made as durable as it was to be.
    Barrier,
}

/// What has been answered since the last packet.
#[derive(Debug, Default)]
struct Heard {
    timeline: Option<Timeline>,
    era: Option<String>,
    status: Option<Status>,
    /// The last Query failed.
    failed: bool,
    /// Something was not done as it should have been.
    warned: bool,
    /// The barrier's transaction was committed.
    passed: bool,
}

/// How far the inquest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More replies are due.
    More,
    /// [`Inquest::packet`] is to be sent again, at once.
    Next,
    /// [`Inquest::packet`] is to be sent again after a while, or when the history is known. When the patience is over, this
    /// is the verdict; `Pending` is then unknown as well.
    Again(Verdict),
    /// It is over: committed, lost or unknown.
    Done(Verdict),
}

impl Inquest {
    /// About the transaction of this mark, asked of a primary on this pod. `resumed`: see [`Witness::resumed`].
    pub fn new(mark: Mark, pod: PodName, resumed: bool) -> Self {
        Self { mark, pod, resumed, stage: Stage::Asking { end_orphan: false }, due: 0, heard: Heard::default() }
    }

    /// The mark it is about.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The bytes to send: at the beginning, and whenever a step says so.
    pub fn packet(&mut self) -> BytesMut {
        let mut packet = BytesMut::new();
        self.heard = Heard::default();
        self.due = 1;
        match self.stage {
            Stage::Asking { end_orphan } => {
                let xid = self.mark.xid.unwrap_or_default();
                if end_orphan {
                    write::query(&mut packet, end_of(xid));
                    self.due += 1;
                }
                write::query(&mut packet, question(xid));
            }
            Stage::Barrier => {
                // The timeout must be off before the COMMIT begins: so that is a Query of its own.
                write::query(&mut packet, barrier(self.mark.durability));
                write::query(&mut packet, "COMMIT");
                self.due += 1;
            }
        }
        packet
    }

    /// Takes one reply, whatever it is. `history`: of the timeline the server writes, as far as it is known.
    pub fn reply(&mut self, tag: u8, body: &[u8], history: Option<&History>) -> Step {
        match tag {
            backend::DATA_ROW => self.row(body),
            backend::ERROR_RESPONSE => self.heard.failed = true,
            backend::NOTICE_RESPONSE => {
                let severity = ErrorFields::read(body).map_or(Severity::Warning, |fields| fields.severity);
                self.heard.warned |= severity <= Severity::Warning;
            }
            backend::COMMAND_COMPLETE => {
                self.heard.passed = CommandComplete::read(body).is_ok_and(|complete| complete.tag == b"COMMIT");
            }
            backend::READY_FOR_QUERY => {
                self.due = self.due.saturating_sub(1);
                if self.due == 0 {
                    let idle = ReadyForQuery::read(body).is_ok_and(|ready| ready.status == TxStatus::Idle);
                    return self.step(idle, history);
                }
                if self.stage != Stage::Barrier {
                    self.heard = Heard::default(); // what came of the orphan shows in the answer
                }
            }
            _ => {}
        }
        Step::More
    }

    fn row(&mut self, body: &[u8]) {
        if self.due > 1 || self.stage == Stage::Barrier {
            return;
        }
        let Ok(row) = DataRow::read(body) else { return self.heard.failed = true };
        match row.len() {
            2 => {
                self.heard.timeline = row.text(0).and_then(read_timeline);
                self.heard.era = row.text(1).map(str::to_owned);
            }
            1 => {
                self.heard.status = Some(match row.columns().next() {
                    Some(Ok(None)) => Status::Forgotten,
                    Some(Ok(Some(b"committed"))) => Status::Committed,
                    Some(Ok(Some(b"aborted"))) => Status::Aborted,
                    Some(Ok(Some(b"in progress"))) => Status::InProgress,
                    Some(Ok(Some(_)) | Err(_)) | None => Status::Failed,
                });
            }
            _ => self.heard.failed = true,
        }
    }

    /// All replies to a packet are there.
    fn step(&mut self, idle: bool, history: Option<&History>) -> Step {
        let heard = std::mem::take(&mut self.heard);
        if self.stage == Stage::Barrier {
            let passed = heard.passed && !heard.failed && !heard.warned && idle;
            return if passed { Step::Done(Verdict::Committed) } else { Step::Again(Verdict::Pending) };
        }
        let Some(timeline) = heard.timeline.filter(|_| idle) else {
            return Step::Done(Verdict::Unknown(Why::NotTold)); // in recovery, for one
        };
        let status = heard.status.filter(|_| !heard.failed).unwrap_or(Status::Failed);
        let witness = Witness { pod: self.pod.clone(), status, timeline, era: heard.era, resumed: self.resumed };
        let verdict = judge(&self.mark, &witness, history);
        match verdict {
            Verdict::Committed if needs_barrier(self.mark.durability) => {
                self.stage = Stage::Barrier;
                Step::Next
            }
            Verdict::Pending => {
                // On a later timeline it is prepared: there is nobody to be ended.
                self.stage = Stage::Asking { end_orphan: timeline == self.mark.timeline };
                Step::Again(verdict)
            }
            Verdict::Unknown(Why::NoHistory) => Step::Again(verdict),
            Verdict::Committed | Verdict::Lost | Verdict::Unknown(_) => Step::Done(verdict),
        }
    }
}

/// Without a wait for a standby there is nothing to be made up for.
const fn needs_barrier(durability: Durability) -> bool {
    match durability {
        Durability::Off | Durability::Local => false,
        Durability::RemoteWrite | Durability::On | Durability::RemoteApply => true,
    }
}

/// Two statements, one after the other: the first fails while the server is in recovery, when what the second says would
/// be no last word.
fn question(xid: u64) -> String {
    format!(
        "SELECT pg_catalog.substr(pg_catalog.pg_walfile_name('0/1'), 1, 8), {ERA}; \
         SELECT pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8)"
    )
}

/// Ends the backend that runs the transaction. `pg_stat_activity` knows ids without their epoch; one that is running is of
/// this epoch.
fn end_of(xid: u64) -> String {
    let xid = xid & u64::from(u32::MAX);
    format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE backend_xid OPERATOR(pg_catalog.=) '{xid}'::pg_catalog.xid \
         AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
    )
}

/// Everything but the COMMIT.
fn barrier(durability: Durability) -> String {
    let durability = durability.as_str();
    format!(
        "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = {durability}; \
         SELECT pg_catalog.pg_logical_emit_message(true, 'pgmoor', '')"
    )
}

#[cfg(test)]
mod tests;
