//! Entity tags, and the lists of them that conditions are made of (RFC 9110 §8.8.3 and §13.1).

use std::fmt;

/// A strong entity tag, made of a number that only the same content has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntityTag(pub u128);

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:x}\"", self.0)
    }
}

/// When two tags are the same (RFC 9110 §8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Neither is weak: for parts of files.
    Strong,
    Weak,
}

impl EntityTag {
    /// Whether it is in a list of If-Match or If-None-Match, where `*` stands for whatever there is. What is no list
    /// ends where it begins to be none.
    pub(crate) fn is_among<'a>(
        self,
        mut lists: impl Iterator<Item = &'a [u8]>,
        comparison: Comparison,
    ) -> bool {
        let own = self.to_string();
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

/// The tags of a list; a comma may be part of a tag.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let start = self.0.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
        let rest = self.0.get(start..)?;
        let (is_weak, rest) = rest.strip_prefix(b"W/").map_or((false, rest), |rest| (true, rest));
        let rest = rest.strip_prefix(b"\"")?;
        let end = rest.iter().position(|&byte| byte == b'"')?;
        let (opaque, rest) = rest.split_at_checked(end)?;
        self.0 = rest.strip_prefix(b"\"")?;
        Some(Tag { is_weak, opaque })
    }
}
