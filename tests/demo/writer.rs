//! One client that writes numbered rows through pgmoor, and keeps account of what it was told.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Config, Error, NoTls, Socket, Statement};

use crate::cluster::trouble::{Result, Trouble, Trying};

/// Between two rows, and after an error.
const PACE: Duration = Duration::from_millis(8);
/// How long a transaction stays open with nothing in flight.
const THOUGHT: Duration = Duration::from_millis(15);
/// How long a login may take, a failover included.
const LOGIN: Duration = Duration::from_secs(40);

/// pgmoor's door for writes, and how the application opens it.
#[derive(Clone)]
pub(crate) struct Door {
    /// pgmoor's `rw` endpoint.
    pub(crate) address: SocketAddr,
    /// Of user `app`.
    pub(crate) password: String,
}

/// The half of a connection that reads.
pub(crate) type Driver = tokio_postgres::Connection<Socket, tokio_postgres::tls::NoTlsStream>;

impl Door {
    /// A connection whose reading half the caller drives.
    pub(crate) async fn open(&self, name: &str) -> Result<(Client, Driver)> {
        let mut config = Config::new();
        config.host(self.address.ip().to_string()).port(self.address.port());
        config.user("app").password(&self.password).dbname("app").application_name(name);
        let opened = tokio::time::timeout(LOGIN, config.connect(NoTls)).await;
        let opened = opened.map_err(|_| Trouble::new(format!("{name}: no login in {LOGIN:?}")))?;
        opened.trying(|| format!("{name}: connecting through pgmoor"))
    }

    /// A connection that drives itself.
    pub(crate) async fn connect(&self, name: &str) -> Result<Client> {
        let (client, driver) = self.open(name).await?;
        // Its errors reach the client's own calls.
        tokio::spawn(async move { drop(driver.await) });
        Ok(client)
    }
}

/// What all writers tell while they run.
#[derive(Default)]
pub(crate) struct Pulse {
    statements: AtomicU64,
    longest_us: AtomicU64,
    errors: AtomicU64,
    stop: AtomicBool,
}

impl Pulse {
    /// Statements acknowledged since the last call.
    pub(crate) fn take_statements(&self) -> u64 {
        self.statements.swap(0, Ordering::Relaxed)
    }

    /// The longest statement since the last call.
    pub(crate) fn take_longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }

    /// Errors since the last call.
    pub(crate) fn take_errors(&self) -> u64 {
        self.errors.swap(0, Ordering::Relaxed)
    }

    /// Every writer ends after the row it is at.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn beat(&self, took: Duration) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.waited(took);
    }

    fn waited(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(took, Ordering::Relaxed);
    }
}

/// How a writer writes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// One INSERT that commits by itself.
    Autocommit,
    /// BEGIN, a look, an INSERT, COMMIT.
    Transaction,
}

/// What a writer was told.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Its name, which is in its rows.
    pub(crate) name: String,
    /// Rows 1 to this are written: acknowledged, or found after a doubt.
    pub(crate) written: i64,
    /// Statements acknowledged.
    pub(crate) statements: u64,
    /// The longest of them.
    pub(crate) longest: Duration,
    /// Errors by SQLSTATE.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Rows in doubt (08007) that were there when looked for.
    pub(crate) found: u64,
    /// Rows in doubt that were not, and were written again.
    pub(crate) absent: u64,
    /// Why its connection ended, if it did.
    pub(crate) dropped: Option<String>,
}

/// A writer at work.
pub(crate) struct Writer {
    client: Client,
    manner: Manner,
    insert: Statement,
    look: Statement,
    pulse: Arc<Pulse>,
    progress: Arc<AtomicU64>,
    account: Account,
}

impl Writer {
    /// Connects and prepares its statements: once, for all its life.
    pub(crate) async fn new(door: &Door, name: &str, manner: Manner, pulse: Arc<Pulse>) -> Result<Self> {
        let client = door.connect(name).await?;
        let insert = client.prepare("INSERT INTO shop.moves (writer, n) VALUES ($1, $2)").await?;
        let look = client.prepare("SELECT count(*) FROM shop.moves WHERE writer = $1 AND n = $2").await?;
        let account = Account { name: name.to_owned(), ..Account::default() };
        Ok(Self { client, manner, insert, look, pulse, progress: Arc::default(), account })
    }

    /// Counts its rows for others to see.
    pub(crate) fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    /// Writes until told to stop, or until its connection is dropped.
    pub(crate) async fn run(mut self) -> Account {
        while !self.pulse.stop.load(Ordering::Relaxed) && self.account.dropped.is_none() {
            let n = self.account.written + 1;
            let outcome = match self.manner {
                Manner::Autocommit => self.insert(n).await,
                Manner::Transaction => self.transact(n).await,
            };
            match outcome {
                Ok(()) => self.wrote(n),
                Err(error) => self.failed(n, &error).await,
            }
            sleep(PACE).await;
        }
        self.account
    }

    fn wrote(&mut self, n: i64) {
        self.account.written = n;
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    async fn insert(&mut self, n: i64) -> std::result::Result<(), Error> {
        let name = self.account.name.clone();
        let began = Instant::now();
        let done = self.client.execute(&self.insert, &[&name, &n]).await;
        self.timed(began, done).map(drop)
    }

    async fn command(&mut self, sql: &str) -> std::result::Result<(), Error> {
        let began = Instant::now();
        let done = self.client.batch_execute(sql).await;
        self.timed(began, done)
    }

    async fn there(&mut self, n: i64) -> std::result::Result<bool, Error> {
        let name = self.account.name.clone();
        let began = Instant::now();
        let done = self.client.query_one(&self.look, &[&name, &n]).await;
        self.timed(began, done)?.try_get::<_, i64>(0).map(|count| count > 0)
    }

    async fn transact(&mut self, n: i64) -> std::result::Result<(), Error> {
        self.command("BEGIN").await?;
        self.there(n).await?;
        sleep(THOUGHT).await;
        self.insert(n).await?;
        self.command("COMMIT").await
    }

    /// Keeps account of one statement.
    fn timed<T>(&mut self, began: Instant, done: std::result::Result<T, Error>) -> std::result::Result<T, Error> {
        let took = began.elapsed();
        self.account.longest = self.account.longest.max(took);
        match &done {
            Ok(_) => {
                self.account.statements += 1;
                self.pulse.beat(took);
            }
            Err(error) => {
                self.pulse.waited(took);
                self.pulse.errors.fetch_add(1, Ordering::Relaxed);
                *self.account.errors.entry(sqlstate(error)).or_default() += 1;
                if self.client.is_closed() {
                    self.account.dropped = Some(error.to_string());
                }
            }
        }
        done
    }

    /// What an application does after an error: ends its transaction, and looks where the outcome is not known.
    async fn failed(&mut self, n: i64, error: &Error) {
        if self.manner == Manner::Transaction && self.account.dropped.is_none() {
            // Outside of a transaction this is a warning.
            drop(self.command("ROLLBACK").await);
        }
        while sqlstate(error) == "08007" && self.account.dropped.is_none() {
            match self.there(n).await {
                Ok(true) => {
                    self.account.found += 1;
                    return self.wrote(n);
                }
                Ok(false) => {
                    self.account.absent += 1;
                    return;
                }
                // The look itself met the next failure: look again.
                Err(_) => sleep(PACE).await,
            }
        }
    }
}

/// The SQLSTATE of an error, or a word where no server said one.
pub(crate) fn sqlstate(error: &Error) -> String {
    error.code().map_or_else(|| "no answer".to_owned(), |code| code.code().to_owned())
}
