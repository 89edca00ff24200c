//! Two thousand sessions through the loss of their primary: none is dropped, the new one meets no storm of logins,
//! pgmoor's memory stays bounded, and is given back when they leave. What it took is printed.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::print_stdout, reason = "measurements are part of what these tests tell")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "mass/crowd.rs"]
mod crowd;
#[path = "mass/door.rs"]
mod door;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::Config;

use crowd::{Member, Writers, answered, ask, done, log_in, say, spread};
use door::Door;
use pair::{Moor, Pair, Plan, psql, until};

const CROWD: usize = 2_000;
const WRITING: usize = 200;
/// Sessions after which pgmoor has all it keeps for good.
const WARM: usize = 100;
/// pgmoor's own defaults: logins at once on a new primary, at first and at most.
const RELEASE: (usize, usize) = (16, 64);
/// For everybody to be served, from the moment the new primary is proven, in a debug build on two busy cores.
const SERVED: Duration = Duration::from_secs(30);
/// Of pgmoor's memory, for one session.
const PER_SESSION: u64 = 64 * 1024;
/// Of pgmoor's memory, for what is not a session's: worker threads, the allocator's spare, a log being written.
const APART: u64 = 16 * 1024 * 1024;
/// A series of pgmoor's metrics: the sessions that have a backend.
const ATTACHED: &str = r#"pgmoor_sessions{endpoint="rw",state="attached"}"#;
/// The same, those that have none and want none.
const LOOSE: &str = r#"pgmoor_sessions{endpoint="rw",state="loose"}"#;

