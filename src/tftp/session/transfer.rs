//! One transfer as a machine without I/O and without a clock: which blocks leave next, and when.
//!
//! ```text
//! RRQ -> [OACK <-> ACK 0] -> window of DATA <-> ACK of its last block -> ... -> ACK of the last block
//! ```
//!
//! Feed it with [`Transfer::handle_packet`] and [`Transfer::handle_timeout`], then send what
//! [`Transfer::poll_transmit`] gives until it gives nothing, and wait until [`Transfer::poll_timeout`].
//!
//! Blocks are counted from 1 without end inside; only the number on the wire rolls over, from 65535 to 0.

use std::time::Instant;

use super::Progress;
use super::timer::{Due, Timer};
use crate::tftp::wire::{DEFAULT_BLKSIZE, ErrorCode, Packet, TransferOption};

/// Largest `timeout` we agree to: it decides how long a dead client's transfer lives.
const MAX_TIMEOUT: u8 = 30;

/// What we agree to at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a block.
    pub blksize: u16,
    /// Blocks in a row.
    pub windowsize: u16,
}

/// What is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit<'a> {
    Oack(&'a [TransferOption<'static>]),
    Blocks(Blocks),
}

/// A run of blocks of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    next: u64,
    last: u64,
    blksize: u16,
    file_len: u64,
}

impl Blocks {
    /// Blocks `first` to `last` of a file.
    pub(super) const fn of(first: u64, last: u64, blksize: u16, file_len: u64) -> Self {
        Self { next: first, last, blksize, file_len }
    }
}

/// One block: its number on the wire and where its data lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataBlock {
    pub number: u16,
    pub offset: u64,
    /// Less than the block size, and perhaps 0, for the last block of the file only (RFC 1350 §2).
    pub len: u64,
}

impl Iterator for Blocks {
    type Item = DataBlock;

