//! What became of a COMMIT whose answer was lost: the mark made before it, and what the next server knows of it.
//!
//! A mark is made on the transaction's own server, once it has written (see [`super::guard`]): the transaction's id `x`,
//! the end `L` of a WAL record that carries `x`, the timeline `t` that record was written on. The next server is asked which
//! timeline it writes, and what it has `x` for (see [`super::inquest`]). Ids are given out again when the WAL that carried
//! them is lost; so first of all it is proven that `x` still names that transaction.
//!
//! | the next server writes | proof | verdict |
//! |---|---|---|
//! | t, the same server, no crash in between | nobody else can have got `x` | as it says |
//! | t, but perhaps after a crash, or another server that calls a timeline of its own so | none | unknown |
//! | a later timeline that left t at S, `L <= S` | its WAL goes beyond the record: `x` was passed there | as it says |
//! | the same, but t was or may have been taken up again in between | the WAL up to S may be another than the record's | lost, if not committed |
//! | the same, `L > S` | the record is not, nor is the commit's, which comes later | lost |
//! | a later timeline that does not come from t at all | nothing that was written on t is part of it | lost |
//! | a later timeline whose history is not known | none | unknown |
//! | an earlier timeline | none | unknown |
//!
//! *The boundary.* `L` is the end of its record (where the next one begins, as far as bytes of padding go), and S is the
//! end of the last record that was replayed before the switch, counted in the same way. With `L = S` the mark is that last
//! record: it was replayed, and the commit, which comes behind it, was not; either rule gives the same verdict.
//!
//! *Early or late.* The record may stand anywhere between the transaction's first write and its commit's record: what is
//! proven by it is that `x` was passed, or that what comes behind it is not there. An early one is replayed more often.
//!
//! *Subtransactions.* Inside a savepoint the record carries the subtransaction's id, which is given out after `x`: that it
//! was passed says that `x` was. So it does if that subtransaction was rolled back later, for its records are replayed all
//! the same. Of `x` alone it is asked whether it committed: that is the whole transaction.
//!
//! *Unlogged and temporary tables.* `x` may stand in no WAL record but the mark's and the commit's; that is why the mark
//! writes one. *Prepared transactions* go on to be in progress, on every timeline: the verdict stays pending.
//!
//! *No `x`.* The transaction has written nothing that could be durable here, whether it was committed or not. It may have
//! sent notifications, which come by an id only at the commit, or written to other servers by itself.
//!
//! *Taken up again.* A server that crashes and starts again goes on with the same timeline where its WAL on disk ends. If the
//! record was not on disk, others take its place and its id; a standby that follows and is promoted later has left t
//! beyond L all the same. "Aborted" is then still true: a commit that is lost stays lost. "Committed" may be another's.
//! Only the server whose timeline it was can take it up. Promoted itself, its era tells that it crashed: Patroni recovers
//! a crashed primary alone, which ends t with a checkpoint of its own, and then promotes it. If another is promoted, the
//! crashed one must have been up in between to be followed, and is then seen (see [`Witness::resumed`]).
//!
//! What no proof covers: that happening, too, within one wait of a session, and so fast that no probe sees it; and two
//! servers that are promoted to the same number, one after the other, neither having seen the other's history, and a third
//! promotion.

use std::cmp::Ordering;

use crate::ids::{Lsn, PodName, Timeline};
use crate::topology::history::History;

/// What was known of a transaction before its COMMIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose data folder it was: the stable name.
    pub pod: PodName,
    /// The transaction's id with its epoch; `None`: it has none, for it wrote nothing.
    pub xid: Option<u64>,
    /// The end of a WAL record that carries the id, or a subtransaction's.
    pub lsn: Option<Lsn>,
    /// The timeline that record was written on; 0 without one.
    pub timeline: Timeline,
    /// What a crash changes; `None`: not known, then a crash is possible.
    pub era: Option<String>,
    /// How durable the transaction was to be: its `synchronous_commit`.
    pub durability: Durability,
}

impl Mark {
    /// The transaction wrote nothing: there is nothing to be asked for.
    pub const fn is_empty(&self) -> bool {
        self.xid.is_none()
    }
}

/// What the next server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Whose data folder it is.
    pub pod: PodName,
    /// What became of the id there. Asked after the timeline: so it was out of recovery by then.
    pub status: Status,
    /// The timeline it writes.
    pub timeline: Timeline,
    /// What a crash changes.
    pub era: Option<String>,
    /// Since the answer was lost, the server that wrote the mark's timeline was seen up again, writing or ready to be
    /// followed: it may have crashed before.
    pub resumed: bool,
}

