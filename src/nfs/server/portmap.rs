//! The I/O of the portmapper: its TCP connections and its UDP socket.

use std::convert::Infallible;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockaddrIn, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tracing::{debug, warn};

use crate::export::Allowed;
use crate::nfs::portmap::Portmapper;
use crate::nfs::rpc::RecordError;
use crate::panics::caught;
use crate::stream::{self, Admission, Listener};
use crate::sys::{self, Iov, Route};

/// Time for a call to arrive. Clients ask one question and leave.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longest datagram that is received, in bytes. The longest call that makes sense has some 1,200.
const DATAGRAM_MAX: usize = 2048;

/// Pause after a failed receive: a lack of memory lasts, and a loop without a pause would spin.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Tells clients that NFS and MOUNT are at `nfs_port`, until `shutdown` is ready.
///
/// The `allow` list of `tcp` holds for `udp` too.
///
/// # Errors
/// Fails if the UDP socket cannot be set up. Nothing that a client does ends the service.
pub async fn run(
    tcp: impl Into<Listener>,
    udp: UdpSocket,
    nfs_port: u16,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let portmap = Portmapper::new(nfs_port);
    let tcp = tcp.into();
    let datagrams = Datagrams::new(udp, tcp.allowed().clone())?;
    tokio::select! {
        () = shutdown => Ok(()),
        never = stream::accept(tcp, "portmapper", move |socket, peer, admission| serve(socket, peer, admission, portmap)) => match never {},
        never = datagrams.serve(portmap) => match never {},
    }
}

/// Serves one connection from its first byte to its last.
async fn serve(mut socket: TcpStream, peer: SocketAddr, admission: Admission, portmap: Portmapper) {
    let Admission::Admitted(_place) = admission else { return };
    let end = async {
        let local = socket.local_addr()?;
        let mut input = BytesMut::new();
        while tokio::time::timeout(DEADLINE, exchange(&mut socket, &mut input, local, portmap)).await?? {}
        Ok::<(), PortmapError>(())
    };
    if let Err(error) = end.await {
        debug!(%peer, "portmapper connection closed: {error}");
    }
}

/// Reason why a connection ended before its client closed it.
#[derive(Debug, thiserror::Error)]
enum PortmapError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error("no call within {DEADLINE:?}")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Broken(#[from] RecordError),
}

/// Receives bytes and answers the complete calls; returns `false` at the end of the stream.
async fn exchange(
    socket: &mut TcpStream,
    input: &mut BytesMut,
    local: SocketAddr,
    portmap: Portmapper,
) -> Result<bool, PortmapError> {
    if socket.read_buf(input).await? == 0 {
        return Ok(false);
    }
    let mut out = Vec::new();
    let taken = portmap.handle_stream(input, local, &mut out);
    // One write: klibc's nfsmount takes the bytes of one read() for the whole reply.
    socket.write_all(&out).await?;
    input.advance(taken?);
    Ok(true)
}

/// The socket that takes calls as datagrams.
struct Datagrams {
    socket: UdpSocket,
    /// Our own port.
    port: u16,
    allowed: Allowed,
}

impl Datagrams {
    fn new(socket: UdpSocket, allowed: Allowed) -> io::Result<Self> {
        // Clients ignore a reply from an address that they did not call. The socket is bound to all
        // addresses, so it has to learn which one was called.
        socket::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        let port = socket.local_addr()?.port();
        Ok(Self { socket, port, allowed })
    }

