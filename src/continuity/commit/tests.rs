//! Each case by itself, then any: a small model of servers, their WAL and their ids, against which no verdict may be wrong.

use std::collections::BTreeMap;

use super::*;

fn mark(xid: u64, lsn: u64, timeline: u32) -> Mark {
    Mark {
        pod: PodName::new("pg-0"),
        xid: Some(xid),
        lsn: Some(Lsn(lsn)),
        timeline: Timeline(timeline),
        era: Some("monday".to_owned()),
        durability: Durability::On,
    }
}

fn witness(pod: &str, timeline: u32, status: Status) -> Witness {
    Witness {
        pod: PodName::new(pod),
        status,
        timeline: Timeline(timeline),
        era: Some("monday".to_owned()),
        resumed: false,
    }
}

fn history(timeline: u32, ancestors: &[(u32, u64)]) -> History {
    let lines: String = ancestors.iter().map(|(timeline, end)| format!("{timeline}\t{}\tx\n", Lsn(*end))).collect();
    History::parse(Timeline(timeline), &lines).unwrap()
}

const STATUSES: [Status; 5] =
    [Status::Committed, Status::Aborted, Status::InProgress, Status::Forgotten, Status::Failed];

/// What each status means where it may be believed.
const BELIEVED: [Verdict; 5] = [
    Verdict::Committed,
    Verdict::Lost,
    Verdict::Pending,
    Verdict::Unknown(Why::Forgotten),
    Verdict::Unknown(Why::NotTold),
];

/// The verdicts for every status in turn.
fn verdicts(mark: &Mark, pod: &str, timeline: u32, history: Option<&History>) -> [Verdict; 5] {
    STATUSES.map(|status| judge(mark, &witness(pod, timeline, status), history))
}

#[test]
fn the_same_primary_alive_knows() {
    assert_eq!(verdicts(&mark(725, 100, 3), "pg-0", 3, None), BELIEVED);
    // Its own history changes nothing.
    assert_eq!(verdicts(&mark(725, 100, 3), "pg-0", 3, Some(&history(3, &[(2, 50)]))), BELIEVED);
}

#[test]
fn the_same_timeline_is_believed_only_of_the_same_server_without_a_crash() {
    let alive = mark(725, 100, 3);
    assert_eq!(verdicts(&alive, "pg-1", 3, None), [Verdict::Unknown(Why::OtherServer); 5]);
    for (before, after) in
        [(Some("monday"), Some("tuesday")), (None, Some("monday")), (Some("monday"), None), (None, None)]
    {
        let mark = Mark { era: before.map(str::to_owned), ..alive.clone() };
        for status in STATUSES {
            let witness = Witness { era: after.map(str::to_owned), ..witness("pg-0", 3, status) };
            assert_eq!(judge(&mark, &witness, None), Verdict::Unknown(Why::Crash), "{before:?} {after:?} {status:?}");
        }
    }
}

#[test]
fn a_later_timeline_is_believed_up_to_the_switch_point() {
    let left_at = |end| history(4, &[(1, 7), (2, 8), (3, end)]);
    // Whoever was promoted, if it has not crashed itself.
    for pod in ["pg-0", "pg-1"] {
        assert_eq!(verdicts(&mark(725, 100, 3), pod, 4, Some(&left_at(99))), [Verdict::Lost; 5], "above");
        assert_eq!(verdicts(&mark(725, 100, 3), pod, 4, Some(&left_at(100))), BELIEVED, "at");
        assert_eq!(verdicts(&mark(725, 100, 3), pod, 4, Some(&left_at(101))), BELIEVED, "below");
    }
    let unmarked = Mark { era: None, ..mark(725, 100, 3) };
    assert_eq!(verdicts(&unmarked, "pg-1", 4, Some(&left_at(101))), BELIEVED);
}

#[test]
fn a_timeline_that_was_taken_up_again_is_believed_only_what_it_has_lost() {
    let left_at = |end| history(4, &[(3, end)]);
    let ask = |end, status| {
        let witness = Witness { resumed: true, ..witness("pg-1", 4, status) };
        judge(&mark(725, 100, 3), &witness, Some(&left_at(end)))
    };
    assert_eq!(STATUSES.map(|status| ask(99, status)), [Verdict::Lost; 5]);
    assert_eq!(ask(100, Status::Committed), Verdict::Unknown(Why::Crash));
    assert_eq!(STATUSES[1..].iter().map(|status| ask(100, *status)).collect::<Vec<_>>(), BELIEVED[1..]);
}

