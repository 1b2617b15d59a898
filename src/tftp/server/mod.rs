//! Shell of the TFTP service: takes requests at the well-known port and starts a transfer for each.

mod datagrams;
mod delivery;
mod link;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockaddrIn, sockopt};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{debug, info, warn};

use self::delivery::{Delivery, TransferHandle};
use self::link::{Inbox, Link};
use super::session::{self, DatagramAction, Limits};
use super::wire::{ErrorCode, MAX_BLKSIZE, MIN_BLKSIZE, Packet, TftpRequest};
use jiff::Timestamp;

use crate::boot::files::FileError;
use crate::boot::{ADVICE, Requester, ServedFile};
use crate::codec::Reader;
use crate::export::Allowed;
use crate::export::path::PathError;
use crate::machines::{self, ConnectionTracker, RefusedBy, Registry};
use crate::metrics::{self, Door, OpenConnection, Tally};
use crate::panics::caught;
use crate::stream::Descriptors;
use crate::sys::{self, Iov, Route};

/// Transfers at the same time. Each costs a socket and about four kilobytes.
pub(crate) const MAX_TRANSFERS: usize = 4096;

/// Largest window in blocks. It fits the default receive buffer of a Linux socket: 208 KiB, of
/// which a full Ethernet frame takes 2304 bytes.
pub(crate) const MAX_WINDOWSIZE: u16 = 64;

/// Bytes received of a datagram. A request has at most 512 (RFC 2347), an ACK 4.
const MAX_DATAGRAM: usize = 1472;

/// Length of the IPv4, UDP and TFTP headers before a block.
const HEADERS: u16 = 32;

/// MTU of Ethernet, for a path whose MTU is unknown.
const ETHERNET_MTU: u16 = 1500;

/// Longest text of an ERROR packet in bytes: five lines of a boot screen.
const MAX_TEXT: usize = 400;

/// Receive buffer of the well-known port, in bytes of kernel memory. A request takes 768, so 2,700
/// machines can be switched on at the same time.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Pause after a failed receive: a lack of memory does not end within microseconds.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Server port of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortMode {
    /// A new port for each transfer: its transfer identifier (RFC 1350 §4).
    #[default]
    PerTransfer,
    /// The well-known port, for firewalls. Transfers differ by the address and port of the client.
    Single,
}

/// Options of the TFTP service.
#[derive(Debug, Clone)]
pub struct Options {
    pub ports: PortMode,
    /// Largest block in bytes. The MTU of the path to a client limits it further.
    pub max_blksize: u16,
    pub max_windowsize: u16,
    pub max_transfers: usize,
    /// Descriptors that transfers may have.
    pub descriptors: Descriptors,
    /// Addresses whose clients are answered.
    pub allowed: Allowed,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: PortMode::default(),
            max_blksize: MAX_BLKSIZE,
            max_windowsize: MAX_WINDOWSIZE,
            max_transfers: MAX_TRANSFERS,
            descriptors: Descriptors::unlimited(),
            allowed: Allowed::default(),
        }
    }
}

