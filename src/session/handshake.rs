//! From an accepted socket to a client that is who it says: TLS, the startup packet, authentication.
//!
//! ```text
//!   accepted ──► packet ──┬─ SSLRequest ──► S, TLS  ─┐
//!                 ▲       ├─ GSSENCRequest ► N      ─┤
//!                 └───────┼──────────────────────────┘
//!                         ├─ CancelRequest ► forwarded, then the connection ends
//!                         └─ StartupMessage ► checked ► authenticated ► a session
//! ```
//! Bounded in bytes (10 000 for a packet without a tag, 65 535 for an answer) and, by its caller, in time.

use std::sync::Arc;

use bytes::BytesMut;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::auth::{AuthError, Credentials, SCRAM_SHA_256, ServerFirst};
use crate::backend::Identity;
use crate::config::{AuthMethod, Endpoint};
use crate::error::{Code, Complaint};
use crate::net::Stream;
use crate::topology::routing::Need;
use crate::wire::message::write::backend as write;
use crate::wire::message::{SaslInitialResponse, SaslResponse};
use crate::wire::scan::{Interest, Scanner, Step};
use crate::wire::startup::{self, Packet, Replication, Startup};
use crate::wire::{CancelKey, HEADER_LEN, MAX_AUTH_FRAME, MAX_STARTUP_PACKET, frontend};

use super::{Realm, Shared, answer};

/// SSLRequest and GSSENCRequest together, before a startup packet has to come: libpq sends at most one of each.
const REQUESTS: usize = 4;

/// What a connection turned out to be.
pub(super) enum Arrival {
    /// A request to cancel what this key's session runs. Its connection is to stay open until the request is delivered:
    /// the client takes its end for the sign that no later statement can be hit.
    Cancel(CancelKey, Stream),
    /// A client, authenticated.
    Client(Client),
    /// Nothing: it went away.
    Gone,
}

/// A client that may have a session.
pub(super) struct Client {
    pub(super) stream: Stream,
    /// The end of its authentication, to be said first: one write with what a server says of itself.
    pub(super) welcome: BytesMut,
    /// What it sent beyond its login.
    pub(super) leftover: BytesMut,
    pub(super) realm: Arc<Realm>,
    pub(super) identity: Arc<Identity>,
    pub(super) need: Need,
    /// It speaks protocol 3.2: cancel keys may be long.
    pub(super) long_key: bool,
}

/// Why there is no session: to be said to the client, if it is still there.
pub(super) struct Refusal {
    pub(super) stream: Stream,
    pub(super) complaint: Complaint,
}

/// What was read of a connection and not used.
struct Reader {
    stream: Stream,
    unread: BytesMut,
    /// When the login has to be finished.
    deadline: Instant,
}

/// Leads one connection to its session. A client that keeps us waiting beyond `deadline` is told so; one that does not
/// read either is the caller's to drop.
pub(super) async fn shake(
    shared: &Shared,
    stream: Stream,
    endpoint: Endpoint,
    deadline: Instant,
) -> Result<Arrival, Refusal> {
    let mut reader = Reader { stream, unread: BytesMut::new(), deadline };
    for _ in 0..REQUESTS {
        match reader.packet().await {
            Ok(None) => return Ok(Arrival::Gone),
            Ok(Some(Packet::Ssl)) => match reader.secure(shared).await {
                Ok(Some(secure)) => reader = secure,
                Ok(None) => return Ok(Arrival::Gone),
                Err(refusal) => return Err(refusal),
            },
            Ok(Some(Packet::GssEnc)) => {
                if reader.stream.write_all(b"N").await.is_err() {
                    return Ok(Arrival::Gone);
                }
            }
            Ok(Some(Packet::Cancel(key))) => return Ok(Arrival::Cancel(key, reader.stream)),
            Ok(Some(Packet::Startup(startup))) => return reader.admit(shared, startup, endpoint).await,
            Err(complaint) => return Err(Refusal { stream: reader.stream, complaint }),
        }
    }
    let complaint = Complaint::with(Code::ProtocolViolation, "too many SSL and GSS requests before a startup packet");
    Err(Refusal { stream: reader.stream, complaint })
}

