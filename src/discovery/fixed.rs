//! A fixed list of pods, as for VMs and laptops: names that stand in the configuration, addresses that DNS may move.
//!
//! A fixed pod has one incarnation for ever. Nothing outside PostgreSQL tells a moved server from a replaced one, and
//! PostgreSQL's own answers do: a new address is asked afresh, and a stranger shows by its system identifier. So the uid
//! is a constant, and a new address is the same pod elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::lookup_host;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::config::FixedPod;
use crate::ids::PodId;
use crate::topology::evidence::{Event, LeaderSighting, PodSighting, RoleHint};

/// The one incarnation of every fixed pod.
pub(super) const UID: &str = "fixed";
/// From one look-up to the next.
const EVERY: Duration = Duration::from_secs(5);
/// Look-ups on failure are not more frequent than this.
const SPACING: Duration = Duration::from_millis(500);
/// A resolver that takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One pod and where it was last.
#[derive(Debug)]
struct Place {
    pod: FixedPod,
    address: Option<SocketAddr>,
    /// The last look-up failed, and that was logged.
    failing: bool,
}

impl Place {
    fn sighting(&self) -> PodSighting {
        PodSighting {
            id: PodId::new(self.pod.name.as_str(), UID),
            address: self.address,
            label: RoleHint::Unknown,
            ready: true,
            leaving: false,
            zone: None,
        }
    }

    /// Takes in the outcome of a look-up; true when the address is another.
    fn settle(&mut self, found: Result<Vec<SocketAddr>, String>) -> bool {
        match found {
            // Of several addresses the present one is kept: resolvers turn their lists round.
            Ok(found) if self.address.is_some_and(|address| found.contains(&address)) => {
                self.failing = false;
                false
            }
            Ok(found) if !found.is_empty() => {
                self.failing = false;
                self.address = found.first().copied();
                true
            }
            // Where it was last is the best guess there is.
            Ok(_) => self.fail("no address"),
            Err(why) => self.fail(&why),
        }
    }

    fn fail(&mut self, why: &str) -> bool {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(pod = %self.pod.name, host = %self.pod.host, "name not resolved: {why}");
        }
        false
    }
}

/// Tells where the pods are until the receiver of the events is dropped. `doubts` asks for a look-up at once.
pub(super) async fn run(pods: Vec<FixedPod>, events: mpsc::Sender<Event>, doubts: Arc<Notify>) {
    let mut places: Vec<Place> = pods.into_iter().map(|pod| Place { pod, address: None, failing: false }).collect();
    look(&mut places).await;
    let all = places.iter().map(Place::sighting).collect();
    for event in [Event::Relisted(all), Event::LeaderSeen(LeaderSighting::NotUsed)] {
        if events.send(event).await.is_err() {
            return;
        }
    }
    loop {
        sleep(SPACING).await;
        tokio::select! {
            () = sleep(EVERY) => {}
            () = doubts.notified() => {}
            () = events.closed() => return,
        }
        for moved in look(&mut places).await {
            if events.send(Event::PodSeen(moved)).await.is_err() {
                return;
            }
        }
    }
}

/// Looks all names up at the same time; returns who has moved.
async fn look(places: &mut [Place]) -> Vec<PodSighting> {
    let found = join_all(places.iter().map(|place| resolve(&place.pod))).await;
    let moved = |(place, found): (&mut Place, _)| place.settle(found).then(|| place.sighting());
    places.iter_mut().zip(found).filter_map(moved).collect()
}

async fn resolve(pod: &FixedPod) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = pod.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, pod.port)]);
    }
    match timeout(PATIENCE, lookup_host((pod.host.as_str(), pod.port))).await {
        Err(_) => Err("the resolver did not answer".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(found)) => Ok(found.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodName;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_moves_only_when_its_address_is_gone() {
        let pod = FixedPod { name: PodName::new("a"), host: "a.example".to_owned(), port: 5432 };
        let mut place = Place { pod, address: None, failing: false };
        let (one, two) = (address("10.0.0.1:5432"), address("10.0.0.2:5432"));
        assert!(!place.settle(Err("no such host".to_owned())), "unknown stays unknown");
        assert!(place.settle(Ok(vec![one, two])));
        assert!(!place.settle(Ok(vec![two, one])), "the list turned round");
        assert!(!place.settle(Err("no such host".to_owned())), "the last address is kept");
        assert!(!place.settle(Ok(vec![])));
        assert_eq!(place.sighting().address, Some(one));
        assert!(place.settle(Ok(vec![two])));
        assert_eq!(place.sighting().address, Some(two));
        assert_eq!(place.sighting().id, PodId::new("a", UID), "the same incarnation");
    }
}
