//! System calls that take addresses of the mapping or that rustix does not have, and the other code
//! that the compiler cannot check. The only room of `unsafe`.

#![expect(unsafe_code, reason = "the one room of it; each block has its argument")]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use listenfd::ListenFd;
use memmap2::{MmapOptions, MmapRaw};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::extent::Extent;

/// Mapping of a file: an address for the kernel, never a `&[u8]`. If the file was truncated, the
/// system call that uses a lost page fails with EFAULT; a slice would get the process SIGBUS.
#[derive(Debug)]
pub(crate) struct Mapping(MmapRaw);

impl Mapping {
    /// Maps `len` bytes of `file` for reading; `len` is at least 1.
    ///
    /// # Errors
    /// The error of mmap(2).
    pub(crate) fn of(file: &File, len: usize) -> io::Result<Self> {
        Ok(Self(MmapOptions::new().len(len).map_raw_read_only(file)?))
    }

    /// Returns the part of the mapping for `extent` of the file; `None` if it is outside the
    /// mapping.
    pub(crate) fn span(&self, extent: Extent) -> Option<Span<'_>> {
        let offset = usize::try_from(extent.offset).ok()?;
        let len = usize::try_from(extent.len).ok()?;
        if offset.checked_add(len)? > self.0.len() {
            return None;
        }
        // The sum is inside the mapping, and nothing is dereferenced here.
        Some(Span { address: self.0.as_ptr().wrapping_add(offset), len, mapping: PhantomData })
    }

    /// Returns `true` if all pages of `extent` are in memory with their content. Unlike
    /// [`cached_pages`] it does not count a page that is still read, or whose read failed. For a
    /// file that this user may not write it is always true (mincore(2)).
    pub(crate) fn is_resident(&self, extent: Extent) -> bool {
        let from = extent.offset / MINCORE_PAGE * MINCORE_PAGE;
        let mut pages = [0_u8; 64];
        (from..extent.end()).step_by(pages.len() * MINCORE_PAGE as usize).all(|offset| {
            let len = (extent.end() - offset).min(pages.len() as u64 * MINCORE_PAGE);
            let Some(span) = self.span(Extent { offset, len }) else { return false };
            // SAFETY: the kernel writes a byte for each page, of which there are at most 64, and
            // reads nothing. The cast to a mutable pointer is the signature's.
            let result =
                unsafe { libc::mincore(span.address.cast_mut().cast(), span.len, pages.as_mut_ptr()) };
            let count = len.div_ceil(MINCORE_PAGE) as usize;
            // The other bits are reserved.
            result == 0 && pages.iter().take(count).all(|page| page & 1 == 1)
        })
    }
}

/// Page size for mincore(2), which refuses addresses that are no multiple of the kernel's. With
/// larger pages a range never looks resident, which is slow but correct.
const MINCORE_PAGE: u64 = 4096;

/// `IOPRIO_WHO_PROCESS` and the idle class of ioprio_set(2).
const IOPRIO_WHO_PROCESS: i32 = 1;
const IOPRIO_IDLE: i32 = 3 << 13;

/// Lets all other reads of a disk go before those of this thread, where its scheduler can.
///
/// # Errors
/// The error of ioprio_set(2).
pub(crate) fn read_when_idle() -> io::Result<()> {
    // SAFETY: the call takes three numbers; process 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// State of adjtimex(2) of a clock that nothing sets.
const TIME_ERROR: libc::c_int = 5;

/// Returns whether something keeps the clock of this host right, such as NTP.
///
/// # Errors
/// The error of adjtimex(2).
pub(crate) fn is_clock_kept() -> io::Result<bool> {
    // SAFETY: a `timex` of zeroes is valid; without modes the kernel only writes to it.
    let state = unsafe {
        let mut clock: libc::timex = mem::zeroed();
        libc::adjtimex(&raw mut clock)
    };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(state != TIME_ERROR) }
}

/// Takes an open file that this process inherited.
///
/// `files` gives each out once, and knows nothing of files that are open otherwise.
pub(crate) fn inherited(files: &mut ListenFd, position: usize) -> io::Result<Option<OwnedFd>> {
    let file = files.take_raw_fd(position)?;
    // SAFETY: the file was open when the process started (LISTEN_FDS, sd_listen_fds(3)), and nobody
    // else owns it: `take_raw_fd` has left nothing in its place.
    Ok(file.map(|file| unsafe { OwnedFd::from_raw_fd(file) }))
}

/// Part of a mapping, for the kernel to read. Safe code cannot dereference it.
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
    /// Memory of no bytes.
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

/// Announcement of more bytes that follow at once, so that the kernel waits before it sends a short
/// segment (`MSG_MORE`, send(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    More,
    Nothing,
}

