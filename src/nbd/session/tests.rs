//! Both phases as a client sees them: bytes in, bytes out. The cases are a table of hostile and odd
//! input that other servers get wrong.

use std::io::Write;
use std::sync::Arc;

use bytes::BytesMut;

use super::handshake::HandshakeError;
use super::*;
use crate::export::batch::Chunk;
use crate::export::{AllCached, Batch, Export, ImageRange, PageCache};
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source, samples};
use crate::images::{ImageSet, ServedImage};
use crate::nbd::wire::*;
use crate::stream::{ReadOutcome, ReadTotals, Turn};

const SIZE: u64 = 1 << 20;

fn images() -> Arc<ImageSet> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&vec![7; SIZE as usize]).unwrap();
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let extents = vec![Extent { offset: 4096, len: 5000 }];
    index.add(NodeId::ROOT, b"airootfs.sfs", NodeKind::File { extents }, attributes).unwrap();
    let image = Arc::new(Image::new(Source::open(file.path()).unwrap(), index).unwrap());
    Arc::new(ImageSet::new(ServedImage::new("arch-2026", image), Vec::new()))
}

/// Returns an option as a client sends it.
fn option(option: Opt, data: &[u8]) -> Vec<u8> {
    [&OPTS_MAGIC.to_be_bytes()[..], &option.0.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]
        .concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// Returns the data of INFO and GO.
fn info_request(name: &str, infos: &[Info]) -> Vec<u8> {
    let infos: Vec<u8> = infos.iter().flat_map(|info| info.0.to_be_bytes()).collect();
    [string(name.as_bytes()), ((infos.len() / 2) as u16).to_be_bytes().to_vec(), infos].concat()
}

/// Returns the data of LIST_META_CONTEXT and SET_META_CONTEXT.
fn meta_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let texts: Vec<u8> = queries.iter().flat_map(|query| string(query.as_bytes())).collect();
    [string(name.as_bytes()), (queries.len() as u32).to_be_bytes().to_vec(), texts].concat()
}

const FIXED: [u8; 4] = [0, 0, 0, 3];

/// Option replies as type and data.
type OptionReplies = Vec<(Rep, Vec<u8>)>;

/// Returns the reply to these messages, all in one segment, after the client flags.
fn haggle(messages: &[Vec<u8>]) -> (Turn<HandshakeEnd>, OptionReplies) {
    let mut input = BytesMut::from(&[&FIXED[..], &messages.concat()].concat()[..]);
    let mut out = Batch::default();
    let turn = Handshake::default().handle(&images(), &mut input, &mut out);
    (turn, replies(&bytes(&out)))
}

/// Returns the bytes of a batch without ranges.
fn bytes(batch: &Batch) -> Vec<u8> {
    let bytes = |chunk| match chunk {
        Chunk::Bytes(bytes) => bytes,
        Chunk::Image(range) => panic!("{range:?}"),
    };
    batch.chunks().flat_map(bytes).copied().collect()
}

fn replies(out: &[u8]) -> OptionReplies {
    let mut reader = crate::codec::Reader::new(out);
    let mut replies = Vec::new();
    while !reader.is_empty() {
        assert_eq!(reader.u64_be(), Ok(REP_MAGIC));
        reader.skip(4).unwrap();
        let reply = Rep(reader.u32_be().unwrap());
        let len = reader.u32_be().unwrap() as usize;
        replies.push((reply, reader.take(len).unwrap().to_vec()));
    }
    replies
}

fn kinds(replies: &[(Rep, Vec<u8>)]) -> Vec<Rep> {
    replies.iter().map(|(reply, _)| *reply).collect()
}

#[track_caller]
fn attached(turn: Turn<HandshakeEnd>) -> Attached {
    match turn {
        Turn::End(HandshakeEnd::Attached(attached)) => *attached,
        other => panic!("not attached: {other:?}"),
    }
}

