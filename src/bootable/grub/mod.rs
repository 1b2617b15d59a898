//! Parser for the menus of GRUB: the kernels of their entries, in the order of the menu (GRUB
//! manual, "Writing full configuration files directly").
//!
//! No command is run. Both branches of every `if` are read. A variable that is set in a branch, or
//! by a command that probes the machine, is unknown from there on. An entry is dropped if its
//! kernel or an initramfs depends on an unknown variable; a parameter that does is dropped alone.

mod script;

use super::menu_entry::{MenuEntry, without_bom};
use script::{CommandEnd, Script, ScriptCommand, ScriptVariables, UNKNOWN};

/// Deepest nesting of `source`, `configfile` and `eval`.
const MAX_DEPTH: u32 = 8;
/// Most scripts of a menu. Depth alone would not limit a file that sources itself twice.
const MAX_SCRIPTS: u32 = 64;
/// Most entries of a menu; archiso's has two.
const MAX_ENTRIES: usize = 256;
/// Deepest nesting of blocks (`{`); deeper ones are not read.
const MAX_BLOCKS: usize = 32;

/// Parses a menu. `directory` is its directory from the root, without a `/` at the end: GRUB's
/// `$prefix`. `include` reads a file by its path; a missing file is skipped.
pub(crate) fn parse(
    text: &[u8],
    directory: &str,
    include: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Vec<MenuEntry> {
    let mut variables = ScriptVariables::default();
    variables.set("prefix", directory);
    let mut reader =
        MenuReader { include, scripts: 0, variables, blocks: Vec::new(), conditions: 0, entries: Vec::new() };
    reader.script(&plain(text), 0);
    reader.entries
}

struct MenuReader<'a> {
    include: &'a mut dyn FnMut(&str) -> Option<Vec<u8>>,
    scripts: u32,
    variables: ScriptVariables,
    blocks: Vec<Block>,
    /// Number of open `if`, `for` and `while`.
    conditions: u32,
    entries: Vec<MenuEntry>,
}

enum Block {
    /// `menuentry`
    Entry(MenuEntry),
    /// `function`, which runs only if it is called.
    Function,
    /// `submenu`, or a group of commands.
    Group,
}

