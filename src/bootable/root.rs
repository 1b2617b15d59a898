//! The protocols by which an initramfs of archiso reaches its root file system.

use std::fmt;

/// A way for the initramfs to reach its root file system, served by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// archiso's hook has no way to name a port: it asks 10809.
    Nbd,
    Nfs,
    Http,
}

impl Root {
    /// All there are, in the order of preference.
    pub(crate) const ALL: [Root; 3] = [Root::Nbd, Root::Nfs, Root::Http];

    /// The word for it on the command line and in paths.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Root::Nbd => "nbd",
            Root::Nfs => "nfs",
            Root::Http => "http",
        }
    }

    /// The parameter that selects it (mkinitcpio-archiso, docs/README.bootparams).
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
