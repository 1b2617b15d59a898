//! What a DHCP message is answered with. A pure function of the message, the leases and the time.
//!
//! ```text
//! port 4011 ------------------> boot server: ACK with the boot file    (either role)
//! port 67 --- Role::Proxy ----> offer without an address, to PXE and HTTP boot clients only
//!         '-- Role::Authority -> leases (RFC 2131 §4.3), and the boot file in the same replies
//! ```

mod authority;
mod boot_offer;

use std::net::{Ipv4Addr, SocketAddrV4};

use super::lease::UnixTime;
use super::wire::{Header, Message, MessageType, Opcode, Reply, ReplyOption};
use crate::boot::{self, Quirk, Refusal};
use crate::export::Allowed;

pub use authority::{Authority, Network, Sighting};
pub use boot_offer::{BootOffer, mac};

/// A message and how it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub message: Message,
    pub door: Door,
    /// Sender of the datagram.
    pub from: SocketAddrV4,
    /// Our address on the interface it came in on.
    pub local: Ipv4Addr,
    /// The address clients are told: `local`, unless the operator advertises another.
    pub server: Ipv4Addr,
}

/// The port a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// 67.
    Dhcp,
    /// 4011.
    BootServer,
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255:68 on the interface the question came in on. Unicast to a client that has no address yet takes
    /// a raw socket or an entry in the ARP table, so the client's wish for it is not met (RFC 2131 §4.1: SHOULD).
    Broadcast,
    Unicast(SocketAddrV4),
}

/// What comes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Send {
        reply: Reply,
        to: Destination,
        /// What the machine boots; `None` where it asked for no boot file.
        boot: Option<Result<BootOffer, Refusal>>,
    },
    Silence(Silence),
}

/// Why nothing is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
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
    Rival(Ipv4Addr),
    #[error("chose DHCP server {0}")]
    ChoseAnother(Ipv4Addr),
    #[error("gave {0} back")]
    Released(Ipv4Addr),
    #[error("found {0} in use by somebody else: it rests for ten minutes")]
    Declined(Ipv4Addr),
}

/// How we stand to the network.
#[derive(Debug)]
pub enum Role {
    /// Beside the DHCP server that is there: no addresses.
    Proxy,
    /// The only DHCP server.
    Authority(Box<Authority>),
}

/// The state behind all answers.
#[derive(Debug)]
pub struct Session {
    pub role: Role,
    /// What machines boot with.
    pub boot: boot::BootTargets,
    /// Who is answered, of those that have an address.
    pub allowed: Allowed,
}

impl Session {
    /// Decides on one message.
    pub fn answer(&mut self, question: &Question, now: UnixTime) -> Answer {
        if question.message.header.opcode != Opcode::BootRequest {
            return Answer::Silence(Silence::NoRequest);
        }
        if let Some(address) = address_of(question).filter(|&address| !self.allowed.contains(address.into()))
        {
            return Answer::Silence(Silence::NotAllowed(address));
        }
        let boot = match boot_offer::decide(question, &self.boot) {
            Ok(boot) => boot,
            Err(silence) => return Answer::Silence(silence),
        };
        let answer = match (question.door, &mut self.role) {
            (Door::BootServer, _) => boot_server(question, boot),
            (Door::Dhcp, Role::Proxy) => proxy(question, boot),
            (Door::Dhcp, Role::Authority(authority)) => authority.answer(question, boot, now),
        };
        answer.unwrap_or_else(Answer::Silence)
    }

    /// Notes that another DHCP server was seen to give addresses. A proxy expects one.
    pub fn saw_rival(&mut self, address: Ipv4Addr, now: UnixTime) -> Sighting {
        match &mut self.role {
            Role::Proxy => Sighting::Expected,
            Role::Authority(authority) => authority.saw_rival(address, now),
        }
    }
}

