//! The head of a response (RFC 9112 §4).

use std::fmt::{self, Display};
use std::io::Write;

use super::date::HttpDate;

/// A status code with its reason phrase (RFC 9110 §15, RFC 6585).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatusCode(pub u16);

impl StatusCode {
    pub(crate) const OK: Self = Self(200);
    pub(crate) const PARTIAL_CONTENT: Self = Self(206);
    pub(crate) const MOVED_PERMANENTLY: Self = Self(301);
    pub(crate) const NOT_MODIFIED: Self = Self(304);
    pub(crate) const BAD_REQUEST: Self = Self(400);
    pub(crate) const FORBIDDEN: Self = Self(403);
    pub(crate) const NOT_FOUND: Self = Self(404);
    pub(crate) const METHOD_NOT_ALLOWED: Self = Self(405);
    pub(crate) const REQUEST_TIMEOUT: Self = Self(408);
    pub(crate) const GONE: Self = Self(410);
    pub(crate) const LENGTH_REQUIRED: Self = Self(411);
    pub(crate) const PRECONDITION_FAILED: Self = Self(412);
    pub(crate) const CONTENT_TOO_LARGE: Self = Self(413);
    pub(crate) const URI_TOO_LONG: Self = Self(414);
    pub(crate) const RANGE_NOT_SATISFIABLE: Self = Self(416);
    pub(crate) const HEADER_FIELDS_TOO_LARGE: Self = Self(431);
    pub(crate) const INTERNAL_ERROR: Self = Self(500);
    pub(crate) const NOT_IMPLEMENTED: Self = Self(501);
    pub(crate) const SERVICE_UNAVAILABLE: Self = Self(503);
    pub(crate) const VERSION_NOT_SUPPORTED: Self = Self(505);

    const fn reason(self) -> &'static str {
        match self {
            Self::OK => "OK",
            Self::PARTIAL_CONTENT => "Partial Content",
            Self::MOVED_PERMANENTLY => "Moved Permanently",
            Self::NOT_MODIFIED => "Not Modified",
            Self::BAD_REQUEST => "Bad Request",
            Self::FORBIDDEN => "Forbidden",
            Self::NOT_FOUND => "Not Found",
            Self::METHOD_NOT_ALLOWED => "Method Not Allowed",
            Self::REQUEST_TIMEOUT => "Request Timeout",
            Self::GONE => "Gone",
            Self::LENGTH_REQUIRED => "Length Required",
            Self::PRECONDITION_FAILED => "Precondition Failed",
            Self::CONTENT_TOO_LARGE => "Content Too Large",
            Self::URI_TOO_LONG => "URI Too Long",
            Self::RANGE_NOT_SATISFIABLE => "Range Not Satisfiable",
            Self::HEADER_FIELDS_TOO_LARGE => "Request Header Fields Too Large",
            Self::INTERNAL_ERROR => "Internal Server Error",
            Self::NOT_IMPLEMENTED => "Not Implemented",
            Self::SERVICE_UNAVAILABLE => "Service Unavailable",
            Self::VERSION_NOT_SUPPORTED => "HTTP Version Not Supported",
            // RFC 9112 §4: the reason phrase may be empty.
            _ => "",
        }
    }
}

impl Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.reason())
    }
}

/// Fate of the connection after a response, by which the Connection field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// It persists, by the rule of HTTP/1.1.
    Stays,
    /// It persists because a client of HTTP/1.0 asked for it, and has to be told.
    StaysAsAsked,
    Closes,
}

/// A head, written field by field.
///
/// lpxelinux acts on a field when the next one begins, so it must not need the last one:
/// [`ResponseHead::end`] writes a field behind all others. lpxelinux also cuts values at 1023
/// bytes.
#[derive(Debug)]
pub(crate) struct ResponseHead<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> ResponseHead<'a> {
    /// Appends the status line to `out`.
    pub(crate) fn new(status: StatusCode, out: &'a mut Vec<u8>) -> Self {
        // RFC 9110 §6.2: a server answers with the highest version to which it conforms, also to a
        // client of HTTP/1.0.
        put(out, format_args!("HTTP/1.1 {status}\r\n"));
        Self { out }
    }

    /// Writes one field. The value must not hold the end of a line.
    pub(crate) fn field(&mut self, name: &str, value: impl Display) {
        put(self.out, format_args!("{name}: {value}\r\n"));
    }

    /// Writes the fields of every head, and its end.
    pub(crate) fn end(mut self, connection: Persistence, now: HttpDate) {
        match connection {
            Persistence::Stays => {}
            Persistence::StaysAsAsked => self.field("Connection", "keep-alive"),
            Persistence::Closes => self.field("Connection", "close"),
        }
        // RFC 9110 §6.6.1: a server with a clock has to send Date in all 2xx, 3xx and 4xx
        // responses.
        self.field("Date", now);
        put(self.out, format_args!("\r\n"));
    }
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}
