//! Decides the reply to a DHCP message: a pure function of the message, the leases and the time.
//!
//! ```text
//! port 4011 ------------------> boot server: ACK with the boot file    (either role)
//! port 67 --- Role::Proxy ----> offer without an address, to PXE and HTTP boot clients only
//!         '-- Role::Server ---> leases (RFC 2131 §4.3), and the boot file in the same replies
//! ```

mod boot_offer;
mod server_role;

use std::net::{Ipv4Addr, SocketAddrV4};

use super::lease::UnixTime;
use super::wire::{Header, Message, MessageType, Opcode, Reply, ReplyOption};
use crate::boot::{self, Quirk, Refusal};
use crate::export::Allowed;

pub(crate) use boot_offer::{BootOffer, mac};
pub use server_role::{ConflictSeen, Network, ServerRole};

/// A message, and the port and interface that it arrived on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub message: Message,
    pub port: DhcpPort,
    /// Sender of the datagram.
    pub from: SocketAddrV4,
    /// Our address on the interface it came in on.
    pub local: Ipv4Addr,
    /// The address clients are told: `local`, unless the operator advertises another.
    pub server: Ipv4Addr,
}

/// The port a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpPort {
    /// 67.
    Dhcp,
    /// 4011.
    BootServer,
}

/// The address that a reply is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255:68 on the interface the request arrived on. Unicast to a client that has no address yet takes
    /// a raw socket or an entry in the ARP table, so the client's wish for it is not met (RFC 2131 §4.1: SHOULD).
    Broadcast,
    Unicast(SocketAddrV4),
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Send {
        reply: Reply,
        to: Destination,
        /// The client's boot file; `None` if it asked for none.
        boot: Option<Result<BootOffer, Refusal>>,
    },
    NoReply(NoReply),
}

/// The reason why no reply is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    #[error("not from a client")]
    NoRequest,
    #[error("{0} is not in `allow`")]
    NotAllowed(Ipv4Addr),
    #[error("ignored by a rule")]
    Ignored,
    #[error("{0:?} is not answered")]
    NotAnswered(MessageType),
    #[error("neither PXE nor HTTP boot client")]
    NoBootClient,
    #[error("{0}")]
    NoBootFile(Refusal),
    #[error("came through relay agent {0}: a proxy answers on its own wire only")]
    Relayed(Ipv4Addr),
    #[error("takes {address} from {server}")]
    TakesAddress { address: Ipv4Addr, server: Ipv4Addr },
    #[error("sender has no address to reply to")]
    NoAddress,
    #[error("no hardware address to lease to")]
    NoHardwareAddress,
    #[error("no address asked for")]
    NothingClaimed,
    #[error("on another network than the pool")]
    OtherNetwork,
    #[error("{0} is not in the pool")]
    NotInPool(Ipv4Addr),
    #[error("every address of the pool is taken")]
    PoolExhausted,
    #[error("DHCP server {0} is on this network as well")]
    ConflictingServer(Ipv4Addr),
    #[error("chose DHCP server {0}")]
    ChoseAnother(Ipv4Addr),
    #[error("gave {0} back")]
    Released(Ipv4Addr),
    #[error("found {0} in use by somebody else: it rests for ten minutes")]
    Declined(Ipv4Addr),
}

/// The role beside other DHCP servers of the network.
#[derive(Debug)]
pub enum Role {
    /// Names boot files beside another DHCP server, and leases no addresses.
    Proxy,
    /// Is the only DHCP server.
    Server(Box<ServerRole>),
}

/// The state of the DHCP service.
#[derive(Debug)]
pub struct Session {
    pub role: Role,
    /// The programs, menus and rules that machines boot by.
    pub boot: boot::BootTargets,
    /// Addresses whose clients get replies.
    pub allowed: Allowed,
}

impl Session {
    /// Decides the reply to one message.
    pub fn answer(&mut self, request: &Request, now: UnixTime) -> Outcome {
        if request.message.header.opcode != Opcode::BootRequest {
            return Outcome::NoReply(NoReply::NoRequest);
        }
        if let Some(address) = address_of(request).filter(|&address| !self.allowed.contains(address.into())) {
            return Outcome::NoReply(NoReply::NotAllowed(address));
        }
        let boot = match boot_offer::decide(request, &self.boot) {
            Ok(boot) => boot,
            Err(silence) => return Outcome::NoReply(silence),
        };
        let answer = match (request.port, &mut self.role) {
            (DhcpPort::BootServer, _) => boot_server(request, boot),
            (DhcpPort::Dhcp, Role::Proxy) => proxy(request, boot),
            (DhcpPort::Dhcp, Role::Server(server_role)) => server_role.answer(request, boot, now),
        };
        answer.unwrap_or_else(Outcome::NoReply)
    }

