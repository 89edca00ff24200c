//! The watch against a server that misbehaves in every way seen in the wild.

use std::collections::VecDeque;

use kube::Client;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;

use super::*;

#[path = "../../../tests/discovery/api.rs"]
mod api;

use api::{Api as Server, Reply, Request};

/// Long enough for a busy machine, short enough for a test.
const PATIENCE: Patience = Patience { answer: Duration::from_secs(2), silence: Duration::from_secs(1) };

fn object(name: &str, version: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","uid":"u-{name}","resourceVersion":"{version}"}}}}"#
    )
}

fn event(kind: &str, name: &str, version: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{}}}"#, object(name, version))
}

fn bookmark(version: &str) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"resourceVersion":"{version}","creationTimestamp":null}}}}}}"#
    )
}

fn status(code: u16, reason: &str, retry_after: u32) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"scripted","reason":"{reason}","details":{{"retryAfterSeconds":{retry_after}}},"code":{code}}}"#
    )
}

fn list(version: &str, names: &[&str]) -> Reply {
    let items: Vec<_> = names.iter().map(|name| object(name, version)).collect();
    Reply::Json(
        200,
        format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#,
            items.join(",")
        ),
    )
}

/// A watch of a scripted server: each list and each watch takes the next reply of its own queue, and the last watch holds.
struct Bench {
    server: Server,
    words: mpsc::Receiver<((), Word)>,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn new(lists: Vec<Reply>, watches: Vec<Reply>) -> Self {
        let (mut lists, mut watches) = (VecDeque::from(lists), VecDeque::from(watches));
        let server = Server::start(move |request: &Request| {
            let queue = if request.is_watch() { &mut watches } else { &mut lists };
            queue.pop_front().unwrap_or_else(|| Reply::Hold(vec![]))
        })
        .await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.default_retry = false;
        let kind = GroupVersionKind::gvk("", "v1", "ConfigMap");
        let resource = ApiResource::from_gvk_with_plural(&kind, "configmaps");
        let (sender, words) = mpsc::channel(16);
        let watch = Watch {
            api: Api::namespaced_with(Client::try_from(config).unwrap(), "db", &resource),
            labels: None,
            fields: Some("metadata.name=a".to_owned()),
            source: (),
            words: sender,
            patience: PATIENCE,
        };
        let task = tokio::spawn(watch.run());
        Self { server, words, task }
    }

    /// The next word, in one line.
    async fn next(&mut self) -> String {
        let deadline = Duration::from_secs(10);
        let ((), word) = timeout(deadline, self.words.recv()).await.expect("a word in time").unwrap();
        let name = |object: &DynamicObject| object.metadata.name.clone().unwrap();
        match word {
            Word::Listed(objects) => format!("listed {}", objects.iter().map(name).collect::<Vec<_>>().join(" ")),
            Word::Changed(object) => format!("changed {}", name(&object)),
            Word::Gone(object) => format!("gone {}", name(&object)),
            Word::Lost(Trouble::Denied(_)) => "denied".to_owned(),
            Word::Lost(Trouble::Broken(_)) => "lost".to_owned(),
            Word::Works => "works".to_owned(),
        }
    }

    async fn expect(&mut self, words: &[&str]) {
        for word in words {
            assert_eq!(self.next().await, *word);
        }
    }

