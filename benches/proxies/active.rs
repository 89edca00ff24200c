//! Many clients that all want something, always: how long each waits, and how evenly.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::link::Answer;
use crate::meter::{Client, Meter, Used};
use crate::raw;
use crate::stage::{DATABASE, Stage, TRUSTED};
use crate::trouble::{Result, Trouble, Trying as _};

/// Logins at once: more than a listener's queue holds would be turned away.
const LOGINS: usize = 64;
/// No client waits that long for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits in microseconds, sorted, and what was used meanwhile.
pub(crate) struct Waits {
    pub(crate) sorted: Vec<f64>,
    pub(crate) used: Used,
}

/// Connects them all, then lets them ask for so many seconds, of which the first is not counted.
pub(crate) fn run(
    stage: &Stage,
    address: SocketAddr,
    proxy: Option<&[u32]>,
    clients: usize,
    seconds: u64,
) -> Result<Waits> {
    let meter = Meter { proxy, server: stage.postgres.pid(), client: Client::Here };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let streams = connect(address, clients).await?;
        let crowd = Rc::new(Crowd::default());
        let mut tasks = JoinSet::new();
        for (number, stream) in streams.into_iter().enumerate() {
            tasks.spawn_local(ask(Rc::clone(&crowd), stream, number));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        crowd.counts.set(true);
        let before = meter.look();
        tokio::time::sleep(Duration::from_secs(seconds - 1)).await;
        let used = meter.look().since(&before);
        crowd.counts.set(false);
        crowd.ends.set(true);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let mut sorted = crowd.waits.take();
        sorted.sort_by(f64::total_cmp);
        Ok(Waits { sorted, used })
    })
}

#[derive(Default)]
struct Crowd {
    /// Answers that come now count.
    counts: Cell<bool>,
    ends: Cell<bool>,
    waits: RefCell<Vec<f64>>,
}

async fn connect(address: SocketAddr, clients: usize) -> Result<Vec<TcpStream>> {
    let logins = Rc::new(Semaphore::new(LOGINS));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let logins = Rc::clone(&logins);
        tasks.spawn_local(async move {
            let _permit = logins.acquire().await?;
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&raw::startup(0x0003_0000, &[("user", TRUSTED), ("database", DATABASE)])).await?;
            answer(&mut stream).await?;
            Ok::<_, Trouble>(stream)
        });
    }
    let mut streams = Vec::with_capacity(clients);
    while let Some(stream) = tasks.join_next().await {
        streams.push(stream?.trying(|| format!("client {} of {clients}", streams.len() + 1))?);
    }
    Ok(streams)
}

async fn ask(crowd: Rc<Crowd>, mut stream: TcpStream, number: usize) -> Result<()> {
    let query = raw::query(&format!("SELECT abalance FROM pgbench_accounts WHERE aid = {}", number + 1));
    while !crowd.ends.get() {
        let asked = Instant::now();
        stream.write_all(&query).await?;
        answer(&mut stream).await?;
        if crowd.counts.get() {
            crowd.waits.borrow_mut().push(asked.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(())
}

async fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Answer::default();
    let mut buffer = [0; 1024];
    let whole = async {
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            if answer.read(&buffer[..count])?.is_some() {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.map_err(|_| Trouble::new("no answer within 30 s"))?
}