    /// Records another DHCP server that was seen to give addresses. In proxy mode one is expected.
    pub(crate) fn saw_conflict(&mut self, address: Ipv4Addr, now: UnixTime) -> ConflictSeen {
        match &mut self.role {
            Role::Proxy => ConflictSeen::Expected,
            Role::Server(server_role) => server_role.saw_conflict(address, now),
        }
    }
}

/// Returns the address of the sender: the relay agent's, else the client's. A client without an
/// address is on our own link.
fn address_of(request: &Request) -> Option<Ipv4Addr> {
    let Header { giaddr, ciaddr, .. } = request.message.header;
    [giaddr, ciaddr, *request.from.ip()].into_iter().find(|address| !address.is_unspecified())
}

/// The boot file for a boot client; `None` for all others.
type Boot = Option<Result<BootOffer, Refusal>>;

/// A reply, or the reason for none.
type Decision = Result<Outcome, NoReply>;

/// RFC 4578 and PXE 2.1 §2.2.4: an offer without an address beside the DHCP server's. It names the boot file and tells
/// the client to skip boot server discovery, so that nothing more is asked of us.
///
/// klibc's ipconfig takes *any* offer, an address of 0.0.0.0 included: one reply to a client that did not ask for PXE
/// or HTTP boot breaks its initramfs.
fn proxy(request: &Request, boot: Boot) -> Decision {
    let Message { header, kind, .. } = &request.message;
    let boot = boot.ok_or(NoReply::NoBootClient)?;
    if !header.giaddr.is_unspecified() {
        return Err(NoReply::Relayed(header.giaddr));
    }
    let answers = |boot: &BootOffer| boot.quirks.has(Quirk::AnswerRequest);
    let (boot, reply_kind) = match (kind, boot) {
        (MessageType::Discover, boot) => (boot.map_err(NoReply::NoBootFile)?, MessageType::Offer),
        (MessageType::Request, Ok(boot)) if answers(&boot) => (boot, MessageType::Ack),
        // The address is another server's to give; the log tells which.
        (MessageType::Request, _) => return Err(takes_address(&request.message)),
        (kind, _) => return Err(NoReply::NotAnswered(*kind)),
    };
    let reply = boot_reply(request, reply_kind, &boot);
    Ok(Outcome::Send { reply, to: Destination::Broadcast, boot: Some(Ok(boot)) })
}

fn takes_address(message: &Message) -> NoReply {
    match (message.requested, message.server) {
        (Some(address), Some(server)) => NoReply::TakesAddress { address, server },
        _ => NoReply::NotAnswered(message.kind),
    }
}

/// PXE 2.1 §2.2.5: firmware that asks port 4011 in spite of our offer gets the boot file there. The reply goes to
/// where the request came from: OVMF asks from port 4011, BIOS ROMs and iPXE from 68.
fn boot_server(request: &Request, boot: Boot) -> Decision {
    let kind = request.message.kind;
    let boot = boot.ok_or(NoReply::NoBootClient)?;
    if !matches!(kind, MessageType::Request | MessageType::Inform) {
        return Err(NoReply::NotAnswered(kind));
    }
    if request.from.ip().is_unspecified() {
        return Err(NoReply::NoAddress);
    }
    let boot = boot.map_err(NoReply::NoBootFile)?;
    let mut reply = boot_reply(request, MessageType::Ack, &boot);
    reply.header.ciaddr = request.message.header.ciaddr;
    Ok(Outcome::Send { reply, to: Destination::Unicast(request.from), boot: Some(Ok(boot)) })
}

fn boot_reply(request: &Request, kind: MessageType, boot: &BootOffer) -> Reply {
    let mut reply = reply(request, kind);
    reply.options.extend(boot.options(request));
    reply
}

/// A reply with the fields that every reply has (RFC 2131 §4.3.1, table 3), to be completed.
fn reply(request: &Request, kind: MessageType) -> Reply {
    let Message { header, relay_info, max_size, .. } = &request.message;
    Reply {
        header: Header {
            opcode: Opcode::BootReply,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            // Always us: klibc makes it ROOTSERVER, lpxelinux its TFTP server.
            siaddr: request.server,
            ..*header
        },
        kind,
        options: vec![ReplyOption::ServerIdentifier(request.server)],
        relay_info: relay_info.clone(),
        max_size: *max_size,
    }
}

#[cfg(test)]
mod tests;
