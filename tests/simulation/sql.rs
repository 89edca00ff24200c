//! What the scripted PostgreSQL makes of a statement: a handful of forms, transactions, settings, and pgmoor's own questions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgmoor::ids::Lsn;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cluster::Cluster;

/// The settings a server tells its clients of.
pub(crate) const REPORTED: [&str; 2] = ["application_name", "TimeZone"];

/// What a statement gives.
pub(crate) enum Answer {
    /// Columns by count, rows, and the command's tag.
    Rows(usize, Vec<Vec<Option<String>>>, String),
    Done(String),
    Error(&'static str, String),
    /// The rows are to come.
    CopyIn,
    /// The server process ends without a word.
    End,
}

/// Where a session is with its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    None,
    /// It ends with the Query, or at the Sync.
    Implicit,
    Explicit,
    Failed,
}

#[derive(Clone, Default)]
struct Savepoint {
    name: String,
    keys: usize,
    set: BTreeMap<String, String>,
}

/// One session on one pod.
pub(crate) struct Session {
    pub(crate) cluster: Cluster,
    pub(crate) pod: usize,
    pub(crate) backend: u64,
    pub(crate) stop: Arc<Notify>,
    cancel: Arc<AtomicBool>,
    pub(crate) user: String,
    pub(crate) block: Block,
    pub(crate) statements: BTreeMap<String, String>,
    /// From the startup packet, or PostgreSQL's own.
    pub(crate) defaults: BTreeMap<String, String>,
    pub(crate) set: BTreeMap<String, String>,
    local: BTreeMap<String, String>,
    channels: BTreeSet<String>,
    /// What stood when the transaction began.
    before: BTreeMap<String, String>,
    xid: Option<u64>,
    keys: Vec<u64>,
    savepoints: Vec<Savepoint>,
}

fn quoted(text: &str) -> Vec<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Whether a statement gives rows.
pub(crate) fn gives_rows(sql: &str) -> bool {
    sql.starts_with("SELECT") || sql.starts_with("SHOW")
}

/// How many columns the rows of a statement have.
pub(crate) fn width(sql: &str) -> usize {
    if sql.contains("pg_current_xact_id_if_assigned") {
        5
    } else if sql.contains("pg_listening_channels") {
        3
    } else if sql.contains("pg_walfile_name") {
        2
    } else {
        1
    }
}

impl Session {
    pub(crate) fn new(cluster: &Cluster, pod: usize, backend: u64) -> Self {
        let (stop, cancel) = match cluster.lock().pods[pod].backends.get(&backend) {
            Some(entered) => (Arc::clone(&entered.stop), Arc::clone(&entered.cancel)),
            None => Default::default(),
        };
        Self {
            cluster: cluster.clone(),
            pod,
            backend,
            stop,
            cancel,
            user: String::new(),
            block: Block::None,
            statements: BTreeMap::new(),
            defaults: BTreeMap::new(),
            set: BTreeMap::new(),
            local: BTreeMap::new(),
            channels: BTreeSet::new(),
            before: BTreeMap::new(),
            xid: None,
            keys: Vec::new(),
            savepoints: Vec::new(),
        }
    }

    pub(crate) fn setting(&self, name: &str) -> String {
        let found =
            [&self.local, &self.set, &self.defaults].into_iter().find_map(|map| map.get(&name.to_ascii_lowercase()));
        found.cloned().unwrap_or_default()
    }

    /// A transaction begins, unless one is open.
    fn begin(&mut self, block: Block) {
        if self.block == Block::None {
            self.before = self.set.clone();
        }
        if self.block != Block::Explicit {
            self.block = block;
        }
    }

    fn clear(&mut self) {
        self.block = Block::None;
        self.xid = None;
        self.keys.clear();
        self.savepoints.clear();
        self.local.clear();
    }

    /// The transaction is rolled back.
    pub(crate) fn abort(&mut self) {
        if let Some(xid) = self.xid {
            self.cluster.lock().pods[self.pod].running.remove(&xid);
        }
        if self.block != Block::None {
            self.set = std::mem::take(&mut self.before);
        }
        self.clear();
    }

