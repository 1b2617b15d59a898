//! The shell of the TFTP door: takes requests at the well-known port and starts a delivery for each.

mod datagrams;
mod delivery;
mod link;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
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
use super::session::{self, Limits, Opening};
use super::wire::{ErrorCode, MAX_BLKSIZE, MIN_BLKSIZE, Packet, TftpRequest};
use crate::boot::ServedFile;
use crate::boot::files::FileError;
use crate::codec::Reader;
use crate::export::Allowed;
use crate::export::path::PathError;
use crate::machines::{self, ConnectionTracker, Registry};

/// Transfers at a time. Each costs a socket and about four kilobytes.
pub(crate) const MAX_TRANSFERS: usize = 4096;

/// Blocks in a row that we agree to: as many full Ethernet frames as fit into the receive buffer that Linux gives a
/// socket by default (208 KiB, in which a frame takes 2304 bytes).
pub(crate) const MAX_WINDOWSIZE: u16 = 64;

/// Largest datagram taken from a client. A request has at most 512 bytes (RFC 2347), its ACK 4.
const MAX_DATAGRAM: usize = 1472;

/// IPv4 header with some options, UDP header and TFTP header: what a frame holds besides a block.
const HEADERS: u16 = 32;

/// What an Ethernet carries, for peers whose path does not tell.
const ETHERNET_MTU: u16 = 1500;

/// Longest text in an ERROR packet, in bytes: two lines of a boot screen, and far from any datagram's limit.
const MAX_TEXT: usize = 400;

/// Requests that wait for us when a room full of machines is switched on, in bytes of the kernel's memory: at 768 each.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Pause after a failed receive: out of memory is not over the next microsecond.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// From which port a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortMode {
    /// From a new port for each transfer, its transfer identifier (RFC 1350 §4).
    #[default]
    PerTransfer,
    /// From the well-known port, which gets through firewalls. A client is known by its address and port.
    Single,
}

/// How the door is run.
#[derive(Debug, Clone)]
pub struct Options {
    pub ports: PortMode,
    /// Largest block in bytes; it is also never larger than the path to a client carries in one piece.
    pub max_blksize: u16,
    pub max_windowsize: u16,
    pub max_transfers: usize,
    /// Who is answered.
    pub allowed: Allowed,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: PortMode::default(),
            max_blksize: MAX_BLKSIZE,
            max_windowsize: MAX_WINDOWSIZE,
            max_transfers: MAX_TRANSFERS,
            allowed: Allowed::default(),
        }
    }
}

