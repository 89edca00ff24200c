//! Looks at every pod's PostgreSQL directly, many times a second: when exactly was somebody writable again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::stage::Stage;

/// Every sight of one pod.
struct Sight {
    at: Instant,
    /// `None`: it did not answer.
    writable: Option<bool>,
}

/// Watches until it is asked.
pub struct Observer {
    stop: Arc<AtomicBool>,
    pods: Vec<JoinHandle<Vec<Sight>>>,
}

impl Observer {
    /// Begins to watch all pods of the cluster.
    pub async fn start(stage: &Arc<Stage>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pods = stage.cluster.pods().await.unwrap();
        let watch = |pod: String| tokio::spawn(watch(Arc::clone(stage), pod, Arc::clone(&stop)));
        Self { pods: pods.into_iter().map(|pod| watch(pod.name)).collect(), stop }
    }

    /// When a pod that was not writable (or not there) after `fault` became writable.
    pub async fn promoted_after(self, fault: Instant) -> Instant {
        self.stop.store(true, Ordering::Relaxed);
        let mut promotions = Vec::new();
        for pod in self.pods {
            let mut was_down = false;
            for sight in pod.await.unwrap().into_iter().filter(|sight| sight.at > fault) {
                match sight.writable {
                    Some(true) if was_down => {
                        promotions.push(sight.at);
                        break;
                    }
                    Some(true) => {}
                    Some(false) | None => was_down = true,
                }
            }
        }
        promotions.into_iter().min().expect("somebody was promoted")
    }
}

async fn watch(stage: Arc<Stage>, pod: String, stop: Arc<AtomicBool>) -> Vec<Sight> {
    let mut sights = Vec::new();
    let mut open: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        if open.is_none() {
            open = stage.cluster.connect(&pod).await.ok();
        }
        let writable = match &open {
            None => None,
            Some(client) => match tokio::time::timeout(
                Duration::from_millis(500),
                client.query_one("SELECT NOT pg_is_in_recovery()", &[]),
            )
            .await
            {
                Ok(Ok(row)) => Some(row.get(0)),
                Ok(Err(_)) | Err(_) => None,
            },
        };
        if writable.is_none() {
            open = None;
        }
        sights.push(Sight { at: Instant::now(), writable });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sights
}
