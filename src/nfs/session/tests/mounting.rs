use super::*;

#[test]
fn mounts_resolve_to_directories() {
    let mut client = Client::new();
    let mut mounted = |path: &[u8]| {
        let results = client.mount(1, &Args::default().bytes(path));
        let mut reader = Reader::new(&results);
        match reader.u32_be().unwrap() {
            0 => {
                let handle = FileHandle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap();
                assert_eq!(reader.rest(), b"\0\0\0\x02\0\0\0\x01\0\0\0\0", "AUTH_SYS, AUTH_NONE");
                let images = client.images.iter();
                Ok((images.map(|i| i.image.identity).position(|i| i == handle.identity), handle.node))
            }
            status => {
                assert!(reader.is_empty());
                Err(status)
            }
        }
    };
    for path in ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/mnt/archiso/", "/first"] {
        assert_eq!(mounted(path.as_bytes()), Ok((Some(0), ROOT)), "{path}");
    }
    assert_eq!(mounted(b"/arch"), Ok((Some(0), ARCH)));
    assert_eq!(mounted(b"/second"), Ok((Some(1), ROOT)));
    assert_eq!(mounted(b"/second/arch"), Ok((Some(1), ARCH)));
    for path in [&b"/../../etc"[..], b"/none", b"/arch\0", b"/ARCH"] {
        assert_eq!(mounted(path), Err(2), "{}", path.escape_ascii());
    }
    assert_eq!(mounted(b"/arch/script"), Err(20));
    assert_eq!(mounted(b"/link"), Err(20));
    assert_eq!(mounted(&[b'/'; 1024]), Ok((Some(0), ROOT)));
    assert_eq!(mounted(&[b'/'; 1025]), Err(63));
}

#[test]
fn other_mount_procedures_are_answered() {
    let mut client = Client::new();
    let nothing = Args::default();
    assert!(client.mount(0, &nothing).is_empty());
    assert_eq!(client.mount(2, &nothing), [0; 4], "DUMP: nobody is on record");
    assert!(client.mount(3, &Args::default().bytes(b"/")).is_empty());
    assert!(client.mount(4, &nothing).is_empty());
    let mut list = Args::default();
    for path in ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/first", "/second"] {
        list = list.u32(1).bytes(path.as_bytes()).u32(0);
    }
    assert_eq!(client.mount(5, &nothing), list.u32(0).0);
}

/// nfsmount's MNT, as captured (`nfs-mount.pcap`, frame 24).
#[test]
fn mount_reply_has_the_nfsmount_layout() {
    let call =
        b"\x80\0\0\x38\x59\xe6\xcf\x51\0\0\0\0\0\0\0\x02\0\x01\x86\xa5\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\x0c/mnt/archiso";
    let (mut client, mut batch) = (Client::new(), Batch::default());
    assert_eq!(
        client.session.handle(&client.images, &mut BytesMut::from(&call[..]), &AllCached, &mut batch),
        Turn::Drained
    );
    let chunks: Vec<_> = batch.chunks().collect();
    let [Chunk::Bytes(reply)] = chunks[..] else { panic!("{chunks:?}") };
    // The mark, the xid, REPLY, MSG_ACCEPTED, a verifier of no bytes, SUCCESS, MNT3_OK, a handle of
    // 16 bytes.
    let head = b"\x80\0\0\x3c\x59\xe6\xcf\x51\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10";
    assert_eq!(reply.strip_prefix(head).map(<[u8]>::len), Some(16 + 12));
}
