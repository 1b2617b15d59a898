//! Delivery of one file: carries the decisions of a [`Transfer`] to its link, the image and the
//! clock.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::datagrams::DatagramSplitter;
use super::link::Link;
use super::{MAX_DATAGRAM, error_packet};
use crate::boot::ServedFile;
use crate::codec::Reader;
use crate::export::batch::Chunk;
use crate::export::{Batch, MixedImagesError, Piece};
use crate::locked::locked;
use crate::machines::ConnectionTracker;
use crate::metrics::{self, Door, PageCacheLooks, Tally};
use crate::store::AbsentError;
use crate::stream::TransmitError;
use crate::tftp::session::{Blocks, Limits, Progress, Transfer, TransferOutcome, Transmit};
use crate::tftp::wire::{DATA_HEADER_LEN, ErrorCode, Packet, TftpRequest, data_header};

/// Bytes of a file that are read into the page cache at a time.
const READ_AHEAD: u64 = 1 << 20;

/// Datagrams received before the clock is read again.
const MAX_RECEIVED: usize = 16;

/// Handle of the server on a running delivery.
#[derive(Debug, Default)]
pub(super) struct TransferHandle {
    progress: Mutex<Progress>,
    repeated_request: Notify,
    next_request: Notify,
}

impl TransferHandle {
    /// Reports that the client repeated its request.
    pub(super) fn repeat_request(&self) {
        self.repeated_request.notify_one();
    }

    /// Ends the delivery, because the client requested another file.
    pub(super) fn end(&self) {
        self.next_request.notify_one();
    }

    pub(super) fn progress(&self) -> Progress {
        *locked(&self.progress)
    }

    fn update(&self, progress: Progress) {
        *locked(&self.progress) = progress;
    }
}

/// Transfer with its link, file and buffers.
pub(super) struct Delivery {
    link: Link,
    file: ServedFile,
    transfer: Transfer,
    tracker: ConnectionTracker,
    handle: Arc<TransferHandle>,
    /// Path of the file, for the log.
    path: Box<str>,
    since: Instant,
    /// Packets queued for the link.
    batch: Batch,
    splitter: DatagramSplitter,
    /// End of the part of the file that was read into the page cache.
    cached_until: u64,
}

impl Delivery {
    pub(super) fn new(
        link: Link,
        file: ServedFile,
        request: &TftpRequest<'_>,
        limits: Limits,
        handle: Arc<TransferHandle>,
        mut tracker: ConnectionTracker,
    ) -> Self {
        let since = Instant::now();
        let transfer = Transfer::new(since, file.export.len(), &request.options, limits);
        let path = request.filename.escape_ascii().to_string();
        tracker.open_file(&path, file.kind, file.export.len(), since);
        let path = path.into();
        Self {
            link,
            file,
            transfer,
            tracker,
            handle,
            path,
            since,
            batch: Batch::default(),
            splitter: DatagramSplitter::default(),
            cached_until: 0,
        }
    }

    /// Delivers the file and logs the result.
    pub(super) async fn run(mut self) {
        let result = self.deliver().await;
        if let Err(error @ TransmitError::Image(_)) = &result {
            let packet = error_packet(ErrorCode::NotDefined, &error.to_string());
            // RFC 1350 §7: the ERROR is a courtesy. The transfer is over even if it cannot be sent.
            let _ = self.flush_packet(&packet).await;
        }
        if let Some(TransferOutcome::Complete) = self.transfer.outcome() {
            self.tracker.delivered(Instant::now());
        }
        self.count_error(&result);
        self.log(result);
    }

    fn count_error(&self, result: &Result<(), TransmitError>) {
        let tally = match (result, self.transfer.outcome()) {
            (Err(error), _) => error.tally(),
            (Ok(()), Some(TransferOutcome::TimedOut) | None) => Tally::PeerErrors,
            // OVMF aborts a transfer once it knows the size.
            (Ok(()), Some(_)) => return,
        };
        metrics::count(Door::Tftp, tally, 1);
    }

    async fn deliver(&mut self) -> Result<(), TransmitError> {
        let timer = sleep_until(self.since.into());
        tokio::pin!(timer);
        loop {
            // A client on this host never makes us wait, and other tasks have to run too.
            tokio::task::consume_budget().await;
            self.transmit().await?;
            self.handle.update(self.transfer.progress());
            let Some(deadline) = self.transfer.poll_timeout() else { return Ok(()) };
            // To move the timer with each packet would cost too much. It is moved when it fires
            // early.
            if timer.is_elapsed() || timer.deadline() > deadline.into() {
                timer.as_mut().reset(deadline.into());
            }
            tokio::select! {
                // In this order: the end of the transfer counts before packets, packets before the
                // timer.
                biased;
                () = self.handle.next_request.notified() => {
                    // The client sent its last ACK before the request, but to another socket.
                    self.receive()?;
                    self.transfer.handle_next_request();
                }
                ready = self.link.readable() => {
                    ready.map_err(TransmitError::Peer)?;
                    self.receive()?;
                }
                () = self.handle.repeated_request.notified() => {
                    self.transfer.handle_repeated_request(Instant::now());
                }
                () = &mut timer => {}
            }
            self.transfer.handle_timeout(Instant::now());
        }
    }

