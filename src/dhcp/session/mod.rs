//! Decides the reply to a DHCP message. Pure: depends on the message, the leases and the time only.
//!
//! ```text
//! port 4011 ------------------> boot server: ACK with the boot file    (either role)
//! port 67 --- Role::Proxy ----> offer without an address, to PXE and HTTP boot clients only
//!         '-- Role::Server ---> leases (RFC 2131 §4.3), and the boot file in the same replies
//! ```

mod boot_offer;
pub(crate) mod carried;
mod limited_ipxe;
mod server_role;
mod subnet;
mod turn;

use std::net::{Ipv4Addr, SocketAddrV4};

use super::lease::{Pool, UnixTime};
use super::wire::{Header, Message, MessageType, Opcode, Reply, ReplyOption, SERVER_PORT};
use crate::boot::{self, Quirk, Refusal};
use crate::export::Allowed;

pub(crate) use boot_offer::{BootOffer, is_boot_client, mac};
pub use limited_ipxe::LimitedIpxes;
pub use server_role::ServerRole;
pub use subnet::{ConflictSeen, Network, Subnet};
pub use turn::{Discover, Turn, Turns};

/// Sub-option of option 82: the relay agent listens on the port that it sends from (RFC 8357 §4.1).
const RELAY_SOURCE_PORT: u8 = 19;

/// DHCP message, and the port and interface that it arrived on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub message: Message,
    pub port: DhcpPort,
    /// Sender of the datagram.
    pub from: SocketAddrV4,
    /// Our address on the interface that it arrived on.
    pub local: Ipv4Addr,
    /// Address that clients are told: `local`, unless the operator advertises another.
    pub server: Ipv4Addr,
}

/// Port that a message was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpPort {
    /// 67.
    Dhcp,
    /// 4011.
    BootServer,
}

/// Address that a reply is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// 255.255.255.255:68 on the interface that the request arrived on.
    ///
    /// It is used for every client without an address, whatever its BROADCAST flag: unicast to such
    /// a client takes a raw socket or an entry of the ARP table, and both need privileges. RFC 2131
    /// §4.1 allows it: "If unicasting is not possible, the message MAY be sent as an IP broadcast".
    Broadcast,
    Unicast(SocketAddrV4),
}

/// Result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Send {
        reply: Reply,
        to: Destination,
        /// Boot file of the client; `None` if it did not ask for one.
        boot: Option<Result<BootOffer, Refusal>>,
    },
    NoReply(NoReply),
}

/// Reason for sending no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    #[error("not from a client")]
    NotARequest,
    #[error("{0} is not in `allow`")]
    NotAllowed(Ipv4Addr),
    #[error("ignored by a rule")]
    Ignored,
    #[error("{0:?} is not answered")]
    NotAnswered(MessageType),
    #[error("not a PXE or HTTP boot client")]
    NotABootClient,
    #[error("{0}")]
    NoBootFile(Refusal),
    #[error("takes {address} from {server}")]
    TakesAddress { address: Ipv4Addr, server: Ipv4Addr },
    #[error("sender has no address to reply to")]
    NoAddress,
    #[error("no hardware address to lease to")]
    NoHardwareAddress,
    #[error("claims no address")]
    NothingClaimed,
    #[error("not on a network with a DHCP range")]
    OtherNetwork,
    #[error("waiting for an interface with an address on the network of the DHCP range")]
    UnknownNetwork,
    #[error("{0} is not in the DHCP range")]
    NotInPool(Ipv4Addr),
    #[error("every address of {0} is in use")]
    PoolExhausted(Pool),
    #[error("other hosts use the addresses that were to be offered")]
    AddressesInUse,
    #[error("another DHCP server, {0}, is on this network")]
    ConflictingServer(Ipv4Addr),
    #[error("another DHCP server is looked for first: this network is new")]
    LooksFirst,
    #[error("chose DHCP server {server}")]
    ChoseAnother {
        server: Ipv4Addr,
        /// An address of the client's network.
        network: Ipv4Addr,
    },
    #[error("released {0}")]
    Released(Ipv4Addr),
    #[error("declined {0}: another host uses it")]
    Declined(Ipv4Addr),
    #[error("declined {0}, after others within ten minutes: not believed")]
    DeclineDisbelieved(Ipv4Addr),
    #[error("left to server {0}, which comes before this one for it")]
    LeftTo(Ipv4Addr),
    #[error("another server may have it since before the start of this one")]
    Settling,
}

