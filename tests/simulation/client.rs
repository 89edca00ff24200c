//! One client of a run: a random workload, and the account of what it was told.

use std::time::Duration;

use pgmoor::wire::message::Target;
use pgmoor::wire::message::write::frontend as write;
use tokio::time::{Instant, sleep, timeout};

use crate::chance::{Rng, Trace};
use crate::ledger::{Act, Fate, Ledger, Said};
use crate::network::{End, Wire};
use crate::talk::{Due, Ended, Talk};

/// A request is answered within this, whatever happens: silence noticed, hold, joins, and the same once more.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens a connection to the proxy.
pub(crate) type Door = Box<dyn FnMut() -> (End, Wire) + Send>;

/// One client.
pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) ledger: Ledger,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) door: Door,
    pub(crate) counts: Counts,
    next_key: u64,
    /// Its requests go to a replica.
    pub(crate) reads: bool,
}

/// What a client was told, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) units: u64,
    pub(crate) lost: u64,
    pub(crate) unknown: u64,
    pub(crate) other: u64,
    pub(crate) ended: u64,
}

/// One unit: its bytes, what is due, what each is.
#[derive(Default)]
struct Unit {
    acts: Vec<(Act, usize)>,
    due: Vec<Due>,
    copy: Vec<u8>,
}

fn sql(act: &Act, client: u64) -> String {
    match act {
        Act::Begin => "BEGIN".to_owned(),
        Act::Commit => "COMMIT".to_owned(),
        Act::Rollback => "ROLLBACK".to_owned(),
        Act::Savepoint(name) => format!("SAVEPOINT {name}"),
        Act::RollbackTo(name) => format!("ROLLBACK TO {name}"),
        Act::Insert(keys) => {
            let values: Vec<String> = keys.iter().map(|key| format!("({key})")).collect();
            format!("INSERT INTO t VALUES {}", values.join(", "))
        }
        Act::Own => format!("SELECT k FROM t WHERE c = {client}"),
        Act::Set { name, value, local } => format!("SET {}{name} = '{value}'", if *local { "LOCAL " } else { "" }),
        Act::Show(name) => format!("SHOW {name}"),
        Act::Many(count) => format!("SELECT many({count})"),
        Act::Wide(bytes) => format!("SELECT wide({bytes})"),
        Act::Count => "SELECT count(*) FROM t".to_owned(),
    }
}

fn gives_rows(act: &Act) -> bool {
    matches!(act, Act::Own | Act::Show(_) | Act::Many(_) | Act::Wide(_) | Act::Count)
}

impl Client {
    pub(crate) fn new(number: u64, ledger: Ledger, rng: Rng, trace: &Trace, door: Door, reads: bool) -> Self {
        let trace = trace.clone();
        Self { number, ledger, rng, trace, door, counts: Counts::default(), next_key: number * 1_000_000, reads }
    }

    /// Works through so many tasks, over as many connections as it takes.
    pub(crate) async fn work(&mut self, tasks: u64) {
        let mut left = tasks;
        for _ in 0..40 {
            let (end, wire) = (self.door)();
            let mut talk = Talk::new(end);
            let began = Instant::now();
            let login = timeout(PATIENCE, talk.log_in("app")).await;
            let outcome = match login {
                Ok(Ok(())) => self.session(&mut talk, &mut left).await,
                Ok(Err(ended)) => Err(ended),
                Err(_) => Err(Ended::Nonsense("a login is not answered".to_owned())),
            };
            match outcome {
                Ok(()) => {
                    talk.leave().await;
                    self.ledger.reconnected(Fate::Absent);
                    return;
                }
                Err(ended) => {
                    self.counts.ended += 1;
                    let after = began.elapsed();
                    self.trace.say(format_args!("client {} is out after {after:?}: {ended:?}", self.number));
                    self.judge_end(&ended, &wire);
                    // Whatever was open and not committed is gone; `session` has seen to a COMMIT on its way.
                    self.ledger.reconnected(Fate::Absent);
                    sleep(Duration::from_millis(self.rng.between(1, 400))).await;
                }
            }
        }
        self.trace.fault(format_args!("client {} never gets done", self.number));
    }

