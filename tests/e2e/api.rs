//! pgmoor without the API server: it keeps routing by what it knows and what it probes; no client notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::faults;
use crate::cluster::proxy::Port;
use crate::cluster::relay::Mode;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::fence::status;
use crate::ledger::{self, Told, Writers};
use crate::stage::Stage;

/// What a client may wait for one write on a busy machine, with nobody failing.
const USUAL: Duration = Duration::from_secs(2);

#[test]
fn a_minute_without_the_api_server_has_no_effect_on_clients() {
    Stage::play("api", PatroniVersion::V4, |overlay| overlay, without_api);
}

async fn without_api(stage: Arc<Stage>) {
    let writers = Writers::start(&stage, 8, Duration::from_millis(5)).await;
    let began = Instant::now();
    for (mode, long) in [(Mode::Drop, 35), (Mode::Cut, 25)] {
        set(&stage, mode).await;
        stale(&stage, true, Duration::from_secs(25)).await;
        let client = stage.client(Port::Rw, 1).await;
        client.simple_query("SELECT 1").await.unwrap(); // a new session gets in, too
        tokio::time::sleep_until((began + Duration::from_secs(long)).into()).await;
        set(&stage, Mode::Pass).await;
        stale(&stage, false, Duration::from_secs(25)).await;
        if mode == Mode::Drop {
            stage.tell(&format!("packets dropped for {long} s: noticed, and over"));
        }
    }
    set(&stage, Mode::Cut).await;
    tokio::time::sleep_until((began + Duration::from_secs(75)).into()).await;
    set(&stage, Mode::Pass).await;
    let books = writers.finish().await;
    let told = ledger::audit(&stage, &books).await;
    stage.tell(&format!("{told:?}; longest write {} ms", ledger::longest(&books).as_millis()));
    assert!(books.iter().flat_map(|book| &book.writes).all(|write| write.told == Told::Done), "no error: {told:?}");
    assert!(ledger::longest(&books) < USUAL, "{:?}\n{}", ledger::longest(&books), stage.logs().await);
}

async fn set(stage: &Stage, mode: Mode) {
    for pod in stage.proxy.pods().await.unwrap() {
        faults::api_path(stage.cluster.kubelet(), stage.cluster.namespace(), &pod.name, mode).await.unwrap();
    }
}

/// Waits until every pgmoor says that its view of Kubernetes is stale, or is not any more.
async fn stale(stage: &Stage, wanted: bool, limit: Duration) {
    for address in stage.proxy.addresses(Port::Admin).await.unwrap() {
        let told = || async { (status(address).await?["clusters"][0]["stale"] == wanted).then_some(()) };
        eventually(&format!("stale = {wanted}"), limit, told).await.unwrap();
    }
}
