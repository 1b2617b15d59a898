//! The NFS service: set-up, and the log lines of a connection.

pub mod portmap;
pub mod rpcbind;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tracing::info;

use super::mount::RefusedMount;
use super::session::{Session, StreamError};
use crate::export::{Batch, ColdRange};
use crate::image::Patience;
use crate::images::ImageSet;
use crate::machines::{self, ConnectionTracker, RefusedBy, Registry};
use crate::metrics::{self, Door, Tally};
use crate::stream::{
    self, Admission, ConnectionLog, Listener, PageCacheNow, Place, ReadOutcome, TransmitError, Turn,
};
use crate::watched::Watched;

/// State shared by all clients.
#[derive(Debug)]
struct Shared {
    images: Watched<ImageSet>,
    machines: Arc<Registry>,
}

/// Serves `images` by NFS and MOUNT to every client that connects, until `shutdown` is ready.
/// Connections then live on as long as the runtime does.
pub async fn run(
    listener: impl Into<Listener>,
    images: impl Into<Watched<ImageSet>>,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared { images: images.into(), machines });
    stream::accept_until(listener.into(), "NFS", shutdown, |socket, peer, admission| {
        serve(socket, peer, admission, Arc::clone(&shared))
    })
    .await;
    // Each connection has a reference.
    let connections = Arc::strong_count(&shared) - 1;
    if connections > 0 {
        info!(connections, "shutting down: NFS clients wait until the server is back");
    }
}

/// Serves one connection from its first byte to its last.
async fn serve(socket: TcpStream, peer: SocketAddr, admission: Admission, shared: Arc<Shared>) {
    // RPC has no words for it. A client whose connection is closed makes another one after a while.
    let Admission::Admitted(place) = admission else { return };
    let since = Instant::now();
    let watched = shared.images.clone();
    let mut client = Client {
        session: Session::new(peer),
        peer,
        machines: Arc::clone(&shared.machines),
        place,
        images: watched.current(),
        watched,
        tracker: ConnectionTracker::new(
            Arc::clone(&shared.machines),
            peer.ip(),
            machines::Protocol::Nfs,
            since,
        ),
    };
    let end = stream::drive(&socket, &mut client, &mut BytesMut::new(), &mut Batch::default()).await;
    client.tracker.ended(stream::root_end(&end), Instant::now());
    let totals = client.session.totals();
    ConnectionLog { protocol: "NFS", peer, export: None, totals, since }.closed(&end);
}

/// A connection of a client.
struct Client {
    session: Session,
    peer: SocketAddr,
    machines: Arc<Registry>,
    place: Place,
    images: Arc<ImageSet>,
    /// Newer images than `images`, if there are any.
    watched: Watched<ImageSet>,
    tracker: ConnectionTracker,
}

impl Client {
    fn report_refused(&self, RefusedMount { why, is_changed }: &RefusedMount) {
        let (by, tally) = match is_changed {
            true => (RefusedBy::Image, Tally::ImageErrors),
            false => (RefusedBy::NfsPath, Tally::PeerErrors),
        };
        metrics::count(Door::Nfs, tally, 1);
        self.machines.refused_at(self.peer.ip(), by, why, Instant::now());
    }
}

impl stream::Session for Client {
    type Reason = StreamError;

    const DOOR: Door = Door::Nfs;

    // A call that arrives before the reply to its xid has left is known to be a duplicate then.
    const LISTENS_WHILE_SENDING: bool = true;

    const CHECKS_PAGE_CACHE: bool = true;

    // NFS3ERR_JUKEBOX makes a client ask again.
    const PATIENCE: Patience = Patience::AsksAgain;

    fn adopt(&mut self) {
        if let Some(images) = self.watched.update() {
            self.images = images;
        }
    }

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<StreamError> {
        let before = self.session.totals().reads;
        let turn = self.session.handle(&self.images, input, &PageCacheNow::new(Door::Nfs), out);
        let answered = self.session.totals().reads - before;
        if answered > 0 {
            metrics::count(Door::Nfs, Tally::Requests, answered);
        }
        if let Some(refused) = self.session.take_refused_mount() {
            self.report_refused(&refused);
        }
        turn
    }

    fn take_cold(&mut self) -> Vec<ColdRange> {
        self.session.take_cold()
    }

    fn range_ended(&mut self, ticket: u64, outcome: ReadOutcome) {
        self.session.range_ended(ticket, outcome);
    }

    fn bytes_sent(&mut self, batch: &Batch, len: u64, now: Instant) {
        self.place.settle();
        self.tracker.sent(batch, len, now);
    }

