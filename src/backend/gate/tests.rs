//! Turns at a gate: their number, their order, what failures do to them, and that none is ever lost.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn now<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("not its turn"),
    }
}

fn load(gates: &Gates, pod: &PodId) -> (usize, usize, usize) {
    let load = gates.load(pod).unwrap();
    (load.width, load.running, load.waiting)
}

fn narrow() -> (Gates, PodId) {
    (Gates::new(Pace { start: 1, max: 3 }), PodId::new("pg-0", "a"))
}

#[tokio::test(start_paused = true)]
async fn success_widens_up_to_the_limit_and_failure_halves() {
    let (gates, pod) = narrow();
    for width in [2, 3, 3] {
        now(gates.enter(&pod)).succeeded();
        assert_eq!(load(&gates, &pod), (width, 0, 0));
    }
    for width in [1, 1] {
        now(gates.enter(&pod)).failed();
        assert_eq!(load(&gates, &pod), (width, 1, 0), "its turn comes back later");
        sleep(PAUSE.1).await;
        assert_eq!(load(&gates, &pod), (width, 0, 0));
    }
    now(gates.enter(&pod)).succeeded();
    drop(now(gates.enter(&pod)));
    assert_eq!(load(&gates, &pod), (2, 0, 0), "a login given up says nothing");
    gates.reopen(&pod);
    assert_eq!(load(&gates, &pod), (1, 0, 0));
}

#[test]
fn turns_go_in_order_and_a_wider_gate_lets_in_more() {
    let (gates, pod) = narrow();
    let running = now(gates.enter(&pod));
    let mut first = pin!(gates.enter(&pod));
    let mut second = pin!(gates.enter(&pod));
    let mut third = pin!(gates.enter(&pod));
    for waiting in [first.as_mut(), second.as_mut(), third.as_mut()] {
        assert!(poll(waiting).is_pending());
    }
    assert_eq!(load(&gates, &pod), (1, 1, 3));
    running.succeeded();
    assert_eq!(load(&gates, &pod), (2, 2, 1));
    assert!(poll(third.as_mut()).is_pending());
    let Poll::Ready(_a) = poll(second.as_mut()) else { panic!("second") };
    let Poll::Ready(_b) = poll(first.as_mut()) else { panic!("first") };
    assert!(poll(third.as_mut()).is_pending());
}

