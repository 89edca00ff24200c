//! Two thousand sessions, two hundred of them writing, through the loss of the primary's pod: none is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::cluster::faults;
use crate::cluster::overlay::Overlay;
use crate::cluster::proxy::Port;
use crate::cluster::trouble::eventually;
use crate::crowd::{self, Member, Writers};
use crate::fence::status;
use crate::stage::{FAILOVER, Stage};

const CROWD: usize = 2_000;
const WRITING: usize = 200;
/// For everybody to be served, from the moment the new primary is proven, in a debug build on two busy cores.
const SERVED: Duration = Duration::from_secs(30);
/// Of one pgmoor's memory: for one session, and for what is not a session's.
const MEMORY: (u64, u64) = (64 * 1024, 64 * 1024 * 1024);

#[test]
fn two_thousand_sessions_survive_a_crashed_primary() {
    // Today each session holds a backend.
    Stage::play_roomy("mass", CROWD + 100, patient, survive);
}

/// A busy machine may take its time to promote: nobody is to be told 57P03 for that.
fn patient(overlay: Overlay) -> Overlay {
    overlay.replace("[log]", "[continuity]\n    hold = \"90s\"\n\n    [log]")
}

async fn survive(stage: Arc<Stage>) {
    stage.synchronous().await;
    stage.client(Port::Rw, 0).await.batch_execute(crowd::TABLE).await.unwrap();
    let began = Instant::now();
    let crowd = log_in(&stage).await;
    stage.tell(&format!(
        "{CROWD} sessions logged in within {:.1} s; pgmoor's memory: {}",
        began.elapsed().as_secs_f64(),
        memory(&stage).await
    ));
    let writers = Writers::start(&crowd[..WRITING]);
    let old = stage.cluster.primary().await.unwrap();
    let direct = stage.cluster.connect_as(&old, "app", "app").await.unwrap();
    let writing = || async {
        let count = direct.query_one("SELECT count(DISTINCT writer) FROM crowd WHERE n > 3", &[]).await.ok()?;
        (count.get::<_, i64>(0) == WRITING as i64).then_some(())
    };
    eventually("everybody to write", FAILOVER, writing).await.unwrap();

    let watch = Watch::start(&stage).await;
    faults::kill9(stage.cluster.kubelet(), stage.cluster.namespace(), &old).unwrap();
    let lost = Instant::now();
    // Its container is started again, and Patroni may take up the lock once more: either pod may lead now.
    let proven = watch.proven_again().await;
    let books = writers.finish().await;
    let served: Vec<Instant> = books
        .iter()
        .enumerate()
        .map(|(id, book)| book.first_after(proven).unwrap_or_else(|| panic!("writer {id}: {:?}", book.told.last())))
        .collect();
    let busy = *served.iter().max().unwrap() - proven;
    let asked = Instant::now();
    let answered = crowd::answered(crowd::ask(&crowd)).await;
    let idle = *answered.iter().max().unwrap() - asked;
    stage.tell(&format!(
        "kill -9 of the primary's pod: new primary proven after {:.2} s; from there to the last session served: {:.2} s for {WRITING} writers ({}), {:.2} s for all {CROWD}, who then asked at once ({})",
        (proven - lost).as_secs_f64(),
        busy.as_secs_f64(),
        crowd::spread(served.iter().map(|at| *at - proven).collect()),
        idle.as_secs_f64(),
        crowd::spread(answered.iter().map(|at| *at - asked).collect()),
    ));
    assert!(busy <= SERVED && idle <= SERVED, "{busy:?}, {idle:?}\n{}", stage.logs().await);
    check(&stage, &crowd).await;
    let told = audit(&stage, &books).await;
    stage.tell(&format!("{told}; 0 of {CROWD} connections dropped; pgmoor's memory: {}", memory(&stage).await));
}

/// The crowd, spread over pgmoor's pods; the first of each pod stand first, so that writers are spread, too.
async fn log_in(stage: &Stage) -> Vec<Member> {
    let addresses = stage.proxy.addresses(Port::Rw).await.unwrap();
    let mut parts = Vec::new();
    for address in &addresses {
        let mut config = tokio_postgres::Config::new();
        config.hostaddr(address.ip()).host(address.ip().to_string()).port(address.port());
        config.user("app").password(stage.cluster.password("app").unwrap()).dbname("app");
        parts.push(crowd::log_in(&config, CROWD / addresses.len()).await.into_iter());
    }
    let mut crowd = Vec::new();
    while let Some(member) = parts[crowd.len() % addresses.len()].next() {
        crowd.push(member);
    }
    assert_eq!(crowd.len(), CROWD);
    crowd
}

