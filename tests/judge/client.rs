//! One client: a session that is kept for the whole run, does one operation after the other, and keeps books.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgmoor::auth::Password;

use crate::dice::Dice;
use crate::expected::Expected;
use crate::history::{Did, Kind, Op, Told, Tx};
use crate::journal::Journal;
use crate::raw;
use crate::talk::{Reply, Silence, Talk};

/// How many accounts there are.
pub const ACCOUNTS: u64 = 24;

/// What each kind of work is worth, in parts of all.
const MIX: &[(Kind, u64)] = &[
    (Kind::TransferSimple, 16),
    (Kind::TransferExtended, 16),
    (Kind::AppendSimple, 8),
    (Kind::AppendExtended, 8),
    (Kind::List, 8),
    (Kind::Batch, 6),
    (Kind::Pipeline, 6),
    (Kind::Copy, 6),
    (Kind::Bulk, 6),
    (Kind::Touch, 8),
    (Kind::Version, 10),
    (Kind::Total, 8),
    (Kind::Race, 10),
    (Kind::Setting, 6),
    (Kind::State, 4),
];

/// A client at work.
pub struct Client {
    pub(crate) id: u32,
    /// The number of the operation at work.
    pub(crate) n: u32,
    pub(crate) dice: Dice,
    pub(crate) expected: Expected,
    /// The next key to race the other one of the pair for.
    pub(crate) round: i64,
    talk: Talk,
    journal: Arc<Journal>,
    ops: Vec<Op>,
    over: bool,
}

impl Client {
    /// Logs in and builds up the session's state: settings, statements of both kinds, a channel.
    pub async fn start(
        id: u32,
        seed: u64,
        address: SocketAddr,
        password: &Password,
        patience: Duration,
        journal: Arc<Journal>,
    ) -> Result<Self, String> {
        let talk = Talk::login(address, "app", password, patience).await.map_err(|error| error.to_string())?;
        let (dice, expected) = (Dice::new(seed, u64::from(id)), Expected::default());
        let mut client = Self { id, n: 0, dice, expected, round: 0, talk, journal, ops: Vec::new(), over: false };
        match client.settle().await {
            Ok(()) => Ok(client),
            Err(told) => Err(format!("client {id}'s session could not be built up: {told:?}")),
        }
    }

    /// Works until it is told to stop or its connection is over, and looks at its session one last time.
    pub async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<Op> {
        while !stop.load(Ordering::Relaxed) && !self.over {
            let kind = self.choose();
            self.operation(kind).await;
            let pause = self.dice.time(Duration::from_millis(5), Duration::from_millis(70));
            tokio::time::sleep(pause).await;
        }
        for kind in [Kind::Version, Kind::State] {
            if !self.over {
                self.operation(kind).await;
            }
        }
        self.ops
    }

    fn choose(&mut self) -> Kind {
        let all = MIX.iter().map(|(_, parts)| parts).sum();
        let mut at = self.dice.below(all);
        for (kind, parts) in MIX {
            if at < *parts {
                return *kind;
            }
            at -= parts;
        }
        Kind::State
    }

    /// One operation from its first byte to its last answer, and the way out of what it left open.
    async fn operation(&mut self, kind: Kind) {
        self.n += 1;
        let began = self.journal.now();
        let (mut told, did) = self.work(kind).await;
        if !self.over && self.talk.status != b'I' {
            let told_then = match self.ask("ROLLBACK").await {
                Ok(_) if self.talk.status == b'I' => None,
                Ok(reply) => Some(Told::Wrong(format!("ROLLBACK of {told:?} leaves a transaction: {reply:?}"))),
                Err(Told::Wrong(what)) => Some(Told::Wrong(format!("ROLLBACK of {told:?}: {what}"))),
                Err(other) => Some(other),
            };
            told = told_then.unwrap_or(told);
        }
        let ended = self.journal.now();
        let op = Op { client: self.id, n: self.n, kind, began, ended, told, did };
        self.journal.op(&op);
        self.ops.push(op);
    }