/// Role of the service on its network.
#[derive(Debug)]
pub enum Role {
    /// Names boot files beside another DHCP server, and leases no addresses.
    Proxy,
    /// Leases addresses as the only DHCP server of its networks.
    Server(ServerRole),
}

impl Role {
    /// Returns whether addresses of the network with this address are leased here.
    pub(crate) fn leases_on(&self, address: Ipv4Addr) -> bool {
        matches!(self, Self::Server(server_role) if server_role.of(address).is_some())
    }
}

/// State of the DHCP service.
#[derive(Debug)]
pub struct Session {
    pub role: Role,
    /// Programs, menus and rules that machines boot by.
    pub boot: boot::BootTargets,
    /// Addresses whose clients get replies.
    pub allowed: Allowed,
    /// Machines whose iPXE lacks features.
    pub limited_ipxes: LimitedIpxes,
}

impl Session {
    /// Decides the reply to one message.
    pub fn answer(&mut self, request: &Request, now: UnixTime) -> Outcome {
        self.decide(request, now).unwrap_or_else(Outcome::NoReply)
    }

    fn decide(&mut self, request: &Request, now: UnixTime) -> Decision {
        // A relay agent on this host shares port 67, so replies of other servers arrive here too.
        if request.message.header.opcode != Opcode::BootRequest {
            return Err(NoReply::NotARequest);
        }
        if let Some(address) = address_of(request).filter(|&address| !self.allowed.contains(address.into())) {
            return Err(NoReply::NotAllowed(address));
        }
        let is_retry = self.is_limited_retry(request, now);
        let boot = boot_offer::decide(request, &self.boot, is_retry)?;
        match (request.port, &mut self.role) {
            (DhcpPort::BootServer, _) => boot_server(request, boot),
            (DhcpPort::Dhcp, Role::Proxy) => proxy(request, boot),
            (DhcpPort::Dhcp, Role::Server(server_role)) => server_role.answer(request, boot, now),
        }
    }

    /// Returns whether an iPXE that lacks features asks again after it loaded something.
    fn is_limited_retry(&mut self, request: &Request, now: UnixTime) -> bool {
        let Message { header, .. } = &request.message;
        // iPXE asks port 4011 in a transaction of its own.
        let is_counted = request.port == DhcpPort::Dhcp && boot_offer::is_limited_ipxe(&request.message);
        mac(&header.hardware())
            .is_some_and(|machine| is_counted && self.limited_ipxes.is_retry(machine, header.xid, now))
    }

    /// Records another DHCP server that was seen to give addresses on the network with the address
    /// `on`.
    pub(crate) fn saw_conflict(&mut self, server: Ipv4Addr, on: Ipv4Addr, now: UnixTime) -> ConflictSeen {
        match &mut self.role {
            Role::Proxy => ConflictSeen::Expected,
            Role::Server(server_role) => server_role.saw_conflict(server, on, now),
        }
    }

    /// Notes that until then another server is being looked for on the network with the address `on`,
    /// which is new. A proxy looks for none.
    pub(crate) fn look_first(&mut self, on: Ipv4Addr, until: UnixTime) {
        if let Role::Server(server_role) = &mut self.role {
            server_role.look_first(on, until);
        }
    }
}

/// Returns the address of the sender: the relay agent's, else the client's. A client without an
/// address is on our own link.
fn address_of(request: &Request) -> Option<Ipv4Addr> {
    let Header { giaddr, ciaddr, .. } = request.message.header;
    [giaddr, ciaddr, *request.from.ip()].into_iter().find(|address| !address.is_unspecified())
}

/// Boot file of a boot client; `None` for all other clients.
type Boot = Option<Result<BootOffer, Refusal>>;

/// Reply, or the reason for sending none.
type Decision = Result<Outcome, NoReply>;

