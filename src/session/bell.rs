//! One bell for all sessions of a cluster: rung after every new routing table and whenever the process goes on to its next phase.
//!
//! ```text
//!   routes ──┐                          ┌─► wakes every sleeper
//!            ├─ the ringer ── epoch + 1 ┤
//!   phase  ──┘   (one task)             └─► each compares the epoch with the one it has heard of, once per poll
//! ```
//! A session is woken for every request and every answer, and for a new table next to never: so it leaves its waker here once, for
//! as long as it lives, and each of its polls costs one load of a number.
//!
//! No ring is lost: the ringer counts before it looks for wakers, a sleeper looks at the count again after it has left its own. One
//! of the two sees the other. What was rung for was there before: who hears the bell finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::watch;

use crate::shutdown::ShutdownWatch;

/// Sleepers that are woken at a time: others may come and go between two portions.
const PORTION: usize = 64;

/// What wakes all sessions of a cluster.
#[derive(Debug, Default)]
pub struct Bell {
    /// How often it was rung.
    epoch: AtomicU64,
    sleepers: Mutex<Slab<Waker>>,
}

impl Bell {
    /// Rings for these tables and for the phases of the process, until either has come to its end. Must be called within a tokio
    /// runtime.
    pub fn hang<T: Send + Sync + 'static>(mut tables: watch::Receiver<T>, shutdown: &ShutdownWatch) -> Arc<Self> {
        let bell = Arc::<Self>::default();
        let (ringer, mut phase) = (Arc::clone(&bell), shutdown.changes());
        tables.mark_unchanged();
        tokio::spawn(async move {
            loop {
                let goes_on = tokio::select! {
                    changed = tables.changed() => changed.is_ok(),
                    changed = phase.changed() => changed.is_ok(),
                };
                // The end of a watch is news, too.
                ringer.ring();
                if !goes_on {
                    return;
                }
            }
        });
        bell
    }

    /// Wakes all that sleep.
    fn ring(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst); // before any waker is looked for
        for portion in (0..).step_by(PORTION).map_while(|from| self.portion(from)) {
            // Not under the lock: a waker may be the last of its task.
            portion.into_iter().for_each(Waker::wake);
        }
    }

    /// The wakers from this place on; `None`: there is no such place. Who comes meanwhile is awake, and knows the epoch.
    fn portion(&self, from: usize) -> Option<Vec<Waker>> {
        let sleepers = self.sleepers.lock();
        let places = sleepers.capacity();
        let until = places.min(from + PORTION);
        (from < places).then(|| (from..until).filter_map(|place| sleepers.get(place)).cloned().collect())
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }
}

/// One session at the bell; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Sleeper {
    bell: Arc<Bell>,
    /// The ring it has heard of.
    heard: u64,
    /// The waker that is left at the bell, and where.
    left: Option<(usize, Waker)>,
}

impl Sleeper {
    /// Hears what is rung from now on.
    pub(super) fn new(bell: &Arc<Bell>) -> Self {
        Self { bell: Arc::clone(bell), heard: bell.epoch(), left: None }
    }

