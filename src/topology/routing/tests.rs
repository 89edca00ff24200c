//! Choices and standings as tables over one small cluster.

use super::*;

/// `name role [draining] [zone=z] [noaddr]`; the uid is `u`.
fn route(text: &str) -> Route {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let replica = |fit| Role::Replica { fit, lag: None, replayed: None };
    let role = match words.next().unwrap() {
        "primary" => Role::Primary,
        "fit" => replica(true),
        "unfit" => replica(false),
        "superseded" => Role::Superseded,
        "unknown" => Role::Unknown,
        other => panic!("role {other}"),
    };
    let rest: Vec<&str> = words.collect();
    Route {
        id: PodId::new(name, "u"),
        address: (!rest.contains(&"noaddr")).then(|| "10.0.0.1:5432".parse().unwrap()),
        role,
        draining: rest.contains(&"draining"),
        ready: true,
        zone: rest.iter().find_map(|word| word.strip_prefix("zone=")).map(Zone::new),
    }
}

/// Pods separated by commas.
fn table(text: &str) -> RoutingTable {
    let routes: Vec<Route> = text.split(", ").map(route).collect();
    let proven = routes.iter().find(|route| route.role == Role::Primary);
    RoutingTable {
        cluster: ClusterName::new("c"),
        epoch: Epoch(1),
        primary: match proven {
            Some(route) => Primary::Proven { pod: route.id.clone(), timeline: Timeline(5) },
            None => Primary::Nobody(Vacancy::Unproven),
        },
        pods: routes.into_iter().map(|route| (route.id.name.clone(), route)).collect(),
        floor: Timeline(5),
        stale: false,
        history: None,
        tenure: 0,
    }
}

fn need(text: &str) -> Need {
    match text {
        "write" => Need::Write,
        "read" => Need::Read { or_primary: false },
        "read-any" => Need::Read { or_primary: true },
        name => Need::Pod(PodName::new(name)),
    }
}

fn chosen(table: &RoutingTable, need: &Need, dice: u64) -> String {
    match table.choose(need, None, |_| 0, dice) {
        Choice::To { pod, .. } => pod.name.to_string(),
        Choice::Wait(why) => why.as_str().to_owned(),
    }
}

#[test]
fn choices() {
    for (pods, wanted, expected) in [
        ("a primary, b fit", "write", "a"),
        ("a primary draining, b fit", "write", "primary_draining"),
        ("a primary noaddr, b fit", "write", "pod_absent"),
        ("a unknown, b fit", "write", "primary_unproven"),
        ("a superseded, b fit", "write", "primary_unproven"),
        ("a primary, b fit", "read", "b"),
        ("a primary, b fit", "read-any", "b"),
        ("a primary, b unfit", "read", "no_replica"),
        ("a primary, b unfit", "read-any", "a"),
        ("a primary, b fit draining", "read-any", "a"),
        ("a primary, b fit noaddr", "read", "no_replica"),
        ("a primary draining, b unfit", "read-any", "no_replica"),
        ("a unknown, b unknown", "read-any", "no_replica"),
        ("a primary, b unfit", "b", "b"),
        ("a primary, b fit draining", "b", "b"),
        ("a primary, b fit noaddr", "b", "pod_absent"),
        ("a primary, b unknown", "b", "pod_unproven"),
        ("a primary, b superseded", "b", "pod_superseded"),
        ("a primary, b fit", "z", "pod_absent"),
        ("a primary, b fit", "a", "a"),
    ] {
        assert_eq!(chosen(&table(pods), &need(wanted), 0), expected, "{wanted} of {pods}");
    }
}

#[test]
fn readers_go_to_the_less_loaded_of_two_in_their_zone() {
    let table = table("a primary, b fit zone=x, c fit zone=y, d fit zone=y, e unfit zone=z");
    let load = |pod: &PodId| match pod.name.as_str() {
        "b" => 0,
        "c" => 7,
        "d" => 3,
        other => panic!("load of {other}: it is not a candidate"),
    };
    let choose = |zone: Option<&str>, dice: u64| {
        let zone = zone.map(Zone::new);
        match table.choose(&Need::Read { or_primary: true }, zone.as_ref(), load, dice) {
            Choice::To { pod, .. } => pod.name.to_string(),
            Choice::Wait(why) => panic!("{why:?}"),
        }
    };
    for low in 0..6_u64 {
        for high in 0..6_u64 {
            let dice = high << 32 | low;
            assert_eq!(choose(Some("x"), dice), "b", "the only one of its zone, {dice:#x}");
            assert_eq!(choose(Some("y"), dice), "d", "the less loaded of its zone's two, {dice:#x}");
            assert_ne!(choose(None, dice), "c", "the most loaded never wins, {dice:#x}");
            assert_ne!(choose(Some("z"), dice), "c", "its zone has no fit one, so any zone, {dice:#x}");
        }
    }
    assert_eq!([choose(None, 1 << 32 | 1), choose(None, 1)], ["d", "b"], "the dice decide which two");
}

