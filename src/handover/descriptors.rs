//! Open files that go through a Unix socket (SCM_RIGHTS, unix(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most open files in one message (SCM_MAX_FD).
pub(super) const MESSAGE_MAX: usize = 253;

/// Space for the open files of one message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MESSAGE_MAX));

/// Sends `bytes` with open files, at most [`MESSAGE_MAX`]; returns how many bytes were sent.
pub(super) fn send_with(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Sends any number of open files through a stream.
pub(super) fn send(socket: impl AsFd, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    for some in files.chunks(MESSAGE_MAX) {
        // Open files travel with a byte at least.
        if send_with(&socket, &[0], some)? != 1 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Receives `count` open files from a stream.
pub(super) fn receive(socket: impl AsFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    while files.len() < count {
        files.extend(receive_some(&socket, RecvFlags::empty())?);
    }
    if files.len() == count { Ok(files) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Returns a socket in which open files wait, at most [`MESSAGE_MAX`]. They stay open with it.
pub(super) fn bundle(files: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
    let (here, there) = UnixStream::pair()?;
    send(here, files)?;
    Ok(there)
}

/// Returns copies of the open files that wait in a [`bundle`]. They wait on in it.
pub(super) fn unbundle(bundle: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    receive_some(bundle, RecvFlags::PEEK)
}

/// Receives the open files of one message.
fn receive_some(socket: impl AsFd, flags: RecvFlags) -> io::Result<Vec<OwnedFd>> {
    let (mut space, mut byte) = ([MaybeUninit::uninit(); SPACE], [0]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            files.extend(some);
        }
    }
    if received.bytes == 0 || files.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn thousand_files_arrive_in_their_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let files: Vec<_> = (0..600).map(tempfile_of).collect();
        let borrowed: Vec<_> = files.iter().map(File::as_fd).collect();
        let received = std::thread::scope(|scope| {
            let received = scope.spawn(|| receive(&there, 600).unwrap());
            send(&here, &borrowed).unwrap();
            received.join().unwrap()
        });
        for (n, file) in received.into_iter().enumerate() {
            assert_eq!(File::from(file).metadata().unwrap().len(), n as u64);
        }
        drop(here);
        assert!(receive(&there, 1).is_err());
    }

    #[test]
    fn files_wait_in_a_bundle() {
        let files: Vec<_> = (0..MESSAGE_MAX as u64).map(tempfile_of).collect();
        let bundle = bundle(&files.iter().map(File::as_fd).collect::<Vec<_>>()).unwrap();
        drop(files);
        for _ in 0..2 {
            for (n, file) in unbundle(&bundle).unwrap().into_iter().enumerate() {
                assert_eq!(File::from(file).metadata().unwrap().len(), n as u64);
            }
        }
        let (socket, _) = UnixStream::pair().unwrap();
        assert!(unbundle(socket).is_err(), "nothing waits in it");
    }

    fn tempfile_of(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }
}
