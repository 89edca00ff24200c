//! The floor: a relay of one thread that copies bytes between each client and a backend of its own, and looks at nothing.
//!
//! It is this program under another name of its work (`proxies bare LISTEN SERVER`), so that its CPU can be told from the harness's.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::process::{Process, tied};
use crate::stage::Stage;
use crate::trouble::{Result, Trying as _};

/// The argument that makes this program a relay.
pub(crate) const WORD: &str = "bare";

/// As much as other relays read at once.
const BUFFER: usize = 16 * 1024;
const LISTENER: Token = Token(usize::MAX);

/// Starts one on this address.
pub(crate) fn start(stage: &Stage, address: SocketAddr, folder: &std::path::Path) -> Result<Process> {
    let program = std::env::current_exe().trying(|| "finding this program".to_owned())?;
    let mut command = tied(&program);
    command.arg(WORD).arg(address.to_string()).arg(stage.postgres.address().to_string());
    Process::start(command, &folder.join("bare.log"))
}

/// Relays until it is killed.
pub(crate) fn serve(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut address = |what: &str| -> Result<SocketAddr> {
        let text = arguments.next().unwrap_or_default();
        text.parse().trying(|| format!("{what} {text:?}"))
    };
    let (listen, server) = (address("where to listen:")?, address("the server:")?);
    let (mut relay, mut events) = (Relay::new(listen, server)?, Events::with_capacity(1024));
    loop {
        relay.turn(&mut events)?;
    }
}

struct Relay {
    poll: Poll,
    listener: TcpListener,
    server: SocketAddr,
    /// A client and its backend stand at 2n and 2n + 1, which are their tokens too.
    ends: Vec<Option<TcpStream>>,
    buffer: Box<[u8; BUFFER]>,
}

impl Relay {
    fn new(listen: SocketAddr, server: SocketAddr) -> io::Result<Self> {
        let (poll, mut listener) = (Poll::new()?, TcpListener::bind(listen)?);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let buffer = Box::new([0; BUFFER]);
        Ok(Self { poll, listener, server, ends: Vec::new(), buffer })
    }

    /// Waits for something, and does all of it.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for token in events.iter().filter(|event| event.is_readable()).map(|event| event.token()) {
            if token == LISTENER {
                self.accept()?;
            } else if self.copy(token.0).is_err() {
                let client = token.0 & !1;
                (self.ends[client], self.ends[client + 1]) = (None, None);
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let backend = std::net::TcpStream::connect(self.server)?;
            backend.set_nonblocking(true)?;
            for mut end in [client, TcpStream::from_std(backend)] {
                end.set_nodelay(true)?;
                self.poll.registry().register(&mut end, Token(self.ends.len()), Interest::READABLE)?;
                self.ends.push(Some(end));
            }
        }
    }

    /// From this end to the other.
    fn copy(&mut self, from: usize) -> io::Result<()> {
        loop {
            let Some(end) = &mut self.ends[from] else { return Ok(()) };
            let count = match end.read(&mut *self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if let Some(other) = &mut self.ends[from ^ 1] {
                send(other, &self.buffer[..count])?;
            }
            if count < BUFFER {
                return Ok(()); // that was all: more comes with an event of its own (epoll(7), "edge-triggered")
            }
        }
    }
}

/// Small queries and answers always fit into a socket: that one is full is no case worth to be fast.
fn send(socket: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
