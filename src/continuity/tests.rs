//! The machine, step by step and over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{ClusterName, Epoch, PodName, Timeline};
use crate::topology::routing::{Primary, Role, Route, Vacancy};

const HOLD: Duration = Duration::from_secs(10);

/// What the cluster looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nobody is primary, both pods are unknown.
    Nobody,
    /// Pod `a` or `b` is, the other is a replica.
    Led(usize),
    /// It is, the other one is superseded.
    Superseding(usize),
    /// It is, and drains.
    Draining(usize),
}

const NAMES: [&str; 2] = ["a", "b"];

fn pod(at: usize) -> PodId {
    PodId::new(NAMES[at], "1")
}

fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 5000 + u16::try_from(at).unwrap()))
}

fn table(look: Look) -> RoutingTable {
    let replica = Role::Replica { fit: true, lag: None, replayed: None };
    let (leader, others, draining) = match look {
        Look::Nobody => (None, Role::Unknown, false),
        Look::Led(at) => (Some(at), replica, false),
        Look::Superseding(at) => (Some(at), Role::Superseded, false),
        Look::Draining(at) => (Some(at), replica, true),
    };
    let route = |at| Route {
        id: pod(at),
        address: Some(address(at)),
        role: if leader == Some(at) { Role::Primary } else { others },
        draining: draining && leader == Some(at),
        ready: true,
        zone: None,
    };
    RoutingTable {
        cluster: ClusterName::new("c"),
        epoch: Epoch(1),
        primary: leader
            .map_or(Primary::Nobody(Vacancy::Unnamed), |at| Primary::Proven { pod: pod(at), timeline: Timeline(2) }),
        pods: (0..2).map(|at| (PodName::new(NAMES[at]), route(at))).collect::<BTreeMap<_, _>>(),
        floor: Timeline(2),
        stale: false,
        history: None,
        tenure: 0,
    }
}

fn machine(need: Need) -> Continuity {
    let retry_first = Duration::from_millis(20);
    let retry_most = Duration::from_millis(250);
    let settings = Settings { zone: None, hold: HOLD, drain: HOLD, retry_first, retry_most };
    Continuity::new(need, Arc::new(settings))
}

fn step(machine: &mut Continuity, now: Instant, look: Look, input: Input) -> Vec<Command> {
    let table = table(look);
    machine.handle(now, World { table: &table, load: &|_| 0, dice: &|| 0 }, input);
    std::iter::from_fn(|| machine.poll()).collect()
}

fn join(at: usize) -> Command {
    Command::Join { pod: pod(at), address: address(at) }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do as the first")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_failover_is_held_and_joined_elsewhere() {
    let (mut m, now) = (machine(Need::Write), start());
    assert_eq!(step(&mut m, now, Look::Led(0), Input::Wanted), [join(0)]);
    assert_eq!(step(&mut m, now, Look::Led(0), Input::Joined), []);
    assert_eq!(step(&mut m, now, Look::Nobody, Input::Lost), []);
    assert_eq!(step(&mut m, now, Look::Nobody, Input::Wanted), [Command::Hold]);
    assert_eq!(m.poll_timeout(), Some(now + HOLD));
    assert_eq!(step(&mut m, now, Look::Led(1), Input::Routes), [join(1)]);
    assert_eq!(step(&mut m, now, Look::Led(1), Input::Joined), [Command::Release]);
    assert_eq!(*m.stage(), Stage::Attached { pod: pod(1) });
}

#[test]
fn a_superseded_pod_is_cut_and_a_draining_one_left() {
    let (mut m, now) = (machine(Need::Write), start());
    step(&mut m, now, Look::Led(0), Input::Wanted);
    step(&mut m, now, Look::Led(0), Input::Joined);
    assert_eq!(step(&mut m, now, Look::Draining(0), Input::Routes), []);
    assert!(m.is_leaving());
    assert_eq!(step(&mut m, now, Look::Led(0), Input::Routes), []);
    assert!(!m.is_leaving(), "good again");
    assert_eq!(step(&mut m, now, Look::Superseding(1), Input::Routes), [Command::Cut]);
    assert_eq!(*m.stage(), Stage::Loose);
}

#[test]
fn a_refused_join_waits_longer_each_time_and_gives_up() {
    let (mut m, now) = (machine(Need::Write), start());
    step(&mut m, now, Look::Led(0), Input::Wanted);
    assert_eq!(step(&mut m, now, Look::Led(0), Input::JoinFailed), [Command::Hold]);
    let first = now + Duration::from_millis(20);
    assert_eq!(m.poll_timeout(), Some(first));
    assert_eq!(step(&mut m, now, Look::Led(0), Input::Routes), [], "a new table is no reason to hurry");
    assert_eq!(step(&mut m, first, Look::Led(0), Input::Tick), [join(0)]);
    assert_eq!(step(&mut m, first, Look::Led(0), Input::JoinFailed), []);
    assert_eq!(m.poll_timeout(), Some(first + Duration::from_millis(40)));
    let refused = Complaint::with(Code::HoldExpired, "waited 10000 ms");
    assert_eq!(step(&mut m, now + HOLD, Look::Led(0), Input::Tick), [Command::Release, Command::Refuse(refused)]);
    assert_eq!(m.poll_timeout(), None);
}

