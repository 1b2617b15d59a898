//! The status over HTTP: JSON for programs, a page for people, and events for the page. Read-only.
//!
//! It is served on a Unix socket, and on a TCP port if the operator asks for one.

mod connection;
pub(crate) mod control;
mod exposition;
mod reports;
mod routes;
pub mod server;

pub use server::StatusSocket;