    fn replies_sent(&mut self, result: &Result<(), TransmitError>, _: u64, input: &BytesMut) {
        if result.is_ok() {
            self.session.sent(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;
    use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
    use crate::image::{Extent, Image, Source};
    use crate::images::ServedImage;
    use crate::nfs::handle::FileHandle;
    use crate::nfs::session::READ_MAX;
    use crate::nfs::wire::procedure::{NULL, READ};

    const SIZE: u64 = 64 << 20;
    const FILE: NodeId = NodeId(1);

    /// Connects to a server whose image holds one file of zeros; returns the handle of the file,
    /// too.
    async fn connect() -> (TcpStream, Vec<u8>) {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        let file = NodeKind::File { extents: vec![Extent { offset: 0, len: SIZE }] };
        index.add(NodeId::ROOT, b"file", file, attributes).unwrap();
        let medium = tempfile::NamedTempFile::new().unwrap();
        medium.as_file().set_len(SIZE).unwrap();
        // In the page cache, so that replies leave in the order of the calls.
        io::copy(&mut medium.as_file(), &mut io::sink()).unwrap();
        let image = Image::new(Source::open(medium.path()).unwrap(), index).unwrap();
        let handle = FileHandle { identity: image.identity, node: FILE }.bytes().to_vec();
        let served = ServedImage::new("zeros", image);
        // So small that replies wait in the server.
        let [listening, socket] = [(); 2].map(|()| TcpSocket::new_v4().unwrap());
        listening.set_send_buffer_size(64 << 10).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listening.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let machines = Arc::new(Registry::new(Instant::now()));
        let images = Arc::new(ImageSet::new(served, Vec::new()));
        tokio::spawn(run(listener, images, machines, std::future::pending()));
        (socket.connect(address).await.unwrap(), handle)
    }

    fn call(xid: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let head = [xid, 0, 2, 100_003, 3, procedure, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
        let mark = 1 << 31 | (head.len() + args.len()) as u32;
        [&mark.to_be_bytes()[..], &head, args].concat()
    }

    fn read(xid: u32, handle: &[u8], count: u32) -> Vec<u8> {
        let offset = u64::from(xid % 32) << 20;
        let args = [&16u32.to_be_bytes()[..], handle, &offset.to_be_bytes(), &count.to_be_bytes()];
        call(xid, READ, &args.concat())
    }

    /// Reads the next reply as a whole and returns its xid.
    async fn xid(socket: &mut TcpStream) -> u32 {
        let within = Duration::from_secs(60);
        let reply = async {
            let len = socket.read_u32().await.unwrap() & !(1 << 31);
            let mut reply = vec![0; len as usize];
            socket.read_exact(&mut reply).await.unwrap();
            u32::from_be_bytes(reply[..4].try_into().unwrap())
        };
        tokio::time::timeout(within, reply).await.expect("every call is answered")
    }

    #[tokio::test]
    async fn many_long_reads_are_all_answered() {
        let (mut socket, handle) = connect().await;
        let calls: Vec<u8> = (0..48).flat_map(|n| read(n, &handle, READ_MAX)).collect();
        socket.write_all(&calls).await.unwrap();
        for n in 0..48 {
            assert_eq!(xid(&mut socket).await, n);
        }
    }

    #[tokio::test]
    async fn call_during_a_waiting_reply_is_answered() {
        let (mut socket, handle) = connect().await;
        // Less than a turn and more than the sockets hold.
        socket.write_all(&read(1, &handle, READ_MAX - 4096)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.write_all(&call(2, NULL, &[])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(xid(&mut socket).await, 1);
        assert_eq!(xid(&mut socket).await, 2);
    }

    #[tokio::test]
    async fn duplicate_call_gets_one_reply() {
        let (mut socket, handle) = connect().await;
        let calls: Vec<u8> = (0..32).flat_map(|n| read(n, &handle, READ_MAX)).collect();
        socket.write_all(&calls).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        // No socket holds this much, so the last reply waits, however slow the machine is.
        socket.write_all(&read(31, &handle, READ_MAX).repeat(3)).await.unwrap();
        for n in 0..32 {
            assert_eq!(xid(&mut socket).await, n);
        }
        socket.write_all(&call(99, NULL, &[])).await.unwrap();
        assert_eq!(xid(&mut socket).await, 99);
        // By now every reply has left, so the xid counts as new.
        socket.write_all(&read(31, &handle, READ_MAX)).await.unwrap();
        assert_eq!(xid(&mut socket).await, 31);
    }

    #[tokio::test]
    async fn reply_comes_in_one_piece() {
        let (mut socket, _) = connect().await;
        for n in 0..100 {
            socket.write_all(&call(n, NULL, &[])).await.unwrap();
            let mut reply = [0; 100];
            assert_eq!(socket.read(&mut reply).await.unwrap(), 28);
        }
    }

    #[tokio::test]
    async fn half_closed_client_gets_all_replies() {
        let (mut socket, handle) = connect().await;
        let calls: Vec<u8> = (0..32).flat_map(|n| read(n, &handle, READ_MAX)).collect();
        socket.write_all(&calls).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answered = Vec::new();
        for _ in 0..32 {
            answered.push(xid(&mut socket).await);
        }
        // A READ of bytes that are not in the page cache is answered later.
        answered.sort_unstable();
        assert!(answered.into_iter().eq(0..32));
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn client_of_another_protocol_is_closed() {
        let (mut socket, _) = connect().await;
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(socket.read(&mut [0]).await.unwrap_or(0), 0);
    }
}
