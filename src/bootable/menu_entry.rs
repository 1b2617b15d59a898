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

/// Returns the text of a menu without a byte order mark (Unicode §23.8), which some editors put at
/// its start: the first line would begin with another word.
pub(super) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
