//! Who comes again makes a short handshake, until the certificate is another.

use std::net::Ipv4Addr;

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A certificate and its key in a folder.
fn files(folder: &Path) -> ServerFiles {
    let certified = rcgen::generate_simple_self_signed(vec!["pgmoor.test".to_owned()]).unwrap();
    let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    ServerFiles { cert, key, clients: ClientCerts::Ignore }
}

/// One connection: how its handshake went, as the client saw it.
async fn handshake(acceptor: &TlsAcceptor, client: &BackendTls) -> HandshakeKind {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(socket).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let come = async {
        let mut stream = client.connect(TcpStream::connect(address).await.unwrap(), address).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap(); // the tickets come before it
        assert_eq!(heard, "hello");
        let Stream::TlsClient(tls) = stream else { panic!("no TLS") };
        tls.get_ref().1.handshake_kind().unwrap()
    };
    tokio::join!(serve, come).1
}

#[tokio::test]
async fn a_client_that_comes_again_makes_a_short_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let acceptor = TlsAcceptor::new(&files(folder.path())).unwrap();
    let client = BackendTls::new(TlsMode::Require, None).unwrap().with_name("pgmoor.test").unwrap();
    let strangers = || BackendTls::new(TlsMode::Require, None).unwrap().with_name("pgmoor.test").unwrap();
    assert_eq!(handshake(&acceptor, &client).await, HandshakeKind::Full);
    assert_eq!(handshake(&acceptor, &client).await, HandshakeKind::Resumed);
    // Nor does it matter how many others come meanwhile.
    for _ in 0..260 {
        assert_eq!(handshake(&acceptor, &strangers()).await, HandshakeKind::Full);
    }
    assert_eq!(handshake(&acceptor, &client).await, HandshakeKind::Resumed);
    // What was agreed on with another certificate, or other demands on clients, does not count.
    let renewed = TlsAcceptor::new(&files(folder.path())).unwrap();
    assert_eq!(handshake(&renewed, &client).await, HandshakeKind::Full);
    assert_eq!(handshake(&renewed, &client).await, HandshakeKind::Resumed);
}
