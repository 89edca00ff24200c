//! Where the scenes play: a pair, a pgmoor, and the ways a scene's backends are lost.
//!
//! A scene is written once, from before the loss to after it. It is played by itself, its backends terminated under a
//! primary that stays; and all of them at once through one failover (`losses`).

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::pair::{Moor, PATIENCE, Pair, until};
use super::raw::{Raw, Reply, query};

/// One scene's play.
pub(crate) type Play = fn(&Scene);

/// A pair and a pgmoor in front of it.
pub(crate) struct Stage {
    pub(crate) moor: Moor,
    pub(crate) pair: Pair,
    promoted: Mutex<bool>,
}

impl Stage {
    /// A fresh one, with two tables for readers: `wide` has 100,000 rows, `huge` has 40 of 1 MiB.
    pub(crate) fn raise() -> Self {
        let pair = Pair::start("max_connections = 400\nmax_prepared_transactions = 20");
        let mut raw = direct(pair.a, "stage", "public");
        for sql in [
            "create table wide (id int primary key, body text)",
            "insert into wide select g, md5(g::text) from generate_series(1, 100000) g",
            "create table huge (id int primary key, body text)",
            "insert into huge select g, repeat(md5(g::text), 32768) from generate_series(1, 40) g",
            "create extension dblink",
            "vacuum analyze",
        ] {
            assert_eq!(raw.run(sql).code(), "", "{sql}");
        }
        pair.caught_up();
        let moor = pair.moor();
        Self { moor, pair, promoted: Mutex::new(false) }
    }

    /// Where the primary is now.
    pub(crate) fn primary(&self) -> SocketAddr {
        let promoted = *self.promoted.lock().unwrap_or_else(PoisonError::into_inner);
        if promoted { self.pair.b } else { self.pair.a }
    }

    /// Makes the standby the primary.
    pub(crate) fn promote(&self) {
        self.pair.promote();
        *self.promoted.lock().unwrap() = true;
    }

    /// Ends these sessions' backends on the primary, and waits until they are gone.
    pub(crate) fn terminate(&self, name: &str) {
        let mut raw = direct(self.primary(), "terminator", "public");
        let ended = raw.run(&format!(
            "select pid, pg_terminate_backend(pid) from pg_stat_activity where application_name = '{name}'"
        ));
        assert!(!ended.rows.is_empty(), "{name} has no backend");
        let pids: Vec<&str> = ended.rows.iter().filter_map(|row| row[0].as_deref()).collect();
        // They leave pg_stat_activity before they close their connections.
        let gone = |pid: &&str| !std::path::Path::new("/proc").join(pid).exists();
        until("the backends to end", || pids.iter().all(gone).then_some(()));
    }
}

/// A connection past pgmoor.
pub(crate) fn direct(server: SocketAddr, name: &str, schema: &str) -> Raw {
    Raw::login_with(server, &[("application_name", name), ("search_path", schema)])
}

/// The stage of those who play by themselves.
pub(crate) fn shared() -> Arc<Stage> {
    static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stage) = shared.upgrade() {
        return stage;
    }
    let stage = Arc::new(Stage::raise());
    *shared = Arc::downgrade(&stage);
    stage
}

/// Plays one scene by itself.
pub(crate) fn alone(name: &str, play: Play) {
    let stage = shared();
    play(&Scene::new(stage, name, None));
}

/// Where all scenes wait for what befalls them together.
pub(crate) struct Curtain {
    awaited: Mutex<usize>,
    fallen: Mutex<bool>,
    changed: Condvar,
}

impl Curtain {
    pub(crate) fn new(scenes: usize) -> Self {
        Self { awaited: Mutex::new(scenes), fallen: Mutex::new(false), changed: Condvar::new() }
    }

    /// One of them is ready, or has failed before it was.
    pub(crate) fn arrive(&self) {
        *self.awaited.lock().unwrap() -= 1;
    }

    /// Waits for all of them.
    pub(crate) fn gather(&self) {
        until("all scenes to be ready", || (*self.awaited.lock().unwrap() == 0).then_some(()));
    }

    /// It has happened.
    pub(crate) fn fall(&self) {
        *self.fallen.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut fallen = self.fallen.lock().unwrap();
        while !*fallen {
            assert!(Instant::now() < deadline, "nothing happened");
            fallen = self.changed.wait_timeout(fallen, PATIENCE).unwrap().0;
        }
    }
}

/// One scene: a schema of its own, with a table `t` and a table `gate` of one row.
pub(crate) struct Scene {
    pub(crate) stage: Arc<Stage>,
    pub(crate) name: String,
    curtain: Option<Arc<Curtain>>,
    arrived: Mutex<bool>,
}

impl Scene {
    pub(crate) fn new(stage: Arc<Stage>, name: &str, curtain: Option<Arc<Curtain>>) -> Self {
        let scene = Self { stage, name: name.to_owned(), curtain, arrived: Mutex::new(false) };
        let mut raw = scene.witness();
        for sql in [
            &format!("create schema {name}"),
            "create table t (id int primary key, body text)",
            "create table gate (id int)",
            "insert into gate values (1)",
        ] {
            assert_eq!(raw.run(sql).code(), "", "{sql}");
        }
        scene
    }

