//! The system calls that take addresses of the mapping, or that rustix does not offer, and what else the compiler cannot
//! see to be right. The only room of `unsafe`.

#![expect(unsafe_code, reason = "the one room of it; each block has its argument")]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use memmap2::{MmapOptions, MmapRaw};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::extent::Extent;

/// A file in our address space: an address for the kernel, never a `&[u8]`. A page that is gone because somebody
/// truncated the file then gives EFAULT from the system call instead of SIGBUS to the process.
#[derive(Debug)]
pub(crate) struct Mapping(MmapRaw);

impl Mapping {
    /// Maps `len` bytes of `file`, at least one, to be read only.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub(crate) fn of(file: &File, len: usize) -> io::Result<Self> {
        Ok(Self(MmapOptions::new().len(len).map_raw_read_only(file)?))
    }

    /// Returns the part of the mapping that `extent` of the file is; `None` when it leaves the mapping.
    pub(crate) fn span(&self, extent: Extent) -> Option<Span<'_>> {
        let offset = usize::try_from(extent.offset).ok()?;
        let len = usize::try_from(extent.len).ok()?;
        if offset.checked_add(len)? > self.0.len() {
            return None;
        }
        // The sum stays inside the mapping, as was just checked; nothing is dereferenced here.
        Some(Span { address: self.0.as_ptr().wrapping_add(offset), len, mapping: PhantomData })
    }
}

/// Part of a mapping, for the kernel to read. Safe code cannot dereference it, on purpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    address: *const u8,
    len: usize,
    mapping: PhantomData<&'a Mapping>,
}

/// Memory for the kernel to read: a slice, or part of an image's mapping.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Iov<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

impl Iov<'_> {
    /// No bytes.
    pub(crate) const EMPTY: Iov<'static> =
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
        let raw = libc::iovec { iov_base: span.address.cast_mut().cast(), iov_len: span.len };
        Self { raw, memory: PhantomData }
    }
}

/// Whether more bytes follow at once, so that the kernel need not send a short segment now (`MSG_MORE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    More,
    Nothing,
}

/// Sends the memory of `iovs`, in order, without waiting; returns how many bytes the kernel took.
///
/// # Errors
/// `WouldBlock` when the socket buffer is full; EFAULT when the image behind a span was truncated.
pub(crate) fn send(socket: BorrowedFd<'_>, iovs: &[Iov<'_>], follow: Follow) -> io::Result<usize> {
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

/// Has the runtime tell when there is something to read. To be called inside of it.
///
/// # Errors
/// What epoll says of a descriptor that cannot be waited for.
pub(crate) fn readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives, and always the same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
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

/// Most messages that one [`send_datagrams`] takes.
pub(crate) const MAX_MESSAGES: usize = 64;

/// Most datagrams that the kernel cuts one message into (`UDP_MAX_SEGMENTS` of `linux/udp.h` until Linux 6.8).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// Most bytes of one message: what an IPv4 packet holds.
pub(crate) const MAX_MESSAGE: usize = 65507;

/// Where datagrams go, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub to: SocketAddrV4,
    /// The address of ours that they leave from; `None` leaves it to the socket.
    pub from: Option<Ipv4Addr>,
    /// Each message is cut into datagrams of that many bytes, of which the last may be shorter (`UDP_SEGMENT`, udp(7),
    /// Linux 4.18): one way through the network stack for all of them.
    pub segment: Option<u16>,
}

/// Sends each of `messages` (the first [`MAX_MESSAGES`] at most), gathered from its areas, without waiting; returns
/// how many the kernel took.
///
/// # Errors
/// Those of the first message: `WouldBlock` when the socket buffer is full; EFAULT when the image behind a span was
/// truncated; EINVAL or EIO when the path cannot take segments of that size.
pub(crate) fn send_datagrams(
    socket: BorrowedFd<'_>,
    route: Route,
    messages: &[&[Iov<'_>]],
) -> io::Result<usize> {
    let mut to = socket_address(route.to);
    let mut control = Control::of(route);
    // SAFETY: an `mmsghdr` of zeroes is valid, as a `msghdr` of zeroes is.
    let mut headers: [libc::mmsghdr; MAX_MESSAGES] = unsafe { mem::zeroed() };
    for (header, iovs) in headers.iter_mut().zip(messages) {
        header.msg_hdr = message(iovs);
        header.msg_hdr.msg_name = (&raw mut to).cast();
        header.msg_hdr.msg_namelen = size_of_val(&to) as libc::socklen_t;
        header.msg_hdr.msg_control = control.bytes.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = control.len as _;
    }
    let count = messages.len().min(MAX_MESSAGES) as libc::c_uint;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers point to `to`, `control` and areas in `messages`, which all outlive the call.
    // The kernel writes only the lengths in `headers`; it reads spans of a mapping as in `send`.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags as _) };
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

/// Control data of a datagram: what cmsg(3) makes, without its pointers.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Control {
    const CAPACITY: usize = 64;

    fn of(route: Route) -> Self {
        let mut control = Self { bytes: [0; Self::CAPACITY], len: 0 };
        if let Some(from) = route.from {
            // struct in_pktinfo of ip(7): interface 0 (whichever the route says), source address, unused.
            let [a, b, c, d] = from.octets();
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0]);
        }
        if let Some(segment) = route.segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    /// Adds a `struct cmsghdr` (length as a `size_t`, level, type), its data, and padding to the next `size_t`.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let len = size_of::<usize>() + 2 * size_of::<libc::c_int>() + data.len();
        let header = [&len.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        let (_, mut free) = self.bytes.split_at_mut(self.len);
        for part in header {
            let (slot, rest) = free.split_at_mut(part.len());
            slot.copy_from_slice(part);
            free = rest;
        }
        self.len += len.next_multiple_of(size_of::<usize>());
    }
}

/// `ICMPV6_FILTER` of `linux/icmpv6.h`, an option of the level `IPPROTO_ICMPV6` (RFC 3542 §3.2).
const ICMPV6_FILTER: libc::c_int = 1;

/// Has a raw ICMPv6 socket take messages of this type alone.
///
/// # Errors
/// What the kernel says: for other sockets that it knows no such option.
pub(crate) fn take_icmpv6_only(socket: BorrowedFd<'_>, kind: u8) -> io::Result<()> {
    // `struct icmp6_filter`: a set bit blocks a type.
    let mut filter = [u32::MAX; 8];
    if let Some(word) = filter.get_mut(usize::from(kind / 32)) {
        *word &= !(1 << (kind % 32));
    }
    let (level, len) = (libc::IPPROTO_ICMPV6, size_of_val(&filter) as libc::socklen_t);
    // SAFETY: the kernel reads `len` bytes of `filter`, which lives until the call returns.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, ICMPV6_FILTER, filter.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

/// Returns how many pages of `extent` are in the page cache (Linux 6.5).
///
/// # Errors
/// ENOSYS before Linux 6.5; EPERM on newer ones for a file that we could not write either.
pub(crate) fn cached_pages(file: BorrowedFd<'_>, extent: Extent) -> io::Result<u64> {
    let range = CachestatRange { offset: extent.offset, len: extent.len };
    let mut stat = Cachestat::default();
    // SAFETY: the structs have the kernel's layout, and live until the call returns.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    if result == 0 { Ok(stat.cached) } else { Err(io::Error::last_os_error()) }
}
