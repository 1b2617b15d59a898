//! Parser for the SYSLINUX menus of an image: kernels, their parameters, and the look of the menu
//! (syslinux 6.04, com32/menu/readconfig.c, doc/syslinux.txt, doc/menu.txt).
//!
//! An image may be hostile, so every count has a limit, and a line that is not printable ASCII is
//! skipped: no text from here can end the line of the menu that it is written to.

use super::menu_entry::{MenuEntry, without_bom};

/// Longest line that SYSLINUX reads (`MAX_LINE`); longer ones are skipped.
const MAX_LINE: usize = 4096;
/// Deepest nesting of INCLUDE; archiso nests once.
const MAX_DEPTH: u32 = 8;
/// Most INCLUDEs of a menu. Depth alone would not limit a file that includes itself twice.
const MAX_INCLUDES: u32 = 64;
/// Most entries of a menu; archiso's has eight.
const MAX_ENTRIES: usize = 256;
/// Most lines for the look of a menu; archiso's has twenty.
const MAX_LOOK: usize = 64;

/// A parsed menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SyslinuxMenu {
    /// Arguments of the last SERIAL.
    pub serial: Option<String>,
    /// Arguments of the last UI: a menu program and its own arguments.
    pub ui: Option<String>,
    /// The MENU lines before the first entry that only set colours, sizes and the background.
    pub look: Vec<String>,
    /// The entries, in order.
    pub entries: Vec<MenuEntry>,
}

/// Parses a menu. `include` reads a file by its name in the menu. SYSLINUX skips an INCLUDE of a
/// missing file.
pub(crate) fn parse(text: &[u8], include: &mut dyn FnMut(&str) -> Option<Vec<u8>>) -> SyslinuxMenu {
    let mut parser =
        Parser { include, includes: 0, menu: SyslinuxMenu::default(), append: Vec::new(), entry: None };
    parser.file(text, 0);
    parser.finish_entry();
    parser.menu
}

/// State of the parser. INCLUDE keeps it, as if the files were one (readconfig.c, "Parser state").
struct Parser<'a> {
    include: &'a mut dyn FnMut(&str) -> Option<Vec<u8>>,
    includes: u32,
    menu: SyslinuxMenu,
    /// The last APPEND before the first LABEL.
    append: Vec<String>,
    entry: Option<EntryDraft>,
}

/// An entry that may get more lines.
struct EntryDraft {
    entry: MenuEntry,
    append: Option<Vec<String>>,
}

