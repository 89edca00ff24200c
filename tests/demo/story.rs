//! The clients of the demo, the same on every stage: they write, wait and write on, and in the end the books are checked.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_postgres::Client;

use crate::Outcome;
use crate::cluster::trouble::{Result, Trouble, eventually};
use crate::screen::{Screen, TICK, Tone, seconds};
use crate::session::Session;
use crate::writer::{Account, Door, Manner, Pulse, Writer};

const WRITERS: [(&str, Manner); 6] = [
    ("autocommit 1", Manner::Autocommit),
    ("autocommit 2", Manner::Autocommit),
    ("autocommit 3", Manner::Autocommit),
    ("autocommit 4", Manner::Autocommit),
    ("transactions 1", Manner::Transaction),
    ("transactions 2", Manner::Transaction),
];
const IDLE: usize = 3;
/// A crash under Patroni takes its ttl of 20 s; a machine may be busy.
const CALM: Duration = Duration::from_secs(90);
/// How many rows each writer adds before it counts as going on.
const GOING_ON: u64 = 5;

/// The clients at work.
pub(crate) struct Story {
    screen: Arc<Screen>,
    pulse: Arc<Pulse>,
    ticks: Ticks,
    writers: JoinSet<Account>,
    progress: Vec<Progress>,
    session: Session,
    idle: Vec<Client>,
    longest: Duration,
}

/// How far a writer is, and whether it has ended.
struct Progress {
    rows: Arc<AtomicU64>,
    task: AbortHandle,
}

/// The task that draws the ticks; it ends with the story.
struct Ticks(JoinHandle<()>);

impl Drop for Ticks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Story {
    /// Connects all clients through pgmoor and lets them begin.
    pub(crate) async fn begin(screen: &Arc<Screen>, door: &Door) -> Result<Self> {
        let mut idle = Vec::new();
        for n in 1..=IDLE {
            idle.push(door.connect(&format!("idle {n}")).await?);
        }
        let owner = idle.first().ok_or_else(|| Trouble::new("no idle client"))?;
        owner
            .batch_execute(
                "CREATE SCHEMA shop; CREATE TABLE shop.moves (writer text, n bigint); \
                 CREATE INDEX ON shop.moves (writer, n)",
            )
            .await?;
        let session = Session::open(door).await?;
        let pulse = Arc::new(Pulse::default());
        let (mut writers, mut progress) = (JoinSet::new(), Vec::new());
        for (name, manner) in WRITERS {
            let writer = Writer::new(door, name, manner, Arc::clone(&pulse)).await?;
            let rows = writer.progress();
            progress.push(Progress { rows, task: writers.spawn(writer.run()) });
        }
        screen.event(
            Tone::Plain,
            &format!(
                "{} connections through pgmoor: 4 write by autocommit, 2 in transactions, 1 has a session\n           \
                 (SET, PREPARE, LISTEN), {IDLE} are idle. A tick is 100 ms; · is one without a statement.",
                WRITERS.len() + 1 + IDLE
            ),
        );
        let ticks = Ticks(tokio::spawn(tick(Arc::clone(screen), Arc::clone(&pulse))));
        let screen = Arc::clone(screen);
        Ok(Self { screen, pulse, ticks, writers, progress, session, idle, longest: Duration::ZERO })
    }

    /// Lets time pass.
    pub(crate) async fn watch_for(&mut self, time: Duration) {
        sleep(time).await;
        self.longest = self.longest.max(self.pulse.take_longest());
    }

    /// Waits until every writer goes on, tells how long the longest wait was, and looks at the session.
    pub(crate) async fn goes_on(&mut self) -> Result<()> {
        let count = |writer: &Progress| writer.rows.load(Ordering::Relaxed);
        let before: Vec<u64> = self.progress.iter().map(count).collect();
        let all_go_on = || {
            // One that has ended has lost its connection: the verdict will say so.
            let on =
                |(writer, before): (&Progress, &u64)| writer.task.is_finished() || count(writer) >= before + GOING_ON;
            std::future::ready(self.progress.iter().zip(&before).all(on).then_some(()))
        };
        eventually("all writers to go on", CALM, all_go_on).await?;
        let longest = self.pulse.take_longest();
        self.longest = self.longest.max(longest);
        let parts = self.session.check(&self.idle[0]).await;
        let whole = parts.iter().all(|(_, kept)| *kept);
        let kept = if whole { "its state is all there" } else { "ITS STATE IS NOT ALL THERE" };
        let ended = self.progress.iter().filter(|writer| writer.task.is_finished()).count();
        let (tone, writers) = match ended {
            0 if whole => (Tone::Good, "all write again".to_owned()),
            0 => (Tone::Bad, "all write again".to_owned()),
            _ => (Tone::Bad, format!("{ended} LOST THEIR CONNECTION")),
        };
        let errors = match self.pulse.take_errors() {
            0 => "no error".to_owned(),
            1 => "1 error".to_owned(),
            many => format!("{many} errors"),
        };
        let longest = seconds(longest);
        let text = format!("{writers}: {errors}, the longest wait {longest}. The session: {kept}");
        self.screen.event(tone, &text);
        Ok(())
    }

