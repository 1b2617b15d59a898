//! TFTP, read-only: how firmware and PXELINUX fetch the loader, its menu, the kernel and the initramfs.
//!
//! RFC 1350 with the options of RFC 2347, 2348, 2349 and 7440. [`wire`] knows the bytes, [`session`] decides,
//! [`server`] moves. Which file a path means is not decided here: the server is given a function for that.

pub mod server;
pub mod session;
pub mod wire;

use std::sync::Arc;

use crate::export::Export;
use crate::image::Image;

/// A file that a client may read.
#[derive(Debug, Clone)]
pub struct Opened {
    pub export: Export,
    /// The image that the ranges of `export` are ranges of; `None` for a file made by us.
    pub image: Option<Arc<Image>>,
}

/// Why a client may not read what it asked for. The text is for the person before its screen, and for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    NotFound(String),
    /// It exists and is not to be read, like a directory, or a path that leads out of the image.
    #[error("{0}")]
    Denied(String),
}
