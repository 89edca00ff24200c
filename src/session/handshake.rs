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

use bytes::{Buf, BytesMut};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::auth::{AuthError, Credentials, SCRAM_SHA_256, ServerFirst};
use crate::backend::Identity;
use crate::config::{AuthMethod, Endpoint};
use crate::error::{Code, Complaint};
use crate::net::Stream;
use crate::topology::routing::Need;
use crate::wire::message::write::{ROOM, backend as write};
use crate::wire::message::{SaslInitialResponse, SaslResponse};
use crate::wire::scan::{Interest, Scanner, Step};
use crate::wire::startup::{self, Packet, Replication, Startup};
use crate::wire::{CancelKey, HEADER_LEN, MAX_AUTH_FRAME, MAX_STARTUP_PACKET, frontend};

use super::identities::Identities;
use super::packets::Asked;
use super::{Realm, Shared, answer};

/// SSLRequest and GSSENCRequest together, before a startup packet has to come: libpq sends at most one of each.
const REQUESTS: usize = 4;

/// What a connection turned out to be.
pub(super) enum Arrival {
    /// A request to cancel what this key's session runs. Its connection is to stay open until the request is delivered:
    /// the client takes its end for the sign that no later statement can be hit.
    Cancel(CancelKey),
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

/// What a packet without a tag asks for.
enum Request {
    Tls,
    Gss,
    Cancel(CancelKey),
    Session(Arc<Asked>),
}

/// Whoever stands at the door.
pub(super) struct Guest {
    /// `None`: TLS is being agreed on, or it has a session, or is gone.
    stream: Option<Stream>,
    /// What was read and not used.
    unread: BytesMut,
}

impl Guest {
    /// On a connection that was accepted.
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), unread: BytesMut::new() }
    }

    /// Leads it to its session. It has as long as it wants: that is the caller's to bound.
    ///
    /// # Errors
    /// Why there is no session: to be said with [`Self::turn_away`].
    pub(super) async fn shake(&mut self, shared: &Shared, endpoint: Endpoint) -> Result<Arrival, Complaint> {
        for _ in 0..REQUESTS {
            let stays = match self.request(&shared.identities).await? {
                None => false,
                Some(Request::Tls) => self.secure(shared).await?,
                Some(Request::Gss) => self.send(b"N").await,
                Some(Request::Cancel(key)) => return Ok(Arrival::Cancel(key)),
                Some(Request::Session(asked)) => return self.admit(shared, &asked, endpoint).await,
            };
            if !stays {
                return Ok(Arrival::Gone);
            }
        }
        Err(Complaint::with(Code::ProtocolViolation, "too many SSL and GSS requests before a startup packet"))
    }

    /// One packet without a tag; `None` when the client goes.
    async fn request(&mut self, identities: &Identities) -> Result<Option<Request>, Complaint> {
        loop {
            if let Some(asked) = identities.recall(&self.unread) {
                self.unread.advance(asked.len());
                return Ok(Some(Request::Session(asked)));
            }
            match startup::parse(&self.unread) {
                Ok(Some((packet, count))) => {
                    let request = match packet {
                        Packet::Ssl => Request::Tls,
                        Packet::GssEnc => Request::Gss,
                        Packet::Cancel(key) => Request::Cancel(key),
                        Packet::Startup(startup) => Request::Session(Asked::new(&self.unread[..count], startup)),
                    };
                    self.unread.advance(count);
                    return Ok(Some(request));
                }
                Ok(None) => {}
                Err(error) => return Err(violation(error)),
            }
            if self.unread.len() > MAX_STARTUP_PACKET || !self.more().await {
                return Ok(None);
            }
        }
    }

    /// Reads what is there. `false`: the connection ended.
    async fn more(&mut self) -> bool {
        self.unread.reserve(1024);
        let Some(stream) = &mut self.stream else { return false };
        matches!(stream.read_buf(&mut self.unread).await, Ok(count) if count > 0)
    }

    /// `false`: the connection ended.
    async fn send(&mut self, message: &[u8]) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        stream.write_all(message).await.is_ok() && stream.flush().await.is_ok()
    }

    /// Answers an SSLRequest. `false`: the connection ended.
    async fn secure(&mut self, shared: &Shared) -> Result<bool, Complaint> {
        let Some(acceptor) = &shared.acceptor else { return Ok(self.send(b"N").await) };
        if !self.unread.is_empty() {
            // Bytes sent in the clear before the handshake would count as the client's own (CVE-2021-23214).
            return Err(violation("unencrypted data came after the SSLRequest"));
        }
        match self.stream.take() {
            None => Ok(false),
            Some(Stream::Plain(mut socket)) => {
                if socket.write_all(b"S").await.is_err() {
                    return Ok(false);
                }
                match acceptor.accept(socket.into_tcp()).await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => tracing::info!(%error, "TLS handshake with a client failed"),
                }
                Ok(self.stream.is_some())
            }
            Some(memory @ Stream::Memory(_)) => {
                self.stream = Some(memory);
                Ok(self.send(b"N").await)
            }
            Some(stream @ (Stream::TlsServer(_) | Stream::TlsClient(_))) => {
                self.stream = Some(stream);
                Err(violation("an SSLRequest inside TLS"))
            }
        }
    }

    /// Checks a startup packet and authenticates its user.
    async fn admit(&mut self, shared: &Shared, asked: &Arc<Asked>, endpoint: Endpoint) -> Result<Arrival, Complaint> {
        let startup = &asked.startup;
        let encrypted = self.stream.as_ref().is_some_and(Stream::is_tls);
        let (realm, need) = check(shared, startup, endpoint, encrypted)?;
        let (minor, negotiation) = startup::negotiate(startup.minor, &startup.extensions);
        let mut welcome = BytesMut::with_capacity(ROOM);
        if let Some(negotiation) = negotiation {
            write::negotiate_protocol_version(&mut welcome, &negotiation);
        }
        let Some(credentials) = self.authenticate(shared, &startup.user, &mut welcome).await? else {
            return Ok(Arrival::Gone);
        };
        let identity = shared.identities.of(asked, credentials);
        let Some(stream) = self.stream.take() else { return Ok(Arrival::Gone) };
        let (leftover, long_key) = (std::mem::take(&mut self.unread), minor >= 2);
        Ok(Arrival::Client(Client { stream, welcome, leftover, realm, identity, need, long_key }))
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
            AuthMethod::Scram => match Box::pin(self.scram(shared, user, message)).await? {
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
        message.clear();
        let secret = shared.people.secret(user).await;
        let mut nonce = [0; 18];
        rand::rng().fill(&mut nonce);
        let Some(body) = self.answer().await? else { return Ok(None) };
        let initial = SaslInitialResponse::read(&body).map_err(violation)?;
        if initial.mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(violation("the client chose a SASL mechanism that was not offered"));
        }
        let (server_first, exchange) =
            ServerFirst::new(secret, nonce).handle(initial.data.unwrap_or_default()).map_err(refused)?;
        write::authentication_sasl_continue(message, server_first.as_bytes());
        if !self.send(message).await {
            return Ok(None);
        }
        message.clear();
        let Some(body) = self.answer().await? else { return Ok(None) };
        let (server_final, keys) = exchange.handle(SaslResponse::read(&body).data).map_err(refused)?;
        write::authentication_sasl_final(message, server_final.as_bytes());
        Ok(Some(shared.people.credentials(user).unwrap_or(Credentials::ScramKeys(keys))))
    }

    /// The client's next answer ('p'): its body. `None` when it goes.
    async fn answer(&mut self) -> Result<Option<BytesMut>, Complaint> {
        let mut scanner = Scanner::new(&const { Interest::NONE.with(&[frontend::PASSWORD]) }, MAX_AUTH_FRAME);
        loop {
            match scanner.step(&self.unread, false).map_err(violation)? {
                Step::Frame { body, .. } => {
                    let length = body.len();
                    let mut frame = self.unread.split_to(HEADER_LEN + length);
                    return Ok(Some(frame.split_off(HEADER_LEN)));
                }
                Step::Pass(_) | Step::Head { .. } | Step::Part { .. } => {
                    return Err(violation("expected an answer to the authentication request"));
                }
                Step::Wait => {}
            }
            if !self.more().await {
                return Ok(None);
            }
        }
    }

    /// Says why there is no session, as the last word on this connection.
    pub(super) async fn turn_away(self, complaint: Complaint) {
        let Some(mut stream) = self.stream else { return };
        let mut message = BytesMut::new();
        answer::complain(&mut message, &complaint.fatal());
        // The client may be gone already; nobody else is told.
        let _ = stream.write_all(&message).await;
        let _ = stream.flush().await;
        let _ = stream.shutdown().await;
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
        | AuthError::OtherSecret => violation(error),
    }
}

fn violation(what: impl ToString) -> Complaint {
    Complaint::with(Code::ProtocolViolation, what.to_string())
}
