//! A file of the image as a medium of its own: what it holds is read in place, without knowing where it lies.

use std::io::{self, BufRead, Read};

use super::{Extent, Image, Media, NodeId, Source};

/// Bytes that a [`Stream`] reads at a time.
const STEP: u64 = 128 << 10;

/// The bytes of some extents, one behind the other.
#[derive(Debug)]
pub struct Content<'a, M: ?Sized> {
    media: &'a M,
    extents: &'a [Extent],
    len: u64,
}

impl Image {
    /// What a file holds, to be read in place; `None` for anything but a file.
    pub fn content(&self, node: NodeId) -> Option<Content<'_, Source>> {
        Some(Content::new(&self.source, self.extents(node)?))
    }
}

impl<'a, M: Media + ?Sized> Content<'a, M> {
    /// The bytes of `extents`, which were checked against the size of `media`.
    pub(crate) fn new(media: &'a M, extents: &'a [Extent]) -> Self {
        let len = extents.iter().map(|extent| extent.len).fold(0, u64::saturating_add);
        Self { media, extents, len }
    }
}

impl<M: Media + ?Sized> Media for Content<'_, M> {
    fn size(&self) -> u64 {
        self.len
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut skip = offset;
        let mut rest = buf;
        for extent in self.extents {
            if skip >= extent.len {
                skip -= extent.len;
                continue;
            }
            let len = usize::try_from(extent.len - skip).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = rest.split_at_mut(len);
            self.media.fill(part, extent.offset + skip)?;
            rest = behind;
            skip = 0;
        }
        if rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A medium from front to back.
#[derive(Debug)]
pub(crate) struct Stream<'a, M: ?Sized> {
    media: &'a M,
    /// Where the next bytes are read.
    offset: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were taken.
    taken: usize,
}

impl<'a, M: Media + ?Sized> Stream<'a, M> {
    /// Reads `media` from its start.
    pub(crate) const fn new(media: &'a M) -> Self {
        Self { media, offset: 0, buffer: Vec::new(), taken: 0 }
    }
}

impl<M: Media + ?Sized> BufRead for Stream<'_, M> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken >= self.buffer.len() {
            let len = STEP.min(self.media.size().saturating_sub(self.offset));
            // At most STEP, so the cast keeps the value.
            self.buffer.resize(len as usize, 0);
            self.taken = 0;
            self.media.fill(&mut self.buffer, self.offset)?;
            self.offset += len;
        }
        Ok(self.buffer.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.taken += n;
    }
}

impl<M: Media + ?Sized> Read for Stream<'_, M> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = Read::read(&mut self.fill_buf()?, buf)?;
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: &[u8] = b"..abc....defg..";
    const EXTENTS: [Extent; 2] = [Extent { offset: 2, len: 3 }, Extent { offset: 9, len: 4 }];

    #[test]
    fn extents_read_as_one_file() {
        let content = Content::new(MEDIA, &EXTENTS);
        assert_eq!(content.size(), 7);
        let whole = b"abcdefg";
        for from in 0..=whole.len() {
            for to in from..=whole.len() {
                let extent = Extent { offset: from as u64, len: (to - from) as u64 };
                assert_eq!(content.read(extent).unwrap().as_deref(), Some(&whole[from..to]));
            }
        }
        assert_eq!(content.read(Extent { offset: 5, len: 3 }).unwrap(), None);
        let error = content.fill(&mut [0; 3], 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stream_ends_where_its_medium_does() {
        let long: Vec<u8> = (0..2 * STEP + 5).map(|i| i as u8).collect();
        for media in [&long[..], &[]] {
            let mut read = Vec::new();
            assert_eq!(Stream::new(media).read_to_end(&mut read).unwrap(), media.len());
            assert_eq!(read, media);
        }
    }

    #[test]
    fn an_image_that_shrank_is_an_error() {
        let extents = [Extent { offset: 10, len: 100 }];
        let content = Content::new(MEDIA, &extents);
        let error = Stream::new(&content).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
