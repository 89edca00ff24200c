//! A backend is gone: what each request in flight is told, and what becomes of the open transaction.
//!
//! 40001 ("nothing of it remains") is said only where that is proven; else 08007 ("not known").
//!
//! | in flight | outside a transaction | inside one |
//! |---|---|---|
//! | a statement | 08007: it may have committed by itself | 40001: it cannot have committed |
//! | a statement, with a COMMIT behind it already | 08007 | 08007 |
//! | COMMIT | 08007 | 08007 |
//! | ROLLBACK, simple protocol | rolled back either way: answered as done | the same |
//! | ROLLBACK, and statements behind it in one unit | 08007 | 08007 |
//! | BEGIN, alone or with statements behind it in one unit | 40001: never committed | – |
//! | all its CommandCompletes delivered, and committed with them | only the ReadyForQuery is made up | 40001 |
//! | its error delivered | only the ReadyForQuery is made up | the same, transaction failed |
//! | a Parse, Bind, Describe, Close; nothing run | 40001 | 40001 |
//!
//! A replica is no exception: one that has been promoted since its last ReadyForQuery may have committed a write.
//!
//! "Inside" must be certain: a transaction whose BEGIN, COMMIT or ROLLBACK is itself unanswered is not, for a later unit.

use std::collections::BTreeMap;

use crate::error::Code;
use crate::wire::TxStatus;
use crate::wire::sql::Verb;

use super::names::Names;
use super::pipeline::{Owed, Pipeline};
use super::script::{self, Meaning};
use super::state::State;
use super::walk::Walk;

/// What is said to the client after its backend was lost.
#[derive(Debug, PartialEq, Eq)]
pub struct Wreck {
    /// One answer for each unit that was sent whole.
    pub answers: Vec<Answer>,
    /// The client has begun a unit and not sent its Sync: its error. What follows up to the Sync is thrown away.
    pub open: Option<Answer>,
    /// What is left to be said or restored later.
    pub after: Aftermath,
    /// Whether all of it may be run again instead.
    pub chance: Chance,
}

/// What running everything again from the last idle boundary could do twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// Nothing was lost.
    Needless,
    /// Nothing: none of it can have been committed.
    Open,
    /// What the COMMIT that was sent last has committed, if it has.
    Commit,
    /// What the Sync that was sent last has committed, if it has: the unit before it was answered whole.
    Sync,
    /// What was committed by the way, if anything was.
    Doubtful,
}

/// The answer to one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is said.
    pub word: Word,
    /// The transaction status of the ReadyForQuery that ends it.
    pub status: TxStatus,
}

/// What is said about one unit, before its ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// An error of the catalogue.
    Error(Code),
    /// Nothing more: its result, or its error, was delivered already.
    Nothing,
    /// CommandComplete `ROLLBACK`: true whatever happened.
    RolledBack,
}

/// What the loss leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// No transaction is open.
    Clean,
    /// A transaction is open in the client's eyes, and it has been told that it failed.
    Failed,
    /// A transaction is open in the client's eyes, and it has not been told yet.
    Untold,
}

/// From where to where a unit may lead.
#[derive(Clone, Copy, Debug)]
struct Way {
    start: Walk,
    end: Walk,
}

/// One unit in flight.
#[derive(Debug)]
struct Unit {
    kind: Kind,
    /// Its last message was sent: a ReadyForQuery is owed.
    closed: bool,
    /// What was executed and not answered, in order; with the number of its statements that were.
    texts: Vec<(Meaning, usize)>,
    /// Requests besides those that were not answered.
    asks: bool,
    /// So are requests of pgmoor's own.
    ours: bool,
    /// Something of it was answered.
    begun: bool,
    /// Its error was delivered.
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Simple,
    Extended,
}

impl Unit {
    const fn new() -> Self {
        Self {
            kind: Kind::Extended,
            closed: false,
            texts: Vec::new(),
            asks: false,
            ours: false,
            begun: false,
            told: false,
        }
    }

    /// Its whole text is this, and nothing of it was answered.
    fn is_only(&self, what: impl Fn(&script::Script) -> bool) -> bool {
        !self.begun && matches!(self.texts.as_slice(), [(Some(script), 0)] if what(script))
    }

    /// Everything that was asked was answered, but for the end of the unit.
    fn is_answered(&self) -> bool {
        !self.asks
            && self.texts.iter().all(|(meaning, done)| match meaning {
                Some(script) => !script.is_cut() && *done >= script.acts().len(),
                None => *done > 0,
            })
    }

    /// Where it leads from `walk`, if it runs to its end.
    fn run(&self, mut walk: Walk) -> Walk {
        for (meaning, done) in &self.texts {
            walk.text(meaning, *done);
        }
        walk
    }

    /// Its first statement is a ROLLBACK: whatever was open before is not committed by what follows.
    fn rolls_back_first(&self) -> bool {
        let first = self.texts.first().and_then(|(meaning, _)| meaning.as_ref());
        first.and_then(|script| script.acts().first()).is_some_and(|act| matches!(act.verb, Verb::Rollback { .. }))
    }
}

