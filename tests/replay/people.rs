//! Drivers that people use, and TLS: a transaction stays open across a loss, and nobody notices.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::{SinkExt as _, TryStreamExt as _, pin_mut};
use tokio_postgres::{Client, NoTls, connect};

use super::drivers::Drivers;
use super::pair::{Moor, Plan};
use super::raw::Raw;
use super::stage::{Scene, counted, shared};

/// Its clients log in with a password, over TLS, and so on: a pgmoor of its own.
fn moor(s: &Scene) -> Moor {
    let plan = Plan {
        auth: "users_file = \"users.toml\"".to_owned(),
        users: "[[user]]\nname = \"app\"\npassword = \"app\"\n".to_owned(),
        ..s.stage.pair.plan()
    };
    Moor::start(&plan)
}

fn uri(s: &Scene, moor: &Moor) -> String {
    format!("postgresql://app:app@{}:5432/app?application_name={}", moor.host(), s.name)
}

/// The script makes its own backends end, in the midst of its transactions.
fn script(name: &str, file: &str) {
    let drivers = Drivers::ready().unwrap();
    let s = Scene::new(shared(), name, None);
    let moor = moor(&s);
    let outcome = drivers.run(&format!("../replay/{file}"), &uri(&s, &moor), Duration::from_secs(60)).unwrap();
    assert!(outcome.good && outcome.said.contains("done "), "{file}:\n{}", outcome.said);
    assert!(counted(&moor, "pgmoor_replays_total", &["outcome=\"replayed\""]) >= 2.0);
}

#[test]
fn psycopg() {
    script("psycopg", "psycopg.py");
}

#[test]
fn asyncpg() {
    script("asyncpg", "asyncpg.py");
}

#[test]
fn node_postgres() {
    script("node", "node.js");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_postgres() {
    let s = tokio::task::spawn_blocking(|| Scene::new(shared(), "tokio_client", None)).await.unwrap();
    let dsn = format!("{} application_name={} options='-csearch_path={}'", s.stage.moor.dsn(), s.name, s.name);
    let (mut client, connection) = connect(&dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    work(&s, &mut client).await;
    let kept = client.query_one("select count(*), count(distinct id) from t", &[]).await.unwrap();
    assert_eq!((kept.get::<_, i64>(0), kept.get::<_, i64>(1)), (6, 6));
    tokio::task::spawn_blocking(move || drop(s)).await.unwrap();
}

async fn work(s: &Scene, client: &mut Client) {
    let lose = || tokio::task::block_in_place(|| s.lose());
    let before = client.prepare("insert into t values ($1, $2)").await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute(&before, &[&1_i32, &"a"]).await.unwrap();
    lose();
    transaction.execute(&before, &[&2_i32, &"b"]).await.unwrap();
    let inside = transaction.prepare("select id from t where id > $1 order by id").await.unwrap();
    assert_eq!(transaction.query(&inside, &[&0_i32]).await.unwrap().len(), 2);
    let nested = transaction.transaction().await.unwrap();
    nested.execute(&before, &[&3_i32, &"undone"]).await.unwrap();
    lose();
    nested.rollback().await.unwrap();
    let portal = transaction.bind("select id from wide order by id", &[]).await;
    assert!(portal.is_err(), "it is not in the search path");
    transaction.rollback().await.unwrap();

    let transaction = client.transaction().await.unwrap();
    transaction.execute(&before, &[&1_i32, &"a"]).await.unwrap();
    let portal = transaction.bind("select id from public.wide order by id", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 100).await.unwrap().len(), 100);
    lose();
    let rows = transaction.query_portal(&portal, 100).await.unwrap();
    assert_eq!((rows[0].get::<_, i32>(0), rows[99].get::<_, i32>(0)), (101, 200));
    let sink = transaction.copy_in("copy t from stdin").await.unwrap();
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"2\tb\n3\tc\n")).await.unwrap();
    sink.flush().await.unwrap();
    lose();
    sink.send(bytes::Bytes::from_static(b"4\td\n5\te\n6\tf\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 5);
    let stream = transaction.query_raw("select id from public.wide order by id", Vec::<i32>::new()).await.unwrap();
    pin_mut!(stream);
    let mut next = 1;
    while let Some(row) = stream.try_next().await.unwrap() {
        assert_eq!(row.get::<_, i32>(0), next);
        if next == 500 {
            lose();
        }
        next += 1;
    }
    assert_eq!(next, 100_001);
    transaction.commit().await.unwrap();
}

/// psql over TLS, its script stopped in the midst of a transaction.
#[test]
fn psql_over_tls() {
    let s = Scene::new(shared(), "psql_over_tls", None);
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["pgmoor.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let tls = format!("mode = \"require\"\ncert = \"{}\"\nkey = \"{}\"", cert.display(), key.display());
    let moor = Moor::start(&Plan { tls, ..s.stage.pair.plan() });
    let dsn =
        format!("{} sslmode=require application_name={name} options=-csearch_path={name}", moor.dsn(), name = s.name);
    let mut child = Command::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &dsn])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(b"begin;\ninsert into t values (1, 'a') returning id;\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    s.lose();
    // 10 MB behind it, in records of TLS.
    stdin
        .write_all(b"select repeat(body, 10) from public.huge where id = 1;\ninsert into t values (2, 'b');\n")
        .unwrap();
    assert_eq!(lines.next().unwrap().unwrap().len(), 10 << 20);
    s.lose();
    stdin.write_all(b"select count(*) from t;\ncommit;\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "2");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    s.holds("select id from t order by id", "1 2");
}

/// The least a client can be: nobody's driver, and two sessions that depend on each other.
#[test]
fn one_waits_for_the_other() {
    let s = Scene::new(shared(), "one_waits", None);
    let mut witness = s.witness();
    witness.run("insert into t values (1, 'a')");
    let (mut first, mut second): (Raw, Raw) = (s.client(), s.client());
    for raw in [&mut first, &mut second] {
        raw.run("begin");
    }
    assert_eq!(first.run("update t set body = body || 'b' where id = 1").done, ["UPDATE 1"]);
    second.put(&super::raw::query("update t set body = body || 'c' where id = 1"));
    s.until_blocked(1);
    s.lose();
    // The second may come first now; neither has been told what that would contradict.
    first.put(&super::raw::query("commit"));
    assert_eq!(second.reply().done, ["UPDATE 1"]);
    assert_eq!(second.run("commit").done, ["COMMIT"]);
    assert_eq!(first.reply().done, ["COMMIT"]);
    s.holds("select length(body) from t", "3");
}
