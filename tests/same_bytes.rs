//! The same bytes through every door: each file of an ISO, by clients that share no code with us, compared with the
//! tree that the ISO was made of. Our own index has no say in it.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use common::iso::odd;
use common::needs::{needs, only_with_all, tool};
use common::running::output_of;
use isowire::check::CheckedServers;
use isowire::image::Image;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Connection, Nfs3ConnectionBuilder};
use nfs3_types::nfs3::{READ3args, READDIRPLUS3args, ftype3, nfs_fh3};
use tokio::net::TcpStream;

// ---- the source

/// Files by their paths below a directory on disk.
struct Source {
    tree: PathBuf,
    iso: PathBuf,
    /// Relative paths of the files and their sizes.
    files: BTreeMap<Vec<u8>, u64>,
}

impl Source {
    fn of(tree: PathBuf, iso: PathBuf) -> Self {
        let mut files = BTreeMap::new();
        let mut ahead = vec![tree.clone()];
        while let Some(directory) = ahead.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    ahead.push(path);
                } else if kind.is_file() {
                    let relative = path.strip_prefix(&tree).unwrap().as_os_str().as_bytes().to_vec();
                    files.insert(relative, kind.len());
                }
            }
        }
        Self { tree, iso, files }
    }

    fn files(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.files.iter().map(|(path, size)| (&path[..], *size))
    }

    fn path(&self, file: &[u8]) -> PathBuf {
        self.tree.join(OsStr::from_bytes(file))
    }

    fn content(&self, file: &[u8]) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    fn range(&self, file: &[u8], range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        File::open(self.path(file)).unwrap().read_exact_at(&mut bytes, range.start).unwrap();
        bytes
    }
}

/// Names and sizes that something could stumble over, in an ISO that xorriso makes with mkarchiso's flags.
static ODD: LazyLock<Source> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("same-bytes");
    let (tree, iso) = (dir.join("tree"), dir.join("odd.iso"));
    let _ = fs::remove_dir_all(&dir);
    for (position, (path, size)) in odd_files().into_iter().enumerate() {
        let path = tree.join(OsStr::from_bytes(&path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(position as u64 + 1, size)).unwrap();
    }
    fs::hard_link(tree.join("sizes/2049"), tree.join("hard link")).unwrap();
    let mut xorriso = tool("xorriso");
    xorriso.args([
        "-report_about",
        "FAILURE",
        "-as",
        "mkisofs",
        "-iso-level",
        "3",
        "-full-iso9660-filenames",
    ]);
    xorriso.args(["-joliet", "-joliet-long", "-rational-rock", "-quiet", "-o"]);
    output_of(xorriso.arg(&iso).arg(&tree));
    let source = Source::of(tree, iso);
    assert_eq!(source.files.len(), odd_files().len() + 1);
    source
});

/// A little more than 65535 blocks of the smallest size (RFC 2348: 8 bytes).
const ROLLOVER: usize = 8 * 65_536 + 5;

fn odd_files() -> Vec<(Vec<u8>, usize)> {
    let names: [&[u8]; 13] = [
        "日本語.txt".as_bytes(),
        b"caf\xe9.latin1",
        b"semi;colon;1",
        b"back\\slash",
        b"trailing.",
        b"..leading",
        b"two  spaces ",
        b"new\nline",
        b"case",
        b"CASE",
        b"%2e%2e%2fetc",
        b"what?#&+=:@!$'()*,",
        b"\"quoted\" <tag>",
    ];
    let mut files: Vec<_> = names.iter().map(|name| ([b"names/", *name].concat(), 3000)).collect();
    files.push(([b"names/", &[b'n'; 250][..]].concat(), 250));
    files.push((["ž".repeat(125).as_bytes(), b"/inside"].concat(), 12_345));
    files.push((b"1/2/3/4/5/6/7/8/9/10/11/12/deep".to_vec(), 54_321));
    // Around what sectors, blocks, frames, windows, pages and the limits of a door's requests hold.
    let edges = [512, 1428, 1468, 2048, 4096, 8192, 16 * 1468, 64 << 10, 128 << 10, 256 << 10, 1 << 20];
    let sizes = edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]);
    files.extend(
        sizes.chain([0, 1, ROLLOVER, 5_000_011]).map(|size| (format!("sizes/{size}").into_bytes(), size)),
    );
    files
}

