//! Blocks of a PEM file (RFC 7468), which may hold several.

use rsa::pkcs8::der::pem;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// A block with its two boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    pub(crate) label: &'a [u8],
    text: &'a [u8],
}

impl Block<'_> {
    /// Decodes the content; `None` where it is not base64, or has header fields as OpenSSL's
    /// encrypted keys have them.
    pub(crate) fn decode(&self) -> Option<Vec<u8>> {
        pem::decode_vec(self.text).ok().map(|(_, content)| content)
    }

    /// Returns true if the content is encrypted in the way of OpenSSL before PKCS#8 (RFC 1421
    /// §4.6.1.1).
    pub(crate) fn has_encryption_header(&self) -> bool {
        find(self.text, b"Proc-Type: 4,ENCRYPTED").is_some()
    }
}

/// Encodes a block with this label.
pub(crate) fn encode(label: &'static str, content: &[u8]) -> String {
    // It fails for labels with other characters than those of ours, and for more than a third of
    // the address space.
    pem::encode_string(label, pem::LineEnding::LF, content).unwrap_or_default()
}

/// Returns the blocks of a file, in their order. Text between them is passed over.
pub(crate) fn blocks(mut file: &[u8]) -> impl Iterator<Item = Block<'_>> {
    std::iter::from_fn(move || {
        let (block, rest) = first(file)?;
        file = rest;
        Some(block)
    })
}

/// The first block, and what follows it.
fn first(file: &[u8]) -> Option<(Block<'_>, &[u8])> {
    let file = file.get(find(file, BEGIN)?..)?;
    let label = file.get(BEGIN.len()..)?;
    let label = label.get(..find(label, DASHES)?)?;
    let end = find(file, END)?;
    let end = end + END.len() + label.len() + DASHES.len();
    Some((Block { label, text: file.get(..end)? }, file.get(end..)?))
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "notes\n-----BEGIN ONE-----\nAQID\n-----END ONE-----\nmore\r\n-----BEGIN TWO THREE-----\r\n\
                        BAU=\r\n-----END TWO THREE-----\r\n";

    #[test]
    fn blocks_are_found_in_their_order() {
        let blocks: Vec<_> = blocks(FILE.as_bytes()).map(|block| (block.label, block.decode())).collect();
        assert_eq!(blocks, [(&b"ONE"[..], Some(vec![1, 2, 3])), (b"TWO THREE", Some(vec![4, 5]))]);
    }

    #[test]
    fn every_cut_of_a_file_is_read_without_panic() {
        for cut in 0..FILE.len() {
            let text = &FILE.as_bytes()[..cut];
            blocks(text).for_each(|block| drop(block.decode()));
            blocks(&FILE.as_bytes()[cut..]).for_each(|block| drop(block.decode()));
        }
        assert_eq!(blocks(b"-----BEGIN A-----\n*\n-----END A-----\n").next().unwrap().decode(), None);
        assert_eq!(blocks(b"-----BEGIN A-----\n-----END B").next(), None);
    }
}
