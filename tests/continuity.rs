//! What continuity believes of a session against what PostgreSQL says: random scripts run on a real server, and their
//! state restored on a fresh connection. `CONTINUITY_SEED` runs one seed again, `CONTINUITY_SEEDS` sets how many are run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a real server lives in real time")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

#[path = "continuity/link.rs"]
mod link;
#[path = "support/postgres.rs"]
mod postgres;

use std::time::{Duration, Instant};

use link::{Link, Part};
use pgmoor::continuity::carried::{Setting, Transactional};
use pgmoor::continuity::state::State;

/// Any order of statements that may touch state.
const POOL: &[&str] = &[
    "SET work_mem = '8MB'",
    "SET work_mem TO DEFAULT",
    "SET search_path TO a, \"B b\"",
    "SET my.own = 'it''s a \\ back'",
    "SET LOCAL work_mem = '9MB'",
    "RESET work_mem",
    "RESET ALL",
    "SET DateStyle TO 'SQL, DMY'",
    "RESET datestyle",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, DEFERRABLE",
    "RESET default_transaction_isolation",
    "SET transaction_isolation = 'serializable'",
    "SET ROLE clear -- a comment",
    "SET ROLE NONE",
    "SET SESSION AUTHORIZATION md5",
    "RESET SESSION AUTHORIZATION",
    "SAVEPOINT s",
    "SAVEPOINT t",
    "ROLLBACK TO s",
    "RELEASE s",
    "ROLLBACK TO SAVEPOINT t",
    "PREPARE p AS SELECT 1",
    "PREPARE q AS SELECT 2",
    "DEALLOCATE p",
    "DEALLOCATE ALL",
    "EXECUTE p",
    "LISTEN c",
    "LISTEN \"D d\"",
    "UNLISTEN c",
    "UNLISTEN *",
    "DISCARD ALL",
    "DISCARD PLANS",
    "SELECT 1",
    "SELECT generate_series(1, 3)",
    "SELECT 1/0",
    "this is no SQL",
    "",
    "INSERT INTO public.late VALUES (1), (1)",
];

/// Half of all statements are these, so that transactions come about.
const TURNS: &[&str] = &[
    "BEGIN",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "END",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
];

/// Random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.roll(items.len())]
    }

    fn statement(&mut self) -> &'static str {
        if self.roll(3) == 0 { self.pick(TURNS) } else { self.pick(POOL) }
    }

    fn simple(&mut self, parts: &mut Vec<Part>) {
        let count = if self.roll(2) == 0 { 1 } else { 1 + self.roll(4) };
        let texts: Vec<&str> = (0..count).map(|_| self.statement()).collect();
        parts.push(Part::Query(texts.join("; ")));
    }

    fn extended(&mut self, parts: &mut Vec<Part>) {
        for _ in 0..1 + self.roll(3) {
            let name = self.pick(&["", "", "one", "two"]);
            let portal = self.pick(&["", "", "port"]);
            if self.roll(4) > 0 {
                parts.push(Part::Parse(name, self.statement().to_owned()));
            }
            if self.roll(4) == 0 {
                parts.push(Part::DescribeStatement(name));
            }
            if self.roll(8) > 0 {
                parts.push(Part::Bind(portal, name));
            }
            if self.roll(3) == 0 {
                parts.push(Part::DescribePortal(portal));
            }
            let rows = if self.roll(3) == 0 { 1 } else { 0 };
            for _ in 0..1 + self.roll(2) * usize::from(rows > 0) {
                parts.push(Part::Execute(portal, rows));
            }
            if self.roll(6) == 0 {
                parts.push(Part::CloseStatement(name));
            }
            if self.roll(6) == 0 {
                parts.push(Part::ClosePortal(portal));
            }
        }
        if self.roll(12) == 0 {
            self.simple(parts); // a Query ends an open unit, too
        }
        parts.push(Part::Sync);
    }

    fn batch(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        for _ in 0..1 + self.roll(3) {
            match self.roll(12) {
                0..=5 => self.simple(&mut parts),
                6..=10 => self.extended(&mut parts),
                _ => self.copy(&mut parts),
            }
        }
        parts
    }

    fn copy(&mut self, parts: &mut Vec<Part>) {
        let text = self.pick(&[
            "COPY public.late FROM STDIN",
            "COPY public.late FROM STDIN; SET work_mem = '7MB'",
            "COPY nowhere FROM STDIN",
            "COPY public.late TO STDOUT",
        ]);
        let data = self.pick(&["5\n", "not a number\n"]);
        let end = if self.roll(3) == 0 { Part::CopyFail } else { Part::CopyDone };
        if self.roll(2) == 0 {
            parts.extend([Part::Query(text.to_owned()), Part::CopyData(data), end]);
        } else {
            let text = text.split(';').next().unwrap_or_default().to_owned();
            parts.extend([
                Part::CloseStatement("copy"),
                Part::Parse("copy", text),
                Part::Bind("", "copy"),
                Part::Execute("", 0),
            ]);
            if self.roll(2) == 0 {
                parts.push(Part::Sync); // as a client that does not know it sent a COPY: ignored within it
            }
            parts.extend([Part::CopyData(data), end, Part::Sync]);
        }
    }
}

