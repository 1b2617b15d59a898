//! Parts of results, in the order and with the names of RFC 1813.

use super::COOKIE_VERIFIER;
use crate::nfs::xdr::Emitter;

/// Type of an object (`ftype3`, RFC 1813 §2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular = 1,
    Directory = 2,
    BlockDevice = 3,
    CharacterDevice = 4,
    Symlink = 5,
    Socket = 6,
    Fifo = 7,
}

/// Attributes of an object (`fattr3`, RFC 1813 §2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileAttributes {
    pub file_type: FileType,
    /// The lower twelve bits of a POSIX mode.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Bytes that the object takes on the medium.
    pub used: u64,
    pub fsid: u64,
    pub fileid: u64,
    /// All three times of the protocol, in seconds since 1970-01-01 UTC.
    pub time: u32,
}

impl FileAttributes {
    pub(crate) fn emit(&self, out: &mut Emitter<'_>) {
        out.u32(self.file_type as u32);
        out.u32(self.mode);
        out.u32(self.nlink);
        out.u32(self.uid);
        out.u32(self.gid);
        out.u64(self.size);
        out.u64(self.used);
        // rdev: device nodes of an image are listed and never opened.
        out.u64(0);
        out.u64(self.fsid);
        out.u64(self.fileid);
        // atime, mtime, ctime: seconds and nanoseconds. Nothing changes, so one time does for all.
        for _ in 0..3 {
            out.u32(self.time);
            out.u32(0);
        }
    }
}

/// Emits `post_op_attr` (RFC 1813 §2.6): the attributes, if there are any.
pub(crate) fn post_op_attr(attributes: Option<&FileAttributes>, out: &mut Emitter<'_>) {
    out.boolean(attributes.is_some());
    if let Some(attributes) = attributes {
        attributes.emit(out);
    }
}

/// Emits `wcc_data` (RFC 1813 §2.6) of an object that did not change.
pub(crate) fn wcc_data(attributes: Option<&FileAttributes>, out: &mut Emitter<'_>) {
    // pre_op_attr is optional, and of use only where another client may have changed the object.
    out.boolean(false);
    post_op_attr(attributes, out);
}

/// Results of FSSTAT after the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FsStat {
    /// Size of the file system in bytes.
    pub bytes: u64,
    /// Number of objects in it.
    pub files: u64,
}

impl FsStat {
    /// Emits the rest of `FSSTAT3resok` (RFC 1813 §3.3.18).
    pub(crate) fn emit(&self, out: &mut Emitter<'_>) {
        // tbytes, fbytes, abytes: nothing is free.
        out.u64(self.bytes);
        out.u64(0);
        out.u64(0);
        // tfiles, ffiles, afiles
        out.u64(self.files);
        out.u64(0);
        out.u64(0);
        // invarsec, RFC 1813 §3.3.18: "For an immutable file system, such as a CD-ROM, this would
        // be the largest unsigned integer."
        out.u32(u32::MAX);
    }
}

/// Results of FSINFO after the attributes. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FsInfo {
    /// Longest READ, and the best one.
    pub read_max: u32,
    /// Longest WRITE.
    pub write_max: u32,
    /// Best READDIR.
    pub directory: u32,
    pub file_size_max: u64,
}

impl FsInfo {
    /// Suggested multiple of a transfer's length: a page.
    const MULTIPLE: u32 = 4096;
    /// FSF3_SYMLINK and FSF3_HOMOGENEOUS: there are symlinks, and PATHCONF is the same everywhere.
    /// FSF3_LINK and FSF3_CANSETTIME are for file systems that take changes.
    const PROPERTIES: u32 = 0x02 | 0x08;

    /// Emits the rest of `FSINFO3resok` (RFC 1813 §3.3.19).
    pub(crate) fn emit(&self, out: &mut Emitter<'_>) {
        // rtmax, rtpref, rtmult. Linux takes rtpref as rsize unless the mount names one, and
        // klibc's nfsmount names none.
        out.u32(self.read_max);
        out.u32(self.read_max);
        out.u32(Self::MULTIPLE);
        // wtmax, wtpref, wtmult
        out.u32(self.write_max);
        out.u32(self.write_max);
        out.u32(Self::MULTIPLE);
        // dtpref, maxfilesize
        out.u32(self.directory);
        out.u64(self.file_size_max);
        // time_delta: times are whole seconds.
        out.u32(1);
        out.u32(0);
        out.u32(Self::PROPERTIES);
    }
}

/// Results of PATHCONF after the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathConf {
    pub link_max: u32,
    pub name_max: u32,
}

