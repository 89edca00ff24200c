//! A server that says what a test tells it to: one connection, one script.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use pgmoor::auth::Credentials;
use pgmoor::backend::{self, Backend, ConnectError, Login, Target};
use pgmoor::ids::PodId;
use pgmoor::net::tls::{BackendTls, TlsAcceptor, TlsError};
use pgmoor::net::{Dial, Stream};
use pgmoor::wire::message::write::backend as write;
use pgmoor::wire::{CancelKey, TxStatus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A deadline no test should reach.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A deadline a test waits for.
pub(crate) fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(200)
}

/// A running script. Dropping it stops it.
pub(crate) struct Fake<T> {
    pub(crate) address: SocketAddr,
    script: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Fake<T> {
    /// Runs `script` on the first connection.
    pub(crate) async fn serve<F, Fut>(script: F) -> Self
    where
        F: FnOnce(Talk) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            script(Talk { socket: Stream::from(socket) }).await
        });
        Self { address, script: Some(script) }
    }

    /// Waits for the end of the script, and gives its result.
    pub(crate) async fn end(mut self) -> T {
        tokio::time::timeout_at(soon(), self.script.take().unwrap()).await.unwrap().unwrap()
    }

    pub(crate) fn target(&self) -> Target {
        Target { pod: PodId::new("pg-0", "a"), address: self.address, tls: self.tls(), dial: Dial::Tcp }
    }

    #[expect(clippy::unused_self, reason = "reads as the fake's")]
    pub(crate) fn tls(&self) -> BackendTls {
        BackendTls::disabled()
    }
}

impl<T> Drop for Fake<T> {
    fn drop(&mut self) {
        if let Some(script) = &self.script {
            script.abort();
        }
    }
}

/// Logs in to the fake as alice.
pub(crate) async fn connect<T: Send + 'static>(
    fake: &Fake<T>,
    credentials: &Credentials,
    parameters: &[(&str, &str)],
) -> Result<Backend, ConnectError> {
    log_in(&fake.target(), credentials, parameters, soon()).await
}

pub(crate) async fn log_in(
    target: &Target,
    credentials: &Credentials,
    parameters: &[(&str, &str)],
    deadline: Instant,
) -> Result<Backend, ConnectError> {
    let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    let parameters: Vec<_> = parameters.iter().map(own).collect();
    let login = Login { user: "alice", database: "orders", parameters: &parameters, credentials };
    backend::connect(target, &login, deadline).await
}

/// The server's end of the connection.
pub(crate) struct Talk {
    pub(crate) socket: Stream,
}

impl Talk {
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// A packet without a tag: what follows its length.
    pub(crate) async fn startup(&mut self) -> Vec<u8> {
        let length = self.socket.read_u32().await.unwrap();
        self.exactly(length as usize - 4).await
    }

    pub(crate) async fn frame(&mut self) -> (u8, Vec<u8>) {
        let tag = self.socket.read_u8().await.unwrap();
        (tag, self.startup().await)
    }

    /// Takes an `SSLRequest`, says `S` and makes the handshake.
    pub(crate) async fn secure(mut self, acceptor: &TlsAcceptor) -> Result<Self, TlsError> {
        assert_eq!(self.startup().await, [4, 210, 22, 47]);
        self.bytes(b"S").await;
        let Stream::Plain(socket) = self.socket else { panic!("TLS inside TLS") };
        Ok(Self { socket: acceptor.accept(socket.into_tcp()).await? })
    }

    /// Everything up to the client's end.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.socket.read_to_end(&mut bytes).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            Ok(_) | Err(_) => bytes,
        }
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    pub(crate) async fn send(&mut self, message: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        message(&mut out);
        self.bytes(&out).await;
    }

    pub(crate) async fn raw(&mut self, tag: u8, body: &[u8]) {
        self.send(|out| raw(out, tag, body)).await;
    }

    /// Lets the client in.
    pub(crate) async fn ready(&mut self) {
        self.send(welcome).await;
    }

    /// Says nothing until the client goes.
    pub(crate) async fn silence(self) {
        self.rest().await;
    }
}

pub(crate) fn raw(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(body);
}

/// From `AuthenticationOk` to `ReadyForQuery`, with a notice and a refused protocol option in between.
pub(crate) fn welcome(out: &mut BytesMut) {
    write::authentication_ok(out);
    write::parameter_status(out, "server_version", "15.0");
    raw(out, b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
    raw(out, b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0");
    write::parameter_status(out, "TimeZone", "UTC");
    write::backend_key_data(out, &CancelKey { process_id: 42, secret: vec![1, 2, 3, 4] });
    write::ready_for_query(out, TxStatus::Idle);
}
