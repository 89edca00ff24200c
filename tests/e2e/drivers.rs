//! The drivers people use do their normal work on the real cluster, with both Patroni versions; and pgmoor runs outside of
//! Kubernetes, from a kubeconfig, as well as in it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::access::Account;
use crate::cluster::children::Program;
use crate::cluster::patroni::connect_to;
use crate::cluster::ports::free_ports;
use crate::cluster::proxy::Port;
use crate::cluster::toolbox::PatroniVersion;
use crate::cluster::trouble::eventually;
use crate::drivers_of_all::{Drivers, SCRIPTS};
use crate::stage::Stage;

#[test]
fn drivers_work_with_patroni_4() {
    Stage::play(
        "drivers-4",
        PatroniVersion::V4,
        |overlay| overlay,
        async |stage| {
            work(&stage).await;
            outside(&stage).await;
        },
    );
}

#[test]
fn drivers_work_with_patroni_3() {
    Stage::play("drivers-3", PatroniVersion::V3, |overlay| overlay, async |stage| work(&stage).await);
}

async fn work(stage: &Arc<Stage>) {
    let address = stage.proxy.addresses(Port::Rw).await.unwrap()[0];
    let dsn = format!("postgresql://app:{}@{address}/app", stage.cluster.password("app").unwrap());
    for script in SCRIPTS {
        let dsn = dsn.clone();
        let outcome = tokio::task::spawn_blocking(move || Drivers::ready()?.run(script, &dsn, Duration::from_secs(90)))
            .await
            .unwrap()
            .unwrap();
        assert!(outcome.good && outcome.said.contains("\ndone "), "{script}:\n{}", outcome.said);
        stage.tell(&format!(
            "{script}: {} kinds of work done",
            outcome.said.lines().filter(|line| line.starts_with("ok ")).count()
        ));
    }
    crate::tokio_postgres_work::work(&dsn).await;
    stage.tell("tokio-postgres: done");
}

/// pgmoor as a process of this machine: with the same ServiceAccount, through a kubeconfig.
async fn outside(stage: &Arc<Stage>) {
    let plane = stage.cluster.plane();
    let kubeconfig = plane.kubeconfig(&Account::service(stage.cluster.namespace(), "pgmoor")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [rw, admin] = free_ports::<2>(Ipv4Addr::LOCALHOST).unwrap();
    let (app, probe) = (stage.cluster.password("app").unwrap(), stage.cluster.password("pgmoor").unwrap());
    let users = format!("[[user]]\nname = \"app\"\npassword = \"{app}\"\n");
    std::fs::write(folder.path().join("users.toml"), users).unwrap();
    let config = format!(
        r#"
        listen = {{ rw = "{rw}", admin = "{admin}" }}
        auth = {{ users_file = "users.toml" }}
        [[cluster]]
        name = "demo"
        databases = ["*"]
        discovery.kubernetes = {{ namespace = "{}", selector = "application=patroni,cluster-name=demo", preset = "patroni", kubeconfig = "{}" }}
        probe = {{ user = "pgmoor", password = "{probe}" }}
        "#,
        stage.cluster.namespace(),
        kubeconfig.display(),
    );
    let path = folder.path().join("pgmoor.toml");
    std::fs::write(&path, config).unwrap();
    let program = Program::new("pgmoor", env!("CARGO_BIN_EXE_pgmoor")).arg("run").arg("--config").arg(&path);
    let child = program.start(&folder.path().join("log")).unwrap();
    let connected = || async { connect_to(rw, "app", app, "app").await.ok() };
    let client = eventually("pgmoor outside of Kubernetes to serve", Duration::from_secs(20), connected).await;
    let client = client.unwrap_or_else(|trouble| panic!("{trouble}\n{}", child.log_tail(40)));
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0), "rw leads to the primary");
    stage.tell("pgmoor outside of Kubernetes serves from a kubeconfig");
}
