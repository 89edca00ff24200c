//! pgmoor: a PostgreSQL proxy for Kubernetes StatefulSets that keeps client sessions while pods move.
//!
//! # The idea
//! A client session is owned by one task for its whole life. A backend connection (to one pod's PostgreSQL) is
//! something it holds for a while. Pooling, failover and planned moves are one act: *leave a backend at a
//! boundary, choose another, carry the state over.*
//!
//! # The house
//! A module imports only from the floors below it; `tests/architecture.rs` checks that. From the top:
//!
//! | floor | modules | knows |
//! |---|---|---|
//! | doors | `main`, [`cli`] | arguments, configuration file, exit code |
//! | wiring | [`app`] | everyone: starts the tasks, hands out what they share, ends them in order |
//! | windows | [`admin`] | what operators see: metrics, health, status |
//! | shells | [`session`], [`discovery`] | one client; the watch of one cluster |
//! | | [`backend`] | how to reach and log in to one pod's PostgreSQL |
//! | | [`net`] | sockets, TLS, one direction of a relay, many sends in one call |
//! | counters | [`metrics`], [`shutdown`], [`memory`] | numbers; stopping; what the allocator keeps |
//! | machines, pure | [`continuity`] | what a session has built up, what is in flight, when to leave and where to; who listens |
//! | | [`topology`], [`auth`] | who is primary, provably; proofs of identity |
//! | | [`wire`] | frames of the protocol, a small lexer of SQL |
//! | ground, pure | [`config`], [`error`], [`ids`] | what was configured; what we may say to a client; names |
//!
//! The pure floors know no clock, no socket and no log: time is an argument, decisions come out as values.
//!
//! # Life of a byte
//! kernel → [`net::pipe`] reads it into a buffer → [`wire::scan`] walks the frame headers: boring frames (rows, COPY
//! data) only widen the range that may be sent on; a frame of interest is shown to [`continuity::pipeline`] as a slice
//! → the range is written to the other side: a long one at once, a short one with those of other sessions, for which it waits
//! in [`net::outbox`]. Nothing is decoded whole, nothing else is copied between buffers.
//!
//! # Life of a session
//! accept → [`session::handshake`] (TLS, startup, authentication, our own cancel key) → a first backend is joined →
//! frames are relayed and observed → the transaction ends: the backend goes back to [`backend::pool`], which hands it to the next in
//! line, and [`continuity::setup`] says what has to be changed on it; names of statements are those of [`continuity::plans`] → the backend is lost, fenced or to be left: [`continuity::Continuity`] decides →
//! hold, join another, [`continuity::restore`] the state, go on → Terminate.
//!
//! # Life of a transaction that loses its server
//! Its requests and a hash of its answers stand in [`continuity::journal`]; before its COMMIT [`continuity::guard`] asked for
//! what tells the outcome → the backend is lost: [`continuity::loss`] says what may have been committed,
//! [`continuity::survey`] what the statements may do twice → on the next backend, [`continuity::inquest`] and
//! [`continuity::commit`] find out about a COMMIT in doubt → it is told, or the journal is fed once more and its answers
//! checked up to where the client had come → the session goes on.
//!
//! # Life of a notification
//! A session LISTENs: it subscribes to a channel at [`session::ear`], one task and one backend for all that listen in its
//! database → [`continuity::ear::Ear`] says what to ask that backend and who wants what comes → the notification waits, in
//! order and bounded, in the session's inbox. The primary changes: the ear is at the next one before the sessions are.
//!
//! # Life of a role change
//! A pod's label or the leader object changes, a session finds its backend dead, or a probe answers something new →
//! [`discovery`] feeds [`topology::Topology`] → it orders probes, proves the new primary and publishes a
//! [`topology::routing::RoutingTable`] → every session wakes, asks where it stands, and leaves, is cut or stays.

pub mod admin;
pub mod app;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod continuity;
pub mod discovery;
pub mod error;
pub mod ids;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod session;
pub mod shutdown;
pub mod topology;
pub mod wire;
