//! Probe for a conflicting DHCP server: asks for an address as a client does.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use super::socket::{Sharing, Socket, bind};
use crate::dhcp::wire::{CLIENT_PORT, Message, MessageType, Opcode, SERVER_PORT};
use crate::interfaces::Interface;

/// Time to wait for an offer. dnsmasq probes a new address for three seconds before it offers it.
const OFFER_WAIT: Duration = Duration::from_millis(3500);
/// Seconds that surely contain this time on a clock of whole seconds.
pub(super) const PROBE_SECONDS: u32 = OFFER_WAIT.as_secs() as u32 + 2;

/// Time before the second DISCOVER, in case the first is lost.
const RESEND_AFTER: Duration = Duration::from_millis(1000);

/// Shortest time between two probes of a network that messages cause.
const CAUSED_EVERY: Duration = Duration::from_secs(10);

/// Another DHCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    pub server: Ipv4Addr,
    /// Our address on its network.
    pub local: Ipv4Addr,
    pub interface: String,
}

/// Result of looking for another DHCP server on a network.
#[derive(Debug)]
pub(crate) struct DhcpProbe {
    pub(crate) interface: String,
    /// Our address on the network.
    pub(crate) local: Ipv4Addr,
    /// Servers that share machines with this one, and answered.
    pub(crate) peers: Vec<Ipv4Addr>,
    /// Another server, if there is one, or the error of the kernel.
    pub(crate) found: io::Result<Option<Ipv4Addr>>,
}

/// Probes all interfaces at the same time, each from our address there.
pub(super) async fn probe_all(links: Vec<(Interface, Ipv4Addr)>, known: &Arc<[Ipv4Addr]>) -> Vec<DhcpProbe> {
    let mut probes = JoinSet::new();
    for (interface, local) in links {
        let (known, mut peers) = (Arc::clone(known), Vec::new());
        probes.spawn(async move {
            let found = find(&interface, local, &known, &mut peers).await;
            DhcpProbe { found, peers, interface: interface.name, local }
        });
    }
    let mut ended = Vec::new();
    while let Some(probe) = probes.join_next().await {
        ended.extend(probe);
    }
    ended
}

/// Probes all interfaces, and returns the servers that answer.
pub(super) async fn find_all(links: Vec<(Interface, Ipv4Addr)>, known: &Arc<[Ipv4Addr]>) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for DhcpProbe { interface, local, found, .. } in probe_all(links, known).await {
        match found {
            Ok(Some(server)) => conflicts.push(Conflict { server, local, interface }),
            // Port 68 may need a privilege that the service lacks. It starts nevertheless, and
            // still yields to another server that a client chooses.
            Err(error) => {
                info!(%interface, "probe for other DHCP servers failed: {error}. Make sure that there is none");
            }
            Ok(None) => {}
        }
    }
    conflicts
}

/// Result of a probe.
#[derive(Debug)]
pub(super) enum ProbeEnd {
    Alone,
    Found(Conflict),
    /// The kernel refused it on this interface, from our address there.
    Failed(Interface, Ipv4Addr),
}

/// Probes of a running server.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Servers that share machines with this one: no conflict.
    known: Arc<[Ipv4Addr]>,
    running: JoinSet<ProbeEnd>,
    /// Interfaces, each with our address there, that were probed before.
    probed: Vec<(u32, Ipv4Addr)>,
    /// Times of the probes that a message caused, by an address of the network.
    caused: HashMap<Ipv4Addr, Instant>,
    /// Transaction IDs of probes as a relay agent, each with our address on the network.
    relayed: HashMap<u32, Ipv4Addr>,
}

impl Probes {
    /// Creates it without a probe. Offers of the `known` servers count as none.
    pub(super) fn new(known: Arc<[Ipv4Addr]>) -> Self {
        Self { known, ..Self::default() }
    }

    /// Notes that these links were probed.
    pub(super) fn remember(&mut self, links: &[(Interface, Ipv4Addr)]) {
        self.probed = links.iter().map(|(interface, local)| (interface.index, *local)).collect();
    }

    /// Starts to probe the links.
    pub(super) fn start(&mut self, links: Vec<(Interface, Ipv4Addr)>) {
        // Their answers are there by now.
        self.relayed.clear();
        self.remember(&links);
        self.spawn(links);
    }

    /// Starts to probe those links that are new. Returns our addresses on interfaces that were not
    /// probed before.
    pub(super) fn start_new(&mut self, links: Vec<(Interface, Ipv4Addr)>) -> Vec<Ipv4Addr> {
        let before = std::mem::take(&mut self.probed);
        self.remember(&links);
        let is_new =
            |(interface, local): &(Interface, Ipv4Addr)| !before.contains(&(interface.index, *local));
        let new: Vec<_> = links.into_iter().filter(is_new).collect();
        let was_probed = |interface: &Interface| before.iter().any(|(index, _)| *index == interface.index);
        let unknown = new.iter().filter(|(interface, _)| !was_probed(interface));
        let addresses = unknown.map(|(_, local)| *local).collect();
        self.spawn(new);
        addresses
    }

    /// Starts to probe the links of a network, unless a message caused a probe there lately.
    pub(super) fn start_unless_recent(&mut self, network: Ipv4Addr, links: Vec<(Interface, Ipv4Addr)>) {
        let now = Instant::now();
        let last = self.caused.get(&network);
        if last.is_none_or(|last| now.duration_since(*last) >= CAUSED_EVERY) {
            self.caused.insert(network, now);
            self.spawn(links);
        }
    }

