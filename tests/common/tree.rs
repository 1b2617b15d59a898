//! A directory tree with every kind of entry, and an ISO made of it. Tests compare it with the view
//! of NFS clients.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::needs::tool;
use super::running::output_of;

pub const NEEDS: [&str; 2] = ["xorriso", "mksquashfs"];

/// The directory with many entries, and how many.
pub const MANY: (&str, usize) = ("dir10k", 10_000);

/// The largest file, and its size.
pub const BIG: (&str, u64) = ("big.bin", 32 << 20);

/// A squashfs with a file `SUMS` of the SHA-256 of its other files, as `sha256sum -c` reads it.
pub const SQUASHFS: &str = "arch/x86_64/airootfs.sfs";
pub const SQUASHFS_FILES: usize = 40;

/// A script that prints a line.
pub const SCRIPT: (&str, &str) = ("sub/script", "#!/bin/busybox sh\necho it runs\n");

/// A source directory and the ISO made of it.
pub struct Tree {
    pub source: PathBuf,
    pub iso: PathBuf,
    /// An ISO with other files.
    pub another: PathBuf,
}

/// Returns the tree, made on first use.
pub fn tree() -> Tree {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tree");
    fs::create_dir_all(&dir).expect("cargo's directory for tests is writable");
    let lock = File::create(dir.join("lock")).expect("it is ours");
    lock.lock().expect("no other file system than one with locks");
    let tree =
        Tree { source: dir.join("source"), iso: dir.join("tree.iso"), another: dir.join("another.iso") };
    // A tree that an older version of this file made is made again.
    let (stamp, this_file) = (dir.join("stamp"), include_str!("tree.rs"));
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == this_file) {
        return tree;
    }
    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_dir_all(&tree.source);
    make_source(&tree.source);
    make_iso(&tree.source, &tree.iso, "TREE");
    make_iso(&tree.source.join("sizes"), &tree.another, "ANOTHER");
    fs::write(stamp, this_file).expect("it is ours");
    tree
}

impl Tree {
    /// Returns the path of every entry below the source's root.
    pub fn entries(&self) -> Vec<PathBuf> {
        let mut entries = Vec::new();
        collect(&self.source, &mut entries);
        entries
            .iter()
            .map(|path| path.strip_prefix(&self.source).expect("found below it").to_owned())
            .collect()
    }

    pub fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        fs::read(self.source.join(path)).expect("a file of the tree")
    }

    pub fn metadata(&self, path: impl AsRef<Path>) -> fs::Metadata {
        fs::symlink_metadata(self.source.join(path)).expect("an entry of the tree")
    }
}

fn collect(dir: &Path, entries: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("a readable directory");
        if entry.file_type().expect("the type of an entry").is_dir() {
            collect(&entry.path(), entries);
        }
        entries.push(entry.path());
    }
}

fn make_source(root: &Path) {
    for dir in [MANY.0, "sub/deep/and/deeper", "sub/empty-dir", "sizes", "arch/x86_64"] {
        fs::create_dir_all(root.join(dir)).expect("room for a tree");
    }
    for i in 0..MANY.1 {
        file(root, &format!("{}/entry-{i:05}", MANY.0), format!("{i}\n").as_bytes(), 0o644);
    }
    for len in [0, 1, 2, 3, 4, 5, 2047, 2048, 2049, 4096, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1] {
        file(root, &format!("sizes/{len}"), &noise(len, len as u64 + 1), 0o444);
    }
    file(root, BIG.0, &noise(BIG.1 as usize, 77), 0o640);
    file(root, SCRIPT.0, SCRIPT.1.as_bytes(), 0o755);
    file(root, "sub/private", b"not for everybody\n", 0o600);
    file(root, "sub/setuid", b"not for long\n", 0o4755);
    file(root, "sub/deep/and/deeper/file", b"found\n", 0o644);
    links(&root.join("sub"));
    names(&root.join("sub"));
    squashfs(root);
    date(root);
}

fn links(dir: &Path) {
    file(dir, "h1", b"one file, three names\n", 0o644);
    for name in ["h2", "deep/h3"] {
        fs::hard_link(dir.join("h1"), dir.join(name)).expect("hard links");
    }
    for (name, target) in [
        ("dangling", "nowhere"),
        ("to-dir", "../dir10k"),
        ("absolute", "/etc/os-release"),
        ("long", "component/".repeat(90).trim_end_matches('/')),
    ] {
        symlink(target, dir.join(name)).expect("symbolic links");
    }
}

fn names(dir: &Path) {
    let longest = "n".repeat(255);
    for name in ["日本語 😀 ž".as_bytes(), b"caf\xe9.latin1", b".hidden", b"two  spaces ", longest.as_bytes()]
    {
        let content = [b"content of ", name, b"\n"].concat();
        fs::write(dir.join(OsStr::from_bytes(name)), content).expect("any name but / and NUL");
    }
}

fn squashfs(root: &Path) {
    let source = root.with_file_name("squashfs");
    let _ = fs::remove_dir_all(&source);
    fs::create_dir(&source).expect("room for a tree");
    for i in 0..SQUASHFS_FILES {
        file(&source, &format!("file-{i}"), &noise(300_000, 1000 + i as u64), 0o644);
    }
    let sums = output_of(tool("sh").current_dir(&source).args(["-c", "sha256sum file-*"]));
    file(&source, "SUMS", sums.as_bytes(), 0o644);
    let image = root.join(SQUASHFS);
    output_of(tool("mksquashfs").arg(&source).arg(image).args(["-quiet", "-no-progress", "-comp", "gzip"]));
    fs::remove_dir_all(source).expect("it is ours");
}

fn file(dir: &Path, name: &str, content: &[u8], mode: u32) {
    let path = dir.join(name);
    fs::write(&path, content).expect("room for a file");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

/// Makes bytes that cannot be compressed and are the same in every run (xorshift).
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(len + 8);
    while noise.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise.truncate(len);
    noise
}

/// Gives each entry a date of its own, in seconds as in Rock Ridge, and every third one of root's
/// another owner.
fn date(root: &Path) {
    let mut entries = Vec::new();
    collect(root, &mut entries);
    for (i, path) in entries.iter().enumerate() {
        let metadata = fs::symlink_metadata(path).expect("just made");
        if metadata.is_symlink() {
            continue;
        }
        if metadata.uid() == 0 && i % 3 == 0 {
            std::os::unix::fs::chown(path, Some(1000), Some(100)).expect("root may give files away");
            // Giving a file away takes its setuid bit.
            fs::set_permissions(path, metadata.permissions()).expect("root may");
        }
        let time = UNIX_EPOCH + Duration::from_secs(1_767_323_045 + i as u64);
        File::open(path)
            .and_then(|file| file.set_times(FileTimes::new().set_modified(time)))
            .expect("it is ours");
    }
}

/// Makes an ISO with mkarchiso's flags, except that owners and modes of the source are kept.
fn make_iso(source: &Path, iso: &Path, label: &str) {
    let _ = fs::remove_file(iso);
    let mut xorriso = tool("xorriso");
    xorriso.args(["-no_rc", "-report_about", "SORRY", "-as", "mkisofs", "-quiet", "-iso-level", "3"]);
    xorriso.args([
        "-full-iso9660-filenames",
        "-joliet",
        "-joliet-long",
        "-R",
        "--hardlinks",
        "-volid",
        label,
    ]);
    output_of(xorriso.arg("-o").arg(iso).arg(source));
}