/// The address that tells where a question comes from: the relay agent's, else the client's. A client without one is on
/// our own wire, and cannot be told from others there.
fn address_of(question: &Question) -> Option<Ipv4Addr> {
    let Header { giaddr, ciaddr, .. } = question.message.header;
    [giaddr, ciaddr, *question.from.ip()].into_iter().find(|address| !address.is_unspecified())
}

/// What a boot client may have; `None` for all others.
type Boot = Option<Result<BootOffer, Refusal>>;

/// A reply, or why there is none.
type Decision = Result<Answer, Silence>;

/// RFC 4578 and PXE 2.1 §2.2.4: an offer without an address beside the DHCP server's. It names the boot file and tells
/// the client to skip boot server discovery, so that nothing more is asked of us.
///
/// klibc's ipconfig takes *any* offer, an address of 0.0.0.0 included: one reply to a client that did not ask for PXE
/// or HTTP boot breaks its initramfs.
fn proxy(question: &Question, boot: Boot) -> Decision {
    let Message { header, kind, .. } = &question.message;
    let boot = boot.ok_or(Silence::NoBootClient)?;
    if !header.giaddr.is_unspecified() {
        return Err(Silence::Relayed(header.giaddr));
    }
    let answers = |boot: &BootOffer| boot.quirks.has(Quirk::AnswerRequest);
    let (boot, reply_kind) = match (kind, boot) {
        (MessageType::Discover, boot) => (boot.map_err(Silence::NoBootFile)?, MessageType::Offer),
        (MessageType::Request, Ok(boot)) if answers(&boot) => (boot, MessageType::Ack),
        // The address is another server's to give; the log tells which.
        (MessageType::Request, _) => return Err(takes_address(&question.message)),
        (kind, _) => return Err(Silence::NotAnswered(*kind)),
    };
    let reply = boot_reply(question, reply_kind, &boot);
    Ok(Answer::Send { reply, to: Destination::Broadcast, boot: Some(Ok(boot)) })
}

fn takes_address(message: &Message) -> Silence {
    match (message.requested, message.server) {
        (Some(address), Some(server)) => Silence::TakesAddress { address, server },
        _ => Silence::NotAnswered(message.kind),
    }
}

/// PXE 2.1 §2.2.5: firmware that asks port 4011 in spite of our offer gets the boot file there. The reply goes to
/// where the question came from: OVMF asks from port 4011, BIOS ROMs and iPXE from 68.
fn boot_server(question: &Question, boot: Boot) -> Decision {
    let kind = question.message.kind;
    let boot = boot.ok_or(Silence::NoBootClient)?;
    if !matches!(kind, MessageType::Request | MessageType::Inform) {
        return Err(Silence::NotAnswered(kind));
    }
    if question.from.ip().is_unspecified() {
        return Err(Silence::NoAddress);
    }
    let boot = boot.map_err(Silence::NoBootFile)?;
    let mut reply = boot_reply(question, MessageType::Ack, &boot);
    reply.header.ciaddr = question.message.header.ciaddr;
    Ok(Answer::Send { reply, to: Destination::Unicast(question.from), boot: Some(Ok(boot)) })
}

fn boot_reply(question: &Question, kind: MessageType, boot: &BootOffer) -> Reply {
    let mut reply = reply(question, kind);
    reply.options.extend(boot.options(question));
    reply
}

/// A reply with the fields that every reply has (RFC 2131 §4.3.1, table 3), to be completed.
fn reply(question: &Question, kind: MessageType) -> Reply {
    let Message { header, relay_info, max_size, .. } = &question.message;
    Reply {
        header: Header {
            opcode: Opcode::BootReply,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            // Always us: klibc makes it ROOTSERVER, lpxelinux its TFTP server.
            siaddr: question.server,
            ..*header
        },
        kind,
        options: vec![ReplyOption::ServerIdentifier(question.server)],
        relay_info: relay_info.clone(),
        max_size: *max_size,
    }
}

#[cfg(test)]
mod tests;