/// The ISO with a file of 4.5 GiB.
fn huge() -> Source {
    let iso = odd("multi");
    Source::of(iso.with_extension("tree"), iso)
}
const HUGE: &[u8] = b"arch/x86_64/airootfs.sfs";

/// Both ends of the huge file, the border of its extents, what no 31 or 32 bits can count, and more at random.
fn huge_ranges() -> Vec<Range<u64>> {
    const GIB: u64 = 1 << 30;
    let size = 9 * GIB / 2;
    let places =
        [0, 2 * GIB - 60_000, 4 * GIB - 60_000, 4 * GIB - 2056, 4 * GIB - 2048, 4 * GIB, size - 210_000];
    let mut ranges: Vec<_> = places.iter().map(|&place| place..place + 120_000).collect();
    ranges.extend([0..1, 4 * GIB - 2049..4 * GIB - 2047, size - 210_000..size, size - 1..size]);
    let mut random = Random(7);
    ranges.extend((0..40).map(|_| random.range(size, 1 << 20)));
    ranges
}

/// Xorshift: the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A part of `size` bytes that is neither empty nor longer than `max`.
    fn range(&mut self, size: u64, max: u64) -> Range<u64> {
        let start = self.next() % size;
        start..start + 1 + self.next() % max.min(size - start)
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

// ---- the doors

/// Every door to an ISO, in this process.
struct Server {
    runtime: tokio::runtime::Runtime,
    doors: CheckedServers,
    /// Directory for the files that clients fetched.
    out: tempfile::TempDir,
}

impl Server {
    fn of(source: &Source) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let image = Arc::new(Image::open(&source.iso).unwrap());
        let doors = runtime.block_on(CheckedServers::open(image)).unwrap();
        Self { runtime, doors, out: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// A place for what was fetched.
    fn out(&self, name: impl ToString) -> PathBuf {
        self.out.path().join(name.to_string())
    }

    fn fetched(&self, name: impl ToString) -> Vec<u8> {
        fs::read(self.out(name)).unwrap_or_default()
    }

    fn nbd(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.doors.nbd)
    }

    fn http(&self, file: &[u8]) -> String {
        format!("http://{}/{}", self.doors.http, encoded(file))
    }

    fn tftp(&self, file: &[u8]) -> String {
        format!("tftp://{}/{}", self.doors.tftp, encoded(file))
    }
}

/// As it stands in a URI.
fn encoded(path: &[u8]) -> String {
    path.iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'/' | b'.' | b'-' | b'_' => text.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => text.push(byte.into()),
            byte => write!(text, "%{byte:02X}").unwrap(),
        }
        text
    })
}

#[track_caller]
fn assert_same(fetched: &[u8], source: &[u8], what: &str) {
    if fetched == source {
        return;
    }
    let equal = fetched.iter().zip(source).take_while(|(a, b)| a == b).count();
    panic!("{what}: {} bytes of {}, which differ at byte {equal}", fetched.len(), source.len());
}

/// One run of curl for many URLs: each is a list of lines for its configuration file.
fn curl(requests: impl IntoIterator<Item = Vec<String>>, server: &Server, options: &[&str]) {
    let requests: Vec<_> = requests.into_iter().map(|lines| lines.join("\n")).collect();
    let config = server.out("curl.config");
    fs::write(&config, requests.join("\nnext\n")).unwrap();
    output_of(tool("curl").args(options).arg("-K").arg(config));
}

