use super::*;
use crate::codec::Reader;

const PORTMAP_MAP: Portmapper = Portmapper::new(2049);

fn local() -> SocketAddr {
    "192.168.77.1:111".parse().unwrap()
}

/// A call without credentials, no mark before it.
fn call(program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
    let words = [0xabcd, 0, 2, program, version, procedure, 0, 0, 0, 0];
    [&words.map(u32::to_be_bytes).concat()[..], args].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// `struct rpcb` of RFC 1833 §2.1.
fn rpcb(program: u32, version: u32) -> Vec<u8> {
    [&words(&[program, version])[..], b"\0\0\0\x03tcp\0\0\0\0\x09127.0.0.1\0\0\0\0\0\0\0"].concat()
}

/// State and results of the reply over TCP, after xid, REPLY, MSG_ACCEPTED and the verifier.
fn over_tcp(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let record = [&(0x8000_0000 | message.len() as u32).to_be_bytes()[..], message].concat();
    assert_eq!(PORTMAP_MAP.handle_stream(&record, local(), &mut out), Ok(record.len()));
    let Some(rpc::RpcRecord { message, len }) = rpc::next_record(&out).unwrap() else { return Vec::new() };
    assert_eq!(len, out.len(), "one record");
    accepted(&message)
}

fn over_udp(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PORTMAP_MAP.handle_datagram(message, local(), &mut out);
    if out.is_empty() { out } else { accepted(&out) }
}

fn accepted(reply: &[u8]) -> Vec<u8> {
    reply.strip_prefix(&words(&[0xabcd, 1, 0, 0, 0])[..]).expect("an accepted reply to our call").to_vec()
}

#[test]
fn nfsmount_gets_the_captured_reply() {
    // From the capture of a mount: GETPORT of NFS, and rpcbind's answer.
    let asked =
        b"\x80\0\0\x38\x65\xad\x41\x42\0\0\0\0\0\0\0\x02\0\x01\x86\xa0\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\x01\x86\xa3\0\0\0\x03\0\0\0\x06\0\0\0\0";
    let answered = b"\x80\0\0\x1c\x65\xad\x41\x42\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\x01";
    let mut out = Vec::new();
    assert_eq!(PORTMAP_MAP.handle_stream(asked, local(), &mut out), Ok(asked.len()));
    assert_eq!(out, answered);
    out.clear();
    PORTMAP_MAP.handle_datagram(&asked[4..], local(), &mut out);
    assert_eq!(out, answered[4..]);
}

#[test]
fn getport_is_zero_for_unknown_services() {
    for (program, version, protocol, port) in [
        (NFS, 3, 6, 2049),
        (MOUNT, 3, 6, 2049),
        (PORTMAP, 2, 6, 111),
        (PORTMAP, 4, 17, 111),
        (NFS, 3, 17, 0),
        // As rpcbind: the port of another version, which tells its versions there.
        (NFS, 0, 6, 2049),
        (NFS, 2, 6, 2049),
        (NFS, 4, 6, 2049),
        (MOUNT, 1, 6, 2049),
        (PORTMAP, 9, 6, 111),
        (MOUNT, 3, 17, 0),
        (100_021, 4, 6, 0),
        (NFS, 3, 0, 0),
    ] {
        let message = call(PORTMAP, 2, 3, &words(&[program, version, protocol, 0]));
        assert_eq!(over_tcp(&message), words(&[0, port]), "{program} {version} {protocol}");
        assert_eq!(over_udp(&message), words(&[0, port]), "{program} {version} {protocol}");
    }
}

#[test]
fn universal_address_is_the_called_one() {
    let nfs = [&words(&[0, 16])[..], b"192.168.77.1.8.1"].concat();
    let own = [&words(&[0, 18])[..], b"192.168.77.1.0.111\0\0"].concat();
    for (version, procedure) in [(3, 3), (4, 3), (4, 9)] {
        assert_eq!(over_tcp(&call(PORTMAP, version, procedure, &rpcb(NFS, 3))), nfs);
        assert_eq!(over_tcp(&call(PORTMAP, version, procedure, &rpcb(MOUNT, 3))), nfs);
        // Only GETVERSADDR insists on the version.
        let other = if procedure == 9 { words(&[0, 0]) } else { nfs.clone() };
        assert_eq!(over_tcp(&call(PORTMAP, version, procedure, &rpcb(NFS, 4))), other, "{procedure}");
        assert_eq!(
            over_udp(&call(PORTMAP, version, procedure, &rpcb(NFS, 3))),
            words(&[0, 0]),
            "no NFS over UDP"
        );
        assert_eq!(over_udp(&call(PORTMAP, version, procedure, &rpcb(PORTMAP, 4))), own);
    }
}

#[test]
fn portmapper_list_has_all_services() {
    let list = over_tcp(&call(PORTMAP, 2, 4, b""));
    let mut reader = Reader::new(&list);
    assert_eq!(reader.u32_be(), Ok(0));
    let mut list = Vec::new();
    while reader.u32_be() == Ok(1) {
        list.push([(); 4].map(|()| reader.u32_be().unwrap()));
    }
    assert!(reader.is_empty());
    let own =
        [4, 3, 2].into_iter().flat_map(|version| [[PORTMAP, version, 6, 111], [PORTMAP, version, 17, 111]]);
    let served = [[NFS, 3, 6, 2049], [MOUNT, 3, 6, 2049]];
    assert_eq!(list, own.chain(served).collect::<Vec<_>>());
}

#[test]
fn rpcbind_list_has_all_services() {
    let list = over_tcp(&call(PORTMAP, 4, 4, b""));
    let mut reader = Reader::new(&list);
    assert_eq!(reader.u32_be(), Ok(0));
    let mut list = Vec::new();
    while reader.u32_be() == Ok(1) {
        let (program, version) = (reader.u32_be().unwrap(), reader.u32_be().unwrap());
        let strings =
            [(); 3].map(|()| String::from_utf8(xdr::opaque(&mut reader, 100).unwrap().to_vec()).unwrap());
        list.push((program, version, strings.join(" ")));
    }
    assert!(reader.is_empty());
    assert_eq!(list.len(), 8);
    assert!(list.contains(&(PORTMAP, 4, "udp 192.168.77.1.0.111 isowire".to_owned())));
    assert!(list.contains(&(MOUNT, 3, "tcp 192.168.77.1.8.1 isowire".to_owned())));
}

#[test]
fn datagram_never_gets_a_list() {
    for version in 2..=4 {
        assert_eq!(over_udp(&call(PORTMAP, version, 4, &[0; 1000])), words(&[3]), "PROC_UNAVAIL");
    }
}

#[test]
fn peers_cannot_register_services() {
    for version in 2..=4 {
        for procedure in [1, 2] {
            for args in [words(&[NFS, 3, 6, 666]), rpcb(NFS, 3), Vec::new()] {
                assert_eq!(over_tcp(&call(PORTMAP, version, procedure, &args)), words(&[0, 0]));
                assert_eq!(over_udp(&call(PORTMAP, version, procedure, &args)), words(&[0, 0]));
            }
        }
    }
    assert_eq!(over_udp(&call(PORTMAP, 2, 3, &words(&[NFS, 3, 6, 0]))), words(&[0, 2049]));
}

#[test]
fn callit_gets_no_reply() {
    for version in 2..=4 {
        let message = call(PORTMAP, version, 5, &words(&[MOUNT, 3, 0, 0]));
        assert_eq!(over_udp(&message), b"");
        assert_eq!(over_tcp(&message), b"");
    }
    let broadcast = call(PORTMAP, 4, 10, &words(&[MOUNT, 3, 0, 0]));
    assert_eq!(over_udp(&broadcast), words(&[3]), "INDIRECT tells of its failure");
}

#[test]
fn unknown_calls_get_standard_errors() {
    for (program, version, procedure, args, state) in [
        (PORTMAP, 2, 0, vec![], vec![0]),
        (PORTMAP, 4, 0, vec![], vec![0]),
        (PORTMAP, 1, 0, vec![], vec![2, 2, 4]),
        (PORTMAP, 5, 0, vec![], vec![2, 2, 4]),
        (PORTMAP, 2, 6, vec![], vec![3]),
        (PORTMAP, 3, 9, rpcb(NFS, 3), vec![3]),
        (PORTMAP, 4, 13, vec![], vec![3]),
        (PORTMAP, 2, 3, words(&[NFS, 3, 6]), vec![4]),
        (PORTMAP, 4, 3, words(&[NFS, 3, 4, 0, u32::MAX]), vec![4]),
        (PORTMAP, 4, 3, [words(&[NFS, 3, 256]), vec![0; 264]].concat(), vec![4]),
        (NFS, 3, 0, vec![], vec![1]),
    ] {
        assert_eq!(over_tcp(&call(program, version, procedure, &args)), words(&state));
        assert_eq!(over_udp(&call(program, version, procedure, &args)), words(&state));
    }
}

#[test]
fn calls_are_answered_in_order() {
    let mut input = Vec::new();
    for xid in 0..20_u32 {
        let message = [&xid.to_be_bytes(), &call(PORTMAP, 2, 0, b"")[4..]].concat();
        input.extend([&(0x8000_0000 | message.len() as u32).to_be_bytes()[..], &message].concat());
    }
    let complete = input.len();
    input.extend(&input[..30].to_vec());
    let mut out = Vec::new();
    assert_eq!(PORTMAP_MAP.handle_stream(&input, local(), &mut out), Ok(complete));
    let xids: Vec<_> =
        out.chunks(4 + 24).map(|reply| u32::from_be_bytes(reply[4..8].try_into().unwrap())).collect();
    assert_eq!(xids, (0..20).collect::<Vec<_>>());
}

#[test]
fn malformed_stream_ends_after_earlier_replies() {
    let message = call(PORTMAP, 2, 0, b"");
    let good = [&(0x8000_0000 | message.len() as u32).to_be_bytes()[..], &message].concat();
    for bad in [&b"\x80\0\0\x04abcd"[..], b"\x80\0\0\x08abcd\0\0\0\x01", b"\x7f\xff\xff\xff"] {
        let mut out = Vec::new();
        assert!(PORTMAP_MAP.handle_stream(&[&good[..], bad].concat(), local(), &mut out).is_err());
        assert_eq!(out.len(), 4 + 24, "the first call has its answer, and nothing follows");
    }
    let mut out = Vec::new();
    PORTMAP_MAP.handle_datagram(b"abcd\0\0\0\x01", local(), &mut out);
    assert!(out.is_empty(), "two portmappers could answer each other for ever");
}

#[test]
fn universal_address_may_be_ipv6() {
    let local: SocketAddr = "[fd00::1]:111".parse().unwrap();
    assert_eq!(universal_address(local, 2049), "fd00::1.8.1");
    assert_eq!(netid(Transport::Tcp, local), b"tcp6");
}