/// What `pg_xact_status` said of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// `committed`
    Committed,
    /// `aborted`: rolled back, or ended by the end of its server.
    Aborted,
    /// `in progress`: running, or prepared.
    InProgress,
    /// NULL: too old to be known.
    Forgotten,
    /// An error: an id that was never given out here, for one.
    Failed,
}

/// How durable a commit is before it is acknowledged: the values of `synchronous_commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// `off`
    Off,
    /// `local`
    Local,
    /// `remote_write`
    RemoteWrite,
    /// `on`
    On,
    /// `remote_apply`
    RemoteApply,
}

impl Durability {
    /// Every value.
    pub const ALL: [Self; 5] = [Self::Off, Self::Local, Self::RemoteWrite, Self::On, Self::RemoteApply];

    /// The word of the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Local => "local",
            Self::RemoteWrite => "remote_write",
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }

    /// Reads the word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|durability| durability.as_str() == word)
    }
}

/// What became of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is committed, once, in the history that is going on.
    Committed,
    /// Nothing of it is in the history that is going on, and never will be: it may be run again.
    Lost,
    /// It is still running, or prepared: to be asked again.
    Pending,
    /// It cannot be known, or not yet.
    Unknown(Why),
}

/// Why a verdict cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The mark names an id and no place in the WAL.
    NoPlace,
    /// The server may have crashed since: then the id may have been given out again.
    Crash,
    /// Another server, on a timeline of the same number.
    OtherServer,
    /// The timeline's history has not been read, or is another's.
    NoHistory,
    /// The history does not reach back to the mark's timeline.
    ShortHistory,
    /// The server's timeline is an earlier one.
    WentBack,
    /// The server has forgotten the id.
    Forgotten,
    /// The server answered with an error, or not as expected.
    NotTold,
}

impl Why {
    /// The label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPlace => "no_place",
            Self::Crash => "crash",
            Self::OtherServer => "other_server",
            Self::NoHistory => "no_history",
            Self::ShortHistory => "short_history",
            Self::WentBack => "went_back",
            Self::Forgotten => "forgotten",
            Self::NotTold => "not_told",
        }
    }
}

/// The verdict. `history`: of the timeline the witness writes, if it is known.
pub fn judge(mark: &Mark, witness: &Witness, history: Option<&History>) -> Verdict {
    if mark.is_empty() {
        return Verdict::Lost;
    }
    let Some(lsn) = mark.lsn else { return Verdict::Unknown(Why::NoPlace) };
    match witness.timeline.cmp(&mark.timeline) {
        Ordering::Less => Verdict::Unknown(Why::WentBack),
        Ordering::Equal if witness.pod != mark.pod => Verdict::Unknown(Why::OtherServer),
        Ordering::Equal if mark.era.is_none() || mark.era != witness.era => Verdict::Unknown(Why::Crash),
        Ordering::Equal => told(witness.status),
        Ordering::Greater => match history.filter(|history| history.timeline() == witness.timeline) {
            None => Verdict::Unknown(Why::NoHistory),
            Some(history) => match history.ended(mark.timeline) {
                Some(end) if lsn > end => Verdict::Lost,
                Some(_) if witness.status == Status::Committed && may_have_resumed(mark, witness) => {
                    Verdict::Unknown(Why::Crash)
                }
                Some(_) => told(witness.status),
                None => stranger(mark.timeline, history),
            },
        },
    }
}

/// The timeline may go on beyond the mark with other WAL than was there: somebody was seen to write it again, or this server,
/// whose it was, has crashed and may have written it without being seen.
fn may_have_resumed(mark: &Mark, witness: &Witness) -> bool {
    witness.resumed || (witness.pod == mark.pod && (mark.era.is_none() || mark.era != witness.era))
}

/// What the server says, where it is proven that it speaks of the same transaction.
fn told(status: Status) -> Verdict {
    match status {
        Status::Committed => Verdict::Committed,
        Status::Aborted => Verdict::Lost,
        Status::InProgress => Verdict::Pending,
        Status::Forgotten => Verdict::Unknown(Why::Forgotten),
        Status::Failed => Verdict::Unknown(Why::NotTold),
    }
}

/// The history does not name the mark's timeline. PostgreSQL writes a history as its parent's with a line more, or as that
/// line alone if it does not find the parent's: so a history may lack its beginning, and nothing else. If it names an older
/// timeline, it is whole from there on, and the mark's timeline is a branch beside it.
fn stranger(timeline: Timeline, history: &History) -> Verdict {
    let reaches_back = history.ancestors().next().is_some_and(|(oldest, _)| oldest < timeline);
    if reaches_back { Verdict::Lost } else { Verdict::Unknown(Why::ShortHistory) }
}

#[cfg(test)]
mod tests;
