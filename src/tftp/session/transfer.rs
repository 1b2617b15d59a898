//! State machine of one transfer: which blocks are sent next, and when.
//!
//! ```text
//! RRQ -> [OACK <-> ACK 0] -> window of DATA <-> ACK of its last block -> ... -> ACK of the last block
//! ```
//!
//! Call [`Transfer::handle_packet`] and [`Transfer::handle_timeout`], send the packets that
//! [`Transfer::poll_transmit`] returns until it returns none, and wait until
//! [`Transfer::poll_timeout`].
//!
//! Blocks are counted from 1 with 64 bits. Only the number on the wire rolls over, from 65535 to 0.

use std::mem::discriminant;
use std::time::Instant;

use super::Progress;
use super::timer::{Due, Timer};
use crate::tftp::wire::{DEFAULT_BLKSIZE, ErrorCode, Packet, TransferOption};

/// Largest `timeout` that is accepted. A transfer whose client is gone lives seven times as long.
const MAX_TIMEOUT: u8 = 30;

/// Largest values of the options that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a block.
    pub blksize: u16,
    /// Blocks in a row.
    pub windowsize: u16,
}

/// Packets to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit<'a> {
    Oack(&'a [TransferOption<'static>]),
    Blocks(Blocks),
}

/// Run of blocks of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    next: u64,
    last: u64,
    blksize: u16,
    file_len: u64,
}

impl Blocks {
    /// Creates a run of the blocks `first` to `last` of a file.
    pub(super) const fn of(first: u64, last: u64, blksize: u16, file_len: u64) -> Self {
        Self { next: first, last, blksize, file_len }
    }
}

/// Block: its number on the wire and its range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataBlock {
    pub number: u16,
    pub offset: u64,
    /// Less than the block size for the last block only, which may be empty (RFC 1350 §6).
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
        // After 65535 comes 0. No RFC says so, but all clients that were tried expect it.
        Some(DataBlock { number: block as u16, offset, len })
    }
}

/// Result of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The client has the whole file.
    Complete,
    /// The whole file was sent, but the last ACK did not come.
    Unconfirmed,
    /// The client stopped answering.
    TimedOut,
    /// The client sent an ERROR.
    Aborted { code: ErrorCode, message: Box<str> },
}

/// Transfer of one file to one client.
#[derive(Debug)]
pub struct Transfer {
    file_len: u64,
    blksize: u16,
    windowsize: u16,
    phase: Phase,
    /// True after the first answer of the client.
    heard: bool,
    /// True if the last window was sent after an ACK inside the one before.
    is_resumed: bool,
    /// At most one for each block of the window.
    echoes: Vec<Echo>,
    /// Highest block that was sent at least once.
    sent: u64,
    /// First block that was never sent before the last packets were.
    first_new: u64,
    resent: u64,
    due: Option<Due>,
    timer: Timer,
}

/// ACK that blocks sent again may cause, although the client misses nothing.
#[derive(Debug, Clone, Copy)]
struct Echo {
    /// Highest block that was sent before them.
    block: u64,
    /// Time when the ACK must have come.
    until: Instant,
}

