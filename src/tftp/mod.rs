//! TFTP, read-only: how firmware and PXELINUX fetch the loader, its menu, the kernel and the initramfs.

pub mod session;
mod timer;
pub mod wire;
