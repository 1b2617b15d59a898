//! Sends queued ranges as datagrams, as [`crate::stream`] sends them as a stream. Payload goes from
//! the mapping to the kernel without a copy in user space.

use std::io;
use std::os::fd::BorrowedFd;

use super::link::Link;
use crate::export::Batch;
use crate::export::batch::Chunk;
use crate::store::AbsentError;
use crate::stream::TransmitError;
use crate::sys::{self, Iov, MAX_MESSAGE, MAX_MESSAGES, MAX_SEGMENTS, Route};

/// Memory areas of one `sendmmsg`: a header and a payload for each datagram, and some more for
/// blocks that cross the end of an extent.
const AREAS: usize = 2 * MAX_MESSAGES + 32;

/// Place where a window is cut into datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum DatagramSplitter {
    /// The kernel cuts messages of many blocks (`UDP_SEGMENT`): a quarter of the work.
    #[default]
    Kernel,
    /// We send each datagram, if the kernel or the network device cannot cut.
    UserSpace,
}

impl DatagramSplitter {
    /// Sends the whole batch in datagrams of `len` bytes, of which the last may be shorter. Waits
    /// for the socket as long as necessary.
    ///
    /// # Errors
    /// See [`TransmitError`].
    pub(super) async fn flush(
        &mut self,
        batch: &mut Batch,
        len: u16,
        link: &Link,
    ) -> Result<(), TransmitError> {
        while !batch.is_empty() {
            let cut = self.cut(len, batch.len());
            let sending = link.send(|socket| {
                let _pass = batch.image().and_then(|image| image.source.enter());
                Gathered::of(batch, cut)?.send(socket, link.route(), cut)
            });
            match sending.await {
                Ok(messages) => batch.advance((messages as u64 * cut.message).min(batch.len())),
                Err(error) if cut.is_refused(&error) => *self = Self::UserSpace,
                Err(error) => return Err(transmit_error(error)),
            }
        }
        Ok(())
    }

    /// Decides how to cut `queued` bytes into datagrams of `len`.
    fn cut(self, len: u16, queued: u64) -> Cut {
        let per_message = MAX_SEGMENTS.min(MAX_MESSAGE / usize::from(len)) as u64;
        // A single datagram needs no cutting, and large blocks fill a message each.
        if self == Self::UserSpace || per_message < 2 || queued <= u64::from(len) {
            return Cut { message: u64::from(len), segment: None };
        }
        Cut { message: per_message * u64::from(len), segment: Some(len) }
    }
}

/// Length of a message, and of each datagram that the kernel cuts it into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    message: u64,
    segment: Option<u16>,
}

impl Cut {
    /// Returns whether the error means that the kernel cannot cut.
    fn is_refused(self, error: &io::Error) -> bool {
        // The kernel answers so if the device does not compute checksums, for a route with IPsec,
        // and if a segment exceeds the path MTU.
        let codes = [libc::EINVAL, libc::EIO, libc::EMSGSIZE].map(Some);
        self.segment.is_some() && codes.contains(&error.raw_os_error())
    }
}

fn transmit_error(error: io::Error) -> TransmitError {
    match error.raw_os_error() {
        // The mapping lost pages: the image was truncated.
        Some(libc::EFAULT) => TransmitError::Image(error),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => TransmitError::Image(error),
        _ if AbsentError::caused(&error) => TransmitError::Image(error),
        _ => TransmitError::Peer(error),
    }
}

/// Front of a batch, as whole messages.
struct Gathered<'a> {
    areas: [Iov<'a>; AREAS],
    /// Number of areas of each message.
    counts: [usize; MAX_MESSAGES],
    messages: usize,
}

