//! Which server a session gets, and what operators are shown.

use super::pair::{Moor, POOL_OF_SESSIONS, Plan, psql, shared};
use super::raw::Raw;

const WHERE: &str = "select inet_server_port()";

#[test]
fn writes_go_to_the_primary_reads_to_the_standby_and_a_named_pod_is_itself() {
    let pair = shared();
    let moor = pair.moor();
    let (a, b) = (pair.a.port().to_string(), pair.b.port().to_string());
    assert_eq!(Raw::login(moor.rw()).run(WHERE).one(), a);
    assert_eq!(Raw::login(moor.ro()).run(WHERE).one(), b);
    for (pod, port) in [("a", &a), ("b", &b)] {
        let options = format!("-c pgmoor.pod={pod} -c work_mem=3MB");
        let mut raw = Raw::login_with(moor.rw(), &[("options", &options)]);
        assert_eq!(raw.run(WHERE).one(), port);
        assert_eq!(raw.run("show work_mem").one(), "3MB", "the other options are PostgreSQL's");
        assert_eq!(raw.run("select current_setting('pgmoor.pod', true)").one(), "NULL", "pgmoor's are not");
    }
    let mut reader = Raw::login(moor.ro());
    assert_eq!(reader.run("create table no_such (a int)").code(), "25006");
    assert_eq!(reader.run(WHERE).one(), b, "an error of its own is no reason to move a reader");
    let reply = Raw::open(moor.rw()).unwrap().start(&[("options", "-c pgmoor.port=a")]);
    assert_eq!(reply.code(), "0A000");
}

#[test]
fn readers_fall_back_to_the_primary_or_are_told_that_there_is_no_replica() {
    let pair = shared();
    let alone = Plan { fixed: vec![("a".to_owned(), pair.a)], ..pair.plan() };
    let moor = Moor::start(&alone);
    assert_eq!(Raw::login(moor.ro()).run(WHERE).one(), pair.a.port().to_string());
    let strict =
        Plan { routing: "ro_falls_back = false".to_owned(), continuity: "hold = \"300ms\"".to_owned(), ..alone };
    let moor = Moor::start(&strict);
    let reply = Raw::open(moor.ro()).unwrap().start(&[]);
    assert_eq!(reply.code(), "57P03");
    assert!(reply.errors[0].1.contains("no replica"), "{reply:?}");
    let reply = Raw::open(moor.rw()).unwrap().start(&[("options", "-c pgmoor.pod=c")]);
    assert_eq!(reply.code(), "57P03");
    assert!(reply.errors[0].1.contains("pgmoor.pod"), "{reply:?}");
}

#[test]
fn metrics_and_status_say_what_is() {
    let pair = shared();
    let moor = Moor::start(&Plan { pool: POOL_OF_SESSIONS.to_owned(), ..pair.plan() });
    let _one = Raw::login(moor.rw());
    let _two = Raw::login(moor.ro());
    let status = moor.status().unwrap();
    let cluster = &status["clusters"][0];
    assert_eq!((&status["phase"], &cluster["writes"]["to"]["pod"]), (&"serving".into(), &"a".into()));
    let timeline = psql(pair.a, "select timeline_id from pg_control_checkpoint()");
    assert_eq!(cluster["timeline"].to_string(), timeline);
    let roles: Vec<_> = cluster["pods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| (pod["name"].as_str().unwrap(), pod["role"].as_str().unwrap()))
        .collect();
    assert_eq!(roles, [("a", "primary"), ("b", "replica")]);
    assert_eq!(status["sessions"]["attached"], 2);
    for (series, value) in [
        (r#"pgmoor_sessions{endpoint="rw",state="attached"}"#, 1.0),
        (r#"pgmoor_sessions{endpoint="ro",state="attached"}"#, 1.0),
        (r#"pgmoor_connections_total{endpoint="rw"}"#, 1.0),
        (r#"pgmoor_pod_role{cluster="demo",pod="a",role="primary"}"#, 1.0),
        (r#"pgmoor_pod_role{cluster="demo",pod="b",role="replica"}"#, 1.0),
        ("pgmoor_holds", 0.0),
    ] {
        assert_eq!(moor.metric(series), value, "{series}");
    }
    for (path, code) in [("/livez", "200"), ("/readyz", "200"), ("/", "200"), ("/status", "200"), ("/nothing", "404")] {
        assert!(moor.get(path).unwrap().0.contains(code), "{path}: {}", moor.get(path).unwrap().0);
    }
}
