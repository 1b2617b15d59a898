//! Several parts of a file in one answer: `multipart/byteranges` (RFC 9110 §14.6, RFC 2046 §5.1).

use std::ops::Range;

use crate::http::wire::condition::EntityTag;
use crate::http::wire::range::ContentRange;

/// The parts, each after a head of its own, and the end of the last.
#[derive(Debug)]
pub(super) struct Multipart {
    boundary: String,
    pub parts: Vec<(String, Range<u64>)>,
    pub end: String,
}

impl Multipart {
    /// Lays out parts of a file of `len` bytes that has this entity tag.
    pub(super) fn new(parts: Vec<Range<u64>>, len: u64, media_type: &str, tag: EntityTag) -> Self {
        // RFC 2046 §5.1: the boundary must not appear in the content. The tag is computed from the
        // content, or from the identity of the image, so no file contains it.
        let boundary = format!("isowire-{:x}", tag.0);
        let parts = parts.into_iter().map(|part| {
            let range = ContentRange { part: Some(part.clone()), of: len };
            // RFC 9110 §15.3.7.2: each part has a Content-Range, and the Content-Type of the file.
            let head =
                format!("\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {range}\r\n\r\n");
            (head, part)
        });
        let parts = parts.collect();
        Self { parts, end: format!("\r\n--{boundary}--\r\n"), boundary }
    }

    pub(super) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Returns the length of the content in bytes.
    pub(super) fn len(&self) -> u64 {
        let lens = self.parts.iter().map(|(head, part)| head.len() as u64 + part.end - part.start);
        lens.sum::<u64>() + self.end.len() as u64
    }
}
