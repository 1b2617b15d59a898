//! The system calls that take addresses of the mapping, or that rustix does not offer. With
//! [`crate::image::source`] the only room of `unsafe`.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use crate::image::source::Span;

/// Memory for the kernel to read: a slice, or part of an image's mapping.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Iov<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

impl Iov<'_> {
    /// No bytes.
    pub const EMPTY: Iov<'static> =
        Iov { raw: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }, memory: PhantomData };
}

impl<'a> From<&'a [u8]> for Iov<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let raw = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        Self { raw, memory: PhantomData }
    }
}

impl<'a> From<Span<'a>> for Iov<'a> {
    fn from(span: Span<'a>) -> Self {
        let raw = libc::iovec { iov_base: span.address().cast_mut().cast(), iov_len: span.len() };
        Self { raw, memory: PhantomData }
    }
}

/// Whether more bytes follow at once, so that the kernel need not send a short segment now (`MSG_MORE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    More,
    Nothing,
}

/// Sends the memory of `iovs`, in order, without waiting; returns how many bytes the kernel took.
///
/// # Errors
/// `WouldBlock` when the socket buffer is full; EFAULT when the image behind a span was truncated.
pub fn send(socket: BorrowedFd<'_>, iovs: &[Iov<'_>], follow: Follow) -> io::Result<usize> {
    let more = if follow == Follow::More { libc::MSG_MORE } else { 0 };
    let message = message(iovs);
    // SAFETY: `message` points to `iovs`, which outlive the call, and nothing else. Each `Iov` is a slice or a span
    // of a mapping that lives as long as its lifetime says; the kernel only reads them, and reports pages that are
    // gone as EFAULT.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A message of `iovs` to the socket's own peer.
fn message(iovs: &[Iov<'_>]) -> libc::msghdr {
    // SAFETY: a `msghdr` of zeroes is valid: no name, no buffers, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `Iov` is a transparent `iovec`; sendmsg does not write through the pointer.
    message.msg_iov = iovs.as_ptr().cast_mut().cast();
    message.msg_iovlen = iovs.len();
    message
}

/// Number of the system call (include/uapi/asm-generic/unistd.h; the same on every architecture).
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`, all in pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of `len` bytes from `offset` are in the page cache (Linux 6.5).
///
/// # Errors
/// ENOSYS before Linux 6.5; EPERM on newer ones for a file that we could not write either.
pub fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    let range = CachestatRange { offset, len };
    let mut stat = Cachestat::default();
    // SAFETY: the structs have the kernel's layout, and live until the call returns.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    if result == 0 { Ok(stat.cached) } else { Err(io::Error::last_os_error()) }
}
