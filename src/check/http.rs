//! HTTP client: HTTP/1.1 (RFC 9112) with keep-alive, whole files and ranges (RFC 9110 §14).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Buf, BytesMut};

use super::connection::ClientConnection;
use super::doors::{CheckedServers, NAME};
use super::original::{CheckTally, Expected, Fault, Original};
use crate::boot::generated::MENU_PATH;
use crate::image::NodeId;

/// Longest head of a response, and most header fields in it.
const HEAD_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;

/// Bytes requested from the middle of a file.
const MIDDLE: u64 = 64 << 10;

/// Bytes requested from either end of the ISO file.
const END: u64 = 64 << 10;

/// Reads the menu, every file whole and in ranges, both ends of the ISO file, and a missing file.
///
/// # Errors
/// [`Fault`] describes the fault of the server.
pub(super) async fn check(
    doors: &CheckedServers,
    original: &Original,
    tally: &mut CheckTally,
) -> Result<(), Fault> {
    let mut client = HttpClient::open(doors.http, original).await?;
    let menu = original.made(MENU_PATH, doors.menu());
    *tally += client.whole(&format!("/{MENU_PATH}"), menu).await?;
    for node in files(doors, original) {
        let target = target(&original.image.index.path(node));
        let size = original.image.index.node(node).size();
        *tally += client.whole(&target, original.file(node)).await?;
        for range in ranges(size) {
            let expected = original.range(node, range.start, range.end - range.start);
            *tally += client.range(&target, range, size, expected).await?;
        }
    }
    let (iso, len) = (format!("/{NAME}.iso"), original.image.source.len());
    for range in [0..END.min(len), len.saturating_sub(END)..len] {
        let expected = original.stretch(range.start, range.end - range.start);
        *tally += client.range(&iso, range, len, expected).await?;
    }
    // archiso's hook probes for `airootfs.sfs` and falls back to `airootfs.erofs` on 404.
    client.nothing("/isowire/airootfs.sfs").await
}

/// Returns the number of bytes of the image that [`check`] reads.
pub(super) fn work(doors: &CheckedServers, original: &Original) -> u64 {
    let sizes = files(doors, original).map(|node| original.image.index.node(node).size());
    let read = sizes.map(|size| size + ranges(size).iter().map(|range| range.end - range.start).sum::<u64>());
    read.sum::<u64>() + 2 * END.min(original.image.source.len())
}

fn files(doors: &CheckedServers, original: &Original) -> impl Iterator<Item = NodeId> {
    original.files().filter(|&node| doors.is_reachable(&original.image.index.path(node)))
}

/// Returns the ranges to request: the first byte, as archiso's hook does, some of the middle, and
/// the last byte.
fn ranges(size: u64) -> Vec<Range<u64>> {
    match size {
        0 => Vec::new(),
        size => vec![0..1, size / 2..size.min(size / 2 + MIDDLE), size - 1..size],
    }
}

/// Encodes a path as a request target: bytes other than unreserved ones (RFC 3986 §2.3) and slashes
/// become `%XX`.
fn target(path: &[u8]) -> String {
    path.iter().fold(String::new(), |mut target, &byte| {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' => target.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => target.push(byte.into()),
            byte => drop(write!(target, "%{byte:02X}")),
        }
        target
    })
}

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
struct ResponseHead {
    status: u16,
    length: u64,
    /// Content-Range.
    range: Option<String>,
    /// The server closes the connection after this response (RFC 9112 §9.6).
    is_last: bool,
}

struct HttpClient<'a> {
    address: SocketAddr,
    original: &'a Original,
    connection: ClientConnection,
    /// Bytes received after the last head.
    input: BytesMut,
}

impl<'a> HttpClient<'a> {
    async fn open(address: SocketAddr, original: &'a Original) -> Result<Self, Fault> {
        let connection = ClientConnection::open(address, original.patience).await?;
        Ok(Self { address, original, connection, input: BytesMut::new() })
    }

    async fn whole(&mut self, target: &str, mut expected: Expected<'_>) -> Result<CheckTally, Fault> {
        let head = self.ask(target, "").await?;
        if head.status != 200 {
            return Err(wrong(&expected, format!("is answered with status {}", head.status)));
        }
        expected.has_size(head.length)?;
        self.body(&head, &mut expected).await?;
        expected.finish()
    }

