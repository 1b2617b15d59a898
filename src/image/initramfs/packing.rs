//! Compression of an initramfs, detected by its first bytes as in Linux (`lib/decompress.c`).

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::cpio;

/// Bytes that identify a format.
pub(super) const MAGIC: usize = 6;

/// Most memory of xz in KiB: a dictionary of 64 MiB (`xz -9`) and some more.
const XZ_MEMORY: u32 = 66 << 10;
/// Largest window of a zstd frame in bytes, as in Linux (`ZSTD_WINDOWSIZE_MAX` of
/// `lib/decompress_unzstd.c`).
const ZSTD_WINDOW: u64 = 128 << 20;
/// Most bytes of a block of lz4's legacy format, unpacked and packed (`LZ4_compressBound`).
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_PACKED: u32 = (LZ4_BLOCK + LZ4_BLOCK / 255 + 16) as u32;
/// Magic number of the legacy lz4 format. In place of a block's length it begins another file.
const LZ4_LEGACY: u32 = 0x184c_2102;

/// Packing of a part of an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Unpacked cpio archive.
    Cpio,
    Gzip,
    Xz,
    Zstd,
    Lz4Legacy,
    /// Name of a format that Linux decompresses, but isowire does not.
    Other(&'static str),
    Unknown,
}

impl Packing {
    /// Detects the packing by the first bytes of a part, which may be fewer than [`MAGIC`] at the
    /// end of the file.
    pub(super) fn of(magic: &[u8]) -> Self {
        const KNOWN: [(&[u8], Packing); 9] = [
            (&[0x1f, 0x8b], Packing::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Packing::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Packing::Zstd),
            (&LZ4_LEGACY.to_le_bytes(), Packing::Lz4Legacy),
            (&[0x04, 0x22, 0x4d, 0x18], Packing::Other("lz4 in its frame format")),
            (b"BZh", Packing::Other("bzip2")),
            (&[0x5d, 0, 0], Packing::Other("lzma")),
            (&[0x89, b'L', b'Z', b'O'], Packing::Other("lzo")),
            (&[0x1f, 0x9e], Packing::Other("an old gzip")),
        ];
        // Linux compares two bytes for each format; more of them tell the formats from other data.
        if cpio::MAGICS.iter().any(|cpio| magic == *cpio) {
            return Self::Cpio;
        }
        let known = KNOWN.into_iter().find(|(start, _)| magic.starts_with(start));
        known.map_or(Self::Unknown, |(_, packing)| packing)
    }

    /// Returns a reader that decompresses `packed`, which begins with the magic number; `None` for
    /// a format that is not supported.
    ///
    /// # Errors
    /// The error of the decoder about the first bytes.
    pub(super) fn unpack<'a>(self, packed: impl BufRead + 'a) -> io::Result<Option<Box<dyn Read + 'a>>> {
        // Each decoder stops after one stream: the next part may be of another kind.
        Ok(match self {
            Self::Gzip => Some(Box::new(GzDecoder::new(packed))),
            Self::Xz => Some(Box::new(XzReader::new_mem_limit(packed, false, XZ_MEMORY))),
            Self::Zstd => {
                let decoder = StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW);
                Some(Box::new(decoder.map_err(io::Error::other)?))
            }
            Self::Lz4Legacy => Some(Box::new(Lz4Legacy { packed, block: Vec::new(), at: 0 })),
            Self::Cpio | Self::Other(_) | Self::Unknown => None,
        })
    }
}

/// Decoder of the legacy lz4 format, the only one that Linux reads: a magic number, then blocks,
/// each after its length.
struct Lz4Legacy<R> {
    packed: R,
    block: Vec<u8>,
    /// Bytes of the block that were taken.
    at: usize,
}

impl<R: BufRead> Lz4Legacy<R> {
    /// Decompresses the next block; the block is empty at the end.
    fn advance(&mut self) -> io::Result<()> {
        self.block.clear();
        self.at = 0;
        let len = loop {
            // Linux, `lib/decompress_unlz4.c`: files may be concatenated, and zeros may follow.
            match self.number()? {
                Some(LZ4_LEGACY) => {}
                None | Some(0) => return Ok(()),
                Some(len) => break len,
            }
        };
        if len > LZ4_PACKED {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the length of an lz4 block is invalid"));
        }
        let mut packed = Vec::new();
        self.packed.by_ref().take(len.into()).read_to_end(&mut packed)?;
        // The format does not store the unpacked length of a block.
        self.block.resize(LZ4_BLOCK, 0);
        let len = lz4_flex::block::decompress_into(&packed, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(len);
        Ok(())
    }

    /// Reads the next four bytes as a number; `None` at the end.
    fn number(&mut self) -> io::Result<Option<u32>> {
        if self.packed.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut bytes = [0; 4];
        self.packed.read_exact(&mut bytes)?;
        Ok(Some(u32::from_le_bytes(bytes)))
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.block.len() {
            self.advance()?;
        }
        let n = self.block.get(self.at..).unwrap_or_default().read(buf)?;
        self.at += n;
        Ok(n)
    }
}
