//! Planned moves by pgmoor's own commands and its HTTP door, in front of real servers; Patroni is a stand-in of a few lines.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pair::{Moor, PATIENCE, POOL_OF_SESSIONS, Pair, Plan, psql, until};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// A stand-in for Patroni's REST interface: it takes one request after another, acts, and says what it is to say.
struct Patroni {
    port: u16,
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<Vec<String>>>,
}

impl Patroni {
    /// `says` gets the request and gives the whole answer; an empty one is a closed connection.
    fn start(says: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"}") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    request.push(byte[0]);
                }
                let request = String::from_utf8(request).unwrap();
                // The one who asked may be gone.
                let _ = stream.write_all(says(&request).as_bytes());
                asked.push(request);
            }
            asked
        });
        Self { port, stop, task: Some(task) }
    }

    /// The bodies of what it was asked.
    fn asked(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let requests = self.task.take().unwrap().join().unwrap();
        requests.iter().map(|request| request.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()).collect()
    }
}

fn answer(status: u16, text: &str) -> String {
    format!("HTTP/1.0 {status} x\r\nContent-Type: text/html\r\n\r\n{text}")
}

fn plan(pair: &Pair, port: u16) -> Plan {
    let cluster = format!("databases = [\"*\"]\npatroni = {{ port = {port} }}");
    // Sessions are counted that leave a pod: idle ones have a backend, too.
    let pool = POOL_OF_SESSIONS.to_owned();
    Plan { cluster, pool, continuity: "hold = \"20s\"".to_owned(), ..pair.plan() }
}

/// The status and the JSON of a POST.
fn post(moor: &Moor, path: &str, headers: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(moor.admin()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: pgmoor\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Runs pgmoor itself as a command: exit code, what it printed, what it complained about.
fn pgmoor(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgmoor")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn draining(moor: &Moor, pod: &str) -> bool {
    let status = moor.status().unwrap();
    let pods = status["clusters"][0]["pods"].as_array().unwrap();
    pods.iter().find(|known| known["name"] == pod).unwrap()["draining"].as_bool().unwrap()
}

fn connect(runtime: &Runtime, address: SocketAddr) -> Client {
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host(address.ip().to_string()).port(address.port()).user("app").dbname("app");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    })
}

/// The port of the server that answers this session: who it is on.
async fn port(client: &Client) -> u16 {
    let row = client.query_one("select current_setting('port')", &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

/// A session that writes until it is stopped: the writes that were done, and the longest one. Any error ends the test.
struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(i64, Duration)>,
}

impl Writer {
    fn start(runtime: &Runtime, moor: &Moor) -> Self {
        let client = connect(runtime, moor.rw());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        runtime.block_on(client.batch_execute("create table if not exists ledger (n int)")).unwrap();
        let task = runtime.spawn(async move {
            let (mut done, mut longest) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.batch_execute("begin; insert into ledger values (1); commit").await.unwrap();
                longest = longest.max(began.elapsed());
                done += 1;
            }
            (done, longest)
        });
        Self { stop, task }
    }

    fn finish(self, runtime: &Runtime) -> (i64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.task).unwrap()
    }
}