/// Decides the reply of a proxy: an offer of a boot file, beside the offer of an address by the
/// DHCP server (PXE 2.1 §2.2.3).
fn proxy(request: &Request, boot: Boot) -> Decision {
    let kind = &request.message.kind;
    // klibc's ipconfig takes any OFFER, even one of the address 0.0.0.0: a reply to a client that
    // did not ask for PXE or HTTP boot would break its initramfs.
    let boot = boot.ok_or(NoReply::NotABootClient)?;
    let (boot, reply_kind) = match (kind, boot) {
        (MessageType::Discover, boot) => (boot.map_err(NoReply::NoBootFile)?, MessageType::Offer),
        // Some Intel ROMs wait for our answer to the REQUEST as well.
        (MessageType::Request, Ok(boot)) if boot.quirks.has(Quirk::AnswerRequest) => (boot, MessageType::Ack),
        // The other server gives the address. The log shows which server and which address.
        (MessageType::Request, _) => return Err(takes_address(&request.message)),
        (kind, _) => return Err(NoReply::NotAnswered(*kind)),
    };
    let mut reply = boot_reply(request, reply_kind, &boot);
    let to = match relay(request) {
        Some(relay) => {
            // A relay agent sends a reply without the flag to yiaddr, which is 0 here (dhcrelay of
            // ISC).
            reply.header.flags = reply.header.flags.set_broadcast();
            Destination::Unicast(relay)
        }
        None => Destination::Broadcast,
    };
    Ok(Outcome::Send { reply, to, boot: Some(Ok(boot)) })
}

fn takes_address(message: &Message) -> NoReply {
    match (message.requested, message.server) {
        (Some(address), Some(server)) => NoReply::TakesAddress { address, server },
        _ => NoReply::NotAnswered(message.kind),
    }
}

/// Decides the reply at port 4011 (PXE 2.1 §2.4.5), for firmware that asks there in spite of our
/// offer.
fn boot_server(request: &Request, boot: Boot) -> Decision {
    let kind = request.message.kind;
    let boot = boot.ok_or(NoReply::NotABootClient)?;
    // PXE 2.1 §2.5.3: a boot server receives either of these.
    if !matches!(kind, MessageType::Request | MessageType::Inform) {
        return Err(NoReply::NotAnswered(kind));
    }
    // PXE 2.1 §2.4.4: the client must have an address by now.
    if request.from.ip().is_unspecified() {
        return Err(NoReply::NoAddress);
    }
    let boot = boot.map_err(NoReply::NoBootFile)?;
    let mut reply = boot_reply(request, MessageType::Ack, &boot);
    reply.header.ciaddr = request.message.header.ciaddr;
    // PXE 2.1 §2.2.1, step 6: unicast to the client's source port. OVMF asks from port 4011, BIOS
    // ROMs and iPXE from port 68.
    Ok(Outcome::Send { reply, to: Destination::Unicast(request.from), boot: Some(Ok(boot)) })
}

fn boot_reply(request: &Request, kind: MessageType, boot: &BootOffer) -> Reply {
    let mut reply = reply(request, kind);
    reply.options.extend(boot.options(request));
    reply
}

/// Creates a reply with the fields that all replies have (RFC 2131 §4.3.1, table 3).
fn reply(request: &Request, kind: MessageType) -> Reply {
    let Message { header, relay_info, max_size, .. } = &request.message;
    Reply {
        header: Header {
            opcode: Opcode::BootReply,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            // Our address, boot client or not: klibc's ipconfig makes it ROOTSERVER, and lpxelinux
            // its TFTP server.
            siaddr: request.server,
            ..*header
        },
        kind,
        options: vec![ReplyOption::ServerIdentifier(request.server)],
        relay_info: relay_info.clone(),
        max_size: *max_size,
    }
}

/// Returns the relay agent that forwarded the request.
fn relay(request: &Request) -> Option<SocketAddrV4> {
    let giaddr = request.message.header.giaddr;
    let port = match request.message.relay_sub_option(RELAY_SOURCE_PORT) {
        // RFC 8357 §5.1: the reply goes to the port that the relay agent sent from.
        Some(_) => request.from.port(),
        None => SERVER_PORT,
    };
    (!giaddr.is_unspecified()).then(|| SocketAddrV4::new(giaddr, port))
}

#[cfg(test)]
mod tests;
