//! HTTP client: HTTP/1.1 (RFC 9112) with keep-alive, whole files and ranges (RFC 9110 §14).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Buf, BytesMut};

use super::connection::ClientConnection;
use super::original::{CheckTally, Expected, Original, VerifyError};
use super::servers::{CheckedServers, NAME};
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
/// [`VerifyError`] of the first fault that is found.
pub(super) async fn check(
    servers: &CheckedServers,
    original: &Original,
    tally: &mut CheckTally,
) -> Result<(), VerifyError> {
    let mut client = HttpClient::open(servers.http, original).await?;
    let menu = original.generated(MENU_PATH, servers.menu());
    *tally += client.whole(&format!("/{MENU_PATH}"), menu).await?;
    // All on one connection, so that a response of a wrong length spoils the next.
    for node in files(servers, original) {
        let target = target(&original.image.index.path(node));
        let size = original.image.index.node(node).size();
        *tally += client.whole(&target, original.file(node)).await?;
        for range in ranges(size) {
            let expected = original.range(node, range.start, range.end - range.start);
            *tally += client.range(&target, range, size, expected).await?;
        }
    }
    let (iso, len) = (format!("/{NAME}.iso"), original.image.source.len());
    // Its ends are enough: every file in it was read, and the NBD check reads all of it.
    for range in [0..END.min(len), len.saturating_sub(END)..len] {
        let expected = original.stretch(range.start, range.end - range.start);
        *tally += client.range(&iso, range, len, expected).await?;
    }
    // archiso's hook probes for `airootfs.sfs` and falls back to `airootfs.erofs` on 404.
    client.nothing("/isowire/airootfs.sfs").await
}

/// Returns the number of bytes of the image that [`check`] reads.
pub(super) fn work(servers: &CheckedServers, original: &Original) -> u64 {
    let sizes = files(servers, original).map(|node| original.image.index.node(node).size());
    let read = sizes.map(|size| size + ranges(size).iter().map(|range| range.end - range.start).sum::<u64>());
    read.sum::<u64>() + 2 * END.min(original.image.source.len())
}

fn files(servers: &CheckedServers, original: &Original) -> impl Iterator<Item = NodeId> {
    original.files().filter(|&node| servers.is_reachable(&original.image.index.path(node)))
}

/// Returns the ranges to request: the first byte, as archiso's hook does, some of the middle, and
/// the last byte.
fn ranges(size: u64) -> Vec<Range<u64>> {
    match size {
        0 => Vec::new(),
        // RFC 9110 §14.1.2: positions are inclusive, so off-by-one errors show at the ends.
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

/// Head of a received response.
#[derive(Debug, PartialEq, Eq)]
struct ReceivedHead {
    status: u16,
    length: u64,
    /// Value of Content-Range.
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
    async fn open(address: SocketAddr, original: &'a Original) -> Result<Self, VerifyError> {
        let connection = ClientConnection::open(address, original.patience).await?;
        Ok(Self { address, original, connection, input: BytesMut::new() })
    }

    /// Requests a whole file.
    async fn whole(&mut self, target: &str, mut expected: Expected<'_>) -> Result<CheckTally, VerifyError> {
        let head = self.request(target, "").await?;
        if head.status != 200 {
            return Err(wrong(&expected, format!("is answered with status {}", head.status)));
        }
        // iPXE shows its progress by Content-Length.
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
    ) -> Result<CheckTally, VerifyError> {
        let (first, last) = (range.start, range.end - 1);
        let head = self.request(target, &format!("Range: bytes={first}-{last}\r\n")).await?;
        // RFC 9110 §15.3.7: 206 needs Content-Range. A 200 would be allowed, but then a broken
        // download starts again.
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
    async fn nothing(mut self, target: &str) -> Result<(), VerifyError> {
        match self.request(target, "").await?.status {
            // `curl -f`, as archiso's hook calls it, turns an error status into a failure.
            404 => Ok(()),
            status => Err(VerifyError::protocol(format!("a missing file is answered with status {status}"))),
        }
    }

    /// Sends a request and returns the head of its response.
    async fn request(&mut self, target: &str, fields: &str) -> Result<ReceivedHead, VerifyError> {
        // RFC 9112 §3.2: a request of HTTP/1.1 has a Host field.
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
                return Err(VerifyError::protocol(format!(
                    "the head of a response has more than {HEAD_MAX} bytes"
                )));
            }
            if self.connection.more(&mut self.input).await? == 0 {
                return Err(VerifyError::Broken(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Compares the body; part of it may have arrived with the head.
    async fn body(&mut self, head: &ReceivedHead, expected: &mut Expected<'_>) -> Result<(), VerifyError> {
        let here = self.input.len().min(usize::try_from(head.length).unwrap_or(usize::MAX));
        expected.take(&self.input.split_to(here))?;
        self.connection.payload(head.length - here as u64, expected).await?;
        // Requests are not pipelined, so nothing may follow the body.
        if !self.input.is_empty() {
            return Err(VerifyError::protocol("more than one response came to a request"));
        }
        // RFC 9112 §9.6: the next request needs a new connection.
        if head.is_last {
            *self = Self::open(self.address, self.original).await?;
        }
        Ok(())
    }
}

fn wrong(expected: &Expected<'_>, what: String) -> VerifyError {
    VerifyError::Wrong { path: expected.path().to_owned(), what }
}

/// Parses the head at the start of `input`; returns it with its length, or `None` while incomplete.
fn parse(input: &[u8]) -> Result<Option<(ReceivedHead, usize)>, VerifyError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response
        .parse(input)
        .map_err(|error| VerifyError::protocol(format!("a response has a malformed head: {error}")))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let length = field(&response, "Content-Length").and_then(|length| length.parse().ok());
    let head = ReceivedHead {
        status: response.code.unwrap_or_default(),
        // RFC 9112 §6.3 has other framings, but a file has a size, which clients want to know.
        length: length.ok_or_else(|| VerifyError::protocol("a response has no Content-Length"))?,
        range: field(&response, "Content-Range").map(str::to_owned),
        // RFC 9112 §9.3: HTTP/1.1 connections persist unless one side says `close`.
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
        let head = ReceivedHead { status: 206, length: 7, range: Some("bytes 0-6/9".into()), is_last: true };
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
