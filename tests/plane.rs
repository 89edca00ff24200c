//! The control plane of the test cluster is a real one: controllers act, RBAC refuses, watches expire, faults bite.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#[path = "plane/children.rs"]
mod children;
mod cluster;
#[path = "plane/relays.rs"]
mod relays;

use std::net::SocketAddr;
use std::time::Duration;

use cluster::access::Account;
use cluster::kubectl::Kubectl;
use cluster::plane::{ControlPlane, WatchCache};
use cluster::relay::{Mode, Relay};
use cluster::toolbox::mirror::{AptList, source_list};
use cluster::toolbox::{PatroniVersion, Toolbox};
use cluster::trouble::{Result, eventually};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: db }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: db }
data: { answer: "42" }
---
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: pg, namespace: db }
spec:
  serviceName: pg
  replicas: 2
  podManagementPolicy: Parallel
  selector: { matchLabels: { app: pg } }
  template:
    metadata: { labels: { app: pg } }
    spec:
      containers: [{ name: postgres, image: pgmoor.test/postgres }]
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: reader, namespace: db }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: reader, namespace: db }
rules: [{ apiGroups: [""], resources: [pods], verbs: [get, list, watch] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: reader, namespace: db }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader }
subjects: [{ kind: ServiceAccount, name: reader, namespace: db }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_toolbox_has_every_program() {
    let toolbox = Toolbox::ready().await.unwrap();
    for version in [PatroniVersion::V3, PatroniVersion::V4] {
        let patroni = toolbox.patroni(version);
        let mut command = tokio::process::Command::new(patroni.python);
        let output = command.args(["-m", "patroni", "--version"]).env("PYTHONPATH", patroni.python_path).output();
        let said = String::from_utf8(output.await.unwrap().stdout).unwrap();
        let expected = match version {
            PatroniVersion::V3 => " 3.",
            PatroniVersion::V4 => " 4.",
        };
        assert!(said.contains(expected), "{version:?} said {said:?}");
    }
    let again = std::time::Instant::now();
    Toolbox::ready().await.unwrap();
    assert!(again.elapsed() < Duration::from_secs(1), "a second look took {:?}", again.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_make_pods_and_rbac_decides_who_sees_them() {
    let plane = ControlPlane::start(&Toolbox::ready().await.unwrap()).await.unwrap();
    plane.kubectl().apply(MANIFESTS).await.unwrap();
    let pods = pod_names(&plane).await.unwrap();
    assert_eq!(pods, ["pg-0", "pg-1"]);
    let answer =
        plane.kubectl().run(&["get", "cm", "-n", "db", "settings", "-o", "jsonpath={.data.answer}"]).await.unwrap();
    assert_eq!(answer, "42");

    let reader = Account::service("db", "reader");
    let kubectl = kubectl_as(&plane, &reader, plane.address()).await.unwrap();
    let seen = kubectl.run(&["get", "pods", "-o", "name"]).await.unwrap();
    assert_eq!(seen, "pod/pg-0\npod/pg-1\n");
    let refused = kubectl.run(&["get", "configmaps"]).await.unwrap_err().to_string();
    assert!(refused.contains("system:serviceaccount:db:reader") && refused.contains("Forbidden"), "{refused}");
    let nobody = plane.client_with("no such token", plane.address()).unwrap();
    let denied = Api::<Pod>::namespaced(nobody, "db").list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&denied, kube::Error::Api(status) if status.code == 401), "{denied}");
    let unknown = plane.service_account_token("db", "nobody").await.unwrap_err().to_string();
    assert!(unknown.contains("not found"), "{unknown}");

    // A pod of no node goes at once, and the StatefulSet makes another under the same name.
    let api: Api<Pod> = Api::namespaced(plane.client().unwrap(), "db");
    let old = api.get("pg-1").await.unwrap().uid();
    plane.kubectl().run(&["delete", "pod", "-n", "db", "pg-1"]).await.unwrap();
    let replaced = || async { api.get("pg-1").await.ok().filter(|pod| pod.uid() != old) };
    eventually("another pg-1", SOON, replaced).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_expires_a_watch_and_the_api_server_comes_back() {
    let toolbox = Toolbox::ready().await.unwrap();
    let (plane, beside) = tokio::join!(
        ControlPlane::start_with(&toolbox, WatchCache::Off),
        ControlPlane::start_with(&toolbox, WatchCache::On)
    );
    let (plane, beside) = (plane.unwrap(), beside.unwrap());
    let api: Api<ConfigMap> = Api::default_namespaced(plane.client().unwrap());
    let version = put(&api, "before").await.unwrap();
    put(&api, "after").await.unwrap();
    assert_eq!(first(watch(&api, &version).await).await, "after", "nothing is compacted yet");
    put(&api, "last").await.unwrap();
    plane.compact_etcd().await.unwrap();
    assert_eq!(first(watch(&api, &version).await).await, "410");

    let other: Api<ConfigMap> = Api::default_namespaced(beside.client().unwrap());
    assert!(other.get_opt("last").await.unwrap().is_none(), "planes side by side share nothing");

    plane.stop_apiserver().await.unwrap();
    let refused = TcpStream::connect(plane.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(other.get_opt("last").await.unwrap().is_none(), "the other plane does not notice");
    plane.start_apiserver().await.unwrap();
    assert_eq!(api.get("last").await.unwrap().name_any(), "last");

    // With the cache of watches on, it takes a restart as well for compaction to show.
    let version = put(&other, "before").await.unwrap();
    put(&other, "after").await.unwrap();
    put(&other, "last").await.unwrap();
    beside.compact_etcd().await.unwrap();
    assert_eq!(first(watch(&other, &version).await).await, "after", "served from memory");
    beside.stop_apiserver().await.unwrap();
    beside.start_apiserver().await.unwrap();
    assert_eq!(first(watch(&other, &version).await).await, "410");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_api_server_can_be_led_through_a_relay() {
    let plane = ControlPlane::start(&Toolbox::ready().await.unwrap()).await.unwrap();
    let relay = Relay::start(plane.address()).await.unwrap();
    plane.kubectl().apply(MANIFESTS).await.unwrap();
    let kubectl = kubectl_as(&plane, &Account::service("db", "reader"), relay.address()).await.unwrap();
    kubectl.run(&["get", "pods"]).await.unwrap();
    relay.set(Mode::Cut);
    let refused = kubectl.run(&["get", "pods"]).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    relay.set(Mode::Pass);
    kubectl.run(&["get", "pods"]).await.unwrap();
}

#[test]
fn the_mirror_is_the_one_the_machine_uses() {
    let text = "# a comment\nTypes: deb\nURIs: http://mirror.test/other\nSuites: bookworm-security\nComponents: main\n\n\
                Enabled: no\nTypes: deb\nURIs: http://mirror.test/off\nSuites: bookworm\nComponents: main\n\n\
                Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
                Signed-By:\n -----BEGIN\n .\n key\n";
    let deb822 = AptList { name: "debian.sources".to_owned(), text: text.to_owned() };
    let expected = "Types: deb-src\nSuites: bookworm\nComponents: main\nURIs: http://mirror.test/debian\n\
                    Signed-By: \n -----BEGIN\n .\n key\n";
    assert_eq!(source_list(&[deb822], "bookworm", "main").as_deref(), Some(expected));

    let text = "# deb http://mirror.test/a bookworm main\ndeb-src http://mirror.test/b bookworm main\n\
                deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.test/c bookworm main contrib # c\n";
    let lines = AptList { name: "sources.list".to_owned(), text: text.to_owned() };
    let expected = "Types: deb-src\nSuites: bookworm\nComponents: main\nURIs: http://mirror.test/c\n\
                    Signed-By: /usr/share/keyrings/k.gpg\n";
    assert_eq!(source_list(std::slice::from_ref(&lines), "bookworm", "main").as_deref(), Some(expected));
    assert_eq!(source_list(&[lines], "trixie", "main"), None);
}

async fn kubectl_as(plane: &ControlPlane, account: &Account, server: SocketAddr) -> Result<Kubectl> {
    Ok(plane.kubectl().with(&plane.kubeconfig_through(account, server).await?))
}

async fn pod_names(plane: &ControlPlane) -> Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(plane.client()?, "db");
    let two = || async {
        let pods = api.list(&ListParams::default().labels("app=pg")).await.ok()?;
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        (names.len() == 2).then_some(names)
    };
    eventually("the StatefulSet's two pods", SOON, two).await
}

/// Makes a ConfigMap and returns its resource version.
async fn put(api: &Api<ConfigMap>, name: &str) -> Result<String> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let made = api.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await?;
    Ok(made.resource_version().unwrap_or_default())
}

async fn watch(api: &Api<ConfigMap>, version: &str) -> impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + use<> {
    api.watch(&WatchParams::default(), version).await.unwrap().boxed()
}

/// The first thing a watch says: an object's name, or the code of an error.
async fn first(events: impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>>) -> String {
    let mut events = std::pin::pin!(events);
    match tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().unwrap() {
        WatchEvent::Added(map) | WatchEvent::Modified(map) | WatchEvent::Deleted(map) => map.name_any(),
        WatchEvent::Bookmark(_) => "bookmark".to_owned(),
        WatchEvent::Error(status) => status.code.to_string(),
    }
}
