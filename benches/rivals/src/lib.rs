//! The tree of both servers: `big`, and a directory `names` of `entry-00000` and so on, each as
//! long as the number in its name.

use std::fs::File;
use std::io;

use memmap2::Mmap;

pub const ROOT: u64 = 1;
pub const BIG: u64 = 2;
pub const NAMES: u64 = 3;
const FIRST_NAME: u64 = 4;

/// Number of names.
const COUNT: u64 = 10_000;

pub struct Tree {
    big: Mmap,
}

impl Tree {
    /// Opens a tree with the file at `path` as `big`.
    pub fn open(path: &str) -> io::Result<Self> {
        // SAFETY: the file of a benchmark is not truncated.
        Ok(Self { big: unsafe { Mmap::map(&File::open(path)?)? } })
    }

    pub fn find(&self, directory: u64, name: &[u8]) -> Option<u64> {
        match directory {
            ROOT if name == b"big" => Some(BIG),
            ROOT if name == b"names" => Some(NAMES),
            NAMES => {
                let number = std::str::from_utf8(name.strip_prefix(b"entry-")?).ok()?.parse::<u64>().ok()?;
                (number < COUNT).then_some(FIRST_NAME + number)
            }
            _ => None,
        }
    }

    /// Tells whether an object is a directory, and its size; `None` if it does not exist.
    pub fn attributes(&self, id: u64) -> Option<(bool, u64)> {
        match id {
            ROOT | NAMES => Some((true, 4096)),
            BIG => Some((false, self.big.len() as u64)),
            _ => Some((false, id.checked_sub(FIRST_NAME).filter(|&number| number < COUNT)?)),
        }
    }

    /// Reads `big`; tells whether the bytes are the last.
    pub fn read(&self, offset: u64, count: u32) -> (Vec<u8>, bool) {
        let start = (offset as usize).min(self.big.len());
        let end = (start + count as usize).min(self.big.len());
        (self.big[start..end].to_vec(), end == self.big.len())
    }
}

/// Reads the address and the tree of the command line.
pub fn arguments() -> (String, Tree) {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(path)) = (arguments.next(), arguments.next()) else { panic!("PORT FILE") };
    (format!("127.0.0.1:{port}"), Tree::open(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}