/// Serves requests that come to `socket` until `shutdown` is ready and the transfers that went on then have ended. To
/// drop the future cuts them off.
///
/// `open` finds the file that a path means, for clients that reach us by the address given with it. It must not wait.
///
/// # Errors
/// What the socket says about its set-up. Nothing that a client does ends the server.
pub async fn run<F>(
    socket: UdpSocket,
    open: F,
    machines: Arc<Registry>,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    F: Fn(&[u8], Ipv4Addr) -> Result<ServedFile, FileError>,
{
    socket::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    // The system may give less. A request that is lost then is repeated by its client, seconds later.
    let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    let (active, tasks) = (HashMap::new(), JoinSet::new());
    let mut door =
        TftpServer { socket: Arc::new(socket), open, machines, options, active, tasks, is_stopping: false };
    let mut receiver = Receiver::new();
    tokio::pin!(shutdown);
    while !door.is_stopping || !door.tasks.is_empty() {
        tokio::select! {
            () = &mut shutdown, if !door.is_stopping => door.is_stopping = true,
            Some(ended) = door.tasks.join_next() => door.forget(ended),
            received = receiver.receive(&door.socket) => match received {
                Ok(datagram) => door.handle(datagram),
                Err(error) => {
                    warn!(%error, "TFTP cannot receive");
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
    /// By the client's address and port: its transfer identifier.
    active: HashMap<SocketAddrV4, ActiveTransfer>,
    tasks: JoinSet<SocketAddrV4>,
    /// No new transfer is started.
    is_stopping: bool,
}

/// A delivery that goes on.
struct ActiveTransfer {
    /// The datagram that asked for it.
    request: Bytes,
    since: Instant,
    liveness: Arc<TransferHandle>,
    /// Where its datagrams go when they come to the well-known port.
    inbox: Option<Inbox>,
    task: AbortHandle,
}

impl<F> TftpServer<F>
where
    F: Fn(&[u8], Ipv4Addr) -> Result<ServedFile, FileError>,
{
    fn handle(&mut self, datagram: Datagram<'_>) {
        if !self.options.allowed.contains(IpAddr::V4(*datagram.peer.ip())) {
            return debug!(peer = %datagram.peer, "TFTP not answered: its address is not in `allow`");
        }
        let packet = Packet::parse(&mut Reader::new(datagram.bytes));
        if let (Ok(Packet::Ack { .. } | Packet::Error { .. }), Some(inbox)) =
            (&packet, self.inbox(datagram.peer))
        {
            return inbox.deliver(datagram.bytes);
        }
        match session::open(packet) {
            Opening::Read(request) => self.read(&request, datagram),
            // A client that just got its last block, and repeats the ACK, would take it for an answer to its next
            // request from the same port.
            Opening::Refuse(ErrorCode::UnknownTransferId, _) if self.options.ports == PortMode::Single => {}
            Opening::Refuse(code, text) => {
                debug!(peer = %datagram.peer, "TFTP refused: {text}");
                refuse(&self.socket, datagram.peer, code, text);
            }
            Opening::Ignore => {}
        }
    }

    fn inbox(&self, peer: SocketAddrV4) -> Option<&Inbox> {
        self.active.get(&peer)?.inbox.as_ref()
    }

    fn read(&mut self, request: &TftpRequest<'_>, datagram: Datagram<'_>) {
        let peer = datagram.peer;
        if let Some(transfer) = self.active.get(&peer) {
            if transfer.covers(datagram.bytes) {
                return transfer.liveness.repeat_request();
            }
            transfer.liveness.end();
            self.active.remove(&peer);
        }
        match self.start(request, datagram) {
            Ok(transfer) => drop(self.active.insert(peer, transfer)),
            Err(refusal) => {
                let text = format!("{refusal}: {}", request.filename.escape_ascii());
                info!(%peer, "TFTP refused: {text}");
                refuse(&self.socket, peer, refusal.code(), &text);
            }
        }
    }

    fn start(
        &mut self,
        request: &TftpRequest<'_>,
        datagram: Datagram<'_>,
    ) -> Result<ActiveTransfer, RequestError> {
        if self.is_stopping {
            return Err(RequestError::Stopping);
        }
        if self.active.len() >= self.options.max_transfers {
            return Err(RequestError::Busy(self.active.len()));
        }
        let Datagram { bytes, peer, local } = datagram;
        let file = (self.open)(request.filename, local)?;
        let limits = self.limits(peer, local);
        let (link, inbox) = match self.options.ports {
            PortMode::PerTransfer => (Link::own(peer, local)?, None),
            PortMode::Single => {
                let (link, inbox) = Link::shared(&self.socket, peer, local);
                (link, Some(inbox))
            }
        };
        let liveness = Arc::new(TransferHandle::default());
        let tracker = ConnectionTracker::new(
            Arc::clone(&self.machines),
            (*peer.ip()).into(),
            machines::Protocol::Tftp,
            Instant::now(),
        );
        let delivery = Delivery::new(link, file, request, limits, Arc::clone(&liveness), tracker);
        let task = self.tasks.spawn(async move {
            delivery.run().await;
            peer
        });
        Ok(ActiveTransfer {
            request: Bytes::copy_from_slice(bytes),
            since: Instant::now(),
            liveness,
            inbox,
            task,
        })
    }

    fn limits(&self, peer: SocketAddrV4, local: Ipv4Addr) -> Limits {
        let mtu = link::path_mtu(peer, local).unwrap_or(ETHERNET_MTU);
        Limits {
            blksize: self.options.max_blksize.min(mtu.saturating_sub(HEADERS)).max(MIN_BLKSIZE),
            windowsize: self.options.max_windowsize.max(1),
        }
    }

    /// Forgets a delivery that ended. One that its client left for another file was forgotten then.
    fn forget(&mut self, ended: Result<SocketAddrV4, JoinError>) {
        match ended {
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
        self.request == request && self.liveness.standing().covers_repeated_request(self.since.elapsed())
    }
}

/// Why a read request gets an ERROR.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the server is busy with {0} transfers, try again")]
    Busy(usize),
    #[error("the server is being stopped")]
    Stopping,
    #[error("the server has no socket to spare ({0})")]
    Socket(#[from] io::Error),
}

impl RequestError {
    const fn code(&self) -> ErrorCode {
        match self {
            Self::File(FileError::Path(PathError::NotFound)) => ErrorCode::FileNotFound,
            Self::File(_) => ErrorCode::AccessViolation,
            Self::Busy(_) | Self::Stopping | Self::Socket(_) => ErrorCode::NotDefined,
        }
    }
}

/// Sends an ERROR. It is not repeated when lost: a client that hears nothing asks again.
fn refuse(socket: &UdpSocket, peer: SocketAddrV4, code: ErrorCode, text: &str) {
    if let Err(error) = socket.try_send_to(&error_packet(code, text), SocketAddr::V4(peer)) {
        debug!(%peer, %error, "TFTP error not sent");
    }
}

/// An ERROR whose text any screen can show: printable ASCII, not too much of it.
fn error_packet(code: ErrorCode, text: &str) -> BytesMut {
    let printable = |c: char| if matches!(c, ' '..='~') { c as u8 } else { b'?' };
    let message: Vec<u8> = text.chars().take(MAX_TEXT).map(printable).collect();
    let mut packet = BytesMut::new();
    Packet::Error { code, message: &message }.emit(&mut packet);
    packet
}

/// A datagram that came to the well-known port.
#[derive(Clone, Copy)]
struct Datagram<'a> {
    bytes: &'a [u8],
    peer: SocketAddrV4,
    /// The address of ours that it was sent to.
    local: Ipv4Addr,
}

/// Memory to receive into.
struct Receiver {
    bytes: [u8; MAX_DATAGRAM],
    control: Vec<u8>,
}

impl Receiver {
    fn new() -> Self {
        Self { bytes: [0; MAX_DATAGRAM], control: nix::cmsg_space!(libc::in_pktinfo) }
    }

    /// Waits for a datagram that was sent to us alone.
    async fn receive(&mut self, socket: &UdpSocket) -> io::Result<Datagram<'_>> {
        loop {
            let (len, envelope) = socket.async_io(Interest::READABLE, || self.try_receive(socket)).await?;
            if let Some((peer, local)) = envelope {
                return Ok(Datagram { bytes: self.bytes.get(..len).unwrap_or_default(), peer, local });
            }
        }
    }

    /// The length of a datagram, and its sender and receiver unless it is not for us to answer.
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

/// The address of ours that a datagram was sent to; `None` when that is nobody's alone.
fn unicast_address(control: ControlMessageOwned) -> Option<Ipv4Addr> {
    let ControlMessageOwned::Ipv4PacketInfo(info) = control else { return None };
    let [ours, destination] =
        [info.ipi_spec_dst, info.ipi_addr].map(|a| Ipv4Addr::from(a.s_addr.to_ne_bytes()));
    // What came before we asked for packet info, as what made systemd start us did, has only its destination.
    let is_unicast = ours == destination || ours.is_unspecified();
    // RFC 1123 §4.2.3.5: a request to a broadcast address is ignored silently.
    (is_unicast && !destination.is_broadcast() && !destination.is_multicast()).then_some(destination)
}