/// Returns curl's arguments for one URL.
fn request(url: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let mut lines = vec![
        format!("url = \"{url}\""),
        format!("output = \"{}\"", out.display()),
        "fail".into(),
        "silent".into(),
    ];
    lines.extend(["show-error", "path-as-is", "globoff"].map(String::from));
    lines.extend(more.iter().map(ToString::to_string));
    lines
}

// ---- NBD, HTTP and TFTP

/// Compares what `client` writes with a file.
fn assert_pours(client: &mut Command, file: &Path) {
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    output_of(tool("cmp").arg("-").arg(file).stdin(client.stdout.take().unwrap()));
    assert!(client.wait().unwrap().success());
}

#[test]
fn all_of_a_file_over_four_gibibytes() {
    only_with_all!();
    needs!(["xorriso", "curl", "cmp", "nbdcopy"]);
    let source = huge();
    let server = Server::of(&source);
    for url in [server.http(HUGE), server.tftp(HUGE)] {
        assert_pours(tool("curl").args(["-sSf", "--tftp-blksize", "65464", &url]), &source.path(HUGE));
    }
    assert_pours(tool("nbdcopy").args([&server.nbd("archiso"), "-"]), &source.iso);
}

// ---- NBD

#[test]
fn nbd_whole_image() {
    needs!(["xorriso", "nbdcopy"]);
    let server = Server::of(&ODD);
    for (position, export) in ["archiso", ""].into_iter().enumerate() {
        output_of(tool("nbdcopy").arg(server.nbd(export)).arg(server.out(position)));
        assert_same(&server.fetched(position), &fs::read(&ODD.iso).unwrap(), export);
    }
}

#[test]
fn nbd_file_exports() {
    needs!(["xorriso", "nbdcopy"]);
    let server = Server::of(&ODD);
    for (file, _) in ODD.files() {
        let export = format!("archiso%3A/{}", encoded(file));
        let output = tool("nbdcopy").arg(server.nbd(&export)).arg("-").output().unwrap();
        assert!(output.status.success(), "{export}: {output:?}");
        assert_same(&output.stdout, &ODD.content(file), &export);
    }
}

#[test]
fn nbd_parts_of_a_file_over_four_gibibytes() {
    needs!(["xorriso", "nbdsh"]);
    let (source, program) = (
        huge(),
        "import sys\nfor line in sys.stdin:\n  at, n = map(int, line.split())\n  \
        while n: part = h.pread(min(n, 1 << 20), at); sys.stdout.buffer.write(part); at += len(part); n -= len(part)",
    );
    let server = Server::of(&source);
    let uri = server.nbd(&format!("archiso%3A/{}", encoded(HUGE)));
    let ranges = huge_ranges();
    let asked = server.out("asked");
    let lines: Vec<_> =
        ranges.iter().map(|range| format!("{} {}", range.start, range.end - range.start)).collect();
    fs::write(&asked, lines.join("\n")).unwrap();
    let mut nbdsh = tool("nbdsh");
    // nbdsh runs the first python3 of the path, and only Debian's own has the module.
    nbdsh.env("PATH", "/usr/bin:/bin");
    let output = nbdsh.args(["-u", &uri, "-c", program]).stdin(File::open(asked).unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut rest = &output.stdout[..];
    for range in ranges {
        let (part, behind) = rest.split_at((range.end - range.start) as usize);
        assert_same(part, &source.range(HUGE, range.clone()), &format!("{range:?}"));
        rest = behind;
    }
}

// ---- NFS

type Nfs = Nfs3Connection<TokioIo<TcpStream>>;

/// A client of another author's, which goes by the portmapper.
async fn mounted(server: &Server) -> Nfs {
    let builder = Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", "/run/archiso/bootmnt");
    let builder = builder.portmapper_port(server.doors.portmap.port()).connect_from_privileged_port(false);
    builder.mount().await.unwrap()
}

/// Everything below a directory: files with their handles.
async fn walked(nfs: &mut Nfs) -> BTreeMap<Vec<u8>, nfs_fh3> {
    let mut files = BTreeMap::new();
    let mut ahead = vec![(Vec::new(), nfs.root_nfs_fh3())];
    while let Some((parent, dir)) = ahead.pop() {
        let (mut cookie, mut cookieverf, mut eof) = (Default::default(), Default::default(), false);
        while !eof {
            let (dircount, maxcount) = (4096, 8192);
            let arguments = READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount, maxcount };
            let listing = nfs.readdirplus(&arguments).await.unwrap().unwrap();
            (cookieverf, eof) = (listing.cookieverf, listing.reply.eof);
            for entry in listing.reply.entries.into_inner() {
                cookie = entry.cookie;
                let name = entry.name.0.to_vec();
                if name == b"." || name == b".." {
                    continue;
                }
                let (kind, handle) = (entry.name_attributes.unwrap().type_, entry.name_handle.unwrap());
                let path = if parent.is_empty() { name } else { [&parent, &b"/"[..], &name].concat() };
                match kind {
                    ftype3::NF3DIR => ahead.push((path, handle)),
                    ftype3::NF3REG => drop(files.insert(path, handle)),
                    _ => {}
                }
            }
        }
    }
    files
}