impl Pipeline {
    /// The backend ended.
    pub fn lose(&mut self, state: &mut State) -> Wreck {
        let units = self.units(state);
        let mut walks = self.walks(&units);
        if let (true, Some(way)) = (self.has_rows_only(), walks.last_mut()) {
            way.end.loose = false;
        }
        let mut status = self.status();
        let mut answers = Vec::new();
        let mut open = None;
        for (at, unit) in units.iter().enumerate() {
            // What was said about the status before stands; what the first unit did since then comes with it.
            let committed_later = later_commits(&units[at + 1..], &walks[at + 1..]);
            let answer = judge(unit, walks[at].end, status, committed_later);
            status = answer.status;
            if at == 0 && answer.word == Word::Nothing && !unit.told && status == TxStatus::Idle {
                state.ready(TxStatus::Idle); // it was committed, and what it set with it
            }
            if !unit.closed && answer.word == Word::Nothing && !unit.told {
                continue; // an open unit of which nothing is lost goes on elsewhere
            }
            if unit.closed {
                answers.push(answer);
            } else {
                open = Some(answer);
            }
        }
        let told = !answers.is_empty() || open.is_some();
        let after = match status {
            TxStatus::Idle => Aftermath::Clean,
            TxStatus::InTransaction if !told => Aftermath::Untold,
            TxStatus::InTransaction | TxStatus::Failed => Aftermath::Failed,
        };
        let lost = answers.iter().chain(&open).any(|answer| matches!(answer.word, Word::Error(_)));
        let chance = if lost || after != Aftermath::Clean { chance(&units, &walks) } else { Chance::Needless };
        state.transaction_lost();
        self.clear(if after == Aftermath::Clean { TxStatus::Idle } else { TxStatus::Failed });
        Wreck { answers, open, after, chance }
    }

    /// The units in flight, the last one open if its Sync has not been sent.
    fn units(&self, state: &State) -> Vec<Unit> {
        let mut meanings = Unresolved::new(self.names(), state);
        let mut units = Vec::new();
        let begun = self.walk() != Walk::from(self.status());
        let mut unit = Unit { begun, told: self.has_failed(), ..Unit::new() };
        for owed in self.owed().iter() {
            match owed {
                Owed::Query { meaning, done, .. } => {
                    unit.begun |= *done > 0;
                    unit.texts.push((meanings.deep(meaning), *done));
                    units.push(Unit { kind: Kind::Simple, closed: true, ..std::mem::replace(&mut unit, Unit::new()) });
                }
                Owed::Call { .. } => {
                    unit.texts.push((None, 0));
                    units.push(Unit { kind: Kind::Simple, closed: true, ..std::mem::replace(&mut unit, Unit::new()) });
                }
                Owed::Sync { .. } => units.push(Unit { closed: true, ..std::mem::replace(&mut unit, Unit::new()) }),
                Owed::Execute { portal } => unit.texts.push((meanings.portal(portal, units.len()), 0)),
                Owed::Parse { name, meaning, .. } => {
                    let first = !(unit.asks || unit.ours) && unit.texts.is_empty();
                    meanings.parsed(name, meaning, units.len(), first);
                    unit.asks = true;
                }
                Owed::Bind { portal, statement } => {
                    meanings.bound(portal, statement, units.len());
                    unit.asks = true;
                }
                Owed::Close { .. } | Owed::Describe => unit.asks = true,
                Owed::Ours | Owed::Setup | Owed::Prepare { .. } => unit.ours = true,
                Owed::CopyEnd { .. } => {}
            }
        }
        if self.is_open() {
            units.push(unit);
        }
        units
    }

    /// Where each unit may lead, from where it certainly began: outside a block, unless that is proven.
    fn walks(&self, units: &[Unit]) -> Vec<Way> {
        let mut walk = self.walk();
        let mut walks = Vec::with_capacity(units.len());
        for unit in units {
            let end = if unit.told { walk } else { unit.run(walk) };
            walks.push(Way { start: walk, end });
            // If it fails half-way a block stays open, unless it may have been left before.
            let inside = walk.block && (unit.told || !end.ends);
            walk = Walk { block: inside, dead: inside && walk.dead && end.dead, ..Walk::default() };
        }
        walks
    }
}

/// What the names in flight stand for, as far as that is certain. A Parse or Bind in flight may still fail, or be skipped
/// behind an error: for the rest of its own unit that does not matter, which is skipped with it. For later units it does.
struct Unresolved<'a> {
    names: &'a Names,
    state: &'a State,
    statements: BTreeMap<&'a [u8], Sent>,
    portals: BTreeMap<&'a [u8], Sent>,
}

/// What a name was sent for.
struct Sent {
    unit: usize,
    meaning: Meaning,
    /// If that was not taken, the name stands for nothing, or for something that means nothing.
    sole: bool,
}

impl<'a> Unresolved<'a> {
    fn new(names: &'a Names, state: &'a State) -> Self {
        Self { names, state, statements: BTreeMap::new(), portals: BTreeMap::new() }
    }

