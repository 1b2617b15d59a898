//! The one place where queued ranges become bytes on a stream socket.
//!
//! Small payloads leave by one `sendmsg` of headers and parts of the mapping: batching makes 4 KiB
//! reads five times cheaper than a system call each. Large payloads leave by `sendfile`, which
//! copies nothing. Neither copies payload in user space, and a client that does not read costs its
//! socket buffer and nothing more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::export::batch::Chunk;
use crate::export::{Batch, ImageRange};
use crate::image::Extent;
use crate::machines::{Loss, RootEnd};
use crate::metrics::{Door, PageCacheLooks, Tally};
use crate::store::AbsentError;
use crate::sys::{self, Follow, Iov};

use super::turn::End;

/// Bytes in whole pages from which `sendfile` beats `sendmsg` from the mapping (measured on
/// loopback, where it saves one copy of two, as for a network card that gathers by itself).
const SENDFILE_FROM: u64 = 60 << 10;

/// Unit that `sendfile` passes on without a copy. On a machine with larger pages a little is copied
/// for nothing.
const PAGE: u64 = 4 << 10;

/// Bytes checked for residency and sent at once.
const WINDOW: u64 = 1 << 20;

/// Bytes read ahead of a window that was not in the page cache.
const AHEAD: u64 = 4 << 20;

/// Bytes that one connection is sent before others get their turn. Without a limit, a client that
/// asks for more as fast as it is answered would be served while a thousand others wait.
const TURN: u64 = 512 << 10;

/// Memory areas of one `sendmsg`: headers and payloads of 128 small replies. Linux takes 1024
/// (UIO_MAXIOV).
const AREAS: usize = 256;

/// The same of a few replies. To clear 256 areas takes as long as to parse a request.
const FEW_AREAS: usize = 16;

/// Times in a row that a range may be in memory and yet not be sent.
const FAULTS: u32 = 8;

/// A batch could not be sent. The connection is over then, since part of a reply may have left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransmitError {
    /// The peer or the network failed.
    #[error(transparent)]
    Peer(io::Error),
    /// The image file is shorter than it was, or its disk failed for too long: the environment's
    /// fault.
    #[error("the image cannot be read: {0}")]
    Image(io::Error),
}

impl TransmitError {
    /// Returns the count that it belongs to.
    pub(crate) const fn tally(&self) -> Tally {
        match self {
            Self::Peer(_) => Tally::PeerErrors,
            Self::Image(_) => Tally::ImageErrors,
        }
    }
}

/// Returns what the end of a connection means for a root file system that was read over it.
pub(crate) fn root_end<R>(end: &Result<End<R>, TransmitError>) -> RootEnd {
    match end {
        Ok(_) => RootEnd::Released,
        // tcp(7): keepalive and TCP_USER_TIMEOUT end a connection with ETIMEDOUT.
        Err(TransmitError::Peer(error)) if error.kind() == io::ErrorKind::TimedOut => {
            RootEnd::Lost(Loss::Silent)
        }
        Err(TransmitError::Peer(_)) => RootEnd::Lost(Loss::Reset),
        Err(TransmitError::Image(_)) => RootEnd::Lost(Loss::Image),
    }
}