/// A part of a file, in requests of at most `count` bytes.
async fn read_by_nfs(nfs: &mut Nfs, file: &nfs_fh3, part: Range<u64>, count: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut offset = part.start;
    while offset < part.end {
        let count = u64::from(count).min(part.end - offset) as u32;
        let read = nfs.read(&READ3args { file: file.clone(), offset, count }).await.unwrap().unwrap();
        assert!(read.count > 0 || read.eof, "progress");
        bytes.extend_from_slice(&read.data);
        offset += u64::from(read.count);
        if read.eof {
            break;
        }
    }
    bytes
}

#[test]
fn nfs_whole_tree() {
    needs!(["xorriso"]);
    let server = Server::of(&ODD);
    server.runtime.block_on(async {
        let mut nfs = mounted(&server).await;
        let there = walked(&mut nfs).await;
        assert!(there.keys().eq(ODD.files.keys()), "the same files as in the source");
        for (file, handle) in &there {
            for count in [1 << 20, 128 << 10, 3333] {
                // Beyond the end there is nothing, and the end is told.
                let bytes = read_by_nfs(&mut nfs, handle, 0..ODD.files[file] + 1, count).await;
                assert_same(&bytes, &ODD.content(file), &file.escape_ascii().to_string());
            }
        }
    });
}

#[test]
fn nfs_parts_of_a_file_over_four_gibibytes() {
    needs!(["xorriso"]);
    let source = huge();
    let server = Server::of(&source);
    server.runtime.block_on(async {
        let mut nfs = mounted(&server).await;
        let handle = walked(&mut nfs).await.remove(HUGE).expect("listed");
        for part in huge_ranges() {
            let bytes = read_by_nfs(&mut nfs, &handle, part.clone(), 1 << 20).await;
            assert_same(&bytes, &source.range(HUGE, part.clone()), &format!("{part:?}"));
        }
    });
}

// ---- HTTP

#[test]
fn http_whole_files() {
    needs!(["xorriso", "curl"]);
    let server = Server::of(&ODD);
    let files: Vec<_> = ODD.files().enumerate().collect();
    curl(files.iter().map(|(n, (file, _))| request(&server.http(file), &server.out(n), &[])), &server, &[]);
    for (position, (file, _)) in files {
        assert_same(&server.fetched(position), &ODD.content(file), &file.escape_ascii().to_string());
    }
    curl(
        [request(&format!("http://{}/check.iso", server.doors.http), &server.out("iso"), &[])],
        &server,
        &[],
    );
    assert_same(&server.fetched("iso"), &fs::read(&ODD.iso).unwrap(), "the whole ISO");
}

