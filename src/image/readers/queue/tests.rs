//! The queue with a clock of the test's own: turns, failures, reads that hang.

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const fn extent(offset: u64) -> Extent {
    Extent { offset, len: 1 }
}

/// A client, and the queue in which its reads end.
struct Client(ReadClient, UnboundedReceiver<ReadDone>);

impl Client {
    fn new(patience: Patience) -> Self {
        let (client, done) = ReadClient::new(patience);
        Self(client, done)
    }

    fn ask(&self, queue: &mut Queue, offset: u64, now: Instant) -> bool {
        let Self(client, _) = self;
        let waiter = Waiter { done: client.done.clone(), number: offset, patience: client.patience };
        queue.add(extent(offset), client.id, waiter, now)
    }

    /// Returns the reads that have ended, and whether each succeeded.
    fn told(&mut self) -> Vec<(u64, bool)> {
        let Self(_, done) = self;
        std::iter::from_fn(|| done.try_recv().ok()).map(|done| (done.number, done.result.is_ok())).collect()
    }
}

fn order(queue: &mut Queue, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop(now)).map(|extent| extent.offset).collect()
}

fn eio() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EIO))
}

#[test]
fn clients_are_served_in_turn() {
    let [greedy, modest] = [(); 2].map(|()| Client::new(Patience::Waits));
    let (mut queue, now) = (Queue::default(), Instant::now());
    (0..4).for_each(|offset| assert!(greedy.ask(&mut queue, offset, now)));
    (10..12).for_each(|offset| assert!(modest.ask(&mut queue, offset, now)));
    assert!(!modest.ask(&mut queue, 3, now), "it is read already");
    assert_eq!(order(&mut queue, now), [0, 10, 1, 11, 2, 3]);
    assert!(queue.of_client.is_empty() && queue.turns.is_empty() && queue.queued == 0);
}

#[test]
fn read_of_a_client_that_left_is_not_begun() {
    let [gone, here] = [(); 2].map(|()| Client::new(Patience::Waits));
    let (mut queue, now) = (Queue::default(), Instant::now());
    (0..3).for_each(|offset| assert!(gone.ask(&mut queue, offset, now)));
    here.ask(&mut queue, 1, now);
    drop(gone);
    assert_eq!(order(&mut queue, now), [1]);
    assert_eq!(queue.reads.len(), 1);
}

#[test]
fn hints_are_bounded() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    assert_eq!((0..1000).filter(|&offset| queue.add_hint(extent(offset))).count(), HINTS);
    assert_eq!(order(&mut queue, now).len(), HINTS);
    assert!(queue.add_hint(extent(5000)) && !queue.add_hint(extent(0)), "the first is under way");
}

#[test]
fn failed_read_is_repeated_until_it_succeeds() {
    let mut client = Client::new(Patience::Waits);
    let (mut queue, mut now) = (Queue::default(), Instant::now());
    client.ask(&mut queue, 7, now);
    let mut pauses = Vec::new();
    for n in 0..9 {
        assert_eq!(order(&mut queue, now), [7]);
        let change = queue.end(extent(7), eio(), now);
        let text = "Input/output error (os error 5), at byte 7".to_owned();
        assert_eq!(change, (n == 0).then_some(Change::Fault(text)), "told once");
        assert_eq!(queue.pop(now), None);
        let retry = queue.next_retry().unwrap();
        pauses.push((retry - now).as_millis());
        now = retry;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    assert_eq!((client.told(), order(&mut queue, now)), (vec![], vec![7]));
    assert_eq!(queue.end(extent(7), Ok(()), now), Some(Change::Over(21)));
    assert_eq!(client.told(), [(7, true)]);
    assert!(queue.reads.is_empty() && queue.fault().is_none());
}

#[test]
fn impatient_client_is_told_of_each_failure() {
    let mut client = Client::new(Patience::AsksAgain);
    let (mut queue, now) = (Queue::default(), Instant::now());
    client.ask(&mut queue, 7, now);
    assert_eq!(order(&mut queue, now), [7]);
    queue.end(extent(7), eio(), now);
    assert!(!client.ask(&mut queue, 7, now));
    assert_eq!(client.told(), [(7, false), (7, false)]);
    // Nobody waits, so the next try is far away; one who asks brings it about.
    let later = now + 2 * SECOND;
    assert_eq!(queue.next_retry(), Some(now + PROBE_PAUSE));
    assert!(client.ask(&mut queue, 7, later));
    assert_eq!((client.told(), order(&mut queue, later)), (vec![], vec![7]));
    queue.end(extent(7), Ok(()), later);
    assert_eq!(client.told(), [(7, true)]);
}

#[test]
fn fault_is_over_when_all_reads_succeed() {
    let client = Client::new(Patience::Waits);
    let (mut queue, now) = (Queue::default(), Instant::now());
    let [first, second, third] = [1, 2, 3].map(|region| region << REGION_BITS);
    for offset in [first, second, third] {
        client.ask(&mut queue, offset, now);
    }
    assert_eq!(order(&mut queue, now), [first, second, third]);
    assert!(queue.end(extent(first), eio(), now).is_some());
    assert!(queue.end(extent(second), eio(), now).is_none());
    assert!(queue.end(extent(third), Ok(()), now).is_none(), "others still fail");
    assert_eq!(order(&mut queue, now + SECOND), [first, second]);
    assert!(queue.end(extent(first), Ok(()), now + SECOND).is_none());
    assert_eq!(queue.end(extent(second), Ok(()), now + SECOND), Some(Change::Over(1)));
}

#[test]
fn hanging_reader_is_replaced() {
    let (mut waiting, mut asking) = (Client::new(Patience::Waits), Client::new(Patience::AsksAgain));
    let (mut queue, now) = (Queue::default(), Instant::now());
    waiting.ask(&mut queue, 1, now);
    asking.ask(&mut queue, 1, now);
    queue.reader_began();
    assert_eq!(order(&mut queue, now), [1]);
    assert_eq!(queue.check(now + SECOND), None);
    let late = now + HANGS_AFTER;
    assert!(matches!(queue.check(late), Some(Change::Fault(text)) if text.contains("no answer")));
    assert_eq!((waiting.told(), asking.told()), (vec![], vec![(1, false)]));
    assert_eq!((queue.readers(), queue.active_readers()), (1, 0));
    // Its neighbour is put off, another range is not.
    waiting.ask(&mut queue, 2, late);
    waiting.ask(&mut queue, 5 << REGION_BITS, late);
    assert_eq!(order(&mut queue, late), [5 << REGION_BITS]);
    assert_eq!(queue.end(extent(5 << REGION_BITS), Ok(()), late), None);
    assert_eq!(queue.end(extent(1), Ok(()), late), None, "the neighbour has yet to be read");
    assert_eq!(order(&mut queue, late + SECOND), [2]);
    assert!(queue.end(extent(2), Ok(()), late + SECOND).is_some());
    assert_eq!((queue.readers(), queue.active_readers()), (1, 1));
}

#[test]
fn region_has_one_reader_while_there_is_a_fault() {
    let client = Client::new(Patience::Waits);
    let (mut queue, now) = (Queue::default(), Instant::now());
    let at = |region: u64, offset: u64| region << REGION_BITS | offset;
    client.ask(&mut queue, at(0, 1), now);
    assert_eq!(order(&mut queue, now), [1]);
    let late = now + HANGS_AFTER;
    assert!(queue.check(late).is_some());
    let asked = [at(1, 1), at(1, 2), at(2, 1), at(1, 3), at(2, 2)];
    asked.iter().for_each(|&offset| assert!(client.ask(&mut queue, offset, late)));
    assert_eq!(order(&mut queue, late), [at(1, 1), at(2, 1)]);
    queue.end(extent(at(1, 1)), Ok(()), late);
    assert_eq!(order(&mut queue, late + PAUSE), [at(1, 2)]);
}

#[test]
fn surplus_readers_end() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    (0..=READERS).for_each(|_| queue.reader_began());
    queue.hanging.push(extent(1));
    assert!(!queue.is_superfluous(false) && queue.is_superfluous(true));
    queue.end(extent(1), Ok(()), now);
    assert!(queue.is_superfluous(false), "the one that hung was replaced");
    (0..READERS).for_each(|_| queue.reader_ended());
    assert!(!queue.is_superfluous(true), "another one may not be had");
    queue.close();
    assert!(queue.is_superfluous(false));
}

