//! What is counted between the primary that ran a COMMIT and the one that is asked what became of it: its direct successor is
//! one further.

use std::time::{Duration, Instant};

use pgmoor::ids::ClusterName;
use pgmoor::topology::{Settings, Topology};

use crate::script::event;

/// How many are counted from a proven pg-0 on, when this happens: each event a second after the one before.
fn counted(events: &[&str]) -> u64 {
    let start = Instant::now();
    let mut machine = Topology::new(ClusterName::new("c"), Settings::default(), start);
    let begin = ["leader pg-0", "relist pg-0/a:primary pg-1/b:replica", "answer pg-0/a primary tl=5"];
    let mut before = 0;
    for (at, text) in (1..).zip(begin.iter().chain(events)) {
        let at = Duration::from_secs(at);
        machine.handle(start + at, event(start, at, text));
        while machine.poll().is_some() {}
        if at.as_secs() == begin.len() as u64 {
            before = machine.table().tenure;
        }
    }
    machine.table().tenure - before
}

#[test]
fn a_direct_successor_is_one_further() {
    let follows = ["fail pg-0/a unreachable", "fail pg-0/a unreachable", "leader pg-1", "answer pg-1/b primary tl=6"];
    assert_eq!(counted(&follows), 1);
    // What becomes of the old one later does not matter.
    assert_eq!(counted(&[&follows[..], &["answer pg-0/a standby tl=5", "answer pg-0/a standby tl=6"]].concat()), 1);
    // Promoted again without having been seen in recovery.
    let again = ["fail pg-0/a unreachable", "fail pg-0/a unreachable", "answer pg-0/a primary tl=6"];
    assert_eq!(counted(&again), 1);
}

#[test]
fn a_server_that_came_back_in_between_is_counted() {
    let dies = ["fail pg-0/a unreachable", "fail pg-0/a unreachable"];
    // It crashed, and is promoted itself.
    let back = ["answer pg-0/a standby tl=5"];
    let itself = ["answer pg-0/a standby tl=5", "answer pg-0/a primary tl=6"];
    assert_eq!(counted(&[&dies[..], &back, &itself].concat()), 2);
    // It crashed again, and who had followed it meanwhile is promoted.
    let other = ["fail pg-0/a unreachable", "leader pg-1", "answer pg-1/b primary tl=6"];
    assert_eq!(counted(&[&dies[..], &back, &other].concat()), 2);
    // In another incarnation of its pod.
    let anew = ["gone pg-0/a", "seen pg-0/c:replica", "answer pg-0/c standby tl=5"];
    assert_eq!(counted(&[&dies[..], &anew, &other].concat()), 2);
    // It was a primary again, and unproven in between.
    let resumed = ["answer pg-0/a primary tl=5", "fail pg-0/a unreachable", "fail pg-0/a unreachable"];
    assert_eq!(counted(&[&dies[..], &resumed, &other].concat()), 2);
}
