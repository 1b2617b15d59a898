//! Network-boots machines straight from an Arch Linux ISO.
//!
//! The image is opened once, indexed once, and never copied. Every file of the ISO is a byte range
//! of one read-only file descriptor. Every protocol is a door to those ranges. A session decides
//! *which range*; only the shell moves bytes.
//!
//! ```text
//! firmware -> dhcp -> tftp, http -> boot plan --.
//!      (loader and menu; kernel and initramfs)  +--> export --> image (ranges of the ISO)
//! initramfs -> nbd, nfs (by portmap), http -----'
//! ```
//!
//! The rooms, from the lowest layer to the highest; a room uses rooms of lower layers only:
//!
//! - [`codec`], [`text`], [`extent`], [`mac`], [`watched`], [`panics`], [`metrics`], [`sys`]: bytes,
//!   safe words, ranges, MAC addresses, a shared value, faults of isowire, counters, system calls.
//! - [`placement`]: which of several servers a machine gets.
//! - [`image`]: one opened ISO, its parsers and its tree. [`export`]: the ranges a peer may have.
//! - [`bootable`], [`uki`]: what an image boots, and a UEFI boot program made of it.
//! - [`images`]: the set of images. [`boot`]: rules, plan, menus, the tree that TFTP and HTTP serve.
//! - [`machines`]: a record for each machine that boots, fed by all doors.
//! - [`interfaces`]: network interfaces of the host, and news of them.
//! - [`stream`]: the part that all doors on TCP share.
//! - [`nbd`], [`nfs`], [`http`], [`tftp`], [`dhcp`], [`ndp`]: the protocols. Each has `wire` (byte
//!   layouts), `session` (the next step of one peer; no I/O, no clock) and `server` (sockets, tasks).
//! - [`web`]: the status as JSON, and a page that shows it.
//! - [`handover`]: what outlives a process, and the two ways that carry it to the next one.
//! - [`runtime`], [`output`]: the threads, and the one that writes the log.
//! - [`cli`], [`config`], [`telemetry`], [`inspect`], [`status`], [`check`], [`secure_boot`],
//!   [`server`], [`doctor`]: the program.
//!
//! `ARCHITECTURE.md` has the rules and the invariants, `docs/decisions` the reasons.

#![warn(unreachable_pub)]
// Tests may panic, and read clocks and files.
#![cfg_attr(
    not(test),
    warn(
        clippy::disallowed_methods,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod boot;
pub mod bootable;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod check;
pub mod cli;
pub mod codec;
pub mod config;
pub mod dhcp;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod doctor;
pub mod export;
mod extent;
#[doc(hidden)]
#[expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]
pub mod fuzzing;
mod guid;
mod handover;
pub mod http;
pub mod image;
pub mod images;
pub mod inspect;
mod interfaces;

mod locked;
mod mac;
pub mod machines;
mod metrics;
pub mod nbd;
pub mod ndp;
pub mod nfs;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks")]
mod output;
mod panics;
pub mod placement;
mod provision;
mod recent_lines;
mod runtime;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod secure_boot;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod status;
mod store;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod stream;
mod sys;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod telemetry;
pub mod text;
pub mod tftp;
pub mod uki;
mod watched;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks")]
pub mod web;
mod x509;
