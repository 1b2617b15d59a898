//! Log of the DHCP service: a line for each step of a machine to its address and its boot file.

use std::io;
use std::mem::discriminant;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{debug, info, warn};

use super::interfaces::Unserved;
use super::logged_once::{LoggedOnce, Reason};
use super::socket::Malformed;
use crate::boot::Refusal;
use crate::dhcp::session::{DhcpPort, NoReply, Outcome, Request};
use crate::dhcp::wire::{HardwareAddress, Message, MessageType, Reply};

/// Shortest interval of a warning that any machine on the network can cause.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Writer of the log, which limits the rate of its warnings.
#[derive(Debug, Default)]
pub(super) struct DhcpLog {
    pool_exhausted: RateLimit,
    receive_failed: RateLimit,
    send_failed: RateLimit,
    declined: RateLimit,
    in_use: RateLimit,
    not_listed: RateLimit,
    logged_once: LoggedOnce,
}

impl DhcpLog {
    /// Logs the outcome of a request.
    pub(super) fn outcome(&mut self, request: &Request, outcome: &Outcome) {
        match outcome {
            Outcome::Send { reply, boot: Some(Err(refusal)), .. } => {
                log_reply(request, reply, None);
                self.refusal(request, refusal);
            }
            Outcome::Send { reply, boot: Some(Ok(boot)), .. } => {
                log_reply(request, reply, Some(boot.platform.to_string()));
            }
            Outcome::Send { reply, boot: None, .. } => log_reply(request, reply, None),
            Outcome::NoReply(reason) => self.no_reply(request, reason),
        }
    }

    fn no_reply(&mut self, request: &Request, reason: &NoReply) {
        let machine = request.message.header.hardware();
        match reason {
            NoReply::NoBootFile(refusal) => self.refusal(request, refusal),
            NoReply::TakesAddress { address, server } => {
                info!(%machine, %address, %server, "takes its address from another DHCP server");
            }
            NoReply::Released(address) => info!(%machine, %address, "DHCP lease released"),
            NoReply::Declined(address) if self.declined.allows() => {
                warn!(%machine, %address, "DHCP address declined: another host uses it; not leased for ten minutes");
            }
            // RFC 2131 §4.3.1: the operator should hear of it.
            NoReply::PoolExhausted(pool) if self.pool_exhausted.allows() => {
                warn!(%machine, "no DHCP offer: every address of {pool} is in use; choose a larger range");
            }
            _ if matters_to_operator(reason)
                && self.is_new(machine, Reason::NoReply(discriminant(reason))) =>
            {
                info!(%machine, kind = ?request.message.kind, "DHCP message not answered: {reason}");
            }
            _ => debug!(%machine, kind = ?request.message.kind, "DHCP message not answered: {reason}"),
        }
    }

    /// Logs a datagram that is not a DHCP message.
    pub(super) fn malformed(&mut self, malformed: &Malformed, peer: SocketAddrV4) {
        let Malformed { error, machine } = malformed;
        let reason = Reason::Malformed(discriminant(error));
        let (is_new, machine) =
            (self.logged_once.is_new(*machine, reason, Instant::now()), machine.map(display));
        if is_new {
            info!(machine, %peer, "DHCP message dropped: {error}");
        } else {
            debug!(machine, %peer, "DHCP message dropped: {error}");
        }
    }

    /// Logs a message from an interface on which nothing is answered.
    pub(super) fn unserved(&mut self, message: &Message, reason: Unserved, matters: bool) {
        let machine = message.header.hardware();
        if matters && self.is_new(machine, Reason::Unserved(reason)) {
            info!(%machine, "DHCP message dropped: {reason}");
        } else {
            debug!(%machine, "DHCP message dropped: {reason}");
        }
    }

    fn refusal(&mut self, request: &Request, refusal: &Refusal) {
        let machine = request.message.header.hardware();
        if self.is_new(machine, Reason::NoBootFile(discriminant(refusal))) {
            info!(%machine, "no boot file: {refusal}");
        } else {
            debug!(%machine, "no boot file: {refusal}");
        }
    }

