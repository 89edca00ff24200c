//! What the clients did and were told, and what was found in the end: plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The name of one operation's effect: it stands in every row it wrote, so that each row tells who wrote it.
pub type Tx = i64;

/// What kind of work an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Money from one account to another in a transaction, each statement a simple query.
    TransferSimple,
    /// The same with prepared statements.
    TransferExtended,
    /// One row, autocommit, a simple query.
    AppendSimple,
    /// The same with a prepared statement.
    AppendExtended,
    /// Three rows in a transaction with savepoints and an error that is expected.
    List,
    /// Three rows, one implicit transaction: a pipeline with one Sync.
    Batch,
    /// A whole transaction sent at once, a Sync behind each statement.
    Pipeline,
    /// Rows by COPY in a transaction.
    Copy,
    /// Rows by one long INSERT, whose beginning comes before its end; autocommit or in a transaction.
    Bulk,
    /// One more on the client's own counter, autocommit, which says what it is now.
    Touch,
    /// Reads the client's own counter.
    Version,
    /// Reads the sum of all accounts.
    Total,
    /// Tries to be the first with a key.
    Race,
    /// Changes the session's settings.
    Setting,
    /// Looks whether the session is what it should be.
    State,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    /// It is done.
    Done,
    /// 40001: nothing of it remains.
    Lost,
    /// 08007: done or not, nobody knows.
    Unknown,
    /// 57P03: no server within the hold time; nothing of it remains.
    Refused,
    /// 23505: the key is taken.
    Conflict,
    /// The connection ended; its last words.
    Dropped(String),
    /// No answer within the client's patience.
    Stuck,
    /// Something that is none of the answers there may be.
    Wrong(String),
}

/// What it wrote, if it was done, or what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// Neither.
    Nothing,
    /// Moved money.
    Transfer {
        /// The account it left.
        from: usize,
        /// The account it went to.
        to: usize,
        /// How much.
        amount: i64,
    },
    /// Wrote rows with its name and the positions 1 to this.
    Rows(i32),
    /// Took this key.
    Key(i64),
    /// Added one to its counter, which was this then.
    Touch(Option<i64>),
    /// Read its counter.
    Version(Option<i64>),
    /// Read the sum of all accounts.
    Total(Option<i64>),
    /// Looked at its session: what was not as it should be.
    State(Vec<String>),
}

/// One operation of one client. Times count from the beginning of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Whose.
    pub client: u32,
    /// The client's how many-th.
    pub n: u32,
    /// What kind of work.
    pub kind: Kind,
    /// When its first byte was sent.
    pub began: Duration,
    /// When its last answer was there.
    pub ended: Duration,
    /// The answer.
    pub told: Told,
    /// What it wrote or saw.
    pub did: Did,
}

impl Op {
    /// The name in the rows of a client's n-th operation.
    pub fn name(client: u32, n: u32) -> Tx {
        i64::from(client) * 1_000_000 + i64::from(n)
    }

    /// The name in its rows.
    pub fn tx(&self) -> Tx {
        Self::name(self.client, self.n)
    }

    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.saturating_sub(self.began)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, ended) = (self.began.as_secs_f64(), self.ended.as_secs_f64());
        write!(f, "[{began:9.3} .. {ended:9.3}] tx {} {:?}: {:?} {:?}", self.tx(), self.kind, self.told, self.did)
    }
}

/// One row of the ledger: a transfer that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The account the money left.
    pub from: usize,
    /// The account it went to.
    pub to: usize,
    /// How much.
    pub amount: i64,
}

/// What is in the database when all is over.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The balance of each account.
    pub balances: Vec<i64>,
    /// Every transfer, by its name.
    pub ledger: BTreeMap<Tx, Vec<Entry>>,
    /// The positions of every operation's rows, sorted.
    pub rows: BTreeMap<Tx, Vec<i32>>,
    /// Who has each key.
    pub keys: BTreeMap<i64, Tx>,
    /// Every client's counter.
    pub versions: BTreeMap<u32, i64>,
}