#[test]
fn a_drained_replica_is_left_and_can_be_had_back() {
    let pair = pair::shared();
    let moor = pair.moor();
    let runtime = Runtime::new().unwrap();
    let reader = connect(&runtime, moor.ro());
    assert_eq!(runtime.block_on(port(&reader)), pair.b.port());
    runtime.block_on(reader.batch_execute("begin; select 1")).unwrap();

    let admin = moor.admin().to_string();
    let (code, said, complaint) = pgmoor(&["drain", "b", "--wait", "300ms", "--admin", &admin]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(complaint.contains("b drains, and after 300ms 1 session is still on it: in a transaction"), "{complaint}");
    assert!(draining(&moor, "b"));
    assert_eq!(moor.metric("pgmoor_drain_marks{cluster=\"demo\"}"), 1.0);

    runtime.block_on(reader.batch_execute("commit")).unwrap();
    let (code, said, complaint) = pgmoor(&["drain", "b", "--wait", "20s", "--admin", &admin]);
    assert_eq!((code, said.as_str()), (Some(0), "b drains: no session is on it"), "{complaint}");
    assert_eq!(runtime.block_on(port(&reader)), pair.a.port(), "it reads from the primary now");

    assert_eq!(post(&moor, "/drain?pod=b&undo=true", "").1["outcome"], "undone");
    assert_eq!(post(&moor, "/drain?pod=b&undo=true", "").1["outcome"], "not_marked");
    until("b to be had back", || (!draining(&moor, "b")).then_some(()));
    until("a reader on b", || (runtime.block_on(port(&connect(&runtime, moor.ro()))) == pair.b.port()).then_some(()));
    assert_eq!(moor.metric("pgmoor_drain_marks{cluster=\"demo\"}"), 0.0);
}

#[test]
fn a_mark_can_have_an_end_and_a_wrong_order_changes_nothing() {
    let pair = pair::shared();
    let moor = pair.moor();
    let (status, told) = post(&moor, "/drain?pod=b&for=500ms", "");
    assert_eq!((status, &told["outcome"], &told["left"]), (200, &"drained".into(), &0.into()));
    assert!(draining(&moor, "b"));
    until("the mark's end", || (!draining(&moor, "b")).then_some(()));
    for (path, status, outcome) in [
        ("/drain?pod=c", 404, "unknown_pod"),
        ("/drain?pod=b&cluster=other", 404, "unknown_cluster"),
        ("/drain?pod=b&wait=3", 400, "not_understood"),
        ("/switchover?cluster=other", 404, "unknown_cluster"),
        ("/switchover", 409, "no_patroni"),
        ("/switchover?to=b", 409, "no_patroni"),
    ] {
        let (is, told) = post(&moor, path, "");
        assert_eq!((is, &told["outcome"]), (status, &outcome.into()), "{path}: {told}");
    }
    assert!(!draining(&moor, "a") && !draining(&moor, "b"));
    assert_eq!(post(&moor, "/drain?pod=b", "Origin: http://evil.example\r\n").0, 403, "a web page asks");
    let nobody = pair::own_address() + ":9187";
    let (code, _, complaint) = pgmoor(&["drain", "b", "--admin", &nobody]);
    assert!(code == Some(1) && complaint.contains("cannot be asked"), "{complaint}");
}

#[test]
fn the_token_is_asked_for_as_soon_as_it_is_configured() {
    let pair = pair::shared();
    let moor = pair.moor();
    let words = std::fs::read(format!("/proc/{}/cmdline", moor.pid())).unwrap();
    let config = String::from_utf8(words.split(|byte| *byte == 0).nth(3).unwrap().to_vec()).unwrap();
    let file = std::path::Path::new(&config).with_file_name("token");
    std::fs::write(&file, "moor\n").unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[listen]", "[listen]\nadmin_token_file = \"token\"")).unwrap();
    moor.signal("HUP");
    until("the token", || (post(&moor, "/drain?pod=c", "").0 == 401).then_some(()));
    assert_eq!(post(&moor, "/drain?pod=c", "Authorization: Bearer moo\r\n").0, 401);
    assert_eq!(post(&moor, "/drain?pod=c", "Authorization: Bearer moor\r\n").0, 404);
    let admin = moor.admin().to_string();
    let (code, _, complaint) = pgmoor(&["drain", "c", "--admin", &admin]);
    assert!(code == Some(1) && complaint.contains("--token-file"), "{complaint}");
    let file = file.to_str().unwrap();
    let (_, _, complaint) = pgmoor(&["drain", "c", "--admin", &admin, "--token-file", file]);
    assert!(complaint.contains("there is no pod c"), "{complaint}");
    assert_eq!(moor.get("/readyz").unwrap().0, "HTTP/1.1 200 OK", "to look takes none");
}

