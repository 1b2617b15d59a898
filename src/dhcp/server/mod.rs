//! Shell of the DHCP service: sockets, interfaces, the lease file, probes for other servers, the
//! log.

mod address_use;
mod conflict;
mod interfaces;
mod known_conflicts;
mod lease_file;
mod log;
mod logged_once;
mod new_address;
mod port_socket;
mod report_to_machines;
mod socket;
mod start;
mod subnets;
mod turns;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, warn};

use self::address_use::{AddressUse, Waiting};
use self::conflict::{Conflict, PROBE_SECONDS, ProbeEnd, Probes};
use self::interfaces::{Interfaces, Unserved};
use self::lease_file::LeaseFile;
use self::log::DhcpLog;
use self::port_socket::{PortSocket, Presence};
use self::socket::{Arrival, Malformed};
use self::turns::{TurnQueue, next_turn};
use super::lease::{self, Pool, UnixTime};
use super::session::{
    ConflictSeen, Destination, DhcpPort, NoReply, Outcome, Request, Role, Session, is_boot_client,
};
use super::wire::{Message, MessageType, SERVER_PORT};
use crate::boot::{BootTargets, Leased};
use crate::interfaces::{Interface, InterfaceChanges};
use crate::machines::Registry;
use crate::metrics::{self, Door, Gauge, Tally};
use crate::panics::caught;
use crate::watched::Watched;

pub(crate) use conflict::DhcpProbe;
pub use known_conflicts::KnownConflicts;
pub use port_socket::bind_until_interface_exists;
pub use socket::{Sharing, bind};
pub(crate) use start::look_for_others;
pub use start::{DEFAULT_LEASE_SECONDS, DhcpConfig, DhcpMode, DhcpStartError, ServerConfig};
pub use subnets::{SubnetConfig, SubnetError};

/// Interval of the probes for another DHCP server.
const PROBE_EVERY: Duration = Duration::from_secs(300);
/// Longest time between two looks for leases to renew.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failed receive: an interface that is down stays down for more than microseconds.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Bound sockets; see [`bind`].
#[derive(Debug)]
pub struct Sockets {
    /// Port 67.
    pub dhcp: UdpSocket,
    /// Port 4011, for firmware that asks there in spite of our offer.
    pub boot_server: Option<UdpSocket>,
}

/// DHCP server, ready to run.
#[derive(Debug)]
pub struct Server {
    dhcp: PortSocket,
    boot_server: Option<PortSocket>,
    presence: Presence,
    changes: InterfaceChanges,
    probes: Probes,
    known_conflicts: Arc<KnownConflicts>,
    /// The first range whose network was not taken over the last time, and the reason.
    network_error: Option<(Pool, String)>,
    session: Session,
    boot: Watched<BootTargets>,
    machines: Arc<Registry>,
    interfaces: Interfaces,
    advertise: Option<Ipv4Addr>,
    bind: Option<Ipv4Addr>,
    leased: Arc<Leased>,
    lease_file: Option<LeaseFile>,
    address_use: AddressUse,
    /// `None` if machines are not shared with other servers.
    turns: Option<TurnQueue>,
    clock: Clock,
    log: DhcpLog,
}

