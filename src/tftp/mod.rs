//! TFTP, read-only: firmware and PXELINUX fetch the loader, its menu, the kernel and the initramfs.
//!
//! RFC 1350 with the options of RFC 2347, 2348, 2349 and 7440. [`wire`] has the layout of packets,
//! [`session`] decides, [`server`] moves bytes. [`crate::boot`] finds the file of a path.

#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
