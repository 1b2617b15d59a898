//! Protocols by which archiso's initramfs reaches its root file system.

use std::fmt;

/// A root protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// archiso's hook cannot name a port, so nbd-client takes the default, 10809
    /// (mkinitcpio-archiso, hooks/archiso_pxe_nbd).
    Nbd,
    Nfs,
    Http,
}

impl Root {
    /// All root protocols in the order of preference.
    pub(crate) const ALL: [Root; 3] = [Root::Nbd, Root::Nfs, Root::Http];

    /// Returns the word of the command line and of paths.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Root::Nbd => "nbd",
            Root::Nfs => "nfs",
            Root::Http => "http",
        }
    }

    /// Returns the kernel parameter that selects the protocol (mkinitcpio-archiso,
    /// docs/README.bootparams).
    pub(crate) const fn parameter(self) -> &'static str {
        match self {
            Root::Nbd => "archiso_nbd_srv",
            Root::Nfs => "archiso_nfs_srv",
            Root::Http => "archiso_http_srv",
        }
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Root::Nbd => "NBD",
            Root::Nfs => "NFS",
            Root::Http => "HTTP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to compile for a new root that is not counted here.
    const fn position(root: Root) -> usize {
        match root {
            Root::Nbd => 0,
            Root::Nfs => 1,
            Root::Http => 2,
        }
    }

    #[test]
    fn all_roots_are_listed() {
        assert_eq!(Root::ALL.map(position), [0, 1, 2]);
    }
}
