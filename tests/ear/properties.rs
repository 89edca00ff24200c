//! What holds for the pure machine whatever its listeners want and whatever becomes of its server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgmoor::continuity::ear::{CATCH_UP, Channel, Ear, GRACE, ListenerId, Moment, Said, Standing};
use pgmoor::ids::PodId;
use pgmoor::wire::TxStatus;
use pgmoor::wire::message::write::backend as write;
use pgmoor::wire::message::{ErrorFields, Severity};
use proptest::prelude::*;

/// Names; no server takes the last.
const NAMES: [&str; 5] = ["a", "b", "c\"d", "e", ""];

#[derive(Clone, Debug)]
enum Step {
    Enter,
    Leave(usize),
    Want(usize, usize),
    Unwant(usize, usize),
    /// The ear says what it has to say.
    Ask,
    /// The server does what it was asked.
    Obey,
    /// Somebody notifies.
    Notify(usize),
    /// A frame of the server arrives.
    Arrive,
    Seat(bool),
    Unseat,
    Aim(Option<bool>),
    Moment,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let listener = 0..6_usize;
    let name = 0..NAMES.len();
    prop_oneof![
        2 => Just(Step::Enter),
        1 => listener.clone().prop_map(Step::Leave),
        6 => (listener.clone(), name.clone()).prop_map(|(who, name)| Step::Want(who, name)),
        3 => (listener, name.clone()).prop_map(|(who, name)| Step::Unwant(who, name)),
        6 => Just(Step::Ask),
        6 => Just(Step::Obey),
        4 => name.prop_map(Step::Notify),
        10 => Just(Step::Arrive),
        2 => any::<bool>().prop_map(Step::Seat),
        1 => Just(Step::Unseat),
        2 => any::<Option<bool>>().prop_map(Step::Aim),
        2 => Just(Step::Moment),
        2 => (0..900_u64).prop_map(Step::Pass),
    ]
}

fn pod(first: bool) -> PodId {
    PodId::new(if first { "a" } else { "b" }, "uid")
}

fn taken(name: &str) -> bool {
    !name.is_empty()
}

/// A server as far as it is seen from here.
#[derive(Default)]
struct Server {
    listening: BTreeSet<String>,
    asked: Option<String>,
    /// Frames on the way: tag, body, and how many notifications had been committed when it was sent.
    sent: VecDeque<(u8, Vec<u8>)>,
}

impl Server {
    fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        write(&mut out);
        self.sent.push_back((out[0], out[5..].to_vec()));
    }

    /// Runs its question as one transaction.
    fn obey(&mut self) {
        let Some(sql) = self.asked.take() else { return };
        let before = self.listening.clone();
        let mut failed = false;
        for statement in sql.split_inclusive("\";") {
            let (verb, quoted) = statement.trim_end_matches(';').split_once(' ').unwrap();
            let name = quoted[1..quoted.len() - 1].replace("\"\"", "\"");
            failed |= !taken(&name);
            match verb {
                "LISTEN" => drop(self.listening.insert(name)),
                "UNLISTEN" => drop(self.listening.remove(&name)),
                other => panic!("{other}"),
            }
        }
        if failed {
            self.listening = before;
            self.send(|out| {
                write::error_response(out, &ErrorFields::new(Severity::Error, "42601", "zero-length identifier"));
            });
        } else {
            self.send(|out| write::command_complete(out, "LISTEN"));
        }
        self.send(|out| write::ready_for_query(out, TxStatus::Idle));
    }
}

