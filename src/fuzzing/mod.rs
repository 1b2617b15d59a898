//! Properties that hold for any input, one function per fuzz target.
//!
//! `fuzz/fuzz_targets/NAME.rs` runs a property with inputs of libFuzzer, `tests/corpus.rs` with the
//! committed seeds of `fuzz/corpus/NAME/`, each named by the path that it takes. A property panics
//! when it does not hold.

use crate::export::{ImageRange, PageCache};

pub mod boot;
pub mod dhcp;
pub mod handover;
pub mod http;
pub mod image;
pub mod menus;
pub mod nbd;
pub mod nbd_client;
pub mod ndp;
pub mod nfs;
pub mod nfs_tree;
pub mod portmap;
pub mod store;
pub mod tftp;
pub mod tftp_link;
pub mod verify;

/// A page cache that holds a third of each image.
struct SomeCached;

impl PageCache for SomeCached {
    fn holds(&self, range: ImageRange<'_>) -> bool {
        range.offset().is_multiple_of(3)
    }
}

/// Fuzz target: its name and its property.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; `tests/corpus.rs` checks that each has its file and its seeds.
pub const TARGETS: &[Target] = &[
    ("boot_list", store::boot_list),
    ("cms_signature", verify::cms_signature),
    ("config", menus::config),
    ("cpio", image::cpio),
    ("dhcp_message", dhcp::message),
    ("dhcp_session", dhcp::session),
    ("el_torito_partitions", image::el_torito_partitions),
    ("erofs", image::erofs),
    ("grub_menu", menus::grub_menu),
    ("handover_state", handover::state),
    ("http_range", http::range),
    ("http_request", http::request),
    ("iso_image", image::iso_image),
    ("loader_entry", menus::loader_entry),
    ("nbd_client", nbd_client::client),
    ("nbd_handshake", nbd::handshake),
    ("nbd_resting", nbd::resting),
    ("nbd_transmission", nbd::transmission),
    ("ndp_solicitation", ndp::solicitation),
    ("nfs_mount", nfs::mount),
    ("nfs_record", nfs::record),
    ("nfs_session", nfs::session),
    ("nfs_tree", nfs_tree::tree),
    ("pe_stub", boot::pe_stub),
    ("portmap", portmap::calls),
    ("squashfs", image::squashfs),
    ("store_ledger", store::ledger),
    ("susp", image::susp),
    ("syslinux_menu", menus::syslinux_menu),
    ("tftp_link", tftp_link::link),
    ("tftp_packet", tftp::packet),
    ("tftp_transfer", tftp::transfer),
];
