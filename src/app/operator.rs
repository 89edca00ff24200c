//! Planned moves on an operator's word: which cluster and pod are meant, and the marks of pods that are to be left.

mod marks;
mod switchover;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::admin::orders::{Answer, Drain, LONGEST, Obey, Order, Told};
use crate::config;
use crate::discovery::DrainSender;
use crate::ids::{ClusterName, PodId, PodName};
use crate::metrics::Metrics;
use crate::session::registry::Registry;
use crate::topology::routing::{Primary, RoutingTable};

use marks::Marks;

/// From one look at who is still on a pod to the next.
const LOOK: Duration = Duration::from_millis(10);
/// Orders that are carried out at once, waiting ones included.
const AT_ONCE: usize = 64;

/// Who carries orders out: one ward per cluster.
pub(super) struct Operator {
    wards: Vec<Arc<Ward>>,
    places: Arc<Semaphore>,
}

/// What a cluster's orders need.
pub(super) struct Ward {
    pub(super) name: ClusterName,
    pub(super) routes: watch::Receiver<Arc<RoutingTable>>,
    pub(super) drains: DrainSender,
    /// How its Patroni is reached, if it has one.
    pub(super) patroni: Option<config::Patroni>,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
    /// How long a switchover lets sessions finish what they are in the midst of, at this moment.
    pub(super) patience: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Held while the watch is told, so that it hears of changes in their order.
    pub(super) marks: Mutex<Marks>,
    /// Held by the one switchover there may be.
    pub(super) switching: Mutex<()>,
    /// A mark with an end was set.
    pub(super) timed: Notify,
}

