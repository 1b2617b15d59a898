use super::*;

const PATH: &str = "usr/lib/stub";
const BLOCK: usize = 4096;

/// Squashfs image in which nothing is compressed: `usr/lib/` with `a-link`, `stub` of `size` bytes
/// and `zeros`.
struct Built {
    bytes: Vec<u8>,
    content: Vec<u8>,
    inode_table: usize,
    directory_table: usize,
}

fn metadata(content: &[u8]) -> Vec<u8> {
    [&(0x8000 | content.len() as u16).to_le_bytes()[..], content].concat()
}

fn inode(kind: u16, body: &[u32]) -> Vec<u8> {
    let header = [&kind.to_le_bytes()[..], &[0; 14]].concat();
    [header, body.iter().flat_map(|word| word.to_le_bytes()).collect()].concat()
}

fn directory(len: usize, offset: usize) -> Vec<u8> {
    inode(1, &[0, 2, (len as u32 + 3) | (offset as u32) << 16, 1])
}

fn entries(entries: &[(&str, usize)]) -> Vec<u8> {
    let mut listing = Vec::new();
    listing.extend([entries.len() as u32 - 1, 0, 1].iter().flat_map(|word| word.to_le_bytes()));
    for (name, offset) in entries {
        listing.extend((*offset as u16).to_le_bytes());
        listing.extend([0, 0, 2, 0]);
        listing.extend((name.len() as u16 - 1).to_le_bytes());
        listing.extend(name.bytes());
    }
    listing
}

fn build(size: usize) -> Built {
    let content: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
    let blocks = size / BLOCK;
    let tail = &content[blocks * BLOCK..];
    let mut bytes = vec![0; 96];
    bytes.extend(&content[..blocks * BLOCK]);
    let fragment_at = bytes.len();
    bytes.extend(b"another's end");
    bytes.extend(tail);

    let mut inodes = Vec::new();
    let link = inodes.len();
    inodes.extend(inode(3, &[1, 4]));
    let stub = inodes.len();
    let fragment = if tail.is_empty() { u32::MAX } else { 0 };
    let mut body = vec![96, fragment, 13, size as u32];
    body.extend(vec![BLOCK as u32 | 1 << 24; blocks]);
    inodes.extend(inode(2, &body));
    // Inode 9 is the long form; its one block is a hole.
    let zeros = inodes.len();
    inodes.extend(inode(9, &[96, 0, 100, 0, 0, 0, 1, u32::MAX, 0, u32::MAX, 0]));
    let lib_listing = entries(&[("a-link", link), ("stub", stub), ("zeros", zeros)]);
    let lib = inodes.len();
    inodes.extend(directory(lib_listing.len(), 0));
    let usr_listing = entries(&[("lib", lib)]);
    let usr = inodes.len();
    inodes.extend(directory(usr_listing.len(), lib_listing.len()));
    let root_listing = entries(&[("bin", usr), ("usr", usr)]);
    let root = inodes.len();
    let offset = lib_listing.len() + usr_listing.len();
    // Inode 8 is the long form of a directory.
    inodes.extend(inode(8, &[2, root_listing.len() as u32 + 3, 0, 1, (offset as u32) << 16, u32::MAX]));

    let inode_table = bytes.len();
    bytes.extend(metadata(&inodes));
    let directory_table = bytes.len();
    bytes.extend(metadata(&[lib_listing, usr_listing, root_listing].concat()));
    let fragments = bytes.len();
    let fragment_len = (13 + tail.len()) as u64 | 1 << 24;
    bytes.extend(metadata(&[fragment_at as u64, fragment_len].map(u64::to_le_bytes).concat()));
    let fragment_table = bytes.len();
    bytes.extend((fragments as u64).to_le_bytes());

    let mut superblock = b"hsqs".to_vec();
    superblock.extend([6, 0, BLOCK as u32, 1].iter().flat_map(|word: &u32| word.to_le_bytes()));
    superblock.extend([1, 12, 0, 1, 4, 0].iter().flat_map(|half: &u16| half.to_le_bytes()));
    let numbers = [root, bytes.len(), 0, 0, inode_table, directory_table, fragment_table, 0];
    superblock.extend(numbers.iter().flat_map(|&number| (number as u64).to_le_bytes()));
    bytes[..96].copy_from_slice(&superblock);
    Built { bytes, content, inode_table, directory_table }
}

