//! Decompression of a squashfs block.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::wire::Compression;

/// Most memory for decompressing a block of 1 MiB, in KiB.
const XZ_MEMORY: u32 = 8 << 10;
/// Largest window of a zstd frame, in bytes.
const ZSTD_WINDOW: u64 = 8 << 20;

/// Decompresses `packed` to at most `max` bytes.
///
/// # Errors
/// `InvalidData` if the block holds more, and any error of the decoder.
pub(super) fn unpack(compression: Compression, packed: &[u8], max: usize) -> io::Result<Vec<u8>> {
    match compression {
        Compression::Zlib => read_limited(max, ZlibDecoder::new(packed)),
        // One stream, with the BCJ filter that mksquashfs was told (`-Xbcj x86`).
        Compression::Xz => read_limited(max, XzReader::new_mem_limit(packed, false, XZ_MEMORY)),
        Compression::Zstd => {
            let decoder = StreamingDecoder::new_with_max_window_size(packed, ZSTD_WINDOW);
            read_limited(max, decoder.map_err(io::Error::other)?)
        }
        Compression::Lz4 => {
            // lz4 does not store the unpacked length of a block.
            let mut unpacked = vec![0; max];
            let len = lz4_flex::block::decompress_into(packed, &mut unpacked).map_err(io::Error::other)?;
            unpacked.truncate(len);
            Ok(unpacked)
        }
        Compression::Other(name) => Err(io::Error::new(io::ErrorKind::Unsupported, name)),
    }
}

/// Reads the whole of `decoder`, at most `max` bytes.
fn read_limited(max: usize, decoder: impl Read) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    // One byte more tells a block that is too long from a full one.
    decoder.take(max as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a block holds more bytes than the block size",
        ));
    }
    Ok(unpacked)
}
