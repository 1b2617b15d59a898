//! The system calls that take addresses of the mapping, or that rustix does not offer. With
//! [`crate::image::source`] the only room of `unsafe`.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
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
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // `Iov` is a transparent `iovec`; sendmsg does not write through the pointer.
    message.msg_iov = iovs.as_ptr().cast_mut().cast();
    message.msg_iovlen = iovs.len();
    message
}

/// Most datagrams that one [`send_datagrams`] takes.
pub const MAX_DATAGRAMS: usize = 64;

/// Where datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub to: SocketAddrV4,
    /// The address of ours that they leave from; `None` leaves it to the socket.
    pub from: Option<Ipv4Addr>,
}

/// Sends each of `datagrams` (the first [`MAX_DATAGRAMS`] at most), gathered from its areas, without waiting; returns
/// how many the kernel took.
///
/// # Errors
/// Those of the first datagram: `WouldBlock` when the socket buffer is full; EFAULT when the image behind a span was
/// truncated.
pub fn send_datagrams(socket: BorrowedFd<'_>, route: Route, datagrams: &[&[Iov<'_>]]) -> io::Result<usize> {
    let mut to = socket_address(route.to);
    let mut source = route.from.map(SourceAddress::new);
    // SAFETY: an `mmsghdr` of zeroes is valid, as a `msghdr` of zeroes is.
    let mut messages: [libc::mmsghdr; MAX_DATAGRAMS] = unsafe { mem::zeroed() };
    for (slot, iovs) in messages.iter_mut().zip(datagrams) {
        slot.msg_hdr = message(iovs);
        slot.msg_hdr.msg_name = (&raw mut to).cast();
        slot.msg_hdr.msg_namelen = size_of_val(&to) as libc::socklen_t;
        if let Some(source) = &mut source {
            slot.msg_hdr.msg_control = (&raw mut *source).cast();
            slot.msg_hdr.msg_controllen = size_of_val(source) as _;
        }
    }
    let count = datagrams.len().min(MAX_DATAGRAMS) as libc::c_uint;
    // SAFETY: the first `count` messages point to `to`, `source` and areas in `datagrams`, which all outlive the
    // call. The kernel writes only the lengths in `messages`; it reads spans of a mapping as in `send`.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: in_addr(*address.ip()),
        sin_zero: [0; 8],
    }
}

const fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// Control data that sets the source address of a datagram: `IP_PKTINFO`, ip(7).
#[repr(C)]
struct SourceAddress {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

impl SourceAddress {
    fn new(address: Ipv4Addr) -> Self {
        // SAFETY: a `cmsghdr` is plain numbers (and, with some C libraries, padding).
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = (mem::offset_of!(Self, info) + size_of::<libc::in_pktinfo>()) as _;
        header.cmsg_level = libc::IPPROTO_IP;
        header.cmsg_type = libc::IP_PKTINFO;
        let any = in_addr(Ipv4Addr::UNSPECIFIED);
        // Interface 0: whichever the route says.
        let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: in_addr(address), ipi_addr: any };
        Self { header, info }
    }
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