    /// Passes datagrams of the client to the transfer.
    fn receive(&mut self) -> Result<(), TransmitError> {
        let mut buf = [0; MAX_DATAGRAM];
        for _ in 0..MAX_RECEIVED {
            match self.link.try_receive(&mut buf) {
                Ok(datagram) => {
                    // A malformed datagram is treated as lost: the boot goes on.
                    if let Ok(packet) = Packet::parse(&mut Reader::new(datagram)) {
                        self.transfer.handle_packet(Instant::now(), &packet);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(TransmitError::Peer(error)),
            }
        }
        Ok(())
    }

    /// Sends the packets that are due.
    async fn transmit(&mut self) -> Result<(), TransmitError> {
        // First, because the time of reading must not count as a round trip.
        self.read_ahead().await.map_err(TransmitError::Image)?;
        let blocks = match self.transfer.poll_transmit(Instant::now()) {
            None => return Ok(()),
            Some(Transmit::Blocks(blocks)) => blocks,
            Some(Transmit::Oack(options)) => {
                let mut packet = BytesMut::new();
                Packet::Oack(options.to_vec()).emit(&mut packet);
                return self.flush_packet(&packet).await;
            }
        };
        self.queue(blocks).map_err(|error| TransmitError::Image(io::Error::other(error)))?;
        // RFC 2348: a block has at most 65464 bytes, so that block and header fit 16 bits.
        self.flush(DATA_HEADER_LEN as u16 + self.transfer.blksize()).await
    }

    /// Waits until the next blocks are in the page cache.
    async fn read_ahead(&mut self) -> io::Result<()> {
        let (offset, len) = self.transfer.upcoming();
        let image = self.file.export.image();
        let is_unchanged = image.is_none_or(|image| image.source.is_unchanged(Instant::now()));
        if offset + len <= self.cached_until && is_unchanged {
            return Ok(());
        }
        let end = (offset + len.max(READ_AHEAD)).min(self.file.export.len());
        let looks = PageCacheLooks::new(Door::Tftp);
        for piece in self.file.export.range(offset, end - offset).into_iter().flatten() {
            let Piece::Image(range) = piece else { continue };
            let source = &range.image().source;
            let is_cached = source.is_cached(range.extent(), Instant::now());
            looks.note(is_cached);
            if !is_cached {
                source.reread(range.extent()).await?;
            }
        }
        self.cached_until = end;
        Ok(())
    }

    /// Queues the blocks, and counts them for the machine.
    fn queue(&mut self, blocks: Blocks) -> Result<(), MixedImagesError> {
        for block in blocks {
            self.batch.push_bytes(&data_header(block.number));
            // A block is always inside the file: the transfer knows the length of the export.
            let pieces = self.file.export.range(block.offset, block.len).into_iter().flatten();
            for piece in pieces {
                self.batch.push_piece(piece)?;
            }
        }
        self.tracker.sent(&self.batch, self.batch.len(), Instant::now());
        Ok(())
    }

    /// Sends one packet.
    async fn flush_packet(&mut self, packet: &[u8]) -> Result<(), TransmitError> {
        self.batch = Batch::default();
        self.batch.push_bytes(packet);
        self.flush(u16::try_from(packet.len()).unwrap_or(u16::MAX)).await
    }

    /// Sends the batch, cut into datagrams of `len` bytes of which the last may be shorter.
    async fn flush(&mut self, len: u16) -> Result<(), TransmitError> {
        loop {
            match self.splitter.flush(&mut self.batch, len, &self.link).await {
                Err(TransmitError::Image(error)) if AbsentError::caused(&error) => {
                    self.reread().await.map_err(TransmitError::Image)?;
                }
                flushed => return flushed,
            }
        }
    }

    /// Waits until the queued ranges are there again, of which a block was evicted after it had been
    /// read.
    async fn reread(&self) -> io::Result<()> {
        for chunk in self.batch.chunks() {
            if let Chunk::Image(range) = chunk
                && range.image().source.check_blocks(range.extent()).is_err()
            {
                range.image().source.reread(range.extent()).await?;
            }
        }
        Ok(())
    }

    fn log(&self, result: Result<(), TransmitError>) {
        let peer = self.link.route().to;
        let (path, bytes, ms) = (&*self.path, self.file.export.len(), self.since.elapsed().as_millis());
        let (blksize, windowsize) = (self.transfer.blksize(), self.transfer.windowsize());
        let resent = self.transfer.resent();
        match (result, self.transfer.outcome()) {
            (Err(error @ TransmitError::Image(_)), _) => warn!(%peer, path, "TFTP transfer ended: {error}"),
            (Err(TransmitError::Peer(error)), _) => info!(%peer, path, ms, "TFTP transfer ended: {error}"),
            (Ok(()), Some(TransferOutcome::Complete)) => {
                info!(%peer, path, bytes, ms, blksize, windowsize, resent, "file sent over TFTP");
            }
            (Ok(()), Some(TransferOutcome::Unconfirmed)) => {
                info!(%peer, path, bytes, ms, blksize, windowsize, resent, "file sent over TFTP, last ACK missing");
            }
            // Not an error: OVMF asks for the size first, aborts, and reads with a second request.
            (Ok(()), Some(TransferOutcome::Aborted { code, message })) => {
                debug!(%peer, path, ms, %code, %message, "TFTP transfer aborted by the client");
            }
            (Ok(()), Some(TransferOutcome::TimedOut) | None) => {
                info!(%peer, path, ms, resent, "TFTP transfer timed out: no ACK from the client");
            }
        }
    }
}
