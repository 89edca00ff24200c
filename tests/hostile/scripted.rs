//! A server that says what a test tells it to: a proper PostgreSQL to the probe, anything to the session.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::raw::frame;

/// What becomes of a session's connection.
#[derive(Clone)]
pub(crate) enum Part {
    /// Nothing bad: every request is answered as `select 1` is.
    Proper,
    /// These bytes instead of a login, and the end.
    Login(Vec<u8>),
    /// A proper login, and these bytes to the first request, and the end.
    Reply(Vec<u8>),
    /// A proper login, and these bytes over and over.
    Endless(Vec<u8>),
    /// The startup packet is read, and that is all.
    Silent,
    /// The same after a proper login.
    Mute,
}

/// The server.
pub(crate) struct Scripted {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    parts: Arc<Mutex<Parts>>,
}

type Parts = BTreeMap<String, Part>;

impl Scripted {
    /// One that listens until the process ends.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Arc::new(Mutex::new(Parts::new()));
        let shared = Arc::clone(&parts);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let parts = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &parts));
            }
        });
        Self { address, parts }
    }

    /// What sessions of this `scene.name` get.
    pub(crate) fn plays(&self, name: &str, part: Part) {
        self.parts.lock().unwrap().insert(name.to_owned(), part);
    }
}

/// All a server says before a session's first request.
pub(crate) fn greeting() -> Vec<u8> {
    let mut bytes = frame(b'R', &[0; 4]);
    for (name, value) in [("server_version", "15.0"), ("in_hot_standby", "off"), ("client_encoding", "UTF8")] {
        bytes.extend(frame(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    bytes.extend(frame(b'K', &[0, 0, 0, 42, 1, 2, 3, 4]));
    bytes.extend(frame(b'Z', b"I"));
    bytes
}

/// A proper answer to `select 1`.
pub(crate) fn answer() -> Vec<u8> {
    let mut bytes = frame(b'T', b"\0\x01one\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    bytes.extend(frame(b'D', b"\0\x01\0\0\0\x011"));
    bytes.extend(frame(b'C', b"SELECT 1\0"));
    bytes.extend(frame(b'Z', b"I"));
    bytes
}

fn serve(mut stream: TcpStream, parts: &Mutex<Parts>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let Some(startup) = packet(&mut stream, 0) else { return };
    if startup.windows(6).any(|name| name == b"pgmoor") {
        probed(stream);
        return;
    }
    let words: Vec<String> =
        startup.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let name = words.iter().skip_while(|word| *word != "scene.name").nth(1).cloned().unwrap_or_default();
    let part = parts.lock().unwrap().get(&name).cloned().unwrap_or(Part::Proper);
    match part {
        Part::Proper => {
            let _ = stream.write_all(&greeting());
            while packet(&mut stream, 1).is_some() {
                let _ = stream.write_all(&answer());
            }
        }
        Part::Login(bytes) => {
            let _ = stream.write_all(&bytes);
        }
        Part::Silent => drop(stream.read(&mut [0; 1])),
        Part::Mute => {
            let _ = stream.write_all(&greeting());
            while packet(&mut stream, 1).is_some() {}
        }
        Part::Reply(bytes) => {
            let _ = stream.write_all(&greeting());
            if packet(&mut stream, 1).is_some() {
                let _ = stream.write_all(&bytes);
            }
        }
        Part::Endless(bytes) => {
            let _ = stream.write_all(&greeting());
            if packet(&mut stream, 1).is_some() {
                while stream.write_all(&bytes).is_ok() {}
            }
        }
    }
    // What was sent is not to be lost in a reset: the end comes first, and what pgmoor still sends is read.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {}
}

/// Answers the probe as a primary does.
fn probed(mut stream: TcpStream) {
    let _ = stream.write_all(&greeting());
    while packet(&mut stream, 1).is_some() {
        let mut bytes = frame(b'T', b"\0\0");
        bytes.extend(frame(b'D', &probe_row()));
        bytes.extend(frame(b'C', b"SELECT 1\0"));
        bytes.extend(frame(b'Z', b"I"));
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// One row of text fields, as the probe's question expects it.
fn probe_row() -> Vec<u8> {
    let mut row = 6_u16.to_be_bytes().to_vec();
    for field in [Some("f"), Some("7123456789"), Some("00000001"), None, Some("0/5000000"), None] {
        match field {
            Some(field) => {
                row.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
                row.extend(field.as_bytes());
            }
            None => row.extend([0xff; 4]),
        }
    }
    row
}

/// The next packet with (1) or without (0) a tag; its tag and length are left out.
fn packet(stream: &mut TcpStream, tag: usize) -> Option<Vec<u8>> {
    let mut head = [0; 5];
    stream.read_exact(&mut head[..4 + tag]).ok()?;
    let length = u32::from_be_bytes(*head[tag..].first_chunk()?) as usize;
    let mut body = vec![0; length.checked_sub(4)?];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}
