use super::*;
use crate::export::{ImageRange, PageCache};
use crate::nfs::wire::NfsStatus;
use crate::stream::ReadOutcome;

fn reads(client: &Client, xids: impl IntoIterator<Item = u32>, count: u32) -> BytesMut {
    let args = client.on(AIROOTFS).u64(0).u32(count);
    let records: Vec<u8> = xids.into_iter().flat_map(|xid| nfs(xid, READ, &args)).collect();
    BytesMut::from(&records[..])
}

fn xids(batch: &Batch) -> Vec<u32> {
    replies(batch).iter().map(|reply| Reader::new(&reply.head).u32_be().unwrap()).collect()
}

#[test]
fn turn_is_bounded_and_continued() {
    let mut client = Client::new();
    let mut input = reads(&client, 0..100, 131_073);
    let mut answered = Vec::new();
    loop {
        let mut batch = Batch::default();
        let turn = client.session.handle(&client.images, &mut input, &AllCached, &mut batch);
        assert!(batch.len() <= (1 << 20) + 131_073 + 200);
        answered.extend(xids(&batch));
        client.session.sent(&input);
        match turn {
            Turn::Full => assert!(!input.is_empty()),
            turn => break assert_eq!(turn, Turn::Drained),
        }
    }
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
}

#[test]
fn turn_bounds_small_calls_and_listings() {
    let client = Client::new();
    let root = client.on(ROOT);
    let many = client.on(MANY).u64(0).u64(0).u32(u32::MAX).u32(u32::MAX);
    for (procedure, args, answered) in [(GETATTR, root, TURN_CALLS as usize), (READDIRPLUS, many, 3)] {
        let records: Vec<u8> = (0..600).flat_map(|xid| nfs(xid, procedure, &args)).collect();
        let (mut client, mut batch) = (Client::new(), Batch::default());
        let turn =
            client.session.handle(&client.images, &mut BytesMut::from(&records[..]), &AllCached, &mut batch);
        assert_eq!((turn, xids(&batch).len()), (Turn::Full, answered));
        assert!(batch.held() < TURN_HELD + DIRECTORY_MAX as usize);
    }
}

#[test]
fn batch_holds_ranges_of_one_image() {
    let mut client = Client::new();
    let identities: Vec<_> = client.images.iter().map(|served| served.image.identity).collect();
    let read = |image: usize, xid| {
        let handle = FileHandle { identity: identities[image], node: AIROOTFS };
        nfs(xid, READ, &Args::default().bytes(&handle.bytes()).u64(0).u32(4))
    };
    let getattr =
        nfs(5, GETATTR, &Args::default().bytes(&FileHandle { identity: identities[1], node: ROOT }.bytes()));
    let calls = [read(0, 1), read(0, 2), getattr, read(1, 3), read(1, 4), read(0, 6)];
    let mut input = BytesMut::from(&calls.concat()[..]);
    let turns = [(Turn::Full, vec![1, 2, 5], 0), (Turn::Full, vec![3, 4], 1), (Turn::Drained, vec![6], 0)];
    for (turn, answered, image) in turns {
        let mut batch = Batch::default();
        assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), turn);
        assert_eq!(xids(&batch), answered);
        assert_eq!(batch.image().unwrap().identity, identities[image]);
        client.session.sent(&input);
    }
    assert_eq!(client.session.totals().reads, 5, "a call that had to wait counts once");
}

#[test]
fn duplicate_of_queued_call_is_dropped() {
    let (mut client, mut batch) = (Client::new(), Batch::default());
    let mut input = reads(&client, [7, 8, 7, 9, 8], 4096);
    assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8, 9]);

    // More input before anything was sent: the replies are still queued.
    let mut input = reads(&client, [7, 10], 4096);
    assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8, 9, 10]);

    // All replies have left: the xid may be that of a new call.
    client.session.sent(&input);
    let mut batch = Batch::default();
    let mut input = reads(&client, [7, 8], 4096);
    assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8]);
    assert_eq!(client.session.totals().reads, 6, "nothing was read for a duplicate");
}

/// The client repeats its calls twice, while the first replies wait for the socket.
#[test]
fn duplicate_before_reply_left_is_dropped() {
    let mut client = Client::new();
    let calls = repeat_n(0..20, 3).flatten().chain([20]);
    let mut input = reads(&client, calls, 131_072);
    let mut answered = Vec::new();
    loop {
        let mut batch = Batch::default();
        let turn = client.session.handle(&client.images, &mut input, &AllCached, &mut batch);
        answered.extend(xids(&batch));
        client.session.sent(&input);
        if turn == Turn::Drained {
            break;
        }
    }
    assert_eq!(answered, (0..=20).collect::<Vec<_>>());

    // Calls from now on arrive after the replies have left.
    let (mut input, mut batch) = (reads(&client, [0], 4096), Batch::default());
    assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [0]);
}

