//! What will be done to the cluster: decided by the seed alone, before anything runs.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// A pod of PostgreSQL, by what it is when the fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Holds the leader lock.
    Primary,
    /// The synchronous standby: the one that is promoted.
    Standby,
    /// The one that is left.
    Other,
}

/// What happens to a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Connections are reset once; new ones go through.
    Reset,
    /// Connections are reset and new ones refused.
    Cut,
    /// Bytes wait, both ways.
    Stall,
    /// Answers wait; requests arrive.
    StallAnswers,
    /// Bytes vanish, both ways.
    Vanish,
    /// Answers vanish; requests arrive.
    VanishAnswers,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kubectl delete pod`.
    Delete(Target),
    /// SIGKILL to every process of the pod.
    Kill(Target),
    /// SIGKILL to PostgreSQL's processes; Patroni is there to see it.
    KillPostgres(Target),
    /// SIGSTOP to Patroni alone; PostgreSQL goes on and may become a zombie.
    FreezePatroni(Target),
    /// SIGSTOP to PostgreSQL alone; Patroni goes on.
    FreezePostgres(Target),
    /// SIGSTOP to every process of the pod.
    FreezePod(Target),
    /// The node falls silent, its kubelet too.
    LoseNode(Target),
    /// Between every pgmoor and this pod's PostgreSQL.
    Wire(Target, Break),
    /// Between this pod's Patroni and the API server.
    PatroniApi(Target, Break),
    /// Between every pgmoor and the API server.
    MoorApi(Break),
    /// The API server dies and is started again.
    ApiServer,
    /// This standby's receiver of WAL stands still: commits wait for it.
    Replication(Target),
}

impl Fault {
    /// What it is called in tables, whoever it meets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delete(_) => "delete pod",
            Self::Kill(_) => "kill -9 pod",
            Self::KillPostgres(_) => "kill -9 PostgreSQL",
            Self::FreezePatroni(_) => "freeze Patroni",
            Self::FreezePostgres(_) => "freeze PostgreSQL",
            Self::FreezePod(_) => "freeze pod",
            Self::LoseNode(_) => "node lost",
            Self::Wire(..) => "wire pgmoor-PostgreSQL",
            Self::PatroniApi(..) => "wire Patroni-API server",
            Self::MoorApi(_) => "wire pgmoor-API server",
            Self::ApiServer => "API server restarts",
            Self::Replication(_) => "replication stalls",
        }
    }

    /// The pod it is about.
    pub fn target(self) -> Option<Target> {
        match self {
            Self::Delete(target)
            | Self::Kill(target)
            | Self::KillPostgres(target)
            | Self::FreezePatroni(target)
            | Self::FreezePostgres(target)
            | Self::FreezePod(target)
            | Self::LoseNode(target)
            | Self::Wire(target, _)
            | Self::PatroniApi(target, _)
            | Self::Replication(target) => Some(target),
            Self::MoorApi(_) | Self::ApiServer => None,
        }
    }

    /// Is it over by itself?
    pub fn momentary(self) -> bool {
        matches!(
            self,
            Self::Delete(_)
                | Self::Kill(_)
                | Self::KillPostgres(_)
                | Self::Wire(_, Break::Reset)
                | Self::PatroniApi(_, Break::Reset)
                | Self::MoorApi(Break::Reset)
        )
    }

    fn chosen(dice: &mut Dice) -> Self {
        use Break::{Cut, Reset, Stall, StallAnswers, Vanish, VanishAnswers};
        use Target::{Other, Primary, Standby};
        // The primary is where it hurts.
        let target = dice.of(&[Primary, Primary, Primary, Standby, Other]);
        let wire = dice.of(&[Reset, Cut, Stall, StallAnswers, Vanish, VanishAnswers]);
        let api = dice.of(&[Cut, Stall, Vanish]);
        match dice.below(16) {
            0 | 1 => Self::Delete(target),
            2 | 3 => Self::Kill(target),
            4 => Self::KillPostgres(target),
            5 | 6 => Self::FreezePatroni(target),
            7 => Self::FreezePostgres(target),
            8 => Self::FreezePod(target),
            9 => Self::LoseNode(target),
            10..=12 => Self::Wire(target, wire),
            13 => Self::PatroniApi(target, api),
            14 => dice.of(&[Self::MoorApi(api), Self::ApiServer]),
            _ => Self::Replication(dice.of(&[Standby, Standby, Other])),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One or two faults at once, in a cluster that was whole before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How long all is well before.
    pub quiet: Duration,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What does not end by itself ends after this time.
    pub lasting: Duration,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        write!(f, "{}", faults.join(" and "))?;
        if self.faults.iter().any(|fault| !fault.momentary()) {
            write!(f, " for {:.1} s", self.lasting.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Everything that will go wrong, without an end.
#[derive(Clone, Debug)]
pub struct Schedule {
    dice: Dice,
    longest: Duration,
}

impl Schedule {
    /// By this seed; no fault lasts longer than `longest`.
    pub fn new(seed: u64, longest: Duration) -> Self {
        Self { dice: Dice::new(seed, u64::MAX), longest }
    }
}

impl Iterator for Schedule {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let dice = &mut self.dice;
        let quiet = dice.time(Duration::from_secs(2), Duration::from_secs(6));
        let lasting = dice.time(Duration::from_secs(2), self.longest);
        let first = Fault::chosen(dice);
        let mut faults = vec![first];
        if dice.once_in(4) {
            // Never two to one pod: the second would hardly be noticed there.
            let other = std::iter::repeat_with(|| Fault::chosen(dice)).find(|other| other.target() != first.target());
            faults.extend(other);
        }
        // Last, for others may need it to happen.
        faults.sort_by_key(|fault| matches!(fault, Fault::ApiServer));
        Some(Event { quiet, faults, lasting })
    }
}

#[test]
fn a_seed_decides_everything_and_everything_happens() {
    let longest = Duration::from_secs(25);
    let events = |seed| Schedule::new(seed, longest).take(400).collect::<Vec<_>>();
    assert_eq!(events(7), events(7));
    assert_ne!(events(7), events(8));
    let events = events(7);
    let names: std::collections::BTreeSet<&str> =
        events.iter().flat_map(|event| &event.faults).map(|fault| fault.name()).collect();
    assert_eq!(names.len(), 12, "{names:?}");
    let pairs: Vec<&Event> = events.iter().filter(|event| event.faults.len() == 2).collect();
    assert!((60..140).contains(&pairs.len()), "{}", pairs.len());
    assert!(pairs.iter().all(|event| event.faults[0].target() != event.faults[1].target()));
    assert!(events.iter().all(|event| event.lasting <= longest && event.quiet >= Duration::from_secs(2)));
}
