//! As whom an ear logs in, and what it does where nobody is let in.

use std::time::{Duration, Instant};

use pgmoor::auth::{Credentials, Password};
use pgmoor::net::Dial;
use pgmoor::net::tls::{BackendTls, TlsMode};
use pgmoor::topology::evidence::Suspicion;
use tokio::time::timeout;

use crate::pair::{PATIENCE, Pair, psql, shared, until};
use crate::postgres::Postgres;
use crate::stage::{Notifier, SILENCE, Stage, ears_on, listen, payload, pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_is_listened_for_as_somebody_else() {
    let pair = Pair::start("");
    psql(pair.a, "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0");
    let stage = Stage::new(&[("a", pair.a)]);
    // Nobody waits for the others while none of them listens.
    stage.show(None);
    let good = stage.ears.subscribe(&stage.realm, stage.caller("scram"));
    let refused = stage.ears.subscribe(&stage.realm, stage.caller("refused"));
    let crowded = stage.ears.subscribe(&stage.realm, stage.caller("crowded"));
    let mut caller = stage.caller("md5");
    caller.credentials = Credentials::Password(Password::new("wrong"));
    let wrong = stage.ears.subscribe(&stage.realm, caller);
    let all = [&good, &refused, &crowded, &wrong];
    all.iter().for_each(|listener| listener.add(&"c".into()));
    stage.show(Some("a"));
    for listener in all {
        timeout(PATIENCE, listener.confirmed(&"c".into())).await.unwrap().unwrap();
    }
    assert_eq!(ears_on(pair.a, "usename"), ["scram"]);
    Notifier::on(pair.a).notify("c", "x");
    for listener in all {
        assert_eq!(payload(listener).await, "x");
    }
    assert!(stage.doubts.lock().unwrap().is_empty(), "a refused login says nothing about the pod");
    // Whose login was good stays the first choice.
    let _newest = stage.listener_as("refused", &["c"]).await;
    let pids = ears_on(pair.a, "pid");
    psql(pair.a, &format!("SELECT pg_terminate_backend({})", pids[0]));
    until("another backend", || {
        let now = ears_on(pair.a, "pid");
        (now.len() == 1 && now != pids).then_some(())
    });
    assert_eq!(ears_on(pair.a, "usename"), ["scram"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_is_let_in_the_next_who_comes_is_tried() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let refused = stage.ears.subscribe(&stage.realm, stage.caller("refused"));
    refused.add(&"let in".into());
    assert!(timeout(SILENCE * 3, refused.confirmed(&"let in".into())).await.is_err(), "nobody listens");
    assert!(stage.ears.is_ready(&stage.home, &pod("a")), "nothing was promised: nobody has to wait");
    let began = Instant::now();
    let good = stage.listener(&["let in"]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    Notifier::on(pair.a).notify("let in", "x");
    for listener in [&refused, &good] {
        assert_eq!(payload(listener).await, "x");
    }
    // The ear stays though the one whose login it has goes.
    drop(good);
    Notifier::on(pair.a).notify("let in", "y");
    assert_eq!(payload(&refused).await, "y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_taken_for_the_primary_is_doubted() {
    let pair = shared();
    let stage = Stage::with(&[("a", pair.a), ("b", pair.b)], Some("b"), Dial::Tcp);
    let listener = stage.ears.subscribe(&stage.realm, stage.caller("app"));
    listener.add(&"standby".into());
    until("the doubt", || stage.doubts.lock().unwrap().contains(&(pod("b"), Suspicion::ReadOnly)).then_some(()));
    assert!(timeout(SILENCE, listener.confirmed(&"standby".into())).await.is_err());
    stage.show(Some("a"));
    listen(&listener, &["standby"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_ear_is_not_ended_for_being_idle() {
    let pair = Pair::start("idle_session_timeout = 300ms");
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["c"]).await;
    let pids = ears_on(pair.a, "pid");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(ears_on(pair.a, "pid"), pids);
    Notifier::on(pair.a).notify("c", "x");
    assert_eq!(payload(&listener).await, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ear_goes_before_the_sessions_that_wait_at_the_gate() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let here = pod("a");
    let inside = stage.gates.enter(&here).await;
    let gates = stage.gates.clone();
    let session = tokio::spawn(async move {
        // One that got its turn and does not come to an end.
        let turn = gates.enter(&pod("a")).await;
        tokio::time::sleep(PATIENCE).await;
        drop(turn);
    });
    until("the session to wait", || (stage.gates.load(&here)?.waiting == 1).then_some(()));
    let listener = stage.ears.subscribe(&stage.realm, stage.caller("app"));
    listener.add(&"gate".into());
    until("the ear to wait", || (stage.gates.load(&here)?.waiting == 2).then_some(()));
    drop(inside);
    timeout(PATIENCE / 3, listener.confirmed(&"gate".into())).await.unwrap().unwrap();
    session.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ear_speaks_tls_where_sessions_do() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["pg".to_owned()]).unwrap().self_signed(&key).unwrap();
    let server = Postgres::start_with("", Some((&certificate.pem(), &key.serialize_pem()))).unwrap();
    server.psql("CREATE ROLE app LOGIN").unwrap();
    server.psql("CREATE DATABASE app").unwrap();
    let pods = [("a", server.address())];
    let stage = Stage::over(&pods, Some("a"), Dial::Tcp, BackendTls::new(TlsMode::Require, None).unwrap());
    // As a user whose password is asked for.
    let listener = stage.listener_as("scram", &["c", "d"]).await;
    let sql =
        "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name = 'pgmoor listen'";
    assert_eq!(server.psql(sql).unwrap(), "t");
    let mut notifier = Notifier::on(server.address());
    for n in 0..50 {
        let many = "SELECT pg_notify('c', n || repeat('x', 1000)) FROM generate_series(1, 40) n";
        notifier.0.run(&format!("{many}; NOTIFY d, '{n}'"));
        listener.passed(listener.moment()).await;
    }
    let mut heard = 0;
    while let Ok(text) = timeout(SILENCE, payload(&listener)).await {
        heard += usize::from(text.len() > 1000);
    }
    assert_eq!(heard, 50 * 40);
}