    /// `first`: nothing before it in its unit can make the server skip it.
    fn parsed(&mut self, name: &'a [u8], meaning: &Meaning, unit: usize, first: bool) {
        let meaning = self.deep(meaning);
        // A Parse of the unnamed statement that fails leaves none (protocol-flow, "Extended Query"); one that is skipped
        // leaves the one before.
        let replaces = first && name.is_empty();
        let sole = replaces
            || !name.is_empty() && !self.statements.contains_key(name) && !self.state.prepared().contains_key(name);
        self.statements.insert(name, Sent { unit, meaning, sole });
    }

    fn bound(&mut self, portal: &'a [u8], statement: &'a [u8], unit: usize) {
        let meaning = self.statement(statement, unit);
        let sole = meaning.is_none() && !self.portals.contains_key(portal) && self.names.portal(portal).is_none();
        self.portals.insert(portal, Sent { unit, meaning, sole });
    }

    fn statement(&self, name: &[u8], unit: usize) -> Meaning {
        self.statements.get(name).map_or_else(|| self.deep(&self.names.statement(name)), |sent| sent.meaning_in(unit))
    }

    fn portal(&self, name: &[u8], unit: usize) -> Meaning {
        self.portals.get(name).map_or_else(|| self.names.portal(name), |sent| sent.meaning_in(unit))
    }

    /// SQL EXECUTE runs what protocol-level names stand for, a COMMIT among it.
    fn deep(&self, meaning: &Meaning) -> Meaning {
        let commits = |name: &str| {
            let known = self.names.statement(name.as_bytes());
            let commits = |meaning: &Meaning| meaning.as_ref().is_some_and(|script| script.may_commit());
            commits(&known)
                || self.statements.get(name.as_bytes()).is_some_and(|sent| !sent.sole || commits(&sent.meaning))
        };
        let acts = meaning.as_ref().map_or(&[][..], |script| script.acts());
        if acts.iter().any(|act| matches!(&act.verb, Verb::Execute { name } if commits(name))) {
            script::unknown()
        } else {
            meaning.clone()
        }
    }
}

impl Sent {
    fn meaning_in(&self, unit: usize) -> Meaning {
        if self.sole || self.unit == unit { self.meaning.clone() } else { script::unknown() }
    }
}

/// Whether what is open before these units may be committed by one of them.
fn later_commits(units: &[Unit], walks: &[Way]) -> bool {
    let decisive = units.iter().zip(walks).find(|(unit, way)| way.end.commits || unit.rolls_back_first());
    decisive.is_some_and(|(unit, way)| way.end.commits && !unit.rolls_back_first())
}

/// What may have been committed of these units.
fn chance(units: &[Unit], walks: &[Way]) -> Chance {
    let kept = |ways: &[Way]| ways.iter().all(|way| !way.end.may_commit());
    if kept(walks) {
        return Chance::Open;
    }
    let (Some((last, before)), Some((way, ways))) = (units.split_last(), walks.split_last()) else {
        return Chance::Doubtful;
    };
    // All of an autocommit unit was answered: its Sync is what commits, or has committed.
    let done = last.kind == Kind::Extended && last.closed && last.is_answered() && last.begun && !last.told;
    if done && kept(ways) && way.start.loose && !way.start.block && !way.end.commits {
        return Chance::Sync;
    }
    let Some(((Some(script), 0), texts)) = last.texts.split_last() else { return Chance::Doubtful };
    let mut walk = way.start;
    for (meaning, done) in texts {
        walk.text(meaning, *done);
    }
    let only_there = kept(ways) && before.len() == ways.len() && walk.block && !walk.may_commit() && !last.told;
    if only_there && script.only_commits() { Chance::Commit } else { Chance::Doubtful }
}

/// `walk`: where the unit may lead. `before`: the transaction in the client's eyes.
fn judge(unit: &Unit, walk: Walk, before: TxStatus, committed_later: bool) -> Answer {
    let begins = !unit.is_only(script::Script::only_begins) && walk.block;
    let in_block = (before != TxStatus::Idle && !walk.ends) || begins;
    let status = if in_block { TxStatus::Failed } else { TxStatus::Idle };
    let say = |word| Answer { word, status };
    if unit.told {
        return say(Word::Nothing);
    }
    if unit.is_answered() && !walk.loose && !walk.block && before == TxStatus::Idle && (unit.closed || !walk.portals) {
        return say(Word::Nothing); // a lone Sync, or a Parse whose statement is carried
    }
    if unit.is_answered()
        && unit.begun
        && !walk.block
        && (walk.ends || unit.kind == Kind::Simple)
        && (unit.kind == Kind::Simple || !walk.loose)
    {
        return say(Word::Nothing); // a COMMIT, or a simple Query outside a block, is committed when its tag comes
    }
    if unit.kind == Kind::Simple && unit.is_only(script::Script::only_rolls_back) {
        return say(Word::RolledBack);
    }
    let doubtful = walk.may_commit() || committed_later;
    say(Word::Error(if doubtful { Code::CommitUnknown } else { Code::TransactionLost }))
}

#[cfg(test)]
mod tests;