impl<'a> Gathered<'a> {
    /// Gathers the front of `batch`. Blocks of a stored image have to stay until it is sent.
    fn of(batch: &'a Batch, cut: Cut) -> io::Result<Self> {
        let mut gathered = Self { areas: [Iov::EMPTY; AREAS], counts: [0; MAX_MESSAGES], messages: 0 };
        let mut len = 0;
        for (area, chunk) in gathered.areas.iter_mut().zip(batch.chunks()) {
            let Some(count) = gathered.counts.get_mut(gathered.messages) else { break };
            *area = area_of(chunk)?;
            *count += 1;
            len += chunk.len();
            if len.is_multiple_of(cut.message) || len == batch.len() {
                gathered.messages += 1;
            }
        }
        match gathered.messages {
            // As sendmsg(2) reports it. A boot file does not have that many pieces.
            0 => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            _ => Ok(gathered),
        }
    }

    /// Passes the messages to the kernel and returns how many it took.
    fn send(&self, socket: BorrowedFd<'_>, route: Route, cut: Cut) -> io::Result<usize> {
        let mut rest = &self.areas[..];
        let mut messages = [&self.areas[..0]; MAX_MESSAGES];
        for (message, count) in messages.iter_mut().zip(self.counts).take(self.messages) {
            (*message, rest) = rest.split_at(count);
        }
        let route = Route { segment: cut.segment, ..route };
        sys::send_datagrams(socket, route, messages.get(..self.messages).unwrap_or_default())
    }
}

