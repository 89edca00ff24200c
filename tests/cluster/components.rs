//! How each component of a control plane is started: its options, keys and addresses, and when it counts as ready.
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::access::{self, Authority};
use super::children::{Child, Program};
use super::ports::free_port;
use super::toolbox::Toolbox;
use super::trouble::{Result, Trouble, Trying, eventually};

/// How long a component may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(60);
/// For whom tokens are made: the API server itself.
pub const AUDIENCE: &str = "https://kubernetes.default.svc";
const CONTROLLERS: &str = "statefulset,deployment,replicaset,endpoint,endpointslice,garbagecollector,disruption,\
                           namespace,serviceaccount";

/// Does the API server answer watches from its own memory?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchCache {
    /// As in production: a watch from the last hundred or so events is served although etcd has compacted them.
    On,
    /// Every list and watch goes to etcd, so that a compaction makes old ones fail with 410 at once.
    Off,
}

/// Where a control plane's components are and what they share.
pub struct Site {
    /// The programs.
    pub toolbox: Toolbox,
    /// Keys, logs and data.
    pub folder: PathBuf,
    /// etcd's clients connect here.
    pub etcd: SocketAddr,
    /// etcd's other members would connect here.
    pub peer: SocketAddr,
    /// The API server's clients connect here.
    pub apiserver: SocketAddr,
    /// Chosen once, for every start of the API server.
    pub watch_cache: WatchCache,
}