impl Reader {
    /// One packet without a tag; `None` when the client goes.
    async fn packet(&mut self) -> Result<Option<Packet>, Complaint> {
        loop {
            match startup::parse(&self.unread) {
                Ok(Some((packet, count))) => {
                    let _ = self.unread.split_to(count);
                    return Ok(Some(packet));
                }
                Ok(None) => {}
                Err(error) => return Err(Complaint::with(Code::ProtocolViolation, error.to_string())),
            }
            if self.unread.len() > MAX_STARTUP_PACKET || !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there. `false`: the connection ended.
    async fn more(&mut self) -> Result<bool, Complaint> {
        self.unread.reserve(1024);
        match timeout_at(self.deadline, self.stream.read_buf(&mut self.unread)).await {
            Ok(read) => Ok(matches!(read, Ok(count) if count > 0)),
            Err(_) => Err(Complaint::new(Code::StartupTimeout)),
        }
    }

    /// Answers an SSLRequest.
    async fn secure(mut self, shared: &Shared) -> Result<Option<Self>, Refusal> {
        let Some(acceptor) = &shared.acceptor else {
            return Ok(self.stream.write_all(b"N").await.is_ok().then_some(self));
        };
        if !self.unread.is_empty() {
            // Bytes sent in the clear before the handshake would count as the client's own (CVE-2021-23214).
            let complaint = Complaint::with(Code::ProtocolViolation, "unencrypted data came after the SSLRequest");
            return Err(Refusal { stream: self.stream, complaint });
        }
        match self.stream {
            Stream::Plain(mut socket) => {
                if socket.write_all(b"S").await.is_err() {
                    return Ok(None);
                }
                match acceptor.accept(socket.into_tcp()).await {
                    Ok(stream) => Ok(Some(Self { stream, unread: BytesMut::new(), deadline: self.deadline })),
                    Err(error) => {
                        tracing::info!(%error, "TLS handshake with a client failed");
                        Ok(None)
                    }
                }
            }
            Stream::Memory(mut memory) => {
                let sent = memory.write_all(b"N").await.is_ok();
                Ok(sent.then_some(Self {
                    stream: Stream::Memory(memory),
                    unread: self.unread,
                    deadline: self.deadline,
                }))
            }
            stream @ (Stream::TlsServer(_) | Stream::TlsClient(_)) => {
                let complaint = Complaint::with(Code::ProtocolViolation, "an SSLRequest inside TLS");
                Err(Refusal { stream, complaint })
            }
        }
    }

    /// Checks a startup packet and authenticates its user.
    async fn admit(mut self, shared: &Shared, startup: Startup, endpoint: Endpoint) -> Result<Arrival, Refusal> {
        let (realm, need) = match check(shared, &startup, endpoint, self.stream.is_tls()) {
            Ok(admitted) => admitted,
            Err(complaint) => return Err(Refusal { stream: self.stream, complaint }),
        };
        let (minor, negotiation) = startup::negotiate(startup.minor, &startup.extensions);
        let mut message = BytesMut::new();
        if let Some(negotiation) = negotiation {
            write::negotiate_protocol_version(&mut message, &negotiation);
        }
        let credentials = match self.authenticate(shared, &startup.user, &mut message).await {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return Ok(Arrival::Gone),
            Err(complaint) => return Err(Refusal { stream: self.stream, complaint }),
        };
        let identity = shared.identities.of(startup, credentials);
        let long_key = minor >= 2;
        Ok(Arrival::Client(Client {
            stream: self.stream,
            welcome: message,
            leftover: self.unread,
            realm,
            identity,
            need,
            long_key,
        }))
    }

    /// Has the user proven, and leaves AuthenticationOk in `message`, to be said. `None` when the client goes.
    async fn authenticate(
        &mut self,
        shared: &Shared,
        user: &str,
        message: &mut BytesMut,
    ) -> Result<Option<Credentials>, Complaint> {
        let credentials = match shared.people.method() {
            AuthMethod::Trust => shared.people.credentials(user).unwrap_or_default(),
            AuthMethod::Scram => match self.scram(shared, user, message).await? {
                Some(credentials) => credentials,
                None => return Ok(None),
            },
        };
        write::authentication_ok(message);
        Ok(Some(credentials))
    }

    /// SASL with SCRAM-SHA-256 (protocol-flow, "SASL Authentication").
    async fn scram(
        &mut self,
        shared: &Shared,
        user: &str,
        message: &mut BytesMut,
    ) -> Result<Option<Credentials>, Complaint> {
        write::authentication_sasl(message, &[SCRAM_SHA_256]);
        if !self.send(message).await {
            return Ok(None);
        }
        let secret = shared.people.secret(user).await;
        let mut nonce = [0; 18];
        rand::rng().fill(&mut nonce);
        let Some(body) = self.answer().await? else { return Ok(None) };
        let initial = SaslInitialResponse::read(&body)
            .map_err(|error| Complaint::with(Code::ProtocolViolation, error.to_string()))?;
        if initial.mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(Complaint::with(
                Code::ProtocolViolation,
                "the client chose a SASL mechanism that was not offered",
            ));
        }
        let (server_first, exchange) =
            ServerFirst::new(secret, nonce).handle(initial.data.unwrap_or_default()).map_err(refused)?;
        write::authentication_sasl_continue(message, server_first.as_bytes());
        if !self.send(message).await {
            return Ok(None);
        }
        let Some(body) = self.answer().await? else { return Ok(None) };
        let (server_final, keys) = exchange.handle(SaslResponse::read(&body).data).map_err(refused)?;
        write::authentication_sasl_final(message, server_final.as_bytes());
        Ok(Some(shared.people.credentials(user).unwrap_or(Credentials::ScramKeys(keys))))
    }

    async fn send(&mut self, message: &mut BytesMut) -> bool {
        let sent = self.stream.write_all(message).await.is_ok() && self.stream.flush().await.is_ok();
        message.clear();
        sent
    }

    /// The client's next answer ('p'): its body. `None` when it goes.
    async fn answer(&mut self) -> Result<Option<BytesMut>, Complaint> {
        let mut scanner = Scanner::new(&const { Interest::NONE.with(&[frontend::PASSWORD]) }, MAX_AUTH_FRAME);
        loop {
            let violation = |what: String| Complaint::with(Code::ProtocolViolation, what);
            match scanner.step(&self.unread, false).map_err(|error| violation(error.to_string()))? {
                Step::Frame { body, .. } => {
                    let length = body.len();
                    let mut frame = self.unread.split_to(HEADER_LEN + length);
                    return Ok(Some(frame.split_off(HEADER_LEN)));
                }
                Step::Pass(_) | Step::Head { .. } | Step::Part { .. } => {
                    return Err(violation("expected an answer to the authentication request".to_owned()));
                }
                Step::Wait => {}
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }
}

/// Where this startup leads, and whether it may.
fn check(shared: &Shared, startup: &Startup, endpoint: Endpoint, tls: bool) -> Result<(Arc<Realm>, Need), Complaint> {
    if shared.requires_tls && !tls {
        return Err(Complaint::new(Code::TlsRequired));
    }
    if startup.replication != Replication::Off {
        return Err(Complaint::with(Code::Unsupported, "replication connections"));
    }
    let Some(realm) = shared.realm(&startup.database) else {
        return Err(Complaint::with(Code::UnknownCluster, format!("database \"{}\"", startup.database)));
    };
    if !realm.admits(&startup.user) {
        return Err(Complaint::with(
            Code::AuthFailed,
            format!("user \"{}\" is not let in to cluster \"{}\"", startup.user, realm.name),
        ));
    }
    let mut need = match endpoint {
        Endpoint::Rw => Need::Write,
        Endpoint::Ro => Need::Read { or_primary: shared.ro_falls_back },
    };
    for (name, value) in &startup.moor {
        match name.as_str() {
            "pod" => need = Need::Pod(value.as_str().into()),
            other => {
                return Err(Complaint::with(
                    Code::Unsupported,
                    format!("the startup setting pgmoor.{other}; there is pgmoor.pod"),
                ));
            }
        }
    }
    Ok((realm, need))
}

fn refused(error: AuthError) -> Complaint {
    match error {
        AuthError::WrongPassword => Complaint::new(Code::AuthFailed),
        AuthError::Malformed(_)
        | AuthError::Unsupported(_)
        | AuthError::Rejected(_)
        | AuthError::ServerNotProven
        | AuthError::NoAnswer { .. }
        | AuthError::OtherSecret => Complaint::with(Code::ProtocolViolation, error.to_string()),
    }
}

/// Says why there is no session, as the last word on this connection.
pub(super) async fn turn_away(mut refusal: Refusal) {
    let mut message = BytesMut::new();
    answer::complain(&mut message, &refusal.complaint.fatal());
    // The client may be gone already; nobody else is told.
    let _ = refusal.stream.write_all(&message).await;
    let _ = refusal.stream.flush().await;
    let _ = refusal.stream.shutdown().await;
}
