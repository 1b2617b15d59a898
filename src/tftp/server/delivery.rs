//! One file on its way: moves what a [`Transfer`] decides between its link, the image and the clock.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
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
use crate::export::{Batch, MixedImagesError, Piece};
use crate::machines::ConnectionTracker;
use crate::stream::TransmitError;
use crate::tftp::session::{Blocks, Limits, Progress, Transfer, TransferOutcome, Transmit};
use crate::tftp::wire::{DATA_HEADER_LEN, ErrorCode, Packet, TftpRequest, data_header};

/// Bytes of a file that are made sure to be in the page cache at a time.
const WARM: u64 = 1 << 20;

/// Datagrams of the client taken before we look at the clock again.
const TURN: usize = 16;

/// What the door sees of a delivery, and tells it.
#[derive(Debug, Default)]
pub(super) struct TransferHandle {
    standing: Mutex<Progress>,
    repeated_request: Notify,
    next_request: Notify,
}

impl TransferHandle {
    /// The client repeated its request.
    pub(super) fn repeat_request(&self) {
        self.repeated_request.notify_one();
    }

    /// The client asked for another file.
    pub(super) fn end(&self) {
        self.next_request.notify_one();
    }

    pub(super) fn standing(&self) -> Progress {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, standing: Progress) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// A transfer with all it needs.
pub(super) struct Delivery {
    link: Link,
    file: ServedFile,
    transfer: Transfer,
    tracker: ConnectionTracker,
    liveness: Arc<TransferHandle>,
    /// For the log.
    path: Box<str>,
    since: Instant,
    /// What is leaving.
    batch: Batch,
    knife: DatagramSplitter,
    /// The file is in the page cache up to this byte, or was a moment ago.
    warm_up_to: u64,
}

impl Delivery {
    pub(super) fn new(
        link: Link,
        file: ServedFile,
        request: &TftpRequest<'_>,
        limits: Limits,
        liveness: Arc<TransferHandle>,
        mut tracker: ConnectionTracker,
    ) -> Self {
        tracker.open(file.kind);
        let since = Instant::now();
        let transfer = Transfer::new(since, file.export.len(), &request.options, limits);
        let path = request.filename.escape_ascii().to_string().into();
        Self {
            link,
            file,
            transfer,
            tracker,
            liveness,
            path,
            since,
            batch: Batch::default(),
            knife: DatagramSplitter::default(),
            warm_up_to: 0,
        }
    }

    /// Delivers the file, and tells the log how it went.
    pub(super) async fn run(mut self) {
        let result = self.converse().await;
        if let Err(error @ TransmitError::Image(_)) = &result {
            let packet = error_packet(ErrorCode::NotDefined, &error.to_string());
            // Nothing is left to try when this fails too.
            let _ = self.flush_packet(&packet).await;
        }
        self.report(result);
    }

    async fn converse(&mut self) -> Result<(), TransmitError> {
        let alarm = sleep_until(self.since.into());
        tokio::pin!(alarm);
        loop {
            tokio::task::consume_budget().await;
            self.transmit().await?;
            self.liveness.update(self.transfer.standing());
            let Some(deadline) = self.transfer.poll_timeout() else { return Ok(()) };
            // To move a timer with every packet is dear, so one that rings too early is moved when it rings.
            if alarm.is_elapsed() || alarm.deadline() > deadline.into() {
                alarm.as_mut().reset(deadline.into());
            }
            tokio::select! {
                biased;
                () = self.liveness.next_request.notified() => {
                    // The last ACK left before the request, and came to another socket.
                    self.receive()?;
                    self.transfer.handle_next_request();
                }
                ready = self.link.readable() => {
                    ready.map_err(TransmitError::Peer)?;
                    self.receive()?;
                }
                () = self.liveness.repeated_request.notified() => {
                    self.transfer.handle_repeated_request(Instant::now());
                }
                () = &mut alarm => {}
            }
            self.transfer.handle_timeout(Instant::now());
        }
    }

    /// Takes what the client sent.
    fn receive(&mut self) -> Result<(), TransmitError> {
        let mut buf = [0; MAX_DATAGRAM];
        for _ in 0..TURN {
            match self.link.try_receive(&mut buf) {
                Ok(datagram) => {
                    // A broken datagram is as good as a lost one.
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

    /// Sends all that is to be sent now.
    async fn transmit(&mut self) -> Result<(), TransmitError> {
        self.warm().await.map_err(TransmitError::Image)?;
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
        // The largest block and its header are less than 65536.
        self.flush(DATA_HEADER_LEN as u16 + self.transfer.blksize()).await
    }

    /// Waits until what leaves next is in the page cache.
    async fn warm(&mut self) -> io::Result<()> {
        let (offset, len) = self.transfer.upcoming();
        if offset + len <= self.warm_up_to {
            return Ok(());
        }
        let end = (offset + len.max(WARM)).min(self.file.export.len());
        for piece in self.file.export.range(offset, end - offset).into_iter().flatten() {
            if let Piece::Image(range) = piece {
                range.image().source.warm(range.extent(), Instant::now()).await?;
            }
        }
        self.warm_up_to = end;
        Ok(())
    }

    fn queue(&mut self, blocks: Blocks) -> Result<(), MixedImagesError> {
        for block in blocks {
            self.batch.push_bytes(&data_header(block.number));
            // The transfer stays inside the file, whose size it got from the export.
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
        self.knife.flush(&mut self.batch, len, &self.link).await
    }

    fn report(&self, result: Result<(), TransmitError>) {
        let peer = self.link.route().to;
        let (path, bytes, ms) = (&*self.path, self.file.export.len(), self.since.elapsed().as_millis());
        let (blksize, windowsize) = (self.transfer.blksize(), self.transfer.windowsize());
        let resent = self.transfer.resent();
        match (result, self.transfer.outcome()) {
            (Err(error @ TransmitError::Image(_)), _) => warn!(%peer, path, "TFTP broken off: {error}"),
            (Err(TransmitError::Peer(error)), _) => info!(%peer, path, ms, %error, "TFTP broken off"),
            (Ok(()), Some(TransferOutcome::Complete)) => {
                info!(%peer, path, bytes, ms, blksize, windowsize, resent, "file sent over TFTP");
            }
            (Ok(()), Some(TransferOutcome::Unconfirmed)) => {
                info!(%peer, path, bytes, ms, blksize, windowsize, resent, "file sent over TFTP, end not confirmed");
            }
            (Ok(()), Some(TransferOutcome::Aborted { code, message })) => {
                debug!(%peer, path, ms, %code, %message, "TFTP client gave up");
            }
            (Ok(()), Some(TransferOutcome::TimedOut) | None) => {
                info!(%peer, path, ms, resent, "TFTP client fell silent");
            }
        }
    }
}
