//! Properties of HTTP requests, answers and ranges.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use jiff::Timestamp;

use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
use crate::boot::operator_path::is_served;
use crate::boot::{BootConfig, Files, Mac, Ports, Requester};
use crate::bootable::Root;
use crate::export::Batch;
use crate::export::batch::Chunk;
use crate::http::session::{Backend, Finished, NotItsAddressError, Resources, Session};
use crate::http::wire::range::{RANGES_MAX, RequestedRanges, wanted};
use crate::http::wire::{HttpRequest, Method};
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source};
use crate::images::{ImageSet, ServedImage};
use crate::machines::UpReport;
use crate::machines::up::is_host_name;
use crate::provision::{FileCall, OperatorFileError};
use crate::stream::Turn;

/// The file `f` of the image `i`, and `f` of the image `j`.
const FILES: [Extent; 2] = [Extent { offset: 4096, len: 5000 }, Extent { offset: 65_536, len: 2 << 20 }];

/// Most bytes of answers in memory at a time: the limit of a turn, and one answer on top.
const MEMORY_MAX: usize = 160 << 10;

/// Checks that complete requests get well-formed answers and the rest gets none, whatever a client
/// sends and however it is cut into segments.
pub fn request(data: &[u8]) {
    answers(data);
    // Byte by byte, unless that takes too long.
    let [at_once, in_pieces] = [usize::MAX, 1 + data.len() / 512].map(|segment| converse(data, segment));
    assert_eq!(at_once, in_pieces);
}

/// Handles the requests one by one, and checks each answer.
fn answers(data: &[u8]) {
    let mut session = session();
    let mut input = BytesMut::from(data);
    loop {
        let (before, method) = (input.len(), next_method(&input));
        let mut batch = Batch::default();
        let turn = session.handle_one(&RESOURCES, &mut input, Timestamp::UNIX_EPOCH, &mut batch);
        if !batch.is_empty() {
            check_answer(&batch, method);
        }
        match turn {
            Some(Turn::Drained) => {
                assert!(batch.is_empty());
                return assert!(input.is_empty() || is_incomplete(&input));
            }
            Some(Turn::End(Finished)) => return assert!(!batch.is_empty()),
            _ => assert!(input.len() < before || !batch.is_empty()),
        }
    }
}

/// Returns true if the head of a request is not complete, or the content that it needs.
fn is_incomplete(input: &[u8]) -> bool {
    match HttpRequest::parse(input) {
        Ok(Some((request, len))) => {
            request.method == Method::Post && ((input.len() - len) as u64) < request.content
        }
        parsed => matches!(parsed, Ok(None)),
    }
}

/// A backend that knows every machine.
#[derive(Debug)]
struct AllMachines;

impl Backend for AllMachines {
    fn machine_up(&self, _: Option<Mac>, _: Requester, report: UpReport) -> Result<(), NotItsAddressError> {
        let names = report.host_name.iter().all(|name| is_host_name(name));
        assert!(names && report.host_keys.len() <= 8, "{report:?}");
        Ok(())
    }

