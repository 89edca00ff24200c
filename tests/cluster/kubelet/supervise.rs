//! One container of a pod over its restarts: starts it, watches its probes, starts it again, ends it in order.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::children::Signal;
use super::container::{Launch, Running};
use super::probe::{self, Subject};
use super::status::News;

/// The wait before the second restart; it doubles up to the last. The first restart does not wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A container that ran this long has proven itself: its next restart does not wait.
const PROVEN: Duration = Duration::from_secs(10);

/// What a pod's containers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Run.
    Run,
    /// End in order: preStop, SIGTERM, and SIGKILL at this time.
    End(Instant),
    /// Be gone at once, without a word: the node lost its power.
    Vanish,
}

/// The running containers of a pod by name; shared with the faults.
pub type Slots = Arc<Mutex<BTreeMap<String, Arc<Running>>>>;

/// One container's care.
pub struct Supervisor {
    /// How it is started.
    pub launch: Launch,
    /// Its part of the manifest.
    pub container: Container,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's restartPolicy.
    pub policy: RestartPolicy,
    /// What it is to do.
    pub demand: watch::Receiver<Demand>,
    /// Where its running processes are shown.
    pub slots: Slots,
    /// Where news go, with the container's name.
    pub news: mpsc::UnboundedSender<(String, News)>,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    Always,
    /// When its code was not 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// As the manifest names it; what it does not name is `Always`.
    pub fn named(name: Option<&str>) -> Self {
        match name {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            Some(_) | None => Self::Always,
        }
    }

    fn again(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// How a container's run came to its end.
enum Over {
    /// By itself, with this code.
    Itself(i32),
    /// By the liveness probe.
    Unhealthy,
    /// Because the pod is to end.
    Demanded,
}

impl Supervisor {
    /// Cares for the container until the pod is to end or the container has ended for good.
    pub async fn run(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            let began = Instant::now();
            let code = match self.launch.start().await {
                Ok(running) => match self.once(Arc::new(running)).await {
                    Some(code) => code,
                    None => return,
                },
                Err(trouble) => {
                    self.tell(News::Waiting("CreateContainerError".to_owned(), trouble.to_string()));
                    -1
                }
            };
            if !self.policy.again(code) {
                return;
            }
            wait = if began.elapsed() >= PROVEN { Duration::ZERO } else { wait };
            tokio::select! {
                () = sleep(wait) => {}
                _ = self.demand.wait_for(|demand| *demand != Demand::Run) => return,
            }
            wait = (wait * 2).clamp(BACKOFF.0, BACKOFF.1);
            self.tell(News::Restarting);
        }
    }

    /// One run. Returns its code, or nothing when the pod is to end.
    async fn once(&mut self, running: Arc<Running>) -> Option<i32> {
        lock(&self.slots).insert(self.container.name.clone(), Arc::clone(&running));
        self.tell(News::Started { ready: self.container.readiness_probe.is_none() });
        let over = self.attend(&running).await;
        let code = match over {
            Over::Itself(code) => Some(code),
            Over::Unhealthy => {
                drop(running.child().stop(Duration::from_secs(5)).await);
                Some(137)
            }
            Over::Demanded => {
                self.end(&running).await;
                None
            }
        };
        lock(&self.slots).remove(&self.container.name);
        let ended = running.child().ended().await;
        let seen =
            ended.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&ended).unwrap_or(9));
        self.tell(News::Ended(seen));
        code
    }

    async fn attend(&mut self, running: &Running) -> Over {
        let subject = Subject { ip: self.ip, container: &self.container, running };
        let (news, name) = (&self.news, &self.container.name);
        let readiness = async {
            match &self.container.readiness_probe {
                Some(probe) => {
                    probe::follow(probe, subject, false, |ready| drop(news.send((name.clone(), News::Ready(ready)))))
                        .await
                }
                None => std::future::pending().await,
            }
        };
        let (ill_tx, mut ill) = mpsc::unbounded_channel();
        let liveness = async {
            match &self.container.liveness_probe {
                Some(probe) => probe::follow(probe, subject, true, |well| _ = ill_tx.send(well)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = running.child().ended() => {
                Over::Itself(status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(9)))
            }
            _ = self.demand.wait_for(|demand| *demand != Demand::Run) => Over::Demanded,
            _ = ill.recv() => Over::Unhealthy,
            () = readiness => Over::Unhealthy,
            () = liveness => Over::Unhealthy,
        }
    }

    /// The end of a container in order, or at once. Its readiness stays as it was until it has ended.
    async fn end(&mut self, running: &Running) {
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()?.exec.as_ref());
        if let Some(words) = hook.and_then(|exec| exec.command.clone()) {
            let left = match *self.demand.borrow() {
                Demand::End(deadline) => deadline.saturating_duration_since(Instant::now()),
                Demand::Run | Demand::Vanish => Duration::ZERO,
            };
            // A hook that fails only shortens the wait, as everywhere.
            drop(within(&mut self.demand, running.exec(&words, left)).await);
        }
        drop(running.signal(Signal::Term));
        if within(&mut self.demand, running.child().ended()).await.is_none() {
            drop(running.child().kill().await);
        }
    }

    fn tell(&self, news: News) {
        drop(self.news.send((self.container.name.clone(), news)));
    }
}

/// `work`, unless the deadline, which may move while we wait, comes first.
async fn within<T>(demand: &mut watch::Receiver<Demand>, work: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(work);
    loop {
        let deadline = match *demand.borrow_and_update() {
            Demand::End(deadline) => deadline,
            Demand::Run | Demand::Vanish => return None,
        };
        tokio::select! {
            done = &mut work => return Some(done),
            () = sleep_until(deadline) => return None,
            changed = demand.changed() => if changed.is_err() { return None },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
