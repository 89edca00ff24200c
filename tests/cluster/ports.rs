//! Addresses of our own: a loopback network per cluster, so that clusters side by side never meet on a port.
use std::fs::{File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use super::trouble::{Result, Trouble, Trying};

/// A loopback network 127.A.B.0/24 that no other test process uses while this value lives.
pub struct Subnet {
    a: u8,
    b: u8,
    /// Holds the claim; the kernel gives it up with the process.
    _claim: File,
}

impl Subnet {
    /// Claims a free network.
    pub fn take() -> Result<Self> {
        let claims = std::env::temp_dir().join("pgmoor-test-networks");
        std::fs::create_dir_all(&claims).trying(|| format!("making {}", claims.display()))?;
        // Every user's tests claim here; only the folder's owner can open it to them, and has.
        drop(std::fs::set_permissions(&claims, Permissions::from_mode(0o1777)));
        for a in 20..=30_u8 {
            for b in 0..=255_u8 {
                let path = claims.join(format!("127.{a}.{b}"));
                let file = match File::options().create(true).append(true).open(&path) {
                    Ok(file) => file,
                    // Another user's, who may be using it.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => continue,
                    Err(error) => return Err(error.into()),
                };
                match file.try_lock() {
                    Ok(()) => return Ok(Self { a, b, _claim: file }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => return Err(error.into()),
                }
            }
        }
        Err(Trouble::new("every loopback network 127.20.0.0 .. 127.30.255.0 is claimed by a test"))
    }

    /// The address 127.A.B.`host`. By custom of this module tree: 1 is the control plane, 10 and up are pods.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.a, self.b, host)
    }
}

/// A free port of an address. Nobody else takes ports of an address inside a claimed [`Subnet`], so it stays free.
pub fn free_port(address: impl Into<IpAddr>) -> Result<SocketAddr> {
    free_ports(address).map(|[port]| port)
}

/// Several of them, all different.
pub fn free_ports<const N: usize>(address: impl Into<IpAddr>) -> Result<[SocketAddr; N]> {
    let address = address.into();
    let mut found = [(address, 0).into(); N];
    // Kept until all are found: a port in use is not given out twice.
    let mut listeners = Vec::new();
    for port in &mut found {
        let listener = TcpListener::bind((address, 0)).trying(|| format!("looking for a free port of {address}"))?;
        *port = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(found)
}