#[test]
fn a_timeline_that_its_own_server_took_up_again_is_believed_only_what_it_has_lost() {
    // Patroni recovers a crashed primary on its old timeline, ends it there with a checkpoint, and promotes it to the next
    // one: the timeline goes further than what the crash had left of it.
    let left_at = |end| history(4, &[(3, end)]);
    for (before, after) in
        [(Some("monday"), Some("tuesday")), (None, Some("monday")), (Some("monday"), None), (None, None)]
    {
        let mark = Mark { era: before.map(str::to_owned), ..mark(725, 100, 3) };
        let ask = |end, status| {
            let witness = Witness { era: after.map(str::to_owned), ..witness("pg-0", 4, status) };
            judge(&mark, &witness, Some(&left_at(end)))
        };
        assert_eq!(STATUSES.map(|status| ask(99, status)), [Verdict::Lost; 5]);
        assert_eq!(ask(100, Status::Committed), Verdict::Unknown(Why::Crash), "{before:?} {after:?}");
        assert_eq!(STATUSES[1..].iter().map(|status| ask(100, *status)).collect::<Vec<_>>(), BELIEVED[1..]);
    }
}

#[test]
fn timelines_two_ahead() {
    let marked = mark(725, 100, 3);
    let far = |end| history(5, &[(3, end), (4, 200)]);
    assert_eq!(verdicts(&marked, "pg-2", 5, Some(&far(100))), BELIEVED);
    assert_eq!(verdicts(&marked, "pg-2", 5, Some(&far(99))), [Verdict::Lost; 5]);
    // Timeline 4 left 3 behind the mark, but 5 left 4 where that had not come yet: the history says so in one line.
    assert_eq!(verdicts(&marked, "pg-2", 5, Some(&history(5, &[(3, 150), (4, 90)]))), [Verdict::Lost; 5]);
}

#[test]
fn a_missing_history_is_no_proof() {
    let marked = mark(725, 100, 3);
    assert_eq!(verdicts(&marked, "pg-1", 4, None), [Verdict::Unknown(Why::NoHistory); 5]);
    // Another timeline's, older or newer.
    for other in [history(3, &[(2, 50)]), history(5, &[(3, 500), (4, 600)])] {
        assert_eq!(verdicts(&marked, "pg-1", 4, Some(&other)), [Verdict::Unknown(Why::NoHistory); 5]);
    }
    assert_eq!(verdicts(&marked, "pg-1", 4, Some(&History::first())), [Verdict::Unknown(Why::NoHistory); 5]);
}

#[test]
fn a_branch_beside_the_marks_is_known_by_an_ancestor_of_both() {
    let marked = mark(725, 100, 3);
    assert_eq!(verdicts(&marked, "pg-1", 4, Some(&history(4, &[(2, 500)]))), [Verdict::Lost; 5]);
    assert_eq!(verdicts(&marked, "pg-1", 6, Some(&history(6, &[(1, 10), (5, 500)]))), [Verdict::Lost; 5]);
    // Cut short: its beginning may have been the mark's timeline.
    assert_eq!(verdicts(&marked, "pg-1", 6, Some(&history(6, &[(5, 500)]))), [Verdict::Unknown(Why::ShortHistory); 5]);
}

#[test]
fn a_timeline_that_goes_back_is_never_believed() {
    for pod in ["pg-0", "pg-1"] {
        let back = verdicts(&mark(725, 100, 3), pod, 2, Some(&history(2, &[(1, 50)])));
        assert_eq!(back, [Verdict::Unknown(Why::WentBack); 5]);
    }
}

#[test]
fn without_an_id_nothing_was_written() {
    let empty = Mark { xid: None, lsn: None, timeline: Timeline(0), ..mark(0, 0, 3) };
    for (pod, timeline) in [("pg-0", 3), ("pg-1", 3), ("pg-1", 4), ("pg-1", 1)] {
        assert_eq!(verdicts(&empty, pod, timeline, None), [Verdict::Lost; 5]);
    }
    let torn = Mark { lsn: None, ..mark(725, 0, 3) };
    assert_eq!(verdicts(&torn, "pg-0", 3, None), [Verdict::Unknown(Why::NoPlace); 5]);
}