    /// A client of pgmoor.
    pub(crate) fn client(&self) -> Raw {
        self.client_of(&self.stage.moor)
    }

    /// A client of another pgmoor.
    pub(crate) fn client_of(&self, moor: &Moor) -> Raw {
        Raw::login_with(moor.rw(), &[("application_name", &self.name), ("search_path", &self.path())])
    }

    /// A connection past pgmoor to the primary there is now.
    pub(crate) fn witness(&self) -> Raw {
        self.settle();
        direct(self.stage.primary(), "witness", &self.path())
    }

    fn path(&self) -> String {
        format!("{},public", self.name)
    }

    /// After the loss: waits until there is a primary again.
    fn settle(&self) {
        if let Some(curtain) = &self.curtain
            && *self.arrived.lock().unwrap()
        {
            curtain.wait();
            until("the promotion", || (self.stage.primary() == self.stage.pair.b).then_some(()));
        }
    }

    /// A further loss: its backends are ended under a primary that stays.
    pub(crate) fn lose_again(&self) {
        self.settle();
        self.stage.terminate(&self.name);
    }

    /// The backends of this scene's clients are lost. With a failover: the next primary may not be there yet.
    pub(crate) fn lose(&self) {
        match &self.curtain {
            None => self.stage.terminate(&self.name),
            Some(curtain) => {
                self.arrive();
                curtain.wait();
            }
        }
    }

    /// Its part before the loss is over, well or badly.
    pub(crate) fn arrive(&self) {
        if let Some(curtain) = &self.curtain
            && !std::mem::replace(&mut *self.arrived.lock().unwrap(), true)
        {
            curtain.arrive();
        }
    }

    /// Shuts the gate: whoever reads table `gate` waits.
    pub(crate) fn gate(&self) -> Gate {
        let mut holder = self.witness();
        holder.run("begin");
        holder.say("lock table gate in access exclusive mode", "LOCK TABLE T");
        Gate { holder }
    }

    /// Waits until so many of its sessions stand before the gate.
    pub(crate) fn until_blocked(&self, count: usize) {
        self.until_seen("wait_event_type = 'Lock'", count);
    }

    /// Waits until so many of its backends look like this in `pg_stat_activity`.
    pub(crate) fn until_seen(&self, condition: &str, count: usize) {
        let mut raw = self.witness();
        let sql =
            format!("select count(*) from pg_stat_activity where application_name = '{}' and {condition}", self.name);
        until(condition, || (raw.run(&sql).one() == count.to_string()).then_some(()));
    }

    /// What the primary really holds.
    #[track_caller]
    pub(crate) fn holds(&self, sql: &str, wanted: &str) {
        let reply = self.witness().run(sql);
        assert_eq!(rows(&reply), wanted, "{sql}: {reply:?}");
    }
}

/// Who holds a gate shut.
pub(crate) struct Gate {
    holder: Raw,
}

impl Gate {
    /// Lets everybody through. After a crash there is nothing left to open.
    pub(crate) fn open(mut self) {
        self.holder.put(&query("rollback"));
        let _ = self.holder.reply();
    }
}

/// A client's talk in short.
pub(crate) trait Talk {
    /// Runs a simple query, and wants this answer: see [`said`].
    fn say(&mut self, sql: &str, wanted: &str);
    /// Wants this answer.
    fn hear(&mut self, wanted: &str);
}

impl Talk for Raw {
    #[track_caller]
    fn say(&mut self, sql: &str, wanted: &str) {
        let reply = self.run(sql);
        assert_eq!(said(&reply), wanted, "{sql}: {reply:?}");
    }

    #[track_caller]
    fn hear(&mut self, wanted: &str) {
        let reply = self.reply();
        assert_eq!(said(&reply), wanted, "{reply:?}");
    }
}

/// An answer in short: its rows, command tags, SQLSTATEs (`!40001`) and the transaction status.
pub(crate) fn said(reply: &Reply) -> String {
    let codes = reply.errors.iter().map(|(code, _)| format!("!{code}"));
    let rows = std::iter::once(rows(reply)).filter(|rows| !rows.is_empty());
    let words = rows.chain(reply.done.iter().cloned()).chain(codes).chain([reply.status.to_string()]);
    words.collect::<Vec<_>>().join(" ")
}

/// Its rows in short.
pub(crate) fn rows(reply: &Reply) -> String {
    let fields = |row: &Vec<Option<String>>| {
        row.iter().map(|field| field.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(",")
    };
    reply.rows.iter().map(fields).collect::<Vec<_>>().join(" ")
}

/// The sum of a counter's series whose labels contain all of these.
pub(crate) fn counted(moor: &Moor, name: &str, labels: &[&str]) -> f64 {
    let (_, body) = moor.get("/metrics").unwrap();
    let series = body.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Lists scenes for the failovers, and makes each a test of its own.
macro_rules! scenes {
    ($($name:ident),* $(,)?) => {
        pub(crate) const SCENES: &[(&str, crate::stage::Play)] = &[$((stringify!($name), $name)),*];
        mod alone {
            $(#[test]
            fn $name() {
                crate::stage::alone(stringify!($name), super::$name);
            })*
        }
    };
}
pub(crate) use scenes;