    fn next(&mut self) -> Option<DataBlock> {
        if self.next > self.last {
            return None;
        }
        let block = self.next;
        self.next += 1;
        let offset = (block - 1) * u64::from(self.blksize);
        let len = u64::from(self.blksize).min(self.file_len - offset);
        // The number rolls over from 65535 to 0: no RFC says so, all clients expect it.
        Some(DataBlock { number: block as u16, offset, len })
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The client has everything.
    Complete,
    /// Everything was sent, but the last ACK never came.
    Unconfirmed,
    /// The client fell silent.
    TimedOut,
    /// The client gave up, which is its right: firmware asks for the size first and reads with a second request.
    Aborted { code: ErrorCode, message: Box<str> },
}

/// One file on its way to one client.
#[derive(Debug)]
pub struct Transfer {
    file_len: u64,
    blksize: u16,
    windowsize: u16,
    phase: Phase,
    /// The client took part at least once.
    heard: bool,
    /// The last window was sent because of an ACK inside the one before.
    is_resumed: bool,
    /// Highest block that left at least once.
    sent: u64,
    resent: u64,
    due: Option<Due>,
    timer: Timer,
}

#[derive(Debug)]
enum Phase {
    /// The OACK waits for its ACK 0.
    Offering(Box<[TransferOption<'static>]>),
    /// Every block up to this one was acknowledged.
    Sending(u64),
    Over(TransferOutcome),
}

impl Transfer {
    /// Starts to send a file of `file_len` bytes, on the terms that the client asked for as far as `limits` allow.
    pub fn new(now: Instant, file_len: u64, asked: &[TransferOption<'_>], limits: Limits) -> Self {
        let agreed = agree(asked, file_len, limits);
        let mut transfer = Self {
            file_len,
            blksize: DEFAULT_BLKSIZE,
            windowsize: 1,
            phase: Phase::Sending(0),
            heard: false,
            is_resumed: false,
            sent: 0,
            resent: 0,
            due: Some(Due::Turn),
            timer: Timer::new(now),
        };
        for option in &agreed {
            match *option {
                TransferOption::Blksize(size) => transfer.blksize = size,
                TransferOption::Windowsize(blocks) => transfer.windowsize = blocks,
                TransferOption::Timeout(seconds) => transfer.timer.agree(seconds),
                TransferOption::Tsize(_) | TransferOption::Unknown { .. } => {}
            }
        }
        // RFC 2347: without an option to acknowledge the answer to a request is its first block.
        if !agreed.is_empty() {
            transfer.phase = Phase::Offering(agreed.into());
        }
        transfer
    }

    /// Takes a datagram of the client.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        match packet {
            Packet::Ack { block } => self.handle_ack(now, *block),
            Packet::Error { code, message } => {
                let message = message.escape_ascii().to_string().into();
                self.end(TransferOutcome::Aborted { code: *code, message });
            }
            // Nothing else has a meaning here, and nothing is won by ending a boot for it.
            Packet::Rrq(_) | Packet::Wrq(_) | Packet::Data { .. } | Packet::Oack(_) => {}
        }
    }

    fn handle_ack(&mut self, now: Instant, number: u16) {
        match &self.phase {
            // RFC 2347: ACK of block 0 takes the OACK.
            Phase::Offering(_) if number == 0 => self.advance(now, 0),
            Phase::Sending(acked) => {
                let ahead = u64::from(number.wrapping_sub(*acked as u16));
                match *acked + ahead {
                    _ if ahead == 0 => self.handle_repeated_ack(now),
                    block if block == self.sent => self.advance(now, block),
                    block if block < self.sent => self.advance_inside(now, block),
                    // Of a block long acknowledged, or never sent.
                    _ => {}
                }
            }
            Phase::Offering(_) | Phase::Over(_) => {}
        }
    }

    /// The client has every block that was sent, up to `acked`.
    fn advance(&mut self, now: Instant, acked: u64) {
        self.heard = true;
        self.timer.handle_answer(now);
        if acked == self.last_block() {
            return self.end(TransferOutcome::Complete);
        }
        self.phase = Phase::Sending(acked);
        self.due = Some(Due::Turn);
        self.is_resumed = false;
    }

    /// The client has the blocks up to `acked`, and counts its window from there. RFC 7440 §4: it missed what follows,
    /// and that is sent again. But where blocks are duplicated or reordered, one such ACK follows the other, and what
    /// the first one asked for is still on its way: then only the end of the new window is missing.
    fn advance_inside(&mut self, now: Instant, acked: u64) {
        self.timer.handle_early_answer(now);
        self.phase = Phase::Sending(acked);
        let is_coming = self.is_resumed && self.timer.is_under_way(now);
        self.due = Some(if is_coming { Due::Rest } else { Due::Turn });
        self.is_resumed = true;
    }

    /// To answer every repeated ACK with data would double the traffic for the rest of the transfer, as each copy is
    /// acknowledged too: the Sorcerer's Apprentice (RFC 1123 §4.2.3.1). One that comes while we are waiting for a
    /// client that missed something earns one window.
    fn handle_repeated_ack(&mut self, now: Instant) {
        if self.timer.is_retrying() && self.timer.is_half_over(now) {
            self.due.get_or_insert(Due::Reminder);
        }
    }

    /// Takes note of a request that [`Progress::covers_repeated_request`]: the client may have missed the answer.
    pub(crate) fn handle_repeated_request(&mut self, now: Instant) {
        if !self.heard && self.outcome().is_none() && self.timer.is_half_over(now) {
            self.due.get_or_insert(Due::Reminder);
        }
    }

    /// Takes note of the time; does nothing before [`Transfer::poll_timeout`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some() || self.outcome().is_some() || now < self.timer.deadline() {
            return;
        }
        if self.timer.handle_timeout() {
            self.due = Some(Due::Turn);
        } else {
            self.end_unheard(TransferOutcome::TimedOut);
        }
    }

    /// The client asks for its next file from the same port, so it is done with this one.
    pub(crate) fn handle_next_request(&mut self) {
        if self.outcome().is_none() {
            let message = "asked for another file".into();
            self.end_unheard(TransferOutcome::Aborted { code: ErrorCode::NotDefined, message });
        }
    }

    /// Ends without a last word of the client: who was sent everything most likely has it.
    fn end_unheard(&mut self, otherwise: TransferOutcome) {
        let everything_left = self.sent == self.last_block();
        self.end(if everything_left { TransferOutcome::Unconfirmed } else { otherwise });
    }