/// Serves requests at `socket` until `shutdown` is ready and the transfers of that moment have
/// ended. Dropping the future ends them at once.
///
/// `open` finds the file of a path for a client. It must not block.
///
/// # Errors
/// Errors of setting up the socket. A client cannot end the service.
pub async fn run<F>(
    socket: UdpSocket,
    open: F,
    machines: Arc<Registry>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    F: Fn(&[u8], Requester) -> Result<ServedFile, FileError>,
{
    socket::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    // The kernel may grant less. A client repeats a lost request, some seconds later.
    let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    let (active, tasks) = (HashMap::new(), JoinSet::new());
    let mut server =
        TftpServer { socket: Arc::new(socket), open, machines, options, active, tasks, is_stopping: false };
    let mut receiver = Receiver::new();
    tokio::pin!(shutdown);
    while !server.is_stopping || !server.tasks.is_empty() {
        tokio::select! {
            () = &mut shutdown, if !server.is_stopping => server.is_stopping = true,
            Some(ended) = server.tasks.join_next() => server.forget(ended),
            received = receiver.receive(&server.socket), if server.is_receiving() => match received {
                Ok(datagram) => drop(caught(|| server.handle(datagram))),
                Err(error) => {
                    warn!("TFTP datagram not received: {error}");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            },
        }
    }
    Ok(())
}

struct TftpServer<F> {
    socket: Arc<UdpSocket>,
    open: F,
    machines: Arc<Registry>,
    options: Options,
    /// Transfers by the address and port of the client: its transfer identifier (RFC 1350 §4).
    active: HashMap<SocketAddrV4, ActiveTransfer>,
    tasks: JoinSet<SocketAddrV4>,
    /// True when requests are left to the process that follows.
    is_stopping: bool,
}

/// Transfer in progress.
struct ActiveTransfer {
    /// Datagram of its request.
    request: Bytes,
    since: Instant,
    handle: Arc<TransferHandle>,
    /// Queue for its datagrams, if they come to the well-known port.
    inbox: Option<Inbox>,
    task: AbortHandle,
}

impl<F> TftpServer<F>
where
    F: Fn(&[u8], Requester) -> Result<ServedFile, FileError>,
{
    /// Returns whether datagrams to the well-known port are for this process.
    fn is_receiving(&self) -> bool {
        // The process that follows may have the same socket, and answers requests. PXELINUX would
        // not repeat one that was refused here, and would boot without its menu.
        !self.is_stopping || self.options.ports == PortMode::Single
    }

    fn handle(&mut self, datagram: Datagram<'_>) {
        if !self.options.allowed.contains(IpAddr::V4(*datagram.peer.ip())) {
            return self.report_not_allowed(datagram.peer);
        }
        let packet = Packet::parse(&mut Reader::new(datagram.bytes));
        if let (Ok(Packet::Ack { .. } | Packet::Error { .. }), Some(inbox)) =
            (&packet, self.inbox(datagram.peer))
        {
            return inbox.deliver(datagram.bytes);
        }
        if self.is_stopping {
            // A client repeats its request, and the process that follows may get it then.
            return;
        }
        match session::classify(packet) {
            DatagramAction::Read(request) => self.read(&request, datagram),
            // lpxelinux uses one port for all its requests. It would take an ERROR for a late ACK
            // of the last file as the answer to its next request.
            DatagramAction::Refuse(ErrorCode::UnknownTransferId, _)
                if self.options.ports == PortMode::Single => {}
            DatagramAction::Refuse(code, text) => {
                debug!(peer = %datagram.peer, "TFTP datagram refused: {text}");
                refuse(&self.socket, datagram.peer, Some(datagram.local), code, text);
            }
            DatagramAction::Ignore => {}
        }
    }

    fn inbox(&self, peer: SocketAddrV4) -> Option<&Inbox> {
        self.active.get(&peer)?.inbox.as_ref()
    }

    fn read(&mut self, request: &TftpRequest<'_>, datagram: Datagram<'_>) {
        let peer = datagram.peer;
        if let Some(transfer) = self.active.get(&peer) {
            // A second transfer for a copy of the request would send every block twice.
            if transfer.covers(datagram.bytes) {
                return transfer.handle.repeat_request();
            }
            transfer.handle.end();
            self.active.remove(&peer);
        }
        metrics::count(Door::Tftp, Tally::Requests, 1);
        match self.start(request, datagram) {
            Ok(transfer) => drop(self.active.insert(peer, transfer)),
            Err(error) => {
                let text = format!("{error}: {}", request.filename.escape_ascii());
                info!(%peer, "TFTP request refused: {text}");
                self.report_refusal(&error, request, *peer.ip());
                let server = Requester::from(datagram.local).server_name();
                let advice = error.advice();
                let text = format!("{server}: {text}{advice}");
                refuse(&self.socket, peer, Some(datagram.local), error.code(), &text);
            }
        }
    }

    fn report_not_allowed(&self, peer: SocketAddrV4) {
        let why = format!("{} is not in `allow`", peer.ip());
        debug!(%peer, "TFTP datagram not answered: {why}");
        self.machines.refused_at(IpAddr::V4(*peer.ip()), RefusedBy::Allow, &why, Instant::now());
    }

    /// Tells the table of machines why a machine does not get its file.
    fn report_refusal(&self, error: &TftpRequestError, request: &TftpRequest<'_>, peer: Ipv4Addr) {
        metrics::count(Door::Tftp, error.tally(), 1);
        let (peer, now) = (IpAddr::V4(peer), Instant::now());
        match error {
            TftpRequestError::File(FileError::Changed(error)) => {
                self.machines.refused_at(peer, RefusedBy::Image, &error.to_string(), now);
            }
            TftpRequestError::File(FileError::Path(_) | FileError::NotAFile) => {
                let path = request.filename.escape_ascii().to_string();
                // Only firmware and loaders speak TFTP.
                self.machines.missed(peer, &path, machines::Protocol::Tftp, true, now);
            }
            TftpRequestError::Busy(_) | TftpRequestError::BusyAddress(_) => {
                self.machines.refused_at(peer, RefusedBy::Places, &error.to_string(), now);
            }
            TftpRequestError::Socket(_) => {}
        }
    }

    fn start(
        &mut self,
        request: &TftpRequest<'_>,
        datagram: Datagram<'_>,
    ) -> Result<ActiveTransfer, TftpRequestError> {
        if self.active.len() >= self.options.max_transfers {
            return Err(TftpRequestError::Busy(self.active.len()));
        }
        let Datagram { bytes, peer, local } = datagram;
        self.check_share(*peer.ip())?;
        let file =
            (self.open)(request.filename, Requester::new(local, (*peer.ip()).into(), Timestamp::now()))?;
        let limits = self.limits(peer, local);
        let (link, inbox) = self.link(peer, local)?;
        let handle = Arc::new(TransferHandle::default());
        let tracker = ConnectionTracker::new(
            Arc::clone(&self.machines),
            (*peer.ip()).into(),
            machines::Protocol::Tftp,
            Instant::now(),
        );
        let delivery = Delivery::new(link, file, request, limits, Arc::clone(&handle), tracker);
        let open = OpenConnection::new(Door::Tftp);
        let task = self.tasks.spawn(async move {
            let (_open, since) = (open, Instant::now());
            delivery.run().await;
            metrics::observe(Door::Tftp, since.elapsed());
            peer
        });
        let request = Bytes::copy_from_slice(bytes);
        Ok(ActiveTransfer { request, since: Instant::now(), handle, inbox, task })
    }

    /// Refuses an address that has half of all transfers.
    fn check_share(&self, address: Ipv4Addr) -> Result<(), TftpRequestError> {
        let half = self.options.max_transfers.div_ceil(2);
        if self.active.len() < half {
            return Ok(());
        }
        let its = self.active.keys().filter(|peer| *peer.ip() == address).count();
        if its < half { Ok(()) } else { Err(TftpRequestError::BusyAddress(its)) }
    }

    fn link(&self, peer: SocketAddrV4, local: Ipv4Addr) -> io::Result<(Link, Option<Inbox>)> {
        match self.options.ports {
            PortMode::PerTransfer => Ok((Link::own(peer, local, self.options.descriptors)?, None)),
            PortMode::Single => {
                let (link, inbox) = Link::shared(&self.socket, peer, local);
                Ok((link, Some(inbox)))
            }
        }
    }

    fn limits(&self, peer: SocketAddrV4, local: Ipv4Addr) -> Limits {
        // RFC 2348: IP fragments a block above the path MTU. One lost fragment then loses the
        // block.
        let mtu = link::path_mtu(peer, local).unwrap_or(ETHERNET_MTU);
        Limits {
            blksize: self.options.max_blksize.min(mtu.saturating_sub(HEADERS)).max(MIN_BLKSIZE),
            windowsize: self.options.max_windowsize.max(1),
        }
    }

    /// Removes a transfer that ended.
    fn forget(&mut self, ended: Result<SocketAddrV4, JoinError>) {
        match ended {
            // The transfer of this client may be a later one by now.
            Ok(peer) if self.active.get(&peer).is_some_and(ActiveTransfer::is_over) => {
                drop(self.active.remove(&peer))
            }
            Err(error) if error.is_panic() => self.active.retain(|_, transfer| !transfer.is_over()),
            Ok(_) | Err(_) => {}
        }
    }
}

impl ActiveTransfer {
    fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    fn covers(&self, request: &[u8]) -> bool {
        self.request == request && self.handle.progress().covers_repeated_request(self.since.elapsed())
    }
}

/// Error that refuses a read request.
#[derive(Debug, thiserror::Error)]
enum TftpRequestError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the server is busy with {0} transfers, try again")]
    Busy(usize),
    #[error("the server has {0} transfers to this address already, try again")]
    BusyAddress(usize),
    #[error("the server has no socket to spare ({0})")]
    Socket(#[from] io::Error),
}

impl TftpRequestError {
    /// Returns what a person at the machine can do, behind the text of the error; empty if that is
    /// to wait.
    fn advice(&self) -> String {
        match self {
            Self::File(_) => format!("; {ADVICE}"),
            Self::Busy(_) | Self::BusyAddress(_) | Self::Socket(_) => String::new(),
        }
    }

    const fn tally(&self) -> Tally {
        match self {
            Self::File(FileError::Changed(_)) => Tally::ImageErrors,
            _ => Tally::PeerErrors,
        }
    }

    const fn code(&self) -> ErrorCode {
        match self {
            Self::File(FileError::Path(PathError::NotFound)) => ErrorCode::FileNotFound,
            Self::File(FileError::Changed(_)) => ErrorCode::NotDefined,
            Self::File(_) => ErrorCode::AccessViolation,
            Self::Busy(_) | Self::BusyAddress(_) | Self::Socket(_) => ErrorCode::NotDefined,
        }
    }
}

/// Sends an ERROR. `from` is the address that the client asked; `None` if the socket has no other.
fn refuse(socket: &UdpSocket, peer: SocketAddrV4, from: Option<Ipv4Addr>, code: ErrorCode, text: &str) {
    let packet = error_packet(code, text);
    // Syslinux drops an ERROR from another address than the one that it asked.
    let route = Route { to: peer, from, segment: None };
    let send = || sys::send_datagrams(socket.as_fd(), route, &[&[Iov::from(&packet[..])]]);
    // RFC 1350 §7: an ERROR is not acknowledged and not sent again. The client asks again.
    if let Err(error) = socket.try_io(Interest::WRITABLE, send) {
        debug!(%peer, "TFTP ERROR not sent: {error}");
    }
}

/// Creates an ERROR packet with the printable ASCII of `text`, which any boot screen can show.
fn error_packet(code: ErrorCode, text: &str) -> BytesMut {
    let characters = text.chars().take(MAX_TEXT);
    let message: Vec<u8> = characters.map(|c| if matches!(c, ' '..='~') { c as u8 } else { b'?' }).collect();
    let mut packet = BytesMut::new();
    Packet::Error { code, message: &message }.emit(&mut packet);
    packet
}

/// Datagram received at the well-known port.
#[derive(Clone, Copy)]
struct Datagram<'a> {
    bytes: &'a [u8],
    peer: SocketAddrV4,
    /// Our address that it was sent to.
    local: Ipv4Addr,
}

/// Receive buffers.
struct Receiver {
    bytes: [u8; MAX_DATAGRAM],
    control: Vec<u8>,
}

impl Receiver {
    fn new() -> Self {
        Self { bytes: [0; MAX_DATAGRAM], control: nix::cmsg_space!(libc::in_pktinfo) }
    }

    /// Waits for a datagram that was sent to an address of ours.
    async fn receive(&mut self, socket: &UdpSocket) -> io::Result<Datagram<'_>> {
        loop {
            let (len, envelope) = socket.async_io(Interest::READABLE, || self.try_receive(socket)).await?;
            if let Some((peer, local)) = envelope {
                return Ok(Datagram { bytes: self.bytes.get(..len).unwrap_or_default(), peer, local });
            }
        }
    }

    /// Receives a datagram. Returns its length, and sender and receiver unless it is a broadcast.
    fn try_receive(&mut self, socket: &UdpSocket) -> io::Result<(usize, Option<(SocketAddrV4, Ipv4Addr)>)> {
        let mut areas = [IoSliceMut::new(&mut self.bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            socket::recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut areas, Some(&mut self.control), flags)?;
        let peer = message.address.map(SocketAddrV4::from);
        let local = message.cmsgs()?.find_map(unicast_address);
        Ok((message.bytes, peer.zip(local)))
    }
}

/// Returns our address that a datagram was sent to; `None` for a broadcast.
fn unicast_address(control: ControlMessageOwned) -> Option<Ipv4Addr> {
    let ControlMessageOwned::Ipv4PacketInfo(info) = control else { return None };
    let [ours, destination] =
        [info.ipi_spec_dst, info.ipi_addr].map(|a| Ipv4Addr::from(a.s_addr.to_ne_bytes()));
    // A datagram that was queued before IP_PKTINFO was set has the destination only: with socket
    // activation that is the first one.
    let is_unicast = ours == destination || ours.is_unspecified();
    // RFC 1123 §4.2.3.5: a request to a broadcast address is ignored.
    (is_unicast && !destination.is_broadcast() && !destination.is_multicast()).then_some(destination)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{Architecture, Firmware, Platform};
    use crate::image::FileChangedError;
    use crate::machines::diagnosis::Diagnosis;

    const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 7), 2070);

    /// Refuses a request for this reason, and returns what the table of machines says.
    async fn refused(error: FileError) -> Option<Diagnosis> {
        let (machines, now) = (Arc::new(Registry::new(Instant::now())), Instant::now());
        let platform = Platform { firmware: Firmware::Pxe, architecture: Architecture::BIOS };
        machines.offered("52:54:00:fe:00:07".parse().unwrap(), platform, Some(*PEER.ip()), now);
        let mut server = TftpServer {
            socket: Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()),
            open: |_: &[u8], _| Err(error),
            machines,
            options: Options::default(),
            active: HashMap::new(),
            tasks: JoinSet::new(),
            is_stopping: false,
        };
        let bytes = b"\0\x01vmlinuz\0octet\0";
        for _ in 0..3 {
            server.handle(Datagram { bytes, peer: PEER, local: Ipv4Addr::LOCALHOST });
        }
        server.machines.status(Instant::now(), Timestamp::now()).machines.remove(0).diagnosis
    }

    #[tokio::test]
    async fn refusal_tells_a_changed_image_from_a_missing_file() {
        let why = FileChangedError.to_string();
        assert_eq!(
            refused(FileChangedError.into()).await,
            Some(Diagnosis::Refused { by: RefusedBy::Image, why })
        );
        let missing = Diagnosis::FileNotFound { path: "vmlinuz".into(), protocol: machines::Protocol::Tftp };
        assert_eq!(refused(PathError::NotFound.into()).await, Some(missing));
    }
}