impl Server {
    /// Answers clients until `shutdown` is ready.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut probe_times = tokio::time::interval(PROBE_EVERY);
        probe_times.reset();
        let mut renewals = tokio::time::interval(self.renewal_interval());
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                received = self.dhcp.receive() => match received {
                    Ok((message, arrival)) => self.step(|it| it.handle(DhcpPort::Dhcp, message, arrival)),
                    Err(error) => self.pause(&error).await,
                },
                received = receive_if_bound(&mut self.boot_server) => match received {
                    Ok((message, arrival)) => {
                        self.step(|it| it.handle(DhcpPort::BootServer, message, arrival));
                    }
                    Err(error) => self.pause(&error).await,
                },
                () = self.changes.next() => self.step(Self::interfaces_changed),
                Some(ended) = self.probes.ended() => self.step(|it| it.probe_ended(ended)),
                work = self.address_use.next() => self.step(|it| it.resume(work)),
                (message, arrival) = next_turn(&mut self.turns) => {
                    self.step(|it| it.turn_came(message, arrival));
                }
                _ = probe_times.tick() => self.step(|it| it.probes.start(it.probed())),
                _ = renewals.tick() => {
                    self.step(Self::renew_leases_of_roots);
                    // A port that could not be opened is tried again.
                    self.step(Self::interfaces_changed);
                }
            }
        }
        if let (Some(file), Role::Server(server_role)) = (self.lease_file, &self.session.role) {
            file.close(server_role).await;
        }
    }

    /// Does a step, whose panic does not end the service.
    fn step(&mut self, step: impl FnOnce(&mut Self)) {
        let _ = caught(|| step(self));
    }

    /// Logs a failed receive and waits.
    async fn pause(&mut self, error: &io::Error) {
        self.log.receive_failed(error);
        tokio::time::sleep(FAILURE_PAUSE).await;
    }

    /// Answers one datagram.
    fn handle(&mut self, port: DhcpPort, message: Result<Message, Malformed>, arrival: Arrival) {
        let began = Instant::now();
        metrics::count(Door::Dhcp, Tally::Requests, 1);
        let message = match message {
            Ok(message) => message,
            Err(malformed) => return self.log.malformed(&malformed, arrival.from),
        };
        if let Some((server, local)) = self.probes.answer(&message, *arrival.from.ip()) {
            return self.note_conflict(server, local);
        }
        // A broadcast comes back to its sender: our own probe, or a DHCP client of this host.
        let is_own = self.interfaces.is_own_mac(message.header.hardware().bytes());
        if is_own || self.note_turn(&message) {
            return;
        }
        let local = match self.local(&arrival, !message.header.giaddr.is_unspecified()) {
            Ok(local) => local,
            Err(reason) => return self.log_unserved(&message, reason),
        };
        // A copy, so that one message sees one snapshot of images and rules.
        if let Some(boot) = self.boot.update() {
            self.session.boot = BootTargets::clone(&boot);
        }
        let server = self.advertise.unwrap_or(local);
        let request = Request { message, port, from: arrival.from, local, server };
        let turn = self.turn(&request, &arrival);
        let silent = turn.as_ref().ok().copied().flatten();
        let outcome = match turn {
            Ok(_) => self.decide(&request, &arrival),
            Err(reason) => Some(Outcome::NoReply(reason)),
        };
        let Some(outcome) = outcome else { return };
        self.record_leases();
        self.log.outcome(&request, &outcome);
        report_to_machines::report(&self.machines, &request, &outcome, Instant::now());
        match outcome {
            Outcome::Send { reply, to, .. } => {
                let bytes = reply.emit();
                self.send(port, &bytes, to, &arrival, local);
                metrics::observe(Door::Dhcp, began.elapsed());
                if reply.kind == MessageType::Offer {
                    self.log.covered(&request, silent);
                    self.tell_of_offer(&request, &bytes);
                }
            }
            Outcome::NoReply(NoReply::ChoseAnother { server, network })
                if !self.interfaces.is_own(server) && !self.is_peer(server) =>
            {
                self.probe_network(network);
            }
            Outcome::NoReply(NoReply::Declined(address)) => self.verify_decline(address, &request, &arrival),
            Outcome::NoReply(_) => {}
        }
    }

    /// Goes on with work that was put off.
    fn resume(&mut self, work: Waiting) {
        match work {
            Waiting::Message(port, message, arrival) => self.handle(port, Ok(*message), arrival),
            Waiting::Declined(address, machine) => self.end_quarantine(address, machine),
        }
    }

    /// Looks for another server on a network of ours. A client said that it chose one, but anybody
    /// can say so.
    fn probe_network(&mut self, network: Ipv4Addr) {
        let Role::Server(server_role) = &self.session.role else { return };
        let Some(subnet) = server_role.of(network) else { return };
        // Behind a relay agent there is no link of ours to probe. Two servers there are the choice
        // of whoever named both to the relay agent.
        let links = self.interfaces.in_network(&subnet.network);
        self.probes.start_unless_recent(network, links);
    }

    fn probe_ended(&mut self, ended: ProbeEnd) {
        match ended {
            ProbeEnd::Alone => {}
            ProbeEnd::Found(Conflict { server, local, .. }) => self.note_conflict(server, local),
            // Port 68 needs a privilege, which a service of systemd may lack, or is in use.
            ProbeEnd::Failed(interface, local) => {
                let Some(discover) = self.probes.as_relay(&interface, local) else { return };
                let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
                let sent = self.dhcp.socket().send_from(&discover.emit(), everyone, interface.index, local);
                if let Err(error) = sent {
                    debug!(interface = %interface.name, "probe for other DHCP servers failed: {error}");
                }
            }
        }
    }

    /// Returns our address for this datagram.
    fn local(&self, arrival: &Arrival, is_relayed: bool) -> Result<Ipv4Addr, Unserved> {
        let interface = self.interfaces.of(arrival)?;
        match (self.bind, &self.session.role) {
            // The operator knows by which address machines reach this host.
            (Some(bind), _) if self.advertise.is_none() => {
                interfaces::bound(interface, arrival, bind, is_relayed)
            }
            (_, role) => interfaces::local(interface, arrival, |ip| role.leases_on(ip)),
        }
    }

    fn log_unserved(&mut self, message: &Message, reason: Unserved) {
        // The other hosts of a network want nothing of a proxy.
        let matters = is_boot_client(message) || matches!(self.session.role, Role::Server(_));
        self.log.unserved(message, reason, matters);
    }

    /// Looks at the interfaces again.
    fn interfaces_changed(&mut self) {
        match self.interfaces.refresh() {
            Ok(()) => {
                self.follow_interface();
                self.update_networks();
                self.look_on_new_links();
            }
            Err(error) => debug!("network interfaces not listed: {error}"),
        }
    }

    /// Looks for other servers on links that are new: on a new interface before anything is offered.
    fn look_on_new_links(&mut self) {
        let end = self.clock.now().after(PROBE_SECONDS);
        for local in self.probes.start_new(self.probed()) {
            self.session.look_first(local, end);
        }
    }

    /// Opens the ports again if their interface is another one by now.
    fn follow_interface(&mut self) {
        let Self { dhcp, boot_server, interfaces, presence, .. } = self;
        presence.follow(interfaces, boot_server.iter_mut().chain([dhcp]));
    }

    /// Takes over what the interfaces tell of the networks with a DHCP range.
    fn update_networks(&mut self) {
        let Role::Server(server_role) = &mut self.session.role else { return };
        let (is_new, unfit) = subnets::update(server_role, self.session.boot.rules(), &self.interfaces);
        if is_new {
            start::fill_leased(&self.leased, server_role);
        }
        self.record_leases();
        let unfit = unfit.map(|(range, error)| (range, error.to_string()));
        if let Some((range, error)) = unfit.as_ref().filter(|_| unfit != self.network_error) {
            warn!(%range, "DHCP range not served: {error}");
        }
        self.network_error = unfit;
    }

    fn send(&mut self, port: DhcpPort, bytes: &[u8], to: Destination, arrival: &Arrival, local: Ipv4Addr) {
        // The client may drop a reply from another port than it wrote to: iPXE takes replies of the
        // boot server from port 4011 only, klibc's ipconfig replies from port 67 only.
        let socket = match (port, &self.boot_server) {
            (DhcpPort::BootServer, Some(socket)) => socket,
            _ => &self.dhcp,
        };
        if let Err(error) = socket.socket().send(bytes, to, arrival, local) {
            self.log.send_failed(&error);
        }
    }

    fn record_leases(&mut self) {
        let Role::Server(server_role) = &mut self.session.role else { return };
        metrics::set(Gauge::UsedAddresses, server_role.len() as u64);
        metrics::set(Gauge::PoolAddresses, server_role.pool_len());
        let events = server_role.take_events();
        for _ in events.iter().filter(|event| matches!(event, lease::Event::Leased { .. })) {
            metrics::happened(metrics::Event::Leased);
        }
        events.iter().for_each(|event| start::update_leased(&self.leased, server_role, event));
        if let Some(file) = &mut self.lease_file {
            file.record(&events, server_role, Instant::now());
        }
    }

    /// Returns the time between two looks: a lease is renewed in its second half.
    fn renewal_interval(&self) -> Duration {
        let lease = match &self.session.role {
            Role::Proxy => None,
            Role::Server(server_role) => server_role.shortest_lease(),
        };
        let quarter = lease.map_or(RENEW_EVERY, |lease| Duration::from_secs(u64::from(lease / 4)));
        quarter.clamp(Duration::from_secs(1), RENEW_EVERY)
    }

    /// Renews the leases of machines on their root, since an initramfs never does.
    fn renew_leases_of_roots(&mut self) {
        let Role::Server(server_role) = &mut self.session.role else { return };
        let machines = &self.machines;
        server_role.renew_used(|address| machines.is_on_root(address), self.clock.now());
        server_role.note_booted(|address| machines.has_booted(address));
        self.record_leases();
    }

    /// Records another server on the network with the address `on`.
    fn note_conflict(&mut self, server: Ipv4Addr, on: Ipv4Addr) {
        // It leases other addresses.
        if self.is_peer(server) {
            return;
        }
        let seen = self.session.saw_conflict(server, on, self.clock.now());
        self.publish_conflicts();
        if seen == ConflictSeen::First {
            warn!(
                %server,
                network = %on,
                "another DHCP server found: no offers on its network until it is silent for 15 minutes"
            );
        }
    }

    /// Tells the process after this one of other servers.
    fn publish_conflicts(&self) {
        if let Role::Server(server_role) = &self.session.role {
            self.known_conflicts.set(server_role.carried_conflicts(self.clock.now()), Instant::now());
        }
    }

    /// Returns the interfaces to probe, each with our address there.
    fn probed(&self) -> Vec<(Interface, Ipv4Addr)> {
        match &self.session.role {
            // A proxy works beside another server.
            Role::Proxy => Vec::new(),
            Role::Server(server_role) => start::probed(server_role, &self.interfaces),
        }
    }
}

/// Waits for a datagram, without end if there is no socket.
async fn receive_if_bound(
    socket: &mut Option<PortSocket>,
) -> io::Result<(Result<Message, Malformed>, Arrival)> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

/// Clock of the leases: read from the system once, then monotonic. A board without a battery sets
/// its clock some time after its boot, and that must not end leases.
#[derive(Debug)]
struct Clock {
    start: UnixTime,
    since: Instant,
}

impl Clock {
    fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: UnixTime(unix.as_secs()), since: Instant::now() }
    }

    fn now(&self) -> UnixTime {
        UnixTime(self.start.0 + self.since.elapsed().as_secs())
    }
}
