//! What a server says of itself at the end of a login, remembered: the next login of the same identity need not ask one.
//!
//! It is there only since somebody of exactly this identity was let in, and it holds for as long as the same pod is what those with
//! this need are sent to, and no other primary was proven meanwhile. Where a backend says something else later, its session's client
//! is told then, as it is whenever settings differ between two backends.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::ids::PodId;
use crate::topology::routing::{Need, RoutingTable, Standing};
use crate::wire::message::write::backend as write;

use super::Parameters;

/// What was said at the end of the last login.
#[derive(Debug)]
pub struct Greeting {
    /// The settings that were reported.
    pub parameters: Parameters,
    /// The same, as messages.
    pub messages: Bytes,
    need: Need,
    pod: PodId,
    /// How many primaries there had been.
    tenure: u64,
}

/// What was said to one identity, for each need.
#[derive(Debug, Default)]
pub struct Greetings(Mutex<Vec<Arc<Greeting>>>);

impl Greetings {
    /// This was said by that pod, to somebody with this need. `tenure`: see [`RoutingTable::tenure`].
    pub fn remember(&self, need: &Need, pod: &PodId, tenure: u64, parameters: &Parameters) {
        let mut known = self.0.lock();
        let at = known.iter().position(|greeting| greeting.need == *need);
        let is_it = |greeting: &Greeting| {
            greeting.tenure == tenure && greeting.pod == *pod && greeting.parameters == *parameters
        };
        if at.is_some_and(|at| is_it(&known[at])) {
            return;
        }
        at.map(|at| known.swap_remove(at));
        let mut messages = BytesMut::new();
        parameters.iter().for_each(|(name, value)| write::parameter_status(&mut messages, name, value));
        let (need, pod, parameters) = (need.clone(), pod.clone(), Arc::clone(parameters));
        known.push(Arc::new(Greeting { parameters, messages: messages.freeze(), need, pod, tenure }));
    }

    /// What somebody with this need would be told now.
    pub fn recall(&self, need: &Need, table: &RoutingTable) -> Option<Arc<Greeting>> {
        let known = self.0.lock();
        let greeting = known.iter().find(|greeting| greeting.need == *need)?;
        let holds = greeting.tenure == table.tenure && table.standing(&greeting.pod, need) == Standing::Good;
        holds.then(|| Arc::clone(greeting))
    }

    /// Somebody of this identity was not let in.
    pub fn forget(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use crate::ids::{Epoch, Timeline};
    use crate::topology::routing::{Primary, Role, Route};

    fn table(primary: &PodId, tenure: u64) -> RoutingTable {
        let route = Route {
            id: primary.clone(),
            address: Some(([127, 0, 0, 1], 5432).into()),
            role: Role::Primary,
            draining: false,
            ready: true,
            zone: None,
        };
        RoutingTable {
            cluster: "c".into(),
            epoch: Epoch(1),
            primary: Primary::Proven { pod: primary.clone(), timeline: Timeline(1) },
            tenure,
            pods: BTreeMap::from([(primary.name.clone(), route)]),
            floor: Timeline(1),
            stale: false,
            history: None,
        }
    }

    fn parameters(version: &str) -> Parameters {
        Arc::new(BTreeMap::from([("server_version".to_owned(), version.to_owned())]))
    }

    #[test]
    fn holds_for_the_same_need_while_the_same_primary_is_there() {
        let (a, b) = (PodId::new("pg-0", "a"), PodId::new("pg-1", "b"));
        let greetings = Greetings::default();
        assert!(greetings.recall(&Need::Write, &table(&a, 1)).is_none());
        greetings.remember(&Need::Write, &a, 1, &parameters("15"));
        let known = greetings.recall(&Need::Write, &table(&a, 1)).unwrap();
        assert_eq!(&known.messages[..], b"S\0\0\0\x16server_version\x0015\0");
        assert!(greetings.recall(&Need::Read { or_primary: true }, &table(&a, 1)).is_none(), "another need");
        assert!(greetings.recall(&Need::Write, &table(&b, 1)).is_none(), "another pod");
        assert!(greetings.recall(&Need::Write, &table(&a, 2)).is_none(), "another primary in between");
        greetings.remember(&Need::Write, &a, 2, &parameters("16"));
        let known = greetings.recall(&Need::Write, &table(&a, 2)).unwrap();
        assert_eq!(known.parameters, parameters("16"));
        greetings.forget();
        assert!(greetings.recall(&Need::Write, &table(&a, 2)).is_none());
    }
}
