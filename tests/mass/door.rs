//! The way to one PostgreSQL, and a count of who logs in on it: how many at once, in which order, and how fast.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A relay in front of a server.
pub(crate) struct Door {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    count: Arc<Mutex<Count>>,
}

/// The logins of user `app`, from the startup packet to the ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    running: usize,
    /// When each came to its ReadyForQuery.
    ends: Vec<Instant>,
    /// The most that ran at once.
    pub(crate) most: usize,
    /// The most by which those that ran were more than those that had succeeded before.
    pub(crate) ahead: usize,
    /// Those that came to no ReadyForQuery.
    pub(crate) failed: usize,
}

impl Door {
    /// A door to `server`, on a port of its own.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let door = Self { address: listener.local_addr().unwrap(), count: Arc::default() };
        let count = Arc::clone(&door.count);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                // A connection that breaks is told to both by its end.
                tokio::spawn(async move { drop(pass(near, server, &count).await) });
            }
        });
        door
    }

    /// What was counted so far.
    pub(crate) fn count(&self) -> Count {
        self.count.lock().unwrap().clone()
    }
}

impl Count {
    /// The logins that succeeded.
    pub(crate) fn succeeded(&self) -> usize {
        self.ends.len()
    }

    /// The most in one second.
    pub(crate) fn per_second(&self) -> usize {
        let within = |from: &Instant| {
            self.ends.iter().filter(|at| (*from..*from + Duration::from_secs(1)).contains(*at)).count()
        };
        self.ends.iter().map(within).max().unwrap_or(0)
    }
}

/// One login under way; what is dropped without an end has failed.
struct Login<'a> {
    count: &'a Mutex<Count>,
    ended: bool,
}

impl<'a> Login<'a> {
    fn begin(count: &'a Mutex<Count>) -> Self {
        let mut all = count.lock().unwrap();
        all.running += 1;
        all.most = all.most.max(all.running);
        all.ahead = all.ahead.max(all.running.saturating_sub(all.ends.len()));
        Self { count, ended: false }
    }

    fn succeeded(mut self) {
        self.ended = true;
        self.count.lock().unwrap().ends.push(Instant::now());
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        let mut all = self.count.lock().unwrap();
        all.running -= 1;
        all.failed += usize::from(!self.ended);
    }
}

async fn pass(mut near: TcpStream, server: SocketAddr, count: &Mutex<Count>) -> io::Result<()> {
    near.set_nodelay(true)?;
    let startup = packet(&mut near, false).await?;
    let login = startup.windows(9).any(|part| part == b"user\0app\0").then(|| Login::begin(count));
    let mut far = TcpStream::connect(server).await?;
    far.set_nodelay(true)?;
    far.write_all(&startup).await?;
    if let Some(login) = login {
        // The server trusts: it asks for nothing, so only it speaks until it is ready.
        loop {
            let frame = packet(&mut far, true).await?;
            if frame.first() == Some(&b'Z') {
                // Counted before pgmoor can know, so that whoever it lets in next comes later.
                login.succeeded();
                near.write_all(&frame).await?;
                break;
            }
            near.write_all(&frame).await?;
        }
    }
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

/// One packet as it came: with or without a tag before its length.
async fn packet(stream: &mut TcpStream, tagged: bool) -> io::Result<Vec<u8>> {
    let head = if tagged { 5 } else { 4 };
    let mut bytes = vec![0; head];
    stream.read_exact(&mut bytes).await?;
    let length = bytes.last_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length) as usize);
    bytes.resize(head + length - 4, 0);
    stream.read_exact(&mut bytes[head..]).await?;
    Ok(bytes)
}