    fn spawn(&mut self, links: Vec<(Interface, Ipv4Addr)>) {
        for (interface, local) in links {
            let known = Arc::clone(&self.known);
            self.running.spawn(async move {
                match find(&interface, local, &known, &mut Vec::new()).await {
                    Ok(None) => ProbeEnd::Alone,
                    Ok(Some(server)) => {
                        ProbeEnd::Found(Conflict { server, local, interface: interface.name })
                    }
                    Err(error) => {
                        debug!(interface = %interface.name, "probe for other DHCP servers failed: {error}");
                        ProbeEnd::Failed(interface, local)
                    }
                }
            });
        }
    }

    /// Waits for the end of a probe; `None` at once if no probe is running.
    pub(super) async fn ended(&mut self) -> Option<ProbeEnd> {
        self.running.join_next().await.map(|ended| ended.unwrap_or(ProbeEnd::Alone))
    }

    /// Creates the DISCOVER of a probe as a relay agent, to which a server replies at our own port
    /// 67 (RFC 2131 §4.1).
    pub(super) fn as_relay(&mut self, interface: &Interface, local: Ipv4Addr) -> Option<Message> {
        let mut discover = Message::discover(transaction(), interface.mac?);
        (discover.header.giaddr, discover.header.hops) = (local, 1);
        self.relayed.insert(discover.header.xid, local);
        Some(discover)
    }

    /// Returns the server that offers an address to a probe as a relay agent, and our address on
    /// its network.
    pub(super) fn answer(&self, message: &Message, from: Ipv4Addr) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let xid = message.header.xid;
        let &local = self.relayed.get(&xid)?;
        let server = offerer(message, xid, from).filter(|&server| server != local)?;
        Some((server, local))
    }
}

/// Sends a DISCOVER out of `interface` from our address there, and returns another server that
/// offers an address. Adds those of the `known` servers that do to `peers`.
///
/// # Errors
/// Errors of the kernel: port 68 cannot be bound, or nothing can be sent.
async fn find(
    interface: &Interface,
    local: Ipv4Addr,
    known: &[Ipv4Addr],
    peers: &mut Vec<Ipv4Addr>,
) -> io::Result<Option<Ipv4Addr>> {
    let Some(mac) = interface.mac else { return Ok(None) };
    // Bound to the interface and closed soon, so that a DHCP client of this host on another
    // interface is not disturbed. Servers reply to port 68 (RFC 2131 §4.1).
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    let mut socket = Socket::new(bind(any, Some(&interface.name), Sharing::Shared)?)?;
    let discover = Message::discover(transaction(), mac);
    let xid = discover.header.xid;
    let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    let start = Instant::now();
    for deadline in [start + RESEND_AFTER, start + OFFER_WAIT] {
        socket.send_from(&discover.emit(), everyone, interface.index, local)?;
        while let Ok(received) = timeout_at(deadline, socket.receive()).await {
            let (message, arrival) = received?;
            let offerer = message.ok().and_then(|message| offerer(&message, xid, *arrival.from.ip()));
            match offerer.filter(|&offerer| offerer != local) {
                Some(peer) if known.contains(&peer) && peers.contains(&peer) => {}
                Some(peer) if known.contains(&peer) => peers.push(peer),
                Some(conflict) => return Ok(Some(conflict)),
                None => {}
            }
        }
    }
    Ok(None)
}

/// Returns the server that offers us an address.
fn offerer(message: &Message, xid: u32, from: Ipv4Addr) -> Option<Ipv4Addr> {
    let header = &message.header;
    let is_offer = header.opcode == Opcode::BootReply && message.kind == MessageType::Offer;
    // PXE 2.1 §2.2.1, step 2: the offer of a proxy has no address. It is not a conflict.
    let is_ours = is_offer && header.xid == xid && !header.yiaddr.is_unspecified();
    is_ours.then(|| message.server.unwrap_or(from))
}

/// Returns a transaction ID that differs from run to run. It is not a secret.
fn transaction() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::super::interfaces::tests::eth;
    use super::*;

    #[tokio::test]
    async fn interface_is_new_until_it_was_probed() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        // A probe of a link without a hardware address sends nothing.
        let links = |links: &[(u32, u8)]| {
            let link = |&(index, last): &(u32, u8)| (Interface { mac: None, ..eth(index, &[]) }, ip(last));
            links.iter().map(link).collect::<Vec<_>>()
        };
        let mut probes = Probes::default();
        assert_eq!(probes.start_new(links(&[(2, 1)])), [ip(1)]);
        assert_eq!(
            probes.start_new(links(&[(2, 1), (2, 7), (3, 3)])),
            [ip(3)],
            "7 is one more on an old one"
        );
        assert!(probes.start_new(links(&[(3, 3)])).is_empty());
        assert_eq!(probes.start_new(links(&[(2, 1), (3, 3)])), [ip(1)], "it was away");
    }

    #[test]
    fn offered_address_is_a_conflict() {
        let bytes = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dhcp/dnsmasq-offer.bin"));
        let offer = Message::parse(bytes).unwrap();
        let (xid, from) = (offer.header.xid, Ipv4Addr::new(192, 168, 77, 9));
        assert_eq!(offerer(&offer, xid, from), Some(Ipv4Addr::new(192, 168, 77, 1)));
        assert_eq!(offerer(&Message { server: None, ..offer.clone() }, xid, from), Some(from));
        assert_eq!(offerer(&offer, xid + 1, from), None);
        let bytes =
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dhcp/dnsmasq-proxy-offer.bin"));
        let proxy = Message::parse(bytes).unwrap();
        assert_eq!(offerer(&proxy, proxy.header.xid, from), None);
    }
}
