//! The kubelet of the test cluster does what a StatefulSet and Patroni rely on, and its faults are the real ones.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::print_stdout, reason = "timings are part of what these tests tell")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
mod cluster;

use std::future::Future;
use std::time::{Duration, Instant};

use cluster::faults::{self, Loss, Part};
use cluster::kubelet::images::Image;
use cluster::patroni::PatroniCluster;
use cluster::pods::PodView;
use cluster::relay::Mode;
use cluster::toolbox::PatroniVersion;
use cluster::trouble::eventually;
use cluster::world::World;

/// A failover after a crash: Patroni's ttl of 20 s, a promotion, and the patience a busy machine needs.
const FAILOVER: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(60);

/// Runs a test with a cluster of its own.
fn with_cluster<F: Future<Output = ()>>(
    namespace: &str,
    version: PatroniVersion,
    test: impl FnOnce(PatroniCluster) -> F,
) {
    let world = World::shared().unwrap();
    world.run(async {
        let began = Instant::now();
        let cluster = world.patroni(namespace, version, 3).await.unwrap();
        told(namespace, "up", began);
        test(cluster).await;
    });
}

fn told(who: &str, what: &str, since: Instant) {
    println!("timing: {who}: {what} after {:.1} s", since.elapsed().as_secs_f64());
}

