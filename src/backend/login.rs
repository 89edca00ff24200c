//! The conversation that turns a TCP connection into a logged-in backend, and the short one that cancels.
//!
//! ```text
//! connect ─ SSLRequest ─ TLS ─┬─ StartupMessage ─ R* (prove ourselves) ─ R Ok ─ S* K ─ Z: logged in
//!                             └─ CancelRequest ─ EOF: taken
//! ```
//! Nothing read here is trusted: every message is bounded, and what does not belong ends the login.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::frames::{Talk, keep_parameter};
use super::proof::Proof;
use super::{Backend, ConnectError, Login, ServerError, Target};
use crate::net::Stream;
use crate::net::tls::{BackendTls, TlsError, TlsMode};
use crate::wire::message::write::frontend as write;
use crate::wire::message::{Authentication, BackendKeyData, NegotiateProtocolVersion, ReadyForQuery};
use crate::wire::{CancelKey, MAX_AUTH_FRAME, ProtocolVersion, TxStatus, backend as tag};

/// Most bytes a server may send before it is ready, all messages together.
const MAX_LOGIN_BYTES: usize = 1024 * 1024;

/// Connects, agrees on TLS, logs in and reads up to the first `ReadyForQuery`. Cancel safe: dropped, it closes the socket.
///
/// A password is sent in the clear if PostgreSQL asks for it (`password` in `pg_hba.conf`), as libpq does: only TLS with
/// `verify-full` keeps it from a server that is not the one meant.
///
/// # Errors
/// See `ConnectError`.
pub async fn connect(target: &Target, login: &Login<'_>, deadline: Instant) -> Result<Backend, ConnectError> {
    // Boxed: the future is large, and callers keep it beside a session.
    Box::pin(timeout_at(deadline, log_in(target, login, deadline))).await.map_err(|_| ConnectError::TimedOut)?
}

async fn log_in(target: &Target, login: &Login<'_>, deadline: Instant) -> Result<Backend, ConnectError> {
    let stream = secure(target.dial.open(target.address, deadline).await?, target.address, &target.tls).await?;
    let mut talk = Talk::new(stream, MAX_LOGIN_BYTES);
    let names = [("user", login.user), ("database", login.database)];
    let pairs = login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The last of two equal names counts for PostgreSQL: who logs in where is not for the parameters to say.
    let others = pairs.filter(|(name, _)| !matches!(*name, "user" | "database"));
    write::startup(&mut talk.out, ProtocolVersion::V3_0, names.into_iter().chain(others));
    talk.send().await?;
    authenticate(&mut talk, login).await?;
    let (key, parameters) = until_ready(&mut talk).await?;
    Ok(Backend {
        stream: talk.stream,
        pod: target.pod.clone(),
        address: target.address,
        key,
        parameters,
        received: talk.received,
    })
}

/// Asks for TLS if the mode wants it, and makes the handshake (protocol "SSL Session Encryption").
async fn secure(mut stream: Stream, address: SocketAddr, tls: &BackendTls) -> Result<Stream, ConnectError> {
    match tls.mode() {
        TlsMode::Disable => return Ok(stream),
        TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {}
    }
    let mut request = BytesMut::new();
    write::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // One byte exactly: what a man in the middle might send behind it must reach the TLS layer, not us.
    match (stream.read_u8().await?, tls.mode()) {
        (b'S', _) => match stream {
            Stream::Plain(socket) => Ok(tls.connect(socket.into_tcp(), address).await?),
            Stream::TlsServer(_) | Stream::TlsClient(_) | Stream::Memory(_) => {
                Err(ConnectError::Tls("the server wants TLS where there is no socket for it".into()))
            }
        },
        (b'N', TlsMode::Prefer) => Ok(stream),
        (b'N', _) => Err(ConnectError::Tls("the server does not speak TLS".into())),
        (other, _) => {
            let other = char::from(other);
            Err(ConnectError::Protocol(format!("the server answered the TLS request with {other:?}")))
        }
    }
}

