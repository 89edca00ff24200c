//! Which pods of one cluster are marked to be left, on whose word, and when a mark ends by itself.
//!
//! The machine below marks names. A pod of a StatefulSet comes back under its old name, and what was said of the one before
//! does not hold for it: so the incarnation is kept here, and its mark ends with it.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::ids::{PodId, PodName, PodUid};
use crate::topology::routing::RoutingTable;

/// The marks of one cluster.
#[derive(Debug, Default)]
pub(in crate::app) struct Marks {
    ordered: BTreeMap<PodName, Mark>,
    /// The primary that is being switched away from.
    moving: Option<PodName>,
}

#[derive(Debug)]
struct Mark {
    uid: PodUid,
    until: Option<Instant>,
}

impl Marks {
    /// An operator wants this incarnation left.
    pub(super) fn order(&mut self, pod: &PodId, until: Option<Instant>) {
        self.ordered.insert(pod.name.clone(), Mark { uid: pod.uid.clone(), until });
    }

    /// An operator wants it no more. False: he did not before.
    pub(super) fn undo(&mut self, pod: &PodName) -> bool {
        self.ordered.remove(pod).is_some()
    }

    /// A switchover takes this pod's role away, or none does.
    pub(super) fn moves(&mut self, pod: Option<&PodName>) {
        self.moving = pod.cloned();
    }

    /// Whether somebody wants it left.
    pub(super) fn has(&self, pod: &PodName) -> bool {
        self.moving.as_ref() == Some(pod) || self.ordered.contains_key(pod)
    }

    /// How many pods operators want left.
    pub(super) fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Lets go of those whose time is over, or whose incarnation is gone; returns their names.
    pub(super) fn expire(&mut self, now: Instant, table: &RoutingTable) -> Vec<PodName> {
        let over = |(name, mark): (&PodName, &Mark)| {
            let here = table.pods.get(name).is_some_and(|route| route.id.uid == mark.uid);
            (!here || mark.until.is_some_and(|until| now >= until)).then(|| name.clone())
        };
        let over: Vec<PodName> = self.ordered.iter().filter_map(over).collect();
        self.ordered.retain(|name, _| !over.contains(name));
        over
    }

    /// When the next one ends by its time.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ordered.values().filter_map(|mark| mark.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_mark_ends_with_its_incarnation() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.order(&PodId::new("pg-0", "a"), None);
        marks.order(&PodId::new("pg-1", "b"), None);
        assert_eq!(marks.expire(now, &table(&[("pg-0", "a"), ("pg-1", "b")])), [""; 0].map(PodName::new));
        assert_eq!(marks.expire(now, &table(&[("pg-0", "a2"), ("pg-1", "b")])), ["pg-0".into()]);
        assert!(!marks.has(&"pg-0".into()) && marks.has(&"pg-1".into()));
        assert_eq!(marks.expire(now, &table(&[("pg-0", "a2")])), ["pg-1".into()], "it is gone");
        assert_eq!(marks.len(), 0);
    }

    #[test]
    fn a_mark_ends_at_its_time() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let table = table(&[("pg-0", "a")]);
        marks.order(&PodId::new("pg-0", "a"), Some(now + Duration::from_secs(9)));
        assert_eq!(marks.next_end(), Some(now + Duration::from_secs(9)));
        assert!(marks.expire(now + Duration::from_secs(8), &table).is_empty());
        assert_eq!(marks.expire(now + Duration::from_secs(9), &table), ["pg-0".into()]);
        assert_eq!(marks.next_end(), None);
    }

    #[test]
    fn a_switchover_and_an_operator_do_not_undo_each_other() {
        let mut marks = Marks::default();
        let pod: PodName = "pg-0".into();
        marks.order(&PodId::new("pg-0", "a"), None);
        marks.moves(Some(&pod));
        assert!(marks.undo(&pod) && marks.has(&pod), "the switchover goes on");
        marks.order(&PodId::new("pg-0", "a"), None);
        marks.moves(None);
        assert!(marks.has(&pod), "the operator's mark stays");
        assert!(marks.undo(&pod) && !marks.has(&pod) && !marks.undo(&pod));
    }
}