#[test]
fn believed_and_restored_as_the_server_says() {
    if !postgres::installed() {
        eprintln!("no PostgreSQL here: skipped");
        return;
    }
    let server = postgres::Postgres::start().unwrap();
    server
        .psql("CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON late TO clear, md5")
        .unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("CONTINUITY_SEED").unwrap_or(1);
    let count = number("CONTINUITY_SEEDS").unwrap_or_else(|| if number("CONTINUITY_SEED").is_some() { 1 } else { 12 });
    for seed in first..first + count {
        run(&server, seed);
    }
}

/// Whether the server crashed just now: PostgreSQL 15 does when a portal that was run is executed again, in a transaction
/// that has failed since.
fn crashed(server: &postgres::Postgres, before: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        if crashes(server) > before {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn crashes(server: &postgres::Postgres) -> usize {
    server.log().matches("was terminated by signal").count()
}

/// What the server says, without what is as it would be anyway: a SET LOCAL over a SET TO DEFAULT leaves the default behind
/// as if it had been set.
fn by_effect(state: &State) -> Transactional {
    let mut settled = state.settled().clone();
    settled.settings.retain(|name, value| name != "work_mem" || *value != Setting::Value("4096".to_owned()));
    settled
}

/// One session's life; at each idle boundary belief, truth and a restored session are compared.
fn run(server: &postgres::Postgres, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut link = Link::open(server.address());
    let mut history = Vec::new();
    for _ in 0..12 {
        let batch = dice.batch();
        history.push(format!("{batch:?}"));
        let context = || format!("seed {seed}, after\n  {}", history.join("\n  "));
        let crashes = crashes(server);
        if let Err(trouble) = link.exchange(&batch) {
            assert!(crashed(server, crashes), "{trouble}: {}", context());
            return;
        }
        if !link.pipeline.is_idle() {
            continue;
        }
        if link.state.in_doubt() {
            link.state = link.ask(&link.state.clone()); // it knows that it does not know
        }
        let believed = link.state.clone();
        let truth = link.ask(&believed);
        assert_eq!(
            believed.settled().settings.keys().collect::<Vec<_>>(),
            by_effect(&truth).settings.keys().collect::<Vec<_>>(),
            "settings: {}",
            context()
        );
        assert_eq!(believed.settled().channels, truth.settled().channels, "channels: {}", context());
        assert_eq!(
            believed.prepared().keys().collect::<Vec<_>>(),
            truth.prepared().keys().collect::<Vec<_>>(),
            "statements: {}",
            context()
        );
        if dice.roll(3) > 0 {
            continue; // to log in takes most of the time
        }
        let mut fresh = Link::open(server.address());
        fresh.restore(&believed).unwrap_or_else(|trouble| panic!("{trouble}: {}", context()));
        let restored = fresh.ask(&believed);
        assert_eq!(by_effect(&restored), by_effect(&truth), "restored: {}", context());
        assert_eq!(restored.prepared(), truth.prepared(), "restored statements: {}", context());
    }
}