impl MenuReader<'_> {
    /// Reads a script. Blocks that it leaves open are dropped: GRUB rejects such a script.
    fn script(&mut self, text: &str, depth: u32) {
        if depth == MAX_DEPTH || self.scripts == MAX_SCRIPTS {
            return;
        }
        self.scripts += 1;
        let outer = self.blocks.len();
        let mut script = Script::new(text);
        while let Some(ScriptCommand { words, end }) = script.command(&mut self.variables) {
            let words = self.conditions(&words);
            match end {
                CommandEnd::Open if self.blocks.len() == MAX_BLOCKS => break,
                CommandEnd::Open => self.blocks.push(block(words)),
                CommandEnd::Line | CommandEnd::Close => self.command(words, depth),
            }
            if end == CommandEnd::Close && self.blocks.len() > outer {
                self.close();
            }
        }
        self.blocks.truncate(outer);
    }

    /// Counts the reserved words of conditions and loops before a command, and returns the words
    /// after them (GRUB manual, "Reserved words").
    fn conditions<'w>(&mut self, mut words: &'w [String]) -> &'w [String] {
        while let Some((word, rest)) = words.split_first() {
            match word.as_str() {
                "if" | "while" | "until" => self.conditions = self.conditions.saturating_add(1),
                "for" => {
                    self.conditions = self.conditions.saturating_add(1);
                    rest.first().into_iter().for_each(|variable| self.variables.forget(variable));
                }
                "fi" | "done" => self.conditions = self.conditions.saturating_sub(1),
                "then" | "else" | "elif" | "do" | "!" => {}
                _ => break,
            }
            words = rest;
        }
        words
    }

    fn command(&mut self, words: &[String], depth: u32) {
        let Some((name, arguments)) = words.split_first() else { return };
        if self.blocks.iter().any(|block| matches!(block, Block::Function)) {
            return;
        }
        match (name.as_str(), arguments) {
            ("set", [assignment, ..]) => self.assign(assignment),
            ("unset" | "read", [variable, ..]) => self.variables.forget(variable),
            // linux16 is for the BIOS boot protocol, linuxefi is from patches of distributions.
            ("linux" | "linux16" | "linuxefi", [kernel, parameters @ ..]) => self.linux(kernel, parameters),
            ("initrd" | "initrd16" | "initrdefi", files) => self.initrd(files),
            ("source" | "." | "configfile", [path, ..]) => self.include(path, depth),
            ("eval", pieces) => self.script(&pieces.join(" "), depth + 1),
            (_, arguments) => {
                self.assign(name);
                self.forget_probed(arguments);
            }
        }
    }

    /// Assigns `name=value`; other text assigns nothing.
    fn assign(&mut self, text: &str) {
        let Some((name, value)) = text.split_once('=') else { return };
        match self.conditions {
            0 => self.variables.set(name, value),
            _ => self.variables.forget(name),
        }
    }

    /// Forgets the variable that a command such as `search --set=root` or `probe --set uuid` sets.
    fn forget_probed(&mut self, arguments: &[String]) {
        for (position, argument) in arguments.iter().enumerate() {
            let variable = match argument.strip_prefix("--set=") {
                None if argument == "--set" => arguments.get(position + 1).map(String::as_str),
                variable => variable,
            };
            if let Some(name) = variable {
                self.variables.forget(name);
            }
        }
    }

    fn include(&mut self, path: &str, depth: u32) {
        if depth + 1 == MAX_DEPTH || self.scripts == MAX_SCRIPTS {
            return;
        }
        let Some(text) = in_image(path).and_then(|path| (self.include)(&path)) else { return };
        self.script(&plain(&text), depth + 1);
    }

    /// Takes the first kernel of an entry: between several, a condition on the machine decides.
    fn linux(&mut self, kernel: &str, parameters: &[String]) {
        let Some(entry) = self.entry().filter(|entry| entry.kernel.is_none()) else { return };
        entry.kernel = Some(kernel.to_owned());
        entry.parameters = parameters.iter().filter(|word| !word.contains(UNKNOWN)).cloned().collect();
    }

    fn initrd(&mut self, files: &[String]) {
        let Some(entry) = self.entry().filter(|entry| entry.initrd.is_empty()) else { return };
        entry.initrd = files.to_vec();
    }

    fn entry(&mut self) -> Option<&mut MenuEntry> {
        self.blocks.iter_mut().rev().find_map(|block| match block {
            Block::Entry(entry) => Some(entry),
            Block::Function | Block::Group => None,
        })
    }

    fn close(&mut self) {
        let Some(Block::Entry(mut entry)) = self.blocks.pop() else { return };
        let files = entry.initrd.iter().map(|name| in_image(name)).collect::<Option<Vec<_>>>();
        entry.kernel = entry.kernel.and_then(|name| in_image(&name));
        if let (Some(files), Some(_), true) = (files, &entry.kernel, self.entries.len() < MAX_ENTRIES) {
            entry.initrd = files;
            self.entries.push(entry);
        }
    }
}

fn block(head: &[String]) -> Block {
    match head.split_first() {
        Some((name, arguments)) if name == "menuentry" => Block::Entry(MenuEntry {
            label: option("--id", arguments).unwrap_or_default(),
            title: arguments.first().map(|title| known_part(title)),
            ..MenuEntry::default()
        }),
        Some((name, _)) if name == "function" => Block::Function,
        _ => Block::Group,
    }
}

fn option(name: &str, arguments: &[String]) -> Option<String> {
    let position = arguments.iter().position(|argument| argument == name)?;
    arguments.get(position + 1).cloned()
}

/// Removes unknown parts from a title, with the comma or blank before them: the title may be
/// `Linux (x86_64, $platform)`.
fn known_part(title: &str) -> String {
    let mut known = title.to_owned();
    for before in [", ", " ", ""] {
        known = known.replace(&format!("{before}{UNKNOWN}"), "");
    }
    known.replace("()", "").trim().to_owned()
}