    async fn serve(&self, portmap: Portmapper) -> Infallible {
        let (mut datagram, mut out) = ([0; DATAGRAM_MAX], Vec::new());
        loop {
            match self.receive(&mut datagram).await {
                Ok((_, peer, _)) if !self.allowed.contains(IpAddr::V4(*peer.ip())) => {
                    debug!(%peer, "portmapper call ignored: the client's address is not in `allow`");
                }
                Ok((len, peer, local)) => {
                    let datagram = datagram.get(..len).unwrap_or_default();
                    let local_port = SocketAddrV4::new(local, self.port).into();
                    let _ = caught(|| portmap.handle_datagram(datagram, local_port, &mut out));
                    self.reply(&out, peer, local);
                    out.clear();
                }
                Err(error) => {
                    warn!(%error, "portmapper datagram not received");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
            }
        }
    }

    /// Receives a datagram; returns its length, its sender, and our address that it was sent to.
    async fn receive(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddrV4, Ipv4Addr)> {
        let mut control = nix::cmsg_space!(nix::libc::in_pktinfo);
        let fd = self.socket.as_raw_fd();
        self.socket
            .async_io(Interest::READABLE, || {
                let mut slices = [IoSliceMut::new(bytes)];
                let received =
                    socket::recvmsg::<SockaddrIn>(fd, &mut slices, Some(&mut control), MsgFlags::empty())?;
                let peer = received.address.ok_or(io::ErrorKind::InvalidData)?;
                let local = received.cmsgs()?.find_map(|message| match message {
                    // ip(7): ipi_addr may be a broadcast address; ipi_spec_dst is always our own.
                    ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_spec_dst),
                    _ => None,
                });
                let local = local.ok_or(io::ErrorKind::InvalidData)?;
                Ok((received.bytes, peer.into(), Ipv4Addr::from(u32::from_be(local.s_addr))))
            })
            .await
    }

    /// Sends the reply at once or drops it: the client asks again.
    fn reply(&self, reply: &[u8], to: SocketAddrV4, from: Ipv4Addr) {
        if reply.is_empty() {
            return;
        }
        let route = Route { to, from: Some(from), segment: None };
        if let Err(error) = sys::send_datagrams(self.socket.as_fd(), route, &[&[Iov::from(reply)]]) {
            debug!(peer = %to, %error, "portmapper reply not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Starts a portmapper for TCP and UDP; returns its port.
    async fn start() -> u16 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("0.0.0.0", port)).await.unwrap();
        tokio::spawn(run(tcp, udp, 2049, std::future::pending()));
        port
    }

    /// The call of a GETPORT for NFS.
    fn getport() -> Vec<u8> {
        [0x1234_u32, 0, 2, 100_000, 2, 3, 0, 0, 0, 0, 100_003, 3, 6, 0].map(u32::to_be_bytes).concat()
    }

    #[tokio::test]
    async fn reply_comes_in_one_segment() {
        let port = start().await;
        let record = [&[0x80, 0, 0, 56][..], &getport()].concat();
        for _ in 0..20 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            socket.write_all(&record).await.unwrap();
            let mut reply = [0; 100];
            assert_eq!(socket.read(&mut reply).await.unwrap(), 32);
            assert_eq!(reply[28..32], 2049_u32.to_be_bytes());
        }
    }

    #[tokio::test]
    async fn datagram_reply_comes_from_called_address() {
        let port = start().await;
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = SocketAddr::from(([127, 0, 0, 9], port));
        for noise in [&b""[..], b"noise", &[0xff; 40]] {
            client.send_to(noise, server).await.unwrap();
        }
        client.send_to(&getport(), server).await.unwrap();
        let mut reply = [0; 100];
        let (len, from) = client.recv_from(&mut reply).await.unwrap();
        assert_eq!((len, from), (28, server));
        assert_eq!(reply[24..28], 2049_u32.to_be_bytes());
    }

    #[tokio::test]
    async fn datagram_outside_allow_is_ignored() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
        let tcp = Listener::new(tcp, Allowed::only(vec!["127.0.0.2/32".parse().unwrap()]));
        tokio::spawn(run(tcp, udp, 2049, std::future::pending()));
        let [allowed, other] = ["127.0.0.2:0", "127.0.0.1:0"].map(UdpSocket::bind);
        let (allowed, other) = (allowed.await.unwrap(), other.await.unwrap());
        for client in [&other, &allowed] {
            client.send_to(&getport(), ("127.0.0.1", port)).await.unwrap();
        }
        let mut reply = [0; 100];
        assert_eq!(allowed.recv(&mut reply).await.unwrap(), 28);
        // Its call was the first, so a reply would be here by now.
        assert!(other.try_recv(&mut reply).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_disconnected() {
        let port = start().await;
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.write_all(b"\x80\0\0\x38").await.unwrap();
        assert_eq!(socket.read(&mut [0; 10]).await.unwrap(), 0, "closed, and not with an answer");
    }
}