impl Parser<'_> {
    fn file(&mut self, text: &[u8], depth: u32) {
        let mut lines = without_bom(text).split(|&b| b == b'\n').filter_map(plain_line);
        while let Some(line) = lines.next() {
            let (word, rest) = split_word(line);
            match word.to_ascii_lowercase().as_str() {
                // Lines between TEXT and ENDTEXT are help, even those that look like directives.
                "text" => drop(lines.find(|line| split_word(line).0.eq_ignore_ascii_case("endtext"))),
                "include" => self.include(rest, depth),
                "menu" => self.menu_line(rest, depth),
                word => self.directive(word, rest),
            }
        }
    }

    fn include(&mut self, rest: &str, depth: u32) {
        if depth == MAX_DEPTH || self.includes == MAX_INCLUDES {
            return;
        }
        self.includes += 1;
        if let Some(text) = (self.include)(split_word(rest).0) {
            self.file(&text, depth + 1);
        }
    }

    fn menu_line(&mut self, rest: &str, depth: u32) {
        let (word, argument) = split_word(rest);
        match (word.to_ascii_lowercase().as_str(), &mut self.entry) {
            ("include", _) => self.include(argument, depth),
            // `^` marks the next character as a hotkey.
            ("label", Some(draft)) => draft.entry.title = Some(argument.replace('^', "")),
            (word, None) if is_look(word) && self.menu.look.len() < MAX_LOOK => {
                self.menu.look.push(format!("MENU {rest}"));
            }
            _ => {}
        }
    }

    fn directive(&mut self, word: &str, rest: &str) {
        match (word, &mut self.entry) {
            ("label", _) => self.start_entry(split_word(rest).0),
            ("serial", _) => self.menu.serial = Some(rest.to_owned()),
            ("ui", _) => self.menu.ui = Some(rest.to_owned()),
            // The last line of a kind counts, in an entry as before all entries.
            ("append", Some(draft)) => draft.append = Some(words(rest)),
            ("append", None) => self.append = words(rest),
            // INITRD before the first LABEL is ignored (readconfig.c).
            ("initrd", Some(draft)) => draft.entry.initrd = commas(rest),
            ("linux" | "kernel", Some(draft)) => draft.entry.kernel = Some(split_word(rest).0.to_owned()),
            _ => {}
        }
    }

    fn start_entry(&mut self, label: &str) {
        self.finish_entry();
        let entry = MenuEntry { label: label.to_owned(), ..MenuEntry::default() };
        self.entry = Some(EntryDraft { entry, append: None });
    }

    fn finish_entry(&mut self) {
        let Some(EntryDraft { mut entry, append }) = self.entry.take() else { return };
        if self.menu.entries.len() == MAX_ENTRIES {
            return;
        }
        for parameter in append.unwrap_or_else(|| self.append.clone()) {
            match parameter.strip_prefix("initrd=") {
                Some(names) if entry.initrd.is_empty() => entry.initrd = commas(names),
                Some(_) => {}
                // `APPEND -` is an empty APPEND, which hides the global one (doc/syslinux.txt).
                None if parameter == "-" => {}
                None => entry.parameters.push(parameter),
            }
        }
        self.menu.entries.push(entry);
    }
}

/// Trims a line; `None` if it is empty or not printable ASCII.
fn plain_line(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok().filter(|line| line.len() < MAX_LINE)?.trim_ascii();
    let plain = line.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b));
    (plain && !line.is_empty()).then_some(line)
}

