//! The wire between pgmoor and a server, cut after a given number of bytes in one direction.
//!
//! A connection is told by a setting in its startup packet, which no other session shares; only the newest of a name can be cut.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::pair::{Moor, Pair, Plan, psql};
use super::raw::Raw;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From pgmoor to PostgreSQL.
    Up,
    /// Back.
    Down,
}

/// What happens after the last byte that goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Both ends see the end of the connection.
    Close,
    /// What follows vanishes; the connection looks alive.
    Swallow,
}

/// One connection.
#[derive(Default)]
struct Line {
    /// Bytes seen: up, down.
    seen: Mutex<[u64; 2]>,
    order: Mutex<Option<(Way, u64, Fault)>>,
    /// The end of one side is not passed on.
    held: AtomicBool,
    /// Both sockets.
    ends: Mutex<Vec<TcpStream>>,
}

impl Line {
    fn close(&self) {
        for end in self.ends.lock().unwrap().iter() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A relay in front of one server.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<BTreeMap<String, Arc<Line>>>>,
}

impl Wire {
    /// Passes everything to `server`, until the process ends.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(BTreeMap::new()));
        let known = Arc::clone(&lines);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let known = Arc::clone(&known);
                std::thread::spawn(move || drop(connect(client, server, &known)));
            }
        });
        Self { address, lines }
    }

    /// From now on: so many bytes one way, then the fault.
    pub(crate) fn arm(&self, name: &str, way: Way, after: u64, fault: Fault) {
        let line = self.line(name);
        *line.seen.lock().unwrap() = [0, 0];
        *line.order.lock().unwrap() = Some((way, after, fault));
        if after == 0 && fault == Fault::Close {
            line.close();
        }
    }

    /// Counts from here.
    pub(crate) fn reset(&self, name: &str) {
        *self.line(name).seen.lock().unwrap() = [0, 0];
    }

    /// Bytes that came since: up, down.
    pub(crate) fn seen(&self, name: &str) -> [u64; 2] {
        *self.line(name).seen.lock().unwrap()
    }

    /// An end of the connection is not passed on before [`Self::cut`].
    pub(crate) fn hold_open(&self, name: &str) {
        self.line(name).held.store(true, Ordering::SeqCst);
    }

    /// Closes it.
    pub(crate) fn cut(&self, name: &str) {
        self.line(name).close();
    }

    fn line(&self, name: &str) -> Arc<Line> {
        Arc::clone(self.lines.lock().unwrap().get(name).unwrap_or_else(|| panic!("no connection of {name}")))
    }
}

fn connect(
    mut client: TcpStream,
    server: SocketAddr,
    known: &Mutex<BTreeMap<String, Arc<Line>>>,
) -> std::io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    packet[..4].copy_from_slice(&length);
    client.read_exact(&mut packet[4..])?;
    let mut words = packet[8..].split(|byte| *byte == 0);
    let name = words.find(|word| *word == b"wire.name").and_then(|_| words.next());
    let line = Arc::new(Line::default());
    let mut target = TcpStream::connect(server)?;
    for end in [&client, &target] {
        end.set_nodelay(true)?;
        line.ends.lock().unwrap().push(end.try_clone()?);
    }
    if let Some(name) = name {
        known.lock().unwrap().insert(String::from_utf8_lossy(name).into_owned(), Arc::clone(&line));
    }
    target.write_all(&packet)?;
    let back = (target.try_clone()?, client.try_clone()?, Arc::clone(&line));
    std::thread::spawn(move || pump(back.0, back.1, Way::Down, &back.2));
    pump(client, target, Way::Up, &line);
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream, way: Way, line: &Line) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
    {
        let before = {
            let mut seen = line.seen.lock().unwrap();
            let count_of = &mut seen[usize::from(way == Way::Down)];
            *count_of += count as u64;
            *count_of - count as u64
        };
        let order = line.order.lock().unwrap().filter(|order| order.0 == way && before + count as u64 >= order.1);
        let through = order.map_or(count, |(_, after, _)| usize::try_from(after.saturating_sub(before)).unwrap());
        if to.write_all(&buffer[..through]).is_err() {
            break;
        }
        if matches!(order, Some((_, _, Fault::Close))) {
            break;
        }
    }
    if !line.held.load(Ordering::SeqCst) {
        line.close();
    }
}

/// A pair with a wire before its primary.
pub(crate) struct Site {
    pub(crate) moor: Moor,
    pub(crate) wire: Wire,
    pub(crate) pair: Pair,
}

impl Site {
    /// With further settings for both servers, and a table to write to and one to read.
    pub(crate) fn build(settings: &str) -> Self {
        let pair = Pair::start(&format!("max_connections = 400\n{settings}"));
        psql(
            pair.a,
            "create table talk (who text, n int, body text, primary key (who, n));
             create table fixed as select g as n, repeat(md5(g::text), 3) as body from generate_series(1, 5) g;
             analyze",
        );
        pair.caught_up();
        let wire = Wire::before(pair.a);
        let fixed = vec![("a".to_owned(), wire.address), ("b".to_owned(), pair.b)];
        // Idle backends of those who were here make way.
        let pool = "size = 200\npod_size = 200".to_owned();
        let moor = Moor::start(&Plan { fixed, pool, ..pair.plan() });
        Self { moor, wire, pair }
    }

    /// A client of that name: so is its connection's line.
    pub(crate) fn client(&self, name: &str) -> Raw {
        Raw::login_with(self.moor.rw(), &[("application_name", name), ("wire.name", name)])
    }
}