/// Removes the device from the path of a file: all files of an entry are assumed to be in the
/// image. `None` if the path depends on an unknown variable.
fn in_image(path: &str) -> Option<String> {
    let behind_device = path.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(_, path)| path);
    let path = behind_device.unwrap_or(path);
    (!path.contains(UNKNOWN)).then(|| path.to_owned())
}

/// Decodes a script and replaces control characters, among them [`UNKNOWN`].
fn plain(text: &[u8]) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        '\r' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    String::from_utf8_lossy(without_bom(text)).chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(text: &str) -> Vec<MenuEntry> {
        parse(text.as_bytes(), "/boot/grub", &mut |_| None)
    }

    /// Title, kernel, initramfs images and parameters of each entry.
    fn told(entries: &[MenuEntry]) -> Vec<String> {
        let entry = |MenuEntry { title, kernel, initrd, parameters, .. }: &MenuEntry| {
            let (title, kernel) = (title.as_deref().unwrap_or("-"), kernel.as_deref().unwrap_or("-"));
            format!("{title}: {kernel} {} {}", initrd.join(","), parameters.join(" "))
        };
        entries.iter().map(entry).collect()
    }

    /// As mkarchiso's profiles have it, with a few habits of other distributions.
    const MENU: &str = r#"
# comment with a { and a "
VERSION="2026.01"
if loadfont "${prefix}/fonts/unicode.pf2" ; then
    insmod all_video
    set gfxmode="auto"
fi
if [ "${grub_platform}" == 'efi' ]; then
    archiso_platform='UEFI'
else
    archiso_platform="${grub_cpu}-${grub_platform}"