/// From the startup packet to `AuthenticationOk`.
async fn authenticate(talk: &mut Talk, login: &Login<'_>) -> Result<(), ConnectError> {
    let mut proof = Proof::Nothing;
    loop {
        let frame = talk.frame(MAX_AUTH_FRAME).await?;
        match frame.tag {
            tag::AUTHENTICATION => {
                let asked = Authentication::read(&frame.body)?;
                if asked == Authentication::Ok {
                    return Ok(proof.accepted()?);
                }
                proof = proof.answer(asked, login, &mut talk.out).await?;
                if !talk.out.is_empty() {
                    talk.send().await?;
                }
            }
            tag::ERROR_RESPONSE => return Err(refusal(ServerError::read(frame.body)?)),
            tag::NOTICE_RESPONSE => {}
            // Only says that protocol options are not known to the server; 3.0 is spoken by all.
            tag::NEGOTIATE_PROTOCOL_VERSION => drop(NegotiateProtocolVersion::read(&frame.body)?),
            other => return Err(unexpected(other, "authentication")),
        }
    }
}

/// From `AuthenticationOk` to `ReadyForQuery`.
async fn until_ready(talk: &mut Talk) -> Result<(Option<CancelKey>, BTreeMap<String, String>), ConnectError> {
    let mut key = None;
    let mut parameters = BTreeMap::new();
    loop {
        let frame = talk.frame(MAX_AUTH_FRAME).await?;
        match frame.tag {
            tag::PARAMETER_STATUS => keep_parameter(&mut parameters, &frame.body)?,
            tag::BACKEND_KEY_DATA => key = Some(BackendKeyData::read(&frame.body)?.to_key()),
            tag::READY_FOR_QUERY => match ReadyForQuery::read(&frame.body)?.status {
                TxStatus::Idle => return Ok((key, parameters)),
                TxStatus::InTransaction | TxStatus::Failed => {
                    return Err(ConnectError::Protocol("a new session is inside a transaction".into()));
                }
            },
            tag::ERROR_RESPONSE => return Err(refusal(ServerError::read(frame.body)?)),
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => {}
            tag::NEGOTIATE_PROTOCOL_VERSION => drop(NegotiateProtocolVersion::read(&frame.body)?),
            other => return Err(unexpected(other, "login")),
        }
    }
}

/// Sends a `CancelRequest` on a connection of its own and waits until the server has taken it (it closes).
///
/// # Errors
/// The server cannot be reached, or did not close by the deadline.
pub async fn cancel(target: &Target, key: &CancelKey, deadline: Instant) -> io::Result<()> {
    let sent = async {
        let stream = target.dial.open(target.address, deadline).await?;
        let mut stream = secure(stream, target.address, &target.tls).await.map_err(|error| match error {
            ConnectError::Unreachable(error) => error,
            ConnectError::TimedOut
            | ConnectError::Refused(_)
            | ConnectError::NotAccepting(_)
            | ConnectError::Tls(_)
            | ConnectError::Auth(_)
            | ConnectError::Protocol(_) => io::Error::other(error),
        })?;
        let mut request = BytesMut::new();
        write::cancel_request(&mut request, key);
        stream.write_all(&request).await?;
        stream.flush().await?;
        let mut answer = [0; 64];
        match stream.read(&mut answer).await {
            // A server that closes without reading to the end resets, one without a TLS goodbye breaks off: both took it.
            Ok(0) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
                Ok(())
            }
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the server answered a cancel request")),
            Err(error) => Err(error),
        }
    };
    timeout_at(deadline, sent).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn unexpected(tag: u8, during: &str) -> ConnectError {
    let tag = char::from(tag);
    ConnectError::Protocol(format!("message {tag:?} does not belong to {during}"))
}

/// Sorts PostgreSQL's "no": is it about the login, or about now?
fn refusal(error: ServerError) -> ConnectError {
    match error.code.as_str() {
        // admin_shutdown, crash_shutdown, cannot_connect_now; class 53: insufficient resources.
        "57P01" | "57P02" | "57P03" => ConnectError::NotAccepting(error),
        code if code.starts_with("53") => ConnectError::NotAccepting(error),
        _ => ConnectError::Refused(error),
    }
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Lost(error) => Self::Unreachable(error),
            TlsError::Peer(_) | TlsError::Setup(_) => Self::Tls(error.to_string()),
        }
    }
}
