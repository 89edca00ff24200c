//! Connections: one stream type for plain and TLS sockets, how they are opened, and how a vanished peer is noticed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

pub mod outbox;
pub mod pipe;
mod socket;
pub mod tls;

pub use socket::Socket;

/// Connections the kernel may hold for us before we accept them.
const BACKLOG: u32 = 4096;
/// Silence after which the kernel begins to ask whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Pause between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Unanswered questions after which the connection is dead.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged by a backend's kernel: without it a lost node hangs for 15 minutes.
const BACKEND_UNACKED: Duration = Duration::from_secs(10);

/// A connection: TCP with or without TLS on it, or bytes from elsewhere.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(Socket),
    /// We are the TLS server: a client's connection.
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// We are the TLS client: a connection to PostgreSQL.
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// No socket at all: what simulations and tests put in its place. It never speaks TLS.
    Memory(Box<dyn Memory>),
}

/// Bytes that come from no socket.
pub trait Memory: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Memory for T {}

/// Opens a connection that is no socket.
pub type Dialer = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<Stream>> + Send + Sync>;

/// How connections to pods are opened.
#[derive(Clone, Default)]
pub enum Dial {
    /// Over TCP, prepared so that a vanished node is noticed: see [`connect`].
    #[default]
    Tcp,
    /// Without sockets: for simulations and tests.
    Memory(Dialer),
}

impl Dial {
    /// Opens one connection.
    ///
    /// # Errors
    /// What the network says, or `TimedOut` at the deadline.
    pub async fn open(&self, address: SocketAddr, deadline: Instant) -> io::Result<Stream> {
        match self {
            Self::Tcp => connect(address, deadline).await.map(Stream::from),
            Self::Memory(dialer) => {
                timeout_at(deadline, dialer(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
        }
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("Tcp"),
            Self::Memory(_) => f.write_str("Memory"),
        }
    }
}

impl Stream {
    /// The socket underneath, if there is one. Reading or writing it past a TLS layer breaks that layer.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket.tcp()),
            Self::TlsServer(tls) => Some(tls.get_ref().0),
            Self::TlsClient(tls) => Some(tls.get_ref().0),
            Self::Memory(_) => None,
        }
    }

    /// The other side's address, if the connection has such a thing and still stands.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket()?.peer_addr().ok()
    }

    /// Is TLS spoken on it?
    pub const fn is_tls(&self) -> bool {
        match self {
            Self::TlsServer(_) | Self::TlsClient(_) => true,
            Self::Plain(_) | Self::Memory(_) => false,
        }
    }

    /// The name the client asked for in its TLS hello (SNI).
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Plain(_) | Self::TlsClient(_) | Self::Memory(_) => None,
            Self::TlsServer(tls) => tls.get_ref().1.server_name(),
        }
    }

    /// The certificate the peer proved to own, if it showed one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = match self {
            Self::Plain(_) | Self::Memory(_) => None,
            Self::TlsServer(tls) => tls.get_ref().1.peer_certificates(),
            Self::TlsClient(tls) => tls.get_ref().1.peer_certificates(),
        };
        chain.and_then(|chain| chain.first())
    }
}

impl pipe::Source for Stream {
    /// What a TLS layer holds back is not known here.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(socket) => socket.poll_readable(cx),
            Self::TlsServer(_) | Self::TlsClient(_) | Self::Memory(_) => Poll::Ready(()),
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_take(cx, room),
            Self::TlsServer(_) | Self::TlsClient(_) | Self::Memory(_) => {
                let mut room = ReadBuf::new(room);
                Pin::new(self).poll_read(cx, &mut room).map_ok(|()| room.filled().len())
            }
        }
    }
}

impl pipe::Sink for Stream {
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => socket.poll_send(cx, bytes),
            Self::TlsServer(_) | Self::TlsClient(_) | Self::Memory(_) => Pin::new(self).poll_write(cx, bytes),
        }
    }

    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self {
            Self::Plain(socket) => socket.poll_settle(cx),
            // TLS keeps records of its own: they go out with a flush.
            Self::TlsServer(_) | Self::TlsClient(_) | Self::Memory(_) => {
                Pin::new(self).poll_flush(cx).map_ok(|()| true)
            }
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::TlsServer(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::TlsClient(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Memory(memory) => Pin::new(memory).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::TlsServer(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::TlsClient(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Memory(memory) => Pin::new(memory).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::TlsServer(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::TlsClient(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Memory(memory) => Pin::new(memory).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::TlsServer(tls) => Pin::new(tls).poll_flush(cx),
            Self::TlsClient(tls) => Pin::new(tls).poll_flush(cx),
            Self::Memory(memory) => Pin::new(memory).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::TlsServer(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::TlsClient(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Memory(memory) => Pin::new(memory).poll_shutdown(cx),
        }
    }
}

/// Listens on `address`. The connections that are accepted have no Nagle delay, and keepalive, so that a vanished client is
/// noticed: they inherit it (tcp(7): `TCP_NODELAY`; socket(7): `SO_KEEPALIVE`), which saves five system calls for each.
/// Must be called within a tokio runtime.
///
/// # Errors
/// The address is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&keepalive())?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Opens a connection toward a backend; a node that vanishes later is noticed within about 11 s, busy or idle.
///
/// # Errors
/// What the kernel says, or `TimedOut` at the deadline.
pub async fn connect(address: SocketAddr, deadline: Instant) -> io::Result<TcpStream> {
    let socket = timeout_at(deadline, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(&keepalive())?;
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(BACKEND_UNACKED))?;
    Ok(socket)
}

const fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn both_ends_notice_a_peer_that_vanishes() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (backend, client) = tokio::join!(connect(address, soon()), listener.accept());
        let (backend, (client, _)) = (backend.unwrap(), client.unwrap());
        for socket in [&backend, &client] {
            assert!(socket.nodelay().unwrap());
            let options = SockRef::from(socket);
            assert!(options.keepalive().unwrap());
            #[cfg(target_os = "linux")]
            {
                assert_eq!(options.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
                assert_eq!(options.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
                assert_eq!(options.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
            }
        }
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&backend).tcp_user_timeout().unwrap(), Some(BACKEND_UNACKED));
        let stream = Stream::from(client);
        assert_eq!(stream.peer().unwrap(), backend.local_addr().unwrap());
        assert!(!stream.is_tls() && stream.peer_certificate().is_none());
    }

    #[tokio::test]
    async fn what_is_no_socket_carries_bytes_too() {
        let (near, far) = tokio::io::duplex(64);
        let far = std::sync::Mutex::new(Some(far));
        let dialer: Dialer = Arc::new(move |_| {
            let far = far.lock().unwrap().take().map(|far| Stream::Memory(Box::new(far)));
            Box::pin(std::future::ready(far.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())))
        });
        let dial = Dial::Memory(dialer);
        let address = ([10, 0, 0, 1], 5432).into();
        let (mut near, mut far) = (Stream::Memory(Box::new(near)), dial.open(address, soon()).await.unwrap());
        assert!(far.socket().is_none() && far.peer().is_none() && !far.is_tls());
        near.write_all(b"hello").await.unwrap();
        near.shutdown().await.unwrap();
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        assert_eq!(dial.open(address, soon()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_port_can_be_listened_on_again_at_once() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let (client, served) = tokio::join!(connect(address, soon()), first.accept());
        // The server's end closes first: its side of the connection stays in TIME_WAIT.
        drop((served.unwrap(), first));
        drop(client.unwrap());
        listen(address).unwrap();
    }
}
