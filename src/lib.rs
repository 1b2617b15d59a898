//! isowire: network-boots machines straight from an Arch Linux ISO.
//!
//! The image is opened once, indexed once, and never copied. Every file of the ISO is a byte range of one read-only
//! file descriptor; every protocol is a door to those ranges. A session decides *which range*; only the shell moves
//! bytes.
//!
//! ```text
//! firmware -> dhcp -> tftp -> boot plan --.
//!      (loader, menu, kernel, initramfs)  +-- image (ranges)
//! kernel's block device -------> nbd -----'
//! ```
//!
//! Each protocol room has the same files: `wire` knows byte layouts, `session` decides what happens next for one
//! peer (no I/O, no clock), `server` awaits, binds and spawns. Arrows point down only: server -> session -> wire,
//! session -> export -> image.

pub mod boot;
pub mod bootable;
pub mod check;
pub mod cli;
pub mod codec;
pub mod config;
pub mod dhcp;
pub mod export;
pub mod extent;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod image;
pub mod images;
pub mod inspect;

pub mod machines;
pub mod nbd;
pub mod ndp;
pub mod nfs;
pub mod server;
pub mod status;
pub mod stream;
pub mod sys;
pub mod telemetry;
pub mod text;
pub mod tftp;
pub mod transmit;
pub mod uki;
pub mod watched;
