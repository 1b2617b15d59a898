//! Properties of the portmapper.

use std::net::{Ipv4Addr, SocketAddr};

use crate::codec::Reader;
use crate::nfs::portmap::Portmapper;
use crate::nfs::rpc;

/// Replies of the portmapper to any stream or datagram are whole records: at most one for each
/// call, with its xid, and not longer than a list.
///
/// The reply to a datagram is at most three times as long, so that a forged sender address does not
/// turn us against a third party. RFC 9000 §8.1 sets this factor for QUIC.
pub fn calls(data: &[u8]) {
    let portmap = Portmapper::new(2049);
    let local = SocketAddr::from((Ipv4Addr::new(192, 168, 255, 255), 111));
    let mut out = Vec::new();
    portmap.handle_datagram(data, local, &mut out);
    assert!(out.len() <= 3 * data.len());
    if !out.is_empty() {
        assert_reply(&out, data);
    }
    stream(portmap, local, data);
}

/// Longest reply: a header and a list of eight entries of rpcbind.
const LONGEST_REPLY: usize = 28 + 8 * 64;

fn stream(portmap: Portmapper, local: SocketAddr, data: &[u8]) {
    let mut out = Vec::new();
    let taken = portmap.handle_stream(data, local, &mut out).unwrap_or(data.len());
    let (mut input, mut output) = (data, &out[..]);
    assert!(taken <= input.len());
    while let Some(reply) = rpc::next_record(output).expect("our own records are sound") {
        output = &output[reply.len..];
        // A call of CALLIT gets no reply.
        loop {
            let call = rpc::next_record(input).expect("it was answered").expect("a reply has its call");
            input = &input[call.len..];
            if xid(&call.message) == xid(&reply.message) {
                assert_reply(&reply.message, &call.message);
                break;
            }
        }
    }
    assert!(output.is_empty(), "half a reply");
}

fn assert_reply(reply: &[u8], call: &[u8]) {
    assert_eq!(xid(reply), xid(call));
    assert_eq!(
        reply.get(4..8),
        Some(&[0, 0, 0, 1][..]),
        "a reply: two servers could answer calls of each other for ever"
    );
    assert!(reply.len().is_multiple_of(4) && reply.len() <= LONGEST_REPLY);
}

fn xid(message: &[u8]) -> Option<u32> {
    Reader::new(message).u32_be().ok()
}
