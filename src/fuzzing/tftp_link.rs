//! A TFTP transfer between our session and a model of a client, over a simulated link.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::codec::{Reader, Truncated};
use crate::tftp::session::{DataBlock, Limits, Transfer, TransferOutcome, Transmit};
use crate::tftp::wire::{Packet, TransferOption};

/// Time that a packet takes on a link without faults.
const TRAVEL: Duration = Duration::from_millis(1);

/// Wait of the client before it repeats itself.
const CLIENT_WAIT: Duration = Duration::from_secs(1);

/// Repetitions of the server that may be lost before it gives up.
const LOSSES_BORNE: u64 = 6;

/// Checks that the client gets the file, byte for byte, and that the number of packets is bounded,
/// over a link that loses, repeats and holds back packets.
///
/// The input is the length of the file (2 bytes), the block size, the window size, the habits of the
/// client, and then what happens to each packet, one byte each. Later ones meet no fault.
pub fn link(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Ok(mut network) = Network::new(&mut reader) else { return };
    network.run(reader.rest());
}

/// What happens next, and when.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ToClient(Arrival),
    ToServer(ClientPacket),
    /// The client has waited, if nothing came since that many packets.
    ClientWaited(u64),
    ServerWaited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    Oack,
    Data { number: u16, offset: u64, len: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ClientPacket {
    Request,
    Ack(u16),
}

/// A client as RFC 7440 describes it.
#[derive(Debug)]
struct Client {
    blksize: u64,
    windowsize: u64,
    /// It acknowledges each block out of order, and not only the first of a window.
    is_noisy: bool,
    /// Bytes that it has.
    len: u64,
    /// Number of the last block in order, from the beginning.
    block: u64,
    /// Blocks in order since its last acknowledgement.
    unacknowledged: u64,
    has_complained: bool,
    has_heard: bool,
    is_done: bool,
    heard: u64,
}

impl Client {
    /// Handles a packet; returns the packet that the client sends.
    fn handle(&mut self, arrival: Arrival) -> Option<ClientPacket> {
        self.heard += 1;
        self.has_heard = true;
        match arrival {
            Arrival::Oack => (self.block == 0).then_some(ClientPacket::Ack(0)),
            Arrival::Data { number, offset, len } if number == (self.block + 1) as u16 && !self.is_done => {
                assert_eq!(offset, self.len, "the bytes that follow");
                assert!(len <= self.blksize);
                self.block += 1;
                self.len += len;
                self.unacknowledged += 1;
                self.has_complained = false;
                // RFC 1350 §6: a short block is the last.
                self.is_done = len < self.blksize;
                (self.is_done || self.unacknowledged == self.windowsize).then(|| self.acknowledge())
            }
            Arrival::Data { .. } => {
                let is_silent = std::mem::replace(&mut self.has_complained, true);
                // RFC 7440 §4: an acknowledgement of the last block in order begins a new window. Of
                // a repeated last block, RFC 1350 §6 wants another one.
                (self.is_noisy || self.is_done || !is_silent).then(|| self.acknowledge())
            }
        }
    }

    fn acknowledge(&mut self) -> ClientPacket {
        self.unacknowledged = 0;
        ClientPacket::Ack(self.block as u16)
    }

    fn repeat(&mut self) -> ClientPacket {
        if self.has_heard { self.acknowledge() } else { ClientPacket::Request }
    }
}

/// Both ends, and what is on its way between them.
#[derive(Debug)]
struct Network {
    client: Client,
    transfer: Transfer,
    file_len: u64,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    /// Events so far, to keep their order.
    count: u64,
    /// End of the session's wait, for which there is an event.
    deadline: Option<Instant>,
    sent: u64,
    lost: u64,
    /// Packets that met a fault.
    faults: u64,
}

impl Network {
    fn new(input: &mut Reader<'_>) -> Result<Self, Truncated> {
        let file_len = u64::from(input.u16_be()?);
        let [blksize, windowsize, habits] = input.array()?;
        let (blksize, windowsize) = (8 + u16::from(blksize) * 5, 1 + u16::from(windowsize % 16));
        let mut options = vec![TransferOption::Blksize(blksize), TransferOption::Windowsize(windowsize)];
        // Without options, the first block answers the request.
        if habits & 2 != 0 {
            options.clear();
        }
        let now = Instant::now();
        let transfer = Transfer::new(now, file_len, &options, Limits { blksize: u16::MAX, windowsize: 64 });
        let client = Client {
            blksize: transfer.blksize().into(),
            windowsize: transfer.windowsize().into(),
            is_noisy: habits & 1 != 0,
            len: 0,
            block: 0,
            unacknowledged: 0,
            has_complained: false,
            has_heard: false,
            is_done: false,
            heard: 0,
        };
        let events = BinaryHeap::new();
        let deadline = None;
        Ok(Self { client, transfer, file_len, now, events, count: 0, deadline, sent: 0, lost: 0, faults: 0 })
    }

    fn run(&mut self, faults: &[u8]) {
        let mut faults = faults.iter().copied();
        self.transmit(&mut faults);
        self.after(CLIENT_WAIT, Event::ClientWaited(0));
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if self.transfer.outcome().is_some() {
                break;
            }
            self.now = time;
            let heard = self.client.heard;
            match event {
                Event::ToClient(arrival) => {
                    if let Some(packet) = self.client.handle(arrival) {
                        self.carry(&mut faults, Event::ToServer(packet));
                    }
                }
                Event::ToServer(ClientPacket::Request) => self.transfer.handle_repeated_request(self.now),
                Event::ToServer(ClientPacket::Ack(block)) => {
                    self.transfer.handle_packet(self.now, &Packet::Ack { block });
                }
                Event::ClientWaited(heard) if heard == self.client.heard && !self.client.is_done => {
                    let packet = self.client.repeat();
                    self.carry(&mut faults, Event::ToServer(packet));
                    self.after(CLIENT_WAIT, Event::ClientWaited(heard));
                }
                Event::ClientWaited(_) => {}
                Event::ServerWaited => self.transfer.handle_timeout(self.now),
            }
            if self.client.heard > heard {
                self.after(CLIENT_WAIT, Event::ClientWaited(self.client.heard));
            }
            self.transmit(&mut faults);
        }
        self.check_end();
    }

    /// Sends what the session has to send, and waits as it wants.
    fn transmit(&mut self, faults: &mut impl Iterator<Item = u8>) {
        let mut arrivals = Vec::new();
        while let Some(transmit) = self.transfer.poll_transmit(self.now) {
            match transmit {
                Transmit::Oack(_) => arrivals.push(Arrival::Oack),
                Transmit::Blocks(blocks) => {
                    arrivals.extend(blocks.map(|DataBlock { number, offset, len }| Arrival::Data {
                        number,
                        offset,
                        len,
                    }))
                }
            }
        }
        for arrival in arrivals {
            self.sent += 1;
            self.carry(faults, Event::ToClient(arrival));
        }
        let deadline = self.transfer.poll_timeout();
        if let (Some(time), true) = (deadline, deadline != self.deadline) {
            self.at(time, Event::ServerWaited);
        }
        self.deadline = deadline;
    }

    /// Puts a packet on the link.
    fn carry(&mut self, faults: &mut impl Iterator<Item = u8>, event: Event) {
        let fault = faults.next().unwrap_or_default();
        let held_back = Duration::from_millis(u64::from(fault / 16) * 40 + 2);
        self.faults += u64::from(fault % 16 >= 10);
        match (fault % 16, event) {
            (10 | 11, _) => self.lost += 1,
            (12, Event::ToClient(arrival)) => {
                self.after(held_back, Event::ToClient(arrival));
                self.after(TRAVEL, Event::ToClient(arrival));
            }
            (12, Event::ToServer(packet)) => {
                self.after(held_back, Event::ToServer(packet));
                self.after(TRAVEL, Event::ToServer(packet));
            }
            (13..=15, event) => self.after(held_back, event),
            (_, event) => self.after(TRAVEL, event),
        }
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.at(self.now + time, event);
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time.max(self.now), self.count, event)));
    }

    fn check_end(&self) {
        let outcome = self.transfer.outcome().expect("a transfer ends");
        if self.client.is_done {
            assert_eq!(self.client.len, self.file_len);
        }
        if self.lost <= LOSSES_BORNE {
            assert_eq!(
                (outcome, self.client.is_done),
                (&TransferOutcome::Complete, true),
                "{} lost",
                self.lost
            );
        }
        // A fault costs a window when it is noticed, and one more when what was held back arrives.
        // No window is sent again for the copies that another one made.
        let blocks = self.file_len / self.client.blksize + 2;
        let bound = blocks + (2 * self.faults + LOSSES_BORNE) * self.client.windowsize;
        assert!(self.sent <= bound, "{} packets for {blocks} blocks and {} faults", self.sent, self.faults);
    }
}
