//! Entity tags, and the lists of them in conditions (RFC 9110 §8.8.3 and §13.1).

use std::fmt;

/// A strong entity tag, made from a number that only the same content has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntityTag(pub u128);

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:x}\"", self.0)
    }
}

/// Comparison function of two tags (RFC 9110 §8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Both tags have to be strong, for parts of files.
    Strong,
    Weak,
}

impl EntityTag {
    /// Returns true if the tag is in a list of If-Match or If-None-Match. A malformed list ends at
    /// its fault.
    pub(crate) fn is_among<'a>(
        self,
        mut lists: impl Iterator<Item = &'a [u8]>,
        comparison: Comparison,
    ) -> bool {
        let own = self.to_string();
        // RFC 9110 §13.1.1 and §13.1.2: `*` stands for any current representation.
        lists.any(|list| list == b"*" || Tags(list).any(|tag| tag.is(&own, comparison)))
    }
}

/// A tag that a client sent.
#[derive(Debug, Clone, Copy)]
struct Tag<'a> {
    is_weak: bool,
    /// Without its quotes.
    opaque: &'a [u8],
}

impl Tag<'_> {
    fn is(&self, own: &str, comparison: Comparison) -> bool {
        let is_usable = comparison == Comparison::Weak || !self.is_weak;
        is_usable && own.trim_matches('"').as_bytes() == self.opaque
    }
}

/// The tags of a list. A comma may be part of a tag, so a list cannot be split at commas.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let start = self.0.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
        let rest = self.0.get(start..)?;
        // RFC 9110 §8.8.3: `W/` is case-sensitive.
        let (is_weak, rest) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
        let rest = rest.strip_prefix(b"\"")?;
        let end = rest.iter().position(|&byte| byte == b'"')?;
        let (opaque, rest) = rest.split_at_checked(end)?;
        self.0 = rest.strip_prefix(b"\"")?;
        Some(Tag { is_weak, opaque })
    }
}