    /// When to call [`Transfer::handle_timeout`]; `None` when the transfer is over.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.outcome().is_none().then_some(self.timer.deadline())
    }

    /// What is to be sent at `now`; `None` when there is nothing to do but wait.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        let due = self.due.take()?;
        self.timer.handle_transmit(now, due);
        let mut blocks = self.window();
        if due == Due::Rest {
            blocks.next = blocks.next.max(self.sent + 1);
        }
        match &self.phase {
            Phase::Offering(options) => Some(Transmit::Oack(options)),
            Phase::Sending(_) => {
                self.resent += (self.sent + 1).saturating_sub(blocks.next);
                self.sent = self.sent.max(blocks.last);
                Some(Transmit::Blocks(blocks))
            }
            Phase::Over(_) => None,
        }
    }

    /// Bytes of the file that leave next, as offset and length.
    pub(crate) fn upcoming(&self) -> (u64, u64) {
        let (first, last) = (self.window().next, self.window().last);
        let offset = (first - 1) * u64::from(self.blksize);
        (offset, (last * u64::from(self.blksize)).min(self.file_len) - offset)
    }

    /// The window behind what was acknowledged.
    fn window(&self) -> Blocks {
        let acked = match self.phase {
            Phase::Sending(acked) => acked,
            Phase::Offering(_) | Phase::Over(_) => 0,
        };
        let last = self.last_block().min(acked + u64::from(self.windowsize));
        Blocks::of(acked + 1, last, self.blksize, self.file_len)
    }

    /// RFC 1350 §2: the end is a block shorter than the others, so a file of whole blocks is followed by an empty one.
    fn last_block(&self) -> u64 {
        self.file_len / u64::from(self.blksize) + 1
    }

    fn end(&mut self, outcome: TransferOutcome) {
        if self.outcome().is_none() {
            self.phase = Phase::Over(outcome);
            self.due = None;
        }
    }

    /// How it ended; `None` while it goes on.
    pub(crate) fn outcome(&self) -> Option<&TransferOutcome> {
        match &self.phase {
            Phase::Over(outcome) => Some(outcome),
            Phase::Offering(_) | Phase::Sending(_) => None,
        }
    }

    /// How far it has come.
    pub(crate) fn standing(&self) -> Progress {
        match self.heard {
            false => Progress::Unheard,
            true if self.sent == self.last_block() => Progress::AllSent,
            true => Progress::Heard,
        }
    }

    /// Bytes in a block, as agreed.
    pub(crate) const fn blksize(&self) -> u16 {
        self.blksize
    }

    /// Blocks in a row, as agreed.
    pub(crate) const fn windowsize(&self) -> u16 {
        self.windowsize
    }

    /// Blocks that left more than once, counted each time.
    pub(crate) const fn resent(&self) -> u64 {
        self.resent
    }
}

/// The options that are acknowledged, and with which value: only what was asked for, in the order it was asked,
/// each once (RFC 2347).
fn agree(asked: &[TransferOption<'_>], file_len: u64, limits: Limits) -> Vec<TransferOption<'static>> {
    let mut agreed: Vec<TransferOption<'static>> = Vec::new();
    for option in asked {
        let answer = match *option {
            // RFC 2348, RFC 7440 §3: less than or equal to what the client specified.
            TransferOption::Blksize(size) => TransferOption::Blksize(size.min(limits.blksize)),
            TransferOption::Windowsize(blocks) => TransferOption::Windowsize(blocks.min(limits.windowsize)),
            TransferOption::Tsize(_) => TransferOption::Tsize(file_len),
            // RFC 2349: the value must match the client's, so a value we do not like is left out.
            TransferOption::Timeout(seconds) if seconds <= MAX_TIMEOUT => TransferOption::Timeout(seconds),
            TransferOption::Timeout(_) | TransferOption::Unknown { .. } => continue,
        };
        let is_same =
            |other: &TransferOption<'_>| std::mem::discriminant(other) == std::mem::discriminant(&answer);
        if !agreed.iter().any(is_same) {
            agreed.push(answer);
        }
    }
    agreed
}