#[test]
fn duplicates_belong_to_their_connection() {
    let images = images();
    for _ in 0..2 {
        let mut session = Session::new("192.0.2.1:700".parse().unwrap());
        let (mut input, mut batch) = (BytesMut::from(&nfs(7, NULL, &Args::default())[..]), Batch::default());
        assert_eq!(session.handle(&images, &mut input, &AllCached, &mut batch), Turn::Drained);
        assert_eq!(xids(&batch), [7]);
    }
}

/// A page cache that holds nothing.
struct NoneCached;

impl PageCache for NoneCached {
    fn holds(&self, _: ImageRange<'_>) -> bool {
        false
    }
}

fn turn(client: &mut Client, input: &mut BytesMut) -> (Turn<StreamError>, Vec<u32>) {
    let mut batch = Batch::default();
    let turn = client.session.handle(&client.images, input, &NoneCached, &mut batch);
    let answered = xids(&batch);
    client.session.sent(input);
    (turn, answered)
}

#[test]
fn cold_read_is_answered_when_it_was_read() {
    let mut client = Client::new();
    let mut input = reads(&client, [1, 2], 4096);
    input.extend_from_slice(&nfs(3, GETATTR, &client.on(ROOT)));
    // A duplicate of a call that waits, and a READ without bytes.
    input.extend_from_slice(&reads(&client, [2], 4096));
    input.extend_from_slice(&reads(&client, [4], 0));
    assert_eq!(turn(&mut client, &mut input), (Turn::Drained, vec![3, 4]));
    let cold = client.session.take_cold();
    assert_eq!(cold.iter().map(|cold| cold.extent.len).collect::<Vec<_>>(), [4096, 4096]);
    for (cold, xid) in cold.iter().zip([1, 2]).rev() {
        client.session.range_ended(cold.ticket, ReadOutcome::Read);
        assert_eq!(turn(&mut client, &mut input), (Turn::Drained, vec![xid]));
    }
    assert_eq!(client.session.totals(), ReadTotals { reads: 3, bytes: 2 * 4096 });
    // The reply has left, so the xid may be that of a new call.
    let mut input = reads(&client, [2], 4096);
    assert_eq!(turn(&mut client, &mut input), (Turn::Drained, vec![]));
    assert_eq!(client.session.take_cold().len(), 1);
}

#[test]
fn cold_reads_are_bounded() {
    let client = Client::new();
    let args = client.on(AIROOTFS).u64(0).u32(512);
    // Arguments that go on behind what the procedure needs.
    let long = Args([&args.0[..], &[0; 4000]].concat());
    for (args, most) in [(args, 256), (long, 33)] {
        let records: Vec<u8> = (0..300).flat_map(|xid| nfs(xid, READ, &args)).collect();
        let (mut client, mut input) = (Client::new(), BytesMut::from(&records[..]));
        assert_eq!(turn(&mut client, &mut input), (Turn::Waiting, vec![]));
        assert_eq!(client.session.take_cold().len(), most);
    }
}

#[test]
fn connection_ends_after_cold_reads() {
    let mut client = Client::new();
    let mut input = reads(&client, [1], 4096);
    input.extend_from_slice(b"\xff\xff\xff\xff");
    assert_eq!(turn(&mut client, &mut input), (Turn::Waiting, vec![]));
    let cold = client.session.take_cold();
    client.session.range_ended(cold[0].ticket, ReadOutcome::Read);
    let (end, answered) = turn(&mut client, &mut input);
    assert!(matches!(end, Turn::End(StreamError(RecordError::TooLong(_)))) && answered == [1], "{end:?}");
}

#[test]
fn unreadable_range_is_asked_for_again() {
    let mut client = Client::new();
    let mut input = reads(&client, [7], 4096);
    assert_eq!(turn(&mut client, &mut input), (Turn::Drained, vec![]));
    let cold = client.session.take_cold();
    client.session.range_ended(cold[0].ticket, ReadOutcome::Failed);
    let mut batch = Batch::default();
    client.session.handle(&client.images, &mut input, &NoneCached, &mut batch);
    let [reply] = &replies(&batch)[..] else { panic!("one reply") };
    let mut head = Reader::new(&reply.head);
    head.skip(24).unwrap();
    assert_eq!((head.u32_be(), head.u32_be()), (Ok(NfsStatus::Jukebox as u32), Ok(1)), "with attributes");
    assert_eq!((head.remaining(), reply.ranges.len()), (84, 0));
    client.session.sent(&input);
    assert_eq!(client.session.totals().reads, 0);
    // A new call, which may have the same xid.
    let mut input = reads(&client, [7], 4096);
    assert_eq!(turn(&mut client, &mut input), (Turn::Drained, vec![]));
    assert_eq!(client.session.take_cold().len(), 1);
}