#[test]
fn words_of_durability() {
    for durability in Durability::ALL {
        assert_eq!(Durability::read(durability.as_str()), Some(durability));
    }
    assert_eq!(Durability::read("true"), None);
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    fn one_in(&mut self, most: u64) -> bool {
        self.below(most) == 0
    }
}

/// One WAL record. Its place is its index; its end is one more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// The id it carries.
    xid: u64,
    kind: Kind,
    /// Which transaction wrote it, whatever its id: what the verdict may not know.
    whose: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Commit,
    Abort,
    Prepare,
}

/// A transaction under way.
#[derive(Clone, Debug)]
struct Running {
    whose: u64,
    /// Ids of its subtransactions.
    subs: Vec<u64>,
    prepared: bool,
}

#[derive(Clone, Debug)]
struct Server {
    wal: Vec<Record>,
    /// What is on disk: a crash keeps at least that.
    flushed: usize,
    timeline: u32,
    ancestors: Vec<(u32, u64)>,
    era: u64,
    next_xid: u64,
    running: BTreeMap<u64, Running>,
}

impl Server {
    fn write(&mut self, xid: u64, kind: Kind, whose: u64) {
        self.wal.push(Record { xid, kind, whose });
    }

    fn give_xid(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    /// Recovery: the WAL is all there is. Only prepared transactions go on.
    fn recover(&mut self) {
        self.running.clear();
        self.next_xid = 3;
        for record in &self.wal {
            self.next_xid = self.next_xid.max(record.xid + 1);
            match record.kind {
                Kind::Prepare => {
                    let prepared = Running { whose: record.whose, subs: Vec::new(), prepared: true };
                    self.running.insert(record.xid, prepared);
                }
                Kind::Commit | Kind::Abort => drop(self.running.remove(&record.xid)),
                Kind::Data => {}
            }
        }
    }

    fn status(&self, xid: u64) -> Status {
        if xid >= self.next_xid {
            return Status::Failed;
        }
        if self.running.contains_key(&xid) {
            return Status::InProgress;
        }
        let end = self.wal.iter().rev().find(|record| record.xid == xid && record.kind != Kind::Data);
        match end.map(|record| record.kind) {
            Some(Kind::Commit) => Status::Committed,
            Some(Kind::Abort | Kind::Prepare | Kind::Data) | None => Status::Aborted,
        }
    }

    /// Another client's work.
    fn traffic(&mut self, dice: &mut Dice, whose: &mut u64) {
        for _ in 0..dice.below(4) {
            *whose += 1;
            let xid = self.give_xid();
            if !dice.one_in(3) {
                self.write(xid, Kind::Data, *whose);
            }
            match dice.below(4) {
                0 => drop(self.running.insert(xid, Running { whose: *whose, subs: Vec::new(), prepared: false })),
                1 => self.write(xid, Kind::Abort, *whose),
                _ => self.write(xid, Kind::Commit, *whose),
            }
        }
    }

    fn mark(&self, name: &str, xid: u64, lsn: usize) -> Mark {
        let (lsn, era) = (Lsn(lsn as u64), Some(self.era.to_string()));
        let (pod, timeline) = (PodName::new(name), Timeline(self.timeline));
        Mark { pod, xid: Some(xid), lsn: Some(lsn), timeline, era, durability: Durability::On }
    }

    fn witness(&self, name: &str, xid: u64, resumed: bool) -> Witness {
        let (status, timeline) = (self.status(xid), Timeline(self.timeline));
        Witness { pod: PodName::new(name), status, timeline, era: Some(self.era.to_string()), resumed }
    }

    fn history(&self) -> History {
        if self.timeline == 1 { History::first() } else { history(self.timeline, &self.ancestors) }
    }
}

/// A transaction's life up to its COMMIT, or not quite.
struct Work {
    mark: Mark,
    whose: u64,
    xid: u64,
}

/// Writes with or without WAL, in subtransactions or not; makes the mark. The COMMIT may be sent, reach the server, and run.
fn work(server: &mut Server, name: &str, dice: &mut Dice, whose: &mut u64) -> Work {
    *whose += 1;
    let own = *whose;
    let xid = server.give_xid();
    let mut subs = Vec::new();
    server.running.insert(xid, Running { whose: own, subs: Vec::new(), prepared: false });
    for _ in 0..dice.below(3) {
        server.traffic(dice, whose);
        let writer = if dice.one_in(2) { xid } else { server.give_xid() };
        subs.extend((writer != xid).then_some(writer));
        if dice.one_in(2) {
            server.write(writer, Kind::Data, own); // else to an unlogged table
        }
    }
    server.traffic(dice, whose);
    let writer = if dice.one_in(3) { server.give_xid() } else { xid };
    subs.extend((writer != xid).then_some(writer));
    server.write(writer, Kind::Data, own);
    let mark = server.mark(name, xid, server.wal.len());
    server.traffic(dice, whose);
    match dice.below(6) {
        0 | 1 => {
            server.running.remove(&xid);
            server.write(xid, Kind::Commit, own);
        }
        2 => {
            server.running.remove(&xid);
            server.write(xid, Kind::Abort, own);
        }
        3 => {
            server.write(xid, Kind::Prepare, own);
            server.running.insert(xid, Running { whose: own, subs, prepared: true });
        }
        _ => drop(server.running.insert(xid, Running { whose: own, subs, prepared: false })),
    }
    Work { mark, whose: own, xid }
}

/// The servers of one run; `primary` leads.
struct World {
    servers: [Server; 3],
    primary: usize,
    /// Timelines that were ever begun: nobody begins one twice, as with a common archive.
    newest: u32,
    eras: u64,
    /// Timelines that were taken up again after a crash.
    resumed: Vec<u32>,
}

const NAMES: [&str; 3] = ["pg-0", "pg-1", "pg-2"];

impl World {
    fn new() -> Self {
        let server = |era| Server {
            wal: Vec::new(),
            flushed: 0,
            timeline: 1,
            ancestors: Vec::new(),
            era,
            next_xid: 3,
            running: BTreeMap::new(),
        };
        Self { servers: [server(1), server(2), server(3)], primary: 0, newest: 1, eras: 3, resumed: Vec::new() }
    }

