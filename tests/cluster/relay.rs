//! A TCP path whose faults a test commands: it passes, stalls, swallows or cuts, in each direction by itself.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::trouble::{Result, Trying};

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// They wait: not read, so that the sender's own buffers fill; nothing is lost. New connections are accepted.
    Stall,
    /// They vanish, and so does an end of stream: the connection looks alive and is not. What was dropped stays lost.
    Drop,
    /// Connections are reset, and new ones refused.
    Cut,
}

/// A direction through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to the relay, to the target.
    ToTarget,
    /// From the target, back.
    FromTarget,
}

/// A running relay. Dropping it closes its connections.
pub struct Relay {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Orders {
    target: SocketAddr,
    to_target: Mode,
    from_target: Mode,
    /// Grows with each command to reset; a connection older than that goes.
    resets: u64,
}

impl Orders {
    fn mode(&self, direction: Direction) -> Mode {
        match direction {
            Direction::ToTarget => self.to_target,
            Direction::FromTarget => self.from_target,
        }
    }

    fn refuses(&self) -> bool {
        self.to_target == Mode::Cut || self.from_target == Mode::Cut
    }
}

impl Relay {
    /// Listens on a free port of 127.0.0.1 and passes everything to `target`. Needs a tokio runtime.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    /// [`Self::start`] on a given loopback address (port 0: a free one).
    #[allow(clippy::unused_async, reason = "async says in the type that a runtime must be there")]
    pub async fn start_on(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        Self::begin(address, target)
    }

    /// [`Self::start_on`] where nothing can be awaited; a runtime must be there all the same.
    pub fn begin(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        // Bound but never listening: it keeps the port ours while connections are to be refused.
        let claim = bound(address).trying(|| format!("binding a relay to {address}"))?;
        let address = claim.local_addr()?;
        let listener = listen(address)?;
        let orders = Orders { target, to_target: Mode::Pass, from_target: Mode::Pass, resets: 0 };
        let (orders, seen) = watch::channel(orders);
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(claim, listener, seen, Arc::clone(&open)));
        Ok(Self { address, orders, open, task })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets both directions. Existing connections follow, at once.
    pub fn set(&self, mode: Mode) {
        self.order(|orders| {
            orders.to_target = mode;
            orders.from_target = mode;
        });
    }

    /// Sets one direction. `Cut` takes the whole connection whatever the direction.
    pub fn set_direction(&self, direction: Direction, mode: Mode) {
        self.order(|orders| match direction {
            Direction::ToTarget => orders.to_target = mode,
            Direction::FromTarget => orders.from_target = mode,
        });
    }

    /// Resets the connections there are and goes on taking new ones.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }

    /// Sends new connections to another target; those there are stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        self.order(|orders| orders.target = target);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(|orders| {
            change(orders);
            if orders.refuses() {
                orders.resets += 1;
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseport(true)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address)?.listen(128)
}

/// Takes connections, except while orders say to refuse them: then nothing listens, so the kernel refuses.
async fn accept(claim: TcpSocket, first: TcpListener, mut orders: watch::Receiver<Orders>, open: Arc<AtomicUsize>) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let refuse = orders.borrow_and_update().refuses();
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = claim.local_addr().and_then(listen).ok();
        }
        tokio::select! {
            taken = take(listener.as_ref()) => {
                let Ok((client, _)) = taken else { continue };
                open.fetch_add(1, Ordering::SeqCst);
                let (orders, open) = (orders.clone(), Open(Arc::clone(&open)));
                connections.spawn(async move {
                    connection(client, orders).await;
                    drop(open);
                });
            }
            Some(_) = connections.join_next() => {}
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

async fn take(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Counts one connection for as long as it is held.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One connection from its accept to its end.
async fn connection(mut client: TcpStream, orders: watch::Receiver<Orders>) {
    let Orders { target, resets, .. } = *orders.borrow();
    // Until it has ended in good order, closing it means a reset: a fault of one side shows as one on the other.
    linger(&client, Some(Duration::ZERO));
    let mut cut = orders.clone();
    let cut = async move { drop(cut.wait_for(|now| now.resets != resets).await) };
    tokio::pin!(cut);
    let connected = tokio::select! {
        connected = TcpStream::connect(target) => connected,
        () = &mut cut => return,
    };
    let Ok(mut server) = connected else { return };
    linger(&server, Some(Duration::ZERO));
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    let both = async {
        tokio::try_join!(
            pump(client_in, server_out, Direction::ToTarget, orders.clone()),
            pump(server_in, client_out, Direction::FromTarget, orders.clone()),
        )
    };
    let ended = tokio::select! {
        ended = both => ended,
        () = &mut cut => return,
    };
    if ended.is_ok() {
        linger(&client, None);
        linger(&server, None);
    }
}

/// Carries one direction until its end of stream.
async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        flowing(&mut orders, direction).await;
        // Readiness first and the mode again before the read: what came while stalled stays in the socket.
        tokio::select! {
            ready = from.readable() => ready?,
            _ = orders.changed() => continue,
        }
        if orders.borrow().mode(direction) == Mode::Stall {
            continue;
        }
        let count = match from.try_read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let mode = orders.borrow().mode(direction);
        match (mode, count) {
            (Mode::Drop, 0) => {
                // The end of the stream vanishes as well, for good: nothing more can come from this side.
                std::future::pending::<()>().await;
            }
            (Mode::Drop, _) => {}
            (Mode::Pass | Mode::Stall | Mode::Cut, 0) => return to.shutdown().await,
            (Mode::Pass | Mode::Stall | Mode::Cut, count) => to.write_all(&buffer[..count]).await?,
        }
    }
}

/// Waits until the direction is not stalled.
async fn flowing(orders: &mut watch::Receiver<Orders>, direction: Direction) {
    if orders.wait_for(|now| now.mode(direction) != Mode::Stall).await.is_err() {
        // The relay is being dropped, and this task with it.
        std::future::pending::<()>().await;
    }
}

/// How the socket closes: `Some(0)` with a reset, `None` in good order.
fn linger(stream: &TcpStream, time: Option<Duration>) {
    // A socket that refuses this is gone already.
    drop(SockRef::from(stream).set_linger(time));
}