#[track_caller]
fn rejected(turn: Turn<HandshakeEnd>) -> HandshakeError {
    match turn {
        Turn::End(HandshakeEnd::Rejected(error)) => error,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn archiso_hook_attaches_with_one_go() {
    // Captured from nbd-client 3.26.1: GO "archiso", no information requests.
    let (turn, replies) = haggle(&[option(Opt::GO, &info_request("archiso", &[]))]);
    assert_eq!(kinds(&replies), [Rep::INFO, Rep::ACK]);
    let flags = FLAG_HAS_FLAGS | FLAG_READ_ONLY | FLAG_CAN_MULTI_CONN | FLAG_SEND_CACHE;
    assert_eq!(replies[0].1, [&[0, 0][..], &SIZE.to_be_bytes(), &flags.to_be_bytes()].concat());
    assert_eq!(attached(turn).export.len(), SIZE);
}

#[test]
fn every_name_of_an_image_attaches() {
    let files = ["arch-2026:/airootfs.sfs", "archiso:/airootfs.sfs", ":/airootfs.sfs", ":/AIROOTFS.SFS"];
    let names = ["", "archiso", "arch-2026"].map(|name| (name, SIZE)).into_iter();
    for (name, size) in names.chain(files.map(|name| (name, 5000))) {
        let (turn, _) = haggle(&[option(Opt::GO, &info_request(name, &[]))]);
        assert_eq!(attached(turn).export.len(), size, "{name}");
    }
}

#[test]
fn unknown_name_gets_a_list_of_names() {
    let wrong =
        ["arch", "arch-2026:/missing", "arch-2026:/", "archiso:/../etc/passwd", "other:/airootfs.sfs"];
    for name in wrong {
        let again = option(Opt::GO, &info_request("archiso", &[]));
        let (turn, replies) = haggle(&[option(Opt::GO, &info_request(name, &[])), again]);
        assert_eq!(kinds(&replies), [Rep::ERR_UNKNOWN, Rep::INFO, Rep::ACK], "{name}");
        let text = String::from_utf8(replies[0].1.clone()).unwrap();
        assert_eq!(text, format!("no export named '{name}' here; there is: archiso, arch-2026"));
        attached(turn);
    }
}

#[test]
fn shown_name_is_short_and_printable() {
    let evil = format!("\x1b[2J\n{}", "x".repeat(5000));
    let (_, replies) = haggle(&[option(Opt::GO, &info_request(&evil, &[]))]);
    let text = String::from_utf8(replies[0].1.clone()).unwrap();
    assert!(text.starts_with("no export named '?[2J?xxx"));
    assert!(text.len() < 200);
}

#[test]
fn info_answers_like_go_and_haggling_continues() {
    let wanted = [Info::NAME, Info::DESCRIPTION, Info::BLOCK_SIZE, Info(99), Info::EXPORT];
    let info = option(Opt::INFO, &info_request("archiso", &wanted));
    let (turn, replies) = haggle(&[info.clone(), info, option(Opt::GO, &info_request("", &[]))]);
    let once = [Rep::INFO, Rep::INFO, Rep::INFO, Rep::INFO, Rep::ACK];
    assert_eq!(kinds(&replies), [&once[..], &once, &[Rep::INFO, Rep::ACK]].concat());
    assert_eq!(replies[1].1, b"\x00\x01archiso");
    assert_eq!(replies[3].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    attached(turn);
}

#[test]
fn list_names_whole_images() {
    let (turn, replies) = haggle(&[option(Opt::LIST, b""), option(Opt::LIST, b"x"), option(Opt::ABORT, b"")]);
    assert_eq!(kinds(&replies), [Rep::SERVER, Rep::SERVER, Rep::ACK, Rep::ERR_INVALID, Rep::ACK]);
    assert_eq!(replies[0].1, b"\0\0\0\x07archiso");
    assert_eq!(replies[1].1, b"\0\0\0\x09arch-2026");
    assert!(matches!(turn, Turn::End(HandshakeEnd::Aborted)));
}

#[test]
fn contradicting_lengths_are_invalid() {
    let name_past_end = [&u32::MAX.to_be_bytes()[..], b"archiso\0\0"].concat();
    let count_past_end = [string(b"archiso"), vec![0xff, 0xff, 0, 3]].concat();
    let too_long = [info_request("archiso", &[]), vec![0]].concat();
    for data in [name_past_end, count_past_end, too_long, Vec::new()] {
        let go = option(Opt::GO, &data);
        let (turn, replies) = haggle(&[go, option(Opt::GO, &info_request("archiso", &[]))]);
        assert_eq!(kinds(&replies), [Rep::ERR_INVALID, Rep::INFO, Rep::ACK]);
        attached(turn);
    }
}

#[test]
fn unknown_options_are_unsupported() {
    let options = [Opt::STARTTLS, Opt::EXTENDED_HEADERS, Opt(4), Opt(0), Opt(u32::MAX)];
    for opt in options {
        let (turn, replies) = haggle(&[option(opt, b"whatever")]);
        assert_eq!(kinds(&replies), [Rep::ERR_UNSUP]);
        assert!(matches!(turn, Turn::Drained));
    }
}

#[test]
fn malformed_stream_ends() {
    let huge =
        [&OPTS_MAGIC.to_be_bytes()[..], &Opt::GO.0.to_be_bytes(), &(64u32 << 20).to_be_bytes()].concat();
    assert!(matches!(rejected(haggle(&[huge]).0), HandshakeError::TooLong(Opt::GO, _)));
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    assert!(matches!(rejected(haggle(&[http]).0), HandshakeError::Malformed(NbdParseError::BadMagic(_))));
    let mut input = BytesMut::from(&[0xff, 0, 0, 3][..]);
    let turn = Handshake::default().handle(&images(), &mut input, &mut Batch::default());
    assert_eq!(rejected(turn), HandshakeError::UnknownFlags(0xff00_0003));
}

#[test]
fn export_name_reply_has_zeroes_unless_refused() {
    for (flags, len) in [([0, 0, 0, 3], 10), ([0, 0, 0, 1], 134), ([0, 0, 0, 0], 134)] {
        let mut input = BytesMut::from(&[&flags[..], &option(Opt::EXPORT_NAME, b"archiso")].concat()[..]);
        let mut out = Batch::default();
        attached(Handshake::default().handle(&images(), &mut input, &mut out));
        assert_eq!(out.len(), len);
    }
    let (turn, replies) = haggle(&[option(Opt::EXPORT_NAME, b"nope")]);
    assert_eq!(rejected(turn).to_string(), "no export named 'nope'");
    assert_eq!(replies, []);
}

#[test]
fn old_style_clients_have_one_option() {
    let mut input = BytesMut::from(&[&[0, 0, 0, 0][..], &option(Opt::LIST, b"")].concat()[..]);
    let turn = Handshake::default().handle(&images(), &mut input, &mut Batch::default());
    assert_eq!(rejected(turn), HandshakeError::NotFixed(Opt::LIST));
}

#[test]
fn handshake_may_arrive_byte_by_byte() {
    let go = [&FIXED[..], &option(Opt::GO, &info_request("archiso", &[])), b"first request"].concat();
    let images = images();
    let mut session = Handshake::default();
    let (mut input, mut out) = (BytesMut::new(), Batch::default());
    for (sent, byte) in go.iter().enumerate() {
        input.extend_from_slice(&[*byte]);
        match session.handle(&images, &mut input, &mut out) {
            Turn::Drained => assert!(sent < go.len() - 14),
            turn => {
                attached(turn);
                return assert_eq!(sent, go.len() - 14);
            }
        }
    }
}

#[test]
fn thousand_lists_are_answered_in_turns() {
    let lists = vec![option(Opt::LIST, b""); 1000];
    let mut input = BytesMut::from(&[&FIXED[..], &lists.concat()].concat()[..]);
    let images = images();
    let mut session = Handshake::default();
    let mut answered = 0;
    for _ in 0..100 {
        let mut out = Batch::default();
        session.handle(&images, &mut input, &mut out);
        assert!(out.len() < 128 << 10, "a client that only asks cannot make the server hoard replies");
        answered += kinds(&replies(&bytes(&out))).iter().filter(|&&reply| reply == Rep::ACK).count();
    }
    assert_eq!(answered, 1000);
}

#[test]
fn allocation_context_belongs_to_one_export() {
    let set = |name| option(Opt::SET_META_CONTEXT, &meta_request(name, &["base:allocation"]));
    let (_, replies) = haggle(&[set("archiso")]);
    assert_eq!(kinds(&replies), [Rep::ERR_INVALID]);

    let structured = option(Opt::STRUCTURED_REPLY, b"");
    let go = option(Opt::GO, &info_request("archiso", &[]));
    let (turn, replies) = haggle(&[structured.clone(), set("archiso"), go.clone()]);
    assert_eq!(kinds(&replies), [Rep::ACK, Rep::META_CONTEXT, Rep::ACK, Rep::INFO, Rep::ACK]);
    assert_eq!(replies[1].1, b"\0\0\0\x01base:allocation");
    assert_eq!(attached(turn).transmission.replies(), Replies::StructuredWithAllocation);

    let (turn, _) = haggle(&[structured.clone(), set("arch-2026"), go.clone()]);
    assert_eq!(attached(turn).transmission.replies(), Replies::Structured);
    let forget = option(Opt::SET_META_CONTEXT, &meta_request("archiso", &["qemu:dirty-bitmap:x"]));
    let (turn, _) = haggle(&[structured, set("archiso"), forget, go]);
    assert_eq!(attached(turn).transmission.replies(), Replies::Structured);
}

#[test]
fn contexts_are_listed() {
    let list = |queries| option(Opt::LIST_META_CONTEXT, &meta_request("archiso", queries));
    for queries in [&[][..], &["base:"], &["x:y", "base:allocation"]] {
        assert_eq!(kinds(&haggle(&[list(queries)]).1), [Rep::META_CONTEXT, Rep::ACK]);
    }
    assert_eq!(kinds(&haggle(&[list(&["x:"])]).1), [Rep::ACK]);
    let many = [string(b"archiso"), u32::MAX.to_be_bytes().to_vec()].concat();
    assert_eq!(kinds(&haggle(&[option(Opt::LIST_META_CONTEXT, &many)]).1), [Rep::ERR_INVALID]);
}

// ---- transmission ----

fn transmission(replies: Replies) -> Transmission {
    Transmission::new(replies)
}

fn export() -> Export {
    Export::whole(&samples::image(SIZE, []))
}

fn request(command: Cmd, flags: u16, offset: u64, len: u32) -> Vec<u8> {
    let cookie = 0x1122_3344_5566_7788_u64.to_be_bytes();
    let numbers = [
        REQUEST_MAGIC.to_be_bytes(),
        [flags.to_be_bytes(), command.0.to_be_bytes()].concat().try_into().unwrap(),
    ];
    [&numbers.concat()[..], &cookie, &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

/// Returns the turn, and the replies as hex with ranges as `[offset+len]`.
fn transmit(session: &mut Transmission, requests: &[Vec<u8>]) -> (Turn<TransmissionEnd>, String) {
    transmit_of(&export(), session, requests)
}

fn transmit_of(
    export: &Export,
    session: &mut Transmission,
    requests: &[Vec<u8>],
) -> (Turn<TransmissionEnd>, String) {
    let mut batch = Batch::default();
    let turn = session.handle(export, &mut BytesMut::from(&requests.concat()[..]), &AllCached, &mut batch);
    (turn, shown(&batch))
}

fn shown(batch: &Batch) -> String {
    let show = |chunk: Chunk<'_>| match chunk {
        Chunk::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        Chunk::Image(range) => format!("[{}+{}]", range.offset(), range.len()),
    };
    batch.chunks().map(show).collect()
}

/// Returns a simple reply to [`request`]'s cookie.
fn simple(error: u32) -> String {
    format!("67446698{error:08x}1122334455667788")
}

/// Returns the header and payload of an only chunk.
fn chunk(kind: u16, payload: &str) -> String {
    format!("668e33ef0001{kind:04x}1122334455667788{:08x}{payload}", payload.len() / 2)
}

#[test]
fn reads_are_answered_in_one_batch() {
    let read = |offset| request(Cmd::READ, 0, offset, 4096);
    let (turn, replies) = transmit(&mut transmission(Replies::Simple), &[read(2048), read(0)]);
    assert_eq!(turn, Turn::Drained);
    assert_eq!(replies, format!("{0}[2048+4096]{0}[0+4096]", simple(0)));
}

#[test]
fn structured_reads_are_one_chunk() {
    let mut session = transmission(Replies::Structured);
    let (_, replies) = transmit(&mut session, &[request(Cmd::READ, CMD_FLAG_DF, 2048, 512)]);
    assert_eq!(
        replies,
        "668e33ef00010001112233445566778800000208\
                         0000000000000800[2048+512]"
    );
    let (_, replies) = transmit(&mut session, &[request(Cmd::READ, 0, 2048, 0)]);
    assert_eq!(replies, chunk(0, ""));
}

#[test]
fn last_byte_is_the_end_of_reads() {
    let mut session = transmission(Replies::Simple);
    let ok = [request(Cmd::READ, 0, SIZE - 1, 1), request(Cmd::READ, 0, SIZE, 0)];
    assert_eq!(transmit(&mut session, &ok).1, format!("{0}[{1}+1]{0}", simple(0), SIZE - 1));
    for (offset, len) in [(SIZE - 1, 2), (SIZE, 1), (u64::MAX, 1), (u64::MAX - 4095, 4096), (0, u32::MAX)] {
        assert_eq!(
            transmit(&mut session, &[request(Cmd::READ, 0, offset, len)]).1,
            simple(22),
            "{offset}+{len}"
        );
    }
}

#[test]
fn longest_read_is_32_mebibytes() {
    let huge = Export::whole(&samples::image(2 * u64::from(READ_MAX), []));
    let mut session = transmission(Replies::Simple);
    let (turn, replies) = transmit_of(&huge, &mut session, &[request(Cmd::READ, 0, 0, READ_MAX)]);
    assert_eq!((turn, replies), (Turn::Full, format!("{}[0+33554432]", simple(0))));
    let (turn, replies) = transmit_of(&huge, &mut session, &[request(Cmd::READ, 0, 0, READ_MAX + 1)]);
    assert_eq!((turn, replies), (Turn::Drained, simple(22)));
}

#[test]
fn write_is_refused_and_its_payload_swallowed() {
    let mut session = transmission(Replies::Simple);
    let write = [request(Cmd::WRITE, 0, 0, 10_000), vec![0xaa; 9_999]].concat();
    assert_eq!(transmit(&mut session, &[write]), (Turn::Drained, simple(1)));
    let rest = [vec![0xaa], request(Cmd::READ, 0, 0, 512)];
    assert_eq!(transmit(&mut session, &rest).1, format!("{}[0+512]", simple(0)));
    let others = [request(Cmd::TRIM, 0, 0, 512), request(Cmd::WRITE_ZEROES, 0, 0, 512)];
    assert_eq!(transmit(&mut session, &others).1, simple(1).repeat(2));
    let flood = request(Cmd::WRITE, 0, 0, u32::MAX);
    assert_eq!(transmit(&mut session, &[flood]).0, Turn::End(TransmissionEnd::Flooded { len: u32::MAX }));
}

#[test]
fn structured_error_has_a_text() {
    let mut session = transmission(Replies::Structured);
    let text = "the export is read-only";
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let payload = format!("00000001{:04x}{hex}", text.len());
    assert_eq!(transmit(&mut session, &[request(Cmd::TRIM, 0, 0, 1)]).1, chunk(0x8001, &payload));
}

#[test]
fn unknown_command_is_invalid() {
    let mut session = transmission(Replies::Simple);
    for (command, flags) in [(Cmd(8), 0), (Cmd(0xffff), 0), (Cmd::READ, 1 << 15), (Cmd::CACHE, 1)] {
        let requests = [request(command, flags, 0, 512), request(Cmd::FLUSH, 0, 0, 0)];
        assert_eq!(transmit(&mut session, &requests), (Turn::Drained, simple(22) + &simple(0)));
    }
}

#[test]
fn every_block_is_allocated() {
    let mut session = transmission(Replies::StructuredWithAllocation);
    let status = request(Cmd::BLOCK_STATUS, CMD_FLAG_REQ_ONE, 512, 4096);
    assert_eq!(transmit(&mut session, std::slice::from_ref(&status)).1, chunk(5, "000000010000100000000000"));
    for replies in [Replies::Simple, Replies::Structured] {
        let answer = transmit(&mut transmission(replies), std::slice::from_ref(&status)).1;
        assert!(answer.contains("00000016"), "EINVAL without a context");
    }
    for (offset, len) in [(0, 0), (SIZE, 1)] {
        let answer = transmit(&mut session, &[request(Cmd::BLOCK_STATUS, 0, offset, len)]).1;
        assert!(answer.starts_with("668e33ef00018001"));
    }
}

#[test]
fn cache_command_ends_the_turn() {
    let mut session = transmission(Replies::Simple);
    let (turn, replies) = transmit(&mut session, &[request(Cmd::CACHE, 0, 512, 1024)]);
    assert_eq!((turn, replies), (Turn::Full, simple(0)));
    assert_eq!((session.take_prefetch(), session.take_prefetch()), (Some((512, 1024)), None));
    assert_eq!(transmit(&mut session, &[request(Cmd::CACHE, 0, SIZE, 1)]).0, Turn::Drained);
    assert_eq!(session.take_prefetch(), None);
}

#[test]
fn replies_leave_before_a_disconnect() {
    let read = request(Cmd::READ, 0, 0, 512);
    let (turn, replies) =
        transmit(&mut transmission(Replies::Simple), &[read.clone(), request(Cmd::DISC, 0, 0, 0), read]);
    assert_eq!((turn, replies), (Turn::End(TransmissionEnd::Disconnected), simple(0) + "[0+512]"));
}

#[test]
fn wrong_magic_breaks_the_stream() {
    let (turn, replies) = transmit(&mut transmission(Replies::Simple), &[vec![0; 28]]);
    assert_eq!(
        (turn, replies),
        (Turn::End(TransmissionEnd::Broken(NbdParseError::BadMagic(0))), String::new())
    );
}

#[test]
fn turn_is_bounded() {
    let large = vec![request(Cmd::READ, 0, 0, 1 << 19); 5];
    let mut input = BytesMut::from(&large.concat()[..]);
    let mut session = transmission(Replies::Simple);
    let mut turns = Vec::new();
    while turns.last() != Some(&Turn::Drained) {
        let mut batch = Batch::default();
        turns.push(session.handle(&export(), &mut input, &AllCached, &mut batch));
        assert!(batch.len() < 3 << 19);
    }
    assert_eq!(turns, [Turn::Full, Turn::Full, Turn::Drained]);
    let many = vec![request(Cmd::FLUSH, 0, 0, 0); 600];
    assert_eq!(transmit(&mut session, &many).0, Turn::Full);
    assert_eq!(session.totals(), ReadTotals { reads: 5, bytes: 5 << 19 });
}

/// A page cache that holds the first half of the export.
struct FirstHalf;

impl PageCache for FirstHalf {
    fn holds(&self, range: ImageRange<'_>) -> bool {
        range.extent().end() <= SIZE / 2
    }
}

/// A client whose export is partly on the disk.
struct Cold {
    export: Export,
    session: Transmission,
    input: BytesMut,
}

impl Cold {
    fn new(replies: Replies, requests: &[Vec<u8>]) -> Self {
        let input = BytesMut::from(&requests.concat()[..]);
        Self { export: export(), session: transmission(replies), input }
    }

    fn turn(&mut self) -> (Turn<TransmissionEnd>, String) {
        let mut batch = Batch::default();
        let turn = self.session.handle(&self.export, &mut self.input, &FirstHalf, &mut batch);
        (turn, shown(&batch))
    }

    /// Tickets and offsets of the ranges that are to be read.
    fn cold(&mut self) -> Vec<(u64, u64)> {
        self.session.take_cold().iter().map(|cold| (cold.ticket, cold.extent.offset)).collect()
    }
}

const COLD: u64 = SIZE / 2;

#[test]
fn cold_read_is_answered_when_it_was_read() {
    for replies in [Replies::Simple, Replies::Structured] {
        let read = |offset| request(Cmd::READ, 0, offset, 512);
        let alone = |offset| transmit(&mut transmission(replies), &[read(offset)]).1;
        let mut client = Cold::new(replies, &[read(COLD), read(0), read(COLD + 4096), read(512)]);
        assert_eq!(client.turn(), (Turn::Drained, alone(0) + &alone(512)));
        let cold = client.cold();
        assert_eq!(cold.iter().map(|cold| cold.1).collect::<Vec<_>>(), [COLD, COLD + 4096]);
        assert_eq!((client.turn(), client.cold()), ((Turn::Drained, String::new()), Vec::new()));
        client.session.range_ended(cold[1].0, ReadOutcome::Read);
        assert_eq!(client.turn(), (Turn::Drained, alone(COLD + 4096)));
        client.session.range_ended(cold[0].0, ReadOutcome::Read);
        assert_eq!(client.turn(), (Turn::Drained, alone(COLD)));
        assert_eq!(client.session.totals(), ReadTotals { reads: 4, bytes: 4 * 512 });
    }
}

#[test]
fn phase_ends_after_cold_reads() {
    let flood = request(Cmd::WRITE, 0, 0, READ_MAX + 1);
    let ends = [
        (request(Cmd::DISC, 0, 0, 0), TransmissionEnd::Disconnected),
        (vec![0; 28], TransmissionEnd::Broken(NbdParseError::BadMagic(0))),
        (flood, TransmissionEnd::Flooded { len: READ_MAX + 1 }),
    ];
    for (last, end) in ends {
        let mut client = Cold::new(Replies::Simple, &[request(Cmd::READ, 0, COLD, 512), last]);
        assert_eq!(client.turn(), (Turn::Waiting, String::new()));
        let cold = client.cold();
        client.session.range_ended(cold[0].0, ReadOutcome::Read);
        assert_eq!(client.turn(), (Turn::End(end), format!("{}[{COLD}+512]", simple(0))));
    }
}

#[test]
fn cold_reads_are_bounded() {
    let many = (0..300).map(|n| request(Cmd::READ, 0, COLD + n * 512, 512)).collect::<Vec<_>>();
    let mut client = Cold::new(Replies::Simple, &many);
    assert_eq!(client.turn().0, Turn::Waiting);
    let mut cold = client.cold();
    assert_eq!(cold.len(), 256);
    let mut answered = 0;
    while let Some((ticket, _)) = cold.pop() {
        client.session.range_ended(ticket, ReadOutcome::Read);
        let (turn, replies) = client.turn();
        answered += replies.matches('[').count();
        cold.extend(client.cold());
        assert_eq!(
            turn,
            if client.input.is_empty() && cold.len() < 256 { Turn::Drained } else { Turn::Waiting }
        );
    }
    assert_eq!(answered, 300);
}

#[test]
fn unreadable_range_is_an_error() {
    let mut client = Cold::new(Replies::Simple, &[request(Cmd::READ, 0, COLD, 512)]);
    client.turn();
    let cold = client.cold();
    client.session.range_ended(cold[0].0, ReadOutcome::Failed);
    assert_eq!(client.turn(), (Turn::Drained, simple(5)));
    assert_eq!(client.session.totals().reads, 0);
}
