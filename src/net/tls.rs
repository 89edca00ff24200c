//! TLS on both sides: our certificate towards clients, and whom we trust towards PostgreSQL.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use super::{Stream, outbox};

/// The protocol's name in TLS ALPN; PostgreSQL 17 asks for it, older ones ignore it.
const ALPN: &[u8] = b"postgresql";

/// Why TLS cannot be set up or agreed on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file, or a setting, is not what it should be; says which.
    #[error("{0}")]
    Setup(String),
    /// The peer does not speak TLS as we want it: versions, certificate, name.
    #[error("{0}")]
    Peer(rustls::Error),
    /// The connection broke during the handshake.
    #[error("connection lost during the TLS handshake: {0}")]
    Lost(io::Error),
}

/// The files of the server side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// PEM: our certificate, then its intermediates.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// Clients' certificates.
    pub clients: ClientCerts,
}

/// What is done about clients' certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCerts {
    /// None is asked for.
    #[default]
    Ignore,
    /// One is asked for; if shown, the CA in this PEM file must have signed it.
    Verify(PathBuf),
    /// No client gets in without one that the CA in this PEM file has signed.
    Require(PathBuf),
}

/// Takes clients' TLS handshakes; clones share the certificate. Files that changed are taken up by a new one.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
}

/// How far PostgreSQL's certificate is looked at; libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it; the certificate is not checked.
    #[default]
    Prefer,
    /// TLS or nothing; the certificate is not checked.
    Require,
    /// The certificate must be signed by the CA.
    VerifyCa,
    /// The certificate must be signed by the CA and made out to the server's name.
    VerifyFull,
}

/// TLS towards one PostgreSQL server.
#[derive(Clone, Debug)]
pub struct BackendTls {
    mode: TlsMode,
    /// `None` exactly if the mode is `Disable`.
    config: Option<Arc<ClientConfig>>,
    name: Option<ServerName<'static>>,
}

impl TlsAcceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or not what it should be.
    pub fn new(files: &ServerFiles) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(server_config(files)?) })
    }

    /// Makes the handshake on a client's socket, after the `S` was sent. It has no deadline of its own. The caller must have
    /// read nothing beyond the `SSLRequest`: bytes sent in the clear before the handshake must not count as the
    /// client's.
    ///
    /// # Errors
    /// The client's fault, or its connection broke.
    pub async fn accept(&self, socket: TcpStream) -> Result<Stream, TlsError> {
        let handshake = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config)).accept(socket);
        // Boxed: it is large, and most of what waits here for a client never comes to it.
        let tls = Box::pin(outbox::before_each(handshake)).await.map_err(handshake_error)?;
        Ok(Stream::TlsServer(Box::new(tls)))
    }
}

impl BackendTls {
    /// Plain TCP.
    pub const fn disabled() -> Self {
        Self { mode: TlsMode::Disable, config: None, name: None }
    }

    /// Reads `ca` (PEM), which the verify modes need and the others refuse, lest it look used. The server's name comes
    /// later: `with_name`.
    ///
    /// # Errors
    /// The file is missing or holds no certificate; the mode and the CA do not go together.
    pub fn new(mode: TlsMode, ca: Option<&Path>) -> Result<Self, TlsError> {
        let config = match (mode, ca) {
            (TlsMode::Disable, None) => None,
            (TlsMode::Prefer | TlsMode::Require, None) => Some(client_config(Trust::Anyone)?),
            (TlsMode::VerifyCa, Some(ca)) => Some(client_config(Trust::SignedBy(roots(ca)?))?),
            (TlsMode::VerifyFull, Some(ca)) => Some(client_config(Trust::Named(roots(ca)?))?),
            (TlsMode::VerifyCa | TlsMode::VerifyFull, None) => {
                return Err(TlsError::Setup("verify-ca and verify-full need a CA file".into()));
            }
            (TlsMode::Disable | TlsMode::Prefer | TlsMode::Require, Some(_)) => {
                return Err(TlsError::Setup("a CA file has a meaning with verify-ca and verify-full only".into()));
            }
        };
        Ok(Self { mode, config: config.map(Arc::new), name: None })
    }

