//! A disk that is slow, fails or hangs: one file of a FUSE file system, with the bytes of another
//! file. Needs root and `/dev/fuse`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request,
};

/// The only file.
const FILE: INodeNo = INodeNo(2);

/// Reads that the kernel may have under way at once.
const MAX_BACKGROUND: u16 = 128;

/// Attributes do not change, and names do not either.
const TTL: Duration = Duration::from_secs(3600);

/// A mounted file.
pub struct SlowDisk {
    session: Option<BackgroundSession>,
    mount_point: PathBuf,
    name: String,
    state: Arc<State>,
}

/// What the disk does with reads.
struct State {
    file: File,
    delay_us: AtomicU64,
    /// Reads of any of these bytes fail with EIO.
    failing: Mutex<Range<u64>>,
    /// Reads of any of these bytes are not answered.
    hanging: Mutex<Range<u64>>,
    held: Mutex<Vec<PendingRead>>,
    /// Number of reads, and of bytes.
    reads: AtomicU64,
    bytes: AtomicU64,
    queue: Sender<PendingRead>,
}

struct PendingRead {
    due: Instant,
    offset: u64,
    len: u32,
    reply: ReplyData,
}

impl SlowDisk {
    /// Mounts the bytes of `file` as a file of the same name in the empty directory `mount_point`.
    pub fn mount(file: &Path, mount_point: &Path, delay: Duration) -> io::Result<Self> {
        let (queue, reads) = mpsc::channel();
        let state = Arc::new(State {
            file: File::open(file)?,
            delay_us: AtomicU64::new(delay.as_micros() as u64),
            failing: Mutex::new(0..0),
            hanging: Mutex::new(0..0),
            held: Mutex::default(),
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            queue,
        });
        let name = file.file_name().expect("a file has a name").to_str().expect("ASCII").to_owned();
        let answering = Arc::clone(&state);
        thread::spawn(move || answer(&answering, &reads));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("slow-disk".into())];
        config.acl = fuser::SessionACL::All;
        let disk = Disk { state: Arc::clone(&state), name: name.clone() };
        let session = Some(fuser::spawn_mount(disk, mount_point, &config)?);
        Ok(Self { session, mount_point: mount_point.to_owned(), name, state })
    }

    pub fn path(&self) -> PathBuf {
        self.mount_point.join(&self.name)
    }

    /// Lets reads of these bytes fail from now on.
    pub fn fail(&self, bytes: Range<u64>) {
        *self.state.failing.lock().unwrap() = bytes;
    }

    /// Leaves reads of these bytes without an answer from now on.
    pub fn hang(&self, bytes: Range<u64>) {
        *self.state.hanging.lock().unwrap() = bytes;
    }

    /// Answers all reads again, also those that hang.
    pub fn heal(&self) {
        self.fail(0..0);
        self.hang(0..0);
        for read in self.state.held.lock().unwrap().drain(..) {
            let _ = self.state.queue.send(read);
        }
    }

    pub fn set_delay(&self, delay: Duration) {
        self.state.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// Number of reads of the disk so far.
    pub fn reads(&self) -> u64 {
        self.state.reads.load(Ordering::Relaxed)
    }

    /// Number of reads that hang.
    pub fn hanging(&self) -> usize {
        self.state.held.lock().unwrap().len()
    }

    /// Drops the file from the page cache.
    pub fn chill(&self) {
        let session = self.session.as_ref().expect("it is mounted");
        session.notifier().inval_inode(FILE, 0, 0).expect("the kernel knows the file");
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.heal();
        // A reader that hangs may still have the file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
        drop(self.session.take());
    }
}

/// Answers each read when it is due. All are delayed equally, so the first comes first.
fn answer(state: &State, reads: &Receiver<PendingRead>) {
    let mut buffer = Vec::new();
    for read in reads {
        thread::sleep(read.due.saturating_duration_since(Instant::now()));
        let end = read.offset + u64::from(read.len);
        let touches = |bytes: &Mutex<Range<u64>>| {
            let bytes = bytes.lock().unwrap();
            read.offset < bytes.end && bytes.start < end
        };
        if touches(&state.hanging) {
            state.held.lock().unwrap().push(read);
        } else if touches(&state.failing) {
            read.reply.error(Errno::EIO);
        } else {
            buffer.resize(read.len as usize, 0);
            let len = read_at(&state.file, &mut buffer, read.offset);
            state.reads.fetch_add(1, Ordering::Relaxed);
            state.bytes.fetch_add(len as u64, Ordering::Relaxed);
            read.reply.data(&buffer[..len]);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut len = 0;
    while let Ok(n @ 1..) = file.read_at(&mut buffer[len..], offset + len as u64) {
        len += n;
    }
    len
}

struct Disk {
    state: Arc<State>,
    name: String,
}

impl Disk {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let is_file = node == FILE;
        let size = if is_file { self.state.file.metadata().map_or(0, |file| file.len()) } else { 0 };
        FileAttr {
            ino: node,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o644 } else { 0o755 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Only what is asked for is read.
        let _ = config.set_max_readahead(0);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == OsStr::new(&self.name) {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Otherwise each open would drop the file from the page cache.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let delay = Duration::from_micros(self.state.delay_us.load(Ordering::Relaxed));
        let _ = self.state.queue.send(PendingRead { due: Instant::now() + delay, offset, len, reply });
    }
}
