//! Transfers over a simulated link with a simulated clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::*;
use crate::tftp::wire::{MAX_BLKSIZE, TransferOption};

const LIMITS: Limits = Limits { blksize: 1468, windowsize: 64 };
const MIB: u64 = 1 << 20;

/// Properties of the simulated link; shares are in percent.
#[derive(Debug, Clone, Copy)]
struct LinkProperties {
    loss: u64,
    duplication: u64,
    /// Delay of one way.
    delay: Duration,
    /// Largest additional delay. It reorders packets.
    jitter: Duration,
}

const PERFECT: LinkProperties =
    LinkProperties { loss: 0, duplication: 0, delay: Duration::from_micros(200), jitter: Duration::ZERO };

/// Packet on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SimulatedPacket {
    Oack,
    Data { number: u16, offset: u64, len: u64 },
    Ack(u16),
}

/// Client of RFC 7440 that repeats its last ACK for each block out of order, as lpxelinux does.
struct Client {
    blksize: u64,
    windowsize: u64,
    file_len: u64,
    /// Blocks it has.
    has: u64,
    in_window: u64,
    is_done: bool,
}

impl Client {
    fn handle(&mut self, packet: SimulatedPacket) -> Option<u16> {
        let SimulatedPacket::Data { number, offset, len } = packet else {
            return (self.has == 0).then_some(0);
        };
        if number != (self.has + 1) as u16 {
            self.in_window = 0;
            return Some(self.has as u16);
        }
        assert_eq!(offset, self.has * self.blksize);
        assert_eq!(len, self.blksize.min(self.file_len - offset));
        self.has += 1;
        self.in_window += 1;
        self.is_done = len < self.blksize;
        let is_window_over = self.in_window == self.windowsize;
        (is_window_over || self.is_done).then(|| {
            self.in_window = 0;
            self.has as u16
        })
    }
}

/// Result of a simulated transfer.
struct Report {
    outcome: TransferOutcome,
    elapsed: Duration,
    /// DATA packets that left.
    data: u64,
    resent: u64,
}

/// Transfer over a simulated link.
struct Simulation {
    start: Instant,
    now: Instant,
    in_flight: BinaryHeap<Reverse<(Instant, u64, SimulatedPacket)>>,
    count: u64,
    random: u64,
    link: LinkProperties,
}

impl Simulation {
    fn new(link: LinkProperties, seed: u64) -> Self {
        let start = Instant::now();
        Self { start, now: start, in_flight: BinaryHeap::new(), count: 0, random: seed * 2 + 1, link }
    }

