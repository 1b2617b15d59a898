//! What the operator chose about boots: for all machines, and otherwise for some images or machines.

use crate::bootable::Root;
use crate::text::Word;

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
pub struct MenuSettings {
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
pub struct Overrides {
    /// The default root. It counts where it is served.
    pub root: Option<Root>,
    pub copytoram: Option<CopyToRam>,
    /// Behind those that are there.
    pub parameters: Vec<Word>,
}

impl MenuSettings {
    /// These settings, but for what somebody prefers.
    #[must_use]
    pub(crate) fn with_overrides(&self, overrides: &Overrides) -> Self {
        let mut settings = self.clone();
        // Sorting is stable: the others keep their order.
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
    fn a_preference_changes_what_it_names_and_nothing_else() {
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
        assert_eq!(without.with_overrides(&overrides).roots, [Root::Nbd], "what is not served cannot be had");
    }
}