/// Writes a row through the primary that later incarnations must still have.
async fn write(cluster: &PatroniCluster, pod: &str) {
    let client = cluster.connect_as(pod, "app", "app").await.unwrap();
    client.batch_execute("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
}

async fn rows(cluster: &PatroniCluster, pod: &str) -> Option<i64> {
    let client = cluster.connect_as(pod, "app", "app").await.ok()?;
    client.query_one("SELECT count(*) FROM kept", &[]).await.ok()?.try_get(0).ok()
}

#[test]
fn a_deleted_primary_comes_back_as_a_new_incarnation_with_its_data() {
    with_cluster("deleted", PatroniVersion::V4, |cluster| async move {
        let old = cluster.primary().await.unwrap();
        write(&cluster, &old).await;
        let before = cluster.pod(&old).await.unwrap();
        assert_eq!(before.role(), Some("primary"));

        let began = Instant::now();
        cluster.kubectl(&["delete", "pod", &old, "--wait=false"]).await.unwrap();
        let new = cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        told("deleted", "another primary", began);
        cluster.wait_ready(3, SOON).await.unwrap();
        told("deleted", "three ready again", began);

        let after = cluster.pod(&old).await.unwrap();
        assert_ne!(after.uid, before.uid, "a new incarnation");
        assert_ne!(after.ip, before.ip, "at a new address");
        assert_eq!(after.role(), Some("replica"));
        assert_eq!(rows(&cluster, &old).await, Some(1), "{old} has its data");
        assert_eq!(cluster.primaries().await.unwrap(), [new]);
    });
}

#[test]
fn a_deleted_pod_waits_for_its_open_transactions() {
    with_cluster("patient", PatroniVersion::V4, |cluster| async move {
        let old = cluster.primary().await.unwrap();
        write(&cluster, &old).await;
        let client = cluster.connect_as(&old, "app", "app").await.unwrap();
        client.batch_execute("BEGIN; INSERT INTO kept VALUES (2)").await.unwrap();
        let began = Instant::now();
        cluster.kubectl(&["delete", "pod", &old, "--wait=false"]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        client.batch_execute("INSERT INTO kept VALUES (3); COMMIT").await.unwrap();
        told("patient", "committed on a pod that is being deleted", began);
        let new = cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        told("patient", "another primary", began);
        assert_eq!(rows(&cluster, &new).await, Some(3), "a planned move loses nothing");
    });
}

#[test]
fn a_killed_container_is_started_again_in_the_same_pod() {
    with_cluster("killed", PatroniVersion::V4, |cluster| async move {
        let old = cluster.primary().await.unwrap();
        write(&cluster, &old).await;
        let before = cluster.pod(&old).await.unwrap();
        let began = Instant::now();
        faults::kill9(cluster.kubelet(), cluster.namespace(), &old).unwrap();
        let restarted = || async { (cluster.pod(&old).await.ok()?.restarts == 1).then_some(()) };
        eventually("the restart", SOON, restarted).await.unwrap();
        told("killed", "container restarted", began);
        cluster.wait_ready(3, FAILOVER).await.unwrap();
        told("killed", "three ready again", began);
        let after = cluster.pod(&old).await.unwrap();
        assert_eq!((after.uid, after.ip), (before.uid, before.ip));
        assert_eq!(rows(&cluster, &old).await, Some(1));
    });
}

#[test]
fn a_frozen_patroni_leaves_a_zombie_primary_with_its_label() {
    with_cluster("zombie", PatroniVersion::V4, |cluster| async move {
        let old = cluster.primary().await.unwrap();
        let began = Instant::now();
        faults::freeze(cluster.kubelet(), cluster.namespace(), &old, Part::Patroni).unwrap();
        let new = cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        told("zombie", "another primary", began);
        assert!(cluster.is_primary(&old).await.unwrap(), "the old PostgreSQL still takes writes");
        let both = || async { (labelled(&cluster, "primary").await.len() == 2).then_some(()) };
        eventually("two labelled primaries", SOON, both).await.unwrap();
        assert_eq!(cluster.leader().await.unwrap(), Some(new));
        let unready = || async { (!cluster.pod(&old).await.ok()?.ready).then_some(()) };
        eventually("the zombie to be not ready", SOON, unready).await.unwrap();

        faults::thaw(cluster.kubelet(), cluster.namespace(), &old, Part::Patroni).unwrap();
        cluster.wait_ready(3, FAILOVER).await.unwrap();
        told("zombie", "thawed and following", began);
        assert_eq!(labelled(&cluster, "primary").await.len(), 1);
    });
}

#[test]
fn a_lost_node_says_nothing_until_it_returns() {
    with_cluster("lost", PatroniVersion::V4, |cluster| async move {
        let old = cluster.primary().await.unwrap();
        let before = cluster.pod(&old).await.unwrap();
        let began = Instant::now();
        faults::lose_node(cluster.kubelet(), cluster.namespace(), &old, Loss::PowerOff).await.unwrap();
        cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        told("lost", "another primary", began);
        let lost = cluster.pod(&old).await.unwrap();
        assert_eq!(
            (lost.ready, lost.ip, lost.role()),
            (true, before.ip, Some("primary")),
            "nobody told the API server"
        );

        faults::return_node(cluster.kubelet(), cluster.namespace(), &old).await.unwrap();
        let moved = || async { (cluster.pod(&old).await.ok()?.ip != before.ip).then_some(()) };
        eventually("the rebooted pod's new address", SOON, moved).await.unwrap();
        cluster.wait_ready(3, FAILOVER).await.unwrap();
        told("lost", "three ready again", began);
        assert_eq!(cluster.pod(&old).await.unwrap().uid, before.uid, "the same pod");
    });
}

#[test]
fn a_frozen_node_keeps_its_storage_from_the_next_incarnation() {
    with_cluster("frozen", PatroniVersion::V4, |cluster| async move {
        let (kubelet, namespace) = (cluster.kubelet(), cluster.namespace());
        let old = cluster.primary().await.unwrap();
        faults::lose_node(kubelet, namespace, &old, Loss::Frozen).await.unwrap();
        let uid = faults::delete_pod(&cluster, &old, Some(Duration::ZERO)).await.unwrap();
        let replaced = || async { (cluster.pod(&old).await.ok()?.uid != uid).then_some(()) };
        eventually("the StatefulSet's next pod", SOON, replaced).await.unwrap();
        cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        assert_eq!(cluster.pod(&old).await.unwrap().ip, None, "its storage is still attached to the frozen one");
        faults::return_node(kubelet, namespace, &old).await.unwrap();
        cluster.wait_ready(3, FAILOVER).await.unwrap();
    });
}

#[test]
fn a_primary_cut_from_the_api_server_gives_up_by_itself() {
    with_cluster("cut", PatroniVersion::V4, |cluster| async move {
        let (kubelet, namespace) = (cluster.kubelet(), cluster.namespace());
        let old = cluster.primary().await.unwrap();
        let began = Instant::now();
        faults::api_path(kubelet, namespace, &old, Mode::Cut).await.unwrap();
        let demoted = || async { matches!(cluster.is_primary(&old).await, Ok(false)).then_some(()) };
        eventually("the cut primary to demote itself", FAILOVER, demoted).await.unwrap();
        told("cut", "demoted", began);
        cluster.wait_primary(Some(&old), FAILOVER).await.unwrap();
        told("cut", "another primary", began);
        faults::api_path(kubelet, namespace, &old, Mode::Pass).await.unwrap();
        cluster.wait_ready(3, FAILOVER).await.unwrap();
    });
}

#[test]
fn a_rolling_update_replaces_every_pod_of_patroni_3() {
    with_cluster("rolling", PatroniVersion::V3, |cluster| async move {
        assert_eq!(labelled(&cluster, "master").await, [cluster.primary().await.unwrap()]);
        let before: Vec<_> = cluster.pods().await.unwrap().into_iter().map(|pod| pod.uid).collect();
        let began = Instant::now();
        cluster.kubectl(&["rollout", "restart", "statefulset/demo"]).await.unwrap();
        cluster.wait_replaced(&before, Duration::from_secs(180)).await.unwrap();
        cluster.wait_ready(3, FAILOVER).await.unwrap();
        told("rolling", "three new pods ready", began);
        assert_eq!(cluster.primaries().await.unwrap().len(), 1);
    });
}

/// The pods whose label `role` says this.
async fn labelled(cluster: &PatroniCluster, role: &str) -> Vec<String> {
    let pods = cluster.pods().await.unwrap();
    pods.into_iter().filter(|pod| pod.role() == Some(role)).map(|pod| pod.name).collect()
}

/// A Deployment as deploy/pgmoor has one: not root, a root that cannot be written to, no capability, its own address,
/// a ConfigMap that changes under it, a preStop hook.
const WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: web }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: web, namespace: web }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: page, namespace: web }
data: { index.html: "first" }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: web }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 3
      securityContext: { runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532 }
      containers:
        - name: web
          image: web:1
          command: [python3, -m, http.server, --bind, $(POD_IP), --directory, /etc/page, "8080"]
          env:
            - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /index.html, port: http }, periodSeconds: 1 }
          livenessProbe: { exec: { command: [test, "!", -e, /cache/sick] }, periodSeconds: 1, failureThreshold: 1 }
          lifecycle: { preStop: { exec: { command: [sh, -c, "id -u > /cache/stopped"] } } }
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: { drop: [ALL] }
          volumeMounts:
            - { name: page, mountPath: /etc/page, readOnly: true }
            - { name: cache, mountPath: /cache }
      volumes:
        - { name: page, configMap: { name: page } }
        - { name: cache, emptyDir: {} }
