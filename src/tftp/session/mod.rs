//! One TFTP client: what it gets next. Pure: packets and the time in, runs of blocks out; no I/O, no clock.
//!
//! [`open`] decides what a datagram to the well-known port earns. A read request becomes a [`Transfer`].

#[cfg(test)]
mod tests;
mod timer;
mod transfer;

use std::time::Duration;

use super::wire::{ErrorCode, Packet, TftpParseError, TftpRequest, TransferMode};

pub use transfer::{Blocks, DataBlock, Limits, Transfer, TransferOutcome, Transmit};

/// The same request from the same port is a copy made by the network for this long.
const COPY_AGE: Duration = Duration::from_secs(1);

/// What a datagram to the well-known port earns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opening<'a> {
    /// A file is wanted, as bytes.
    Read(TftpRequest<'a>),
    Refuse(ErrorCode, &'static str),
    /// An ERROR is never answered: two servers would talk for ever.
    Ignore,
}

/// Decides what a datagram to the well-known port earns, when it belongs to no transfer.
pub(crate) fn open(packet: Result<Packet<'_>, TftpParseError>) -> Opening<'_> {
    match packet {
        Ok(Packet::Rrq(request)) if request.mode == TransferMode::Octet => Opening::Read(request),
        // Translated text has another size than the file, and boot files are not text.
        Ok(Packet::Rrq(_)) => Opening::Refuse(
            ErrorCode::IllegalOperation,
            "only octet (binary) mode is served: repeat in octet mode",
        ),
        Ok(Packet::Wrq(_)) => Opening::Refuse(ErrorCode::AccessViolation, "this server is read-only"),
        Ok(Packet::Error { .. }) => Opening::Ignore,
        Ok(Packet::Data { .. } | Packet::Ack { .. } | Packet::Oack(_)) => STRAY,
        Err(_) => Opening::Refuse(ErrorCode::IllegalOperation, "not a TFTP packet"),
    }
}

/// Decides what a datagram to a transfer's port from anybody but its client earns. The transfer goes on.
pub(crate) fn stray(packet: Result<Packet<'_>, TftpParseError>) -> Opening<'_> {
    match packet {
        Ok(Packet::Error { .. }) => Opening::Ignore,
        // RFC 1350 §4: an error packet should be sent to the source of the incorrect packet.
        _ => STRAY,
    }
}

const STRAY: Opening<'static> =
    Opening::Refuse(ErrorCode::UnknownTransferId, "this port serves no transfer of yours");

/// How far a transfer has come, for whoever gets a second request from the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    /// The client answered nothing yet.
    #[default]
    Unheard,
    /// The client takes part.
    Heard,
    /// Every block left at least once: the client may well be done.
    AllSent,
}

impl Progress {
    /// Whether the same request from the same port, `age` after the first, asks for nothing new. A different
    /// request always does: the client gave the first one up, or its last ACK is still on its way.
    pub(crate) fn covers_repeated_request(self, age: Duration) -> bool {
        match self {
            // The transfer's own retransmission is the answer.
            Self::Unheard => true,
            Self::Heard => age < COPY_AGE,
            Self::AllSent => false,
        }
    }
}