    /// Ends the writers and checks the books.
    pub(crate) async fn verdict(mut self) -> Result<Outcome> {
        self.pulse.stop();
        let began = Instant::now();
        let mut accounts = Vec::new();
        while let Some(ended) = timeout(CALM, self.writers.join_next())
            .await
            .map_err(|_| Trouble::new(format!("a writer still waits after {}", seconds(began.elapsed()))))?
        {
            accounts.push(ended?);
        }
        accounts.sort_by(|a, b| a.name.cmp(&b.name));
        drop(self.ticks);
        self.screen.heading("What the clients saw");
        let mut books = Books { screen: &self.screen, kept: true };
        let mut open = accounts.iter().filter(|account| account.dropped.is_none()).count();
        for idle in &self.idle {
            open += usize::from(idle.simple_query("SELECT 1").await.is_ok() && !idle.is_closed());
        }
        let parts = self.session.check(&self.idle[0]).await;
        open += usize::from(self.session.is_open());
        let all = WRITERS.len() + 1 + IDLE;
        books.say("connections", open == all, &format!("{open} of {all} kept"));
        for account in &accounts {
            if let Some(why) = &account.dropped {
                books.say("", false, &format!("{}: {why}", account.name));
            }
        }
        books.session(&parts);
        let longest = accounts.iter().map(|account| account.longest).max().unwrap_or_default().max(self.longest);
        let statements: u64 = accounts.iter().map(|account| account.statements).sum();
        books.say("statements", true, &format!("{statements} acknowledged, the longest wait {}", seconds(longest)));
        books.errors(&accounts);
        if let Err(trouble) = books.rows(&accounts, &self.idle[0]).await {
            books.say("rows", false, &format!("could not be counted: {trouble}"));
        }
        Ok(if books.kept { Outcome::AsPromised } else { Outcome::Broken })
    }
}

async fn tick(screen: Arc<Screen>, pulse: Arc<Pulse>) {
    let mut interval = interval(TICK);
    loop {
        interval.tick().await;
        screen.tick(pulse.take_statements());
    }
}

/// The verdict, line by line.
struct Books<'a> {
    screen: &'a Screen,
    kept: bool,
}

impl Books<'_> {
    fn say(&mut self, what: &str, kept: bool, text: &str) {
        self.kept &= kept;
        let tone = if kept { Tone::Good } else { Tone::Bad };
        self.screen.line(tone, &format!("  {what:<12} {text}"));
    }

    fn session(&mut self, parts: &[(&'static str, bool)]) {
        let named = |wanted: bool| -> Vec<&str> {
            parts.iter().filter(|(_, kept)| *kept == wanted).map(|(name, _)| *name).collect()
        };
        let (kept, lost) = (named(true), named(false));
        let kept =
            if kept.is_empty() { "nothing of it is kept".to_owned() } else { format!("kept: {}", kept.join(", ")) };
        self.say("session", lost.is_empty(), &kept);
        if !lost.is_empty() {
            self.say("", false, &format!("LOST: {}", lost.join(", ")));
        }
    }

    fn errors(&mut self, accounts: &[Account]) {
        let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
        for (code, count) in accounts.iter().flat_map(|account| &account.errors) {
            *errors.entry(code).or_default() += count;
        }
        if errors.is_empty() {
            self.say("errors", true, "0");
        }
        let mut what = "errors";
        for (code, count) in errors {
            let (honest, meaning) = meaning(code);
            self.say(what, honest, &format!("{count} x {code}: {meaning}"));
            what = "";
        }
        let found: u64 = accounts.iter().map(|account| account.found).sum();
        let absent: u64 = accounts.iter().map(|account| account.absent).sum();
        if found + absent > 0 {
            let text = format!(
                "{} in doubt, so the client looked: {found} there, {absent} not there and written again",
                found + absent
            );
            self.say("", true, &text);
        }
    }

    /// Every row that was acknowledged must be there, once, and no other.
    async fn rows(&mut self, accounts: &[Account], client: &Client) -> Result<()> {
        let sql = "SELECT writer, count(*), count(DISTINCT n), coalesce(max(n), 0) FROM shop.moves GROUP BY writer";
        let mut found = BTreeMap::new();
        for row in client.query(sql, &[]).await? {
            let counts: (i64, i64, i64) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            found.insert(row.try_get::<_, String>(0)?, counts);
        }
        let (mut written, mut wrong) = (0, BTreeSet::new());
        for account in accounts {
            let n = account.written;
            written += n;
            if n > 0 && found.get(&account.name) != Some(&(n, n, n)) {
                wrong.insert(format!(
                    "{}: told {n}, there (all, different, last) {:?}",
                    account.name,
                    found.get(&account.name)
                ));
            }
        }
        let there: i64 = found.values().map(|(all, _, _)| all).sum();
        let once = if wrong.is_empty() { ", each exactly once" } else { "" };
        self.say("rows", wrong.is_empty(), &format!("{written} acknowledged or found, {there} in the table{once}"));
        for text in wrong {
            self.say("", false, &text);
        }
        Ok(())
    }
}

/// Whether an error is one that pgmoor's promise allows for, and what it means.
fn meaning(code: &str) -> (bool, &'static str) {
    match code {
        "08007" => (true, "the server died with this write in flight; it is never sent twice"),
        "40001" => (true, "the open transaction went with its server, all of it: run it again"),
        "25P02" => (true, "what follows in such a transaction, until it is rolled back"),
        "57P03" => (false, "no primary within the hold time"),
        _ => (false, "not one that this demo expects"),
    }
}
