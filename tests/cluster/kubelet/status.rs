//! What the kubelet says about a pod: the states of its containers, and the status object made of them.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not running yet, or again: (reason, message).
    Waiting(String, String),
    /// Running since.
    Running(Timestamp),
    /// Ended with this code at this time.
    Ended(i32, Timestamp),
}

/// A container and its past.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    image: String,
    /// Now.
    pub state: State,
    /// Does its readiness probe say so (or has it none and runs)?
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    last: Option<State>,
}

/// News of one container.
#[derive(Clone, Debug)]
pub enum News {
    /// It runs; ready at once when it has no readiness probe.
    Started { ready: bool },
    /// It ended with this code.
    Ended(i32),
    /// It cannot be started: (reason, message).
    Waiting(String, String),
    /// It is being started again.
    Restarting,
    /// Its readiness changed.
    Ready(bool),
}

/// The status of a pod.
#[derive(Clone, Debug)]
pub struct Status {
    containers: BTreeMap<String, ContainerStatus>,
    started: Timestamp,
    ready: (bool, Timestamp),
    /// The address of this incarnation.
    pub ip: Option<Ipv4Addr>,
    restarts_forever: bool,
}

impl Status {
    /// A pod that was just seen.
    pub fn new(pod: &Pod) -> Self {
        let now = Timestamp::now();
        let spec = pod.spec.as_ref();
        let waiting = State::Waiting("ContainerCreating".to_owned(), String::new());
        let containers = spec.iter().flat_map(|spec| &spec.containers).map(|container| {
            let image = container.image.clone().unwrap_or_default();
            let status = ContainerStatus { image, state: waiting.clone(), ready: false, restarts: 0, last: None };
            (container.name.clone(), status)
        });
        let policy = spec.and_then(|spec| spec.restart_policy.as_deref());
        let restarts_forever = policy.is_none_or(|policy| policy == "Always");
        Self { containers: containers.collect(), started: now, ready: (false, now), ip: None, restarts_forever }
    }

    /// Takes in news of a container.
    pub fn hear(&mut self, container: &str, news: News) {
        let Some(status) = self.containers.get_mut(container) else {
            return;
        };
        match news {
            News::Started { ready } => {
                status.state = State::Running(Timestamp::now());
                status.ready = ready;
            }
            News::Ended(code) => {
                status.state = State::Ended(code, Timestamp::now());
                status.last = Some(status.state.clone());
                status.ready = false;
            }
            News::Waiting(reason, message) => {
                status.state = State::Waiting(reason, message);
                status.ready = false;
            }
            News::Restarting => status.restarts += 1,
            News::Ready(ready) => status.ready = ready,
        }
        let ready = self.is_ready();
        if ready != self.ready.0 {
            self.ready = (ready, Timestamp::now());
        }
    }

    /// Says the same of every container.
    pub fn hear_of_all(&mut self, news: &News) {
        let names: Vec<String> = self.containers.keys().cloned().collect();
        for name in names {
            self.hear(&name, news.clone());
        }
    }

    /// Are all containers ready?
    pub fn is_ready(&self) -> bool {
        self.containers.values().all(|container| container.ready)
    }

    /// One container.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.get(name)
    }

    fn phase(&self) -> &'static str {
        let states = || self.containers.values().map(|container| &container.state);
        if states().any(|state| matches!(state, State::Running(_))) {
            "Running"
        } else if self.restarts_forever {
            let began = self.containers.values().any(|container| container.last.is_some());
            if began { "Running" } else { "Pending" }
        } else if states().all(|state| matches!(state, State::Ended(0, _))) {
            "Succeeded"
        } else if states().all(|state| matches!(state, State::Ended(..))) {
            "Failed"
        } else {
            "Pending"
        }
    }

    /// The object for the API server.
    pub fn object(&self) -> Value {
        let condition = |kind: &str, is: bool, since: Timestamp| json!({"type": kind, "status": if is { "True" } else { "False" }, "lastTransitionTime": since});
        let containers: Vec<Value> = self.containers.iter().map(|(name, status)| status.object(name)).collect();
        let mut object = json!({
            "phase": self.phase(),
            "startTime": self.started,
            "conditions": [
                condition("Initialized", true, self.started),
                condition("Ready", self.ready.0, self.ready.1),
                condition("ContainersReady", self.ready.0, self.ready.1),
                condition("PodScheduled", true, self.started),
            ],
            "containerStatuses": containers,
        });
        if let Some(ip) = self.ip {
            object["hostIP"] = json!("127.0.0.1");
            object["podIP"] = json!(ip);
            object["podIPs"] = json!([{"ip": ip}]);
        }
        object
    }
}

impl ContainerStatus {
    fn object(&self, name: &str) -> Value {
        json!({
            "name": name,
            "image": self.image,
            "imageID": "",
            "ready": self.ready,
            "started": matches!(self.state, State::Running(_)),
            "restartCount": self.restarts,
            "state": self.state.object(),
            "lastState": self.last.as_ref().map_or_else(|| json!({}), State::object),
        })
    }
}

impl State {
    fn object(&self) -> Value {
        match self {
            Self::Waiting(reason, message) => {
                json!({"waiting": {"reason": reason, "message": message}, "running": null, "terminated": null})
            }
            Self::Running(since) => {
                json!({"running": {"startedAt": since}, "waiting": null, "terminated": null})
            }
            Self::Ended(code, at) => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": code, "finishedAt": at, "reason": reason}, "running": null, "waiting": null})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}}))
            .unwrap()
    }

    #[test]
    fn a_pod_is_ready_only_while_all_its_containers_are() {
        let mut status = Status::new(&pod("Always"));
        assert_eq!(status.object()["phase"], "Pending");
        status.hear("a", News::Started { ready: true });
        status.hear("b", News::Started { ready: false });
        assert_eq!(status.object()["phase"], "Running");
        assert_eq!(status.object()["conditions"][1]["status"], "False");
        status.hear("b", News::Ready(true));
        assert_eq!(status.object()["conditions"][1]["status"], "True");
        status.hear("a", News::Ended(137));
        assert_eq!(status.object()["conditions"][1]["status"], "False");
        assert_eq!(status.object()["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    }

    #[test]
    fn a_pod_that_may_end_succeeds_or_fails() {
        for (code, phase) in [(0, "Succeeded"), (1, "Failed")] {
            let mut status = Status::new(&pod("Never"));
            status.hear("a", News::Ended(0));
            assert_eq!(status.object()["phase"], "Pending");
            status.hear("b", News::Ended(code));
            assert_eq!(status.object()["phase"], phase);
        }
    }
}