"#;

#[test]
fn a_deployments_pods_are_confined_and_see_their_config_change() {
    let world = World::shared().unwrap();
    world.kubelet.add_images(|images| images.with("web:1", Image::of_this_machine()));
    world.run(async {
        let kubectl = world.plane.kubectl();
        kubectl.apply(WEB).await.unwrap();
        kubectl.run(&["--namespace", "web", "rollout", "status", "deployment/web", "--timeout=50s"]).await.unwrap();
        let pods = PodView::list(world.plane.client().unwrap(), "web", "app=web").await.unwrap();
        let names: Vec<_> = pods.into_iter().map(|pod| pod.name).collect();
        assert_eq!(names.len(), 2);

        let about = world.kubelet.incarnation("web", &names[0]).unwrap();
        let container = about.container("web").unwrap();
        let run = |script: &str| {
            let (container, words) = (std::sync::Arc::clone(&container), ["sh", "-c", script].map(str::to_owned));
            async move { container.exec(&words, Duration::from_secs(5)).await }
        };
        assert_eq!(run("id -u").await.unwrap(), "65532\n");
        assert_eq!(run("hostname").await.unwrap().trim(), names[0]);
        assert!(run("touch /var/tmp/x").await.is_err(), "a read-only root");
        run("touch /cache/x").await.unwrap();
        assert!(run("grep CapEff /proc/1/status").await.unwrap().contains("0000000000000000"));
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(run(&format!("cat {account}/namespace")).await.unwrap(), "web");
        assert!(run(&format!("cat {account}/ca.crt")).await.unwrap().contains("BEGIN CERTIFICATE"));
        assert!(!run(&format!("cat {account}/token")).await.unwrap().is_empty());
        assert!(!std::path::Path::new("/etc/page").exists(), "no mount point is left on this machine");

        kubectl.apply(&WEB.replace("first", "second")).await.unwrap();
        let changed =
            || async { run("cat /etc/page/index.html").await.is_ok_and(|page| page == "second").then_some(()) };
        eventually("the ConfigMap's change in the pod", SOON, changed).await.unwrap();

        run("touch /cache/sick").await.unwrap();
        let view = || PodView::get(world.plane.client().unwrap(), "web", &names[0]);
        let restarted = || async { (view().await.ok()?.restarts > 0).then_some(()) };
        eventually("the sick container's restart", SOON, restarted).await.unwrap();

        let began = Instant::now();
        kubectl.run(&["--namespace", "web", "delete", "pod", &names[0]]).await.unwrap();
        told("web", "pod deleted (python as pid 1 ignores SIGTERM, so its grace of 3 s passes)", began);
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert!(about.containers().is_empty());
    });
}

#[test]
fn pods_run_on_while_the_api_server_is_away() {
    let world = World::own().unwrap();
    world.kubelet.add_images(|images| images.with("web:1", Image::of_this_machine()));
    world.run(async {
        let (plane, kubelet) = (&world.plane, &world.kubelet);
        let list = || async { PodView::list(plane.client().unwrap(), "web", "app=web").await };
        let ready = || async {
            let pods = list().await.ok()?;
            (pods.len() == 2 && pods.iter().all(|pod| pod.ready && !pod.terminating)).then_some(pods)
        };
        plane.kubectl().apply(WEB).await.unwrap();
        let before = eventually("two ready pods", SOON, ready).await.unwrap();
        let name = before[0].name.clone();

        plane.stop_apiserver().await.unwrap();
        let pid = || kubelet.incarnation("web", &name).ok()?.container("web")?.child().pid();
        let first = pid().unwrap();
        faults::kill9(kubelet, "web", &name).unwrap();
        let other = || async { pid().filter(|pid| *pid != first) };
        eventually("the container's restart", SOON, other).await.unwrap();
        plane.start_apiserver().await.unwrap();

        let began = Instant::now();
        let told_so = || async { (list().await.ok()?[0].restarts == 1).then_some(()) };
        eventually("the API server to be told of it", SOON, told_so).await.unwrap();
        told("away", "restart told", began);
        plane.kubectl().run(&["--namespace", "web", "delete", "pod", &name]).await.unwrap();
        let after = eventually("two ready pods again", SOON, ready).await.unwrap();
        assert!(after.iter().all(|pod| pod.name != name));
    });
}