#[test]
fn no_room_to_be_held_is_said_at_once() {
    let (mut m, now) = (machine(Need::Write), start());
    assert_eq!(step(&mut m, now, Look::Nobody, Input::Wanted), [Command::Hold]);
    let refused = step(&mut m, now, Look::Nobody, Input::HoldRefused);
    assert_eq!(refused, [Command::Refuse(Complaint::new(Code::TooManyHeld))]);
    assert_eq!(*m.stage(), Stage::Loose);
}

#[test]
fn a_pod_that_falls_while_it_is_joined_is_not_kept() {
    let (mut m, now) = (machine(Need::Write), start());
    step(&mut m, now, Look::Led(0), Input::Wanted);
    assert_eq!(step(&mut m, now, Look::Superseding(1), Input::Routes), [Command::StopJoin, join(1)]);
    assert_eq!(step(&mut m, now, Look::Superseding(0), Input::Joined), [Command::Cut]);
}

fn looks() -> impl Strategy<Value = Look> {
    prop_oneof![
        Just(Look::Nobody),
        (0..2_usize).prop_map(Look::Led),
        (0..2_usize).prop_map(Look::Superseding),
        (0..2_usize).prop_map(Look::Draining)
    ]
}

fn inputs() -> impl Strategy<Value = Input> {
    prop::sample::select(vec![
        Input::Routes,
        Input::Wanted,
        Input::Joined,
        Input::JoinFailed,
        Input::Left,
        Input::Lost,
        Input::HoldRefused,
        Input::GivenUp,
        Input::Tick,
    ])
}

#[test]
fn a_pod_that_drains_is_left_at_its_deadline_at_the_latest() {
    let mut m = machine(Need::Write);
    let now = start();
    step(&mut m, now, Look::Led(0), Input::Wanted);
    step(&mut m, now, Look::Led(0), Input::Joined);
    step(&mut m, now, Look::Draining(0), Input::Routes);
    let until = now + HOLD;
    assert_eq!(m.poll_timeout(), Some(until));
    // The clock runs from the first word of it, and on when the pod is no primary any more.
    step(&mut m, now + HOLD / 2, Look::Nobody, Input::Routes);
    assert_eq!(m.poll_timeout(), Some(until));
    assert_eq!(step(&mut m, until, Look::Nobody, Input::Tick), [Command::Evict]);
    assert_eq!(m.stage(), &Stage::Loose);
    // One that is taken back is not left.
    let mut m = machine(Need::Write);
    step(&mut m, now, Look::Led(0), Input::Wanted);
    step(&mut m, now, Look::Led(0), Input::Joined);
    step(&mut m, now, Look::Draining(0), Input::Routes);
    step(&mut m, now, Look::Led(0), Input::Routes);
    assert_eq!(m.poll_timeout(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joins_only_who_is_chosen_and_every_wait_ends(
        steps in prop::collection::vec((looks(), inputs(), 0..4000_u64), 1..60),
        need in prop::sample::select(vec![Need::Write, Need::Read { or_primary: true }, Need::Pod(PodName::new("a"))]),
    ) {
        let mut m = machine(need.clone());
        let (mut now, mut held, mut joining) = (start(), false, false);
        for (look, input, pause) in steps {
            now += Duration::from_millis(pause);
            // The shell ticks when it was asked to.
            let inputs = if m.poll_timeout().is_some_and(|due| due <= now) { vec![Input::Tick, input] } else { vec![input] };
            for input in inputs {
                if input == Input::HoldRefused {
                    if !held { continue }
                    held = false; // the shell could not hold it after all
                    if !matches!(m.stage(), Stage::Holding(_)) { held = true; continue }
                }
                let table = table(look);
                for command in step(&mut m, now, look, input) {
                    match command {
                        Command::Join { pod, address } => {
                            let to = table.choose(&need, None, |_| 0, 0);
                            prop_assert_eq!(to, Choice::To { pod, address });
                            joining = true;
                        }
                        Command::StopJoin => prop_assert!(std::mem::take(&mut joining)),
                        Command::Hold => { prop_assert!(!held); held = true; }
                        Command::Release => { prop_assert!(held); held = false; }
                        Command::Cut | Command::Evict => {}
                        Command::Refuse(_) => prop_assert!(!held),
                    }
                }
                match m.stage() {
                    Stage::Holding(wait) | Stage::Joining { wait, .. } => {
                        prop_assert!(wait.deadline <= now + HOLD);
                        prop_assert_eq!(held, wait.held);
                        prop_assert!(m.poll_timeout().is_some_and(|due| due <= wait.deadline));
                    }
                    Stage::Loose | Stage::Attached { .. } | Stage::Leaving { .. } => prop_assert!(!held),
                }
            }
            let settled = step(&mut m, now, look, Input::Routes);
            for command in settled {
                match command {
                    Command::Hold => held = true,
                    Command::Release => held = false,
                    Command::Join { .. }
                    | Command::StopJoin
                    | Command::Cut
                    | Command::Evict
                    | Command::Refuse(_) => {}
                }
            }
            if let Stage::Attached { pod } | Stage::Leaving { pod, .. } = m.stage() {
                prop_assert_ne!(table(look).standing(pod, &need), Standing::Cut, "attached to a superseded pod");
            }
            joining = matches!(m.stage(), Stage::Joining { .. });
        }
        let last = now + HOLD;
        if m.poll_timeout().is_some() {
            step(&mut m, last, Look::Nobody, Input::Tick);
            prop_assert!(matches!(m.stage(), Stage::Loose), "the wait has ended");
        }
    }
}
