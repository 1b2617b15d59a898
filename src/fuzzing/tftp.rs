//! Properties of TFTP packets and transfers.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::codec::Reader;
use crate::tftp::session::{Limits, Transfer, Transmit};
use crate::tftp::wire::{MAX_BLKSIZE, Packet};

/// Checks that a parsed packet is written so that it parses to the same, and that its text is
/// printable.
pub fn packet(data: &[u8]) {
    let Ok(packet) = Packet::parse(&mut Reader::new(data)) else { return };
    let mut emitted = BytesMut::new();
    packet.emit(&mut emitted);
    assert_eq!(Packet::parse(&mut Reader::new(&emitted)).as_ref(), Ok(&packet));
    assert!(packet.to_string().bytes().all(|byte| matches!(byte, b' '..=b'~')));
}

/// Simulated time after which a silent client's transfer is over: seven waits of the longest
/// `timeout`.
const LONGEST_SILENCE: Duration = Duration::from_secs(7 * 30 + 1);

/// Checks that a transfer sends blocks of the file only, at most one window for each event, and
/// ends when its client stops answering.
///
/// The input is the length of the file (4 bytes), a read request (its length in a byte), and
/// operations.
pub fn transfer(data: &[u8]) {
    let mut r = Reader::new(data);
    let Some(mut run) = TransferRun::start(&mut r) else { return };
    while let Some(operation) = Operation::read(&mut r) {
        run.perform(operation);
    }
    run.stop_answering();
}

/// Event of a transfer.
enum Operation<'a> {
    /// ACK of the block that many before the last one sent.
    Ack(u8),
    Packet(&'a [u8]),
    RepeatedRequest,
    /// Milliseconds pass, also beyond a deadline.
    Time(u16),
    /// Time passes until the deadline.
    Deadline,
}

impl<'a> Operation<'a> {
    fn read(r: &mut Reader<'a>) -> Option<Self> {
        Some(match r.u8().ok()? % 8 {
            0..=2 => Self::Ack(0),
            3 => Self::Ack(r.u8().ok()?),
            4 => {
                let len = r.u8().ok()?;
                Self::Packet(r.take(len.into()).ok()?)
            }
            5 => Self::RepeatedRequest,
            6 => Self::Time(r.u16_be().ok()?),
            _ => Self::Deadline,
        })
    }
}

/// Transfer with a simulated clock.
struct TransferRun {
    transfer: Transfer,
    file_len: u64,
    now: Instant,
    last_number: u16,
}

impl TransferRun {
    fn start(r: &mut Reader<'_>) -> Option<Self> {
        // Lengths up to terabytes, most of them small.
        let file_len = u64::from(r.u32_be().ok()?) << (r.u8().ok()? % 16);
        let len = r.u8().ok()?;
        let Ok(Packet::Rrq(request)) = Packet::parse(&mut r.sub(len.into()).ok()?) else { return None };
        let now = Instant::now();
        let limits = Limits { blksize: MAX_BLKSIZE, windowsize: 64 };
        let transfer = Transfer::new(now, file_len, &request.options, limits);
        let mut run = Self { transfer, file_len, now, last_number: 0 };
        run.send();
        Some(run)
    }

    fn perform(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Ack(behind) => {
                let block = self.last_number.wrapping_sub(behind.into());
                self.transfer.handle_packet(self.now, &Packet::Ack { block });
            }
            Operation::Packet(bytes) => {
                if let Ok(packet) = Packet::parse(&mut Reader::new(bytes)) {
                    self.transfer.handle_packet(self.now, &packet);
                }
            }
            Operation::RepeatedRequest => self.transfer.handle_repeated_request(self.now),
            Operation::Time(millis) => self.now += Duration::from_millis(millis.into()),
            Operation::Deadline => self.wait(),
        }
        self.transfer.handle_timeout(self.now);
        self.send();
    }

    fn wait(&mut self) {
        if let Some(deadline) = self.transfer.poll_timeout() {
            assert!(deadline <= self.now + LONGEST_SILENCE);
            self.now = self.now.max(deadline);
        }
    }

    /// Checks the packets that are due: one run at most, inside the file.
    fn send(&mut self) {
        let (offset, len) = self.transfer.upcoming();
        assert!(offset + len <= self.file_len);
        let (blksize, windowsize) = (self.transfer.blksize().into(), self.transfer.windowsize().into());
        if let Some(Transmit::Blocks(blocks)) = self.transfer.poll_transmit(self.now) {
            let mut count = 0_u64;
            for block in blocks {
                let is_last = block.offset + block.len == self.file_len && block.len < blksize;
                assert!(block.len == blksize || is_last);
                assert!(block.offset + block.len <= self.file_len);
                self.last_number = block.number;
                count += 1;
            }
            assert!(count <= windowsize);
        }
        assert!(self.transfer.poll_transmit(self.now).is_none());
        assert_eq!(self.transfer.outcome().is_some(), self.transfer.poll_timeout().is_none());
    }

    fn stop_answering(mut self) {
        let start = self.now;
        let mut sent = 0;
        while self.transfer.poll_timeout().is_some() {
            self.perform(Operation::Deadline);
            sent += 1;
            assert!(sent <= 8, "sends to a silent client for ever");
        }
        assert!(self.now - start <= LONGEST_SILENCE);
        assert!(self.transfer.poll_transmit(self.now).is_none());
    }
}
