//! Files of noise.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a file of this length, incompressible and the same in every run (xorshift).
pub fn write(path: &Path, len: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    for _ in 0..len / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).unwrap();
    }
    out.write_all(&vec![0xee; (len % 8) as usize]).unwrap();
    out.flush().unwrap();
}
