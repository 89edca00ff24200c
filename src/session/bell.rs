//! A watch that rings: waited for with one registration, which stays for as long as nothing changes.
//!
//! `Receiver::changed` registers anew whenever it is polled, and takes that back when it is dropped. A session is woken for every
//! request and every answer, and for a new routing table next to never.
//!
//! A registration is good for one wake-up, and that may come without news: a sender wakes its receivers in several portions, and who
//! registers again between two of them is woken by the next one for what it has seen already. So a wake-up leaves a mark.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::watch;
use tokio::task::unconstrained;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wakes a session, once, and is spent.
struct Ring {
    session: Waker,
    spent: AtomicBool,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.spent.store(true, Ordering::Release); // before the session looks
        self.session.wake_by_ref();
    }
}

/// Rings once for all that has changed since it was asked last.
pub(super) struct Bell<T> {
    watch: watch::Receiver<T>,
    /// What wakes this one, by a receiver of its own that has seen what `watch` has.
    registered: Option<(Arc<Ring>, Waiting)>,
}

impl<T: Send + Sync + 'static> Bell<T> {
    /// Rings for what changes from now on.
    pub(super) fn new(mut watch: watch::Receiver<T>) -> Self {
        watch.mark_unchanged();
        Self { watch, registered: None }
    }

    /// Rings for what has changed already, too.
    pub(super) fn since_ever(mut watch: watch::Receiver<T>) -> Self {
        watch.mark_changed();
        Self { watch, registered: None }
    }

    /// Something has changed; `false`: the watch has ended.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<bool> {
        loop {
            match self.watch.has_changed() {
                Err(_) => return Poll::Ready(false),
                Ok(true) => {
                    self.watch.mark_unchanged();
                    self.registered = None;
                    return Poll::Ready(true);
                }
                Ok(false) => {}
            }
            let holds = |ring: &Ring| !ring.spent.load(Ordering::Acquire) && ring.session.will_wake(cx.waker());
            if self.registered.as_ref().is_some_and(|(ring, _)| holds(ring)) {
                return Poll::Pending;
            }
            let mut own = self.watch.clone();
            let ring = Arc::new(Ring { session: cx.waker().clone(), spent: AtomicBool::new(false) });
            // Without a budget: one that is used up would leave nothing registered.
            let mut waiting: Waiting = Box::pin(unconstrained(async move { _ = own.changed().await }));
            if waiting.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&ring)))).is_pending() {
                self.registered = Some((ring, waiting));
                return Poll::Pending;
            }
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

    async fn rings<T: Send + Sync + 'static>(bell: &mut Bell<T>) -> Option<bool> {
        timeout(Duration::from_secs(1), poll_fn(|cx| bell.poll(cx))).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_ring_for_all_that_changed_meanwhile() {
        let (sender, receiver) = watch::channel(0);
        sender.send(1).unwrap();
        let mut bell = Bell::new(receiver);
        assert_eq!(rings(&mut bell).await, None, "that was before");
        sender.send(2).unwrap();
        sender.send(3).unwrap();
        assert_eq!(rings(&mut bell).await, Some(true));
        assert_eq!(rings(&mut bell).await, None);
        drop(sender);
        assert_eq!(rings(&mut bell).await, Some(false));
    }

    #[tokio::test]
    async fn wakes_one_that_waits_however_often_it_was_asked() {
        let (sender, receiver) = watch::channel(0);
        let mut bell = Bell::new(receiver);
        for round in 1..100 {
            for _ in 0..3 {
                assert!(poll_fn(|cx| Poll::Ready(bell.poll(cx).is_pending())).await, "nothing has changed");
            }
            let waits = tokio::spawn(async move {
                assert_eq!(rings(&mut bell).await, Some(true)); // by another task than the one it was asked by before
                bell
            });
            tokio::task::yield_now().await;
            sender.send(round).unwrap();
            bell = waits.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn none_of_many_is_left_behind() {
        const BELLS: u32 = 200;
        let (sender, receiver) = watch::channel(0_u32);
        let heard = Arc::new(AtomicU32::new(0));
        let listen = |_| {
            let (mut bell, receiver, heard) = (Bell::new(receiver.clone()), receiver.clone(), Arc::clone(&heard));
            tokio::spawn(async move {
                let mut last = 0;
                while poll_fn(|cx| bell.poll(cx)).await {
                    let now = *receiver.borrow();
                    heard.fetch_add(now - last, Ordering::Relaxed);
                    last = now;
                }
            })
        };
        let all: Vec<_> = (0..BELLS).map(listen).collect();
        for round in 1..=200 {
            sender.send(round).unwrap();
            let everybody = async {
                while heard.load(Ordering::Relaxed) < round * BELLS {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(20), everybody).await.unwrap();
        }
        drop(sender);
        for one in all {
            one.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_change_is_lost_between_two_threads() {
        let (sender, receiver) = watch::channel(0_u32);
        let last = 20_000;
        let mut bell = Bell::new(receiver.clone());
        let waits = tokio::spawn(async move {
            while *receiver.borrow() < last {
                assert!(poll_fn(|cx| bell.poll(cx)).await);
            }
        });
        for number in 1..=last {
            sender.send(number).unwrap();
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        timeout(Duration::from_secs(20), waits).await.unwrap().unwrap();
    }
}
