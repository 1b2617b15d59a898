use super::*;

/// A page of a directory: names with file ids and cookies, the end, the bytes behind the status.
struct Page {
    entries: Vec<(Vec<u8>, u64, u64)>,
    eof: bool,
    len: usize,
}

impl Client {
    fn list(&mut self, procedure: u32, node: NodeId, cookie: u64, counts: &[u32]) -> Result<Page, u32> {
        let identity = self.images.default_image().image.identity;
        let args = self.on(node).u64(cookie).u64(identity.0);
        let args = counts.iter().fold(args, |args, &count| args.u32(count));
        let results = self.nfs(procedure, &args);
        let mut reader = Reader::new(&results);
        let status = reader.u32_be().unwrap();
        reader.skip(WITH).unwrap();
        if status != 0 {
            assert!(reader.is_empty());
            return Err(status);
        }
        assert_eq!(reader.u64_be().unwrap(), identity.0, "the verifier");
        let mut entries = Vec::new();
        while reader.u32_be().unwrap() == 1 {
            let fileid = reader.u64_be().unwrap();
            let name = xdr::opaque(&mut reader, 255).unwrap().to_vec();
            entries.push((name, fileid, reader.u64_be().unwrap()));
            if procedure == READDIRPLUS {
                reader.skip(WITH + 4).unwrap();
                let handle = FileHandle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap();
                assert_eq!(u64::from(handle.node.0) + 1, fileid);
            }
        }
        let eof = reader.u32_be().unwrap() == 1;
        assert!(reader.is_empty());
        Ok(Page { entries, eof, len: results.len() - 4 })
    }

    /// All names, page by page; every page is within its limit.
    fn list_all(&mut self, procedure: u32, node: NodeId, counts: &[u32]) -> Vec<Vec<u8>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let page = self.list(procedure, node, cookie, counts).unwrap();
            assert!(page.len <= (*counts.last().unwrap()).min(DIRECTORY_MAX) as usize);
            cookie = page.entries.last().map_or(cookie, |&(_, _, cookie)| cookie);
            names.extend(page.entries.into_iter().map(|(name, ..)| name));
            if page.eof {
                return names;
            }
        }
    }
}

#[test]
fn listing_begins_with_dots() {
    let mut client = Client::new();
    for (procedure, counts) in [(READDIR, &[4096][..]), (READDIRPLUS, &[4096, 4096])] {
        let page = client.list(procedure, SMALL, 0, counts).unwrap();
        let names: Vec<_> = page.entries.iter().map(|(name, fileid, _)| (&name[..], *fileid)).collect();
        assert_eq!(names, [(&b"."[..], 11), (b"..", 1), (&LONG[..], 12), (b"\xff\xfe", 13)]);
        assert!(page.eof);
        let root = client.list(procedure, ROOT, 0, counts).unwrap();
        assert_eq!(root.entries[1].1, 1, "the root is its own parent");
    }
}

#[test]
fn listing_is_complete_at_any_count() {
    let mut client = Client::new();
    let dots = [b".".to_vec(), b"..".to_vec()];
    let expected: Vec<_> = dots.into_iter().chain((0..10_000).map(|n| format!("file{n}").into())).collect();
    for (procedure, counts) in [
        (READDIR, &[256][..]),
        (READDIR, &[4096]),
        (READDIR, &[u32::MAX]),
        (READDIRPLUS, &[8192, 512]),
        (READDIRPLUS, &[512, 32768]),
        (READDIRPLUS, &[8192, 65536]),
        (READDIRPLUS, &[u32::MAX, u32::MAX]),
    ] {
        assert!(client.list_all(procedure, MANY, counts) == expected, "{procedure} {counts:?}");
    }
}

#[test]
fn listing_continues_after_any_entry() {
    let mut client = Client::new();
    let whole = client.list(READDIR, ROOT, 0, &[4096]).unwrap().entries;
    for (place, (_, _, cookie)) in whole.iter().enumerate() {
        let rest = client.list(READDIR, ROOT, *cookie, &[4096]).unwrap();
        assert_eq!(rest.entries, whole[place + 1..]);
        assert!(rest.eof);
    }
}

#[test]
fn listing_counts_are_exact() {
    let mut client = Client::new();
    let small = wire::NfsStatus::TooSmall as u32;
    let frame = WITH + 8 + 8;
    // One entry with a name of one or two bytes: it follows, file id, name, cookie.
    let entry = 4 + 8 + 8 + 8;
    for (count, entries) in [(entry, 1), (2 * entry - 1, 1), (2 * entry, 2)] {
        let page = client.list(READDIR, SMALL, 0, &[(frame + count) as u32]).unwrap();
        assert_eq!((page.entries.len(), page.eof), (entries, false));
    }
    for count in [0, 1, frame, frame + entry - 1] {
        assert_eq!(client.list(READDIR, SMALL, 0, &[count as u32]).err(), Some(small), "{count}");
    }
    let plus = entry + WITH + 4 + 4 + 16;
    for (dircount, maxcount, entries) in [(24, 8192, Some(1)), (47, 8192, Some(1)), (48, 8192, Some(2))] {
        let page = client.list(READDIRPLUS, SMALL, 0, &[dircount, maxcount]).ok();
        assert_eq!(page.map(|page| page.entries.len()), entries);
    }
    assert_eq!(client.list(READDIRPLUS, SMALL, 0, &[23, 8192]).err(), Some(small));
    assert_eq!(client.list(READDIRPLUS, SMALL, 0, &[8192, (frame + plus - 1) as u32]).err(), Some(small));
    let page = client.list(READDIRPLUS, SMALL, 0, &[8192, (frame + plus) as u32]).unwrap();
    assert_eq!(page.len, frame + plus);
    // Behind the last entry there is nothing, which takes no more than the frame.
    let page = client.list(READDIR, SMALL, 4, &[frame as u32]).unwrap();
    assert!(page.eof && page.entries.is_empty());
}

#[test]
fn cookies_belong_to_their_image() {
    let mut client = Client::new();
    let bad = wire::NfsStatus::BadCookie as u32;
    assert_eq!(client.list(READDIR, SMALL, 5, &[4096]).err(), Some(bad));
    assert_eq!(client.list(READDIR, SMALL, u64::MAX, &[4096]).err(), Some(bad));
    let wrong = |client: &Client, cookie: u64| client.on(SMALL).u64(cookie).u64(12345).u32(4096);
    assert_eq!(client.status(READDIR, &wrong(&client, 2)), (bad, WITH));
    assert_eq!(client.status(READDIR, &wrong(&client, 0)).0, 0, "a new listing needs no verifier");
    assert_eq!(client.list(READDIR, SCRIPT, 0, &[4096]).err(), Some(wire::NfsStatus::NotDir as u32));
}
