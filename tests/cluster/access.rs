//! Who may talk to the API server: the authority behind its certificate, and kubeconfigs.
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;

use super::trouble::{Result, Trying};

/// A certificate authority made for one test.
pub struct Authority {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key (PKCS #8), both PEM.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority of this name.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        Ok(Self { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's own certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// A server certificate for these names and addresses.
    pub fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone())?;
        params.subject_alt_names.extend(addresses.iter().map(|&address| SanType::IpAddress(address)));
        if let Some(name) = names.first() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client certificate for this user.
    pub fn client(&self, user: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// As whom a client speaks to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// A member of system:masters: may do everything.
    Admin,
    /// A ServiceAccount, with what RBAC grants it.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Account {
    /// The ServiceAccount `name` of `namespace`.
    pub fn service(namespace: &str, name: &str) -> Self {
        Self::Service { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// What its user and its context are called in a kubeconfig.
    pub fn context(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Service { namespace, name } => format!("{namespace}-{name}"),
        }
    }

    fn namespace(&self) -> &str {
        match self {
            Self::Admin => "default",
            Self::Service { namespace, .. } => namespace,
        }
    }
}

/// Writes a kubeconfig whose one context, current and named [`Account::context`], leads to `server`
/// (`https://address:port`). JSON is YAML, so every client reads it. The admin's is for our user alone.
pub fn write_kubeconfig(
    path: &Path,
    account: &Account,
    server: &str,
    authority: &Path,
    token: &str,
) -> Result<PathBuf> {
    let context = account.context();
    let text = serde_json::to_string_pretty(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{ "name": "plane", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": context, "user": { "token": token } }],
        "contexts": [{
            "name": context,
            "context": { "cluster": "plane", "user": context, "namespace": account.namespace() },
        }],
    }))?;
    let mode = match account {
        Account::Admin => 0o600,
        Account::Service { .. } => 0o644,
    };
    write(path, &text, mode)?;
    Ok(path.to_owned())
}

/// Writes a file that only the given mode's users can read, from its first byte on.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::options().create(true).write(true).truncate(true).mode(mode).open(path)?;
        // The mode given to open is narrowed by the umask.
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())
    };
    write().trying(|| format!("writing {}", path.display()))
}