impl Site {
    /// The admin's kubeconfig, which the controllers use too.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig-admin")
    }

    /// The file of the authority's certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Where a component's output goes.
    pub fn log(&self, component: &str) -> PathBuf {
        self.folder.join(format!("{component}.log"))
    }

    /// Writes keys, certificates and the file of tokens, in which `admin_token` may do everything.
    pub fn write_secrets(&self, authority: &Authority, admin_token: &str) -> Result<()> {
        let names = ["kubernetes.default.svc", "kubernetes.default", "kubernetes", "localhost"];
        let addresses = [self.apiserver.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let server = authority.server(&names, &addresses)?;
        let accounts = rcgen::KeyPair::generate()?;
        std::fs::create_dir(self.folder.join("certificates"))?;
        let write = |name: &str, text: &str, mode| access::write(&self.folder.join(name), text, mode);
        access::write(&self.authority_file(), authority.pem(), 0o644)?;
        write("apiserver.crt", &server.certificate, 0o644)?;
        write("apiserver.key", &server.key, 0o600)?;
        write("accounts.key", &accounts.serialize_pem(), 0o600)?;
        write("accounts.pub", &accounts.public_key_pem(), 0o644)?;
        write("tokens.csv", &format!("{admin_token},admin,admin,system:masters\n"), 0o600)
    }

    /// Starts etcd and waits until it answers.
    pub async fn start_etcd(&self) -> Result<Child> {
        let (client, peer) = (format!("http://{}", self.etcd), format!("http://{}", self.peer));
        let child = Program::new("etcd", self.toolbox.etcd())
            .folder(&self.folder)
            .arg(format!("--data-dir={}", self.folder.join("etcd").display()))
            .args(["--name=plane", "--unsafe-no-fsync", "--log-level=warn", "--logger=zap"])
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=plane={peer}"))
            .start(&self.log("etcd"))?;
        ready(&child, || async { etcd_post(self.etcd, "/v3/maintenance/status", &json!({})).await.ok() }).await?;
        Ok(child)
    }

    /// Starts the API server and waits until `client` hears that it is ready.
    pub async fn start_apiserver(&self, client: &kube::Client) -> Result<Child> {
        let child = self.apiserver_program().start(&self.log("kube-apiserver"))?;
        ready(&child, || async {
            let request = axum::http::Request::get("/readyz").body(Vec::new()).ok()?;
            client.request_text(request).await.is_ok_and(|answer| answer == "ok").then_some(())
        })
        .await?;
        Ok(child)
    }

    fn apiserver_program(&self) -> Program {
        let file = |option: &str, name: &str| format!("--{option}={}", self.folder.join(name).display());
        let (ip, port) = (self.apiserver.ip(), self.apiserver.port());
        Program::new("kube-apiserver", self.toolbox.kube_apiserver())
            .folder(&self.folder)
            .arg(format!("--etcd-servers=http://{}", self.etcd))
            .args([format!("--bind-address={ip}"), format!("--secure-port={port}")])
            // Named, so that it does not look for an interface that leads out of the machine.
            .args([format!("--advertise-address={ip}"), "--external-hostname=kubernetes".to_owned()])
            .args([file("tls-cert-file", "apiserver.crt"), file("tls-private-key-file", "apiserver.key")])
            .args([file("cert-dir", "certificates"), file("token-auth-file", "tokens.csv")])
            .args([file("service-account-key-file", "accounts.pub")])
            .args([file("service-account-signing-key-file", "accounts.key")])
            .args([format!("--service-account-issuer={AUDIENCE}"), format!("--api-audiences={AUDIENCE}")])
            .arg(format!("--watch-cache={}", self.watch_cache == WatchCache::On))
            .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--anonymous-auth=false"])
            // Compaction is the test's to command; and no Endpoints of a loopback address, which would be refused.
            .args(["--etcd-compaction-interval=0", "--endpoint-reconciler-type=none"])
            .args(["--service-cluster-ip-range=10.96.0.0/16", "--insecure-port=0", "--allow-privileged=true"])
            .args(["--max-requests-inflight=0", "--enable-priority-and-fairness=false", "--profiling=false"])
    }

    /// Starts the controllers. They need no waiting for: their work shows in objects.
    pub fn start_controllers(&self) -> Result<Child> {
        let port = free_port(self.apiserver.ip())?;
        Program::new("kube-controller-manager", self.toolbox.kube_controller_manager())
            .folder(&self.folder)
            .arg(format!("--kubeconfig={}", self.admin_kubeconfig().display()))
            .args([format!("--bind-address={}", port.ip()), format!("--secure-port={}", port.port())])
            .arg(format!("--cert-dir={}", self.folder.join("certificates").display()))
            .args(["--leader-elect=false", "--port=0", "--kube-api-qps=100", "--kube-api-burst=200"])
            .arg(format!("--controllers={CONTROLLERS}"))
            .start(&self.log("kube-controller-manager"))
    }

    /// Compacts etcd up to now.
    pub async fn compact_etcd(&self) -> Result<()> {
        // Any answer's header names the store's revision; a range over one absent key is the cheapest question.
        let range = etcd_post(self.etcd, "/v3/kv/range", &json!({ "key": "AA==" })).await?;
        let revision = &range["header"]["revision"];
        if revision.is_null() {
            return Err(Trouble::new(format!("etcd names no revision: {range}")));
        }
        etcd_post(self.etcd, "/v3/kv/compaction", &json!({ "revision": revision, "physical": true })).await?;
        Ok(())
    }
}

/// A temporary folder that other users may enter: the pods run as user postgres.
pub fn open_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("pgmoor-plane-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Waits for `look` to succeed; a child that ends meanwhile, or is not ready in time, fails with the end of its log.
async fn ready<T, F: Future<Output = Option<T>>>(child: &Child, look: impl FnMut() -> F) -> Result<T> {
    let what = format!("{} to be ready", child.name());
    let waited = tokio::select! {
        waited = eventually(&what, READY, look) => waited,
        status = child.ended() => Err(Trouble::new(format!("{} ended early: {status}", child.name()))),
    };
    waited.map_err(|trouble| Trouble::new(format!("{trouble}\nthe end of its log:\n{}", child.log_tail(20))))
}

/// One question to etcd's JSON gateway.
async fn etcd_post(address: SocketAddr, path: &str, question: &Value) -> Result<Value> {
    let ask = async {
        let body = question.to_string();
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer =
        tokio::time::timeout(Duration::from_secs(10), ask).await.trying(|| format!("asking etcd {path}"))??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split_whitespace().nth(1) == Some("200") => Ok(serde_json::from_str(body)?),
        Some(_) | None => Err(Trouble::new(format!("etcd answered {path} with: {answer}"))),
    }
}