#[derive(Debug)]
enum Phase {
    /// The OACK waits for the ACK of block 0.
    Negotiating(Box<[TransferOption<'static>]>),
    /// All blocks up to this one are acknowledged.
    Sending(u64),
    Over(TransferOutcome),
}

impl Transfer {
    /// Starts a transfer of `file_len` bytes with the options that the client requested, up to
    /// `limits`.
    pub fn new(now: Instant, file_len: u64, requested: &[TransferOption<'_>], limits: Limits) -> Self {
        let agreed = agree(requested, file_len, limits);
        let mut transfer = Self {
            file_len,
            blksize: DEFAULT_BLKSIZE,
            windowsize: 1,
            phase: Phase::Sending(0),
            heard: false,
            is_resumed: false,
            echoes: Vec::new(),
            sent: 0,
            first_new: 0,
            resent: 0,
            due: Some(Due::Window),
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
        // RFC 2347: without an option to acknowledge, the first DATA packet answers the request.
        if !agreed.is_empty() {
            transfer.phase = Phase::Negotiating(agreed.into());
        }
        transfer
    }

    /// Handles a packet of the client.
    pub fn handle_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        match packet {
            Packet::Ack { block } => self.handle_ack(now, *block),
            // RFC 1350 §7: an ERROR ends the transfer.
            Packet::Error { code, message } => {
                let message = message.escape_ascii().to_string().into();
                self.end(TransferOutcome::Aborted { code: *code, message });
            }
            // Without a meaning here. To end the transfer would only end a boot.
            Packet::Rrq(_) | Packet::Wrq(_) | Packet::Data { .. } | Packet::Oack(_) => {}
        }
    }

    fn handle_ack(&mut self, now: Instant, number: u16) {
        match &self.phase {
            // RFC 2347: an ACK of block 0 confirms the OACK.
            Phase::Negotiating(_) if number == 0 => self.advance(now, 0),
            Phase::Sending(acked) => {
                // The difference is right also where the number on the wire rolls over.
                let ahead = u64::from(number.wrapping_sub(*acked as u16));
                match *acked + ahead {
                    _ if ahead == 0 => self.handle_repeated_ack(now),
                    block if block == self.sent => self.advance(now, block),
                    block if block < self.sent => self.advance_inside(now, block),
                    // The block was acknowledged long ago, or was never sent.
                    _ => {}
                }
            }
            Phase::Negotiating(_) | Phase::Over(_) => {}
        }
    }

    /// Goes on after an ACK of the last block that was sent.
    fn advance(&mut self, now: Instant, acked: u64) {
        self.heard = true;
        self.time_answer(now, acked);
        if acked == self.last_block() {
            return self.end(TransferOutcome::Complete);
        }
        self.phase = Phase::Sending(acked);
        self.due = Some(Due::Window);
        self.is_resumed = false;
        self.echoes.clear();
    }

    /// Tells the timer about an ACK.
    fn time_answer(&mut self, now: Instant, acked: u64) {
        if acked >= self.first_new {
            self.timer.handle_answer(now);
        } else {
            self.timer.handle_early_answer(now);
        }
    }

    /// Goes on after an ACK inside the window.
    fn advance_inside(&mut self, now: Instant, acked: u64) {
        self.time_answer(now, acked);
        // RFC 7440 §4: the client missed the next block, so the window starts there again.
        self.phase = Phase::Sending(acked);
        // On a link that reorders or duplicates, several such ACKs come at once. The blocks that
        // the first one asked for are still on their way: only the end of the new window is
        // missing.
        let is_coming = self.is_resumed && self.timer.is_in_flight(now);
        self.due = Some(if is_coming || self.is_echo(now, acked) { Due::Unsent } else { Due::Window });
        self.is_resumed = true;
    }

    /// Returns whether an ACK inside the window answers blocks that the client has got twice.
    fn is_echo(&mut self, now: Instant, acked: u64) -> bool {
        // RFC 7440 §4 lets a client that misses nothing send the ACK of a gap, when copies of
        // earlier blocks reach it: then it has all blocks that were sent before the copies. The
        // blocks after them follow. A second copy of those would have the next echo, and so on for
        // the rest of the file (RFC 1123 §4.2.3.1). If there is a gap here after all, the short
        // wait for unsent blocks is over soon.
        let is_echo = self.echoes.iter().any(|echo| echo.block == acked && now <= echo.until);
        self.echoes.retain(|echo| echo.block > acked);
        is_echo
    }

    fn handle_repeated_ack(&mut self, now: Instant) {
        // RFC 1123 §4.2.3.1: DATA for each repeated ACK would double the traffic for the rest of
        // the transfer, since each copy is acknowledged too. lpxelinux repeats its ACK for each
        // block out of order. Only while the client is known to miss something one window is sent.
        if self.timer.is_retrying() && self.timer.is_half_over(now) {
            self.due.get_or_insert(Due::Repetition);
        }
    }

    /// Handles a request that [`Progress::covers_repeated_request`].
    pub(crate) fn handle_repeated_request(&mut self, now: Instant) {
        // The client may have missed the answer, unless the network made the copy.
        if !self.heard && self.outcome().is_none() && self.timer.is_half_over(now) {
            self.due.get_or_insert(Due::Repetition);
        }
    }

    /// Handles the end of a wait; does nothing before [`Transfer::poll_timeout`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some() || self.outcome().is_some() || now < self.timer.deadline() {
            return;
        }
        // RFC 7440 §4: the last ACK sets the beginning of the window that is sent again.
        if self.timer.handle_timeout() {
            self.due = Some(Due::Window);
        } else {
            self.end_unheard(TransferOutcome::TimedOut);
        }
    }

    /// Ends the transfer, because the client requests another file from the same port.
    pub(crate) fn handle_next_request(&mut self) {
        if self.outcome().is_none() {
            let message = "asked for another file".into();
            self.end_unheard(TransferOutcome::Aborted { code: ErrorCode::NotDefined, message });
        }
    }

    /// Ends the transfer without a last packet of the client.
    fn end_unheard(&mut self, otherwise: TransferOutcome) {
        // RFC 1350 §6: the transfer may have succeeded, with only the last ACK lost.
        let is_all_sent = self.sent == self.last_block();
        self.end(if is_all_sent { TransferOutcome::Unconfirmed } else { otherwise });
    }

    /// Returns the time to call [`Transfer::handle_timeout`]; `None` after the end of the transfer.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.outcome().is_none().then_some(self.timer.deadline())
    }