impl PathConf {
    /// Emits the rest of `PATHCONF3resok` (RFC 1813 §3.3.20).
    pub(crate) fn emit(&self, out: &mut Emitter<'_>) {
        out.u32(self.link_max);
        out.u32(self.name_max);
        // no_trunc (LOOKUP answers NFS3ERR_NAMETOOLONG), chown_restricted, case_insensitive,
        // case_preserving
        [true, true, false, true].into_iter().for_each(|answer| out.boolean(answer));
    }
}

/// An entry of a directory (`entry3`, RFC 1813 §3.3.16; also the start of `entryplus3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NfsEntry<'a> {
    pub fileid: u64,
    pub name: &'a [u8],
    pub cookie: u64,
}

impl NfsEntry<'_> {
    /// Emits the entry as one more of the list.
    pub(crate) fn emit(&self, out: &mut Emitter<'_>) {
        out.boolean(true);
        out.u64(self.fileid);
        out.opaque(self.name);
        out.u64(self.cookie);
    }
}

/// The end of a list of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntriesEnd {
    /// The directory has no more entries.
    pub eof: bool,
}

impl EntriesEnd {
    /// Length in bytes.
    pub(crate) const LEN: usize = 8;

    pub(crate) fn emit(self, out: &mut Emitter<'_>) {
        out.boolean(false);
        out.boolean(self.eof);
    }
}

/// Emits the results of READDIR before the entries: attributes of the directory and the verifier.
pub(crate) fn entries_start(
    attributes: &FileAttributes,
    verifier: &[u8; COOKIE_VERIFIER],
    out: &mut Emitter<'_>,
) {
    post_op_attr(Some(attributes), out);
    out.fixed(verifier);
}

/// Results of READ between the attributes and the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadHead {
    pub count: u32,
    pub eof: bool,
}

impl ReadHead {
    /// Emits this part of `READ3resok` (RFC 1813 §3.3.6).
    pub(crate) fn emit(self, out: &mut Emitter<'_>) {
        out.u32(self.count);
        out.boolean(self.eof);
        // The length of `data`, which repeats the count.
        out.u32(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of `fattr3`.
    const FATTR3_LEN: usize = 84;

    const ROOT: FileAttributes = FileAttributes {
        file_type: FileType::Directory,
        mode: 0o755,
        nlink: 6,
        uid: 0,
        gid: 0,
        size: 4096,
        used: 4096,
        fsid: 0xa1e7_c279_d22e_2450,
        fileid: 0x9dc12,
        time: 0x6b02_cb3a,
    };

    fn emitted(emit: impl FnOnce(&mut Emitter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        emit(&mut Emitter::new(&mut out));
        out
    }

    /// Start of nfs-ganesha's reply to FSINFO (`nfs-mount.pcap`, frame 36), its times without
    /// fractions.
    #[test]
    fn attributes_have_the_ganesha_layout() {
        let golden = "00000001 00000002 000001ed 00000006 00000000 00000000 0000000000001000 0000000000001000 \
            0000000000000000 a1e7c279d22e2450 000000000009dc12 6b02cb3a00000000 6b02cb3a00000000 6b02cb3a00000000";
        let digits: Vec<u8> = golden.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let golden: Vec<u8> = bytes.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        assert_eq!(emitted(|out| post_op_attr(Some(&ROOT), out)), golden);
    }

    #[test]
    fn length_constants_are_true() {
        assert_eq!(emitted(|out| ROOT.emit(out)).len(), FATTR3_LEN);
        assert_eq!(emitted(|out| EntriesEnd { eof: true }.emit(out)), b"\0\0\0\0\0\0\0\x01");
        assert_eq!(emitted(|out| EntriesEnd { eof: true }.emit(out)).len(), EntriesEnd::LEN);
    }

    #[test]
    fn attributes_may_be_missing() {
        assert_eq!(emitted(|out| post_op_attr(None, out)), [0; 4]);
        assert_eq!(emitted(|out| wcc_data(None, out)), [0; 8]);
        assert_eq!(emitted(|out| wcc_data(Some(&ROOT), out)).len(), 8 + FATTR3_LEN);
    }

    #[test]
    fn file_system_results_are_complete() {
        let info =
            FsInfo { read_max: 1 << 20, write_max: 8192, directory: 65536, file_size_max: i64::MAX as u64 };
        let words = [1 << 20, 1 << 20, 4096, 8192, 8192, 4096, 65536, 0x7fff_ffff, u32::MAX, 1, 0, 0x0a];
        let expected: Vec<_> = words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        assert_eq!(emitted(|out| info.emit(out)), expected);
        assert_eq!(emitted(|out| FsStat { bytes: 5, files: 6 }.emit(out)).len(), 6 * 8 + 4);
        let conf = emitted(|out| PathConf { link_max: 1, name_max: 255 }.emit(out));
        assert_eq!(conf, b"\0\0\0\x01\0\0\0\xff\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x01");
    }
}
