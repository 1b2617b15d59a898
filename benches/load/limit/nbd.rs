//! NBD with one export for every name
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>).

use std::collections::VecDeque;

use super::{Header, Reply};

/// Magic, and the flags fixed newstyle and no zeroes.
pub const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

/// `NBD_SIMPLE_REPLY_MAGIC` and no error.
const REPLY: [u8; 8] = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];

/// Answers `NBD_OPT_GO` for any name, once client flags, header and data are complete.
pub fn attach(input: &mut Vec<u8>, size: u64) -> Option<Vec<u8>> {
    let header = input.get(4..20)?;
    let len = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
    if input.len() < 20 + len {
        return None;
    }
    // NBD_INFO_EXPORT: size, and flags that say read-only.
    let info = [&[0, 0], &size.to_be_bytes()[..], &[0, 3]].concat();
    input.clear();
    Some([reply(REP_INFO, &info), reply(REP_ACK, &[])].concat())
}

/// Encodes a reply to `NBD_OPT_GO`.
fn reply(kind: u32, data: &[u8]) -> Vec<u8> {
    let kind = u64::from(OPT_GO) << 32 | u64::from(kind);
    let head = [OPTION_REPLY_MAGIC.to_be_bytes(), kind.to_be_bytes()].concat();
    [&head, &(data.len() as u32).to_be_bytes()[..], data].concat()
}

/// Takes whole requests, all of which are reads.
pub fn take(input: &mut Vec<u8>, replies: &mut VecDeque<Reply>) {
    let whole = input.len() / 28 * 28;
    for request in input[..whole].chunks_exact(28) {
        let mut header = Header::default();
        header.push(&REPLY);
        header.push(&request[8..16]);
        let [offset, rest] = [&request[16..24], &request[24..28]];
        let offset = offset.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let len = rest.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        replies.push_back(Reply { header, offset, len });
    }
    input.drain(..whole);
}
