//! The status over HTTP: JSON for programs, a page for people with its events, metrics for Prometheus.
//!
//! It is served on a Unix socket, where `isowire next` and `isowire drain` also change something, and
//! by TCP, which changes nothing.

mod connection;
pub(crate) mod control;
mod exposition;
mod reports;
mod routes;
pub mod server;

pub use server::StatusSocket;