/// The machine, and everything it should know.
struct World {
    ear: Ear,
    now: Instant,
    server: Option<(PodId, Server)>,
    listeners: Vec<ListenerId>,
    wants: BTreeMap<ListenerId, BTreeSet<usize>>,
    promised: BTreeSet<usize>,
    aim: Option<PodId>,
    /// Since when the aim is what it is, or its backend is gone.
    since: Instant,
    /// Notifications that were committed where they are listened to, and those that have arrived.
    committed: u64,
    arrived: u64,
    /// What was waited for: since when, and how much was committed then; 0 once the backend was lost.
    moments: Vec<(Moment, Instant, u64)>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            ear: Ear::default(),
            now,
            server: None,
            listeners: Vec::new(),
            wants: BTreeMap::new(),
            promised: BTreeSet::new(),
            aim: None,
            since: now,
            committed: 0,
            arrived: 0,
            moments: Vec::new(),
        }
    }

    fn wanted(&self) -> BTreeSet<usize> {
        self.wants.values().flatten().copied().collect()
    }

    fn audience(&self, name: &[u8]) -> BTreeSet<ListenerId> {
        let wants = |wants: &BTreeSet<usize>| wants.iter().any(|at| NAMES[*at].as_bytes() == name);
        self.wants.iter().filter(|(_, them)| wants(them)).map(|(id, _)| *id).collect()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Enter => {
                let id = self.ear.enter("app");
                self.listeners.push(id);
                self.wants.insert(id, BTreeSet::new());
            }
            Step::Leave(who) if *who < self.listeners.len() => {
                let id = self.listeners.remove(*who);
                self.ear.leave(id);
                self.wants.remove(&id);
            }
            Step::Want(who, name) => {
                if let Some(id) = self.listeners.get(*who) {
                    let new = self.wants.get_mut(id).unwrap().insert(*name);
                    assert_eq!(self.ear.want(*id, &NAMES[*name].into()), new);
                }
            }
            Step::Unwant(who, name) => {
                if let Some(id) = self.listeners.get(*who) {
                    let had = self.wants.get_mut(id).unwrap().remove(name);
                    assert_eq!(self.ear.unwant(*id, &NAMES[*name].into()), had);
                }
            }
            Step::Ask => self.ask(),
            Step::Obey => self.server.iter_mut().for_each(|(_, server)| server.obey()),
            Step::Notify(name) => {
                if let Some((_, server)) = &mut self.server
                    && server.listening.contains(NAMES[*name])
                {
                    server.send(|out| write::notification_response(out, 1, NAMES[*name], "p"));
                    self.committed += 1;
                }
            }
            Step::Arrive => self.arrive(),
            Step::Seat(first) if self.server.is_none() => {
                self.server = Some((pod(*first), Server::default()));
                self.ear.seated(pod(*first), "app");
            }
            Step::Unseat => self.unseat(),
            Step::Aim(first) => {
                let aim = first.map(pod);
                if aim != self.aim {
                    self.since = self.now;
                }
                self.aim.clone_from(&aim);
                self.ear.aim(self.now, aim);
            }
            Step::Moment => self.moments.push((
                self.ear.moment(self.now),
                self.now,
                if self.server.is_some() { self.committed } else { 0 },
            )),
            Step::Pass(ms) => {
                self.now += Duration::from_millis(*ms);
                if !self.ear.tick(self.now) {
                    self.unseat();
                }
                assert!(self.ear.poll_timeout().is_none_or(|when| when > self.now), "it would tick for ever");
            }
            Step::Leave(_) | Step::Seat(_) => {}
        }
        let wanted = self.wanted();
        self.promised.retain(|name| wanted.contains(name));
    }

    fn unseat(&mut self) {
        let Some((pod, _)) = self.server.take() else { return };
        self.ear.unseated(self.now);
        self.committed = self.arrived;
        self.moments.iter_mut().for_each(|(_, _, count)| *count = 0);
        if self.aim == Some(pod) {
            self.since = self.now;
        }
    }

    fn ask(&mut self) {
        let Some(packet) = self.ear.packet(self.now) else { return };
        let (_, server) = self.server.as_mut().unwrap();
        assert!(server.asked.is_none(), "one question at a time");
        assert_eq!((packet[0], packet[packet.len() - 1]), (b'Q', 0));
        let sql = String::from_utf8(packet[5..packet.len() - 1].to_vec()).unwrap();
        if sql.is_empty() {
            server.asked = None;
            server.send(write::empty_query_response);
            server.send(|out| write::ready_for_query(out, TxStatus::Idle));
        } else {
            server.asked = Some(sql);
        }
    }

    fn arrive(&mut self) {
        let Some((tag, body)) = self.server.as_mut().and_then(|(_, server)| server.sent.pop_front()) else { return };
        if tag == b'A' {
            let name: Vec<u8> = body[4..].split(|byte| *byte == 0).next().unwrap().to_vec();
            let audience = self.audience(&name);
            self.arrived += 1;
            let expected = if audience.is_empty() { Said::Nothing } else { Said::Notified(&audience) };
            assert_eq!(self.ear.reply(tag, &body), Ok(expected));
        } else {
            assert!(matches!(self.ear.reply(tag, &body), Ok(Said::Nothing | Said::Answered)));
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        for (id, names) in &self.wants {
            for at in names {
                match self.ear.standing(*id, &NAMES[*at].into()) {
                    Some(Standing::Heard) => {
                        let (_, server) = self.server.as_ref().unwrap();
                        assert!(server.listening.contains(NAMES[*at]), "{} is not listened to", NAMES[*at]);
                        self.promised.insert(*at);
                    }
                    Some(Standing::Refused(_)) => {
                        assert!(!taken(NAMES[*at]));
                        self.promised.remove(at);
                    }
                    Some(Standing::Unheard | Standing::Asked) => {}
                    None => panic!("{} is not wanted", NAMES[*at]),
                }
            }
        }
        assert_eq!(self.ear.is_wanted(), !self.wanted().is_empty());
        for place in [pod(true), pod(false)] {
            let waived = self.aim.as_ref() == Some(&place) && self.now >= self.since + GRACE;
            if self.ear.is_ready(&place, self.now) && !waived && !self.promised.is_empty() {
                let (at, server) = self.server.as_ref().unwrap();
                assert_eq!(*at, place);
                assert!(self.promised.iter().all(|name| server.listening.contains(NAMES[*name])));
            }
        }
        for (moment, since, committed) in &self.moments {
            let late = self.now >= *since + CATCH_UP;
            let passed = self.ear.has_passed(*moment);
            assert!(!passed || late || self.arrived >= *committed, "what was committed has not arrived");
        }
    }

    /// Everything goes on undisturbed: all that is wanted is heard, and nothing else is listened to.
    fn settle(&mut self) {
        self.take(&Step::Seat(true));
        for _ in 0..200 {
            self.ask();
            self.take(&Step::Obey);
            self.arrive();
            self.check();
        }
        let (_, server) = self.server.as_ref().unwrap();
        assert!(server.asked.is_none() && server.sent.is_empty());
        let wanted: BTreeSet<String> = self.wanted().into_iter().map(|at| NAMES[at].to_owned()).collect();
        let listening: BTreeSet<String> = wanted.iter().filter(|name| taken(name)).cloned().collect();
        assert_eq!(server.listening, listening);
        for (id, names) in &self.wants {
            for at in names {
                let standing = self.ear.standing(*id, &Channel::from(NAMES[*at])).unwrap();
                let right = if taken(NAMES[*at]) {
                    *standing == Standing::Heard
                } else {
                    matches!(standing, Standing::Refused(_))
                };
                assert!(right, "{:?} is {standing:?}", NAMES[*at]);
            }
        }
        assert!(self.moments.iter().all(|(moment, ..)| self.ear.has_passed(*moment)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.settle();
    }
}