    /// The same settings for a server called `name` (a DNS name or an IP address): sent as SNI, and what `verify-full`
    /// compares with the certificate. Without a name the address counts.
    ///
    /// # Errors
    /// Not a name.
    pub fn with_name(&self, name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::Setup(format!("{name:?} is not a server name")))?;
        Ok(Self { mode: self.mode, config: self.config.clone(), name: Some(name) })
    }

    /// The mode.
    pub const fn mode(&self) -> TlsMode {
        self.mode
    }

    /// Makes the handshake on a connection whose server has said `S`. With TLS disabled the stream stays plain.
    ///
    /// # Errors
    /// The server's fault, or its connection broke.
    pub async fn connect(&self, socket: TcpStream, address: SocketAddr) -> Result<Stream, TlsError> {
        let Some(config) = &self.config else {
            return Ok(Stream::from(socket));
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::IpAddress(address.ip().into()),
        };
        let handshake = tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, socket);
        let tls = outbox::before_each(handshake).await.map_err(handshake_error)?;
        Ok(Stream::TlsClient(Box::new(tls)))
    }
}

/// Whose certificates are good.
enum Trust {
    Anyone,
    SignedBy(RootCertStore),
    Named(RootCertStore),
}

/// Checks a server's certificate without its name, or not at all; the handshake's signatures are always checked.
#[derive(Debug)]
struct Nameless {
    /// `None`: any certificate will do.
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Nameless {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn client_config(trust: Trust) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let nameless = |roots| Arc::new(Nameless { roots, provider });
    let builder = match trust {
        Trust::Named(roots) => builder.with_root_certificates(roots),
        Trust::SignedBy(roots) => builder.dangerous().with_custom_certificate_verifier(nameless(Some(roots))),
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(nameless(None)),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn server_config(files: &ServerFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| in_file("no private key", &files.key, &error))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let verifier = |ca: &Path| {
        let roots = Arc::new(roots(ca)?);
        Ok(WebPkiClientVerifier::builder_with_provider(roots, provider))
    };
    let built = |verifier: Result<_, rustls::server::VerifierBuilderError>| {
        verifier.map_err(|error| TlsError::Setup(format!("client CA: {error}")))
    };
    let builder = match &files.clients {
        ClientCerts::Ignore => builder.with_no_client_auth(),
        ClientCerts::Verify(ca) => {
            builder.with_client_cert_verifier(built(verifier(ca)?.allow_unauthenticated().build())?)
        }
        ClientCerts::Require(ca) => builder.with_client_cert_verifier(built(verifier(ca)?.build())?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let (cert, key) = (files.cert.display(), files.key.display());
        TlsError::Setup(format!("certificate {cert} with key {key}: {error}"))
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A client that comes again shows its ticket and is spared the certificate, which is most of a handshake's cost. By
    // default sessions are remembered instead, and those of 256 clients only.
    config.ticketer = ring::Ticketer::new().map_err(|error| TlsError::Setup(error.to_string()))?;
    Ok(config)
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| in_file("not a CA certificate", file, &error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| in_file("no certificate", file, &error))?;
    if chain.is_empty() {
        let file = file.display();
        return Err(TlsError::Setup(format!("no certificate in {file}")));
    }
    Ok(chain)
}

fn in_file(what: &str, file: &Path, error: &impl std::fmt::Display) -> TlsError {
    TlsError::Setup(format!("{what} in {}: {error}", file.display()))
}

/// tokio-rustls wraps a fault of the peer in an `io::Error`; the connection's own faults come as they are.
fn handshake_error(error: io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(fault) => TlsError::Peer(fault.clone()),
        None => TlsError::Lost(error),
    }
}

#[cfg(test)]
mod tests;
