//! NFSv3 and MOUNT (RFC 1813) for the load generator only: one file, and files whose names give
//! their lengths.

use std::collections::VecDeque;

use super::{Header, Reply};

const LAST_FRAGMENT: u32 = 1 << 31;

const MOUNT: u32 = 100_005;
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;

/// Offsets in a call of the load generator: program, procedure, and arguments after a credential of
/// fixed length.
const PROGRAM: usize = 16;
const PROCEDURE: usize = 24;
const ARGUMENTS: usize = 68;

/// The handle of every file: its length, and four bytes.
const HANDLE: [u32; 2] = [4, 0];

/// Answers every whole call about a file of `size` bytes.
pub fn take(input: &mut Vec<u8>, replies: &mut VecDeque<Reply>, size: u64) {
    let mut at = 0;
    while input.len() >= at + 4 {
        let end = at + 4 + (number(input, at) & !LAST_FRAGMENT) as usize;
        let Some(call) = input.get(at..end) else { break };
        replies.push_back(answer(call, size));
        at = end;
    }
    input.drain(..at);
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn answer(call: &[u8], size: u64) -> Reply {
    // The record mark is set once the length is known. Then: xid, REPLY, MSG_ACCEPTED, no verifier,
    // SUCCESS, NFS3_OK.
    let mut reply = Reply::default();
    push(&mut reply.header, &[0, number(call, 4), 1, 0, 0, 0, 0, 0]);
    let arguments = &call[ARGUMENTS..];
    match (number(call, PROGRAM), number(call, PROCEDURE)) {
        (MOUNT, _) => push(&mut reply.header, &[HANDLE[0], HANDLE[1], 1, 1]),
        (_, GETATTR) => push_attributes(&mut reply.header, size),
        (_, LOOKUP) => {
            push(&mut reply.header, &[HANDLE[0], HANDLE[1], 1]);
            push_attributes(&mut reply.header, length_in_name(&arguments[12..]).unwrap_or(size));
            push(&mut reply.header, &[0]);
        }
        (_, READ) => {
            reply.offset = u64::from(number(arguments, 8)) << 32 | u64::from(number(arguments, 12));
            let count = number(arguments, 16);
            reply.len = count as usize;
            push(&mut reply.header, &[1]);
            push_attributes(&mut reply.header, size);
            push(&mut reply.header, &[count, 0, count]);
        }
        _ => {}
    }
    let mark = LAST_FRAGMENT | (reply.header.len - 4 + reply.len) as u32;
    reply.header.bytes[..4].copy_from_slice(&mark.to_be_bytes());
    reply
}

fn push(header: &mut Header, numbers: &[u32]) {
    numbers.iter().for_each(|number| header.push(&number.to_be_bytes()));
}

/// Appends `fattr3`: NF3REG, mode, nlink, uid, gid; size, used; rdev, fsid, fileid, three times.
fn push_attributes(header: &mut Header, size: u64) {
    push(header, &[1, 0o444, 1, 0, 0]);
    header.push(&size.to_be_bytes());
    header.push(&size.to_be_bytes());
    header.push(&[0; 48]);
}

/// Reads the number in a name like `entry-00042`.
fn length_in_name(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(b"entry-")?.get(..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
