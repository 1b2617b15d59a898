use super::*;

#[test]
fn handle_is_good_stale_or_bad() {
    let mut client = Client::new();
    let identity = client.images.default_image().image.identity;
    let handle = |identity, node| Args::default().bytes(&FileHandle { identity, node }.bytes());
    let good = handle(identity, ROOT);
    let mut flipped = good.clone();
    flipped.0[9] ^= 1;
    let elsewhere = crate::image::Identity(!identity.0);
    let bad = wire::NfsStatus::BadHandle as u32;
    let stale = wire::NfsStatus::Stale as u32;
    for (args, status) in [
        (good, 0),
        (handle(elsewhere, ROOT), stale),
        (handle(identity, NodeId(1 << 20)), stale),
        (flipped, bad),
        (Args::default().bytes(b""), bad),
        (Args::default().bytes(b"random bytes"), bad),
        (Args::default().bytes(&[0; 64]), bad),
    ] {
        let len = if status == 0 { 84 } else { 0 };
        assert_eq!(client.status(GETATTR, &args), (status, len));
    }
    let nowhere = Args::default().bytes(b"?").u64(0).u64(0).u64(0);
    for procedure in (ACCESS..=COMMIT).filter(|&number| !read_only::modifies(number)) {
        let args = if procedure == LOOKUP { nowhere.clone().bytes(b"name") } else { nowhere.clone() };
        assert_eq!(client.status(procedure, &args), (bad, 4), "{procedure}: no attributes");
    }
}

#[test]
fn attributes_come_from_rock_ridge() {
    let mut client = Client::new();
    let mut attributes = |node| {
        let results = client.nfs(GETATTR, &client.on(node));
        let mut reader = Reader::new(&results);
        reader.skip(4).unwrap();
        let [file_type, mode, nlink, uid, gid] = std::array::from_fn(|_| reader.u32_be().unwrap());
        let [size, used, _rdev, _fsid, fileid] = std::array::from_fn(|_| reader.u64_be().unwrap());
        let time = reader.u64_be().unwrap() >> 32;
        ([file_type, mode, nlink, uid, gid], [size, used, fileid, time])
    };
    let time = 1_700_000_000;
    assert_eq!(attributes(ROOT), ([2, 0o755, 1, 0, 0], [2048, 2048, 1, time]));
    let size = AIROOTFS_LEN;
    assert_eq!(attributes(AIROOTFS), ([1, 0o444, 1, 0, 0], [size, size.next_multiple_of(2048), 3, time]));
    assert_eq!(attributes(SPLIT).1, [17, 2048, 4, time]);
    assert_eq!(attributes(SECRET), ([1, 0o600, 1, 0, 0], [0, 0, 6, 0]), "before 1970 is 1970");
    assert_eq!(attributes(SHARED).0, [1, 0o754, 1, 1000, 998], "nlink is never 0");
    assert_eq!(attributes(LINK), ([5, 0o777, 1, 0, 0], [11, 2048, 8, time]));
    assert_eq!(attributes(DEVICE).0, [4, 0o666, 1, 0, 0]);
}

#[test]
fn lookup_compares_names_exactly() {
    let mut client = Client::new();
    let mut lookup = |directory, name: &[u8]| {
        let args = client.on(directory).bytes(name);
        let results = client.nfs(LOOKUP, &args);
        let mut reader = Reader::new(&results);
        match reader.u32_be().unwrap() {
            0 => {
                let node = FileHandle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap().node;
                assert_eq!(reader.remaining(), 2 * WITH);
                Ok(node)
            }
            status => {
                assert_eq!(reader.remaining(), WITH, "attributes of the directory");
                Err(status)
            }
        }
    };
    assert_eq!(lookup(ROOT, b"arch"), Ok(ARCH));
    assert_eq!(lookup(ARCH, b"airootfs.sfs"), Ok(AIROOTFS));
    assert_eq!(lookup(ROOT, b"link"), Ok(LINK), "not followed");
    assert_eq!(lookup(ROOT, b"."), Ok(ROOT));
    assert_eq!(lookup(ROOT, b".."), Ok(ROOT));
    assert_eq!(lookup(ARCH, b"."), Ok(ARCH));
    assert_eq!(lookup(ARCH, b".."), Ok(ROOT));
    assert_eq!(lookup(SMALL, &LONG), Ok(NodeId(11)));
    assert_eq!(lookup(SMALL, b"\xff\xfe"), Ok(NodeId(12)));
    for name in [&b"ARCH"[..], b"", b"arch/script", b"/arch", b"arch\0", b"none"] {
        assert_eq!(lookup(ROOT, name), Err(wire::NfsStatus::NoEnt as u32), "{}", name.escape_ascii());
    }
    assert_eq!(lookup(ROOT, &[b'n'; 256]), Err(wire::NfsStatus::NameTooLong as u32));
    assert_eq!(lookup(ROOT, &[b'n'; 8000]), Err(wire::NfsStatus::NameTooLong as u32));
    assert_eq!(lookup(SCRIPT, b"x"), Err(wire::NfsStatus::NotDir as u32));
    assert_eq!(lookup(LINK, b"script"), Err(wire::NfsStatus::NotDir as u32));
}