    fn leader(&mut self) -> &mut Server {
        &mut self.servers[self.primary]
    }

    fn new_era(&mut self) -> u64 {
        self.eras += 1;
        self.eras
    }

    /// One thing that happens to a cluster.
    fn happen(&mut self, what: u64, dice: &mut Dice, whose: &mut u64) {
        match what {
            0 => self.leader().traffic(dice, whose),
            1 => {
                let leader = self.leader();
                leader.flushed += dice.below((leader.wal.len() - leader.flushed) as u64 + 1) as usize;
            }
            2 => self.stream(dice),
            3 => self.promote(dice),
            4 => {
                // A crash: what was not flushed is lost, and the timeline goes on.
                let era = self.new_era();
                let leader = self.leader();
                let kept = leader.flushed + dice.below((leader.wal.len() - leader.flushed) as u64 + 1) as usize;
                leader.wal.truncate(kept);
                leader.flushed = kept;
                leader.era = era;
                leader.recover();
                let timeline = leader.timeline;
                self.resumed.push(timeline);
            }
            7 => self.crash_and_promote(dice),
            5 => {
                // A shutdown and a start: nothing is lost but what was running, and all ids stay used.
                let leader = self.leader();
                leader.running.retain(|_, running| running.prepared);
                leader.flushed = leader.wal.len();
            }
            _ => self.end_one(dice),
        }
    }

    /// A standby receives more: all it has must be the primary's, else it is copied anew.
    fn stream(&mut self, dice: &mut Dice) {
        let mut leader = self.leader().clone();
        leader.wal.truncate(leader.flushed); // nothing else is sent
        let standby = (self.primary + 1 + dice.below(2) as usize) % 3;
        let era = self.new_era();
        let standby = &mut self.servers[standby];
        if leader.wal.len() < standby.wal.len() || leader.wal[..standby.wal.len()] != standby.wal[..] {
            standby.wal.clear();
            standby.era = era;
        }
        let more = dice.below((leader.wal.len() - standby.wal.len()) as u64 + 1) as usize;
        standby.wal.extend_from_slice(&leader.wal[standby.wal.len()..][..more]);
        (standby.timeline, standby.ancestors) = (leader.timeline, leader.ancestors);
        standby.flushed = standby.wal.len();
        standby.recover();
    }