fi
default=some
menuentry "Welcome to $VERSION" {
insmod ext2
}
menuentry "Some Linux $VERSION (x86_64, ${archiso_platform})" --class os --id 'some' {
    set gfxpayload=keep
    linux /some/boot/x86_64/vmlinuz-linux archisobasedir=some \
        img_dev=UUID=${uuid} img_loop="${iso_path}" quiet # for all
    initrd /some/boot/intel-ucode.img /some/boot/x86_64/initramfs-linux.img
}
submenu 'More' {
    if [ "${grub_cpu}" == 'x86_64' -a -f '/boot/memtest' ]; then
        menuentry 'Memtest' { linux /boot/memtest; }
    fi
    menuentry 'LTS' --hotkey l {
        linux ($root)/some/boot/x86_64/vmlinuz-linux-lts archisobasedir=some nomodeset
        initrd (loop)/some/boot/x86_64/initramfs-linux-lts.img
    }
}
menuentry 'Off' { halt }
"#;

    #[test]
    fn byte_order_mark_is_skipped() {
        let entries = parse(b"\xef\xbb\xbfmenuentry a {\nlinux /k\n}\n", "", &mut |_| None);
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn menu_entries_have_a_kernel() {
        let entries = alone(MENU);
        assert_eq!(
            told(&entries),
            [
                "Some Linux 2026.01 (x86_64): /some/boot/x86_64/vmlinuz-linux \
             /some/boot/intel-ucode.img,/some/boot/x86_64/initramfs-linux.img archisobasedir=some quiet",
                "Memtest: /boot/memtest  ",
                "LTS: /some/boot/x86_64/vmlinuz-linux-lts /some/boot/x86_64/initramfs-linux-lts.img \
             archisobasedir=some nomodeset",
            ]
        );
        assert_eq!(entries[0].label, "some");
    }

    #[test]
    fn evaluated_text_is_read() {
        let text = "if [ -z \"$param\" ]; then\nparam=\"archisolabel=X\"\nfi\nconsoles=\"console=tty0 quiet\"\neval \"\n\
                    menuentry 'Rescue' {\n\techo 'Loading...'\n\tlinux /r/vmlinuz archisobasedir=r $param $consoles\n\
                    \tinitrd /r/r.img\n}\n\"\n";
        assert_eq!(told(&alone(text)), ["Rescue: /r/vmlinuz /r/r.img archisobasedir=r console=tty0 quiet"]);
    }

    #[test]
    fn entry_with_unknown_variable_is_dropped() {
        let entry = |lines: &str| alone(&format!("set k=/k\nmenuentry a {{\n{lines}\n}}"));
        assert_eq!(told(&entry("linux $k $x a$x b")), ["a: /k  b"]);
        assert_eq!(entry("linux /boot/$kernel\ninitrd /i"), []);
        assert_eq!(entry("linux /k\ninitrd /i $more"), []);
        assert_eq!(entry("search --file --set=k /x\nlinux $k"), []);
        assert_eq!(entry("search --set k --file /x\nlinux $k"), []);
        assert_eq!(entry("if true; then k=/j; fi\nlinux $k"), []);
        assert_eq!(entry("for k in /a /b; do true; done\nlinux $k"), []);
        assert_eq!(entry("unset k\nlinux $k"), []);
        assert_eq!(told(&entry("if cpuid -l; then linux /64 a; else linux /32 b; fi")), ["a: /64  a"]);
    }

    #[test]
    fn functions_are_not_run() {
        let text =
            "function f {\nset k=/wrong\nmenuentry b {\nlinux /b\n}\n}\nset k=/k\nmenuentry a { linux $k\n}";
        assert_eq!(told(&alone(text)), ["a: /k  "]);
    }

    #[test]
    fn sourced_files_are_read_in_place() {
        let mut asked = Vec::new();
        let text =
            "source $prefix/a.cfg\n. (cd0)/b.cfg\nconfigfile $unknown/c.cfg\nmenuentry d {\nlinux /d\n}";
        let entries = parse(text.as_bytes(), "/boot/grub", &mut |name| {
            asked.push(name.to_owned());
            Some(format!("menuentry {name} {{\nlinux {name}\n}}").into_bytes())
        });
        assert_eq!(asked, ["/boot/grub/a.cfg", "/b.cfg"]);
        assert_eq!(told(&entries), ["/boot/grub/a.cfg: /boot/grub/a.cfg  ", "/b.cfg: /b.cfg  ", "d: /d  "]);
    }

    #[test]
    fn self_sourcing_menu_ends() {
        let text = "source me\nset a='eval \"$a\"; eval \"$a\"'\neval \"$a\"\nmenuentry a {\nlinux /k\n}\nsource me\n";
        let mut asked = 0;
        let entries = parse(text.as_bytes(), "", &mut |_| {
            asked += 1;
            Some(text.into())
        });
        assert!(asked < MAX_SCRIPTS && entries.len() < MAX_SCRIPTS as usize, "{asked}");
        assert!(!entries.is_empty());
    }

    #[test]
    fn entries_and_blocks_have_limits() {
        assert_eq!(alone(&"menuentry a {\nlinux /k\n}\n".repeat(10_000)).len(), MAX_ENTRIES);
        let deep = |levels| {
            format!(
                "{}menuentry a {{\nlinux /k\n{}",
                "submenu b {\n".repeat(levels),
                "}\n".repeat(levels + 1)
            )
        };
        assert_eq!(alone(&deep(MAX_BLOCKS - 1)).len(), 1);
        assert_eq!(alone(&deep(MAX_BLOCKS)), []);
    }

    #[test]
    fn broken_menu_gives_its_readable_part() {
        assert_eq!(alone("}\n}\nfi\ndone\nlinux /k\ninitrd /i\nset\nsource\n"), []);
        assert_eq!(alone("menuentry a {\nlinux /k\n"), [], "it never ends");
        let binary = parse(b"menuentry \xff\x00\x1b {\r\n\tlinux /k a\x00b\r\n}\r\n", "", &mut |_| None);
        assert_eq!(told(&binary), ["\u{fffd}\u{fffd}\u{fffd}: /k  a\u{fffd}b"]);
        assert_eq!(told(&alone("menuentry {\nlinux /k\n}")), ["-: /k  "]);
    }
}