    /// The bell was rung since this was asked last: once for all its rings.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.left.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            self.leave(cx.waker().clone());
        }
        // After the waker was left: a ring before that has counted already, one after it wakes.
        let epoch = self.bell.epoch();
        if epoch == self.heard {
            return Poll::Pending;
        }
        self.heard = epoch;
        Poll::Ready(())
    }

    /// Leaves another waker than before.
    fn leave(&mut self, waker: Waker) {
        let mut sleepers = self.bell.sleepers.lock();
        let key = match &self.left {
            Some((key, _)) => {
                sleepers[*key] = waker.clone();
                *key
            }
            None => sleepers.insert(waker.clone()),
        };
        drop(sleepers);
        self.left = Some((key, waker));
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some((key, _)) = self.left.take() {
            let waker = self.bell.sleepers.lock().try_remove(key);
            drop(waker); // not under the lock
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use tokio::time::timeout;

    use crate::shutdown::Shutdown;

    async fn rings(sleeper: &mut Sleeper) -> bool {
        timeout(Duration::from_secs(1), poll_fn(|cx| sleeper.poll(cx))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_ring_for_all_that_is_new() {
        let bell = Arc::<Bell>::default();
        bell.ring();
        let mut sleeper = Sleeper::new(&bell);
        assert!(!rings(&mut sleeper).await, "that was before");
        bell.ring();
        bell.ring();
        assert!(rings(&mut sleeper).await);
        assert!(!rings(&mut sleeper).await);
    }

    #[tokio::test(start_paused = true)]
    async fn rings_for_tables_for_phases_and_for_the_end() {
        let (tables, routes) = watch::channel(0);
        let (shutdown, watch) = Shutdown::new();
        tables.send_replace(1);
        let bell = Bell::hang(routes, &watch);
        let mut sleeper = Sleeper::new(&bell);
        assert!(!rings(&mut sleeper).await, "that table was there before");
        tables.send_replace(1);
        assert!(rings(&mut sleeper).await);
        assert!(!rings(&mut sleeper).await);
        shutdown.begin();
        assert!(rings(&mut sleeper).await);
        drop(tables);
        assert!(rings(&mut sleeper).await);
    }

    #[tokio::test]
    async fn wakes_one_that_sleeps_whichever_task_asks_and_forgets_those_that_leave() {
        let bell = Arc::<Bell>::default();
        let mut sleeper = Sleeper::new(&bell);
        for _ in 0..100 {
            for _ in 0..3 {
                assert!(poll_fn(|cx| Poll::Ready(sleeper.poll(cx).is_pending())).await, "nothing is new");
            }
            let sleeps = tokio::spawn(async move {
                assert!(rings(&mut sleeper).await); // by another task than the one it was asked by before
                sleeper
            });
            tokio::task::yield_now().await;
            assert_eq!(bell.sleepers.lock().len(), 1);
            bell.ring();
            sleeper = sleeps.await.unwrap();
        }
        drop(sleeper);
        assert!(bell.sleepers.lock().is_empty());
        bell.ring();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn none_of_many_is_left_behind() {
        const SLEEPERS: u32 = 200;
        let bell = Arc::<Bell>::default();
        let (now, heard) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let sleep = |_| {
            let (bell, now, heard) = (Arc::clone(&bell), Arc::clone(&now), Arc::clone(&heard));
            let mut sleeper = Sleeper::new(&bell);
            tokio::spawn(async move {
                let mut last = 0;
                while last < 200 {
                    poll_fn(|cx| sleeper.poll(cx)).await;
                    let seen = now.load(Ordering::SeqCst);
                    heard.fetch_add(seen - last, Ordering::SeqCst);
                    last = seen;
                }
            })
        };
        let all: Vec<_> = (0..SLEEPERS).map(sleep).collect();
        for round in 1..=200 {
            now.store(round, Ordering::SeqCst);
            bell.ring();
            let everybody = async {
                while heard.load(Ordering::SeqCst) < round * SLEEPERS {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(20), everybody).await.unwrap();
        }
        for one in all {
            one.await.unwrap();
        }
        assert!(bell.sleepers.lock().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_table_is_lost_between_two_threads_while_others_come_and_go() {
        let (tables, routes) = watch::channel(0_u32);
        let (_shutdown, watch) = Shutdown::new();
        let bell = Bell::hang(routes.clone(), &watch);
        let last = 20_000;
        let mut sleeper = Sleeper::new(&bell);
        let sleeps = tokio::spawn(async move {
            while *routes.borrow() < last {
                poll_fn(|cx| sleeper.poll(cx)).await;
            }
        });
        for number in 1..=last {
            tables.send_replace(number);
            if number % 7 == 0 {
                let mut other = Sleeper::new(&bell);
                _ = poll_fn(|cx| Poll::Ready(other.poll(cx))).await;
                tokio::task::yield_now().await;
            }
        }
        timeout(Duration::from_secs(20), sleeps).await.unwrap().unwrap();
    }
}
