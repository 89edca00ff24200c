//! The verdict on a history: every promise that was broken. It knows no clock, no socket and no database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::counter::Counter;
use crate::history::{Did, Entry, Found, Kind, Op, Told, Tx};

/// What holds for a run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The balance every account began with.
    pub opening: i64,
    /// How long pgmoor holds a client; who is told 57P03 sooner was let down.
    pub hold: Duration,
    /// The longest one operation may take.
    pub patience: Duration,
    /// When something was wrong with the cluster, from and to. Only then may an answer be lost.
    pub storms: Vec<(Duration, Duration)>,
    /// How often nobody may know the outcome, at most: 08007.
    pub unknown: usize,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, and not there.
    LostAck(Op),
    /// There more than once.
    Doubled(Op),
    /// The client was told that nothing remains, and something does.
    LostButThere(Op),
    /// Some of it is there, some is not: these positions.
    Torn(Op, Vec<i32>),
    /// There, and not what was asked for.
    Altered(Op, String),
    /// Rows that nobody wrote.
    FromNowhere(Tx),
    /// Money that came or went.
    Money {
        /// What all accounts must hold together.
        expected: i64,
        /// What they hold.
        found: i64,
    },
    /// An account that does not hold what the ledger says.
    Balance {
        /// Which.
        account: usize,
        /// By the ledger.
        expected: i64,
        /// In the account.
        found: i64,
    },
    /// A read of the total that saw another sum.
    Total(Op),
    /// A client saw its own counter go back: it must be at least this.
    WentBack(Op, i64),
    /// A client saw more than it ever did: it can be at most this.
    Ahead(Op, i64),
    /// The counter in the end is none it can be: from, to, found.
    Counter(u32, i64, i64, i64),
    /// Two were told that they have the key.
    TwoWinners(Op, Op),
    /// The client was told that the key is taken, and nobody has it.
    NoWinner(Op),
    /// The session is not as it should be.
    State(Op),
    /// The connection ended.
    Dropped(Op),
    /// No answer in time, or none at all.
    Stuck(Op),
    /// Refused before the hold time was over.
    TooEarly(Op),
    /// An answer that may not be.
    Wrong(Op),
    /// 40001, 08007 or 57P03 while all was well.
    Unprovoked(Op),
    /// 08007 is not rare: so often, and at most this was allowed.
    Unknowns(usize, usize),
}

impl Violation {
    /// When it happened, where one operation shows it.
    pub fn at(&self) -> Option<Duration> {
        match self {
            Self::LostAck(op)
            | Self::Doubled(op)
            | Self::LostButThere(op)
            | Self::Torn(op, _)
            | Self::Altered(op, _)
            | Self::Total(op)
            | Self::WentBack(op, _)
            | Self::Ahead(op, _)
            | Self::TwoWinners(_, op)
            | Self::NoWinner(op)
            | Self::State(op)
            | Self::Dropped(op)
            | Self::Stuck(op)
            | Self::TooEarly(op)
            | Self::Wrong(op)
            | Self::Unprovoked(op) => Some(op.ended),
            Self::Unknowns(..)
            | Self::FromNowhere(_)
            | Self::Money { .. }
            | Self::Balance { .. }
            | Self::Counter(..) => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostAck(op) => write!(f, "acknowledged, and not there: {op}"),
            Self::Doubled(op) => write!(f, "there more than once: {op}"),
            Self::LostButThere(op) => write!(f, "told that nothing remains, and it is there: {op}"),
            Self::Torn(op, there) => write!(f, "only the positions {there:?} are there: {op}"),
            Self::Altered(op, found) => write!(f, "there, but as {found}: {op}"),
            Self::FromNowhere(tx) => write!(f, "tx {tx} is there, and nobody wrote it"),
            Self::Money { expected, found } => write!(f, "the accounts hold {found} together; it was {expected}"),
            Self::Balance { account, expected, found } => {
                write!(f, "account {account} holds {found}; by the ledger it is {expected}")
            }
            Self::Total(op) => write!(f, "a read saw another total: {op}"),
            Self::WentBack(op, least) => write!(f, "a read went back in time, it was {least} already: {op}"),
            Self::Ahead(op, most) => write!(f, "a counter is ahead of what was done, {most} at most: {op}"),
            Self::Counter(client, least, most, found) => {
                write!(f, "client {client}'s counter is {found} in the end, not {least} to {most}")
            }
            Self::TwoWinners(one, other) => write!(f, "two were given one key: {one}\n  and {other}"),
            Self::NoWinner(op) => write!(f, "told that the key is taken, and nobody has it: {op}"),
            Self::State(op) => write!(f, "the session is not as it should be: {op}"),
            Self::Dropped(op) => write!(f, "the connection ended: {op}"),
            Self::Stuck(op) => write!(f, "no answer in time: {op}"),
            Self::TooEarly(op) => write!(f, "refused before the hold time was over: {op}"),
            Self::Wrong(op) => write!(f, "an answer that may not be: {op}"),
            Self::Unprovoked(op) => write!(f, "told so while all was well: {op}"),
            Self::Unknowns(count, most) => write!(f, "{count} operations were told 08007, {most} at most may be"),
        }
    }
}