    fn operator_file(&self, call: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError> {
        let names = &call.path.names;
        assert!(!names.is_empty() && names.iter().all(|name| is_served(name)), "{call:?}");
        assert!([&call.serial, &call.uuid].iter().all(|text| text.len() <= 128), "{call:?}");
        Ok(names.join("/").into_bytes())
    }
}

fn next_method(input: &[u8]) -> Option<Method> {
    Some(HttpRequest::parse(input).ok()??.0.method)
}

fn check_answer(batch: &Batch, method: Option<Method>) {
    let Some(Chunk::Bytes(start)) = batch.chunks().next() else { panic!("an answer begins with its head") };
    let end = start.windows(4).position(|end| end == b"\r\n\r\n").expect("a head ends");
    let head = str::from_utf8(&start[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
    let (code, reason) = status.split_once(' ').expect("a code and a reason");
    assert!(code.len() == 3 && code.parse::<u16>().is_ok() && !reason.is_empty(), "{status}");
    let fields: Vec<_> = lines.map(|line| line.split_once(": ").expect("a name and a value")).collect();
    for (name, value) in &fields {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{head}");
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')) && value.len() <= 1023, "{head}");
    }
    assert_eq!(fields.last().map(|(name, _)| *name), Some("Date"), "lpxelinux misses the last field");
    let length = fields.iter().find(|(name, _)| *name == "Content-Length").map(|(_, value)| *value);
    let content = batch.len() - (end as u64 + 4);
    match (length, method) {
        (None, _) => assert!(code == "304" && content == 0, "{head}"),
        (Some(_), Some(Method::Head)) => assert_eq!(content, 0, "{head}"),
        (Some(length), _) => assert_eq!(length.parse(), Ok(content), "{head}"),
    }
}

/// Feeds a session in segments; returns its answers (a range as its numbers), and true if it
/// closed.
fn converse(data: &[u8], segment: usize) -> (Vec<u8>, bool) {
    let mut session = session();
    let (mut said, mut input) = (Vec::new(), BytesMut::new());
    for bytes in data.chunks(segment.min(data.len()).max(1)) {
        input.extend_from_slice(bytes);
        loop {
            let mut batch = Batch::default();
            let turn = session.handle(&RESOURCES, &mut input, Timestamp::UNIX_EPOCH, &mut batch);
            let memory: usize = batch.chunks().map(|chunk| record(chunk, &mut said)).sum();
            assert!(memory <= MEMORY_MAX);
            match turn {
                Turn::Drained => break,
                Turn::Full => {}
                Turn::Waiting => panic!("nothing waits"),
                Turn::End(Finished) => return (said, true),
            }
        }
    }
    (said, false)
}

/// Records a chunk, and returns how much memory it takes.
fn record(chunk: Chunk<'_>, said: &mut Vec<u8>) -> usize {
    match chunk {
        Chunk::Bytes(bytes) => {
            said.extend_from_slice(bytes);
            bytes.len()
        }
        Chunk::Image(range) => {
            let end = range.offset() + range.len();
            assert!(FILES.iter().any(|file| range.offset() >= file.offset && end <= file.end()));
            said.extend_from_slice(&range.offset().to_be_bytes());
            said.extend_from_slice(&range.len().to_be_bytes());
            0
        }
    }
}

fn session() -> Session {
    Session::new(Ipv4Addr::new(10, 0, 0, 1))
}

static RESOURCES: LazyLock<Resources> = LazyLock::new(resources);

/// Two images without bytes: a session never reads any.
fn resources() -> Resources {
    let [default, other] =
        ["i", "j"].into_iter().zip(FILES).map(image).collect::<Vec<_>>().try_into().unwrap();
    let images = Arc::new(ImageSet::new(default, vec![other]));
    let settings = MenuSettings {
        roots: vec![Root::Nbd],
        copytoram: CopyToRam::Auto,
        timeout: 0,
        cms: Cms::Verify,
        parameters: Vec::new(),
    };
    let ports = Ports { tftp: 69, http: Some(80) };
    let files = Files::new(images, BootConfig::new(settings, ports)).expect("names of their own");
    Resources::with_backend(Arc::new(files), Arc::new(AllMachines))
}

fn image((name, file): (&str, Extent)) -> ServedImage {
    let source = Source::open(Path::new("/dev/null")).expect("/dev/null opens");
    let attributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: 784_111_777 };
    let mut index = Index::new(attributes);
    let nodes: [(&[u8], NodeKind); 3] = [
        (b"f", NodeKind::File { extents: vec![file] }),
        (b"empty.efi", NodeKind::File { extents: Vec::new() }),
        (b"d", NodeKind::Directory { entries: Vec::new() }),
    ];
    for (name, kind) in nodes {
        index.add(NodeId::ROOT, name, kind, attributes).expect("a good name");
    }
    let image = Image::new(source, index).expect("nothing to read");
    ServedImage::new(name, image)
}

/// Compares the meaning of a range field with a naive reading. The first byte is the length of the
/// file.
pub fn range(data: &[u8]) {
    let Some((&len, field)) = data.split_first() else { return };
    let len = usize::from(len);
    let (parts, bytes) = match (wanted(field, len as u64), expected(field, len)) {
        (RequestedRanges::Whole, None) => return,
        (RequestedRanges::Nothing, Some(bytes)) => return assert!(!bytes.contains(&true)),
        (RequestedRanges::Parts(parts), Some(bytes)) => (parts, bytes),
        (wanted, expected) => panic!("{wanted:?} instead of {expected:?}"),
    };
    let mut sent = vec![0; len];
    for part in &parts {
        sent[part.start as usize..part.end as usize].iter_mut().for_each(|times| *times += 1);
    }
    assert!(!parts.is_empty() && parts.iter().all(|part| !part.is_empty()));
    assert!(bytes.iter().zip(&sent).all(|(&wanted, &times)| times == i32::from(wanted)), "{parts:?}");
    assert!(!parts.iter().any(|a| parts.iter().any(|b| a.end == b.start)), "{parts:?}");
}

/// Returns for each byte of the file whether it is wanted; `None` for a field that is ignored.
fn expected(field: &[u8], len: usize) -> Option<Vec<bool>> {
    let field = str::from_utf8(field).ok()?.to_ascii_lowercase();
    let specs = field.strip_prefix("bytes=")?.split(',').map(|spec| spec.trim_matches(is_blank));
    let specs: Vec<_> = specs.filter(|spec| !spec.is_empty()).collect();
    if len == 0 || specs.is_empty() || specs.len() > RANGES_MAX {
        return None;
    }
    let mut bytes = vec![false; len];
    for spec in specs {
        let (first, last) = spec.split_once('-')?;
        for (byte, is_wanted) in (0..).zip(&mut bytes) {
            *is_wanted |= match (number(first)?, number(last)?) {
                (None, None) => return None,
                (None, Some(suffix)) => len as u64 - byte <= suffix,
                (Some(first), None) => byte >= first,
                (Some(first), Some(last)) if last < first => return None,
                (Some(first), Some(last)) => (first..=last).contains(&byte),
            };
        }
    }
    Some(bytes)
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace()
}

/// Parses a number; no number for an empty text, `None` for a malformed one, and the largest of all
/// for a larger one.
fn number(text: &str) -> Option<Option<u64>> {
    let is_number = text.chars().all(|c| c.is_ascii_digit());
    is_number.then(|| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}