/// Backends there may be: `pool.size` for each of two pgmoors.
const MOST_BACKENDS: i32 = 40;

/// Nobody was dropped, nobody waits, and few backends do all the work.
async fn check(stage: &Stage, crowd: &[Member]) {
    let there = crowd.iter().filter(|member| member.is_there()).count();
    assert_eq!(there, CROWD, "connections dropped\n{}", stage.logs().await);
    let mut sessions = 0.0;
    for state in ["attached", "loose"] {
        sessions += stage.metric(&format!(r#"pgmoor_sessions{{endpoint="rw",state="{state}"}}"#)).await;
    }
    assert_eq!(sessions, CROWD as f64);
    assert_eq!(stage.metric("pgmoor_holds ").await, 0.0);
    let primary = stage.cluster.wait_primary(None, FAILOVER).await.unwrap();
    let client = stage.cluster.connect(&primary).await.unwrap();
    let logins = "SELECT sum(n)::int, max(n)::int FROM (SELECT count(*) AS n FROM pg_stat_activity \
                  WHERE usename = 'app' AND application_name = '' GROUP BY date_trunc('second', backend_start)) AS s";
    let row = client.query_one(logins, &[]).await.unwrap();
    let backends = row.get::<_, i32>(0);
    assert!((1..=MOST_BACKENDS).contains(&backends), "{backends} backends on the primary");
    stage.tell(&format!("logins on the new primary: {} in one second at most", row.get::<_, i32>(1)));
}

async fn audit(stage: &Stage, books: &[crowd::Book]) -> String {
    let primary = stage.cluster.wait_primary(None, FAILOVER).await.unwrap();
    let client = stage.cluster.connect_as(&primary, "app", "app").await.unwrap();
    let rows = client.query("SELECT writer, n FROM crowd", &[]).await.unwrap();
    let rows: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    format!("told to the writers: {:?}", crowd::audit(books, &rows))
}

/// What each pgmoor holds now and held at most; that is bounded.
async fn memory(stage: &Stage) -> String {
    let pods = stage.proxy.pods().await.unwrap();
    let limit = MEMORY.0 * (CROWD / pods.len()) as u64 + MEMORY.1;
    let mut said = Vec::new();
    for pod in &pods {
        let containers =
            stage.cluster.kubelet().incarnation(stage.cluster.namespace(), &pod.name).unwrap().containers();
        let family = containers.iter().flat_map(|container| container.child().family());
        let (now, peak) = family.filter_map(of_pgmoor).max().expect("a process of pgmoor");
        assert!(peak <= limit, "{}: {peak} bytes at most, {limit} allowed", pod.name);
        said.push(format!("{} MiB now, {} MiB at most", now >> 20, peak >> 20));
    }
    said.join("; ")
}

/// The bytes a process holds now and held at most, if it is a pgmoor.
fn of_pgmoor(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = |name: &str| field(name)?.trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024);
    (field("Name:")? == "pgmoor").then_some((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// Looks at where every pgmoor sends writes, many times a second.
struct Watch(Vec<JoinHandle<Instant>>);

impl Watch {
    async fn start(stage: &Stage) -> Self {
        let addresses = stage.proxy.addresses(Port::Admin).await.unwrap();
        Self(addresses.into_iter().map(|address| tokio::spawn(look(address))).collect())
    }

    /// When the first of them had proven a primary, after it had none. Waits for all of them.
    async fn proven_again(self) -> Instant {
        let mut proven = Vec::new();
        for look in self.0 {
            proven.push(tokio::time::timeout(FAILOVER, look).await.expect("a new primary is proven").unwrap());
        }
        proven.into_iter().min().unwrap()
    }
}

async fn look(admin: SocketAddr) -> Instant {
    let mut was_lost = false;
    loop {
        if let Some(status) = status(admin).await {
            let proven = status["clusters"][0]["writes"]["to"]["pod"].is_string();
            if proven && was_lost {
                return Instant::now();
            }
            was_lost |= !proven;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
