//! TLS on both sides: what each mode demands of a server, and what the acceptor demands of files and clients.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pgmoor::auth::Credentials;
use pgmoor::backend::{ConnectError, Target};
use pgmoor::net::Stream;
use pgmoor::net::tls::{BackendTls, ClientCerts, ServerFiles, TlsAcceptor, TlsError, TlsMode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::fake::{Fake, Talk, log_in, shortly, soon};

/// A CA and what it has signed, as PEM files.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for `name` and its key, as PEM.
    pub(crate) fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate for `name` where `files` points.
    fn issue(&self, name: &str) {
        let (certificate, key) = self.sign(name);
        fs::write(self.file("cert.pem"), certificate).unwrap();
        fs::write(self.file("key.pem"), key).unwrap();
    }

    fn files(&self, clients: ClientCerts) -> ServerFiles {
        ServerFiles { cert: self.file("cert.pem"), key: self.file("key.pem"), clients }
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        self.issue(name);
        TlsAcceptor::new(&self.files(ClientCerts::Ignore)).unwrap()
    }

    pub(crate) fn trusted(&self, mode: TlsMode, name: &str) -> BackendTls {
        BackendTls::new(mode, Some(&self.file("ca.pem"))).unwrap().with_name(name).unwrap()
    }
}

fn anyone(mode: TlsMode) -> BackendTls {
    BackendTls::new(mode, None).unwrap()
}

fn with<T: Send + 'static>(fake: &Fake<T>, tls: BackendTls) -> Target {
    Target { tls, ..fake.target() }
}

/// Logs in to a server with this certificate; tells whether TLS was used.
async fn over(acceptor: TlsAcceptor, tls: BackendTls) -> Result<bool, ConnectError> {
    let fake = Fake::serve(async move |talk: Talk| {
        if let Ok(mut talk) = talk.secure(&acceptor).await {
            talk.startup().await;
            talk.ready().await;
            // TLS is ended by the client, lest a reset overtake the last bytes.
            talk.silence().await;
        }
    })
    .await;
    let backend = log_in(&with(&fake, tls), &Credentials::None, &[], soon()).await?;
    Ok(backend.stream.is_tls())
}

