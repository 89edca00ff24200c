//! The cluster of the tests: a real control plane, real Patroni and real PostgreSQL, as processes of this machine.
//!
//! ```text
//!   world                         one of all that follows, shared by the tests of a binary
//!   proxy   · patroni · faults    deploy/pgmoor and deploy/demo applied, asked, broken
//!   outposts                      what a test puts between pgmoor and PostgreSQL
//!   overlay · pods                manifests adapted; pods as the API server shows them
//!   kubelet                       what a node does: bind, run, report, end
//!   plane · components            etcd, kube-apiserver, kube-controller-manager
//!   kubectl · access              what a person types; who may do what
//!   relay                         a TCP path that stalls, cuts or swallows
//!   toolbox                       every binary that is needed, installed or built once
//!   children · ports · trouble    processes that die with us; addresses of our own; errors
//! ```
#![allow(dead_code, reason = "each test binary uses its own part of the cluster")]
#![allow(unreachable_pub, reason = "a module tree shared by test binaries has no outer crate to be public for")]
#![allow(clippy::disallowed_methods, reason = "the cluster lives in real time; no test pauses its clock")]

pub mod access;
pub mod children;
pub mod components;
pub mod faults;
pub mod kubectl;
pub mod kubelet;
pub mod outposts;
pub mod overlay;
pub mod patroni;
pub mod plane;
pub mod pods;
pub mod ports;
pub mod proxy;
pub mod relay;
pub mod toolbox;
pub mod trouble;
pub mod world;