    fn run(mut self, file_len: u64, options: &[TransferOption<'_>]) -> Report {
        let mut transfer = Transfer::new(self.now, file_len, options, LIMITS);
        let (blksize, windowsize) = (transfer.blksize().into(), transfer.windowsize().into());
        let mut client = Client { blksize, windowsize, file_len, has: 0, in_window: 0, is_done: false };
        let mut data = 0;
        while transfer.outcome().is_none() {
            while let Some(transmit) = transfer.poll_transmit(self.now) {
                let packets: Vec<SimulatedPacket> = match transmit {
                    Transmit::Oack(_) => vec![SimulatedPacket::Oack],
                    Transmit::Blocks(blocks) => blocks
                        .map(|DataBlock { number, offset, len }| SimulatedPacket::Data {
                            number,
                            offset,
                            len,
                        })
                        .collect(),
                };
                data += packets.iter().filter(|packet| **packet != SimulatedPacket::Oack).count() as u64;
                packets.into_iter().for_each(|packet| self.send(packet));
            }
            let deadline = transfer.poll_timeout().unwrap();
            match self.in_flight.peek() {
                Some(Reverse((arrival, ..))) if *arrival <= deadline => {
                    self.deliver(&mut transfer, &mut client)
                }
                _ => {
                    self.now = deadline;
                    transfer.handle_timeout(deadline);
                }
            }
        }
        let outcome = transfer.outcome().unwrap().clone();
        assert_eq!(outcome == TransferOutcome::Complete, client.is_done, "{outcome:?}");
        Report { outcome, elapsed: self.now - self.start, data, resent: transfer.resent() }
    }

    fn send(&mut self, packet: SimulatedPacket) {
        let copies = 1 + u64::from(self.percent() < self.link.duplication);
        for _ in 0..copies {
            if self.percent() < self.link.loss {
                continue;
            }
            let jitter = self.link.jitter.mul_f64(self.percent() as f64 / 100.0);
            self.count += 1;
            self.in_flight.push(Reverse((self.now + self.link.delay + jitter, self.count, packet)));
        }
    }

    fn deliver(&mut self, transfer: &mut Transfer, client: &mut Client) {
        let Some(Reverse((arrival, _, packet))) = self.in_flight.pop() else { return };
        self.now = arrival;
        match packet {
            SimulatedPacket::Ack(block) => transfer.handle_packet(self.now, &Packet::Ack { block }),
            packet => {
                if let Some(ack) = client.handle(packet) {
                    self.send(SimulatedPacket::Ack(ack));
                }
            }
        }
    }

    /// Returns a random number from 0 to 99 (xorshift64).
    fn percent(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100
    }
}

fn lockstep() -> [TransferOption<'static>; 1] {
    [TransferOption::Blksize(1468)]
}

fn window(blocks: u16) -> [TransferOption<'static>; 2] {
    [TransferOption::Blksize(1468), TransferOption::Windowsize(blocks)]
}

#[test]
fn each_block_is_sent_once() {
    for windowsize in [1, 2, 4, 64] {
        for len in [0, 1, 511, 512, 513, 1024, 512 * 64, 512 * 64 - 1, 512 * 128 + 7] {
            let report = Simulation::new(PERFECT, 1).run(len, &[TransferOption::Windowsize(windowsize)]);
            assert_eq!(report.outcome, TransferOutcome::Complete);
            assert_eq!(report.data, len / 512 + 1, "{len} bytes, windowsize {windowsize}");
            assert_eq!(report.resent, 0);
        }
    }
}

#[test]
fn lossy_link_costs_little_time() {
    let link = LinkProperties { loss: 1, ..PERFECT };
    for options in [&lockstep()[..], &window(4), &window(16), &window(64)] {
        for seed in 1..40 {
            let report = Simulation::new(link, seed).run(MIB, options);
            assert_eq!(report.outcome, TransferOutcome::Complete);
            assert!(report.elapsed < Duration::from_secs(1), "{options:?} seed {seed}: {:?}", report.elapsed);
        }
    }
}

#[test]
fn duplicating_link_costs_little_data() {
    let link = LinkProperties { duplication: 100, ..PERFECT };
    let blocks = MIB / 1468 + 1;
    let report = Simulation::new(link, 1).run(MIB, &lockstep());
    assert_eq!((report.outcome, report.data), (TransferOutcome::Complete, blocks));
    for windowsize in [4, 16, 64] {
        let report = Simulation::new(link, 1).run(MIB, &window(windowsize));
        assert_eq!(report.outcome, TransferOutcome::Complete);
        assert!(report.data < blocks * 3, "windowsize {windowsize}: {} of {blocks}", report.data);
    }
}

#[test]
fn reordering_link_costs_little_time() {
    let jitter = Duration::from_micros(300);
    let link = LinkProperties { loss: 1, duplication: 5, jitter, ..PERFECT };
    for options in [&lockstep()[..], &window(8)] {
        for seed in 1..20 {
            let report = Simulation::new(link, seed).run(MIB, options);
            assert_eq!(report.outcome, TransferOutcome::Complete);
            assert!(report.elapsed < Duration::from_secs(2), "{options:?} seed {seed}: {:?}", report.elapsed);
        }
    }
}

#[test]
fn worst_link_completes() {
    let link = LinkProperties { loss: 20, duplication: 20, jitter: Duration::from_millis(5), ..PERFECT };
    for seed in 1..10 {
        let report = Simulation::new(link, seed).run(MIB / 8, &window(4));
        assert_eq!(report.outcome, TransferOutcome::Complete);
    }
}

#[test]
fn block_numbers_roll_over() {
    for (options, loss) in [(&[][..], 0), (&[TransferOption::Windowsize(64)], 0), (&window(64)[..1], 1)] {
        let link = LinkProperties { loss, ..PERFECT };
        let report = Simulation::new(link, 3).run(100_000_000, options);
        assert_eq!(report.outcome, TransferOutcome::Complete);
    }
    let mut blocks = Blocks::of(65_535, 65_537, 512, 1 << 30);
    let numbers: Vec<u16> = blocks.by_ref().map(|block| block.number).collect();
    assert_eq!(numbers, [65_535, 0, 1]);
}

#[test]
fn slower_path_is_noticed() {
    let options = lockstep();
    let start = Instant::now();
    let mut transfer = Transfer::new(start, 300 * 1468, &options, LIMITS);
    let mut now = start;
    for block in 0..=300_u16 {
        let round_trip = Duration::from_millis(if block < 100 { 1 } else { 150 });
        assert!(transfer.poll_transmit(now).is_some());
        let answered = now + round_trip;
        while let Some(deadline) = transfer.poll_timeout().filter(|deadline| *deadline < answered) {
            transfer.handle_timeout(deadline);
            while transfer.poll_transmit(deadline).is_some() {}
        }
        now = answered;
        transfer.handle_packet(now, &Packet::Ack { block });
    }
    assert!(transfer.resent() < 20, "{} blocks of 200 were sent in vain", transfer.resent());
}

/// Returns a transfer whose first window was sent.
fn started(options: &[TransferOption<'_>]) -> (Transfer, Instant) {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, MIB, options, LIMITS);
    assert!(matches!(transfer.poll_transmit(now), Some(Transmit::Oack(_))));
    transfer.handle_packet(now, &Packet::Ack { block: 0 });
    assert!(matches!(transfer.poll_transmit(now), Some(Transmit::Blocks(_))));
    (transfer, now)
}

/// Returns the numbers of the blocks that are sent now.
fn leaving(transfer: &mut Transfer, now: Instant) -> Vec<u16> {
    match transfer.poll_transmit(now) {
        Some(Transmit::Blocks(blocks)) => blocks.map(|block| block.number).collect(),
        Some(Transmit::Oack(_)) => panic!("an OACK after its ACK"),
        None => Vec::new(),
    }
}

#[test]
fn ack_inside_window_resumes_after_it() {
    let (mut transfer, now) = started(&window(4));
    transfer.handle_packet(now, &Packet::Ack { block: 2 });
    assert_eq!(leaving(&mut transfer, now), [3, 4, 5, 6]);
    assert_eq!(transfer.resent(), 2);
    transfer.handle_packet(now, &Packet::Ack { block: 6 });
    assert_eq!(leaving(&mut transfer, now), [7, 8, 9, 10]);
}

#[test]
fn second_early_ack_gets_unsent_blocks() {
    let start = Instant::now();
    let mut transfer = Transfer::new(start, MIB, &window(4), LIMITS);
    assert!(transfer.poll_transmit(start).is_some());
    let now = start + Duration::from_millis(4);
    let mut answer_to = |now, block| {
        transfer.handle_packet(now, &Packet::Ack { block });
        transfer.handle_timeout(now);
        leaving(&mut transfer, now)
    };
    assert_eq!(answer_to(now, 0), [1, 2, 3, 4]);
    assert_eq!(answer_to(now, 1), [2, 3, 4, 5]);
    assert_eq!(answer_to(now, 2), [6]);
    assert_eq!(answer_to(now, 3), [7]);
    assert_eq!(answer_to(now + Duration::from_millis(8), 3), [4, 5, 6, 7], "thrown away as out of turn");
}

/// Returns a transfer of which a window of four blocks was sent, with a round trip of 4 ms.
fn started_on_slow_link() -> (Transfer, Instant) {
    let start = Instant::now();
    let mut transfer = Transfer::new(start, MIB, &window(4), LIMITS);
    assert!(transfer.poll_transmit(start).is_some());
    let now = start + Duration::from_millis(4);
    transfer.handle_packet(now, &Packet::Ack { block: 0 });
    assert_eq!(leaving(&mut transfer, now), [1, 2, 3, 4]);
    (transfer, now)
}

/// Handles an ACK that comes 4 ms after the last one.
fn next_answer(transfer: &mut Transfer, now: &mut Instant, block: u16) -> Vec<u16> {
    *now += Duration::from_millis(4);
    transfer.handle_packet(*now, &Packet::Ack { block });
    leaving(transfer, *now)
}

#[test]
fn echo_of_resent_blocks_gets_unsent_blocks() {
    let (mut transfer, mut now) = started_on_slow_link();
    assert_eq!(next_answer(&mut transfer, &mut now, 2), [3, 4, 5, 6], "3 is missing, or 2 came twice");
    assert_eq!(next_answer(&mut transfer, &mut now, 4), [7, 8], "3 came twice, and 5 is on its way");
    assert_eq!(next_answer(&mut transfer, &mut now, 8), [9, 10, 11, 12]);
    assert_eq!(transfer.resent(), 2);
}

#[test]
fn echoes_of_two_runs_get_unsent_blocks() {
    let (mut transfer, mut now) = started_on_slow_link();
    assert_eq!(next_answer(&mut transfer, &mut now, 1), [2, 3, 4, 5]);
    assert_eq!(next_answer(&mut transfer, &mut now, 2), [3, 4, 5, 6]);
    assert_eq!(next_answer(&mut transfer, &mut now, 4), [7, 8]);
    assert_eq!(next_answer(&mut transfer, &mut now, 5), [9]);
    assert_eq!(next_answer(&mut transfer, &mut now, 9), [10, 11, 12, 13]);
}

#[test]
fn gap_after_resent_blocks_costs_a_short_wait() {
    let (mut transfer, mut now) = started_on_slow_link();
    assert_eq!(next_answer(&mut transfer, &mut now, 2), [3, 4, 5, 6]);
    assert_eq!(next_answer(&mut transfer, &mut now, 4), [7, 8], "5 was lost");
    now += Duration::from_millis(8);
    transfer.handle_timeout(now);
    assert_eq!(leaving(&mut transfer, now), [5, 6, 7, 8]);
    assert_eq!(next_answer(&mut transfer, &mut now, 6), [7, 8, 9, 10], "a gap that was not answered");
}

#[test]
fn old_and_impossible_acks_are_ignored() {
    let (mut transfer, now) = started(&window(4));
    transfer.handle_packet(now, &Packet::Ack { block: 4 });
    assert_eq!(leaving(&mut transfer, now), [5, 6, 7, 8]);
    for block in [4, 4, 3, 0, 9, 65_535] {
        transfer.handle_packet(now, &Packet::Ack { block });
        assert!(leaving(&mut transfer, now).is_empty(), "ACK {block}");
    }
}

#[test]
fn repeated_ack_gets_one_window() {
    let (mut transfer, mut now) = started(&window(2));
    let remind = |transfer: &mut Transfer, now| {
        transfer.handle_packet(now, &Packet::Ack { block: 0 });
        leaving(transfer, now)
    };
    assert!(remind(&mut transfer, now + Duration::from_secs(1)).is_empty(), "the timer comes first");
    for _ in 0..4 {
        now = transfer.poll_timeout().unwrap();
        transfer.handle_timeout(now);
        assert_eq!(leaving(&mut transfer, now), [1, 2]);
    }
    assert!(remind(&mut transfer, now + Duration::from_millis(1)).is_empty());
    assert_eq!(remind(&mut transfer, now + Duration::from_millis(100)), [1, 2]);
    assert!(remind(&mut transfer, now + Duration::from_millis(101)).is_empty());
}

/// Returns the times of packets to a silent client, the outcome and its time.
fn silence(options: &[TransferOption<'_>]) -> (Vec<Duration>, TransferOutcome, Duration) {
    let start = Instant::now();
    let mut transfer = Transfer::new(start, MIB, options, LIMITS);
    let mut now = start;
    let mut sent = Vec::new();
    loop {
        while transfer.poll_transmit(now).is_some() {
            sent.push(now - start);
        }
        let Some(deadline) = transfer.poll_timeout() else { break };
        now = deadline;
        transfer.handle_timeout(now);
    }
    (sent, transfer.outcome().unwrap().clone(), now - start)
}

#[test]
fn silent_client_times_out() {
    let (sent, outcome, end) = silence(&[]);
    assert_eq!(sent.len(), 7);
    assert_eq!(sent[1], Duration::from_millis(250));
    assert!(sent.windows(3).all(|at| at[2] - at[1] >= at[1] - at[0]));
    assert_eq!(outcome, TransferOutcome::TimedOut);
    assert!((Duration::from_secs(10)..Duration::from_secs(20)).contains(&end), "{end:?}");
}

#[test]
fn requested_timeout_is_used() {
    let (sent, ..) = silence(&[TransferOption::Timeout(2)]);
    let expected: Vec<Duration> = (0..7).map(|n| Duration::from_secs(2 * n)).collect();
    assert_eq!(sent, expected);
}

/// The OACK to these options, as text.
fn oack(asked: &[TransferOption<'_>]) -> Option<String> {
    let now = Instant::now();
    match Transfer::new(now, 5_000_000_000, asked, LIMITS).poll_transmit(now) {
        Some(Transmit::Oack(options)) => Some(Packet::Oack(options.to_vec()).to_string()),
        _ => None,
    }
}

#[test]
fn oack_has_requested_options_only() {
    use TransferOption::{Blksize, Timeout, Tsize, Unknown, Windowsize};
    let multicast = Unknown { name: b"multicast", value: b"" };
    let text = |asked: &[TransferOption<'_>]| oack(asked).unwrap();
    assert_eq!(text(&[Tsize(0), Blksize(1408)]), "OACK tsize=5000000000 blksize=1408");
    assert_eq!(text(&[Blksize(MAX_BLKSIZE), Windowsize(65_535)]), "OACK blksize=1468 windowsize=64");
    assert_eq!(text(&[Windowsize(4), multicast, Timeout(30)]), "OACK windowsize=4 timeout=30");
    assert_eq!(text(&[Blksize(512), Blksize(1024)]), "OACK blksize=512");
    assert_eq!(oack(&[multicast, Timeout(31)]), None);
    assert_eq!(oack(&[]), None);
}

#[test]
fn size_request_ends_normally() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, MIB, &[TransferOption::Tsize(0)], LIMITS);
    assert!(transfer.poll_transmit(now).is_some());
    let message = b"User aborted the transfer";
    transfer.handle_packet(now, &Packet::Error { code: ErrorCode::OptionNegotiation, message });
    assert!(matches!(transfer.outcome(), Some(TransferOutcome::Aborted { .. })));
    assert!(transfer.poll_transmit(now).is_none());
    assert!(transfer.poll_timeout().is_none());
}

#[test]
fn next_request_ends_transfer() {
    let now = Instant::now();
    let mut small = Transfer::new(now, 5, &[], LIMITS);
    while small.poll_transmit(now).is_some() {}
    small.handle_next_request();
    assert_eq!(small.outcome(), Some(&TransferOutcome::Unconfirmed));

    let mut large = Transfer::new(now, MIB, &[], LIMITS);
    while large.poll_transmit(now).is_some() {}
    large.handle_next_request();
    assert!(matches!(large.outcome(), Some(TransferOutcome::Aborted { .. })));
    assert!(large.poll_timeout().is_none());
}

#[test]
fn last_ack_may_be_lost() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, 5, &[], LIMITS);
    while let Some(deadline) = transfer.poll_timeout() {
        while transfer.poll_transmit(deadline).is_some() {}
        transfer.handle_timeout(transfer.poll_timeout().unwrap());
    }
    assert_eq!(transfer.outcome(), Some(&TransferOutcome::Unconfirmed));
}

#[test]
fn repeated_request_is_answered_until_first_ack() {
    let now = Instant::now();
    let mut transfer = Transfer::new(now, MIB, &lockstep(), LIMITS);
    assert!(transfer.poll_transmit(now).is_some());
    transfer.handle_repeated_request(now);
    assert!(transfer.poll_transmit(now).is_none(), "the network made a copy of the request");
    let later = now + Duration::from_millis(200);
    transfer.handle_repeated_request(later);
    assert!(matches!(transfer.poll_transmit(later), Some(Transmit::Oack(_))));
    transfer.handle_packet(later, &Packet::Ack { block: 0 });
    assert_eq!(leaving(&mut transfer, later), [1]);
    transfer.handle_repeated_request(later + Duration::from_secs(1));
    assert!(leaving(&mut transfer, later + Duration::from_secs(1)).is_empty());
}

#[test]
fn repeated_request_restarts_unless_copy() {
    let (young, old) = (Duration::from_millis(500), Duration::from_secs(2));
    assert!(Progress::Unheard.covers_repeated_request(old));
    assert!(Progress::Heard.covers_repeated_request(young));
    assert!(!Progress::Heard.covers_repeated_request(old));
    assert!(!Progress::AllSent.covers_repeated_request(young));
    let (mut transfer, now) = started(&lockstep());
    assert_eq!(transfer.progress(), Progress::Heard);
    (1..=MIB / 1468).for_each(|block| {
        transfer.handle_packet(now, &Packet::Ack { block: block as u16 });
        leaving(&mut transfer, now);
    });
    assert_eq!(transfer.progress(), Progress::AllSent);
}

#[test]
fn datagrams_are_classified() {
    let refusal = |bytes: &'static [u8]| match classify(Packet::parse(&mut crate::codec::Reader::new(bytes)))
    {
        DatagramAction::Refuse(code, _) => Some(u16::from(code)),
        DatagramAction::Read(_) | DatagramAction::Ignore => None,
    };
    assert_eq!(refusal(b"\0\x01f\0octet\0"), None);
    assert_eq!(refusal(b"\0\x01f\0netascii\0"), Some(4));
    assert_eq!(refusal(b"\0\x01f\0mail\0"), Some(4));
    assert_eq!(refusal(b"\0\x02f\0octet\0"), Some(2));
    assert_eq!(refusal(b"\0\x03\0\x01x"), Some(5));
    assert_eq!(refusal(b"\0\x04\0\x01"), Some(5));
    assert_eq!(refusal(b"\0\x05\0\x01no\0"), None);
    assert_eq!(refusal(b"\0\x09"), Some(4));
    assert_eq!(
        classify_stray(Ok(Packet::Error { code: ErrorCode::NotDefined, message: b"" })),
        DatagramAction::Ignore
    );
    assert_eq!(classify_stray(Ok(Packet::Ack { block: 1 })), STRAY);
}