    /// Whether a connection may end so.
    fn judge_end(&self, ended: &Ended, wire: &Wire) {
        let number = self.number;
        match ended {
            Ended::Nonsense(what) => self.trace.fault(format_args!("client {number}: {what}")),
            Ended::Fatal(words) => {
                let known = ["57P03 ", "57P01 ", "08006 ", "53300 "];
                if !known.iter().any(|code| words.starts_with(code)) {
                    self.trace.fault(format_args!("client {number} is thrown out: {words}"));
                }
            }
            Ended::Silent | Ended::Half | Ended::Broken if wire.was_broken() => {}
            // The rest of a message that nobody has any more.
            Ended::Half => {}
            Ended::Silent | Ended::Broken => {
                self.trace.fault(format_args!("client {number} is dropped without a word: {ended:?}"));
            }
        }
    }

    async fn session(&mut self, talk: &mut Talk, left: &mut u64) -> Result<(), Ended> {
        while *left > 0 {
            *left -= 1;
            if self.rng.chance(50) {
                sleep(Duration::from_millis(self.rng.below(400))).await;
            }
            if self.reads {
                let acts = [Act::Many(self.rng.below(30)), Act::Wide(self.rng.below(40_000)), Act::Count];
                let act = acts[self.rng.below(3) as usize].clone();
                self.one(talk, &[act]).await?;
                continue;
            }
            match self.rng.below(12) {
                0 | 1 => drop(self.one(talk, &[Act::Own]).await?),
                2 => {
                    let insert = self.insert();
                    self.one(talk, &[insert]).await?;
                }
                3 => {
                    let set = self.set(false);
                    self.one(talk, &[set]).await?;
                }
                4 => self.show(talk).await?,
                5 => self.burst(talk).await?,
                6 => {
                    let acts = [self.insert(), self.insert()];
                    self.one(talk, &acts).await?;
                }
                7 => self.named(talk).await?,
                8 => {
                    let act = if self.rng.chance(50) {
                        Act::Wide(self.rng.below(60_000))
                    } else {
                        Act::Many(self.rng.below(300))
                    };
                    self.one(talk, &[act]).await?;
                }
                _ => self.transaction(talk).await?,
            }
        }
        Ok(())
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn insert(&mut self) -> Act {
        let count = if self.rng.chance(80) { 1 } else { 3 };
        Act::Insert((0..count).map(|_| self.key()).collect())
    }

    fn set(&mut self, local: bool) -> Act {
        let name = ["application_name", "TimeZone", "work_mem", "my.tag"][self.rng.below(4) as usize].to_owned();
        Act::Set { name, value: format!("v{}", self.rng.below(1000)), local }
    }

    async fn show(&mut self, talk: &mut Talk) -> Result<(), Ended> {
        let name = ["application_name", "TimeZone", "work_mem", "my.tag"][self.rng.below(4) as usize];
        self.one(talk, &[Act::Show(name.to_owned())]).await?;
        if let (Some(value), Some(told)) = (self.ledger.setting(name), talk.told.get(name))
            && value != *told
        {
            let number = self.number;
            self.trace.fault(format_args!("client {number}: {name} is {value:?}, and was reported as {told:?}"));
        }
        Ok(())
    }

    /// Appends a unit to what is sent next.
    fn put(&mut self, talk: &mut Talk, acts: &[Act]) -> Unit {
        let mut unit = Unit::default();
        let texts: Vec<String> = acts.iter().map(|act| sql(act, self.number)).collect();
        if let [Act::Insert(keys)] = acts
            && self.rng.chance(15)
        {
            write::query(&mut talk.out, "COPY t FROM STDIN");
            unit.copy = keys.iter().flat_map(|key| format!("{key}\n").into_bytes()).collect();
            unit.acts.push((acts[0].clone(), 0));
            unit.due.push(Due::Copy);
            return unit;
        }
        if self.rng.chance(50) {
            write::query(&mut talk.out, texts.join("; "));
            for act in acts {
                unit.acts.push((act.clone(), unit.due.len()));
                unit.due.push(Due::Run { rows: gives_rows(act), head: true });
            }
            return unit;
        }
        for (act, text) in acts.iter().zip(&texts) {
            write::parse(&mut talk.out, "", text, &[]);
            write::bind(&mut talk.out, "", "", &[]);
            unit.due.extend([Due::Parsed, Due::Bound]);
            if self.rng.chance(60) {
                write::describe(&mut talk.out, Target::Portal, "");
                unit.due.push(Due::Described { rows: gives_rows(act), statement: false });
            }
            write::execute(&mut talk.out, "", 0);
            unit.acts.push((act.clone(), unit.due.len()));
            unit.due.push(Due::Run { rows: gives_rows(act), head: false });
        }
        write::sync(&mut talk.out);
        unit
    }

    /// Reads a unit's answers into the ledger. The status after it.
    async fn hear(&mut self, talk: &mut Talk, unit: &Unit) -> Result<u8, Ended> {
        let number = self.number;
        let heard = timeout(PATIENCE, talk.unit(&unit.due, &unit.copy)).await;
        let Ok(heard) = heard else {
            return Err(Ended::Nonsense(format!("no answer to {:?}", unit.acts)));
        };
        let (said, status) = match heard {
            Ok(heard) => heard,
            Err(ended) => {
                self.unanswered(unit);
                return Err(ended);
            }
        };
        self.counts.units += 1;
        let acts: Vec<_> = unit.acts.iter().map(|(act, at)| (act.clone(), said[*at].clone())).collect();
        for said in &said {
            if let Said::Error(code) = said {
                match code.as_str() {
                    "40001" => self.counts.lost += 1,
                    "08007" => self.counts.unknown += 1,
                    "57P03" | "53300" | "25P02" | "57P01" => self.counts.other += 1,
                    // A named statement may not be there after its Parse was lost; a savepoint neither.
                    other => self.trace.fault(format_args!("client {number}: {other} to {:?}", unit.acts)),
                }
            }
        }
        let brief: Vec<String> = acts.iter().map(|(act, said)| brief(act, said)).collect();
        self.trace.say(format_args!("client {number}: {} {}", brief.join(", "), char::from(status)));
        // An error in a Parse or Bind before it is an error of the statement.
        let failed = said.iter().find(|said| matches!(said, Said::Error(_)));
        let acts: Vec<_> = match failed {
            Some(error) if acts.iter().all(|(_, said)| !matches!(said, Said::Error(_))) => {
                let first = acts.iter().position(|(_, said)| *said == Said::Skipped);
                let swap = |(at, (act, said))| (act, if Some(at) == first { error.clone() } else { said });
                acts.into_iter().enumerate().map(swap).collect()
            }
            _ => acts,
        };
        if let Err(what) = self.ledger.take(&acts, status) {
            self.trace.fault(format_args!("client {number}: {what}"));
        }
        Ok(status)
    }

    /// The connection ended, and these were never answered.
    fn unanswered(&mut self, unit: &Unit) {
        for (act, _) in &unit.acts {
            match act {
                Act::Insert(keys) => {
                    for key in keys {
                        self.ledger.keys.insert(*key, Fate::Unknown);
                    }
                }
                Act::Commit => self.ledger.settle(Fate::Unknown),
                Act::Begin
                | Act::Rollback
                | Act::Savepoint(_)
                | Act::RollbackTo(_)
                | Act::Own
                | Act::Set { .. }
                | Act::Show(_)
                | Act::Many(_)
                | Act::Wide(_)
                | Act::Count => {}
            }
        }
    }

    async fn one(&mut self, talk: &mut Talk, acts: &[Act]) -> Result<u8, Ended> {
        let unit = self.put(talk, acts);
        if let Err(ended) = talk.send().await {
            self.unanswered(&unit);
            return Err(ended);
        }
        self.hear(talk, &unit).await
    }

    /// Several units at once, answered one after the other.
    async fn burst(&mut self, talk: &mut Talk) -> Result<(), Ended> {
        let mut units = Vec::new();
        let whole = self.rng.chance(50);
        if whole {
            units.push(self.put(talk, &[Act::Begin]));
        }
        for _ in 0..self.rng.between(1, 3) {
            let act = if self.rng.chance(70) { self.insert() } else { Act::Own };
            let copies = matches!(act, Act::Insert(_));
            let before = talk.out.len();
            let mut unit = self.put(talk, std::slice::from_ref(&act));
            while copies && !unit.copy.is_empty() {
                talk.out.truncate(before); // no COPY within a burst
                unit = self.put(talk, std::slice::from_ref(&act));
            }
            units.push(unit);
        }
        if whole {
            let last = if self.rng.chance(80) { Act::Commit } else { Act::Rollback };
            units.push(self.put(talk, &[last]));
        }
        let mut end = talk.send().await.err();
        let mut status = b'I';
        for unit in &units {
            if end.is_none() {
                match self.hear(talk, unit).await {
                    Ok(now) => status = now,
                    Err(ended) => end = Some(ended),
                }
            } else {
                self.unanswered(unit);
            }
        }
        match end {
            Some(ended) => Err(ended),
            None if status != b'I' => self.one(talk, &[Act::Rollback]).await.map(drop),
            None => Ok(()),
        }
    }

    /// A statement with a name, prepared once in a session.
    async fn named(&mut self, talk: &mut Talk) -> Result<(), Ended> {
        let name = if self.rng.chance(50) { "own" } else { "many" };
        let act = if name == "own" { Act::Own } else { Act::Many(5) };
        if !self.ledger.prepared.contains(name) {
            write::parse(&mut talk.out, name, sql(&act, self.number), &[]);
            write::sync(&mut talk.out);
            let unit = Unit { due: vec![Due::Parsed], ..Unit::default() };
            talk.send().await?;
            let heard = timeout(PATIENCE, talk.unit(&unit.due, &[])).await;
            let Ok(heard) = heard else { return Err(Ended::Nonsense("no answer to a Parse".to_owned())) };
            match &heard?.0[0] {
                Said::Done(..) => self.ledger.prepared.insert(name.to_owned()),
                // It may be there, or not.
                Said::Error(_) | Said::Skipped => return Ok(()),
            };
        }
        if self.rng.chance(20) {
            self.ledger.prepared.remove(name);
            write::close(&mut talk.out, Target::Statement, name);
            write::sync(&mut talk.out);
            talk.send().await?;
            let unit = Unit { due: vec![Due::Closed], ..Unit::default() };
            return self.hear(talk, &unit).await.map(drop);
        }
        write::bind(&mut talk.out, "", name, &[]);
        write::execute(&mut talk.out, "", 0);
        write::sync(&mut talk.out);
        let due = vec![Due::Bound, Due::Run { rows: true, head: false }];
        let unit = Unit { acts: vec![(act, 1)], due, copy: Vec::new() };
        talk.send().await?;
        self.hear(talk, &unit).await.map(drop)
    }

    async fn transaction(&mut self, talk: &mut Talk) -> Result<(), Ended> {
        let mut status = self.one(talk, &[Act::Begin]).await?;
        let mut marks = 0;
        for _ in 0..self.rng.between(1, 5) {
            if status != b'T' {
                break;
            }
            if self.rng.chance(40) {
                let long = if self.rng.chance(5) { 5000 } else { 200 };
                sleep(Duration::from_millis(self.rng.below(long))).await;
            }
            let act = match self.rng.below(10) {
                0..=3 => self.insert(),
                4 | 5 => Act::Own,
                6 => self.set(self.rng.clone().chance(50)),
                7 => Act::Savepoint({
                    marks += 1;
                    format!("s{marks}")
                }),
                8 if marks > 0 => Act::RollbackTo(format!("s{marks}")),
                8 => Act::Many(self.rng.below(200)),
                _ => Act::Wide(self.rng.below(40_000)),
            };
            let acts = if self.rng.chance(20) { vec![act, self.insert()] } else { vec![act] };
            status = self.one(talk, &acts).await?;
        }
        let last = if status == b'T' && self.rng.chance(85) { Act::Commit } else { Act::Rollback };
        if status == b'I' {
            return Ok(());
        }
        let status = self.one(talk, &[last]).await?;
        if status != b'I' {
            // A COMMIT that met a loss may leave the block open, and failed.
            self.one(talk, &[Act::Rollback]).await?;
        }
        Ok(())
    }
}

fn brief(act: &Act, said: &Said) -> String {
    match said {
        Said::Done(tag, rows) if rows.len() < 12 && !matches!(act, Act::Wide(_) | Act::Many(_)) => {
            format!("{act:?} -> {tag} {rows:?}")
        }
        Said::Done(tag, _) => format!("{act:?} -> {tag}"),
        Said::Error(code) => format!("{act:?} -> {code}"),
        Said::Skipped => format!("{act:?} skipped"),
    }
}