#[test]
fn standings() {
    for (pods, pod, wanted, expected) in [
        ("a primary, b fit", "a", "write", "good"),
        ("a primary draining, b fit", "a", "write", "draining"),
        ("a superseded, b unknown", "a", "write", "cut"),
        ("a unknown, b primary", "a", "write", "cut"),
        ("a fit, b primary", "a", "write", "cut"),
        ("a unknown, b fit", "a", "write", "not_primary"),
        ("b fit", "a", "write", "gone"),
        ("b primary", "a", "write", "cut"),
        ("a primary, b fit", "b", "read", "good"),
        ("a primary, b fit draining, c fit", "b", "read", "draining"),
        ("a primary, b fit draining", "b", "read", "good"),
        ("a primary, b fit draining", "b", "read-any", "draining"),
        ("a primary draining, b fit draining", "b", "read-any", "good"),
        ("a primary, b unfit, c fit", "b", "read", "unfit"),
        ("a primary, b unfit", "b", "read", "good"),
        ("a primary, b unfit", "b", "read-any", "unfit"),
        ("a primary, b unknown, c fit", "b", "read", "role_changed"),
        ("a primary, b unknown", "b", "read", "good"),
        ("a primary, b unfit", "a", "read-any", "good"),
        ("a primary draining, b unfit", "a", "read-any", "good"),
        ("a primary, b fit", "a", "read-any", "role_changed"),
        ("a primary, b unfit", "a", "read", "role_changed"),
        ("a primary, b superseded", "b", "read", "cut"),
        ("a primary, c fit", "b", "read", "gone"),
        ("a primary, b unknown", "b", "b", "good"),
        ("a primary, b fit draining", "b", "b", "good"),
        ("a primary, b superseded", "b", "b", "cut"),
        ("a primary", "b", "b", "gone"),
    ] {
        let standing = table(pods).standing(&PodId::new(pod, "u"), &need(wanted));
        let said = match standing {
            Standing::Leave(why) => why.as_str(),
            Standing::Good | Standing::Cut => standing.as_str(),
        };
        assert_eq!(said, expected, "{wanted} on {pod} of {pods}");
    }
}

#[test]
fn another_incarnation_is_another_pod() {
    let table = table("a primary, b fit");
    let (former_a, former_b) = (PodId::new("a", "former"), PodId::new("b", "former"));
    assert_eq!(table.standing(&former_a, &Need::Write), Standing::Cut);
    assert_eq!(table.standing(&former_b, &need("read")), Standing::Leave(LeaveReason::Gone));
    assert_eq!(table.standing(&former_b, &need("b")), Standing::Leave(LeaveReason::Gone));
}

/// Wherever a session was sent, it stands well under the same table: no ping-pong.
#[test]
fn who_was_sent_somewhere_stays_there() {
    let roles = ["primary", "fit", "unfit", "superseded", "unknown"];
    let marks = ["", " draining", " noaddr"];
    let pod = |name: &str, at: usize| format!("{name} {}{}", roles[at % 5], marks[at / 5 % 3]);
    for code in 0..15 * 15 {
        let (first, second) = (code % 15, code / 15);
        if first % 5 == 0 && second % 5 == 0 {
            continue; // two primaries: no such table
        }
        let table = table(&format!("{}, {}", pod("a", first), pod("b", second)));
        for wanted in ["write", "read", "read-any", "a", "b"] {
            for dice in [0, 1] {
                if let Choice::To { pod, .. } = table.choose(&need(wanted), None, |_| 0, dice) {
                    let standing = table.standing(&pod, &need(wanted));
                    assert_eq!(standing, Standing::Good, "{wanted} sent to {pod} by {table:?}");
                }
            }
        }
    }
}

#[test]
fn only_epoch_lag_and_lsns_leave_the_ways_the_same() {
    let before = table("a primary, b fit zone=x, c unfit");
    let mut busy = before.clone();
    busy.epoch = Epoch(9);
    for route in busy.pods.values_mut() {
        if let Role::Replica { lag, replayed, .. } = &mut route.role {
            (*lag, *replayed) = (Some(Duration::from_secs(3)), Some(Lsn(77)));
        }
    }
    assert!(busy != before && before.same_ways(&busy) && busy.same_ways(&before));

    let changed = |change: &dyn Fn(&mut RoutingTable)| {
        let mut after = busy.clone();
        change(&mut after);
        after
    };
    let b = PodName::new("b");
    let of_b = |change: &dyn Fn(&mut Route)| changed(&|table| table.pods.get_mut(&b).into_iter().for_each(change));
    let others = [
        changed(&|table| table.cluster = ClusterName::new("d")),
        changed(&|table| table.primary = Primary::Nobody(Vacancy::Unproven)),
        changed(&|table| table.floor = Timeline(6)),
        changed(&|table| table.stale = true),
        changed(&|table| table.history = Some(Arc::new(History::first()))),
        changed(&|table| drop(table.pods.remove(&b))),
        table("a primary, b fit zone=x, c unfit, d unfit"),
        table("a primary, b fit zone=x, d unfit"),
        of_b(&|b| b.id = PodId::new("b", "v")),
        of_b(&|b| b.address = None),
        of_b(&|b| b.role = Role::Replica { fit: false, lag: None, replayed: None }),
        of_b(&|b| b.role = Role::Unknown),
        of_b(&|b| b.draining = true),
        of_b(&|b| b.ready = false),
        of_b(&|b| b.zone = None),
    ];
    for other in others {
        assert!(!before.same_ways(&other) && !other.same_ways(&before), "{other:#?}");
    }
}