    fn is_new(&mut self, machine: HardwareAddress, reason: Reason) -> bool {
        self.logged_once.is_new(Some(machine), reason, Instant::now())
    }

    /// Logs an address that is not leased, since a host uses it.
    pub(super) fn address_in_use(&mut self, address: Ipv4Addr) {
        if self.in_use.allows() {
            warn!(%address, "DHCP address not leased: a host without a lease uses it. Exclude it from the range");
        } else {
            debug!(%address, "DHCP address not leased: a host without a lease uses it");
        }
    }

    /// Logs that this server answers a machine in place of another one, if it does.
    pub(super) fn covered(&self, request: &Request, silent: Option<Ipv4Addr>) {
        if let Some(server) = silent {
            let machine = request.message.header.hardware();
            info!(%machine, %server, "answered for another server, which stayed silent");
        }
    }

    /// Logs that machines are told an address which is not in the list of servers.
    pub(super) fn not_listed(&mut self, address: Ipv4Addr) {
        if self.not_listed.allows() {
            warn!(%address, "machines are not shared: this address is not in the list of servers. Add it, or set `advertise`");
        }
    }

    /// Logs a failed receive.
    pub(super) fn receive_failed(&mut self, error: &io::Error) {
        if self.receive_failed.allows() {
            warn!("DHCP message not received: {error}");
        }
    }

    /// Logs a reply that was not sent.
    pub(super) fn send_failed(&mut self, error: &io::Error) {
        if self.send_failed.allows() {
            warn!("DHCP reply not sent: {error}");
        }
    }
}

fn log_reply(request: &Request, reply: &Reply, architecture: Option<String>) {
    let message = &request.message;
    let machine = message.header.hardware();
    // A NAK and the ACK of a proxy hold no address, but the REQUEST does. In a DISCOVER it is only
    // a wish.
    let requested = message.requested.filter(|_| reply.kind != MessageType::Offer);
    let addresses = [Some(reply.header.yiaddr), requested, Some(message.header.ciaddr)];
    let address = addresses.into_iter().flatten().find(|address| !address.is_unspecified()).map(display);
    let file = reply.boot_file().map(display);
    info!(%machine, address, architecture, file, "{}", step(request, reply));
}

/// Returns the name of the step that a reply completes.
fn step(request: &Request, reply: &Reply) -> &'static str {
    match (request.port, reply.kind) {
        (DhcpPort::BootServer, _) => "PXE boot server reply",
        (DhcpPort::Dhcp, MessageType::Offer) => "DHCP offer",
        (DhcpPort::Dhcp, MessageType::Nak) => "DHCP address refused",
        (DhcpPort::Dhcp, _) if request.message.kind == MessageType::Inform => "DHCP information",
        (DhcpPort::Dhcp, _) if reply.header.yiaddr.is_unspecified() => {
            "DHCP acknowledgement with a boot file, beside another DHCP server"
        }
        (DhcpPort::Dhcp, _) => "DHCP lease",
    }
}

/// Returns whether an operator who looks for a machine that gets nothing has to know the reason.
/// The others are wishes of the operator, steps of a machine that is served, and every host of the
/// network that does not boot from it.
fn matters_to_operator(reason: &NoReply) -> bool {
    matches!(
        reason,
        NoReply::NotAllowed(_)
            | NoReply::NoAddress
            | NoReply::NoHardwareAddress
            | NoReply::OtherNetwork
            | NoReply::UnknownNetwork
            | NoReply::NotInPool(_)
            | NoReply::PoolExhausted(_)
            | NoReply::AddressesInUse
            | NoReply::DeclineDisbelieved(_)
            | NoReply::ConflictingServer(_)
            | NoReply::LooksFirst
            | NoReply::LeftTo(_)
    )
}

/// Time of the last warning.
#[derive(Debug, Default)]
struct RateLimit(Option<Instant>);

impl RateLimit {
    /// Returns whether the warning may be written now, and counts it as written.
    fn allows(&mut self) -> bool {
        let allows = self.0.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL);
        if allows {
            self.0 = Some(Instant::now());
        }
        allows
    }
}
