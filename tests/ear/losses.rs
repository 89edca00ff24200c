//! Backends and primaries that go: nothing is told twice, and nothing is missed that was notified once the ear was ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgmoor::session::ear::Subscription;
use pgmoor::topology::evidence::Suspicion;
use tokio::time::timeout;

use crate::pair::{Pair, psql, until};
use crate::stage::{Notifier, SILENCE, Stage, ears_on, payload, pod, silent};

/// The numbers that are heard until nothing comes any more.
async fn numbers(listener: &Subscription) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Ok(next) = timeout(SILENCE * 2, payload(listener)).await {
        numbers.push(next.parse().unwrap());
    }
    numbers
}

fn rises(numbers: &[u32]) -> bool {
    numbers.is_sorted_by(|one, other| one < other)
}

/// Ends the ear's backend, and waits until another is there.
async fn end_backend(stage: &Stage, pair: &Pair) {
    let before = ears_on(pair.a, "pid");
    psql(pair.a, &format!("SELECT pg_terminate_backend({})", before[0]));
    until("another backend", || {
        let now = ears_on(pair.a, "pid");
        (now.len() == 1 && now != before).then_some(())
    });
    stage.ready("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_ended_is_followed_by_another() {
    let pair = Pair::start("");
    let stage = Stage::new(&[("a", pair.a)]);
    let listeners = [stage.listener(&["c"]).await, stage.listener(&["c", "d"]).await];
    let mut notifier = Notifier::on(pair.a);
    let mut sent = 0..;
    for _ in 0..8 {
        let round: Vec<u32> = sent.by_ref().take(30).collect();
        round.iter().for_each(|n| notifier.notify("c", &n.to_string()));
        listeners[0].passed(listeners[0].moment()).await;
        end_backend(&stage, &pair).await;
        let after: Vec<u32> = sent.by_ref().take(30).collect();
        after.iter().for_each(|n| notifier.notify("c", &n.to_string()));
        for listener in &listeners {
            for n in round.iter().chain(&after) {
                assert_eq!(payload(listener).await, n.to_string());
            }
        }
    }
    silent(&listeners[0]).await;
    assert_eq!(ears_on(pair.a, "pid").len(), 1);
    assert!(stage.doubts.lock().unwrap().iter().all(|doubt| *doubt == (pod("a"), Suspicion::ShuttingDown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_twice_however_often_its_backend_ends() {
    let pair = Pair::start("");
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["c"]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, address) = (Arc::clone(&stop), pair.a);
    let notifying = tokio::task::spawn_blocking(move || {
        let mut notifier = Notifier::on(address);
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            notifier.notify("c", &sent.to_string());
            sent += 1;
        }
        sent
    });
    let mut heard = Vec::new();
    for _ in 0..10 {
        end_backend(&stage, &pair).await;
        for _ in 0..50 {
            heard.push(payload(&listener).await.parse().unwrap());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent: u32 = notifying.await.unwrap();
    heard.extend(numbers(&listener).await);
    assert!(rises(&heard), "{heard:?}");
    assert_eq!(heard.last(), Some(&(sent - 1)));
    println!("{} of {sent} heard although the backend ended ten times", heard.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_primary_is_followed_by_its_successor() {
    let pair = Pair::start("");
    let stage = Stage::new(&[("a", pair.a), ("b", pair.b)]);
    let listeners = [stage.listener(&["c"]).await, stage.listener(&["c", "d"]).await];
    let mut notifier = Notifier::on(pair.a);
    (0..100).for_each(|n| notifier.notify("c", &n.to_string()));
    listeners[0].passed(listeners[0].moment()).await;
    // What the dying primary may or may not have delivered.
    (100..200).for_each(|n| notifier.notify("c", &n.to_string()));
    pair.kill9();
    // A process may outlive its postmaster for long enough to say that it goes.
    until("the loss to be noticed", || {
        stage.doubts.lock().unwrap().iter().any(|doubt| doubt.0 == pod("a")).then_some(())
    });
    stage.show(None);
    pair.promote();
    assert!(!stage.ears.is_ready(&stage.home, &pod("b")), "the ear is not there yet");
    stage.show(Some("b"));
    stage.ready("b").await;
    assert_eq!(ears_on(pair.b, "pid").len(), 1);
    let mut notifier = Notifier::on(pair.b);
    (1000..1100).for_each(|n| notifier.notify("c", &n.to_string()));
    for listener in &listeners {
        let heard = numbers(listener).await;
        let (before, after) = heard.split_at(heard.iter().position(|n| *n >= 1000).unwrap());
        assert!(before.len() >= 100 && *before == (0..before.len() as u32).collect::<Vec<_>>(), "{before:?}");
        assert_eq!(after, (1000..1100).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_shut_down_is_heard_to_its_end() {
    let pair = Pair::start("");
    let stage = Stage::new(&[("a", pair.a), ("b", pair.b)]);
    let listener = stage.listener(&["c"]).await;
    // It drains: its last transactions are still heard.
    stage.change(|table| table.pods.get_mut(&"a".into()).unwrap().draining = true);
    let mut notifier = Notifier::on(pair.a);
    (0..100).for_each(|n| notifier.notify("c", &n.to_string()));
    assert!(stage.ears.is_ready(&stage.home, &pod("a")));
    listener.passed(listener.moment()).await;
    pair.stop();
    until("the loss to be noticed", || {
        let doubts = stage.doubts.lock().unwrap();
        doubts.iter().any(|doubt| *doubt == (pod("a"), Suspicion::ShuttingDown)).then_some(())
    });
    pair.promote();
    stage.show(Some("b"));
    stage.ready("b").await;
    let mut notifier = Notifier::on(pair.b);
    (100..200).for_each(|n| notifier.notify("c", &n.to_string()));
    assert_eq!(numbers(&listener).await, (0..200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_until_the_ear_is_ready_is_heard() {
    let pair = Pair::start("");
    pair.promote(); // two servers that know nothing of each other, and change places
    let stage = Stage::new(&[("a", pair.a), ("b", pair.b)]);
    let listeners = [stage.listener(&["c"]).await, stage.listener(&["c", "d"]).await];
    let mut notifiers = [("a", Notifier::on(pair.a)), ("b", Notifier::on(pair.b))];
    for n in 0..60 {
        let (place, notifier) = &mut notifiers[(n + 1) % 2];
        if n % 3 == 0 {
            stage.show(None);
        }
        stage.show(Some(place));
        stage.ready(place).await;
        notifier.notify("c", &n.to_string());
        for listener in &listeners {
            assert_eq!(payload(listener).await, n.to_string());
        }
    }
    for listener in &listeners {
        silent(listener).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nobody_is_primary_the_last_one_is_heard() {
    let pair = Pair::start("");
    let stage = Stage::new(&[("a", pair.a), ("b", pair.b)]);
    let listener = stage.listener(&["c"]).await;
    let backend = ears_on(pair.a, "pid");
    stage.show(None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    Notifier::on(pair.a).notify("c", "unproven");
    assert_eq!(payload(&listener).await, "unproven");
    stage.show(Some("a"));
    stage.ready("a").await;
    assert_eq!(ears_on(pair.a, "pid"), backend, "it was never left");
    Notifier::on(pair.a).notify("c", "proven");
    assert_eq!(payload(&listener).await, "proven");
}
