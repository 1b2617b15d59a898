//! The heads of requests and of responses: RFC 9112, and the fields of RFC 9110 that are used.
//!
//! `httparse` cuts a head into its fields; their meaning is read here. Nothing in this room panics,
//! and nothing allocates more than the head it reads, which is bounded.

pub(crate) mod condition;
pub(crate) mod date;
pub(crate) mod form;
pub(crate) mod head;
pub(crate) mod range;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::fmt;

use httparse::Header;

use crate::codec::Reader;

pub(crate) use head::{ResponseHead, StatusCode};

/// Longest head of a request, in bytes (RFC 9112 §3 recommends 8000 for the request line alone).
pub(crate) const HEAD_MAX: usize = 8 << 10;

/// Most field lines in a head; a browser sends twenty.
pub(crate) const FIELDS_MAX: usize = 64;

/// A request that cannot be understood, or not be framed: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpParseError {
    #[error("the request is not HTTP: {0}")]
    Syntax(httparse::Error),
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    #[error("the head of the request is longer than {HEAD_MAX} bytes")]
    LongHead,
    #[error("the head of the request has more than {FIELDS_MAX} fields")]
    ManyFields,
    #[error("the request target is longer than {HEAD_MAX} bytes")]
    LongTarget,
    #[error("a request needs one Host field that names a host")]
    Host,
    #[error("the length of the request's content is not clear")]
    Length,
    #[error("content is only taken with a Content-Length")]
    Chunked,
    #[error("the transfer coding is not known here")]
    Coding,
}

/// Version of HTTP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    Http10,
    Http11,
}

/// Method of a request (RFC 9110 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    /// A known method that nothing here allows.
    Other,
    Unknown,
}

impl Method {
    fn of(name: &str) -> Self {
        // RFC 9110 §9.1: "The method token is case-sensitive".
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            // RFC 9110 §9.3, and PATCH of RFC 5789.
            "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// Head of a request whose framing is sound: it is known where the next request begins.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    pub method: Method,
    /// Request target as it was sent; see [`target::path`].
    pub target: &'a str,
    pub version: HttpVersion,
    /// Bytes of content after the head.
    pub content: u64,
    fields: [Header<'a>; FIELDS_MAX],
}

impl<'a> HttpRequest<'a> {
    /// Reads one head from the start of `input`, and returns it with its length in bytes; `None`
    /// while it is not complete.
    ///
    /// # Errors
    /// [`HttpParseError`]. It is unknown where the next request begins then, so the connection is
    /// over.
    pub fn parse(input: &'a [u8]) -> Result<Option<(Self, usize)>, HttpParseError> {
        let head = input.get(..HEAD_MAX).unwrap_or(input);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let len = match parsed.parse(head) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if head.len() == HEAD_MAX => return Err(too_long(head)),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HttpParseError::ManyFields),
            Err(httparse::Error::Version) => return wrong_version(head),
            Err(error) => return Err(HttpParseError::Syntax(error)),
        };
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Ok(None);
        };
        let version = if minor == 0 { HttpVersion::Http10 } else { HttpVersion::Http11 };
        let mut request = Self { method: Method::of(method), target, version, content: 0, fields };
        request.check_host()?;
        request.content = request.content_length()?;
        Ok(Some((request, len)))
    }

    /// Returns the values of a field, in the order of its lines.
    pub(crate) fn fields(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        // RFC 9110 §5.1: "Field names are case-insensitive".
        let fields = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value.trim_ascii())
    }

    /// Returns the first value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields(name).next()
    }

    /// Returns the elements of a field that is a list (RFC 9110 §5.6.1), for lists whose elements
    /// hold no comma.
    fn elements(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.fields(name).flat_map(|value| value.split(|&byte| byte == b','));
        // RFC 9110 §5.6.1.2: a recipient has to ignore empty elements.
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Returns true if the client wants the connection to persist (RFC 9112 §9.3).
    pub(crate) fn wants_to_stay(&self) -> bool {
        // HTTP/1.1 persists by default, HTTP/1.0 only if the client asks for it.
        let may_stay = self.version == HttpVersion::Http11 || self.has_connection_option("keep-alive");
        may_stay && !self.has_connection_option("close")
    }

    fn has_connection_option(&self, option: &str) -> bool {
        self.elements("Connection").any(|element| element.eq_ignore_ascii_case(option.as_bytes()))
    }

    fn check_host(&self) -> Result<(), HttpParseError> {
        let mut hosts = self.fields("Host");
        match (hosts.next(), hosts.next(), self.version) {
            (None, _, HttpVersion::Http10) => Ok(()),
            // RFC 9112 §3.2: a request of HTTP/1.1 without Host, and any request with two or with
            // an invalid one, gets 400.
            (Some(host), None, _) if host.iter().all(|&byte| is_host_byte(byte)) => Ok(()),
            _ => Err(HttpParseError::Host),
        }
    }

    /// Returns the length of the content, which has to be beyond doubt: a wrong one makes content
    /// pass for a request (request smuggling, RFC 9112 §11.2).
    fn content_length(&self) -> Result<u64, HttpParseError> {
        let mut lengths = self.fields("Content-Length");
        let length = lengths.next();
        let is_coded = self.fields("Transfer-Encoding").next().is_some();
        match (length, lengths.next(), is_coded) {
            // RFC 9112 §6.3: without both fields "the request ends immediately after the header
            // section".
            (None, _, false) => Ok(0),
            (Some(length), None, false) => decimal(length).ok_or(HttpParseError::Length),
            (None, _, true) if self.version == HttpVersion::Http11 => Err(self.refused_coding()),
            // RFC 9112 §6.1: both fields together, two lengths, or a coding in HTTP/1.0, which
            // "MUST treat the message as if the framing is faulty".
            _ => Err(HttpParseError::Length),
        }
    }

    /// Sorts a transfer coding: RFC 9112 §6.1 wants 501 for an unknown one, and §6.3 allows 411 for
    /// content without a length.
    fn refused_coding(&self) -> HttpParseError {
        if self.elements("Transfer-Encoding").all(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
            HttpParseError::Chunked
        } else {
            HttpParseError::Coding
        }
    }
}

impl fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, target, version, content, .. } = self;
        write!(f, "{method:?} {target:?} {version:?} and {content} bytes")
    }
}

/// Returns true for a byte that a host or a port may hold (RFC 3986 §3.2.2 and §3.2.3). Nothing
/// here depends on the host, so no more is checked.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}

/// Parses a length (RFC 9110 §8.6: `1*DIGIT`, so without a sign).
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Returns the request line; `None` while its end is missing.
fn request_line(head: &[u8]) -> Option<&[u8]> {
    // RFC 9112 §2.2: empty lines may come before the request line.
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut reader = Reader::new(head);
    reader.skip(start).ok()?;
    let mut lines = reader.rest().split(|&byte| byte == b'\n');
    let line = lines.next()?;
    lines.next().map(|_| line)
}

fn too_long(head: &[u8]) -> HttpParseError {
    if request_line(head).is_some() { HttpParseError::LongHead } else { HttpParseError::LongTarget }
}

/// Sorts a request line without a version that the server speaks: `httparse` has one error for
/// another version and for none at all.
fn wrong_version<T>(head: &[u8]) -> Result<Option<T>, HttpParseError> {
    let Some(line) = request_line(head) else {
        return if head.len() < HEAD_MAX { Ok(None) } else { Err(HttpParseError::LongTarget) };
    };
    let version = line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(HttpParseError::Version)
        }
        _ => Err(HttpParseError::Syntax(httparse::Error::Version)),
    }
}