fn area_of(chunk: Chunk<'_>) -> io::Result<Iov<'_>> {
    match chunk {
        Chunk::Bytes(bytes) => Ok(bytes.into()),
        Chunk::Image(range) => {
            range.image().source.check_blocks(range.extent())?;
            Ok(range.span().ok_or(io::ErrorKind::UnexpectedEof)?.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
    use std::sync::Arc;

    use super::*;
    use crate::export::Export;
    use crate::image::index::NodeAttributes;
    use crate::image::{Extent, Image, Index, NodeId, NodeKind, Source, samples};
    use crate::store::BLOCK;
    use crate::store::samples::{FakeStore, content, object};
    use crate::stream::Descriptors;
    use crate::tftp::wire::data_header;

    /// Returns the datagrams of a file of 40 blocks in three extents, cut by `splitter`.
    async fn arriving(splitter: DatagramSplitter, is_shared: bool) -> (Vec<Vec<u8>>, DatagramSplitter) {
        let mut medium = tempfile::NamedTempFile::new().unwrap();
        medium.write_all(&(0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        let extents = [(0, 10_000), (50_001, 30_000), (200_000, 18_000)];
        let extents = extents.map(|(offset, len)| Extent { offset, len }).to_vec();
        let attributes = NodeAttributes { mode: 0o644, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        let file = index.add(NodeId::ROOT, b"file", NodeKind::File { extents }, attributes).unwrap();
        let image = Arc::new(Image::new(Source::open(medium.path()).unwrap(), index).unwrap());
        let export = Export::of_file(&image, file).unwrap();
        let mut batch = Batch::default();
        for block in 0..40 {
            batch.push_bytes(&data_header(block));
            let (offset, len) = (u64::from(block) * 1468, 1468.min(58_000 - u64::from(block) * 1468));
            export.range(offset, len).unwrap().for_each(|piece| batch.push_piece(piece).unwrap());
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        let SocketAddr::V4(peer) = client.local_addr().unwrap() else { panic!("bound to IPv4") };
        let shared = Arc::new(tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap());
        let link = match is_shared {
            true => Link::shared(&shared, peer, Ipv4Addr::new(127, 0, 0, 9)).0,
            false => Link::own(peer, Ipv4Addr::new(127, 0, 0, 9), Descriptors::unlimited()).unwrap(),
        };
        let mut splitter = splitter;
        splitter.flush(&mut batch, 1472, &link).await.unwrap();
        let mut buf = [0; 2000];
        let receive = || {
            let (len, from) = client.recv_from(&mut buf).ok()?;
            assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 9));
            Some(buf[..len].to_vec())
        };
        (std::iter::from_fn(receive).collect(), splitter)
    }

    #[tokio::test]
    async fn datagrams_are_the_same_with_each_splitter() {
        let (expected, _) = arriving(DatagramSplitter::UserSpace, false).await;
        assert_eq!(expected.len(), 40);
        assert_eq!(expected.iter().map(Vec::len).sum::<usize>(), 58_000 + 40 * 4);
        let payload: Vec<u8> = expected.iter().flat_map(|datagram| &datagram[4..]).copied().collect();
        assert_eq!(
            payload[9_996..10_003],
            [&2499_u32.to_le_bytes()[..], &12_500_u32.to_le_bytes()[1..]].concat()
        );
        for (splitter, is_shared) in [
            (DatagramSplitter::UserSpace, true),
            (DatagramSplitter::Kernel, false),
            (DatagramSplitter::Kernel, true),
        ] {
            let (arrived, used) = arriving(splitter, is_shared).await;
            assert!(arrived == expected, "{splitter:?}, shared: {is_shared}");
            assert_eq!(used, splitter, "Linux 4.18 and later cut");
        }
    }

    #[tokio::test]
    async fn datagrams_of_an_evicted_block_wait_for_it() {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
        let object = object("a", 4, 0);
        let image = samples::stored(fake.cache(dir.path(), 1).open(&object).unwrap());
        let mut batch = Batch::default();
        batch.push_bytes(&data_header(1));
        let export = Export::whole(&image);
        let pieces = export.range(1000, 1024).unwrap();
        pieces.for_each(|piece| batch.push_piece(piece).unwrap());
        let whole = Extent { offset: 1000, len: 1024 };
        image.source.reread(whole).await.unwrap();
        assert!(image.source.check_blocks(whole).is_ok());
        image.source.read_exact_at(&mut [0], 3 * BLOCK).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        let SocketAddr::V4(peer) = client.local_addr().unwrap() else { panic!("bound to IPv4") };
        let link = Link::own(peer, Ipv4Addr::LOCALHOST, Descriptors::unlimited()).unwrap();
        let mut splitter = DatagramSplitter::Kernel;
        match splitter.flush(&mut batch, 1028, &link).await {
            Err(TransmitError::Image(error)) => assert!(AbsentError::caused(&error), "{error}"),
            other => panic!("{other:?}"),
        }
        assert!(client.recv(&mut [0; 2000]).is_err(), "a hole");
        image.source.reread(whole).await.unwrap();
        splitter.flush(&mut batch, 1028, &link).await.unwrap();
        let mut buf = [0; 2000];
        let len = client.recv(&mut buf).unwrap();
        assert!(buf[..len] == [&data_header(1)[..], &content(&object, 1000..2024)].concat());
    }

    #[test]
    fn single_datagram_is_not_cut() {
        let whole = |len| Cut { message: len, segment: None };
        assert_eq!(DatagramSplitter::Kernel.cut(1472, 1472), whole(1472));
        assert_eq!(DatagramSplitter::Kernel.cut(65_468, 200_000), whole(65_468));
        assert_eq!(DatagramSplitter::UserSpace.cut(1472, 200_000), whole(1472));
        assert_eq!(
            DatagramSplitter::Kernel.cut(1472, 200_000),
            Cut { message: 44 * 1472, segment: Some(1472) }
        );
        assert_eq!(DatagramSplitter::Kernel.cut(12, 200_000), Cut { message: 64 * 12, segment: Some(12) });
    }

    #[test]
    fn file_in_too_many_pieces_is_refused() {
        let mut batch = Batch::default();
        for _ in 0..AREAS {
            batch.push_bytes(&[0]);
            batch.push_piece(crate::export::Piece::Memory(bytes::Bytes::from_static(b"x"))).unwrap();
        }
        let error = Gathered::of(&batch, Cut { message: 2000, segment: None }).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }
}
