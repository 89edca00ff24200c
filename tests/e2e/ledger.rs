//! Writers that keep books: every row they tried to write, what they were told, and what is found in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::cluster::proxy::Port;
use crate::stage::Stage;

/// The table all writers of a test write to.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS ledger (writer int, n int, at timestamptz DEFAULT now(), PRIMARY KEY (writer, n))";

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Done,
    Error(String),
}

/// One write, as its client saw it.
#[derive(Clone, Debug)]
pub struct Write {
    pub writer: i32,
    pub n: i32,
    pub began: Instant,
    pub ended: Instant,
    pub told: Told,
}

/// Writers at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Book>>,
}

/// One writer's book.
pub struct Book {
    pub writes: Vec<Write>,
    /// The connection is still the one it began with, and open.
    pub kept: bool,
}

impl Writers {
    /// Starts `count` of them, each on a session of its own, with a `pause` between two writes; odd ones write inside
    /// explicit transactions.
    pub async fn start(stage: &Stage, count: usize, pause: Duration) -> Self {
        stage.client(Port::Rw, 0).await.batch_execute(TABLE).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for id in 0..count {
            let client = stage.client(Port::Rw, id).await;
            tasks.push(tokio::spawn(work(client, id as i32, pause, Arc::clone(&stop))));
        }
        Self { stop, tasks }
    }

    /// Ends them and collects their books.
    pub async fn finish(self) -> Vec<Book> {
        self.stop.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        for task in self.tasks {
            books.push(task.await.unwrap());
        }
        books
    }
}

async fn work(client: Client, writer: i32, pause: Duration, stop: Arc<AtomicBool>) -> Book {
    let mut writes = Vec::new();
    let insert = client.prepare("INSERT INTO ledger (writer, n) VALUES ($1, $2)").await.unwrap();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) && !client.is_closed() {
        n += 1;
        let began = Instant::now();
        let result = match (writer % 2, n % 2) {
            (0, 0) => client.execute(&insert, &[&writer, &n]).await.map(drop),
            (0, _) => client.batch_execute(&format!("INSERT INTO ledger (writer, n) VALUES ({writer}, {n})")).await,
            _ => transaction(&client, writer, n).await,
        };
        let told = match result {
            Ok(()) => Told::Done,
            Err(error) => Told::Error(error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())),
        };
        writes.push(Write { writer, n, began, ended: Instant::now(), told });
        tokio::time::sleep(pause).await;
    }
    Book { writes, kept: !client.is_closed() }
}

async fn transaction(client: &Client, writer: i32, n: i32) -> Result<(), tokio_postgres::Error> {
    // By hand: the driver's own rolls back on drop, without saying what came of it.
    client.batch_execute("BEGIN").await?;
    let insert = format!("INSERT INTO ledger (writer, n) VALUES ({writer}, {n})");
    let done = match client.batch_execute(&insert).await {
        Ok(()) => client.batch_execute("COMMIT").await,
        Err(error) => Err(error),
    };
    if done.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    done
}

/// Holds the books against the table: acknowledged rows are there once, refused ones are not, and nothing else is.
pub async fn audit(stage: &Stage, books: &[Book]) -> BTreeMap<String, usize> {
    let primary = stage.cluster.wait_primary(None, crate::stage::FAILOVER).await.unwrap();
    let client = stage.cluster.connect_as(&primary, "app", "app").await.unwrap();
    let mut found: BTreeMap<(i32, i32), usize> = BTreeMap::new();
    for row in client.query("SELECT writer, n FROM ledger", &[]).await.unwrap() {
        *found.entry((row.get(0), row.get(1))).or_default() += 1;
    }
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for write in books.iter().flat_map(|book| &book.writes) {
        let there = found.remove(&(write.writer, write.n)).unwrap_or(0);
        match &write.told {
            Told::Done => assert_eq!(there, 1, "acknowledged, and not there once: {write:?}\n{}", stage.logs().await),
            Told::Error(code) if code == "08007" => {
                *told
                    .entry(format!("08007 ({})", if there == 1 { "was there" } else { "was not there" }))
                    .or_default() += 1;
                continue;
            }
            Told::Error(code) if code == "40001" => {
                assert_eq!(there, 0, "told that nothing remains, and it does: {write:?}\n{}", stage.logs().await)
            }
            Told::Error(code) => {
                panic!("{write:?}: {code} is none of the answers there may be\n{}", stage.logs().await)
            }
        }
        let what = match &write.told {
            Told::Done => "acknowledged".to_owned(),
            Told::Error(code) => code.clone(),
        };
        *told.entry(what).or_default() += 1;
    }
    assert!(found.is_empty(), "rows nobody wrote: {found:?}");
    for (id, book) in books.iter().enumerate() {
        assert!(book.kept, "writer {id} lost its connection\n{}", stage.logs().await);
    }
    told
}

/// The longest time one write took.
pub fn longest(books: &[Book]) -> Duration {
    books.iter().flat_map(|book| &book.writes).map(|write| write.ended - write.began).max().unwrap_or_default()
}

/// For each writer, how long after `promoted` its first write was acknowledged that ended after `fault`.
pub fn waits_beyond(books: &[Book], fault: Instant, promoted: Instant) -> Vec<Duration> {
    let first = |book: &Book| {
        let after =
            book.writes.iter().find(|write| write.told == Told::Done && write.ended > fault && write.ended > promoted);
        after.map(|write| write.ended - promoted)
    };
    let mut waits: Vec<Duration> = books.iter().filter_map(first).collect();
    waits.sort();
    waits
}
