//! The heads of requests and of responses: RFC 9112, and the fields of RFC 9110 that are looked at.
//!
//! `httparse` cuts a head into its fields; what they mean is read here. Nothing in this room panics, and nothing
//! allocates more than the head it reads, which is bounded.

pub(crate) mod condition;
pub(crate) mod date;
pub(crate) mod head;
pub(crate) mod range;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::fmt;

use httparse::Header;

use crate::codec::Reader;

pub(crate) use head::{ResponseHead, StatusCode};

/// Longest head of a request, in bytes (RFC 9112 §3 wants 8000 for the request line alone).
pub(crate) const HEAD_MAX: usize = 8 << 10;

/// Most field lines in a head; a browser sends twenty.
pub(crate) const FIELDS_MAX: usize = 64;

/// A request that cannot be answered as it was meant: the peer's fault.
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

/// HTTP's version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    Http10,
    Http11,
}

/// What the client wants done (RFC 9110 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    /// One that is known, and that no file here allows.
    Other,
    Unknown,
}

impl Method {
    fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            // RFC 9110 §9.3, RFC 5789.
            "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// The head of a request whose framing is sound: where the next request begins is known.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    pub method: Method,
    /// As it was sent; see [`target::path`].
    pub target: &'a str,
    pub version: HttpVersion,
    /// Bytes of content behind the head.
    pub content: u64,
    fields: [Header<'a>; FIELDS_MAX],
}

impl<'a> HttpRequest<'a> {
    /// Reads one head from the start of `input`, and returns it with its length in bytes; `None` while it is not
    /// complete.
    ///
    /// # Errors
    /// [`HttpParseError`]: there is no way to tell where the next request begins, so the connection is over.
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

    /// The values of a field, in the order of its lines.
    pub(crate) fn fields(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let is_meant = move |field: &&Header<'a>| field.name.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_meant).map(|field| field.value.trim_ascii())
    }

    /// The value of a field that stands once.
    pub(crate) fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields(name).next()
    }

    /// The elements of a field that is a list (RFC 9110 §5.6.1), for lists whose elements hold no comma.
    fn elements(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let elements = self.fields(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    /// Whether the client wants to go on with this connection (RFC 9112 §9.3).
    pub(crate) fn wants_to_stay(&self) -> bool {
        let option =
            |option: &[u8]| self.elements("Connection").any(|element| element.eq_ignore_ascii_case(option));
        !option(b"close") && (self.version == HttpVersion::Http11 || option(b"keep-alive"))
    }

    /// RFC 9112 §3.2: a request of HTTP/1.1 without Host, and any with two or a bad one, gets 400.
    fn check_host(&self) -> Result<(), HttpParseError> {
        let mut hosts = self.fields("Host");
        match (hosts.next(), hosts.next(), self.version) {
            (None, _, HttpVersion::Http10) => Ok(()),
            (Some(host), None, _) if host.iter().all(|&byte| is_host_byte(byte)) => Ok(()),
            _ => Err(HttpParseError::Host),
        }
    }

    /// RFC 9112 §6.3: what delimits the content has to be beyond doubt, or somebody smuggles a request in it.
    fn content_length(&self) -> Result<u64, HttpParseError> {
        let mut lengths = self.fields("Content-Length");
        let length = lengths.next();
        let is_coded = self.fields("Transfer-Encoding").next().is_some();
        match (length, lengths.next(), is_coded) {
            (None, _, false) => Ok(0),
            (Some(length), None, false) => decimal(length).ok_or(HttpParseError::Length),
            (None, _, true) if self.version == HttpVersion::Http11 => Err(self.refused_coding()),
            _ => Err(HttpParseError::Length),
        }
    }

    /// RFC 9112 §6.1: an unknown coding gets 501; §6.3: content without a length may be refused with 411.
    fn refused_coding(&self) -> HttpParseError {
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        if self.elements("Transfer-Encoding").all(is_chunked) {
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

/// RFC 3986 §3.2.2 and §3.2.3, each of whose parts could be looked at more closely, if anything depended on it.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}

/// RFC 9110 §8.6: `1*DIGIT`, so no sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// The request line, which empty lines may precede (RFC 9112 §2.2), when its end is there.
fn request_line(head: &[u8]) -> Option<&[u8]> {
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

/// `httparse` says the same of a version that we do not speak and of none at all.
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