/// The verdict, and what was counted on the way.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Every broken promise.
    pub violations: Vec<Violation>,
    /// Operations by kind and answer.
    pub tally: BTreeMap<(Kind, Told), usize>,
    /// 08007 and in the end there; 08007 and not there. Only of those that write.
    pub unknown: (usize, usize),
}

/// Holds the history against what was found.
pub fn judge(rules: &Rules, ops: &[Op], found: &Found) -> Verdict {
    let mut verdict = Verdict::default();
    for op in ops {
        *verdict.tally.entry((op.kind, op.told.clone())).or_default() += 1;
        verdict.answer(rules, op);
        verdict.presence(op, found);
    }
    let unknown = ops.iter().filter(|op| op.told == Told::Unknown).count();
    if unknown > rules.unknown {
        verdict.add(Violation::Unknowns(unknown, rules.unknown));
    }
    verdict.strangers(ops, found);
    verdict.money(rules, ops, found);
    verdict.keys(ops, found);
    verdict.counters(ops, found);
    verdict.violations.sort_by_key(Violation::at);
    verdict
}

impl Verdict {
    fn add(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// What was said, and when; what was seen of the session.
    fn answer(&mut self, rules: &Rules, op: &Op) {
        match &op.told {
            Told::Dropped(_) => self.add(Violation::Dropped(op.clone())),
            Told::Stuck => self.add(Violation::Stuck(op.clone())),
            Told::Wrong(_) => self.add(Violation::Wrong(op.clone())),
            Told::Conflict if op.kind != Kind::Race => self.add(Violation::Wrong(op.clone())),
            Told::Refused if op.took() < rules.hold => self.add(Violation::TooEarly(op.clone())),
            Told::Done | Told::Lost | Told::Unknown | Told::Refused | Told::Conflict => {
                if op.took() > rules.patience {
                    self.add(Violation::Stuck(op.clone()));
                }
                let stormy = rules.storms.iter().any(|(from, to)| *from <= op.ended && op.began <= *to);
                if !stormy && matches!(op.told, Told::Lost | Told::Unknown | Told::Refused) {
                    self.add(Violation::Unprovoked(op.clone()));
                }
            }
        }
        match &op.did {
            Did::State(wrong) if !wrong.is_empty() => self.add(Violation::State(op.clone())),
            Did::State(_)
            | Did::Nothing
            | Did::Transfer { .. }
            | Did::Rows(_)
            | Did::Key(_)
            | Did::Touch(_)
            | Did::Version(_)
            | Did::Total(_) => {}
        }
    }

    /// Is what it wrote there as often as the answer says?
    fn presence(&mut self, op: &Op, found: &Found) {
        let times = match &op.did {
            Did::Transfer { from, to, amount } => {
                let wanted = Entry { from: *from, to: *to, amount: *amount };
                let there = found.ledger.get(&op.tx()).map(Vec::as_slice).unwrap_or_default();
                if let Some(other) = there.iter().find(|entry| **entry != wanted) {
                    self.add(Violation::Altered(op.clone(), format!("{other:?}")));
                }
                there.len()
            }
            Did::Rows(count) => {
                let there = found.rows.get(&op.tx()).map(Vec::as_slice).unwrap_or_default();
                let times = |position: i32| there.iter().filter(|other| **other == position).count();
                let all: Vec<usize> = (1..=*count).map(times).collect();
                let (least, most) = (all.iter().min().copied().unwrap_or(0), all.iter().max().copied().unwrap_or(0));
                let strange = there.len() != all.iter().sum::<usize>();
                if least != most && most == 1 {
                    self.add(Violation::Torn(op.clone(), there.to_vec()));
                } else if strange {
                    self.add(Violation::Altered(op.clone(), format!("{there:?}")));
                }
                most
            }
            Did::Key(key) => usize::from(found.keys.get(key) == Some(&op.tx())),
            Did::Nothing | Did::Touch(_) | Did::Version(_) | Did::Total(_) | Did::State(_) => return,
        };
        match (&op.told, times) {
            (_, 2..) => self.add(Violation::Doubled(op.clone())),
            (Told::Done, 0) => self.add(Violation::LostAck(op.clone())),
            (Told::Lost | Told::Refused | Told::Conflict, 1) => self.add(Violation::LostButThere(op.clone())),
            (Told::Unknown, 1) => self.unknown.0 += 1,
            (Told::Unknown, 0) => self.unknown.1 += 1,
            (Told::Done, 1) | (Told::Lost | Told::Refused | Told::Conflict, 0) => {}
            // Judged as an answer; what became of it is anybody's guess.
            (Told::Dropped(_) | Told::Stuck | Told::Wrong(_), 0 | 1) => {}
        }
    }

    /// Rows whose name no operation of the right kind has.
    fn strangers(&mut self, ops: &[Op], found: &Found) {
        let mut transfers = BTreeSet::new();
        let mut writers = BTreeSet::new();
        let mut takers = BTreeSet::new();
        for op in ops {
            match op.did {
                Did::Transfer { .. } => drop(transfers.insert(op.tx())),
                Did::Rows(_) => drop(writers.insert(op.tx())),
                Did::Key(key) => drop(takers.insert((key, op.tx()))),
                Did::Nothing | Did::Touch(_) | Did::Version(_) | Did::Total(_) | Did::State(_) => {}
            }
        }
        let ledger = found.ledger.keys().copied().filter(|tx| !transfers.contains(tx));
        let rows = found.rows.keys().copied().filter(|tx| !writers.contains(tx));
        let keys = found.keys.iter().filter(|(key, tx)| !takers.contains(&(**key, **tx))).map(|(_, tx)| *tx);
        let strangers: BTreeSet<Tx> = ledger.chain(rows).chain(keys).collect();
        self.violations.extend(strangers.into_iter().map(Violation::FromNowhere));
    }

    fn money(&mut self, rules: &Rules, ops: &[Op], found: &Found) {
        let mut balances = vec![rules.opening; found.balances.len()];
        for entry in found.ledger.values().flatten() {
            for (account, amount) in [(entry.from, -entry.amount), (entry.to, entry.amount)] {
                if let Some(balance) = balances.get_mut(account) {
                    *balance += amount;
                }
            }
        }
        for (account, (&expected, &found)) in balances.iter().zip(&found.balances).enumerate() {
            if expected != found {
                self.add(Violation::Balance { account, expected, found });
            }
        }
        let expected = rules.opening * i64::try_from(found.balances.len()).unwrap_or(i64::MAX);
        let sum: i64 = found.balances.iter().sum();
        if sum != expected {
            self.add(Violation::Money { expected, found: sum });
        }
        for op in ops.iter().filter(|op| op.told == Told::Done) {
            match op.did {
                Did::Total(saw) if saw != Some(expected) => self.add(Violation::Total(op.clone())),
                Did::Total(_)
                | Did::Nothing
                | Did::Transfer { .. }
                | Did::Rows(_)
                | Did::Key(_)
                | Did::Touch(_)
                | Did::Version(_)
                | Did::State(_) => {}
            }
        }
    }

    fn keys(&mut self, ops: &[Op], found: &Found) {
        let mut winners: BTreeMap<i64, &Op> = BTreeMap::new();
        for op in ops {
            let Did::Key(key) = op.did else { continue };
            if op.told == Told::Conflict && !found.keys.contains_key(&key) {
                self.add(Violation::NoWinner(op.clone()));
            }
            if op.told == Told::Done
                && let Some(other) = winners.insert(key, op)
            {
                self.add(Violation::TwoWinners(other.clone(), op.clone()));
            }
        }
    }

    /// Each client's own counter, as that client moved and saw it, one operation after the other.
    fn counters(&mut self, ops: &[Op], found: &Found) {
        let mut clients: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
        for op in ops {
            clients.entry(op.client).or_default().push(op);
        }
        for (client, mut ops) in clients {
            ops.sort_by_key(|op| op.n);
            let mut counter = Counter::default();
            for op in ops {
                self.violations.extend(counter.follow(op));
            }
            let last = found.versions.get(&client).copied().unwrap_or(0);
            if !(counter.least()..=counter.most()).contains(&last) {
                self.add(Violation::Counter(client, counter.least(), counter.most(), last));
            }
        }
    }
}
