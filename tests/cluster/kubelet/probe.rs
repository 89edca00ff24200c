//! Probes: one look at a container (httpGet, tcpSocket, exec), and the loop that turns looks into an opinion.
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::super::trouble::{Result, Trouble};
use super::container::Running;

/// What a probe looks at.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The container's part of the manifest.
    pub container: &'a Container,
    /// Its processes.
    pub running: &'a Running,
}

/// Looks again and again, and says each change of opinion; `first` is the opinion before any look.
pub async fn follow(probe: &Probe, subject: Subject<'_>, first: bool, mut say: impl FnMut(bool)) {
    let number =
        |value: Option<i32>, default: u32| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default).max(1);
    let (wins, losses) = (number(probe.success_threshold, 1), number(probe.failure_threshold, 3));
    let seconds = |value: Option<i32>, default| Duration::from_secs(number(value, default).into());
    if probe.initial_delay_seconds.unwrap_or(0) > 0 {
        sleep(seconds(probe.initial_delay_seconds, 1)).await;
    }
    let (mut opinion, mut streak) = (first, 0);
    loop {
        let well =
            timeout(seconds(probe.timeout_seconds, 1), look(probe, subject)).await.is_ok_and(|answer| answer.is_ok());
        streak = if well == opinion { 0 } else { streak + 1 };
        if streak >= if well { wins } else { losses } {
            (opinion, streak) = (well, 0);
            say(opinion);
        }
        // A container that is not ready yet is looked at more often, so that no test waits for a whole period in vain.
        let period = seconds(probe.period_seconds, 10);
        sleep(if opinion { period } else { period.min(Duration::from_millis(250)) }).await;
    }
}

async fn look(probe: &Probe, subject: Subject<'_>) -> Result<()> {
    if let Some(get) = &probe.http_get {
        return http(get, subject).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().unwrap_or_else(|| subject.ip.to_string());
        return TcpStream::connect((host, port(&tcp.port, subject.container)?)).await.map(drop).map_err(Trouble::from);
    }
    if let Some(exec) = &probe.exec {
        let limit = Duration::from_secs(probe.timeout_seconds.and_then(|value| u64::try_from(value).ok()).unwrap_or(1));
        return subject.running.exec(exec.command.as_deref().unwrap_or_default(), limit).await.map(drop);
    }
    Err(Trouble::new("this kind of probe is not known to this kubelet"))
}

/// 200 to 399 is well, as for the kubelet.
async fn http(get: &HTTPGetAction, subject: Subject<'_>) -> Result<()> {
    let host = get.host.clone().unwrap_or_else(|| subject.ip.to_string());
    let port = port(&get.port, subject.container)?;
    let mut stream = TcpStream::connect((host.as_str(), port)).await?;
    let path = get.path.as_deref().unwrap_or("/");
    let extra: String =
        get.http_headers.iter().flatten().map(|header| format!("{}: {}\r\n", header.name, header.value)).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{extra}\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Read to its end, or the server would see us reset the connection.
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await?;
    match answer.get(..10) {
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2' | b'3']) => Ok(()),
        Some(_) | None => {
            Err(Trouble::new(String::from_utf8_lossy(&answer).lines().next().unwrap_or("no answer").to_owned()))
        }
    }
}

fn port(wanted: &IntOrString, container: &Container) -> Result<u16> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| Trouble::new(format!("no port {wanted:?}")))
}
