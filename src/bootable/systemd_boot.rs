//! Parser for systemd-boot's entries, `/loader/entries/*.conf` (UAPI.1 Boot Loader Specification,
//! "Type #1 Boot Loader Entry Keys"), and for the default in `/loader/loader.conf`
//! (loader.conf(5)).

use std::cmp::Ordering;

use super::menu_entry::{MenuEntry, without_bom};

/// Longest line that is read; longer ones are skipped. The longest holds the kernel's parameters,
/// which have at most 2048 bytes.
const MAX_LINE: usize = 4096;
/// Most initramfs images of an entry; an entry with more is not used.
const MAX_INITRD: usize = 16;
/// Most words of all `options` lines; further ones are dropped.
const MAX_PARAMETERS: usize = 512;

/// An entry and its place in the menu.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LoaderEntry {
    /// The label is the name of the file.
    pub entry: MenuEntry,
    /// `architecture`: the only one that the entry is for.
    pub architecture: Option<String>,
    /// `sort-key`.
    pub sort_key: Option<String>,
}

impl LoaderEntry {
    /// Returns true if the entry is for x86-64 machines.
    pub(crate) fn is_for_x86_64(&self) -> bool {
        // EFI's name of the architecture, without regard to case (UAPI.1, `architecture`).
        self.architecture.as_deref().is_none_or(|name| name.eq_ignore_ascii_case("x64"))
    }

    /// Compares two entries by their places in the menu: first those with a sort key, by it; then
    /// by file name.
    pub(crate) fn in_menu(&self, other: &Self) -> Ordering {
        self.menu_key().cmp(&other.menu_key())
    }

    fn menu_key(&self) -> (bool, Option<&str>, &str) {
        (self.sort_key.is_none(), self.sort_key.as_deref(), &self.entry.label)
    }
}

/// Parses the entry in the file `name`. Unknown keys are skipped; an entry for another program
/// (`efi`, `uki`) has no kernel.
pub(crate) fn parse(name: &str, text: &[u8]) -> LoaderEntry {
    let mut loaded = LoaderEntry {
        entry: MenuEntry { label: name.to_owned(), ..MenuEntry::default() },
        ..LoaderEntry::default()
    };
    let mut is_kernel = true;
    for (key, value) in without_bom(text).split(|&byte| byte == b'\n').filter_map(pair) {
        let entry = &mut loaded.entry;
        match key {
            "title" => entry.title = Some(value.to_owned()),
            "linux" => entry.kernel = Some(value.to_owned()),
            "initrd" if entry.initrd.len() == MAX_INITRD => is_kernel = false,
            // UAPI.1: `initrd` and `options` may appear more than once, and all count, in order.
            "initrd" => entry.initrd.push(value.to_owned()),
            "options" => {
                let room = MAX_PARAMETERS.saturating_sub(entry.parameters.len());
                entry.parameters.extend(value.split_ascii_whitespace().take(room).map(str::to_owned));
            }
            "architecture" => loaded.architecture = Some(value.to_owned()),
            "sort-key" => loaded.sort_key = Some(value.to_owned()),
            "efi" | "uki" | "uki-url" => is_kernel = false,
            _ => {}
        }
    }
    loaded.entry.kernel = loaded.entry.kernel.filter(|_| is_kernel);
    loaded
}

/// Returns the pattern of the default entry in `loader.conf`, if it has one.
pub(crate) fn default_entry(text: &[u8]) -> Option<String> {
    let mut pairs = without_bom(text).split(|&byte| byte == b'\n').filter_map(pair);
    pairs.rfind(|(key, _)| *key == "default").map(|(_, pattern)| pattern.to_owned())
}

/// Returns true if a pattern of `loader.conf` matches the file `name`, with or without its ending.
/// Only `*` is a wildcard here; no image uses the others of glob(7).
pub(crate) fn means(pattern: &str, name: &str) -> bool {
    let stem = name.strip_suffix(".conf").unwrap_or(name);
    glob(pattern, name) || glob(pattern, stem)
}

/// Matches in one pass: each part between two `*` takes the first place where it fits.
fn glob(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, behind)) = left.split_once(part) else { return false };
        left = if part.is_empty() { left } else { behind };
    }
    left.ends_with(end)
}