/// Runs one of these tests: alone, for each fills the machine.
fn alone(test: impl Future<Output = ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// A primary and its standby with room for everybody, and a pgmoor in front of them.
struct Scene {
    pair: Pair,
    moor: Moor,
    /// The way to the standby.
    door: Door,
    /// Bytes of pgmoor before anybody came.
    base: u64,
}

impl Scene {
    async fn set() -> Self {
        let pair = Pair::start(&format!("max_connections = {}\nautovacuum = off\n", CROWD + 100));
        psql(pair.a, crowd::TABLE);
        pair.caught_up();
        let door = Door::to(pair.b).await;
        let fixed = vec![("a".to_owned(), pair.a), ("b".to_owned(), door.address)];
        // Each with a backend of its own: that is the most that can want one at once.
        let pool = format!("mode = \"session\"\nsize = {0}\npod_size = {0}", CROWD + 50);
        let plan = Plan { fixed, pool, continuity: "hold = \"60s\"".to_owned(), ..pair.plan() };
        // Waits for what the tasks of this runtime relay.
        let moor = tokio::task::spawn_blocking(move || Moor::start(&plan)).await.unwrap();
        let base = moor.resident();
        Self { pair, moor, door, base }
    }

    async fn crowd(&self, count: usize) -> Vec<Member> {
        let began = Instant::now();
        let crowd = log_in(&self.moor.dsn().parse::<Config>().unwrap(), count).await;
        assert_eq!(self.moor.metric(ATTACHED), count as f64);
        let each = (self.moor.resident() - self.base) / count as u64;
        println!(
            "{count} sessions logged in within {:.1} s: {each} bytes of pgmoor each",
            began.elapsed().as_secs_f64()
        );
        assert!(each <= PER_SESSION, "{each} bytes each");
        crowd
    }

    /// When pgmoor proved the standby to be the primary, by its own log.
    fn proven(&self) -> Instant {
        let log = self.moor.log();
        let line = log.lines().find(|line| line.contains(" routing table ") && line.contains(" primary=b "));
        let stamp = line.and_then(|line| line.split(' ').next()).unwrap().to_owned();
        let proven: f64 =
            psql(self.pair.b, &format!("select extract(epoch from timestamptz '{stamp}')")).parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Instant::now() - (now - Duration::from_secs_f64(proven))
    }

    /// Nobody but those is connected to pgmoor or ever was, and each of them stands where it should.
    fn check(&self, crowd: &[Member], ever: usize) {
        let there = crowd.iter().filter(|member| member.is_there()).count();
        assert_eq!(there, crowd.len(), "connections dropped");
        assert_eq!(self.moor.metric(r#"pgmoor_connections_total{endpoint="rw"}"#), ever as f64);
        assert_eq!(self.moor.metric(ATTACHED), crowd.len() as f64);
        assert_eq!(self.moor.metric("pgmoor_holds"), 0.0);
    }

    /// The new primary's logins: each session came once, and never more at once than may.
    fn check_logins(&self, sessions: usize) {
        let count = self.door.count();
        println!(
            "the new primary's {} logins: {} at once at most, {} in one second at most, {} failed",
            count.succeeded(),
            count.most,
            count.per_second(),
            count.failed
        );
        assert_eq!((count.succeeded(), count.failed), (sessions, 0), "each session logs in once");
        assert!(count.most <= RELEASE.1, "{} at once", count.most);
        assert!(count.ahead <= RELEASE.0, "few at first, and more with each success: {}", count.ahead);
    }

    fn check_memory(&self, sessions: usize) {
        let peak = peak_of(self.moor.pid());
        let each = peak.saturating_sub(self.base) / sessions as u64;
        println!(
            "pgmoor's memory: {} MiB without sessions, {} MiB at most: {each} bytes each",
            self.base >> 20,
            peak >> 20
        );
        assert!(peak <= self.base + sessions as u64 * PER_SESSION + APART, "{peak} bytes at most");
    }
}

/// The most memory a process ever held, in bytes.
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn two_thousand_sessions_go_through_one_failover() {
    alone(async {
        let scene = Scene::set().await;
        let pair = &scene.pair;
        let crowd = scene.crowd(CROWD).await;
        // Whatever is acknowledged is on the standby, too.
        psql(pair.a, "alter system set synchronous_standby_names = '*'");
        psql(pair.a, "select pg_reload_conf()");
        let in_step = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')";
        until("the standby to be synchronous", || (psql(pair.a, in_step) == "1").then_some(()));
        let writers = Writers::start(&crowd[..WRITING]);
        let written = "select count(*) from (select from crowd group by writer having count(*) > 4) w";
        until("everybody to write", || (psql(pair.a, written) == WRITING.to_string()).then_some(()));

        pair.kill9();
        let lost = Instant::now();
        pair.promote();
        let books = writers.finish().await;
        let proven = scene.proven();
        let served: Vec<Instant> = books.iter().map(|book| book.first_after(proven).unwrap()).collect();
        let busy = *served.iter().max().unwrap() - proven;
        println!(
            "primary killed; new primary proven after {:.2} s; the last of {WRITING} writers served {:.2} s after that ({})",
            (proven - lost).as_secs_f64(),
            busy.as_secs_f64(),
            spread(served.iter().map(|at| *at - proven).collect()),
        );
        let asked = Instant::now();
        let served = answered(ask(&crowd)).await;
        let all = *served.iter().max().unwrap() - asked;
        println!(
            "then all {CROWD} ask at once: {}; from \"new primary proven\" to \"last session served\": {:.2} s busy and {:.2} s idle ones",
            spread(served.iter().map(|at| *at - asked).collect()),
            busy.as_secs_f64(),
            all.as_secs_f64(),
        );
        assert!(busy <= SERVED && all <= SERVED, "{busy:?}, {all:?}");
        scene.check(&crowd, CROWD);
        scene.check_logins(CROWD);
        scene.check_memory(CROWD);
        let rows: Vec<(i32, i32)> = psql(pair.b, "select writer || ' ' || n from crowd").lines().map(row).collect();
        println!("told to the writers: {:?}; 0 of {CROWD} connections dropped", crowd::audit(&books, &rows));
    });
}

/// The primary comes back, and is lost again while those who waited for it log in: nobody's turn is lost with it.
#[test]
fn the_primary_is_lost_again_while_the_held_are_released() {
    const HELD: usize = 600;
    alone(async {
        let scene = Scene::set().await;
        let Scene { pair, moor, .. } = &scene;
        let crowd = scene.crowd(HELD).await;
        pair.kill9();
        until("everybody to notice", || (moor.metric(ATTACHED) == 0.0).then_some(()));
        let asked = ask(&crowd);
        until("everybody to be held", || (moor.metric("pgmoor_holds") == HELD as f64).then_some(()));
        pair.restart();
        until("some to be served", || (moor.metric(ATTACHED) >= 30.0).then_some(()));
        pair.kill9();
        until("the others to be held", || (moor.metric(ATTACHED) == 0.0).then_some(()));
        let held = moor.metric("pgmoor_holds");
        assert!(held > 0.0, "all {HELD} were served before");
        pair.restart();
        let back = Instant::now();
        // The few whose question was under way when its server died may be told so.
        let mut lost = 0;
        for (number, asked) in asked.into_iter().enumerate() {
            match asked.await.unwrap().said {
                Ok(said) => assert_eq!(said, format!("{number} of the crowd")),
                Err(code) if matches!(code.as_str(), "08007" | "40001") => lost += 1,
                Err(other) => panic!("session {number}: {other}"),
            }
        }
        let served = back.elapsed();
        println!(
            "{held} of {HELD} held when the primary was lost for the second time; served {:.2} s after it was back; {lost} told that theirs was lost",
            served.as_secs_f64()
        );
        assert!(served <= SERVED, "{served:?}");
        assert!(lost <= RELEASE.1, "{lost} lost, and no more than log in at once were under way");
        answered(ask(&crowd)).await;
        scene.check(&crowd, HELD);
        scene.check_memory(HELD);
    });
}

/// Open transactions are run again on the new primary, all at once, and what is remembered of them is all they cost.
#[test]
fn five_hundred_open_transactions_go_through_one_failover() {
    const OPEN: usize = 500;
    const WRITTEN: usize = 64 * 1024;
    alone(async {
        let scene = Scene::set().await;
        let Scene { pair, moor, .. } = &scene;
        psql(pair.a, "create table note (writer int primary key, text text)");
        pair.caught_up();
        let crowd = scene.crowd(OPEN).await;
        done(say(&crowd, |_| "BEGIN".to_owned())).await;
        done(say(&crowd, |id| format!("INSERT INTO note VALUES ({id}, '{}')", "n".repeat(WRITTEN)))).await;
        pair.kill9();
        until("everybody to notice", || (moor.metric(ATTACHED) == 0.0).then_some(()));
        let (asked, said) = (Instant::now(), say(&crowd, |_| "COMMIT".to_owned()));
        pair.promote();
        done(said).await;
        let peak = peak_of(moor.pid());
        println!(
            "{OPEN} open transactions of {} KiB each: run again and committed {:.2} s after COMMIT was said; pgmoor's memory: {} MiB at most",
            WRITTEN >> 10,
            asked.elapsed().as_secs_f64(),
            peak >> 20
        );
        let there = "select count(*) || ' ' || min(length(text)) from note";
        assert_eq!(psql(pair.b, there), format!("{OPEN} {WRITTEN}"));
        scene.check(&crowd, OPEN);
        // A journal may have room for twice what it holds, for it grows by doubling.
        let limit = scene.base + OPEN as u64 * (PER_SESSION + 2 * WRITTEN as u64) + APART;
        assert!(peak <= limit, "{peak} bytes at most, {limit} allowed");
    });
}

fn row(line: &str) -> (i32, i32) {
    let (writer, n) = line.split_once(' ').unwrap();
    (writer.parse().unwrap(), n.parse().unwrap())
}

#[test]
fn two_thousand_sessions_ask_at_once_while_nobody_is_primary() {
    const LEAVING: usize = 200;
    alone(async {
        let scene = Scene::set().await;
        let Scene { pair, moor, .. } = &scene;
        let mut crowd = scene.crowd(CROWD).await;
        pair.kill9();
        until("everybody to notice", || (moor.metric(ATTACHED) == 0.0).then_some(()));
        let leavers = crowd.split_off(CROWD - LEAVING);
        let (_given_up, asked) = (ask(&leavers), ask(&crowd));
        until("everybody to be held", || (moor.metric("pgmoor_holds") == CROWD as f64).then_some(()));
        let hung_up = Instant::now();
        leavers.into_iter().for_each(Member::hang_up);
        until("the places of those who hung up", || {
            (moor.metric("pgmoor_holds") == (CROWD - LEAVING) as f64).then_some(())
        });
        println!(
            "{CROWD} held; the places of {LEAVING} who hung up were free after {} ms",
            hung_up.elapsed().as_millis()
        );
        assert!(hung_up.elapsed() < Duration::from_secs(3), "{:?}", hung_up.elapsed());

        pair.promote();
        let served = answered(asked).await;
        let proven = scene.proven();
        let last = *served.iter().max().unwrap() - proven;
        println!(
            "from \"new primary proven\" to \"last of {} held sessions served\": {:.2} s ({})",
            crowd.len(),
            last.as_secs_f64(),
            spread(served.iter().map(|at| at.saturating_duration_since(proven)).collect()),
        );
        assert!(last <= SERVED, "{last:?}");
        scene.check(&crowd, CROWD);
        scene.check_logins(crowd.len());
        scene.check_memory(CROWD);
    });
}

/// What sessions took is given back once they have left: of the memory of two thousand, hardly any stays.
#[test]
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), ignore = "glibc's allocator alone keeps it")]
fn what_two_thousand_sessions_took_is_given_back() {
    alone(async {
        let pair = Pair::start("");
        // What backends take is none of it.
        let moor = Moor::start(&Plan { pool: "size = 4".to_owned(), ..pair.plan() });
        let come = async |count| {
            let crowd = log_in(&moor.dsn().parse::<Config>().unwrap(), count).await;
            done(say(&crowd, |number| format!("SET app.kept = '{number:0>8000}'"))).await; // a setting of some size
            answered(ask(&crowd)).await;
            let most = moor.resident();
            crowd.into_iter().for_each(Member::hang_up);
            until("everybody to have left", || (moor.metric(LOOSE) == 0.0).then_some(()));
            most
        };
        // A few at first: their code is in memory then, and so are the backends.
        come(WARM).await;
        let base = moor.resident();
        let took = come(CROWD).await.saturating_sub(base);
        assert!(took > CROWD as u64 * 1024, "{took} bytes are too few to tell anything");
        let began = Instant::now();
        let stays = until("most of it to be given back", || {
            let stays = moor.resident().saturating_sub(base);
            (stays <= took / 5).then_some(stays)
        });
        println!("{CROWD} sessions took {took} bytes; {:?} after they had left, {stays} were there", began.elapsed());
    });
}
