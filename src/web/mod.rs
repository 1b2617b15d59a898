//! The status over HTTP: JSON for programs, a page for people with its events, metrics for Prometheus.
//!
//! It is served on a Unix socket, where `isowire next` also changes what a machine boots, and by TCP,
//! which changes nothing.

mod connection;
pub(crate) mod control;
mod exposition;
mod reports;
mod routes;
pub mod server;

pub use server::StatusSocket;
