//! What the operator chose about boots: for all machines, and otherwise for some images or machines.

use std::fmt;

use crate::text::Word;

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
    pub const ALL: [Root; 3] = [Root::Nbd, Root::Nfs, Root::Http];

    /// The word for it on the command line and in paths.
    pub const fn word(self) -> &'static str {
        match self {
            Root::Nbd => "nbd",
            Root::Nfs => "nfs",
            Root::Http => "http",
        }
    }

    /// The parameter that selects it (mkinitcpio-archiso, docs/README.bootparams).
    pub const fn parameter(self) -> &'static str {
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

/// `copytoram=`: whether the machine copies its root file system into memory before it starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyToRam {
    Yes,
    No,
    /// The initramfs decides; archiso's network hooks take it for yes.
    Auto,
}

impl CopyToRam {
    /// archiso's word.
    pub(super) const fn value(self) -> &'static str {
        match self {
            CopyToRam::Yes => "y",
            CopyToRam::No => "n",
            CopyToRam::Auto => "auto",
        }
    }

    /// The choice for the second entry.
    pub(super) const fn opposite(self) -> Self {
        match self {
            CopyToRam::No => CopyToRam::Yes,
            CopyToRam::Yes | CopyToRam::Auto => CopyToRam::No,
        }
    }

    pub(super) const fn help(self) -> &'static str {
        match self {
            CopyToRam::No => "The root file system stays on the server: the server must stay up.",
            CopyToRam::Yes | CopyToRam::Auto => {
                "The root file system is copied into memory first: the server may go then."
            }
        }
    }
}

/// What the operator chose for every menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The root protocols that are served, the default first.
    pub roots: Vec<Root>,
    pub copytoram: CopyToRam,
    /// Seconds until the first entry boots by itself; 0 waits for ever, as PXELINUX has it.
    pub timeout: u16,
    /// Whether machines verify the CMS signature of images that have one.
    pub cms: Cms,
    /// Parameters behind all others: archiso's hooks take the last of several.
    pub parameters: Vec<Word>,
}

/// Whether `cms_verify=y` is said for an image with a CMS signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cms {
    Verify,
    /// Verifying reads the whole image, which without a copy to memory is most of what a boot transfers.
    Skip,
}

/// What is otherwise for one image, or for some machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The default root. It counts where it is served.
    pub root: Option<Root>,
    pub copytoram: Option<CopyToRam>,
    /// Behind those that are there.
    pub parameters: Vec<Word>,
}

impl Settings {
    /// These settings, but for what somebody prefers.
    #[must_use]
    pub fn preferring(&self, preferences: &Preferences) -> Self {
        let mut settings = self.clone();
        // Sorting is stable: the others keep their order.
        settings.roots.sort_by_key(|&root| Some(root) != preferences.root);
        if let Some(copytoram) = preferences.copytoram {
            settings.copytoram = copytoram;
        }
        settings.parameters.extend(preferences.parameters.iter().cloned());
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        text.split_whitespace().filter_map(Word::new).collect()
    }

    #[test]
    fn a_preference_changes_what_it_names_and_nothing_else() {
        let settings = Settings {
            roots: Root::ALL.to_vec(),
            copytoram: CopyToRam::Auto,
            timeout: 10,
            cms: Cms::Verify,
            parameters: words("a=1"),
        };
        assert_eq!(settings.preferring(&Preferences::default()), settings);
        let preferences =
            Preferences { root: Some(Root::Http), copytoram: Some(CopyToRam::No), parameters: words("b=2") };
        let preferred = settings.preferring(&preferences);
        assert_eq!(preferred.roots, [Root::Http, Root::Nbd, Root::Nfs]);
        assert_eq!((preferred.copytoram, &preferred.parameters[..]), (CopyToRam::No, &words("a=1 b=2")[..]));
        let without = Settings { roots: vec![Root::Nbd], ..settings };
        assert_eq!(without.preferring(&preferences).roots, [Root::Nbd], "what is not served cannot be had");
    }
}