    /// The name of this operation in the rows it writes.
    pub(crate) fn tx(&self) -> Tx {
        Op::name(self.id, self.n)
    }

    /// Runs a simple query.
    pub(crate) async fn ask(&mut self, sql: &str) -> Result<Reply, Told> {
        self.say(&raw::query(sql), 1).await
    }

    /// Runs a statement that was prepared by the protocol.
    pub(crate) async fn run_prepared(&mut self, name: &str, values: &[&str]) -> Result<Reply, Told> {
        self.say(&[raw::bind("", name, values), raw::execute("", 0), raw::sync()].concat(), 1).await
    }

    /// Sends frames, and says what their first error means.
    pub(crate) async fn say(&mut self, frames: &[u8], readies: usize) -> Result<Reply, Told> {
        let reply = match self.talk.send(frames, readies).await {
            Ok(reply) => reply,
            Err(silence) => return Err(self.silenced(silence)),
        };
        let Some((code, text)) = reply.errors.first() else {
            return Ok(reply);
        };
        Err(match code.as_str() {
            "40001" => Told::Lost,
            "08007" => Told::Unknown,
            "57P03" => Told::Refused,
            "23505" => Told::Conflict,
            other => Told::Wrong(format!("{other}: {text}")),
        })
    }

    /// Nothing can be said on this connection any more.
    fn silenced(&mut self, silence: Silence) -> Told {
        self.over = true;
        match silence {
            Silence::Ended(words) => Told::Dropped(words),
            Silence::Late => Told::Stuck,
        }
    }

    /// A simple query in two pieces: the client thinks in the midst of it.
    pub(crate) async fn ask_slowly(&mut self, sql: &str) -> Result<Reply, Told> {
        let frame = raw::query(sql);
        let (beginning, end) = frame.split_at(self.dice.below(frame.len() as u64) as usize);
        self.talk.send_part(beginning).await.map_err(|silence| self.silenced(silence))?;
        self.think().await;
        self.say(end, 1).await
    }

    /// COMMIT, which must say so.
    pub(crate) async fn commit(&mut self) -> Result<(), Told> {
        let reply = self.ask("COMMIT").await?;
        committed(&reply)
    }

    /// The client thinks, now and then for long: transactions stay open meanwhile.
    pub(crate) async fn think(&mut self) {
        let most = if self.dice.once_in(60) { 1500 } else { 6 };
        let pause = self.dice.time(Duration::ZERO, Duration::from_millis(most));
        tokio::time::sleep(pause).await;
    }

    /// Channels on which something came since it was last asked.
    pub(crate) fn notified(&mut self) -> Vec<String> {
        std::mem::take(&mut self.talk.notified)
    }

    async fn work(&mut self, kind: Kind) -> (Told, Did) {
        match kind {
            Kind::TransferSimple => self.transfer(false).await,
            Kind::TransferExtended => self.transfer(true).await,
            Kind::AppendSimple => self.append(false).await,
            Kind::AppendExtended => self.append(true).await,
            Kind::List => self.list().await,
            Kind::Batch => self.batch().await,
            Kind::Pipeline => self.pipeline().await,
            Kind::Copy => self.copy().await,
            Kind::Bulk => self.bulk().await,
            Kind::Touch => self.touch().await,
            Kind::Version => self.version().await,
            Kind::Total => self.total().await,
            Kind::Race => self.race().await,
            Kind::Setting => self.setting().await,
            Kind::State => self.state().await,
        }
    }
}

/// The last tag must be COMMIT: a transaction that failed is answered ROLLBACK, without an error.
pub(crate) fn committed(reply: &Reply) -> Result<(), Told> {
    match reply.tags.last() {
        Some(tag) if tag == "COMMIT" => Ok(()),
        other => Err(Told::Wrong(format!("COMMIT was answered with {other:?}"))),
    }
}

/// An outcome as it stands in the books.
pub(crate) fn told<T>(result: Result<T, Told>) -> Told {
    match result {
        Ok(_) => Told::Done,
        Err(told) => told,
    }
}