    /// Requests a range of a file of `size` bytes.
    async fn range(
        &mut self,
        target: &str,
        range: Range<u64>,
        size: u64,
        mut expected: Expected<'_>,
    ) -> Result<CheckTally, Fault> {
        let (first, last) = (range.start, range.end - 1);
        let head = self.ask(target, &format!("Range: bytes={first}-{last}\r\n")).await?;
        if head.status != 206 || head.range != Some(format!("bytes {first}-{last}/{size}")) {
            let what = format!("is not given in the range {first}-{last}: status {}", head.status);
            return Err(wrong(&expected, what));
        }
        if head.length != expected.left() {
            return Err(wrong(
                &expected,
                format!("has a range of {} bytes instead of {}", head.length, expected.left()),
            ));
        }
        self.body(&head, &mut expected).await?;
        expected.finish()
    }

    /// Requests a file that does not exist.
    async fn nothing(mut self, target: &str) -> Result<(), Fault> {
        match self.ask(target, "").await?.status {
            404 => Ok(()),
            status => Err(Fault::protocol(format!("a missing file is answered with status {status}"))),
        }
    }

    /// Sends a request and returns the head of its response.
    async fn ask(&mut self, target: &str, fields: &str) -> Result<ResponseHead, Fault> {
        let host = self.address;
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: isowire-check\r\n{fields}\r\n");
        self.connection.send(request.as_bytes()).await?;
        loop {
            if let Some((head, len)) = parse(&self.input)? {
                self.input.advance(len);
                return Ok(head);
            }
            if self.input.len() >= HEAD_MAX {
                return Err(Fault::protocol(format!(
                    "the head of a response has more than {HEAD_MAX} bytes"
                )));
            }
            if self.connection.more(&mut self.input).await? == 0 {
                return Err(Fault::Broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Compares the body; part of it may have arrived with the head.
    async fn body(&mut self, head: &ResponseHead, expected: &mut Expected<'_>) -> Result<(), Fault> {
        let here = self.input.len().min(usize::try_from(head.length).unwrap_or(usize::MAX));
        expected.take(&self.input.split_to(here))?;
        self.connection.payload(head.length - here as u64, expected).await?;
        if !self.input.is_empty() {
            return Err(Fault::protocol("more than one response came to a request"));
        }
        if head.is_last {
            *self = Self::open(self.address, self.original).await?;
        }
        Ok(())
    }
}

fn wrong(expected: &Expected<'_>, what: String) -> Fault {
    Fault::Wrong { path: expected.path().to_owned(), what }
}

/// Parses the head at the start of `input`; returns it with its length, or `None` while incomplete.
fn parse(input: &[u8]) -> Result<Option<(ResponseHead, usize)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response
        .parse(input)
        .map_err(|error| Fault::protocol(format!("a response has a malformed head: {error}")))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let length = field(&response, "Content-Length").and_then(|length| length.parse().ok());
    let head = ResponseHead {
        status: response.code.unwrap_or_default(),
        length: length.ok_or_else(|| Fault::protocol("a response has no Content-Length"))?,
        range: field(&response, "Content-Range").map(str::to_owned),
        is_last: field(&response, "Connection").is_some_and(|options| options.eq_ignore_ascii_case("close")),
    };
    Ok(Some((head, len)))
}

/// Returns a header field; names are case-insensitive (RFC 9110 §5.1).
fn field<'a>(response: &httparse::Response<'_, 'a>, name: &str) -> Option<&'a str> {
    let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_ascii() {
        assert_eq!(target(b"/arch/boot-1_2~3.img"), "/arch/boot-1_2~3.img");
        assert_eq!(target(b"/a b%?#\xc5\xbe\xe9\n"), "/a%20b%25%3F%23%C5%BE%E9%0A");
    }

    #[test]
    fn head_is_parsed_when_complete() {
        let text = b"HTTP/1.1 206 Partial Content\r\nCONTENT-LENGTH: 7\r\nContent-Range: bytes 0-6/9\r\n\
            Connection: Close\r\n\r\nbody";
        let head = ResponseHead { status: 206, length: 7, range: Some("bytes 0-6/9".into()), is_last: true };
        let len = text.len() - 4;
        assert_eq!(parse(text).unwrap(), Some((head, len)));
        assert!((0..len).all(|n| parse(&text[..n]).unwrap().is_none()));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }

    #[test]
    fn ranges_lie_in_their_file() {
        assert_eq!(ranges(0), []);
        assert_eq!(ranges(1), [0..1, 0..1, 0..1]);
        assert_eq!(ranges(1 << 20), [0..1, 524_288..589_824, 1_048_575..1_048_576]);
    }
}
