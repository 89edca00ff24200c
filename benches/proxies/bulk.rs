//! Large results and COPY, both ways: what the proxy's CPU costs for a byte. Rows of about 1 kB, 10 MB at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::link::{BUFFER, Link, Mark};
use crate::meter::{Client, Meter, Used};
use crate::raw;
use crate::stage::Stage;
use crate::trouble::{Result, Trouble};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// A result of a simple query.
    Select,
    CopyOut,
    CopyIn,
}

const SELECT: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
const COPY_OUT: &str = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000)) TO STDOUT";
const COPY_IN: &str = "COPY bulk FROM STDIN";
const ROWS: usize = 10_000;
const ROW: usize = 1000;
/// What psql puts into one CopyData.
const COPY_DATA: usize = 8192;
/// What is given to the kernel at once.
const WRITE: usize = 64 * 1024;

/// Moves bytes for so many seconds, of which the first is not counted; how many were counted.
pub(crate) fn run(
    stage: &Stage,
    address: SocketAddr,
    proxy: Option<&[u32]>,
    bulk: Bulk,
    seconds: u64,
) -> Result<(f64, Used)> {
    let meter = Meter { proxy, server: stage.postgres.pid(), client: Client::Here };
    let mut client = Mover { link: Link::open(address, None)?, buffer: vec![0; BUFFER], rows: copy_data() };
    for_seconds(1, || client.once(bulk))?;
    let before = meter.look();
    let bytes = for_seconds(seconds - 1, || client.once(bulk))?;
    Ok((bytes as f64, meter.look().since(&before)))
}

fn for_seconds(seconds: u64, mut once: impl FnMut() -> Result<u64>) -> Result<u64> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut bytes = 0;
    while Instant::now() < end {
        bytes += once()?;
    }
    Ok(bytes)
}

struct Mover {
    link: Link,
    buffer: Vec<u8>,
    rows: Vec<u8>,
}

impl Mover {
    fn once(&mut self, bulk: Bulk) -> Result<u64> {
        match bulk {
            Bulk::Select => self.link.run(SELECT, &mut self.buffer),
            Bulk::CopyOut => self.link.run(COPY_OUT, &mut self.buffer),
            Bulk::CopyIn => self.copy_in(),
        }
    }

    fn copy_in(&mut self) -> Result<u64> {
        self.link.put(&raw::query(COPY_IN))?;
        if !matches!(self.link.reply(&mut self.buffer)?, (Mark::CopyIn, _)) {
            return Err(Trouble::new("no COPY began"));
        }
        for part in self.rows.chunks(WRITE) {
            self.link.put(part)?;
        }
        self.link.put(&raw::frame(b'c', b""))?;
        self.link.reply(&mut self.buffer)?;
        self.link.run("TRUNCATE bulk", &mut self.buffer)?;
        Ok(self.rows.len() as u64)
    }
}

/// All rows as CopyData messages.
fn copy_data() -> Vec<u8> {
    let mut line = vec![b'x'; ROW];
    line.push(b'\n');
    line.repeat(ROWS).chunks(COPY_DATA).flat_map(|part| raw::frame(b'd', part)).collect()
}
