//! Outcomes of a session's turns and totals of a connection: plain data without a socket, so that
//! sessions can use it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Next step of a connection, once the replies of a turn have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn<R> {
    /// Every complete request was answered: read more.
    Drained,
    /// Enough for one turn: let other connections run, then go on with the input.
    Full,
    /// Too many requests wait for the disk: go on with the input when a range was read.
    Waiting,
    /// The session ends the connection, for this reason.
    End(R),
}

/// Orderly end of a connection; a failed one ends with a
/// [`TransmitError`](super::TransmitError).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<R> {
    /// The client closed the connection.
    Closed,
    /// The session ended the connection.
    Session(R),
}

impl<R: fmt::Display> fmt::Display for End<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("the client closed it"),
            End::Session(reason) => reason.fmt(f),
        }
    }
}

/// Reads that were answered on a connection, and their payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadTotals {
    pub reads: u64,
    pub bytes: u64,
}

impl ReadTotals {
    /// Counts one read of `len` bytes.
    pub(crate) fn count(&mut self, len: u32) {
        self.reads += 1;
        self.bytes += u64::from(len);
    }
}