fn read(image: &[u8], path: &str) -> Result<Vec<u8>, RootfsError> {
    Squashfs::open(image)?.read_file(path, 1 << 20)
}

#[test]
fn file_is_blocks_and_fragment() {
    for size in [0, 1, BLOCK - 100, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 77] {
        let built = build(size);
        assert_eq!(read(&built.bytes, PATH).unwrap(), built.content, "{size} bytes");
    }
    assert_eq!(read(&build(5).bytes, "usr/lib/zeros").unwrap(), [0; 100], "a hole");
}

#[test]
fn missing_path_is_an_error() {
    let image = build(10).bytes;
    for path in
        ["usr/lib/nothing", "usr/lib64/stub", "usr/lib/a", "zzz", "usr/lib/stub/x", "usr/lib/a-link/x", ""]
    {
        let error = read(&image, path).unwrap_err();
        assert_eq!(error.to_string(), format!("/{path} does not exist"));
    }
    for path in ["usr/lib", "usr/lib/a-link"] {
        let error = read(&image, path).unwrap_err();
        assert_eq!(error.to_string(), format!("/{path} is not a regular file"));
    }
}

#[test]
fn size_limit_is_kept() {
    let image = build(5000).bytes;
    let squashfs = Squashfs::open(&image[..]).unwrap();
    assert_eq!(squashfs.read_file(PATH, 5000).unwrap().len(), 5000);
    let error = squashfs.read_file(PATH, 4999).unwrap_err();
    assert_eq!(error.to_string(), "/usr/lib/stub has 5000 bytes, more than the limit of 4999");
}

#[test]
fn other_formats_are_explained() {
    let image = build(10).bytes;
    let with = |at: usize, byte: u8| {
        let mut image = image.clone();
        image[at] = byte;
        Squashfs::open(&image[..]).err().map(|error| error.to_string())
    };
    assert_eq!(with(0, b'H').unwrap(), "it is damaged: its magic number is not that of squashfs");
    assert_eq!(with(20, 3).unwrap(), "it is compressed with lzo, which isowire does not read");
    assert_eq!(
        with(22, 13).unwrap(),
        "it is damaged: its block size is not a power of two from 4 KiB to 1 MiB"
    );
    assert_eq!(with(28, 3).unwrap(), "it is damaged: its version is not 4.0");
    assert_eq!(Squashfs::open(&image[..95]).unwrap_err().to_string(), "it is damaged: it is cut off");
}

#[test]
fn truncated_image_is_an_error() {
    let built = build(BLOCK + 77);
    for len in 0..built.bytes.len() {
        read(&built.bytes[..len], PATH).unwrap_err();
    }
}

#[test]
fn corrupt_byte_does_no_harm() {
    let built = build(BLOCK + 77);
    let places = (0..96).chain(built.inode_table..built.bytes.len());
    for at in places {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut image = built.bytes.clone();
            image[at] = byte;
            let _any = read(&image, PATH);
        }
    }
}

#[test]
fn endless_directories_are_bounded() {
    let mut built = build(10);
    let endless: Vec<u8> = entries(&[("a", 0)]).repeat(300);
    built.bytes.truncate(built.directory_table);
    for _ in 0..METADATA_BLOCKS_MAX {
        built.bytes.extend(metadata(&endless));
    }
    let root = built.inode_table + 2;
    let listing = built.bytes[root..built.directory_table].windows(2).rposition(|window| window == [8, 0]);
    let size = root + listing.unwrap() + 16 + 4;
    built.bytes[size..size + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let offset = size + 4 + 4 + 4 + 2;
    built.bytes[offset..offset + 2].copy_from_slice(&[0, 0]);
    let error = read(&built.bytes, "z").unwrap_err();
    assert_eq!(error.to_string(), "it is damaged: its directories are too large");
}
