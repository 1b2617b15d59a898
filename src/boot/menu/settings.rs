//! The operator's settings for menus, and the overrides for some images or machines.

use crate::bootable::Root;
use crate::text::Word;

/// Value of `copytoram=`: the machine copies its root file system into memory before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyToRam {
    Yes,
    No,
    /// The initramfs decides; archiso's network hooks take it for yes.
    Auto,
}

impl CopyToRam {
    /// Returns the value that archiso's hooks know.
    pub(super) const fn value(self) -> &'static str {
        match self {
            CopyToRam::Yes => "y",
            CopyToRam::No => "n",
            CopyToRam::Auto => "auto",
        }
    }

    /// Returns the value for the second entry of a kernel.
    pub(super) const fn opposite(self) -> Self {
        match self {
            CopyToRam::No => CopyToRam::Yes,
            CopyToRam::Yes | CopyToRam::Auto => CopyToRam::No,
        }
    }
}

/// The operator's settings for every menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuSettings {
    /// The root protocols that are served, the default first.
    pub roots: Vec<Root>,
    pub copytoram: CopyToRam,
    /// Seconds until the first entry boots; 0 waits for ever, as in PXELINUX.
    pub timeout: u16,
    /// Verification of images with a CMS signature.
    pub cms: Cms,
    /// Parameters after all others: archiso's hooks take the last of several values.
    pub parameters: Vec<Word>,
}

/// Use of `cms_verify=y` for an image with a CMS signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cms {
    Verify,
    /// Saves a read of the whole image, most of the transfer of a boot that does not copy it to
    /// memory.
    Skip,
}

/// Overrides for an image or a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The default root; ignored if it is not served.
    pub root: Option<Root>,
    pub copytoram: Option<CopyToRam>,
    /// Added after the others.
    pub parameters: Vec<Word>,
}

impl MenuSettings {
    /// Returns these settings with overrides applied.
    #[must_use]
    pub(crate) fn with_overrides(&self, overrides: &Overrides) -> Self {
        let mut settings = self.clone();
        // The sort is stable: the other roots keep their order.
        settings.roots.sort_by_key(|&root| Some(root) != overrides.root);
        if let Some(copytoram) = overrides.copytoram {
            settings.copytoram = copytoram;
        }
        settings.parameters.extend(overrides.parameters.iter().cloned());
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
    fn overrides_change_only_named_settings() {
        let settings = MenuSettings {
            roots: Root::ALL.to_vec(),
            copytoram: CopyToRam::Auto,
            timeout: 10,
            cms: Cms::Verify,
            parameters: words("a=1"),
        };
        assert_eq!(settings.with_overrides(&Overrides::default()), settings);
        let overrides =
            Overrides { root: Some(Root::Http), copytoram: Some(CopyToRam::No), parameters: words("b=2") };
        let preferred = settings.with_overrides(&overrides);
        assert_eq!(preferred.roots, [Root::Http, Root::Nbd, Root::Nfs]);
        assert_eq!((preferred.copytoram, &preferred.parameters[..]), (CopyToRam::No, &words("a=1 b=2")[..]));
        let without = MenuSettings { roots: vec![Root::Nbd], ..settings };
        assert_eq!(without.with_overrides(&overrides).roots, [Root::Nbd], "the root is not served");
    }
}