#[tokio::test]
async fn each_mode_demands_what_it_says() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let pod = "pg-0.pg.db.svc";
    for (tls, accepted) in [
        (anyone(TlsMode::Prefer), true),
        (anyone(TlsMode::Require), true),
        (ours.trusted(TlsMode::VerifyCa, pod), true),
        (ours.trusted(TlsMode::VerifyCa, "another"), true),
        (theirs.trusted(TlsMode::VerifyCa, pod), false),
        (ours.trusted(TlsMode::VerifyFull, pod), true),
        (ours.trusted(TlsMode::VerifyFull, "another"), false),
        (theirs.trusted(TlsMode::VerifyFull, pod), false),
        // Without a name the address counts, and the certificate has none.
        (BackendTls::new(TlsMode::VerifyFull, Some(&ours.file("ca.pem"))).unwrap(), false),
    ] {
        let shown = format!("{:?}", tls.mode());
        match over(ours.acceptor(pod), tls).await {
            Ok(secure) => assert!(accepted && secure, "{shown}"),
            Err(ConnectError::Tls(error)) => assert!(!accepted, "{shown}: {error}"),
            Err(error) => panic!("{shown}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_enough_for_prefer_only() {
    let ours = Authority::new();
    for (tls, accepted) in [
        (anyone(TlsMode::Prefer), true),
        (anyone(TlsMode::Require), false),
        (ours.trusted(TlsMode::VerifyCa, "a"), false),
        (ours.trusted(TlsMode::VerifyFull, "a"), false),
    ] {
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            talk.bytes(b"N").await;
            if accepted {
                talk.startup().await;
                talk.ready().await;
            }
            talk.rest().await
        })
        .await;
        match log_in(&with(&fake, tls), &Credentials::None, &[], soon()).await {
            Ok(backend) => assert!(accepted && !backend.stream.is_tls()),
            Err(ConnectError::Tls(error)) => assert!(!accepted, "{error}"),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(fake.end().await, b"", "nothing was said in the clear");
    }
}

#[tokio::test]
async fn a_tls_server_that_stalls_breaks_off_or_talks_nonsense() {
    let answer = |bytes: &'static [u8], stay: bool, deadline: Instant| async move {
        let fake = Fake::serve(async move |mut talk: Talk| {
            talk.startup().await;
            talk.bytes(bytes).await;
            if stay {
                talk.silence().await;
            }
        })
        .await;
        log_in(&with(&fake, anyone(TlsMode::Require)), &Credentials::None, &[], deadline).await.unwrap_err()
    };
    // In the clear behind the S: it must not be taken for the server's words.
    let stuffed = answer(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", true, soon()).await;
    assert!(matches!(stuffed, ConnectError::Tls(_)), "{stuffed}");
    for bytes in [&b""[..], b"S"] {
        let stalled = answer(bytes, true, shortly()).await;
        assert!(matches!(stalled, ConnectError::TimedOut), "{stalled}");
    }
    for bytes in [&b""[..], b"S"] {
        let broken = answer(bytes, false, soon()).await;
        assert!(matches!(broken, ConnectError::Unreachable(_)), "{broken}");
    }
    for bytes in [&b"E\0\0\0\x08oops"[..], b"X"] {
        let error = answer(bytes, true, soon()).await;
        assert!(matches!(error, ConnectError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_new_acceptor_takes_the_new_certificate_and_the_old_one_keeps_its_own() {
    let ours = Authority::new();
    let old = ours.acceptor("old");
    let named = |name| ours.trusted(TlsMode::VerifyFull, name);
    over(old.clone(), named("old")).await.unwrap();
    let new = ours.acceptor("new");
    over(old.clone(), named("old")).await.unwrap();
    over(new, named("new")).await.unwrap();
    fs::write(ours.file("key.pem"), "nonsense").unwrap();
    let error = TlsAcceptor::new(&ours.files(ClientCerts::Ignore)).unwrap_err().to_string();
    assert!(error.contains("key.pem"), "{error}");
    over(old, named("old")).await.unwrap();
}

#[test]
fn bad_files_and_settings_are_named() {
    let ours = Authority::new();
    ours.issue("a");
    let refused = |files: ServerFiles, word: &str| {
        let error = TlsAcceptor::new(&files).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let files = |clients| ours.files(clients);
    refused(ServerFiles { cert: ours.file("none.pem"), ..files(ClientCerts::Ignore) }, "none.pem");
    refused(ServerFiles { cert: ours.file("key.pem"), ..files(ClientCerts::Ignore) }, "key.pem");
    refused(ServerFiles { key: ours.file("cert.pem"), ..files(ClientCerts::Ignore) }, "cert.pem");
    refused(ServerFiles { cert: ours.file("ca.pem"), ..files(ClientCerts::Ignore) }, "ca.pem");
    refused(files(ClientCerts::Require(ours.file("key.pem"))), "key.pem");
    for mode in [TlsMode::VerifyCa, TlsMode::VerifyFull] {
        assert!(BackendTls::new(mode, None).is_err());
    }
    for mode in [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require] {
        assert!(BackendTls::new(mode, Some(&ours.file("ca.pem"))).is_err());
    }
    assert!(anyone(TlsMode::Prefer).with_name("not a name").is_err());
}

/// A client with a certificate of its own, or none, at an acceptor; tells who the acceptor thinks it is.
async fn client(
    acceptor: TlsAcceptor,
    ca: PathBuf,
    identity: Option<(String, String)>,
) -> Result<Option<Vec<u8>>, TlsError> {
    let fake = Fake::serve(async move |talk: Talk| {
        let talk = talk.secure(&acceptor).await?;
        assert_eq!(talk.socket.server_name(), Some("pgmoor.db"));
        Ok(talk.socket.peer_certificate().map(|certificate| certificate.to_vec()))
    })
    .await;
    let mut socket = TcpStream::connect(fake.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'S');
    match identity {
        None => {
            let tls = anyone(TlsMode::Require).with_name("pgmoor.db").unwrap();
            let address = socket.peer_addr().unwrap();
            let mut stream = tls.connect(socket, address).await.unwrap();
            assert!(matches!(stream, Stream::TlsClient(_)) && stream.peer_certificate().is_some());
            let _ = stream.read_u8().await;
        }
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
            let name = ServerName::try_from("pgmoor.db").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            if let Ok(mut stream) = connector.connect(name, socket).await {
                let _ = stream.read_u8().await;
            }
        }
    }
    fake.end().await
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_configured() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.issue("pgmoor.db");
    let acceptor =
        |clients: fn(PathBuf) -> ClientCerts| TlsAcceptor::new(&ours.files(clients(ours.file("ca.pem")))).unwrap();
    assert_eq!(client(acceptor(|_| ClientCerts::Ignore), ours.file("ca.pem"), None).await.unwrap(), None);
    assert_eq!(client(acceptor(ClientCerts::Verify), ours.file("ca.pem"), None).await.unwrap(), None);
    let error = client(acceptor(ClientCerts::Require), ours.file("ca.pem"), None).await.unwrap_err();
    assert!(matches!(error, TlsError::Peer(_)), "{error}");
    for clients in [ClientCerts::Verify as fn(PathBuf) -> ClientCerts, ClientCerts::Require] {
        let shown = client(acceptor(clients), ours.file("ca.pem"), Some(ours.sign("alice"))).await.unwrap();
        assert!(shown.is_some());
        let error = client(acceptor(clients), ours.file("ca.pem"), Some(theirs.sign("alice"))).await.unwrap_err();
        assert!(matches!(error, TlsError::Peer(_)), "{error}");
    }
}
