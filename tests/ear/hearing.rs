//! What is heard by whom, in which order, under which name.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgmoor::continuity::ear::{Channel, Heard, MOST};
use pgmoor::session::ear::Unheard;
use tokio::time::timeout;

use crate::pair::{PATIENCE, Pair, psql, shared, until};
use crate::stage::{Notifier, Stage, ears_on, listen, next, next_text, payload, silent};

/// Servers that no other test uses: what is counted on them is ours.
fn alone() -> Pair {
    Pair::start("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_come_in_order_to_all_who_listen() {
    const COUNT: usize = 4000;
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let wants: [&[&str]; 4] = [&["one"], &["two"], &["one", "two", "three"], &["three", "four"]];
    let mut listeners = Vec::new();
    for channels in wants {
        listeners.push(stage.listener(channels).await);
    }
    let server = pair.a; // the servers themselves stay until the end of the test
    let notifying = tokio::task::spawn_blocking(move || {
        let mut notifier = Notifier::on(server);
        for n in 0..COUNT {
            let channel = ["one", "two", "three", "four", "nobody's"][n % 5];
            // Some of them together, in one transaction.
            match n % 100 {
                7 => drop(notifier.0.run("BEGIN")),
                57 => drop(notifier.0.run("COMMIT")),
                _ => {}
            }
            notifier.notify(channel, &n.to_string());
        }
    });
    for (listener, channels) in listeners.iter().zip(wants) {
        for n in (0..COUNT).filter(|n| *n % 5 < 4) {
            let channel = ["one", "two", "three", "four"][n % 5];
            if channels.contains(&channel) {
                assert_eq!(next_text(listener).await, (channel.to_owned(), n.to_string()));
            }
        }
        silent(listener).await;
    }
    notifying.await.unwrap();
    let told: f64 = stage.metric("pgmoor_notifications_total");
    assert_eq!(told, (1 + 1 + 3 + 2) as f64 * (COUNT / 5) as f64);
    assert_eq!(stage.metric("pgmoor_listeners{cluster=\"stage\"}"), 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_what_postgresql_takes_them_for() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let long = "l".repeat(63);
    let wide = "\u{e9}".repeat(31);
    let names = [
        "plain",
        "UPPER",
        "with space",
        "quote\"d",
        "\"",
        "\"\"",
        "sem;icolon",
        "back\\slash",
        "dash--dash",
        "/*",
        "*",
        "apo'strophe",
        "$1",
        "new\nline",
        "\u{1F600}",
        "select",
        &long,
        &wide,
    ];
    let listener = stage.listener(&names).await;
    let mut notifier = Notifier::on(pair.a);
    for name in names {
        notifier.notify(name, "p");
        assert_eq!(next_text(&listener).await, (name.to_owned(), "p".to_owned()));
    }
    // Longer ones are cut, as in a session's own LISTEN.
    let longer = [format!("{}tail", "x".repeat(63)), format!("{}tail", "\u{e9}".repeat(32))];
    listen(&listener, &[&longer[0], &longer[1]]).await;
    for name in longer {
        notifier.0.run(&format!("NOTIFY \"{name}\""));
        let heard = next(&listener).await;
        assert!(heard.channel().len() <= 63 && name.as_bytes().starts_with(heard.channel()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_no_server_takes_is_refused_and_deafens_nobody() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let subscription = stage.ears.subscribe(&stage.realm, stage.caller("app"));
    let (good, empty, cut) = (Channel::from("good"), Channel::from(""), Channel::from("cut\0off"));
    subscription.set([good.clone(), empty.clone(), cut.clone()]);
    let confirmed = |channel| timeout(PATIENCE, subscription.confirmed(channel));
    assert_eq!(confirmed(&good).await.unwrap(), Ok(()));
    let Err(Unheard(words)) = confirmed(&empty).await.unwrap() else { panic!("an empty name is none") };
    assert!(words.contains("42601"), "{words}");
    assert!(confirmed(&cut).await.unwrap().is_err());
    assert!(confirmed(&"never asked for".into()).await.unwrap().is_err());
    Notifier::on(pair.a).notify("good", "heard");
    assert_eq!(payload(&subscription).await, "heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_listened_to_as_long_as_somebody_wants_it() {
    let pair = alone();
    let stage = Stage::new(&[("a", pair.a)]);
    assert!(ears_on(pair.a, "pid").is_empty(), "nobody listens");
    let one = stage.listener(&["shared", "mine"]).await;
    let two = stage.listener(&["shared"]).await;
    let pids = ears_on(pair.a, "pid");
    assert_eq!(pids.len(), 1, "one backend for both");
    let mut notifier = Notifier::on(pair.a);
    let last_query = |query: &str| until("the ear's query", || (ears_on(pair.a, "query") == [query]).then_some(()));

    one.remove(&"mine".into());
    last_query("UNLISTEN \"mine\";");
    one.remove(&"shared".into());
    notifier.notify("shared", "for two");
    assert_eq!(payload(&two).await, "for two");
    silent(&one).await;
    last_query("UNLISTEN \"mine\";");

    // Wanted by nobody for a moment only, while its UNLISTEN may be on the way.
    listen(&one, &["mine"]).await;
    for n in 0..50 {
        one.remove(&"mine".into());
        one.add(&"mine".into());
        one.confirmed(&"mine".into()).await.unwrap();
        notifier.notify("mine", &n.to_string());
        assert_eq!(payload(&one).await, n.to_string());
    }
    assert_eq!(ears_on(pair.a, "pid"), pids, "still the same");

    drop(two);
    last_query("UNLISTEN \"shared\";");
    one.set([]);
    until("the ear to go", || ears_on(pair.a, "pid").is_empty().then_some(()));
    assert_eq!(stage.metric("pgmoor_listeners{cluster=\"stage\"}"), 1.0);
    listen(&one, &["again"]).await;
    notifier.notify("again", "back");
    assert_eq!(payload(&one).await, "back");
    drop(one);
    until("the ear to go", || ears_on(pair.a, "pid").is_empty().then_some(()));
    assert_eq!(stage.metric("pgmoor_listeners{cluster=\"stage\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_heard_before_an_unlisten_is_not_told_after_it() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["kept", "dropped"]).await;
    let mut notifier = Notifier::on(pair.a);
    for n in 0..10 {
        notifier.notify(if n % 2 == 0 { "kept" } else { "dropped" }, &n.to_string());
    }
    listener.passed(listener.moment()).await;
    listener.remove(&"dropped".into());
    for n in [0, 2, 4, 6, 8] {
        assert_eq!(payload(&listener).await, n.to_string());
    }
    silent(&listener).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_channels_and_listeners_come_and_go() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let began = Instant::now();
    let names: Vec<String> = (0..2000).map(|n| format!("channel {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut listeners = Vec::new();
    for n in 0..200 {
        let subscription = stage.ears.subscribe(&stage.realm, stage.caller("app"));
        names[n * 10..n * 10 + 10].iter().chain(&["all"]).for_each(|name| subscription.add(&(*name).into()));
        listeners.push(subscription);
    }
    for (n, listener) in listeners.iter().enumerate() {
        listen(listener, &names[n * 10..n * 10 + 10]).await;
        listen(listener, &["all"]).await;
    }
    let took = began.elapsed();
    println!("200 listeners with 2,001 channels confirmed in {took:?}");
    let mut notifier = Notifier::on(pair.a);
    for (n, name) in names.iter().enumerate() {
        notifier.notify(name, "own");
        if n % 100 == 0 {
            notifier.notify("all", "all");
        }
    }
    for listener in &listeners {
        let mut heard = BTreeMap::new();
        for _ in 0..30 {
            *heard.entry(payload(listener).await).or_insert(0) += 1;
        }
        assert_eq!(heard, BTreeMap::from([("own".to_owned(), 10), ("all".to_owned(), 20)]));
    }
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_take_what_is_heard_is_told_so_and_nobody_else_is_harmed() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let slow = stage.listener(&["flood", "quiet"]).await;
    let quick = stage.listener(&["flood"]).await;
    let before = resident();
    let flood = 60 * 1024 * 1024 / 7000;
    let address = pair.a;
    let flooding = tokio::task::spawn_blocking(move || {
        let mut notifier = Notifier::on(address);
        let text = "x".repeat(7000);
        (0..flood).for_each(|n| notifier.notify("flood", &format!("{n} {text}")));
    });
    for n in 0..flood {
        assert!(payload(&quick).await.starts_with(&format!("{n} ")));
    }
    flooding.await.unwrap();
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "60 MB of notifications took {grown} bytes");
    for _ in 0..2 {
        assert_eq!(timeout(PATIENCE, slow.next()).await.unwrap(), Heard::Overrun);
    }
    assert_eq!(stage.metric("pgmoor_listener_overruns_total"), 1.0);
    // It is not listened for any more; what it asks is answered.
    assert!(slow.confirmed(&"quiet".into()).await.is_err());
    slow.passed(slow.moment()).await;
    assert!(MOST < flood * 7000);
    Notifier::on(pair.a).notify("flood", "still");
    assert_eq!(payload(&quick).await, "still");
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_within_the_limit_waits_for_whoever_is_slow() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let slow = stage.listener(&["burst"]).await;
    let mut notifier = Notifier::on(pair.a);
    notifier.0.run("SELECT pg_notify('burst', n::text) FROM generate_series(1, 20000) n");
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 1..=20000 {
        assert_eq!(payload(&slow).await, n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_encoding_is_told_in_its_own() {
    let pair = alone();
    let stage = Stage::new(&[("a", pair.a)]);
    let mut caller = stage.caller("app");
    caller.encoding = "LATIN1".to_owned();
    let latin = stage.ears.subscribe(&stage.realm, caller);
    let name = Channel::new(b"caf\xe9");
    latin.add(&name);
    timeout(PATIENCE, latin.confirmed(&name)).await.unwrap().unwrap();
    let utf8 = stage.listener(&["caf\u{e9}"]).await;
    assert_eq!(ears_on(pair.a, "pid").len(), 2, "an ear for each encoding");
    psql(pair.a, "SELECT pg_notify('caf\u{e9}', 'cr\u{e8}me')");
    assert_eq!(next_text(&utf8).await, ("caf\u{e9}".to_owned(), "cr\u{e8}me".to_owned()));
    let heard = next(&latin).await;
    assert_eq!((heard.channel(), heard.payload()), (b"caf\xe9".as_slice(), b"cr\xe8me".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_goes_leaves_nothing_behind() {
    let pair = alone();
    let stage = Stage::new(&[("a", pair.a)]);
    for n in 0..200_u64 {
        let subscription = stage.ears.subscribe(&stage.realm, stage.caller("app"));
        subscription.add(&Channel::from(&*format!("c{n}")));
        // Before the login, within it, after it.
        tokio::time::sleep(Duration::from_micros(n * n % 5000)).await;
        drop(subscription);
    }
    until("the last ear to go", || ears_on(pair.a, "pid").is_empty().then_some(()));
    until("its room to be left", || format!("{:?}", stage.ears).contains("rooms: {}").then_some(()));
    assert_eq!(stage.metric("pgmoor_listeners{cluster=\"stage\"}"), 0.0);
    let gate = stage.gates.load(&crate::stage::pod("a")).unwrap();
    assert_eq!((gate.running, gate.waiting), (0, 0));
    assert!(stage.doubts.lock().unwrap().is_empty(), "a login that is given up says nothing about the pod");
    let listener = stage.listener(&["c"]).await;
    Notifier::on(pair.a).notify("c", "x");
    assert_eq!(payload(&listener).await, "x");
}