    /// An error: the open block fails, an implicit one is over.
    pub(crate) fn failed(&mut self) {
        match self.block {
            Block::None | Block::Failed => {}
            Block::Implicit => self.abort(),
            Block::Explicit => self.block = Block::Failed,
        }
    }

    /// The transaction is committed, as durably as the cluster wants it. `false`: the process was told to end meanwhile.
    pub(crate) async fn commit(&mut self) -> bool {
        let Some(xid) = self.xid else {
            self.clear();
            return true;
        };
        let keys = std::mem::take(&mut self.keys);
        let (upto, late) = {
            let mut state = self.cluster.lock();
            let pod = &mut state.pods[self.pod];
            pod.write(xid, Some(keys.clone()));
            let upto = pod.wal.len();
            (upto, state.rng.below(4))
        };
        let mut served = true;
        sleep(Duration::from_millis(late)).await;
        self.cancel.store(false, Ordering::Relaxed);
        // PostgreSQL gives up waiting when it is cancelled, and says COMMIT all the same.
        while !self.cancel.load(Ordering::Relaxed) {
            {
                let mut state = self.cluster.lock();
                state.ship(self.pod);
                if state.is_safe(self.pod, upto) {
                    break;
                }
            }
            tokio::select! {
                biased;
                () = self.stop.notified() => { served = false; break }
                () = sleep(Duration::from_millis(25)) => {}
            }
        }
        let mut state = self.cluster.lock();
        state.pods[self.pod].show(xid, &keys);
        let (pod, backend) = (self.pod, self.backend);
        state.trace.say(format_args!("pg-{pod} #{backend} commits {xid}: {keys:?}"));
        drop(state);
        self.clear();
        served
    }

    /// Runs one statement. `block`: the transaction it begins, if none is open.
    pub(crate) async fn run(&mut self, sql: &str, parameters: &[String], block: Block) -> Answer {
        let mut sql = sql.trim().to_owned();
        for (index, value) in parameters.iter().enumerate() {
            sql = sql.replace(&format!("${}", index + 1), value);
        }
        let word = sql.split([' ', '(']).next().unwrap_or_default().to_ascii_uppercase();
        let ends = matches!(word.as_str(), "COMMIT" | "END" | "ROLLBACK");
        if self.block == Block::Failed && !ends {
            return Answer::Error("25P02", "current transaction is aborted".to_owned());
        }
        if matches!(word.as_str(), "SELECT" | "INSERT" | "COPY") {
            let late = self.cluster.lock().rng.below(8);
            if late < 3 {
                self.cancel.store(false, Ordering::Relaxed);
                sleep(Duration::from_millis(late)).await;
                if self.cancel.load(Ordering::Relaxed) {
                    return Answer::Error("57014", "canceling statement due to user request".to_owned());
                }
            }
        }
        match word.as_str() {
            "BEGIN" => {
                self.begin(Block::Explicit);
                self.block = Block::Explicit;
                Answer::Done("BEGIN".to_owned())
            }
            "COMMIT" | "END" => self.end().await,
            "ROLLBACK" if sql.starts_with("ROLLBACK TO ") => self.rewind(&sql["ROLLBACK TO ".len()..]),
            "ROLLBACK" => {
                self.abort();
                Answer::Done("ROLLBACK".to_owned())
            }
            "SAVEPOINT" => {
                let name = sql["SAVEPOINT ".len()..].to_owned();
                self.savepoints.push(Savepoint { name, keys: self.keys.len(), set: self.set.clone() });
                Answer::Done("SAVEPOINT".to_owned())
            }
            _ => {
                self.begin(block);
                self.plain(&word, &sql)
            }
        }
    }

    async fn end(&mut self) -> Answer {
        match self.block {
            Block::Failed => {
                self.abort();
                Answer::Done("ROLLBACK".to_owned())
            }
            Block::None | Block::Implicit | Block::Explicit => {
                if self.commit().await {
                    Answer::Done("COMMIT".to_owned())
                } else {
                    Answer::End
                }
            }
        }
    }

