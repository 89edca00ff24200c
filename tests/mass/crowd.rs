//! A crowd of client sessions: most are silent, some write all the time and keep books, and all of them can ask at once.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Logins the crowd itself makes at once: as an application's pools would.
const AT_ONCE: usize = 32;
/// Between two writes of one writer.
const PAUSE: Duration = Duration::from_millis(200);

/// The table of the writers.
pub(crate) const TABLE: &str = "CREATE TABLE crowd (writer int, n int, PRIMARY KEY (writer, n))";

/// One session.
pub(crate) struct Member {
    client: Arc<Client>,
    driver: JoinHandle<()>,
}

/// What one session was told.
#[derive(Debug)]
pub(crate) struct Answer {
    /// When.
    pub(crate) at: Instant,
    /// The first row's text, nothing if there was none; or the SQLSTATE.
    pub(crate) said: Result<String, String>,
}

/// Logs in `count` sessions.
pub(crate) async fn log_in(config: &Config, count: usize) -> Vec<Member> {
    let logins = (0..count).map(|_| async {
        let (client, connection) = config.connect(NoTls).await.unwrap();
        let driver = tokio::spawn(async move { drop(connection.await) });
        Member { client: Arc::new(client), driver }
    });
    futures::stream::iter(logins).buffer_unordered(AT_ONCE).collect().await
}

/// Asks all of them at the same moment, each for a number of its own.
pub(crate) fn ask(crowd: &[Member]) -> Vec<JoinHandle<Answer>> {
    say(crowd, |number| format!("SELECT '{number} of the crowd'"))
}

/// Has all of them say something at the same moment.
pub(crate) fn say(crowd: &[Member], what: impl Fn(usize) -> String) -> Vec<JoinHandle<Answer>> {
    crowd.iter().enumerate().map(|(number, member)| tokio::spawn(member.say(what(number)))).collect()
}

/// Waits until all have been told that it is done.
pub(crate) async fn done(said: Vec<JoinHandle<Answer>>) {
    for (number, said) in said.into_iter().enumerate() {
        assert_eq!(said.await.unwrap().said.as_deref(), Ok(""), "session {number}");
    }
}

/// Waits for the answers: all must be right. When each came.
pub(crate) async fn answered(asked: Vec<JoinHandle<Answer>>) -> Vec<Instant> {
    let mut at = Vec::new();
    for (number, asked) in asked.into_iter().enumerate() {
        let answer = asked.await.unwrap();
        assert_eq!(answer.said.as_deref(), Ok(format!("{number} of the crowd").as_str()), "session {number}");
        at.push(answer.at);
    }
    at
}

impl Member {
    fn say(&self, sql: String) -> impl Future<Output = Answer> + use<> {
        let client = Arc::clone(&self.client);
        async move {
            let reply = client.simple_query(&sql).await;
            let said = reply.map_err(|error| error_code(&error)).map(|rows| {
                let texts = rows.into_iter().filter_map(|message| {
                    if let SimpleQueryMessage::Row(row) = message { row.get(0).map(str::to_owned) } else { None }
                });
                texts.take(1).collect()
            });
            Answer { at: Instant::now(), said }
        }
    }

    /// Its connection is the one it began with, and open.
    pub(crate) fn is_there(&self) -> bool {
        !self.client.is_closed() && !self.driver.is_finished()
    }

    /// Hangs up: without a word, whatever was asked.
    pub(crate) fn hang_up(self) {
        self.driver.abort();
    }
}

/// SQLSTATE, or what else went wrong.
fn error_code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned())
}

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Book>>,
}

/// What one writer was told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Of each write: its number, when the answer came, and the SQLSTATE if that was an error.
    pub(crate) told: Vec<(i32, Instant, Option<String>)>,
}

impl Writers {
    /// Sets these members to work: each inserts a row of its own, again and again, out of step with the others.
    pub(crate) fn start(members: &[Member]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let step = PAUSE / u32::try_from(members.len()).unwrap();
        let task = |(id, member): (usize, &Member)| {
            let (id, client, stop) = (i32::try_from(id).unwrap(), Arc::clone(&member.client), Arc::clone(&stop));
            tokio::spawn(async move {
                tokio::time::sleep(step * id.unsigned_abs()).await;
                write(&client, id, &stop).await
            })
        };
        Self { tasks: members.iter().enumerate().map(task).collect(), stop }
    }

    /// Ends them, each with a write that was acknowledged from now on: their books.
    pub(crate) async fn finish(self) -> Vec<Book> {
        self.stop.store(true, Ordering::Relaxed);
        let mut books = Vec::new();
        for task in self.tasks {
            books.push(task.await.unwrap());
        }
        books
    }
}

async fn write(client: &Client, writer: i32, stop: &AtomicBool) -> Book {
    let mut book = Book::default();
    for n in 0.. {
        let insert = format!("INSERT INTO crowd (writer, n) VALUES ({writer}, {n})");
        let told = client.batch_execute(&insert).await.err().map(|error| error_code(&error));
        let done = told.is_none();
        book.told.push((n, Instant::now(), told));
        if (done && stop.load(Ordering::Relaxed)) || client.is_closed() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    book
}

impl Book {
    /// When its first write was acknowledged that ended after `moment`.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.told.iter().find(|(_, at, error)| *at > moment && error.is_none()).map(|(_, at, _)| *at)
    }
}

/// Holds the books against the rows `(writer, n)` that are there: what was acknowledged is there, what is there was
/// written, and only 08007 (a write in flight when the primary was lost) was an error. How often each answer was given.
pub(crate) fn audit(books: &[Book], rows: &[(i32, i32)]) -> BTreeMap<String, usize> {
    let mut found: BTreeMap<(i32, i32), usize> = BTreeMap::new();
    for row in rows {
        *found.entry(*row).or_default() += 1;
    }
    let mut told = BTreeMap::new();
    for (writer, book) in books.iter().enumerate() {
        for (n, _, error) in &book.told {
            let there = found.remove(&(i32::try_from(writer).unwrap(), *n)).unwrap_or(0);
            match error.as_deref() {
                None => assert_eq!(there, 1, "writer {writer}, write {n}: acknowledged, and {there} times there"),
                Some(code) => assert_eq!(code, "08007", "writer {writer}, write {n}: no error there should be"),
            }
            *told.entry(error.clone().unwrap_or_else(|| "acknowledged".to_owned())).or_default() += 1;
        }
    }
    assert!(found.is_empty(), "rows nobody wrote: {found:?}");
    told
}

/// Of these waits: the middle, the 99th of a hundred, the longest, in milliseconds, in words.
pub(crate) fn spread(mut waits: Vec<Duration>) -> String {
    waits.sort();
    let at = |part: usize| waits[(waits.len() - 1) * part / 100].as_millis();
    format!("p50 {} ms, p99 {} ms, longest {} ms", at(50), at(99), at(100))
}
