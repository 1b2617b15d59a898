//! Shell of the DHCP service: sockets, interfaces, the lease file, probes for other servers, the
//! log.

mod conflict;
mod interfaces;
mod lease_file;
mod log;
mod logged_once;
mod report_to_machines;
mod socket;
mod start;
mod subnets;

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::conflict::Conflict;
use self::interfaces::{Interface, Interfaces};
use self::lease_file::LeaseFile;
use self::log::DhcpLog;
use self::socket::{Arrival, Malformed, Socket};
use super::lease::UnixTime;
use super::session::{ConflictSeen, Destination, DhcpPort, NoReply, Outcome, Request, Role, Session};
use super::wire::Message;
use crate::boot::{BootTargets, Leased};
use crate::machines::Registry;
use crate::watched::Watched;

pub use socket::{Sharing, bind};
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
    dhcp: Socket,
    boot_server: Option<Socket>,
    session: Session,
    boot: Watched<BootTargets>,
    machines: Arc<Registry>,
    interfaces: Interfaces,
    advertise: Option<Ipv4Addr>,
    leased: Arc<Leased>,
    lease_file: Option<LeaseFile>,
    clock: Clock,
    log: DhcpLog,
}

impl Server {
    /// Answers clients until `shutdown` is ready.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let (found, mut conflicts) = mpsc::channel(1);
        let mut probes = JoinSet::new();
        let mut renewals = tokio::time::interval(self.renewal_interval());
        for (interface, local) in self.probed() {
            probes.spawn(watch(interface, local, found.clone()));
        }
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                received = self.dhcp.receive() => match received {
                    Ok((message, arrival)) => self.handle(DhcpPort::Dhcp, message, arrival),
                    Err(error) => self.pause(&error).await,
                },
                received = receive_if_bound(&mut self.boot_server) => match received {
                    Ok((message, arrival)) => self.handle(DhcpPort::BootServer, message, arrival),
                    Err(error) => self.pause(&error).await,
                },
                Some(Conflict { server, local, .. }) = conflicts.recv() => self.note_conflict(server, local),
                _ = renewals.tick() => self.renew_leases_of_roots(),
            }
        }
        if let Some(file) = self.lease_file {
            file.close().await;
        }
    }

    /// Logs a failed receive and waits.
    async fn pause(&mut self, error: &io::Error) {
        self.log.receive_failed(error);
        tokio::time::sleep(FAILURE_PAUSE).await;
    }

    /// Answers one datagram.
    fn handle(&mut self, port: DhcpPort, message: Result<Message, Malformed>, arrival: Arrival) {
        let message = match message {
            Ok(message) => message,
            Err(malformed) => return self.log.malformed(&malformed, arrival.from),
        };
        let local = self.local(&arrival);
        // A broadcast comes back to its sender: our own probe, or a DHCP client of this host.
        if self.interfaces.is_own_mac(message.header.hardware().bytes()) {
            return;
        }
        let Some(local) = local else { return self.log.not_served(&message) };
        // A copy, so that one message sees one snapshot of images and rules.
        if let Some(boot) = self.boot.update() {
            self.session.boot = BootTargets::clone(&boot);
        }
        let server = self.advertise.unwrap_or(local);
        let request = Request { message, port, from: arrival.from, local, server };
        let outcome = self.session.answer(&request, self.clock.now());
        self.record_leases();
        self.log.outcome(&request, &outcome);
        report_to_machines::report(&self.machines, &request, &outcome, Instant::now());
        match outcome {
            Outcome::Send { reply, to, .. } => self.send(port, &reply.emit(), to, &arrival, local),
            Outcome::NoReply(NoReply::ChoseAnother { server, network })
                if !self.interfaces.is_own(server) =>
            {
                self.note_conflict(server, network);
            }
            Outcome::NoReply(_) => {}
        }
    }

    /// Returns our address for this datagram; `None` if its interface is not served.
    fn local(&mut self, arrival: &Arrival) -> Option<Ipv4Addr> {
        let role = &self.session.role;
        self.interfaces.of(arrival)?.local(arrival, |ip| role.leases_on(ip))
    }

    fn send(&mut self, port: DhcpPort, bytes: &[u8], to: Destination, arrival: &Arrival, local: Ipv4Addr) {
        // The client may drop a reply from another port than it wrote to: iPXE takes replies of the
        // boot server from port 4011 only, klibc's ipconfig replies from port 67 only.
        let socket = match (port, &self.boot_server) {
            (DhcpPort::BootServer, Some(socket)) => socket,
            _ => &self.dhcp,
        };
        if let Err(error) = socket.send(bytes, to, arrival, local) {
            self.log.send_failed(&error);
        }
    }

    fn record_leases(&mut self) {
        let Role::Server(server_role) = &mut self.session.role else { return };
        let events = server_role.take_events();
        events.iter().for_each(|event| start::update_leased(&self.leased, server_role, event));
        if let Some(file) = &mut self.lease_file {
            file.record(&events, server_role);
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
        self.record_leases();
    }

    /// Records another server on the network with the address `on`.
    fn note_conflict(&mut self, server: Ipv4Addr, on: Ipv4Addr) {
        if self.session.saw_conflict(server, on, self.clock.now()) == ConflictSeen::First {
            warn!(
                %server,
                network = %on,
                "another DHCP server found: no offers on its network until it is silent for 15 minutes"
            );
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

/// Probes for another DHCP server at intervals, until the task is dropped.
async fn watch(interface: Interface, local: Ipv4Addr, found: mpsc::Sender<Conflict>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        match conflict::find(&interface, local).await {
            Ok(None) => {}
            Ok(Some(server)) => {
                let interface = interface.name.clone();
                drop(found.send(Conflict { server, local, interface }).await);
            }
            Err(error) => {
                debug!(interface = %interface.name, "probe for other DHCP servers failed: {error}");
            }
        }
    }
}

/// Waits for a datagram, without end if there is no socket.
async fn receive_if_bound(socket: &mut Option<Socket>) -> io::Result<(Result<Message, Malformed>, Arrival)> {
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