#[test]
fn what_patroni_refuses_is_told_word_for_word_and_clients_go_on() {
    let pair = pair::shared();
    let patroni = Patroni::start(|_| answer(412, "candidate name does not match with sync_standby"));
    let moor = Moor::start(&plan(&pair, patroni.port));
    let runtime = Runtime::new().unwrap();
    let writer = Writer::start(&runtime, &moor);
    let admin = moor.admin().to_string();
    let (code, said, complaint) = pgmoor(&["switchover", "--to", "b", "--admin", &admin]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    let words = "Patroni refused (412): candidate name does not match with sync_standby; a stays the primary";
    assert!(complaint.ends_with(words), "{complaint}");
    assert!(!draining(&moor, "a"), "the mark was taken back");
    let (_, told) = post(&moor, "/switchover", "");
    assert_eq!(told["patroni"]["status"], 412);
    let (writes, longest) = writer.finish(&runtime);
    assert!(writes > 0 && longest < Duration::from_secs(5), "{writes} writes, {longest:?}");
    assert_eq!(moor.metric("pgmoor_switchovers_total{cluster=\"demo\",outcome=\"refused\"}"), 2.0);
    for (path, outcome) in
        [("/switchover?to=c", "unknown_pod"), ("/switchover?to=a", "unfit"), ("/switchover?from=b", "not_primary")]
    {
        let (_, told) = post(&moor, path, "");
        assert_eq!(told["outcome"], outcome, "{path}: {told}");
    }
    assert_eq!(
        post(&moor, "/switchover", "").1["outcome"],
        "unfit",
        "b drains: it was told to, as it is not the primary"
    );
    assert_eq!(patroni.asked(), [r#"{"leader":"a","candidate":"b"}"#, r#"{"leader":"a"}"#]);
}

#[test]
fn a_patroni_that_says_nothing_or_lies_holds_nobody_for_long() {
    let pair = pair::shared();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases: [(Option<&str>, u16, &str, &str); 3] = [
        (None, 502, "unreachable", "cannot be reached"),
        (Some(""), 504, "timed_out", "has not answered"),
        (Some("HTTP/1.0 200 OK\r\n\r\nSuccessfully switched over to \"b\""), 504, "timed_out", "(200): Successfully"),
    ];
    for (says, status, outcome, words) in cases {
        let patroni = says.map(|says| Patroni::start(move |_| says.to_owned()));
        let moor = Moor::start(&plan(&pair, patroni.as_ref().map_or(free, |patroni| patroni.port)));
        let runtime = Runtime::new().unwrap();
        let writer = Writer::start(&runtime, &moor);
        let (is, told) = post(&moor, "/switchover?wait=1s", "");
        assert_eq!((is, &told["outcome"]), (status, &outcome.into()), "{told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
        // The answer and the next routing table are two tasks' work.
        until("its primary to be good again", || (!draining(&moor, "a")).then_some(()));
        let (writes, longest) = writer.finish(&runtime);
        assert!(writes > 0 && longest < Duration::from_secs(8), "{writes} writes, {longest:?}");
        drop(patroni.map(Patroni::asked));
    }
}

/// What Patroni does: it stops the primary in order, promotes the other, and says so. Before that it looks who is there.
fn switching(pair: &Arc<Pair>, delay: Duration) -> Patroni {
    let pair = Arc::clone(pair);
    Patroni::start(move |_| {
        std::thread::sleep(delay);
        let there = "select count(*) from pg_stat_activity where backend_type = 'client backend' and usename = 'app'";
        let there = psql(pair.a, there);
        pair.caught_up();
        pair.stop();
        pair.promote();
        answer(200, &format!("Successfully switched over; {there} sessions were there"))
    })
}

#[test]
fn a_switchover_is_a_pause_between_two_transactions() {
    let pair = Arc::new(Pair::start(""));
    let patroni = switching(&pair, Duration::ZERO);
    let moor = Moor::start(&plan(&pair, patroni.port));
    let runtime = Runtime::new().unwrap();
    let idle: Vec<Client> = (0..3).map(|_| connect(&runtime, moor.rw())).collect();
    for client in &idle {
        runtime.block_on(client.batch_execute("set my.name = 'kept'")).unwrap();
    }
    let writers: Vec<Writer> = (0..4).map(|_| Writer::start(&runtime, &moor)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let (status, told) = post(&moor, "/switchover?to=b&from=a&wait=20s", "");
    assert_eq!((status, &told["outcome"]), (200, &"switched".into()), "{told}");
    assert_eq!((&told["from"], &told["to"]), (&"a".into(), &"b".into()));
    assert_eq!(told["timelines"], serde_json::json!([1, 2]));
    assert_eq!((&told["moved"], &told["left"]), (&7.into(), &0.into()), "{told}");
    assert_eq!(told["patroni"]["text"], "Successfully switched over; 0 sessions were there");
    std::thread::sleep(Duration::from_millis(300));
    let mut sum = 0;
    for writer in writers {
        let (writes, longest) = writer.finish(&runtime);
        let held = Duration::from_millis(told["held_ms"].as_u64().unwrap());
        assert!(longest < held + Duration::from_secs(5), "{longest:?}; {told}");
        sum += writes;
    }
    assert_eq!(psql(pair.b, "select count(*) from ledger"), sum.to_string(), "every write once");
    for client in &idle {
        let row = runtime.block_on(client.query_one("select current_setting('my.name')", &[])).unwrap();
        assert_eq!(row.get::<_, String>(0), "kept");
        assert_eq!(runtime.block_on(port(client)), pair.b.port());
    }
    assert_eq!(moor.metric("pgmoor_switchovers_total{cluster=\"demo\",outcome=\"switched\"}"), 1.0);
    assert_eq!(patroni.asked(), [r#"{"leader":"a","candidate":"b"}"#]);
}

#[test]
fn one_at_a_time_over_several_pgmoors_and_it_goes_on_without_its_client() {
    let pair = Arc::new(Pair::start(""));
    let patroni = switching(&pair, Duration::from_secs(2));
    let (first, second) = (Moor::start(&plan(&pair, patroni.port)), Moor::start(&plan(&pair, patroni.port)));
    let runtime = Runtime::new().unwrap();
    let writers = [Writer::start(&runtime, &first), Writer::start(&runtime, &second)];
    let (one, two) = (first.admin().to_string(), second.admin().to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgmoor"))
        .args(["switchover", "--wait", "20s", "--admin", &one, "--admin", &two])
        .spawn()
        .unwrap();
    until("both to hold", || (draining(&first, "a") && draining(&second, "a")).then_some(()));
    until("the switchover", || (post(&first, "/switchover", "").1["outcome"] == "busy").then_some(()));
    command.kill().unwrap();
    command.wait().unwrap();
    let switched = "pgmoor_switchovers_total{cluster=\"demo\",outcome=\"switched\"}";
    until("its end", || (first.metric(switched) == 1.0).then_some(()));
    let mut sum = 0;
    for writer in writers {
        sum += writer.finish(&runtime).0;
    }
    assert_eq!(psql(pair.b, "select count(*) from ledger"), sum.to_string(), "every write once, through either");
    drop(patroni.asked());
}

#[test]
fn of_several_clusters_the_pod_tells_which() {
    let pair = pair::shared();
    let (x, y) = (pair.a, pair.b);
    let cluster = format!(
        "databases = [\"other\"]\ndiscovery.fixed = [\"x={x}\", \"y={y}\", \"b={y}\"]\nprobe.user = \"pgmoor\"\n\
         [[cluster]]\nname = \"second\"\ndatabases = [\"app\"]"
    );
    let moor = Moor::start(&Plan { cluster, wait_primary: false, ..pair.plan() });
    let known = || {
        let status = moor.status()?;
        let counts = status["clusters"].as_array()?.iter().map(|cluster| cluster["pods"].as_array().map(Vec::len));
        (counts.collect::<Option<Vec<_>>>()? == [3, 2]).then_some(())
    };
    until("both clusters' pods", known);
    for (path, status, outcome, cluster) in [
        ("/drain?pod=y", 200, "drained", Some("demo")),
        ("/drain?pod=a", 200, "drained", Some("second")),
        ("/drain?pod=b", 400, "which_cluster", None),
        ("/drain?pod=b&cluster=second", 200, "drained", Some("second")),
        ("/drain?pod=c", 404, "unknown_pod", None),
        ("/switchover", 400, "which_cluster", None),
        ("/switchover?to=b", 400, "which_cluster", None),
    ] {
        let (is, told) = post(&moor, path, "");
        assert_eq!(
            (is, &told["outcome"], told["cluster"].as_str()),
            (status, &outcome.into(), cluster),
            "{path}: {told}"
        );
    }
}