/// Sends the memory of `iovs` in order, without waiting. Returns the number of bytes that the
/// kernel took.
///
/// # Errors
/// `WouldBlock` if the socket buffer is full; EFAULT if the image of a span was truncated.
pub(crate) fn send(socket: BorrowedFd<'_>, iovs: &[Iov<'_>], follow: Follow) -> io::Result<usize> {
    let more = if follow == Follow::More { libc::MSG_MORE } else { 0 };
    let message = message(iovs);
    // SAFETY: `message` points only to `iovs`, which outlive the call. Each `Iov` is a slice or a
    // span of a mapping that lives as long as its lifetime says. The kernel only reads them, and
    // reports lost pages as EFAULT.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Registers a descriptor with the runtime, to wait until it is readable. Must be called in the
/// context of the runtime.
///
/// # Errors
/// The error of epoll(7) for a descriptor that it does not support.
pub(crate) fn readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open as long as it lives, and always the same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
}

/// Creates a message of `iovs` to the peer of the socket.
fn message(iovs: &[Iov<'_>]) -> libc::msghdr {
    // SAFETY: a `msghdr` of zeroes is valid: no name, no buffers, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // `Iov` is a transparent `iovec`; sendmsg does not write through the pointer.
    message.msg_iov = iovs.as_ptr().cast_mut().cast();
    // musl has another integer there than glibc.
    message.msg_iovlen = iovs.len() as _;
    message
}

/// Most messages of one [`send_datagrams`].
pub(crate) const MAX_MESSAGES: usize = 64;

/// Most datagrams into which the kernel cuts one message (`UDP_MAX_SEGMENTS` of `linux/udp.h` until
/// Linux 6.8).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// Most bytes of one message: an IPv4 packet of 65,535 bytes without its IP and UDP headers.
pub(crate) const MAX_MESSAGE: usize = 65507;

/// Destination, source and segmentation of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub to: SocketAddrV4,
    /// Source address; with `None` the kernel chooses.
    pub from: Option<Ipv4Addr>,
    /// Bytes of the datagrams into which the kernel cuts each message; the last may be shorter
    /// (`UDP_SEGMENT`, udp(7), since Linux 4.18). All of them pass the network stack together.
    pub segment: Option<u16>,
}

/// Sends `messages`, at most the first [`MAX_MESSAGES`], each gathered from its areas, without
/// waiting. Returns the number of messages that the kernel took.
///
/// # Errors
/// The error of the first message: `WouldBlock` if the socket buffer is full; EFAULT if the image
/// of a span was truncated; EINVAL or EIO if the path does not support segments of that size.
pub(crate) fn send_datagrams(
    socket: BorrowedFd<'_>,
    route: Route,
    messages: &[&[Iov<'_>]],
) -> io::Result<usize> {
    // All messages share one address and one control area.
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
    // musl's sendmmsg would call sendmsg(2) for each message. Its structs have the kernel's layout as
    // long as their padding is zero, which it is here.
    // SAFETY: the first `count` headers point to `to`, `control` and areas in `messages`, which all
    // outlive the call. The kernel writes only the lengths in `headers`, and reads spans of a
    // mapping as in `send`.
    let sent =
        unsafe { libc::syscall(libc::SYS_sendmmsg, socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
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

/// Control data of a datagram in the layout of cmsg(3), built without its pointers.
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
            // struct in_pktinfo of ip(7): interface 0 (the one of the route), source address,
            // unused.
            let [a, b, c, d] = from.octets();
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0]);
        }
        if let Some(segment) = route.segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    /// Adds a `struct cmsghdr` (length as a `size_t`, level, type), its data, and padding to the
    /// next `size_t`.
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

/// Sets the filter of a raw ICMPv6 socket, so that it receives messages of this type only.
///
/// # Errors
/// The error of setsockopt(2); ENOPROTOOPT for a socket of another kind.
pub(crate) fn take_icmpv6_only(socket: BorrowedFd<'_>, kind: u8) -> io::Result<()> {
    // `struct icmp6_filter` (RFC 3542 §3.2): a set bit blocks a type.
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

/// Number of the system call, the same on every architecture (`include/uapi/asm-generic/unistd.h`).
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`, counted in pages.
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
/// ENOSYS before Linux 6.5; EPERM on newer ones for a file that this user may not write.
pub(crate) fn cached_pages(file: BorrowedFd<'_>, extent: Extent) -> io::Result<u64> {
    let range = CachestatRange { offset: extent.offset, len: extent.len };
    let mut stat = Cachestat::default();
    // SAFETY: the structs have the kernel's layout, and live until the call returns.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    if result == 0 { Ok(stat.cached) } else { Err(io::Error::last_os_error()) }
}

/// Gives free memory between pieces that are in use back to the system, which glibc keeps otherwise
/// (malloc_trim(3)). Other allocators do so by themselves.
pub(crate) fn trim_memory() {
    // SAFETY: it touches only memory that is free, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
