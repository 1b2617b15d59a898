//! `nfs3_server` over a mapped file: PORT FILE.

use isowire_rivals::{ROOT, Tree, arguments};
use nfs3_server::nfs3_types::nfs3::{fattr3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, specdata3};
use nfs3_server::tcp::{NFSTcp, NFSTcpListener};
use nfs3_server::vfs::{DirEntryPlus, FileHandleU64, NextResult, NfsReadFileSystem, ReadDirPlusIterator};

struct Files(Tree);

/// An empty listing: the load generator lists no directory.
struct Nothing;

impl ReadDirPlusIterator<FileHandleU64> for Nothing {
    async fn next(&mut self) -> NextResult<DirEntryPlus<FileHandleU64>> {
        NextResult::Eof
    }
}

impl NfsReadFileSystem for Files {
    type Handle = FileHandleU64;

    fn root_dir(&self) -> FileHandleU64 {
        ROOT.into()
    }

    async fn lookup(
        &self,
        directory: &FileHandleU64,
        name: &filename3<'_>,
    ) -> Result<FileHandleU64, nfsstat3> {
        let found = self.0.find((*directory).into(), name.as_ref());
        found.map(Into::into).ok_or(nfsstat3::NFS3ERR_NOENT)
    }

    async fn getattr(&self, id: &FileHandleU64) -> Result<fattr3, nfsstat3> {
        let fileid = (*id).into();
        let (is_directory, size) = self.0.attributes(fileid).ok_or(nfsstat3::NFS3ERR_STALE)?;
        let time = nfstime3 { seconds: 1, nseconds: 0 };
        Ok(fattr3 {
            type_: if is_directory { ftype3::NF3DIR } else { ftype3::NF3REG },
            mode: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            size,
            used: size,
            rdev: specdata3 { specdata1: 0, specdata2: 0 },
            fsid: 0,
            fileid,
            atime: time,
            mtime: time,
            ctime: time,
        })
    }

    async fn read(&self, _: &FileHandleU64, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        Ok(self.0.read(offset, count))
    }

    async fn readdirplus(
        &self,
        _: &FileHandleU64,
        _: u64,
    ) -> Result<impl ReadDirPlusIterator<FileHandleU64>, nfsstat3> {
        Ok(Nothing)
    }

    async fn readlink(&self, _: &FileHandleU64) -> Result<nfspath3<'_>, nfsstat3> {
        Err(nfsstat3::NFS3ERR_INVAL)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (address, tree) = arguments();
    NFSTcpListener::bind_ro(&address, Files(tree)).await?.handle_forever().await
}
