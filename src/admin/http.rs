//! The HTTP door of the operators: metrics, health and status to look at, and orders for planned moves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::orders::{self, Answer, Drain, Obey, Order, Switchover};
use super::page;
use super::report::{Report, SessionCounts};
use crate::config::Password;
use crate::metrics::Metrics;
use crate::shutdown::ShutdownWatch;
use crate::topology::routing::RoutingTable;

/// How long answers that are under way may take once the process stops.
const FAREWELL: Duration = Duration::from_secs(1);

const PATHS: &str = "\
/metrics      what is counted, for Prometheus
/livez        200 while the process runs
/readyz       200 while new clients are welcome, else 503 and why not
/status       the state of clusters, pods and sessions, as a page
/status.json  the same, as JSON
";

const ORDERS: &str = "\
POST /drain?pod=NAME[&cluster=NAME][&wait=30s][&for=5m][&undo=true]          sessions leave the pod
POST /switchover[?cluster=NAME][&to=NAME][&from=NAME][&wait=60s]             another pod becomes the primary
";

/// What the answers are made from.
pub struct Sources {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// One per cluster, in the order of the configuration.
    pub tables: Vec<watch::Receiver<Arc<RoutingTable>>>,
    /// Counts the sessions there are now.
    pub sessions: Arc<dyn Fn() -> SessionCounts + Send + Sync>,
    /// The phase of the process; the door closes when it is stopped, not while it drains.
    pub shutdown: ShutdownWatch,
    /// The start of the process.
    pub started: Instant,
    /// Carries orders out.
    pub obey: Obey,
    /// What those who order must show, at this moment.
    pub token: Arc<dyn Fn() -> Option<Password> + Send + Sync>,
}

impl Sources {
    /// The state at this moment.
    pub fn report(&self) -> Report {
        let tables: Vec<Arc<RoutingTable>> = self.tables.iter().map(|table| Arc::clone(&table.borrow())).collect();
        let report = Report::new(
            self.shutdown.phase(),
            self.started.elapsed(),
            self.metrics.holds(),
            &(self.sessions)(),
            tables.iter().map(AsRef::as_ref),
        );
        Report { pins: self.metrics.pins(), ..report }
    }
}

/// Answers on this listener until the process is stopped. To be started once the clients' listeners are bound:
/// `/readyz` takes that for granted.
///
/// # Errors
/// The listener broke.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>) -> io::Result<()> {
    let watch = sources.shutdown.clone();
    let over = sources.shutdown.clone();
    let service = router(sources).into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service).with_graceful_shutdown(async move { watch.stopped().await });
    tokio::select! {
        outcome = served => outcome,
        () = async move {
            over.stopped().await;
            tokio::time::sleep(FAREWELL).await;
        } => Ok(()),
    }
}

fn router(sources: Arc<Sources>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/status.json", get(async |State(it): State<Arc<Sources>>| Json(it.report())))
        .route("/status", get(status))
        .route("/", get(status))
        .route("/drain", post(drain))
        .route("/switchover", post(switchover))
        .fallback(async || (StatusCode::NOT_FOUND, format!("There is nothing here. There is:\n{PATHS}{ORDERS}")))
        .with_state(sources)
}