impl Operator {
    /// For these clusters.
    pub(super) fn new(wards: Vec<Arc<Ward>>) -> Self {
        Self { wards, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What the operators' door calls. Every order runs to its end, whether or not somebody still waits for the answer.
    pub(super) fn obey(self: Arc<Self>) -> Obey {
        Arc::new(move |order| {
            let operator = Arc::clone(&self);
            let work = tokio::spawn(async move { operator.carry_out(order).await });
            Box::pin(async move {
                let fault = |error| Answer::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", format!("{error}"));
                work.await.unwrap_or_else(fault)
            })
        })
    }

    async fn carry_out(&self, order: Order) -> Answer {
        let Ok(_place) = self.places.try_acquire() else {
            return Answer::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                format!("{AT_ONCE} orders are being carried out"),
            );
        };
        let ward = match &order {
            Order::Drain(drain) => self.ward(drain.cluster.as_ref(), Some(&drain.pod)),
            Order::Switchover(order) => self.ward(order.cluster.as_ref(), order.from.as_ref().or(order.to.as_ref())),
        };
        match (ward, order) {
            (Err(answer), _) => answer,
            (Ok(ward), Order::Drain(order)) => ward.drain(&order).await,
            (Ok(ward), Order::Switchover(order)) => ward.switchover(&order).await,
        }
    }

    /// The cluster that is named, or the only one, or the only one with such a pod.
    fn ward(&self, cluster: Option<&ClusterName>, pod: Option<&PodName>) -> Result<&Arc<Ward>, Answer> {
        if let Some(name) = cluster {
            let found = self.wards.iter().find(|ward| ward.name == *name);
            return found.ok_or_else(|| {
                let known: Vec<&str> = self.wards.iter().map(|ward| ward.name.as_str()).collect();
                let message = format!("there is no cluster {name}; there is {}", known.join(", "));
                Answer::new(StatusCode::NOT_FOUND, "unknown_cluster", message)
            });
        }
        let mut meant = self
            .wards
            .iter()
            .filter(|ward| self.wards.len() == 1 || pod.is_some_and(|pod| ward.routes.borrow().pods.contains_key(pod)));
        match (meant.next(), meant.next(), pod) {
            (Some(only), None, _) => Ok(only),
            (None, _, Some(pod)) => Err(unknown(pod, "any cluster")),
            (None, _, None) | (Some(_), Some(_), _) => {
                Err(Answer::new(StatusCode::BAD_REQUEST, "which_cluster", "there are several clusters; name one"))
            }
        }
    }
}

impl Ward {
    fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.routes.borrow())
    }

    async fn drain(&self, order: &Drain) -> Answer {
        let pod = match self.table().pods.get(&order.pod) {
            Some(route) => route.id.clone(),
            None => return unknown(&order.pod, self.name.as_str()),
        };
        if order.undo {
            return self.undo(&pod).await;
        }
        let until = order.lasting.map(|lasting| Instant::now() + lasting);
        if !self.change(&pod.name, |marks| marks.order(&pod, until)).await {
            return ending();
        }
        if until.is_some() {
            self.timed.notify_one();
        }
        let writes = match &self.table().primary {
            Primary::Proven { pod: primary, .. } if *primary == pod => {
                "; it is the primary: writes wait until another one is proven, and `pgmoor switchover` makes one"
            }
            Primary::Proven { .. } | Primary::Nobody(_) => "",
        };
        let deadline = Instant::now() + order.wait.unwrap_or_default().min(LONGEST);
        let left = self.left(&pod, deadline).await;
        let name = &pod.name;
        let answer = match (left, order.wait) {
            (0, _) => Answer::new(StatusCode::OK, "drained", format!("{name} drains: no session is on it{writes}")),
            (_, Some(_)) if !self.marks.lock().await.has(name) => {
                Answer::new(StatusCode::CONFLICT, "undone", format!("{name}: the mark was taken back meanwhile"))
            }
            (left, None) => {
                let message = format!("{name} drains: {} still on it{writes}", sessions(left));
                Answer::new(StatusCode::OK, "draining", message)
            }
            (left, Some(wait)) => {
                let message = format!(
                    "{name} drains, and after {wait:?} {} still on it: in a transaction, pinned to it, or there because they \
                     asked for this pod by its name{writes}",
                    sessions(left)
                );
                Answer::new(StatusCode::GATEWAY_TIMEOUT, "still_draining", message)
            }
        };
        self.about(answer, name, Some(left))
    }

    async fn undo(&self, pod: &PodId) -> Answer {
        let mut was = false;
        if !self.change(&pod.name, |marks| was = marks.undo(&pod.name)).await {
            return ending();
        }
        let drains = self.table().route(pod).is_some_and(|route| route.draining);
        let answer = match (was, drains) {
            (true, _) => Answer::new(StatusCode::OK, "undone", format!("{}: the mark is taken back", pod.name)),
            (false, true) => {
                let message = format!(
                    "{} drains for another reason: it is being deleted, annotated, or switched away from",
                    pod.name
                );
                Answer::new(StatusCode::CONFLICT, "not_marked", message)
            }
            (false, false) => Answer::new(StatusCode::OK, "not_marked", format!("{} was not marked", pod.name)),
        };
        self.about(answer, &pod.name, None)
    }

    fn about(&self, mut answer: Answer, pod: &PodName, left: Option<usize>) -> Answer {
        let about = Told { cluster: Some(self.name.to_string()), from: Some(pod.to_string()), left, ..Told::default() };
        let Told { outcome, message, .. } = *answer.told;
        *answer.told = Told { outcome, message, ..about };
        answer
    }

    /// Changes the marks, and what the watch knows of this pod's. False: the watch has ended.
    async fn change(&self, pod: &PodName, change: impl FnOnce(&mut Marks)) -> bool {
        let mut marks = self.marks.lock().await;
        change(&mut marks);
        self.metrics.drain_marks(&self.name, marks.len());
        self.drains.mark(pod.clone(), marks.has(pod)).await
    }

    /// Waits until no session of this pgmoor holds a backend on this pod, which is marked: how many still do at the deadline.
    async fn left(&self, pod: &PodId, deadline: Instant) -> usize {
        let mut routes = self.routes.clone();
        let heard = routes.wait_for(|table| table.route(pod).is_none_or(|route| route.draining));
        let _ = timeout_at(deadline.max(Instant::now() + LOOK), heard).await;
        let mut before = self.registry.load(pod);
        loop {
            // Twice: one that had just joined when the mark came is on its way.
            if Instant::now() < deadline || before == 0 {
                sleep(LOOK).await;
            }
            let now = self.registry.load(pod);
            if (before == 0 && now == 0) || Instant::now() >= deadline {
                return now;
            }
            before = now;
        }
    }
}

/// Ends the marks whose time is over or whose incarnation is gone, as long as the cluster is watched.
pub(super) async fn keep(ward: Arc<Ward>) {
    let mut routes = ward.routes.clone();
    loop {
        let end = ward.marks.lock().await.next_end();
        let timer = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => pending().await,
            }
        };
        tokio::select! {
            changed = routes.changed() => if changed.is_err() { return },
            () = timer => {}
            () = ward.timed.notified() => {}
        }
        let table = Arc::clone(&routes.borrow_and_update());
        let mut marks = ward.marks.lock().await;
        for pod in marks.expire(Instant::now(), &table) {
            tracing::info!(cluster = %ward.name, %pod, "the mark of the pod has ended");
            ward.drains.mark(pod.clone(), marks.has(&pod)).await;
        }
        ward.metrics.drain_marks(&ward.name, marks.len());
    }
}

fn sessions(count: usize) -> String {
    match count {
        1 => "1 session is".to_owned(),
        _ => format!("{count} sessions are"),
    }
}

fn unknown(pod: &PodName, place: &str) -> Answer {
    Answer::new(StatusCode::NOT_FOUND, "unknown_pod", format!("there is no pod {pod} in {place}"))
}

fn ending() -> Answer {
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "this pgmoor is about to end")
}

#[cfg(test)]
mod tests;
