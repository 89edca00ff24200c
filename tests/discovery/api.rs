//! A stand-in for an API server that says exactly what a test wants, also what a real one never should: HTTP/1.1 on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What to say to one request.
pub(crate) enum Reply {
    /// A status and a whole JSON body.
    Json(u16, String),
    /// The lines of a watch, then its end.
    Lines(Vec<String>),
    /// The lines of a watch, then silence.
    Hold(Vec<String>),
    /// Nothing at all.
    Silence,
    /// The connection is cut.
    Cut,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    /// When.
    pub(crate) at: Instant,
}

impl Request {
    /// Whether it opens a watch (else it lists).
    pub(crate) fn is_watch(&self) -> bool {
        self.target.contains("watch=true")
    }

    /// A query parameter as it stands in the target.
    pub(crate) fn query(&self, key: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}

/// The running server. It stops when dropped.
pub(crate) struct Api {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    _serving: JoinSet<()>,
}

impl Api {
    /// Serves; `script` is asked what to say to each request.
    pub(crate) async fn start(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(Mutex::new(script));
        let seen = Arc::clone(&requests);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { address, requests, _serving: serving }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests until now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

type Script = Arc<Mutex<dyn FnMut(&Request) -> Reply + Send>>;

async fn serve(socket: TcpStream, script: Script, seen: Arc<Mutex<Vec<Request>>>) {
    let mut socket = BufReader::new(socket);
    while let Some(target) = read_head(&mut socket).await {
        let request = Request { target, at: Instant::now() };
        seen.lock().unwrap().push(request.clone());
        let reply = (script.lock().unwrap())(&request);
        let (text, hold) = match reply {
            Reply::Json(status, body) => {
                let length = body.len();
                (
                    format!(
                        "HTTP/1.1 {status} S\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                    ),
                    false,
                )
            }
            Reply::Lines(lines) => (format!("{}0\r\n\r\n", chunks(&lines)), false),
            Reply::Hold(lines) => (chunks(&lines), true),
            Reply::Silence => (String::new(), true),
            Reply::Cut => return,
        };
        if socket.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        if hold {
            // Until the client gives up.
            let _ = read_head(&mut socket).await;
            return;
        }
    }
}

fn chunks(lines: &[String]) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let body: String = lines.iter().map(|line| format!("{:x}\r\n{line}\n\r\n", line.len() + 1)).collect();
    format!("{head}{body}")
}

/// The request's target; the client only ever says GET.
async fn read_head(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let mut target = None;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => return target,
            line if target.is_none() => target = line.split(' ').nth(1).map(str::to_owned),
            _ => {}
        }
    }
}
