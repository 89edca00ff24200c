//! A client of our own: connects plainly or by TLS, runs statements, counts bytes and looks at nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::raw;
use crate::stage::{DATABASE, TRUSTED};
use crate::trouble::{Result, Trouble, Trying as _};

/// For any answer; whoever takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a client reads at once.
pub(crate) const BUFFER: usize = 256 * 1024;

/// One session of [`TRUSTED`].
pub(crate) struct Link(Stream);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Where an answer stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// ReadyForQuery.
    Ready,
    /// CopyInResponse: it is our turn.
    CopyIn,
}

impl Link {
    /// Logs in; by TLS where it is given.
    pub(crate) fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut plain = TcpStream::connect_timeout(&address, PATIENCE).trying(|| format!("connecting to {address}"))?;
        plain.set_nodelay(true)?;
        plain.set_read_timeout(Some(PATIENCE))?;
        plain.set_write_timeout(Some(PATIENCE))?;
        let stream = match tls {
            None => Stream::Plain(plain),
            Some(config) => {
                plain.write_all(&SSL_REQUEST)?;
                let mut answer = [0];
                plain.read_exact(&mut answer)?;
                if answer != *b"S" {
                    return Err(Trouble::new(format!("{address} refuses TLS")));
                }
                let name = ServerName::IpAddress(address.ip().into());
                let connection = ClientConnection::new(Arc::clone(config), name)?;
                Stream::Tls(Box::new(StreamOwned::new(connection, plain)))
            }
        };
        let mut link = Self(stream);
        link.put(&raw::startup(0x0003_0000, &[("user", TRUSTED), ("database", DATABASE)]))?;
        link.reply(&mut [0; 4096])?;
        Ok(link)
    }

    /// Runs a statement to its end; how many bytes its answer had.
    pub(crate) fn run(&mut self, sql: &str, buffer: &mut [u8]) -> Result<u64> {
        self.put(&raw::query(sql))?;
        self.reply(buffer).map(|(_, bytes)| bytes)
    }

    /// Sends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.write_all(bytes)?,
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()?;
            }
        }
        Ok(())
    }

    /// Reads until it is the client's turn; how many bytes that were.
    pub(crate) fn reply(&mut self, buffer: &mut [u8]) -> Result<(Mark, u64)> {
        let mut answer = Answer::default();
        let mut bytes = 0;
        loop {
            let count = match &mut self.0 {
                Stream::Plain(stream) => stream.read(buffer)?,
                Stream::Tls(stream) => stream.read(buffer)?,
            };
            if count == 0 {
                return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
            }
            bytes += count as u64;
            if let Some(mark) = answer.read(&buffer[..count])? {
                return Ok((mark, bytes));
            }
        }
    }
}

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How far one answer was read.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    head: [u8; 5],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    error: Vec<u8>,
}

impl Answer {
    /// The next bytes of it; says when it is the client's turn. An ErrorResponse is a failure.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<Option<Mark>> {
        let mut mark = None;
        while !bytes.is_empty() {
            if self.have < 5 {
                let count = bytes.len().min(5 - self.have);
                self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
                self.have += count;
                bytes = &bytes[count..];
                if self.have < 5 {
                    break;
                }
                let [_, a, b, c, d] = self.head;
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            }
            let count = bytes.len().min(self.left);
            if self.head[0] == b'E' {
                self.error.extend_from_slice(&bytes[..count]);
            }
            bytes = &bytes[count..];
            self.left -= count;
            if self.left == 0 {
                self.have = 0;
                mark = self.end_of_frame()?;
            }
        }
        Ok(mark)
    }

    fn end_of_frame(&self) -> Result<Option<Mark>> {
        match self.head[0] {
            b'Z' => Ok(Some(Mark::Ready)),
            b'G' => Ok(Some(Mark::CopyIn)),
            b'E' => {
                let text = String::from_utf8_lossy(&self.error).replace('\0', " ");
                Err(Trouble::new(format!("told an error: {text}")))
            }
            _ => Ok(None),
        }
    }
}

/// TLS that trusts the certificate of the bench and no other.
pub(crate) fn tls(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
