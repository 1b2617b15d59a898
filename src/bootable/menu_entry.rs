//! An entry of an image's own menu, in the same form for every boot loader.

/// An entry as the menu has it: no name of a file is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MenuEntry {
    /// Name within the menu; may be empty.
    pub label: String,
    /// Title for people.
    pub title: Option<String>,
    /// `None` for an entry that boots no kernel.
    pub kernel: Option<String>,
    /// The initramfs images, in the order in which they are loaded.
    pub initrd: Vec<String>,
    /// The kernel's command line, as words.
    pub parameters: Vec<String>,
}