#[test]
fn access_follows_the_mode() {
    const NOTHING: u32 = 0;
    const READ: u32 = 1;
    const LOOKUP: u32 = 2;
    const EXECUTE: u32 = 0x20;
    let mut client = Client::new();
    let mut granted = |credentials: Vec<u8>, node| {
        client.credentials = credentials;
        let args = client.on(node).u32(0x3f);
        let results = client.nfs(ACCESS, &args);
        assert_eq!(results.len(), 4 + WITH + 4);
        Reader::new(&results[4 + WITH..]).u32_be().unwrap()
    };
    let (root, user, owner, member) = (auth_sys(0, 0), auth_sys(5, 5), auth_sys(1000, 5), auth_sys(5, 998));
    assert_eq!(granted(root.clone(), SCRIPT), READ | EXECUTE);
    assert_eq!(granted(root.clone(), SECRET), READ, "nobody may run it, so root may not either");
    assert_eq!(granted(root.clone(), ARCH), READ | LOOKUP);
    assert_eq!(granted(root, SHARED), READ | EXECUTE);
    assert_eq!(granted(user.clone(), SCRIPT), READ | EXECUTE);
    assert_eq!(granted(user.clone(), SECRET), NOTHING);
    assert_eq!(granted(user.clone(), ARCH), NOTHING);
    assert_eq!(granted(user.clone(), ROOT), READ | LOOKUP);
    // Every caller of this test is in group 998.
    assert_eq!(granted(user, SHARED), READ | EXECUTE, "supplementary group");
    assert_eq!(granted(member, SHARED), READ | EXECUTE);
    assert_eq!(granted(owner, SHARED), READ | EXECUTE);
    assert_eq!(granted(nobody(), SHARED), READ);
    assert_eq!(granted(nobody(), SECRET), NOTHING);
}

#[test]
fn access_grants_only_what_was_asked() {
    let mut client = Client::new();
    let args = client.on(SCRIPT).u32(0x20);
    assert_eq!(client.nfs(ACCESS, &args)[4 + WITH..], [0, 0, 0, 0x20]);
}

#[test]
fn readlink_returns_the_target() {
    let mut client = Client::new();
    let results = client.nfs(READLINK, &client.on(LINK));
    assert_eq!(results[4 + WITH..], *b"\0\0\0\x0barch/script\0");
    for node in [SCRIPT, ARCH, DEVICE] {
        assert_eq!(client.status(READLINK, &client.on(node)), (wire::NfsStatus::Inval as u32, WITH));
    }
}

#[test]
fn read_is_a_range_of_the_image() {
    let mut client = Client::new();
    let start = 1 << 20;
    assert_eq!(client.read(AIROOTFS, 0, 131_072), (131_072, 0, vec![(start, 131_072)]));
    assert_eq!(client.read(AIROOTFS, 4097, 3), (3, 0, vec![(start + 4097, 3)]), "padded");
    assert_eq!(client.read(SPLIT, 8, 4), (4, 0, vec![(108, 2), (500, 2)]));
    assert_eq!(client.session.totals(), ReadTotals { reads: 3, bytes: 131_072 + 3 + 4 });
}