    /// The requests until the n-th: `list`, or `watch` with the version it goes on from.
    async fn requests(&self, n: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.server.requests().len() < n {
            assert!(Instant::now() < deadline, "{n} requests in time");
            sleep(Duration::from_millis(5)).await;
        }
        let line = |request: Request| match request.query("resourceVersion") {
            Some(version) if request.is_watch() => format!("watch {version}"),
            _ => "list".to_owned(),
        };
        self.server.requests().into_iter().take(n).map(line).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_stopped() {
    let first = vec![event("ADDED", "b", "6"), event("MODIFIED", "b", "7"), event("DELETED", "a", "8"), bookmark("11")];
    let second = vec![event("ADDED", "c", "12")];
    let mut bench = Bench::new(vec![list("5", &["a"])], vec![Reply::Lines(first), Reply::Lines(second)]).await;
    bench.expect(&["listed a", "changed b", "changed b", "gone a", "changed c"]).await;
    assert_eq!(bench.requests(4).await, ["list", "watch 5", "watch 11", "watch 12"]);
    let first = &bench.server.requests()[1];
    assert!(first.target.starts_with("/api/v1/namespaces/db/configmaps?"), "{}", first.target);
    assert_eq!(first.query("fieldSelector"), Some("metadata.name%3Da"));
    assert_eq!(first.query("timeoutSeconds"), Some("8"));
}

#[tokio::test]
async fn an_expired_version_is_listed_again_without_a_loss() {
    let gone = format!(r#"{{"type":"ERROR","object":{}}}"#, status(410, "Expired", 0));
    let bench_lists = vec![list("5", &["a"]), list("50", &["a", "b"]), list("60", &[])];
    let watches = vec![
        Reply::Lines(vec![gone]),
        Reply::Lines(vec![event("DELETED", "a", "51")]),
        Reply::Json(410, status(410, "Gone", 0)),
    ];
    let mut bench = Bench::new(bench_lists, watches).await;
    bench.expect(&["listed a", "listed a b", "gone a", "listed "]).await;
    assert_eq!(bench.requests(7).await, ["list", "watch 5", "list", "watch 50", "watch 51", "list", "watch 60"]);
}

#[tokio::test]
async fn a_version_that_expired_in_an_outage_prolongs_nothing() {
    let gone = format!(r#"{{"type":"ERROR","object":{}}}"#, status(410, "Expired", 0));
    let mut watches: Vec<_> = (0..5).map(|_| Reply::Cut).collect();
    watches.push(Reply::Lines(vec![gone]));
    let mut bench = Bench::new(vec![list("5", &["a"]), list("50", &["b"])], watches).await;
    bench.expect(&["listed a", "lost", "works"]).await;
    let back = Instant::now();
    bench.expect(&["listed b"]).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let busy = || Reply::Json(429, status(429, "TooManyRequests", 1));
    let mut bench = Bench::new(vec![busy(), busy(), list("5", &["a"])], vec![]).await;
    bench.expect(&["lost", "listed a", "works"]).await;
    let requests = bench.server.requests();
    for pair in requests[..3].windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_secs(1), "{requests:?}");
    }
}

#[tokio::test]
async fn garbage_is_answered_with_a_list() {
    let watches = vec![
        Reply::Lines(vec!["{\"type\":\"ADDED\",\"object\":7}".to_owned()]),
        Reply::Lines(vec![event("ADDED", "b", "51"), "<html>".to_owned()]),
        Reply::Lines(vec![event("ADDED", "b", "")]),
    ];
    let lists = vec![
        list("5", &["a"]),
        list("50", &[]),
        list("60", &[]),
        Reply::Json(200, "[]".to_owned()),
        list("70", &["c"]),
    ];
    let mut bench = Bench::new(lists, watches).await;
    bench.expect(&["listed a", "listed ", "changed b", "listed ", "changed b", "lost", "listed c", "works"]).await;
}

#[tokio::test]
async fn silence_is_noticed() {
    let watches = vec![Reply::Hold(vec![event("ADDED", "b", "6")]), Reply::Silence, Reply::Cut, Reply::Hold(vec![])];
    let mut bench = Bench::new(vec![list("5", &["a"])], watches).await;
    let start = Instant::now();
    bench.expect(&["listed a", "changed b", "lost", "works"]).await;
    assert!(start.elapsed() >= PATIENCE.silence + PATIENCE.answer);
    assert_eq!(bench.requests(5).await, ["list", "watch 5", "watch 6", "watch 6", "watch 6"]);
}

#[tokio::test]
async fn a_denial_is_said_at_once() {
    let mut bench = Bench::new(vec![Reply::Json(403, status(403, "Forbidden", 0))], vec![]).await;
    bench.expect(&["denied"]).await;
}

#[tokio::test]
async fn watches_that_end_at_once_do_not_spin() {
    let watches = (0..100).map(|_| Reply::Lines(vec![])).collect();
    let mut bench = Bench::new(vec![list("5", &["a"])], watches).await;
    bench.expect(&["listed a"]).await;
    bench.requests(4).await;
    let requests = bench.server.requests();
    assert!(requests[3].at - requests[1].at >= 2 * SPACING - Duration::from_millis(50), "{requests:?}");
}
