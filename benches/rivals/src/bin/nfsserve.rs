//! `nfsserve` over a mapped file: PORT FILE.

use async_trait::async_trait;
use isowire_rivals::{ROOT, Tree, arguments};
use nfsserve::nfs::{fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3, specdata3};
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use nfsserve::vfs::{NFSFileSystem, ReadDirResult, VFSCapabilities};

struct Files(Tree);

const READ_ONLY: nfsstat3 = nfsstat3::NFS3ERR_ROFS;

#[async_trait]
impl NFSFileSystem for Files {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadOnly
    }

    fn root_dir(&self) -> fileid3 {
        ROOT
    }

    async fn lookup(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        self.0.find(directory, &name.0).ok_or(nfsstat3::NFS3ERR_NOENT)
    }

    async fn getattr(&self, fileid: fileid3) -> Result<fattr3, nfsstat3> {
        let (is_directory, size) = self.0.attributes(fileid).ok_or(nfsstat3::NFS3ERR_STALE)?;
        let time = nfstime3 { seconds: 1, nseconds: 0 };
        Ok(fattr3 {
            ftype: if is_directory { ftype3::NF3DIR } else { ftype3::NF3REG },
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

    async fn read(&self, _: fileid3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        Ok(self.0.read(offset, count))
    }

    /// Returns an empty listing: the load generator lists no directory.
    async fn readdir(&self, _: fileid3, _: fileid3, _: usize) -> Result<ReadDirResult, nfsstat3> {
        Ok(ReadDirResult { entries: Vec::new(), end: true })
    }

    async fn readlink(&self, _: fileid3) -> Result<nfspath3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_INVAL)
    }

    async fn setattr(&self, _: fileid3, _: sattr3) -> Result<fattr3, nfsstat3> {
        Err(READ_ONLY)
    }

    async fn write(&self, _: fileid3, _: u64, _: &[u8]) -> Result<fattr3, nfsstat3> {
        Err(READ_ONLY)
    }

    async fn create(&self, _: fileid3, _: &filename3, _: sattr3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(READ_ONLY)
    }

    async fn create_exclusive(&self, _: fileid3, _: &filename3) -> Result<fileid3, nfsstat3> {
        Err(READ_ONLY)
    }

    async fn mkdir(&self, _: fileid3, _: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(READ_ONLY)
    }

    async fn remove(&self, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(READ_ONLY)
    }

    async fn rename(&self, _: fileid3, _: &filename3, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(READ_ONLY)
    }

    async fn symlink(
        &self,
        _: fileid3,
        _: &filename3,
        _: &nfspath3,
        _: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(READ_ONLY)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (address, tree) = arguments();
    NFSTcpListener::bind(&address, Files(tree)).await?.handle_forever().await
}