#[test]
fn client_gives_up_once_for_all() {
    let client = Client::new(Patience::Waits);
    let (mut queue, now) = (Queue::default(), Instant::now());
    for offset in [1, 2] {
        client.ask(&mut queue, offset, now);
    }
    assert_eq!(queue.give_up(extent(1), &client.0.done, 1), Some(Change::GivenUp));
    assert_eq!(queue.give_up(extent(2), &client.0.done, 2), None);
    assert_eq!(order(&mut queue, now), [] as [u64; 0]);
}

#[test]
fn boot_list_comes_after_all_who_wait() {
    let client = Client::new(Patience::Waits);
    let (mut queue, now) = (Queue::default(), Instant::now());
    let list: Vec<_> = (100..200).map(extent).collect();
    assert_eq!(queue.add_listed(&list, now), AT_ONCE);
    assert_eq!(queue.add_listed(&list, now), 0, "it is gone through already");
    client.ask(&mut queue, 1, now);
    assert!(queue.add_hint(extent(2)));
    let first: Vec<u64> = [1, 2].into_iter().chain(100..).take(2 + AT_ONCE).collect();
    assert_eq!(order(&mut queue, now), first, "and some at a time");
    assert!(queue.is_listed(extent(100)) && !queue.is_listed(extent(1)));
    queue.end(extent(100), Ok(()), now);
    client.ask(&mut queue, 3, now);
    // One that a client waits for is not read twice.
    client.ask(&mut queue, 109, now);
    queue.end(extent(101), Ok(()), now);
    assert_eq!(order(&mut queue, now), [3, 109, 108, 110]);
    queue.stop_listed();
    for offset in 100..111 {
        queue.end(extent(offset), Ok(()), now);
    }
    assert_eq!(queue.pop(now), None);
    assert_eq!(queue.add_listed(&list, now + 59 * SECOND), 0);
    assert_eq!(queue.add_listed(&list[..2], now + 60 * SECOND), 2);
}

#[test]
fn boot_list_ends_with_a_fault() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let list: Vec<_> = (0..100).map(extent).collect();
    queue.add_listed(&list, now);
    assert_eq!(order(&mut queue, now).len(), AT_ONCE);
    assert!(queue.end(extent(0), eio(), now).is_some());
    (1..AT_ONCE as u64).for_each(|offset| drop(queue.end(extent(offset), Ok(()), now)));
    assert_eq!(queue.pop(now), None);
    assert_eq!(queue.add_listed(&list, now + 100 * SECOND), 0, "until it is over");
    assert_eq!(order(&mut queue, now + PROBE_PAUSE), [0]);
    assert!(queue.end(extent(0), Ok(()), now).is_some());
    assert_eq!(queue.add_listed(&list, now + 100 * SECOND), AT_ONCE);
}
