//! The log line that closes a connection.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::transmit::TransmitError;
use super::turn::{End, ReadTotals};

/// A connection, as its closing log line describes it.
#[derive(Debug)]
pub(crate) struct ConnectionLog<'a> {
    pub protocol: &'static str,
    pub peer: SocketAddr,
    /// Name of the export that an NBD client chose.
    pub export: Option<&'a str>,
    pub totals: ReadTotals,
    pub since: Instant,
}

impl ConnectionLog<'_> {
    /// Logs how the connection ended.
    pub(crate) fn closed<R: Display>(&self, end: &Result<End<R>, TransmitError>) {
        let &Self { protocol, peer, export, totals: ReadTotals { reads, bytes }, since } = self;
        let seconds = since.elapsed().as_secs();
        match end {
            Err(error @ TransmitError::Image(_)) => {
                warn!(%peer, export, reads, bytes, seconds, "{protocol} connection closed: {error}. Restore the original file");
            }
            // A connection without a root is one of many: a GETATTR, a browser, a port scan.
            Ok(end) if export.is_none() && reads == 0 => {
                debug!(%peer, seconds, "{protocol} connection closed: {end}");
            }
            Err(TransmitError::Peer(error)) if export.is_none() && reads == 0 => {
                debug!(%peer, seconds, "{protocol} connection lost: {error}");
            }
            Ok(end) => info!(%peer, export, reads, bytes, seconds, "{protocol} connection closed: {end}"),
            Err(TransmitError::Peer(error)) => {
                info!(%peer, export, reads, bytes, seconds, "{protocol} connection lost: {error}");
            }
        }
    }
}