    /// Returns the packets to send at `now`; `None` if there is nothing to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        let due = self.due.take()?;
        self.timer.handle_transmit(now, due);
        let mut blocks = self.window();
        if due == Due::Unsent {
            blocks.next = blocks.next.max(self.sent + 1);
        }
        match &self.phase {
            Phase::Negotiating(options) => Some(Transmit::Oack(options)),
            Phase::Sending(_) => {
                if blocks.next <= self.sent {
                    self.echoes.retain(|echo| echo.block < self.sent);
                    self.echoes.push(Echo { block: self.sent, until: now + self.timer.short_wait() });
                }
                self.first_new = self.sent + 1;
                self.resent += (self.sent + 1).saturating_sub(blocks.next);
                self.sent = self.sent.max(blocks.last);
                Some(Transmit::Blocks(blocks))
            }
            Phase::Over(_) => None,
        }
    }

    /// Returns the bytes of the file that are sent next, as offset and length.
    pub(crate) fn upcoming(&self) -> (u64, u64) {
        let (first, last) = (self.window().next, self.window().last);
        let offset = (first - 1) * u64::from(self.blksize);
        (offset, (last * u64::from(self.blksize)).min(self.file_len) - offset)
    }

    /// Returns the window after the last acknowledged block.
    fn window(&self) -> Blocks {
        let acked = match self.phase {
            Phase::Sending(acked) => acked,
            Phase::Negotiating(_) | Phase::Over(_) => 0,
        };
        let last = self.last_block().min(acked + u64::from(self.windowsize));
        Blocks::of(acked + 1, last, self.blksize, self.file_len)
    }

    /// Returns the number of the last block.
    fn last_block(&self) -> u64 {
        // RFC 1350 §6: a block shorter than the others marks the end. RFC 2348: after whole blocks
        // that is an empty one.
        self.file_len / u64::from(self.blksize) + 1
    }

    fn end(&mut self, outcome: TransferOutcome) {
        if self.outcome().is_none() {
            self.phase = Phase::Over(outcome);
            self.due = None;
        }
    }

    /// Returns the result; `None` before the end.
    pub(crate) fn outcome(&self) -> Option<&TransferOutcome> {
        match &self.phase {
            Phase::Over(outcome) => Some(outcome),
            Phase::Negotiating(_) | Phase::Sending(_) => None,
        }
    }

    /// Returns the progress.
    pub(crate) fn progress(&self) -> Progress {
        match self.heard {
            false => Progress::Unheard,
            true if self.sent == self.last_block() => Progress::AllSent,
            true => Progress::Heard,
        }
    }

    /// Returns the agreed length of a block in bytes.
    pub(crate) const fn blksize(&self) -> u16 {
        self.blksize
    }

    /// Returns the agreed length of a window in blocks.
    pub(crate) const fn windowsize(&self) -> u16 {
        self.windowsize
    }

    /// Returns the number of blocks that were sent again, counted each time.
    pub(crate) const fn resent(&self) -> u64 {
        self.resent
    }
}

/// Returns the options to acknowledge, with their values.
fn agree(requested: &[TransferOption<'_>], file_len: u64, limits: Limits) -> Vec<TransferOption<'static>> {
    let mut agreed: Vec<TransferOption<'static>> = Vec::new();
    // RFC 2347: only options that the client requested. lpxelinux ends the transfer at any other.
    for option in requested {
        let answer = match *option {
            // RFC 2348, RFC 7440 §3: at most the value that the client specified.
            TransferOption::Blksize(size) => TransferOption::Blksize(size.min(limits.blksize)),
            TransferOption::Windowsize(blocks) => TransferOption::Windowsize(blocks.min(limits.windowsize)),
            // RFC 2349: the client sends 0, and gets the size of the file.
            TransferOption::Tsize(_) => TransferOption::Tsize(file_len),
            // RFC 2349: the value must match that of the client, so one that is too large is left
            // out.
            TransferOption::Timeout(seconds) if seconds <= MAX_TIMEOUT => TransferOption::Timeout(seconds),
            TransferOption::Timeout(_) | TransferOption::Unknown { .. } => continue,
        };
        // RFC 2347: an option may be specified once. The first one counts.
        if agreed.iter().all(|other| discriminant(other) != discriminant(&answer)) {
            agreed.push(answer);
        }
    }
    agreed
}
