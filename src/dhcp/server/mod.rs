//! The shell of the DHCP door: sockets, interfaces, the lease file, the watch for other servers, the log.

mod conflict;
mod interfaces;
mod lease_file;
mod report_to_machines;
mod socket;
mod start;
mod story;

use std::net::{Ipv4Addr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::interfaces::{Interface, Interfaces};
use self::lease_file::LeaseFile;
use self::socket::{Arrival, Socket};
use self::story::Story;
use super::lease::UnixTime;
use super::session::{ConflictSeen, Destination, DhcpPort, NoReply, Outcome, Request, Role, Session};
use super::wire::{Malformed, Message};
use crate::boot::{BootTargets, Leased};
use crate::machines::Registry;
use crate::watched::Watched;

pub use socket::{Sharing, bind};
pub use start::{Config, DEFAULT_LEASE_SECONDS, DhcpStartError, Mode, ServerConfig};

/// Between two looks for another DHCP server.
const PROBE_EVERY: Duration = Duration::from_secs(300);
/// Pause after a socket failed: an interface that is down is not up the next microsecond.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// The bound sockets; see [`bind`].
#[derive(Debug)]
pub struct Sockets {
    /// Port 67.
    pub dhcp: UdpSocket,
    /// Port 4011: for firmware that asks there in spite of our offer.
    pub boot_server: Option<UdpSocket>,
}

/// A DHCP server, ready to run.
#[derive(Debug)]
pub struct Server {
    dhcp: Socket,
    boot_server: Option<Socket>,
    session: Session,
    boot: Watched<BootTargets>,
    machines: Arc<Registry>,
    interfaces: Interfaces,
    /// The only interface to serve.
    interface: Option<String>,
    advertise: Option<Ipv4Addr>,
    leased: Arc<Leased>,
    lease_file: Option<LeaseFile>,
    clock: Clock,
    story: Story,
}

impl Server {
    /// Answers until `shutdown` is ready.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let (found, mut conflicts) = mpsc::channel(1);
        let mut probes = JoinSet::new();
        for (interface, local) in self.probed() {
            probes.spawn(watch(interface, local, found.clone()));
        }
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                received = self.dhcp.receive() => match received {
                    Ok((message, arrival)) => self.handle(DhcpPort::Dhcp, message, arrival),
                    Err(error) => self.story.failed("receive", &error).await,
                },
                received = receive_any(&mut self.boot_server) => match received {
                    Ok((message, arrival)) => self.handle(DhcpPort::BootServer, message, arrival),
                    Err(error) => self.story.failed("receive", &error).await,
                },
                Some(conflict) = conflicts.recv() => self.note_conflict(conflict),
            }
        }
        if let Some(file) = self.lease_file {
            file.close().await;
        }
    }

    /// One datagram, from bytes to bytes.
    fn handle(&mut self, port: DhcpPort, message: Result<Message, Malformed>, arrival: Arrival) {
        let message = match message {
            Ok(message) => message,
            Err(malformed) => return debug!(peer = %arrival.from, "DHCP message dropped: {malformed}"),
        };
        let Some(local) = self.local(&arrival) else {
            return debug!(peer = %arrival.from, "DHCP message dropped: not on an interface we serve");
        };
        // Our own probe, or a DHCP client of this host: broadcasts come back to their sender.
        if self.interfaces.is_own_mac(message.header.hardware().bytes()) {
            return;
        }
        if let Some(boot) = self.boot.update() {
            self.session.boot = BootTargets::clone(&boot);
        }
        let server = self.advertise.unwrap_or(local);
        let request = Request { message, port, from: arrival.from, local, server };
        let answer = self.session.answer(&request, self.clock.now());
        self.record_leases();
        self.story.tell(&request, &answer);
        report_to_machines::tell(&self.machines, &request, &answer, Instant::now());
        match answer {
            Outcome::Send { reply, to, .. } => self.send(port, &reply.emit(), to, &arrival, local),
            Outcome::NoReply(NoReply::ChoseAnother(conflict)) if !self.interfaces.is_own(conflict) => {
                self.note_conflict(conflict);
            }
            Outcome::NoReply(_) => {}
        }
    }

    /// Our address for this datagram; `None` when its interface is not ours to serve.
    fn local(&mut self, arrival: &Arrival) -> Option<Ipv4Addr> {
        let network = match &self.session.role {
            Role::Proxy => None,
            Role::Server(server_role) => Some(&server_role.network),
        };
        let interface = self.interfaces.of(arrival)?;
        if self.interface.as_ref().is_some_and(|only| *only != interface.name) {
            return None;
        }
        interface.local(arrival, network)
    }

    fn send(&mut self, port: DhcpPort, bytes: &[u8], to: Destination, arrival: &Arrival, local: Ipv4Addr) {
        let socket = match (port, &self.boot_server) {
            (DhcpPort::BootServer, Some(socket)) => socket,
            _ => &self.dhcp,
        };
        if let Err(error) = socket.send(bytes, to, arrival, local) {
            self.story.unsent(&error);
        }
    }

    fn record_leases(&mut self) {
        let Role::Server(server_role) = &mut self.session.role else { return };
        let events = server_role.leases.take_events();
        events.iter().for_each(|event| start::note(&self.leased, &server_role.network, event));
        if let Some(file) = &mut self.lease_file {
            file.record(&events, &server_role.leases);
        }
    }

    fn note_conflict(&mut self, conflict: Ipv4Addr) {
        if self.session.saw_conflict(conflict, self.clock.now()) == ConflictSeen::First {
            warn!(
                server = %conflict,
                "another DHCP server answers on this network: nothing is offered until it is gone for 15 minutes"
            );
        }
    }

    /// The interfaces on the pool's network, with our address there: where another server would do harm.
    fn probed(&self) -> Vec<(Interface, Ipv4Addr)> {
        match &self.session.role {
            Role::Proxy => Vec::new(),
            Role::Server(server_role) => {
                start::serving(&self.interfaces, self.interface.as_deref(), &server_role.network)
            }
        }
    }
}

/// Looks for another DHCP server every few minutes, until the server ends.
async fn watch(interface: Interface, local: Ipv4Addr, found: mpsc::Sender<Ipv4Addr>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        match conflict::find(&interface, local).await {
            Ok(None) => {}
            Ok(Some(conflict)) => drop(found.send(conflict).await),
            Err(error) => debug!(interface = %interface.name, "cannot look for other DHCP servers: {error}"),
        }
    }
}

async fn receive_any(socket: &mut Option<Socket>) -> std::io::Result<(Result<Message, Malformed>, Arrival)> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

/// The time of leases: taken from the system once, then steady, so that setting the clock (a board without a battery
/// finds out about the time only after its boot) ends no lease.
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
