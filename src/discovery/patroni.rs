//! Patroni's REST interface: the one thing asked of it is a switchover, and its own words come back as they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::ids::PodName;
use crate::net;
use crate::net::tls::{BackendTls, TlsError, TlsMode};

/// Patroni's answers are a sentence.
const LONGEST: usize = 64 * 1024;

/// How the Patronis of one cluster are asked.
#[derive(Debug)]
pub struct Patroni {
    port: u16,
    /// The value of `Authorization`.
    login: Option<String>,
    tls: BackendTls,
}

/// What Patroni said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Its text, word for word.
    pub text: String,
}

impl Reply {
    /// It did, or began to do, what it was asked for.
    pub const fn agrees(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// Why Patroni said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It was not reached: it has heard nothing.
    NotAsked(String),
    /// The question was on its way: it may act on it all the same.
    NoAnswer(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked(why) => write!(f, "cannot be reached: {why}"),
            Self::NoAnswer(why) => write!(f, "was asked and has not answered: {why}"),
        }
    }
}

/// The body of `POST /switchover`.
#[derive(Serialize)]
struct Switchover<'a> {
    leader: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<&'a str>,
}

impl Patroni {
    /// Reads the CA, if there is one.
    ///
    /// # Errors
    /// The CA file is missing or holds no certificate.
    pub fn new(config: &config::Patroni) -> Result<Self, TlsError> {
        let tls = match &config.ca {
            Some(ca) => BackendTls::new(TlsMode::VerifyCa, Some(ca))?,
            None => BackendTls::disabled(),
        };
        let basic = |(user, password): &(String, config::Password)| {
            format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal())))
        };
        Ok(Self { port: config.port, login: config.login.as_ref().map(basic), tls })
    }

    /// Where the Patroni of a pod at this address listens.
    pub const fn address(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.port)
    }

    /// Asks the leader's own Patroni for a switchover, to `candidate` or to whom it likes best. It answers when it is done.
    ///
    /// # Errors
    /// It said nothing, or nothing that can be read.
    ///
    /// # Cancel safety
    /// May be dropped: Patroni goes on with what it was asked for.
    pub async fn switchover(
        &self,
        ip: IpAddr,
        leader: &PodName,
        candidate: Option<&PodName>,
        deadline: Instant,
    ) -> Result<Reply, Silence> {
        let address = self.address(ip);
        let not_asked = |error: &dyn fmt::Display| Silence::NotAsked(format!("{address}: {error}"));
        let no_answer = |error: &dyn fmt::Display| Silence::NoAnswer(format!("{address}: {error}"));
        let late = "the time is over";

        let request = self.request(address, leader, candidate).map_err(|error| not_asked(&error))?;
        let socket = net::connect(address, deadline).await.map_err(|error| not_asked(&error))?;
        let stream = timeout_at(deadline, self.tls.connect(socket, address)).await.map_err(|_| not_asked(&late))?;
        let stream = TokioIo::new(stream.map_err(|error| not_asked(&error))?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| not_asked(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| no_answer(&chain(&error)))?;
            read(response).await.map_err(|error| no_answer(&error))
        };
        let both = async {
            tokio::pin!(exchange);
            tokio::select! {
                reply = &mut exchange => return reply,
                // Its end comes with the answer's, or before it; the exchange knows which.
                _ = connection => {}
            }
            exchange.await
        };
        timeout_at(deadline, both).await.unwrap_or_else(|_| Err(no_answer(&late)))
    }

    fn request(
        &self,
        address: SocketAddr,
        leader: &PodName,
        candidate: Option<&PodName>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = Switchover { leader: leader.as_str(), candidate: candidate.map(PodName::as_str) };
        let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let mut request =
            Request::post("/switchover").header(HOST, address.to_string()).header(CONTENT_TYPE, "application/json");
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login);
        }
        request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())
    }
}

async fn read<B>(response: Response<B>) -> Result<Reply, String>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| format!("its answer {status} broke off: {error}"))?.to_bytes();
    Ok(Reply { status, text: String::from_utf8_lossy(&body).trim_end().to_owned() })
}

/// An error with its causes: hyper's own first words say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