#[test]
fn who_is_waited_for_goes_before_the_others() {
    let (gates, pod) = narrow();
    let running = now(gates.enter(&pod));
    let mut common = pin!(gates.enter(&pod));
    let mut first = pin!(gates.enter_first(&pod));
    let mut second = pin!(gates.enter_first(&pod));
    assert!(
        poll(common.as_mut()).is_pending() && poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending()
    );
    drop(running);
    assert!(poll(common.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let Poll::Ready(turn) = poll(first.as_mut()) else { panic!("first") };
    drop(turn);
    assert!(poll(common.as_mut()).is_pending());
    let Poll::Ready(turn) = poll(second.as_mut()) else { panic!("second") };
    drop(turn);
    assert!(poll(common.as_mut()).is_ready());
}

#[test]
fn a_waiter_that_leaves_loses_no_turn() {
    let (gates, pod) = narrow();
    let running = now(gates.enter(&pod));
    let mut last = Box::pin(gates.enter(&pod));
    {
        let mut gone = Box::pin(gates.enter(&pod));
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(last.as_mut()).is_pending());
        drop(running);
        // `gone` was given the turn and is dropped without having looked.
        assert_eq!(load(&gates, &pod), (1, 1, 1));
    }
    let Poll::Ready(permit) = poll(last.as_mut()) else { panic!("the turn is lost") };
    {
        let mut gone = Box::pin(gates.enter(&pod));
        assert!(poll(gone.as_mut()).is_pending());
    }
    assert_eq!(load(&gates, &pod), (1, 1, 0), "left the queue");
    drop(permit);
    assert_eq!(load(&gates, &pod), (1, 0, 0));
}

#[test]
fn idle_gates_are_forgotten_and_busy_ones_are_not() {
    let (gates, pod) = narrow();
    let running = now(gates.enter(&pod));
    for number in 0..3 * REMEMBERED {
        drop(now(gates.enter(&PodId::new("pg-1", number.to_string()))));
        assert!(gates.shared.pods.lock().len() <= REMEMBERED);
    }
    running.succeeded();
    assert_eq!(load(&gates, &pod), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_pause_doubles_with_each_round_of_failures_and_ends_with_a_success() {
    let gates = Gates::new(Pace { start: 4, max: 4 });
    let pod = PodId::new("pg-0", "a");
    let pause = async || {
        let failed = Instant::now();
        gates.enter(&pod).await.failed();
        drop(gates.enter(&pod).await); // one login at a time by now
        failed.elapsed().as_millis()
    };
    let side_by_side: Vec<Permit> = (0..4).map(|_| now(gates.enter(&pod))).collect();
    side_by_side.into_iter().for_each(Permit::failed);
    assert_eq!(load(&gates, &pod), (1, 4, 0));
    let began = Instant::now();
    drop(gates.enter(&pod).await);
    // The clock of tokio's sleep counts whole milliseconds, rounded up.
    assert!((5..=7).contains(&began.elapsed().as_millis()), "four at once are one setback: {:?}", began.elapsed());
    for least in [10, 20, 20] {
        let took = pause().await;
        assert!((least..=least + 2).contains(&took), "{took} instead of {least}");
    }
    gates.enter(&pod).await.succeeded();
    gates.enter(&pod).await.failed();
    let began = Instant::now();
    drop(gates.enter(&pod).await);
    assert!((5..=7).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_becomes_primary_lets_the_waiting_in_at_once_whatever_failed_before() {
    let gates = Gates::new(Pace { start: 5, max: 9 });
    let pod = PodId::new("pg-0", "a");
    for _ in 0..9 {
        gates.enter(&pod).await.failed();
    }
    let running = gates.enter(&pod).await;
    let mut waiting: Vec<_> = (0..7).map(|_| Box::pin(gates.enter(&pod))).collect();
    for waiting in &mut waiting {
        assert!(poll(waiting.as_mut()).is_pending());
    }
    assert_eq!(load(&gates, &pod), (1, 1, 7));
    gates.reopen(&pod);
    assert_eq!(load(&gates, &pod), (5, 5, 3));
    running.failed();
    let began = Instant::now();
    drop(waiting); // they give back what they were given
    assert_eq!(load(&gates, &pod), (2, 1, 0));
    while load(&gates, &pod).1 > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() <= 2 * PAUSE.0, "the pauses have begun anew: {:?}", began.elapsed());
}

/// However many want it, and however stubbornly.
#[tokio::test(start_paused = true)]
async fn a_pod_that_refuses_everyone_is_not_hammered() {
    let gates = Gates::new(Pace { start: 16, max: 64 });
    let (tries, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let well = Arc::new(AtomicBool::new(false));
    let mut sessions = JoinSet::new();
    for _ in 0..2_000 {
        let (gates, tries, served, well) = (gates.clone(), Arc::clone(&tries), Arc::clone(&served), Arc::clone(&well));
        sessions.spawn(async move {
            loop {
                let permit = gates.enter(&PodId::new("pg-0", "a")).await;
                tries.fetch_add(1, Ordering::Relaxed);
                if well.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(5)).await;
                    served.fetch_add(1, Ordering::Relaxed);
                    return permit.succeeded();
                }
                permit.failed();
                sleep(Duration::from_millis(20)).await; // a session's own patience
            }
        });
    }
    sleep(Duration::from_secs(10)).await;
    let tried = tries.load(Ordering::Relaxed);
    assert!((400..=550).contains(&tried), "{tried} tries in ten seconds");
    well.store(true, Ordering::Relaxed);
    let healed = Instant::now();
    while served.load(Ordering::Relaxed) < 2_000 {
        sleep(Duration::from_millis(1)).await;
    }
    // 64 at once, 5 ms each, are 12,800 a second; the way up from one at a time comes on top of it.
    assert!(healed.elapsed() < Duration::from_secs(1), "{:?}", healed.elapsed());
    while sessions.join_next().await.is_some() {}
}

/// Logins of every length and end, sessions that vanish while they wait and while they log in, a promotion in between:
/// never too many at once, none overtaken, every turn given back.
#[tokio::test(start_paused = true)]
async fn no_turn_is_lost_in_a_crowd() {
    for seed in 0..20 {
        crowd(seed).await;
    }
}

async fn crowd(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let pace = Pace { start: dice.random_range(0..5), max: dice.random_range(1..20) };
    let (gates, pod) = (Gates::new(pace), PodId::new("pg-0", "a"));
    let most = pace.max.max(pace.start).max(1) as usize;
    let running = Arc::new(AtomicUsize::new(0));
    let turns = Arc::new(Mutex::new(Vec::new()));
    let mut sessions = JoinSet::new();
    for number in 0..400_u32 {
        let (gates, pod) = (gates.clone(), pod.clone());
        let (running, turns) = (Arc::clone(&running), Arc::clone(&turns));
        let takes = Duration::from_micros(dice.random_range(0..20_000));
        let vanishes = dice.random_bool(0.3).then(|| Duration::from_micros(dice.random_range(0..400_000)));
        let end = dice.random_range(0..4);
        let log_in = async move {
            let permit = gates.enter(&pod).await;
            turns.lock().push(number);
            let count = Count::up(&running);
            assert!(count.now <= most, "{} at once, seed {seed}", count.now);
            sleep(takes).await;
            drop(count);
            match end {
                0 => permit.failed(),
                1 => drop(permit),
                _ => permit.succeeded(),
            }
        };
        sessions.spawn(async move {
            match vanishes {
                Some(limit) => drop(timeout(limit, log_in).await),
                None => log_in.await,
            }
        });
    }
    let reopening = async {
        while !sessions.is_empty() {
            sleep(Duration::from_millis(37)).await;
            gates.reopen(&pod);
            while sessions.try_join_next().map(Result::unwrap).is_some() {}
        }
    };
    timeout(Duration::from_secs(600), reopening).await.unwrap_or_else(|_| panic!("a turn is lost, seed {seed}"));
    sleep(PAUSE.1).await;
    let (_, out, waiting) = load(&gates, &pod);
    assert_eq!((out, waiting), (0, 0), "seed {seed}");
    let turns = turns.lock();
    assert!(turns.is_sorted(), "overtaken, seed {seed}: {turns:?}");
    assert!(turns.len() >= 280 - 50, "most had a turn, seed {seed}: {}", turns.len());
}

/// One of those who log in now.
struct Count<'a> {
    running: &'a AtomicUsize,
    now: usize,
}

impl<'a> Count<'a> {
    fn up(running: &'a AtomicUsize) -> Self {
        Self { running, now: running.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn one_who_is_just_leaving_is_given_no_turn() {
    let (gates, pod) = narrow();
    let running = now(gates.enter(&pod));
    // On another thread: it hears nothing any more, and stands in the queue still.
    let (give, ear) = oneshot::channel();
    drop(ear);
    gates.at(&pod, |gate| {
        gate.queue.insert(Ticket { rank: Rank::Common, number: gate.next_ticket }, give);
        gate.next_ticket += 1;
    });
    let mut last = pin!(gates.enter(&pod));
    assert!(poll(last.as_mut()).is_pending());
    assert_eq!(load(&gates, &pod), (1, 1, 2));
    drop(running);
    let Poll::Ready(_permit) = poll(last.as_mut()) else { panic!("the turn is lost") };
    assert_eq!(load(&gates, &pod), (1, 1, 0));
}