async fn metrics(State(sources): State<Arc<Sources>>) -> Response {
    match sources.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn ready(State(sources): State<Arc<Sources>>) -> Response {
    let reasons = sources.report().not_ready;
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    let why = reasons.join("\n") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn status(State(sources): State<Arc<Sources>>) -> Html<String> {
    Html(page::render(&sources.report()))
}

type Asked<T> = Result<Query<T>, QueryRejection>;

async fn drain(
    State(sources): State<Arc<Sources>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    query: Asked<Drain>,
) -> Response {
    order(&sources, peer, &headers, query, Order::Drain).await
}

async fn switchover(
    State(sources): State<Arc<Sources>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    query: Asked<Switchover>,
) -> Response {
    order(&sources, peer, &headers, query, Order::Switchover).await
}

async fn order<T>(
    sources: &Sources,
    peer: SocketAddr,
    headers: &HeaderMap,
    query: Asked<T>,
    order: impl FnOnce(T) -> Order,
) -> Response {
    let answer = match (orders::refusal((sources.token)().as_ref(), peer.ip(), headers), query) {
        (Some(refusal), _) => refusal,
        (None, Err(error)) => Answer::new(
            StatusCode::BAD_REQUEST,
            "not_understood",
            format!("{}; there is:\n{ORDERS}", error.body_text()),
        ),
        (None, Ok(Query(what))) => {
            let order = order(what);
            tracing::info!(%peer, ?order, "an operator's order");
            (sources.obey)(order).await
        }
    };
    let Answer { status, told } = answer;
    tracing::info!(%peer, status = status.as_u16(), outcome = told.outcome, "{}", told.message);
    (status, Json(told)).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::table;
    use super::*;
    use crate::shutdown::Shutdown;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    struct Door {
        address: SocketAddr,
        table: watch::Sender<Arc<RoutingTable>>,
        shutdown: Shutdown,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn open() -> Door {
        let (shutdown, watch) = Shutdown::new();
        let (sender, receiver) = watch::channel(Arc::new(table(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sources = Sources {
            metrics: Arc::new(Metrics::new().unwrap()),
            tables: vec![receiver],
            sessions: Arc::new(SessionCounts::default),
            shutdown: watch,
            started: Instant::now(),
            obey: Arc::new(|order| {
                Box::pin(async move { Answer::new(StatusCode::ACCEPTED, "heard", format!("{order:?}")) })
            }),
            token: Arc::new(|| None),
        };
        let task = tokio::spawn(serve(listener, Arc::new(sources)));
        Door { address, table: sender, shutdown, task }
    }

    impl Door {
        async fn get(&self, path: &str) -> (u16, String) {
            self.ask("GET", path, "").await
        }

        /// The status and the whole answer.
        async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
            (status, answer)
        }
    }

    #[tokio::test]
    async fn ready_from_the_first_table_until_the_drain() {
        let door = open().await;
        let (status, answer) = door.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(answer.ends_with("nothing is known yet about the cluster orders\n"), "{answer}");

        door.table.send_replace(Arc::new(table(1)));
        assert_eq!(door.get("/readyz").await.0, 200);

        door.shutdown.begin();
        let (status, answer) = door.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(answer.ends_with("pgmoor is draining\n"), "{answer}");
        // Alive all the same: Kubernetes must not kill what is draining.
        assert_eq!(door.get("/livez").await.0, 200);

        door.shutdown.finish(Duration::ZERO).await;
        door.task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn every_path_it_lists_answers() {
        let door = open().await;
        door.table.send_replace(Arc::new(table(1)));
        let (status, answer) = door.get("/nowhere").await;
        assert_eq!(status, 404);
        for line in PATHS.lines() {
            let path = line.split(' ').next().unwrap();
            assert!(answer.contains(line), "{answer}");
            assert_eq!(door.get(path).await.0, 200, "{path}");
        }
        assert!(door.get("/metrics").await.1.contains("\npgmoor_build_info{version="));
        assert!(door.get("/").await.1.contains("<h2>orders</h2>"));
        let json = door.get("/status.json").await.1;
        let report: Report = serde_json::from_str(json.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(report.clusters[0].pods.len(), 2);
        door.shutdown.finish(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn orders_are_posted_and_answered_in_json() {
        let door = open().await;
        let (status, answer) = door.ask("POST", "/drain?pod=pg-0&wait=3s", "").await;
        assert_eq!(status, 202, "{answer}");
        assert!(
            answer.contains("\"outcome\":\"heard\"") && answer.contains("pod: pg-0, cluster: None, wait: Some(3s)"),
            "{answer}"
        );
        assert_eq!(door.ask("POST", "/switchover", "").await.0, 202);
        for (method, path, headers, wanted) in [
            ("GET", "/drain?pod=pg-0", "", 405),
            ("POST", "/drain", "", 400),
            ("POST", "/switchover?too=pg-1", "", 400),
            ("POST", "/drain?pod=pg-0", "Origin: http://evil.example\r\n", 403),
        ] {
            let (status, answer) = door.ask(method, path, headers).await;
            assert_eq!(status, wanted, "{method} {path}: {answer}");
        }
        door.shutdown.finish(Duration::ZERO).await;
    }
}