/// Sends the whole batch; waits for the socket as long as it takes, and for uncached parts of the
/// image as long as [`Source::stall_timeout`](crate::image::Source::stall_timeout).
///
/// `on_sent` is called with the number of bytes at the front of the batch that left, and the time.
/// `is_cached` is `true` if the batch was just found in the page cache. Looks at the page cache count
/// for `door`.
///
/// # Errors
/// [`TransmitError`] says whose fault it is.
pub(super) async fn flush(
    batch: &mut Batch,
    socket: &TcpStream,
    mut is_cached: bool,
    door: Door,
    mut on_sent: impl FnMut(&Batch, u64, Instant),
) -> Result<(), TransmitError> {
    let (mut ahead, mut faults) = (ReadAhead::default(), 0);
    while !batch.is_empty() {
        // The kernel may have dropped pages while the client did not read.
        if !std::mem::take(&mut is_cached) {
            ahead.warm_window(batch, door).await.map_err(TransmitError::Image)?;
        }
        let sending = socket.async_io(Interest::WRITABLE, || send_front(batch, socket.as_fd()));
        let sent = match sending.await.map_err(whose_fault) {
            // sendfile(2) returns 0 only at the end of the file.
            Ok(0) => Err(TransmitError::Image(io::ErrorKind::UnexpectedEof.into())),
            sent => sent,
        };
        let sent = match sent {
            // A block of a stored image was evicted after it had been checked.
            Err(TransmitError::Image(error)) if AbsentError::caused(&error) => {
                reread_front(batch, error).await.map_err(TransmitError::Image)?;
                continue;
            }
            // Pages were dropped after they had been checked, and could not be read again.
            Err(TransmitError::Image(error)) if faults < FAULTS => {
                reread_front(batch, error).await.map_err(TransmitError::Image)?;
                faults += 1;
                continue;
            }
            sent => sent?,
        };
        faults = 0;
        on_sent(batch, sent as u64, Instant::now());
        batch.advance(sent as u64);
        // Also after the last byte: a client that asks for more at once must not keep others from
        // their turn.
        if batch.turn() >= TURN {
            batch.end_turn();
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Sorts an error of a system call.
fn whose_fault(error: io::Error) -> TransmitError {
    match error.raw_os_error() {
        // Truncated images: sendmsg(2) finds pages of the mapping gone. Bad disks: sendfile(2).
        Some(libc::EFAULT | libc::EIO) => TransmitError::Image(error),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => TransmitError::Image(error),
        _ if AbsentError::caused(&error) => TransmitError::Image(error),
        _ => TransmitError::Peer(error),
    }
}

/// Reads the first range of the batch again, after the kernel could not send it; `error` is returned
/// if there is none.
async fn reread_front(batch: &Batch, error: io::Error) -> io::Result<()> {
    let range = batch.chunks().find_map(|chunk| match chunk {
        Chunk::Image(range) => Some(range.truncate(WINDOW)),
        Chunk::Bytes(_) => None,
    });
    let range = range.ok_or(error)?;
    range.image().source.reread(range.extent()).await
}

/// Reading ahead of what is sent, once a range was found that is not in the page cache.
#[derive(Debug, Default)]
struct ReadAhead {
    /// End of what was read ahead in the image file; 0 as long as everything was cached.
    until: u64,
}

impl ReadAhead {
    /// Waits until the bytes that leave next are in the page cache. A system call that reads the
    /// disk would stop every connection of its thread.
    async fn warm_window(&mut self, batch: &Batch, door: Door) -> io::Result<()> {
        let (now, mut left, looks) = (Instant::now(), WINDOW, PageCacheLooks::new(door));
        for chunk in batch.chunks().take(AREAS) {
            if let Chunk::Image(range) = chunk {
                let extent = range.extent().truncate(left.max(PAGE + SENDFILE_FROM));
                let is_cached = range.image().source.is_cached(extent, now);
                looks.note(is_cached);
                if !is_cached {
                    self.until = self.until.max(extent.end());
                    self.follow(range, extent);
                    range.image().source.reread(extent).await?;
                } else if self.until > 0 {
                    self.follow(range, extent);
                }
            }
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Has the windows of `range` behind `extent` read while that one is sent.
    fn follow(&mut self, range: ImageRange<'_>, extent: Extent) {
        let end = range.extent().end().min(extent.end() + AHEAD);
        let from = self.until.clamp(extent.end(), end);
        // Whole windows, unless it is the last: many small reads would cost more than they gain.
        if end - from >= WINDOW || (end == range.extent().end() && end > from) {
            range.image().source.read_ahead(Extent { offset: from, len: end - from });
            self.until = end;
        }
    }
}

/// Hands the front of the batch to the kernel and returns how many bytes it took. Blocks of a stored
/// image stay where they are meanwhile.
fn send_front(batch: &Batch, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let _pass = batch.image().and_then(|image| image.source.enter());
    match batch.chunks().next() {
        Some(Chunk::Image(range)) if copied(range).is_none() => send_large(range, socket),
        _ if batch.parts() <= FEW_AREAS => send_small::<FEW_AREAS>(batch, socket),
        _ => send_small::<AREAS>(batch, socket),
    }
}

/// Returns the part of `range` that is copied: all of a small one; of a larger one the bytes before
/// its first whole page.
///
/// A packet of loopback holds 64 KiB in 17 pieces: one that was copied and 16 pages. A page in two
/// halves would be one piece too many, and make it two packets. In a range of several windows that
/// is one packet of many, so nothing is copied.
fn copied(range: ImageRange<'_>) -> Option<ImageRange<'_>> {
    let head = range.offset().next_multiple_of(PAGE) - range.offset();
    match range.len() {
        len if len < head + SENDFILE_FROM => Some(range),
        len if len <= WINDOW && head > 0 => Some(range.truncate(head)),
        _ => None,
    }
}

fn send_large(range: ImageRange<'_>, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let range = range.truncate(WINDOW);
    range.image().source.check_blocks(range.extent())?;
    let mut offset = range.offset();
    // WINDOW fits in a usize.
    Ok(rustix::fs::sendfile(socket, &range.image().source, Some(&mut offset), range.len() as usize)?)
}

/// Gathers everything up to the next pages that `sendfile` sends, or up to a window, into one
/// `sendmsg` of at most `N` areas.
fn send_small<const N: usize>(batch: &Batch, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut areas = [Iov::EMPTY; N];
    let mut count = 0;
    let mut len = 0;
    let mut follow = Follow::Nothing;
    for (area, chunk) in areas.iter_mut().zip(batch.chunks()) {
        if len >= WINDOW || follow == Follow::More {
            break;
        }
        *area = match chunk {
            Chunk::Bytes(bytes) => bytes.into(),
            Chunk::Image(range) => {
                let part = copied(range);
                // MSG_MORE keeps the kernel from sending a header in a packet of its own.
                if part != Some(range) {
                    follow = Follow::More;
                }
                let Some(part) = part else { break };
                match part.image().source.check_blocks(part.extent()) {
                    // What is before it leaves, without waiting for it.
                    Err(_) if count > 0 => {
                        follow = Follow::Nothing;
                        break;
                    }
                    checked => checked?,
                }
                part.span().ok_or(io::ErrorKind::UnexpectedEof)?.into()
            }
        };
        count += 1;
        len += chunk.len();
    }
    sys::send(socket, areas.get(..count).unwrap_or_default(), follow)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::export::{Export, Piece};
    use crate::image::{Image, samples};
    use crate::store::samples::{FakeStore, content, object};

    /// Sends all of an image in ranges of `len` bytes with headers between them; returns what arrives.
    async fn sent(image: &Arc<Image>, len: u64) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let export = Export::whole(image);
        let sender = tokio::spawn(async move {
            let mut batch = Batch::of_export(&export);
            for offset in (0..export.len()).step_by(len as usize) {
                batch.push_bytes(b"head");
                let pieces = export.range(offset, len.min(export.len() - offset)).unwrap();
                pieces.for_each(|piece| batch.push_piece(piece).unwrap());
            }
            flush(&mut batch, &socket, true, Door::Nbd, |_, _, _| ()).await.unwrap();
        });
        let mut arrived = Vec::new();
        client.read_to_end(&mut arrived).await.unwrap();
        sender.await.unwrap();
        arrived
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn block_that_is_evicted_while_it_is_sent_is_fetched_again() {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Arc::new(FakeStore::default()));
        // All clients together need more than the cache holds.
        let store = fake.cache(dir.path(), 3);
        let object = object("a", 12, 4321);
        let image = samples::stored(store.open(&object).unwrap());
        let whole = content(&object, 0..object.size);
        for len in [3 << 20, 200_000, 60_000, 9000] {
            let expected = whole.chunks(len as usize).map(|part| [&b"head"[..], part].concat());
            let expected = expected.collect::<Vec<_>>().concat();
            let sending = (0..4).map(|_| {
                let image = Arc::clone(&image);
                tokio::spawn(async move { sent(&image, len).await })
            });
            for arrived in sending.collect::<Vec<_>>() {
                assert!(arrived.await.unwrap() == expected, "ranges of {len} bytes");
            }
        }
        assert!(fake.fetched().values().any(|&times| times > 1), "nothing was evicted");
    }

    #[test]
    fn large_range_is_sent_in_whole_pages() {
        let export = Export::whole(&samples::image(4 * WINDOW, []));
        let copied = |offset, len| match export.range(offset, len).unwrap().next() {
            Some(Piece::Image(range)) => copied(range).map_or(0, |part| part.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(copied(PAGE, SENDFILE_FROM - 1), SENDFILE_FROM - 1, "small");
        assert_eq!(copied(PAGE, SENDFILE_FROM), 0);
        assert_eq!(copied(2048, SENDFILE_FROM), SENDFILE_FROM, "too few whole pages");
        assert_eq!(copied(2048, 64 << 10), 2048);
        assert_eq!(copied(2048, WINDOW), 2048);
        assert_eq!(copied(2048, WINDOW + 1), 0, "several windows");
    }
}