/// Splits a line into key and value; `None` for an empty line, a comment, or control characters.
fn pair(line: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line).ok().filter(|line| line.len() < MAX_LINE)?.trim_ascii();
    let is_plain = !line.contains(|c: char| c.is_control() && c != '\t');
    let (key, value) = line.split_once([' ', '\t']).filter(|_| is_plain)?;
    (!key.starts_with('#')).then_some((key, value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_skipped() {
        assert_eq!(parse("a", b"\xef\xbb\xbflinux /k\n").entry.kernel.as_deref(), Some("/k"));
        assert_eq!(default_entry(b"\xef\xbb\xbfdefault a\n").as_deref(), Some("a"));
    }

    #[test]
    fn entry_is_read_with_all_lines() {
        let loaded = parse(
            "02-nv.conf",
            b"# made by hand\r\ntitle   Some Linux \xe2\x80\x94 with drivers\nsort-key B\narchitecture x64\nversion 6.1\n\
              linux\t/some/boot/x86_64/vmlinuz-linux\ninitrd  /some/boot/intel-ucode.img\n\
              initrd  /some/boot/x86_64/initramfs-linux.img\noptions archisobasedir=some  quiet\n\
              options\tarchisolabel=SOME nvidia-drm.modeset=1\nmachine-id 00\ngrub_users $x\n",
        );
        let MenuEntry { label, title, kernel, initrd, parameters } = &loaded.entry;
        assert_eq!(
            (label.as_str(), title.as_deref()),
            ("02-nv.conf", Some("Some Linux \u{2014} with drivers"))
        );
        assert_eq!(kernel.as_deref(), Some("/some/boot/x86_64/vmlinuz-linux"));
        assert_eq!(initrd[..], ["/some/boot/intel-ucode.img", "/some/boot/x86_64/initramfs-linux.img"]);
        assert_eq!(parameters.join(" "), "archisobasedir=some quiet archisolabel=SOME nvidia-drm.modeset=1");
        assert_eq!(loaded.sort_key.as_deref(), Some("B"));
        assert!(loaded.is_for_x86_64());
    }

    #[test]
    fn entries_for_other_programs_have_no_kernel() {
        let memtest = parse("m.conf", b"title Memtest\nefi /boot/memtest86+/memtest.efi\n");
        assert_eq!(memtest.entry.kernel, None);
        let both = parse("m.conf", b"linux /a\nuki /b.efi\n");
        assert_eq!(both.entry.kernel, None);
        assert!(!parse("a.conf", b"linux /a\narchitecture aa64\n").is_for_x86_64());
        assert!(parse("a.conf", b"linux /a\narchitecture X64\n").is_for_x86_64());
    }

    #[test]
    fn unusable_lines_are_skipped() {
        let text =
            [&b"linux /a\x00b\nlinux /a\x1b[2J\nlinux /\xff\nlinux\n  \nlinux "[..], &[b'a'; MAX_LINE]]
                .concat();
        assert_eq!(parse("a", &text).entry.kernel, None);
    }

    #[test]
    fn initramfs_images_and_parameters_have_limits() {
        let text = format!("linux /a\n{}options {}\n", "initrd /b\n".repeat(17), "x ".repeat(900));
        let many = parse("a", text.as_bytes()).entry;
        assert_eq!((many.kernel, many.initrd.len()), (None, MAX_INITRD), "half of its images would not do");
        let many = parse("a", "options x y z\n".repeat(9000).as_bytes()).entry;
        assert_eq!(many.parameters.len(), MAX_PARAMETERS);
    }

    #[test]
    fn menu_order_is_sort_keys_then_names() {
        let mut all = [
            parse("03.conf", b"sort-key 02"),
            parse("02.conf", b""),
            parse("01.conf", b""),
            parse("04.conf", b"sort-key 01"),
        ];
        all.sort_by(LoaderEntry::in_menu);
        assert_eq!(all.map(|loaded| loaded.entry.label), ["04.conf", "03.conf", "01.conf", "02.conf"]);
    }

    #[test]
    fn default_entry_is_a_pattern() {
        let conf = b"timeout 15\n#default x\ndefault a\ndefault 01-archiso-*.conf\n";
        assert_eq!(default_entry(conf).as_deref(), Some("01-archiso-*.conf"));
        assert_eq!(default_entry(b"timeout 3"), None);
        for (pattern, name, is_it) in [
            ("01-archiso-*.conf", "01-archiso-x86_64-linux.conf", true),
            ("01-archiso-x86_64-linux", "01-archiso-x86_64-linux.conf", true),
            ("01-archiso-x86_64-linux.conf", "01-archiso-x86_64-linux.conf", true),
            ("01-archiso-x86_64-linux.conf", "02-archiso-x86_64-linux.conf", false),
            ("*linux*", "a-linux-lts.conf", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "ac", false),
            ("ab*ba", "aba", false),
            ("*", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(means(pattern, name), is_it, "{pattern} {name}");
        }
    }
}