    fn rewind(&mut self, name: &str) -> Answer {
        let Some(at) = self.savepoints.iter().rposition(|savepoint| savepoint.name == name) else {
            return Answer::Error("3B001", format!("savepoint {name} does not exist"));
        };
        self.savepoints.truncate(at + 1);
        let savepoint = self.savepoints[at].clone();
        self.keys.truncate(savepoint.keys);
        self.set = savepoint.set;
        self.block = Block::Explicit;
        Answer::Done("ROLLBACK".to_owned())
    }

    fn plain(&mut self, word: &str, sql: &str) -> Answer {
        match word {
            "INSERT" => {
                let numbers = sql.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
                let keys: Vec<u64> = numbers.collect();
                self.insert(&keys, |count| format!("INSERT 0 {count}"))
            }
            "COPY" => Answer::CopyIn,
            "SELECT" => self.select(sql),
            "SET" => self.assign(sql),
            "SHOW" => Answer::Rows(1, vec![vec![Some(self.setting(&sql["SHOW ".len()..]))]], "SHOW".to_owned()),
            "RESET" if sql == "RESET ALL" => {
                self.set.clear();
                Answer::Done("RESET".to_owned())
            }
            "RESET" => {
                self.set.remove(&sql["RESET ".len()..].trim_matches('"').to_ascii_lowercase());
                Answer::Done("RESET".to_owned())
            }
            "LISTEN" => {
                self.channels.insert(sql["LISTEN ".len()..].trim_matches('"').to_owned());
                Answer::Done("LISTEN".to_owned())
            }
            "UNLISTEN" => {
                self.channels.remove(sql["UNLISTEN ".len()..].trim_matches('"'));
                Answer::Done("UNLISTEN".to_owned())
            }
            "DEALLOCATE" => {
                self.statements.remove(&sql["DEALLOCATE ".len()..]);
                Answer::Done("DEALLOCATE".to_owned())
            }
            _ => Answer::Error("42601", format!("syntax error at {sql:?}")),
        }
    }

    /// Writes rows. A key that is there already, for all this transaction sees, is a row too many.
    pub(crate) fn insert(&mut self, keys: &[u64], tag: impl FnOnce(usize) -> String) -> Answer {
        let (index, backend) = (self.pod, self.backend);
        let mut state = self.cluster.lock();
        let pod = &mut state.pods[self.pod];
        if pod.recovery {
            return Answer::Error("25006", "cannot execute INSERT in a read-only transaction".to_owned());
        }
        for key in keys {
            // Keys that end in 7 are unique.
            let there = pod.rows.contains_key(key) || self.keys.contains(key);
            if there && key % 10 == 7 {
                return Answer::Error("23505", format!("duplicate key {key}"));
            }
            let xid = *self.xid.get_or_insert_with(|| pod.assign(backend));
            pod.write(xid, None);
            self.keys.push(*key);
        }
        state.trace.say(format_args!("pg-{index} #{backend} inserts {keys:?}"));
        Answer::Done(tag(keys.len()))
    }

    fn assign(&mut self, sql: &str) -> Answer {
        let rest = sql["SET ".len()..].trim();
        let local = rest.strip_prefix("LOCAL ");
        let rest = local.unwrap_or(rest);
        let Some((name, value)) = rest.split_once('=') else {
            return Answer::Error("42601", format!("syntax error at {sql:?}"));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('\'').to_owned());
        if local.is_some() {
            self.local.insert(name, value)
        } else {
            self.set.insert(name, value)
        };
        Answer::Done("SET".to_owned())
    }

