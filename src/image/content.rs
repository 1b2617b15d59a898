//! FileContent of a file as a medium of its own, which is read in place through the extents of the
//! file.

use std::io::{self, BufRead, Read};

use super::{Extent, Image, Media, NodeId, Source};

/// Bytes that a [`Stream`] reads at a time.
const STEP: u64 = 128 << 10;

/// FileContent of a file: the bytes of its extents in order.
#[derive(Debug)]
pub struct FileContent<'a, M: ?Sized> {
    media: &'a M,
    extents: &'a [Extent],
    len: u64,
}

impl Image {
    /// Returns the content of a file, to be read in place; `None` for other nodes.
    pub fn content(&self, node: NodeId) -> Option<FileContent<'_, Source>> {
        Some(FileContent::new(&self.source, self.extents(node)?))
    }
}

impl<'a, M: Media + ?Sized> FileContent<'a, M> {
    /// Creates the content of `extents`, which were checked against the size of `media`.
    pub(crate) fn new(media: &'a M, extents: &'a [Extent]) -> Self {
        let len = extents.iter().map(|extent| extent.len).fold(0, u64::saturating_add);
        Self { media, extents, len }
    }
}

impl<M: Media + ?Sized> Media for FileContent<'_, M> {
    fn size(&self) -> u64 {
        self.len
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut skip = offset;
        let mut rest = buf;
        for extent in self.extents {
            // The extent ends before the first wanted byte.
            if skip >= extent.len {
                skip -= extent.len;
                continue;
            }
            let len = usize::try_from(extent.len - skip).unwrap_or(usize::MAX).min(rest.len());
            let (part, unfilled) = rest.split_at_mut(len);
            self.media.fill(part, extent.offset + skip)?;
            rest = unfilled;
            skip = 0;
        }
        // The file ends before `buf` is full.
        if rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Reader of a medium from its start to its end.
#[derive(Debug)]
pub(crate) struct Stream<'a, M: ?Sized> {
    media: &'a M,
    /// Position of the next read.
    offset: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were consumed.
    consumed: usize,
}

impl<'a, M: Media + ?Sized> Stream<'a, M> {
    /// Creates a reader at the start of `media`.
    pub(crate) const fn new(media: &'a M) -> Self {
        Self { media, offset: 0, buffer: Vec::new(), consumed: 0 }
    }
}

impl<M: Media + ?Sized> BufRead for Stream<'_, M> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed >= self.buffer.len() {
            let len = STEP.min(self.media.size().saturating_sub(self.offset));
            // The cast keeps the value, which is at most STEP.
            self.buffer.resize(len as usize, 0);
            self.consumed = 0;
            self.media.fill(&mut self.buffer, self.offset)?;
            self.offset += len;
        }
        Ok(self.buffer.get(self.consumed..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.consumed += n;
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
        let content = FileContent::new(MEDIA, &EXTENTS);
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
    fn stream_ends_with_its_medium() {
        let long: Vec<u8> = (0..2 * STEP + 5).map(|i| i as u8).collect();
        for media in [&long[..], &[]] {
            let mut read = Vec::new();
            assert_eq!(Stream::new(media).read_to_end(&mut read).unwrap(), media.len());
            assert_eq!(read, media);
        }
    }

    #[test]
    fn truncated_medium_is_an_error() {
        let extents = [Extent { offset: 10, len: 100 }];
        let content = FileContent::new(MEDIA, &extents);
        let error = Stream::new(&content).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