/// Splits off the first word.
fn split_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_ascii())
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn commas(text: &str) -> Vec<String> {
    split_word(text).0.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns true for a MENU command that changes only the look (doc/menu.txt).
fn is_look(word: &str) -> bool {
    matches!(
        word,
        "background"
            | "clear"
            | "cmdlinerow"
            | "color"
            | "colour"
            | "endrow"
            | "helpmsgendrow"
            | "helpmsgrow"
            | "hshift"
            | "margin"
            | "msgcolor"
            | "msgcolour"
            | "resolution"
            | "rows"
            | "tabmsgrow"
            | "timeoutrow"
            | "vshift"
            | "width"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(text: &str) -> SyslinuxMenu {
        parse(text.as_bytes(), &mut |_| None)
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        let menu =
            parse(b"\xef\xbb\xbfINCLUDE a\n", &mut |_| Some(b"\xef\xbb\xbfLABEL a\nLINUX /k\n".to_vec()));
        assert_eq!(menu.entries[0].kernel.as_deref(), Some("/k"));
    }

    #[test]
    fn archiso_menu_is_read_through_includes() {
        let files = |name: &str| match name {
            "archiso_head.cfg" => Some(include_bytes!("../../tests/iso/syslinux/archiso_head.cfg").to_vec()),
            "archiso_pxe-linux.cfg" => {
                Some(include_bytes!("../../tests/iso/syslinux/archiso_pxe-linux.cfg").to_vec())
            }
            "archiso_tail.cfg" => Some(include_bytes!("../../tests/iso/syslinux/archiso_tail.cfg").to_vec()),
            _ => None,
        };
        let text = include_bytes!("../../tests/iso/syslinux/archiso_pxe.cfg");
        let menu = parse(text, &mut |name| files(name));
        assert_eq!(menu.serial.as_deref(), Some("0 115200"));
        assert_eq!(menu.ui.as_deref(), Some("vesamenu.c32"));
        assert!(menu.look.iter().any(|line| line == "MENU BACKGROUND splash.png"));
        let nbd = &menu.entries[0];
        assert_eq!(nbd.label, "arch_nbd");
        assert_eq!(nbd.title.as_deref(), Some("Arch Linux install medium (%ARCH%, NBD)"));
        assert_eq!(nbd.kernel.as_deref(), Some("::/%INSTALL_DIR%/boot/%ARCH%/vmlinuz-linux"));
        assert_eq!(nbd.initrd, ["::/%INSTALL_DIR%/boot/%ARCH%/initramfs-linux.img"]);
        assert!(nbd.parameters.contains(&"archiso_nbd_srv=${pxeserver}".to_owned()));
    }

    #[test]
    fn entry_forms_are_read() {
        let menu = alone(
            "append global=1\r\n\
             Label a ignored\n kernel /k -x\n initrd /i,/j\n\
             LABEL b\n\tLINUX\t/k\n\tAPPEND initrd=/m.img,/n.img  x=1\ty\n menu label ^Bee\n\
             LABEL c\nCOM32 reboot.c32\nAPPEND -\n",
        );
        let [a, b, c] = &menu.entries[..] else { panic!("{menu:?}") };
        assert_eq!((a.label.as_str(), a.kernel.as_deref()), ("a", Some("/k")));
        assert_eq!((&a.initrd[..], &a.parameters[..]), (&words("/i /j")[..], &words("global=1")[..]));
        assert_eq!(b.title.as_deref(), Some("Bee"));
        assert_eq!((&b.initrd[..], &b.parameters[..]), (&words("/m.img /n.img")[..], &words("x=1 y")[..]));
        assert_eq!((&c.kernel, &c.parameters[..]), (&None, &[][..]));
    }

    #[test]
    fn help_text_is_prose() {
        let menu =
            alone("LABEL a\nTEXT HELP\nLABEL no\nAPPEND no\nENDTEXT\nAPPEND yes\nTEXT HELP\nLABEL never");
        assert_eq!(menu.entries.len(), 1);
        assert_eq!(menu.entries[0].parameters, ["yes"]);
    }

    #[test]
    fn global_menu_lines_keep_only_look() {
        let menu = alone(
            "MENU TITLE x\nMENU PASSWD y\nmEnu\tcolor title 1 2 3 std\nMENU HIDDEN\nLABEL a\nMENU WIDTH 9",
        );
        assert_eq!(menu.look, ["MENU color title 1 2 3 std"]);
    }

    #[test]
    fn unprintable_lines_are_skipped() {
        let mut text = b"LABEL a\nAPPEND x\x00y\nAPPEND \x1b[2J\nAPPEND \xe9\nAPPEND ".to_vec();
        text.extend([b'z'; MAX_LINE]);
        let menu = parse(&text, &mut |_| None);
        assert_eq!(menu.entries, [MenuEntry { label: "a".into(), ..MenuEntry::default() }]);
    }

    #[test]
    fn self_including_menu_ends() {
        let text = b"INCLUDE me\nMENU INCLUDE me\nLABEL a\nKERNEL k\n";
        let mut asked = 0;
        let menu = parse(text, &mut |_| {
            asked += 1;
            Some(text.to_vec())
        });
        assert_eq!(asked, MAX_INCLUDES);
        assert_eq!(menu.entries.len() as u32, MAX_INCLUDES + 1);
    }

    #[test]
    fn entries_and_look_have_limits() {
        let menu = alone(&"MENU WIDTH 1\n".repeat(1000));
        assert_eq!(menu.look.len(), MAX_LOOK);
        let menu = alone(&"LABEL a\n".repeat(10_000));
        assert_eq!(menu.entries.len(), MAX_ENTRIES);
    }
}
