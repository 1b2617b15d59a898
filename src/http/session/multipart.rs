//! Several parts of a file in one answer: `multipart/byteranges` (RFC 9110 §14.6, RFC 2046 §5.1).

use std::ops::Range;

use crate::http::wire::condition::EntityTag;
use crate::http::wire::range::ContentRange;

/// The parts, each behind a head of its own, and what ends the last.
#[derive(Debug)]
pub(super) struct Multipart {
    boundary: String,
    pub parts: Vec<(String, Range<u64>)>,
    pub end: String,
}

impl Multipart {
    /// Lays out parts of a file of `len` bytes that has this entity tag.
    pub(super) fn new(parts: Vec<Range<u64>>, len: u64, media_type: &str, tag: EntityTag) -> Self {
        // The boundary must not be in the content: no file holds a number that is made of all of it, nor one of the
        // identity of the image that it is in.
        let boundary = format!("isowire-{:x}", tag.0);
        let head = |part: &Range<u64>| {
            let range = ContentRange { part: Some(part.clone()), of: len };
            format!("\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {range}\r\n\r\n")
        };
        let parts = parts.into_iter().map(|part| (head(&part), part)).collect();
        Self { parts, end: format!("\r\n--{boundary}--\r\n"), boundary }
    }

    pub(super) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Number of bytes of it all.
    pub(super) fn len(&self) -> u64 {
        let part = |(head, part): &(String, Range<u64>)| head.len() as u64 + part.end - part.start;
        self.parts.iter().map(part).sum::<u64>() + self.end.len() as u64
    }
}
