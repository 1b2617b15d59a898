//! Decisions for one TFTP client. Pure: packets and the time in, runs of blocks out.
//!
//! [`classify`] decides about a datagram to the well-known port. A read request becomes a
//! [`Transfer`].

#[cfg(test)]
mod tests;
mod timer;
mod transfer;

use std::time::Duration;

use super::wire::{ErrorCode, Packet, TftpParseError, TftpRequest, TransferMode};

pub use transfer::{Blocks, DataBlock, Limits, Transfer, TransferOutcome, Transmit};

/// Age of a request up to which a second one like it, from the same port, is a copy by the network.
const COPY_AGE: Duration = Duration::from_secs(1);

/// Action on a datagram that does not belong to a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DatagramAction<'a> {
    /// Starts a transfer of the file.
    Read(TftpRequest<'a>),
    /// Answers with an ERROR.
    Refuse(ErrorCode, &'static str),
    Ignore,
}

/// Decides about a datagram to the well-known port that does not belong to a transfer.
pub(crate) fn classify(packet: Result<Packet<'_>, TftpParseError>) -> DatagramAction<'_> {
    match packet {
        Ok(Packet::Rrq(request)) if request.mode == TransferMode::Octet => DatagramAction::Read(request),
        // RFC 1350 §1: netascii changes line ends, so the file would have another size than
        // `tsize`. RFC 1123 §4.2.2.1: mail should not be supported.
        Ok(Packet::Rrq(_)) => DatagramAction::Refuse(
            ErrorCode::IllegalOperation,
            "only octet (binary) mode is served: repeat in octet mode",
        ),
        Ok(Packet::Wrq(_)) => DatagramAction::Refuse(ErrorCode::AccessViolation, "this server is read-only"),
        // RFC 1350 §7: an ERROR is not acknowledged. Two servers would otherwise answer each other
        // without end.
        Ok(Packet::Error { .. }) => DatagramAction::Ignore,
        Ok(Packet::Data { .. } | Packet::Ack { .. } | Packet::Oack(_)) => STRAY,
        Err(_) => DatagramAction::Refuse(ErrorCode::IllegalOperation, "not a TFTP packet"),
    }
}

/// Decides about a datagram that another client sent to the port of a transfer.
pub(crate) fn classify_stray(packet: Result<Packet<'_>, TftpParseError>) -> DatagramAction<'_> {
    match packet {
        Ok(Packet::Error { .. }) => DatagramAction::Ignore,
        // RFC 1350 §4: its source gets an ERROR, and the transfer goes on.
        _ => STRAY,
    }
}

const STRAY: DatagramAction<'static> =
    DatagramAction::Refuse(ErrorCode::UnknownTransferId, "this port serves no transfer of yours");

/// Progress of a transfer, for a second request from the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    /// The client has sent nothing since its request.
    #[default]
    Unheard,
    /// The client takes part.
    Heard,
    /// Every block was sent at least once: the client may be done.
    AllSent,
}

impl Progress {
    /// Returns whether the same request from the same port, `age` after the first, is a repetition.
    pub(crate) fn covers_repeated_request(self, age: Duration) -> bool {
        match self {
            // The retransmission of the transfer answers it.
            Self::Unheard => true,
            // RFC 1350 §4 expects copies of a request made by the network.
            Self::Heard => age < COPY_AGE,
            // A client that reads the file again, as PXELINUX does with its menus.
            Self::AllSent => false,
        }
    }
}
