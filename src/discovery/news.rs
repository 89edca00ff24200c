//! What differs between two routing tables, in words for the log. Lag and LSNs alone are no news.

use std::fmt::Write as _;

use crate::topology::routing::{Primary, Role, Route, RoutingTable};

/// Who is primary, or why nobody is.
pub(super) fn primary(table: &RoutingTable) -> String {
    match &table.primary {
        Primary::Proven { pod, timeline } => format!("{} (timeline {timeline})", pod.name),
        Primary::Nobody(vacancy) => format!("nobody ({vacancy:?})").to_lowercase(),
    }
}

/// What is new; `None` when nothing is that an operator would want to read.
pub(super) fn between(old: &RoutingTable, new: &RoutingTable) -> Option<String> {
    let mut news = String::new();
    if old.primary != new.primary {
        add(&mut news, &format!("primary was {}", primary(old)));
    }
    if let Some(history) = new.history.as_ref().filter(|history| old.history.as_ref() != Some(history))
        && let Some((parent, end)) = history.ancestors().last()
    {
        add(&mut news, &format!("timeline {} left timeline {parent} at {end}", history.timeline()));
    }
    match (old.stale, new.stale) {
        (false, true) => add(&mut news, "the watch is broken"),
        (true, false) => add(&mut news, "the watch works"),
        (true, true) | (false, false) => {}
    }
    for (name, route) in &new.pods {
        match old.pods.get(name) {
            None => add(&mut news, &format!("{name} appeared")),
            Some(before) if before.id != route.id => add(&mut news, &format!("{name} is another incarnation")),
            Some(before) => {
                for change in changes(before, route) {
                    add(&mut news, &format!("{name} {change}"));
                }
            }
        }
    }
    for name in old.pods.keys().filter(|name| !new.pods.contains_key(*name)) {
        add(&mut news, &format!("{name} is gone"));
    }
    (!news.is_empty()).then_some(news)
}

fn changes(old: &Route, new: &Route) -> Vec<String> {
    let mut changes = Vec::new();
    if role(&old.role) != role(&new.role) {
        changes.push(format!("is {}, was {}", role(&new.role), role(&old.role)));
    }
    if old.draining != new.draining {
        changes.push(if new.draining { "drains" } else { "drains no more" }.to_owned());
    }
    if old.address != new.address {
        let place = |route: &Route| route.address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string());
        changes.push(format!("is at {}, was at {}", place(new), place(old)));
    }
    changes
}

fn role(role: &Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica { fit: true, .. } => "a fit replica",
        Role::Replica { fit: false, .. } => "an unfit replica",
        Role::Superseded => "superseded",
        Role::Unknown => "unknown",
    }
}

fn add(news: &mut String, piece: &str) {
    let comma = if news.is_empty() { "" } else { ", " };
    // Writing to a String cannot fail.
    let _ = write!(news, "{comma}{piece}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::ids::{ClusterName, Epoch, PodId, PodName, Timeline};
    use crate::topology::history::History;
    use crate::topology::routing::Vacancy;

    fn table(roles: &[(&str, Role)]) -> RoutingTable {
        let route = |name: &str, role| Route {
            id: PodId::new(name, "u"),
            address: None,
            role,
            draining: false,
            ready: true,
            zone: None,
        };
        RoutingTable {
            cluster: ClusterName::new("c"),
            epoch: Epoch(1),
            primary: Primary::Nobody(Vacancy::Unproven),
            pods: roles.iter().map(|(name, role)| (PodName::new(name), route(name, *role))).collect::<BTreeMap<_, _>>(),
            floor: Timeline(1),
            stale: false,
            history: None,
            tenure: 0,
        }
    }

    fn replica(lag: u64, fit: bool) -> Role {
        Role::Replica { fit, lag: Some(Duration::from_secs(lag)), replayed: None }
    }

    #[test]
    fn only_news_are_told() {
        let before = table(&[("a", Role::Primary), ("b", replica(0, true))]);
        assert_eq!(between(&before, &table(&[("a", Role::Primary), ("b", replica(3, true))])), None);
        let after = table(&[("b", replica(9, false)), ("c", Role::Unknown)]);
        let told = between(&before, &after).unwrap();
        assert_eq!(told, "b is an unfit replica, was a fit replica, c appeared, a is gone");
        assert_eq!(primary(&after), "nobody (unproven)");
        let history = |file: &str| History::parse(Timeline(6), file).ok().map(Arc::new);
        let told = RoutingTable { history: history("1\t0/90\tx\n5\t0/A0\tx\n"), ..before.clone() };
        assert_eq!(between(&before, &told).as_deref(), Some("timeline 6 left timeline 5 at 0/A0"));
        assert_eq!(between(&told, &told), None);
    }
}