#[test]
fn read_ends_at_limit_and_end() {
    let mut client = Client::new();
    let (start, end) = (1 << 20, AIROOTFS_LEN);
    assert_eq!(client.read(AIROOTFS, 0, u32::MAX), (READ_MAX, 0, vec![(start, READ_MAX.into())]));
    assert_eq!(client.read(AIROOTFS, end - 5, 4), (4, 0, vec![(start + end - 5, 4)]));
    assert_eq!(client.read(AIROOTFS, end - 5, 5), (5, 1, vec![(start + end - 5, 5)]));
    assert_eq!(client.read(AIROOTFS, end - 5, 4096), (5, 1, vec![(start + end - 5, 5)]));
    assert_eq!(client.read(AIROOTFS, end, 4096), (0, 1, vec![]));
    assert_eq!(client.read(AIROOTFS, u64::MAX, u32::MAX), (0, 1, vec![]));
    assert_eq!(client.read(AIROOTFS, 0, 0), (0, 0, vec![]));
    assert_eq!(client.read(SECRET, 0, 1), (0, 1, vec![]), "an empty file");
}

#[test]
fn read_takes_only_files() {
    let mut client = Client::new();
    let statuses =
        [(ARCH, wire::NfsStatus::IsDir), (LINK, wire::NfsStatus::Inval), (DEVICE, wire::NfsStatus::Inval)];
    for (node, status) in statuses {
        let args = client.on(node).u64(0).u32(10);
        assert_eq!(client.status(READ, &args), (status as u32, WITH));
    }
}

const REMOVE: u32 = 12;

#[test]
fn modifying_calls_are_refused_in_form() {
    let mut client = Client::new();
    let rofs = wire::NfsStatus::Rofs as u32;
    let wcc = 4 + WITH;
    let more = Args::default().bytes(b"name").u64(0).u64(0).0;
    // CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR.
    let made_or_removed = REMOVE - 4..=REMOVE + 1;
    for procedure in [SETATTR, WRITE, COMMIT].into_iter().chain(made_or_removed) {
        let args = Args([client.on(ARCH).0, more.clone()].concat());
        assert_eq!(client.status(procedure, &args), (rofs, wcc), "{procedure}");
    }
    let rename = Args([client.on(ARCH).bytes(b"from").0, client.on(ROOT).bytes(b"to").0].concat());
    assert_eq!(client.status(RENAME, &rename), (rofs, 2 * wcc));
    let link = Args([client.on(SCRIPT).0, client.on(ROOT).bytes(b"name").0].concat());
    assert_eq!(client.status(wire::procedure::LINK, &link), (rofs, WITH + wcc));

    let write = client.on(SCRIPT).u64(0).u32(8192).u32(2).bytes(&[7; 8192]);
    assert_eq!(client.status(WRITE, &write), (rofs, wcc), "the longest write that FSINFO allows");

    let bad = Args::default().bytes(b"?");
    assert_eq!(client.status(REMOVE, &bad.clone().bytes(b"name")), (wire::NfsStatus::BadHandle as u32, 8));
    let rename = Args([client.on(ARCH).bytes(b"from").0, bad.bytes(b"to").0].concat());
    assert_eq!(client.status(RENAME, &rename), (wire::NfsStatus::BadHandle as u32, wcc + 8));
}

#[test]
fn file_system_results_are_complete() {
    let mut client = Client::new();
    let root = client.on(ROOT);
    let words = |results: Vec<u8>| -> Vec<u32> {
        results[4 + WITH..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    };
    let info = words(client.nfs(FSINFO, &root));
    assert_eq!(info, [1 << 20, 1 << 20, 4096, 8192, 8192, 4096, 65536, 0x7fff_ffff, u32::MAX, 1, 0, 10]);
    let nodes = client.images.default_image().image.index.len() as u32;
    let stat = words(client.nfs(FSSTAT, &root));
    assert_eq!(stat, [0, 5000, 0, 0, 0, 0, 0, nodes, 0, 0, 0, 0, u32::MAX]);
    assert_eq!(words(client.nfs(PATHCONF, &root)), [0x7fff_ffff, 255, 1, 1, 0, 1]);
    assert!(client.nfs(NULL, &Args::default()).is_empty());
}
