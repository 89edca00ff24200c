//! What pgmoor itself says about where writes go, asked at its admin address and told when it changes.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::cluster::trouble::{Result, Trouble, eventually};
use crate::screen::{Screen, Tone};

const INTERVAL: Duration = Duration::from_millis(50);

/// Tells of changes as long as it lives.
pub(crate) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// Waits until pgmoor knows a primary, then tells of every change.
    pub(crate) async fn begin(screen: &Arc<Screen>, admin: SocketAddr) -> Result<Self> {
        let proven = || async { matches!(ask(admin).await, Ok(Writes::To { .. })).then_some(()) };
        eventually("pgmoor to prove a primary", Duration::from_secs(20), proven).await?;
        Ok(Self(tokio::spawn(tell(Arc::clone(screen), admin))))
    }
}

/// Where writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Writes {
    To { pod: String, timeline: u64 },
    Wait,
}

async fn tell(screen: Arc<Screen>, admin: SocketAddr) {
    let mut known = None;
    loop {
        // One answer that fails to come changes nothing: the next one tells.
        if let Ok(writes) = ask(admin).await
            && known.as_ref() != Some(&writes)
        {
            let text = match &writes {
                Writes::To { pod, timeline } => format!("pgmoor: {pod} is the proven primary, on timeline {timeline}"),
                Writes::Wait => "pgmoor: no proven primary; sessions wait".to_owned(),
            };
            screen.event(Tone::Pgmoor, &text);
            known = Some(writes);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn ask(admin: SocketAddr) -> Result<Writes> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /status.json HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Trouble::new("no body"))?;
    let report: Value = serde_json::from_str(body)?;
    let cluster = report.pointer("/clusters/0").ok_or_else(|| Trouble::new("no cluster in the status"))?;
    let timeline = cluster.pointer("/timeline").and_then(Value::as_u64).unwrap_or(0);
    let pod = cluster.pointer("/writes/to/pod").and_then(Value::as_str);
    Ok(pod.map_or(Writes::Wait, |pod| Writes::To { pod: pod.to_owned(), timeline }))
}
