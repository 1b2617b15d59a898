//! HTTP, read-only: files, parts of files and directories of the images, for firmware, initramfs
//! and people.
//!
//! HTTP/1.0 and HTTP/1.1 by RFC 9110 (semantics) and RFC 9112 (syntax on the wire), without TLS.
//! [`wire`] knows the bytes, [`session`] decides, [`server`] runs clients. [`crate::boot::files`]
//! finds the file of a path.

#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
