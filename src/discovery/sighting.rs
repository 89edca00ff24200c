//! What a pod object of the Kubernetes API says about one database pod. Nothing in an object can make this fail loudly:
//! what is missing is unknown, what is strange is skipped and named.

use std::net::{IpAddr, SocketAddr};

use kube::api::DynamicObject;
use serde_json::Value;

use super::preset::{LeaderSource, Preset};
use crate::ids::{PodId, Zone};
use crate::topology::evidence::PodSighting;

/// How a cluster's pods are to be read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Whose labels they carry.
    pub(super) preset: &'static Preset,
    /// PostgreSQL's port.
    pub(super) port: u16,
    /// The annotation that drains a pod: any value but `false`.
    pub(super) drain_annotation: String,
}

/// What a pod object turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sight {
    /// A database pod.
    Database(PodSighting),
    /// This incarnation has ended for good (Succeeded, Failed): its object only waits to be collected.
    Ended(PodId),
    /// A pod of another kind that the selector matches as well.
    Stranger,
    /// Not a pod one can speak about.
    Odd(&'static str),
}

const ZONE: &str = "topology.kubernetes.io/zone";

impl Reading {
    /// Reads one pod.
    pub(super) fn pod(&self, object: &DynamicObject) -> Sight {
        let meta = &object.metadata;
        let (Some(name), Some(uid)) = (filled(meta.name.as_ref()), filled(meta.uid.as_ref())) else {
            return Sight::Odd("no name or uid");
        };
        let id = PodId::new(name, uid);
        let none = super::preset::Labels::new();
        let labels = meta.labels.as_ref().unwrap_or(&none);
        if !self.preset.is_database(labels) {
            return Sight::Stranger;
        }
        let status = object.data.get("status");
        let text = |key: &str| status.and_then(|status| status.get(key)).and_then(Value::as_str);
        if matches!(text("phase"), Some("Succeeded" | "Failed")) {
            return Sight::Ended(id);
        }
        let address = text("podIP").and_then(|ip| ip.parse::<IpAddr>().ok());
        let shy = self.preset.refuses_readers(labels) || self.tagged_no_load_balance(object);
        Sight::Database(PodSighting {
            id,
            address: address.map(|ip| SocketAddr::new(ip, self.port)),
            label: self.preset.role(labels),
            ready: status.is_some_and(ready) && !shy,
            leaving: meta.deletion_timestamp.is_some() || self.marked_to_drain(object),
            zone: labels.get(ZONE).filter(|zone| !zone.is_empty()).map(Zone::new),
        })
    }

    fn marked_to_drain(&self, object: &DynamicObject) -> bool {
        annotation(object, &self.drain_annotation).is_some_and(|value| !value.trim().eq_ignore_ascii_case("false"))
    }

    /// Patroni's `noloadbalance` tag, in the JSON that every member writes on its own pod: such a replica is as
    /// unready for readers as Patroni's own `/replica` check says it is.
    fn tagged_no_load_balance(&self, object: &DynamicObject) -> bool {
        match self.preset.leader {
            LeaderSource::Patroni => annotation(object, "status")
                .and_then(|text| serde_json::from_str::<Value>(text).ok())
                .is_some_and(|status| status["tags"]["noloadbalance"] == Value::Bool(true)),
            LeaderSource::CloudNativePg | LeaderSource::NotUsed => false,
        }
    }
}

fn ready(status: &Value) -> bool {
    let conditions = status.get("conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

fn annotation<'a>(object: &'a DynamicObject, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn filled(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}