    fn select(&mut self, sql: &str) -> Answer {
        let count = |rows: &[Vec<Option<String>>]| format!("SELECT {}", rows.len());
        let rows: Vec<Vec<Option<String>>> = if sql.contains("set_config") {
            let words = quoted(sql);
            self.set.insert(words[0].to_ascii_lowercase(), words[1].clone());
            vec![vec![some(&words[1])]]
        } else if sql.contains("pg_current_xact_id_if_assigned") {
            vec![self.guard(sql)]
        } else if sql.contains("pg_listening_channels") {
            self.asked(sql)
        } else if sql.contains("pg_xact_status") {
            let xid = quoted(sql)[0].parse().unwrap();
            match self.cluster.lock().pods[self.pod].status(xid) {
                Some(status) => vec![vec![some(status)]],
                None => return Answer::Error("22023", "transaction ID is in the future".to_owned()),
            }
        } else if sql.contains("pg_walfile_name") {
            let state = self.cluster.lock();
            let pod = &state.pods[self.pod];
            if pod.recovery {
                return Answer::Error("55000", "recovery is in progress".to_owned());
            }
            vec![vec![Some(format!("{:08X}", pod.timeline)), Some(format!("era {}", pod.era))]]
        } else if sql.contains("pg_terminate_backend") {
            self.terminate(quoted(sql)[0].parse().unwrap())
        } else if sql.contains("pg_logical_emit_message") {
            let mut state = self.cluster.lock();
            let (pod, backend) = (&mut state.pods[self.pod], self.backend);
            let xid = *self.xid.get_or_insert_with(|| pod.assign(backend));
            pod.write(xid, None);
            vec![vec![Some(Lsn(pod.lsn()).to_string())]]
        } else {
            self.query(sql)
        };
        let (width, tag) = (width(sql), count(&rows));
        Answer::Rows(width, rows, tag)
    }

    /// Ends the process that runs this transaction.
    fn terminate(&self, xid: u64) -> Vec<Vec<Option<String>>> {
        let state = self.cluster.lock();
        let pod = &state.pods[self.pod];
        let owner = pod.running.get(&xid).filter(|owner| **owner != self.backend);
        let Some(backend) = owner.and_then(|owner| pod.backends.get(owner)) else { return Vec::new() };
        backend.stop.notify_one();
        vec![vec![some("t")]]
    }

    /// What the commit guard asks.
    fn guard(&self, sql: &str) -> Vec<Option<String>> {
        let mut state = self.cluster.lock();
        let pod = &mut state.pods[self.pod];
        let era = sql.contains("CASE WHEN t").then(|| format!("era {}", pod.era));
        let Some(xid) = self.xid else { return vec![None, None, None, era, some("on")] };
        pod.write(xid, None);
        let (lsn, timeline) = (Lsn(pod.lsn()).to_string(), format!("{:08X}", pod.timeline));
        vec![Some(xid.to_string()), Some(lsn), Some(timeline), era, some("on")]
    }

    /// What the session has built up.
    fn asked(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut rows: Vec<Vec<Option<String>>> = Vec::new();
        for (name, value) in self.set.iter().filter(|(name, _)| !name.contains('.')) {
            rows.push(vec![some("s"), some(name), some(value)]);
        }
        for custom in sql.split("UNION ALL SELECT 's', ").skip(1) {
            let name = quoted(custom)[0].clone();
            rows.push(vec![some("s"), some(&name), self.set.get(&name).cloned()]);
        }
        rows.push(vec![some("r"), some("none"), None]);
        rows.push(vec![some("u"), some(&self.user), None]);
        rows.extend(self.channels.iter().map(|channel| vec![some("l"), some(channel), None]));
        let named = self.statements.iter().filter(|(name, _)| !name.is_empty());
        rows.extend(named.map(|(name, text)| vec![some("p"), some(name), some(text)]));
        rows
    }

    /// A client's query.
    fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let number: u64 =
            sql.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).next_back().unwrap_or(0);
        if sql.starts_with("SELECT k FROM t WHERE c") {
            let state = self.cluster.lock();
            let mut seen = state.pods[self.pod].rows.clone();
            for key in &self.keys {
                *seen.entry(*key).or_insert(0) += 1;
            }
            let own = seen.range(number * 1_000_000..(number + 1) * 1_000_000);
            return own.flat_map(|(key, count)| vec![vec![Some(key.to_string())]; *count as usize]).collect();
        }
        if sql.starts_with("SELECT count") {
            let state = self.cluster.lock();
            let all: u32 = state.pods[self.pod].rows.values().sum();
            return vec![vec![Some((all as usize + self.keys.len()).to_string())]];
        }
        if sql.starts_with("SELECT wide") {
            return vec![vec![Some("w".repeat(number as usize))]];
        }
        (0..number).map(|row| vec![Some(format!("row {row:->60}"))]).collect()
    }
}
