//! An entry of a menu of an image, whichever program the menu is for.

/// What a menu says of one thing to boot. Names of files and parameters are as they stand there: nothing is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MenuEntry {
    /// What the menu itself calls it; empty where it has no name.
    pub label: String,
    /// What a person reads.
    pub title: Option<String>,
    /// `None` for an entry that boots no kernel.
    pub kernel: Option<String>,
    /// The initramfs images, in the order in which they are loaded.
    pub initrd: Vec<String>,
    /// The kernel's command line, as words.
    pub parameters: Vec<String>,
}
