//! Names: what a pod, a session, a timeline or a place in the WAL is called. An address is never an identity.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text; no check is made.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// A pod's stable name (`pg-1`): it outlives every incarnation of the pod.
    PodName
}
text_id! {
    /// One incarnation of a pod: the `metadata.uid` Kubernetes gave it.
    PodUid
}
text_id! {
    /// A cluster's name in pgmoor's configuration.
    ClusterName
}
text_id! {
    /// An availability zone (`topology.kubernetes.io/zone`).
    Zone
}

/// One incarnation of one pod. A new address is the same pod; a new uid is not the same incarnation.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct PodId(Arc<Incarnation>);

/// What a [`PodId`] consists of.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// The stable name.
    pub name: PodName,
    /// The incarnation.
    pub uid: PodUid,
}

impl PodId {
    /// Joins a name and an incarnation.
    pub fn new(name: impl AsRef<str>, uid: impl AsRef<str>) -> Self {
        Self(Arc::new(Incarnation { name: PodName::new(name), uid: PodUid::new(uid) }))
    }
}

impl Deref for PodId {
    type Target = Incarnation;

    fn deref(&self) -> &Incarnation {
        &self.0
    }
}

/// Sessions compare pods for each transaction, mostly the very same.
impl PartialEq for PodId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for PodId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.uid)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id! {
    /// A WAL timeline (1 and up): every promotion starts a higher one.
    Timeline(u32)
}
number_id! {
    /// `system_identifier` of a PostgreSQL cluster: two data folders with different ones are strangers.
    SystemId(u64)
}
number_id! {
    /// The number of a routing table: it grows by one whenever the table differs.
    Epoch(u64)
}
number_id! {
    /// A client session's number within this process.
    SessionId(u64)
}

/// A place in the WAL, in bytes from its beginning; written `X/Y` in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl std::str::FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an LSN (expected X/Y in hexadecimal)");
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_writes() {
        for text in ["0/0", "0/16B3748", "A/FFFFFFFF", "FFFFFFFF/1"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "16B3748", "0/", "x/1", "1/100000000"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_uid_is_another_incarnation() {
        assert_ne!(PodId::new("pg-0", "a"), PodId::new("pg-0", "b"));
        assert_eq!(PodId::new("pg-0", "a").to_string(), "pg-0/a");
    }
}
