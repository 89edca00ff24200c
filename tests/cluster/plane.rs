//! A control plane: etcd, kube-apiserver and kube-controller-manager, on a loopback network of their own.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use kube::config::AuthInfo;
use tempfile::TempDir;

use super::access::{self, Account, Authority};
use super::children::{Child, tail};
pub use super::components::WatchCache;
use super::components::{AUDIENCE, Site, open_folder};
use super::kubectl::Kubectl;
use super::ports::{Subnet, free_ports};
use super::toolbox::Toolbox;
use super::trouble::{Result, Trouble, Trying};

/// A running control plane. Dropping it ends its processes and removes its folder.
pub struct ControlPlane {
    // Fields drop in this order: processes before the folder they write to.
    controllers: Mutex<Option<Child>>,
    apiserver: Mutex<Option<Child>>,
    _etcd: Child,
    site: Site,
    admin_token: String,
    authority: Authority,
    _folder: TempDir,
    subnet: Subnet,
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    pub async fn start(toolbox: &Toolbox) -> Result<Self> {
        Self::start_with(toolbox, WatchCache::On).await
    }

    /// [`Self::start`], choosing how watches are answered.
    pub async fn start_with(toolbox: &Toolbox, watch_cache: WatchCache) -> Result<Self> {
        let subnet = Subnet::take()?;
        let [etcd, peer, apiserver] = free_ports(subnet.address(1))?;
        let folder = open_folder()?;
        let path = folder.path().to_owned();
        let site = Site { toolbox: toolbox.clone(), folder: path, etcd, peer, apiserver, watch_cache };
        let authority = Authority::new("pgmoor test authority")?;
        let admin_token = format!("{:032x}", rand::random::<u128>());
        site.write_secrets(&authority, &admin_token)?;
        let (server, authority_file) = (url(apiserver), site.authority_file());
        access::write_kubeconfig(&site.admin_kubeconfig(), &Account::Admin, &server, &authority_file, &admin_token)?;
        let plane = Self {
            controllers: Mutex::new(None),
            apiserver: Mutex::new(None),
            _etcd: site.start_etcd().await?,
            site,
            admin_token,
            authority,
            _folder: folder,
            subnet,
        };
        plane.start_apiserver().await?;
        plane.start_controllers()?;
        Ok(plane)
    }

    /// Its loopback network; addresses from `.10` on are for pods.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// Where the API server listens: what a relay is to be put before.
    pub fn address(&self) -> SocketAddr {
        self.site.apiserver
    }

    /// The API server's address as a URL.
    pub fn url(&self) -> String {
        url(self.address())
    }

    /// The file of the authority that signed the API server's certificate. The certificate is good for this plane's
    /// address, for 127.0.0.1 (a relay) and for the names a pod would use.
    pub fn authority_file(&self) -> PathBuf {
        self.site.authority_file()
    }

    /// A folder of this plane's own, open to every user; gone with the plane.
    pub fn folder(&self) -> &Path {
        &self.site.folder
    }

    /// A token that may do everything.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A fresh token of a ServiceAccount, good for an hour, asked of the API server as a kubelet asks for it.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, namespace);
        let spec = TokenRequestSpec { audiences: Some(vec![AUDIENCE.to_owned()]), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .trying(|| format!("asking for a token of {namespace}/{name}"))?;
        let token = answer.status.and_then(|status| status.token);
        token.ok_or_else(|| Trouble::new("a TokenRequest came back without a token"))
    }

    /// A kubeconfig for this account, whose one context is current and named [`Account::context`]. A ServiceAccount
    /// must exist.
    pub async fn kubeconfig(&self, account: &Account) -> Result<PathBuf> {
        self.kubeconfig_through(account, self.address()).await
    }

    /// [`Self::kubeconfig`] leading to another address, which should be a relay to [`Self::address`].
    pub async fn kubeconfig_through(&self, account: &Account, server: SocketAddr) -> Result<PathBuf> {
        let token = match account {
            Account::Admin => self.admin_token.clone(),
            Account::Service { namespace, name } => self.service_account_token(namespace, name).await?,
        };
        let file = format!("kubeconfig-{}-{}-{}", account.context(), server.ip(), server.port());
        access::write_kubeconfig(&self.folder().join(file), account, &url(server), &self.authority_file(), &token)
    }

    /// kubectl as the admin.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.site.toolbox.kubectl(), &self.site.admin_kubeconfig(), self.folder())
    }

    /// A client that may do everything.
    pub fn client(&self) -> Result<kube::Client> {
        self.client_with(&self.admin_token, self.address())
    }

    /// A client with this token that connects to `server`: [`Self::address`] or a relay to it.
    pub fn client_with(&self, token: &str, server: SocketAddr) -> Result<kube::Client> {
        let mut config = kube::Config::new(url(server).parse()?);
        config.root_cert = Some(vec![self.authority.der().to_vec()]);
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        Ok(kube::Client::try_from(config)?)
    }

    /// Starts the API server (again) at its address and waits until it is ready. After a long outage the controllers
    /// take up to half a minute to come back by themselves; stop and start them where a test cannot wait for that.
    pub async fn start_apiserver(&self) -> Result<()> {
        if lock(&self.apiserver).is_some() {
            return Err(Trouble::new("the API server is running"));
        }
        let child = self.site.start_apiserver(&self.client()?).await?;
        *lock(&self.apiserver) = Some(child);
        Ok(())
    }

    /// Kills the API server, as a crashed node would. Connections to it are reset and new ones refused.
    pub async fn stop_apiserver(&self) -> Result<()> {
        let child = lock(&self.apiserver).take();
        match child {
            Some(child) => child.kill().await.map(drop),
            None => Err(Trouble::new("the API server is not running")),
        }
    }

    /// Starts the controllers (again).
    pub fn start_controllers(&self) -> Result<()> {
        let mut controllers = lock(&self.controllers);
        if controllers.is_some() {
            return Err(Trouble::new("the controllers are running"));
        }
        *controllers = Some(self.site.start_controllers()?);
        Ok(())
    }

    /// Kills the controllers: pods that go are not made again until [`Self::start_controllers`].
    pub async fn stop_controllers(&self) -> Result<()> {
        let child = lock(&self.controllers).take();
        match child {
            Some(child) => child.kill().await.map(drop),
            None => Err(Trouble::new("the controllers are not running")),
        }
    }

    /// Compacts etcd up to now: with [`WatchCache::Off`], or after a restart of the API server, a list or watch that
    /// goes on from before this is answered 410.
    pub async fn compact_etcd(&self) -> Result<()> {
        self.site.compact_etcd().await
    }

    /// The last lines of every component's log.
    pub fn logs(&self, lines: usize) -> String {
        let told = |name| format!("--- {name}\n{}\n", tail(&self.site.log(name), lines));
        ["etcd", "kube-apiserver", "kube-controller-manager"].map(told).concat()
    }
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