#[test]
fn http_ranges() {
    needs!(["xorriso", "curl"]);
    let server = Server::of(&ODD);
    let mut random = Random(1);
    let files: Vec<_> = ODD.files().filter(|(_, size)| *size > 0).collect();
    let mut ask = |_| {
        let (file, size) = files[random.next() as usize % files.len()];
        (file, random.range(size, size))
    };
    let asked: Vec<_> = (0..300).map(&mut ask).enumerate().collect();
    let range = |range: &Range<u64>| format!("range = \"{}-{}\"", range.start, range.end - 1);
    let requests =
        asked.iter().map(|(n, (file, part))| request(&server.http(file), &server.out(n), &[&range(part)]));
    curl(requests, &server, &[]);
    for (position, (file, part)) in asked {
        let what = format!("{} {part:?}", file.escape_ascii());
        assert_same(&server.fetched(position), &ODD.range(file, part), &what);
    }
}

#[test]
fn http_parts_of_a_file_over_four_gibibytes() {
    needs!(["xorriso", "curl"]);
    let source = huge();
    let server = Server::of(&source);
    let ranges: Vec<_> = huge_ranges().into_iter().enumerate().collect();
    let requests = ranges.iter().map(|(n, part)| {
        let range = format!("range = \"{}-{}\"", part.start, part.end - 1);
        request(&server.http(HUGE), &server.out(n), &[&range])
    });
    curl(requests, &server, &[]);
    for (position, part) in ranges {
        assert_same(&server.fetched(position), &source.range(HUGE, part.clone()), &format!("{part:?}"));
    }
}

// ---- TFTP

/// curl has no windows and fails on every empty file, whatever the server (7.88).
#[test]
fn tftp_by_curl_in_blocks_of_many_sizes() {
    needs!(["xorriso", "curl"]);
    let server = Server::of(&ODD);
    for blksize in [512, 1428, 1468, 8192, 65_464] {
        let option = format!("tftp-blksize = {blksize}");
        let files: Vec<_> = ODD.files().filter(|(_, size)| (1..1 << 20).contains(size)).enumerate().collect();
        let requests =
            files.iter().map(|(n, (file, _))| request(&server.tftp(file), &server.out(n), &[&option]));
        curl(requests, &server, &[]);
        for (position, (file, _)) in files {
            let what = format!("{} in blocks of {blksize}", file.escape_ascii());
            assert_same(&server.fetched(position), &ODD.content(file), &what);
            fs::remove_file(server.out(position)).unwrap();
        }
    }
}

#[test]
fn tftp_by_atftp_in_windows() {
    needs!(["xorriso", "atftp"]);
    let server = Server::of(&ODD);
    let options: [&[&str]; 4] = [
        &[],
        &["blksize 1468", "windowsize 16"],
        &["blksize 8192", "windowsize 8"],
        &["blksize 512", "windowsize 64", "timeout 3"],
    ];
    // atftp takes names from its command line as they are, so UTF-8 only.
    let files = ODD.files().filter(|(file, _)| file.starts_with(b"sizes/"));
    for ((file, _), options) in files.flat_map(|file| options.map(|options| (file, options))) {
        let mut atftp = tool("atftp");
        for option in options {
            atftp.args(["--option", option]);
        }
        atftp.args(["-g", "-r"]).arg(OsStr::from_bytes(file)).arg("-l").arg(server.out("file"));
        output_of(atftp.args([server.doors.tftp.ip().to_string(), server.doors.tftp.port().to_string()]));
        let what = format!("{} with {options:?}", file.escape_ascii());
        assert_same(&server.fetched("file"), &ODD.content(file), &what);
        fs::remove_file(server.out("file")).unwrap();
    }
}

/// Block numbers have 16 bits and begin again at 0.
#[test]
fn tftp_of_more_blocks_than_there_are_numbers() {
    needs!(["xorriso", "curl"]);
    let server = Server::of(&ODD);
    let file = format!("sizes/{ROLLOVER}").into_bytes();
    curl([request(&server.tftp(&file), &server.out("file"), &["tftp-blksize = 8"])], &server, &[]);
    assert_same(&server.fetched("file"), &ODD.content(&file), "65537 blocks of 8 bytes");
}