    /// A standby takes over with what it has received; the old primary is left behind.
    fn promote(&mut self, dice: &mut Dice) {
        self.primary = (self.primary + 1 + dice.below(2) as usize) % 3;
        self.newest += 1;
        let newest = self.newest;
        let era = self.new_era();
        let leader = self.leader();
        // One that led before was started again for this: with what it had on disk.
        leader.wal.truncate(leader.flushed);
        leader.era = era;
        let end = leader.wal.len() as u64;
        leader.ancestors.push((leader.timeline, end));
        leader.timeline = newest;
        leader.recover();
    }

    /// The primary crashes, and is promoted by itself: nobody has seen it write on its old timeline again, and yet it did.
    fn crash_and_promote(&mut self, dice: &mut Dice) {
        self.newest += 1;
        let (newest, era) = (self.newest, self.new_era());
        let leader = self.leader();
        let kept = leader.flushed + dice.below((leader.wal.len() - leader.flushed) as u64 + 1) as usize;
        leader.wal.truncate(kept);
        // Checkpoints.
        for _ in 0..dice.below(5) {
            leader.write(0, Kind::Data, 0);
        }
        (leader.flushed, leader.era) = (leader.wal.len(), era);
        leader.ancestors.push((leader.timeline, leader.flushed as u64));
        leader.timeline = newest;
        leader.recover();
    }

    /// One of the running transactions ends, or is prepared.
    fn end_one(&mut self, dice: &mut Dice) {
        let leader = self.leader();
        let Some(xid) = leader.running.keys().nth(dice.below(4) as usize).copied() else { return };
        let kind = if dice.one_in(2) { Kind::Commit } else { Kind::Abort };
        if let Some(running) = leader.running.remove(&xid) {
            leader.write(xid, kind, running.whose);
            for sub in running.subs {
                leader.write(sub, kind, running.whose);
            }
        }
    }
}

#[test]
fn no_verdict_is_ever_wrong() {
    let mut seen: BTreeMap<Verdict, u64> = BTreeMap::new();
    let mut reused = 0;
    for seed in 0..60_000 {
        let mut dice = Dice(seed);
        let (mut world, mut whose) = (World::new(), 0);
        for _ in 0..dice.below(6) {
            world.happen(dice.below(8), &mut dice, &mut whose);
        }
        let name = NAMES[world.primary];
        let work = work(world.leader(), name, &mut dice, &mut whose);
        world.resumed.clear();
        for at in 0..dice.below(8) as usize {
            // Often what it takes for a trap: a crash, new work, a standby that follows and takes over, or not.
            let what = match seed % 4 {
                0 | 1 => dice.below(8),
                2 => [4, 0, 0, 1, 2, 2, 3][at],
                _ => [7, 0, 0, 1, 2, 0, 1][at],
            };
            world.happen(what, &mut dice, &mut whose);
        }
        let witness = world.servers[world.primary].witness(
            NAMES[world.primary],
            work.xid,
            world.resumed.contains(&work.mark.timeline.0),
        );
        let history = (!dice.one_in(10)).then(|| world.leader().history());
        let verdict = judge(&work.mark, &witness, history.as_ref());
        *seen.entry(verdict).or_default() += 1;

        let leader = &world.servers[world.primary];
        let committed = leader
            .wal
            .iter()
            .any(|record| record.whose == work.whose && record.xid == work.xid && record.kind == Kind::Commit);
        let running = leader.running.get(&work.xid).is_some_and(|running| running.whose == work.whose);
        let given_again = leader.wal.iter().any(|record| record.xid == work.xid && record.whose != work.whose);
        reused += u64::from(given_again);
        let tell = || {
            format!("seed {seed}: {:?}, {witness:?}, {history:?}, {:?}", work.mark, world.servers[world.primary].wal)
        };
        match verdict {
            Verdict::Committed => assert!(committed, "{}", tell()),
            Verdict::Lost => assert!(!committed && !running, "{}", tell()),
            Verdict::Pending => {
                assert!((running || may_have_resumed(&work.mark, &witness)) && !committed, "{}", tell());
            }
            Verdict::Unknown(_) => {}
        }
    }
    // The runs were worth something: every verdict came up often, and so did the trap.
    for verdict in [
        Verdict::Committed,
        Verdict::Lost,
        Verdict::Pending,
        Verdict::Unknown(Why::Crash),
        Verdict::Unknown(Why::NoHistory),
    ] {
        assert!(seen.get(&verdict).is_some_and(|count| *count > 500), "{verdict:?}: {seen:?}");
    }
    assert!(reused > 500, "ids given out again: {reused}");
}
