//! What operators can order, what they are told of it, and who may order at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize};
use subtle::ConstantTimeEq as _;

use crate::config::{self, Password};
use crate::ids::{ClusterName, PodName};

/// Nobody waits longer for an answer.
pub const LONGEST: Duration = Duration::from_secs(600);

/// Carries an order out. What was begun goes on when the future is dropped.
pub type Obey = Arc<dyn Fn(Order) -> BoxFuture<'static, Answer> + Send + Sync>;

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Mark a pod to be left, or take the mark back.
    Drain(Drain),
    /// Move the primary's role to another pod.
    Switchover(Switchover),
}

/// `POST /drain`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Which one.
    #[serde(deserialize_with = "pod")]
    pub pod: PodName,
    /// Needed only if several clusters have a pod of this name.
    #[serde(default, deserialize_with = "cluster")]
    pub cluster: Option<ClusterName>,
    /// Wait this long until its sessions have left.
    #[serde(default, deserialize_with = "duration")]
    pub wait: Option<Duration>,
    /// The mark ends by itself after this.
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub lasting: Option<Duration>,
    /// Take the mark back.
    #[serde(default)]
    pub undo: bool,
}

/// `POST /switchover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchover {
    /// Needed only if there are several.
    #[serde(default, deserialize_with = "cluster")]
    pub cluster: Option<ClusterName>,
    /// The next primary; else Patroni chooses.
    #[serde(default, deserialize_with = "optional_pod")]
    pub to: Option<PodName>,
    /// Only if this pod is the primary; else it is drained, and nothing more.
    #[serde(default, deserialize_with = "optional_pod")]
    pub from: Option<PodName>,
    /// For all of it.
    #[serde(default, deserialize_with = "duration")]
    pub wait: Option<Duration>,
}

/// What an operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it went, as HTTP says it.
    pub status: StatusCode,
    /// The rest.
    pub told: Box<Told>,
}

/// The JSON of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// How it went, in a word for programs.
    pub outcome: String,
    /// How it went, in a sentence or two for people.
    pub message: String,
    /// The cluster, once it is clear which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The pod that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The pod that is primary now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The timelines of the primary before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timelines: Option<(u32, u32)>,
    /// Sessions of this pgmoor that are still on the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<usize>,
    /// Sessions of this pgmoor that left it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved: Option<usize>,
    /// From the mark to the proof of the new primary: no session that had nothing to finish waited longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// What Patroni answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patroni: Option<PatroniSaid>,
}

/// What Patroni answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatroniSaid {
    /// The HTTP status.
    pub status: u16,
    /// The text, word for word.
    pub text: String,
}

impl Answer {
    /// An answer with nothing but its words.
    pub fn new(status: StatusCode, outcome: &str, message: impl Into<String>) -> Self {
        let told = Told { outcome: outcome.to_owned(), message: message.into(), ..Told::default() };
        Self { status, told: Box::new(told) }
    }
}

/// Why somebody may not order; `None`: he may.
pub(super) fn refusal(token: Option<&Password>, peer: IpAddr, headers: &HeaderMap) -> Option<Answer> {
    let Some(token) = token else {
        // A page in the operator's own browser could be the one that asks; browsers say so.
        if headers.contains_key(ORIGIN) {
            return Some(Answer::new(StatusCode::FORBIDDEN, "forbidden", "this is not for web pages"));
        }
        let local = peer.to_canonical().is_loopback();
        return (!local).then(|| {
            let message =
                format!("{peer} is not this machine; write listen.admin_token_file to let others change things");
            Answer::new(StatusCode::FORBIDDEN, "forbidden", message)
        });
    };
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let right: bool = shown.is_some_and(|shown| shown.ct_eq(token.reveal().as_bytes()).into());
    let message = match shown {
        Some(_) => "the token is not the one of listen.admin_token_file",
        None => "this takes the token of listen.admin_token_file, as Authorization: Bearer (pgmoor's --token-file)",
    };
    (!right).then(|| Answer::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
}

fn pod<'de, D: Deserializer<'de>>(from: D) -> Result<PodName, D::Error> {
    let name = String::deserialize(from)?;
    if name.is_empty() {
        return Err(serde::de::Error::custom("pod is empty"));
    }
    Ok(PodName::new(name))
}

fn optional_pod<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PodName>, D::Error> {
    pod(from).map(Some)
}

fn cluster<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClusterName>, D::Error> {
    Ok(Some(ClusterName::new(String::deserialize(from)?)))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let duration = config::duration(&text).map_err(serde::de::Error::custom)?;
    if duration > LONGEST {
        return Err(serde::de::Error::custom(format!("{text:?} is longer than {} minutes", LONGEST.as_secs() / 60)));
    }
    Ok(Some(duration))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;

    fn headers(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn without_a_token_only_this_machine_orders() {
        let none = HeaderMap::new();
        for (peer, may) in [("127.0.0.1", true), ("127.3.2.1", true), ("::1", true), ("::ffff:127.0.0.1", true)]
            .into_iter()
            .chain([("10.0.0.1", false), ("::ffff:10.0.0.1", false), ("fe80::1", false)])
        {
            assert_eq!(refusal(None, peer.parse().unwrap(), &none).is_none(), may, "{peer}");
        }
        let page = refusal(None, "127.0.0.1".parse().unwrap(), &headers(ORIGIN, "http://evil.example"));
        assert_eq!(page.unwrap().status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn with_a_token_whoever_shows_it_orders() {
        let token = Password::new("moor");
        for (value, may) in [
            ("Bearer moor", true),
            ("Bearer moo", false),
            ("Bearer moor ", false),
            ("moor", false),
            ("Basic moor", false),
        ] {
            for peer in ["127.0.0.1", "10.0.0.1"] {
                let refused = refusal(Some(&token), peer.parse().unwrap(), &headers(AUTHORIZATION, value));
                assert_eq!(refused.is_none(), may, "{value}");
                assert!(refused.is_none_or(|answer| answer.status == StatusCode::UNAUTHORIZED));
            }
        }
        assert!(refusal(Some(&token), "127.0.0.1".parse().unwrap(), &HeaderMap::new()).is_some());
    }

    #[test]
    fn orders_are_read_from_queries() {
        let drain = |query: &str| {
            let uri = format!("/drain?{query}").parse().unwrap();
            Query::<Drain>::try_from_uri(&uri).map(|query| query.0).map_err(|error| error.to_string())
        };
        let all = drain("pod=10.0.0.1%3A5432&cluster=orders&wait=30s&for=2m&undo=true").unwrap();
        assert_eq!((all.pod.as_str(), all.wait, all.undo), ("10.0.0.1:5432", Some(Duration::from_secs(30)), true));
        assert_eq!((all.cluster, all.lasting), (Some("orders".into()), Some(Duration::from_secs(120))));
        assert_eq!(drain("pod=a").unwrap().wait, None);
        for bad in ["", "pod=", "pod=a&wait=30", "pod=a&wait=11m", "pod=a&undo=perhaps", "pod=a&wiat=3s"] {
            assert!(drain(bad).is_err(), "{bad}");
        }
        let uri = "/switchover?to=pg-1&from=pg-0".parse().unwrap();
        let Query(order) = Query::<Switchover>::try_from_uri(&uri).unwrap();
        assert_eq!((order.to, order.from, order.wait), (Some("pg-1".into()), Some("pg-0".into()), None));
    }
}
