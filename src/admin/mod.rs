//! The operators' windows: what pgmoor knows and does, over HTTP.

pub mod http;
pub mod orders;
mod page;
pub mod report;

pub use http::{Sources, serve};
pub use report::{Report, SessionCounts};
