//! Reads the menus of GRUB: the kernels of their entries, in the order of the menu (GRUB manual, "Writing full
//! configuration files directly").
//!
//! Nothing is run. Both sides of every `if` are read; a variable that is set on one of them, or by a command that looks
//! at the machine, is unknown from there on. An entry whose kernel hangs on an unknown variable is no entry; a parameter
//! that does is left out.

mod script;

use super::menu_entry::MenuEntry;
use script::{Command, End, Script, UNKNOWN, Variables};

/// How deep `source`, `configfile` and `eval` may nest.
const MAX_DEPTH: u32 = 8;
/// Scripts of one menu in all, so that a file that sources itself twice comes to an end.
const MAX_SCRIPTS: u32 = 64;
/// Entries of one menu; archiso's has two.
const MAX_ENTRIES: usize = 256;
/// Blocks (`{`) inside each other. What nests deeper is not read.
const MAX_BLOCKS: usize = 32;

/// Reads a menu. `directory` is the one it is in, from the root, without a `/` at the end: GRUB's `$prefix`. `include`
/// gives the content of a file by its path; what it does not give is passed over.
pub(crate) fn parse(
    text: &[u8],
    directory: &str,
    include: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Vec<MenuEntry> {
    let mut variables = Variables::default();
    variables.set("prefix", directory);
    let mut reader =
        Reader { include, scripts: 0, variables, blocks: Vec::new(), conditions: 0, entries: Vec::new() };
    reader.script(&plain(text), 0);
    reader.entries
}

struct Reader<'a> {
    include: &'a mut dyn FnMut(&str) -> Option<Vec<u8>>,
    scripts: u32,
    variables: Variables,
    blocks: Vec<Block>,
    /// `if`, `for` and `while` that are open.
    conditions: u32,
    entries: Vec<MenuEntry>,
}

enum Block {
    /// `menuentry`
    Entry(MenuEntry),
    /// `function`: it runs when it is called, if ever.
    Function,
    /// `submenu`, or a group of commands.
    Group,
}

impl Reader<'_> {
    /// Blocks that are still open at the end of a script are cut off: GRUB would take none of it.
    fn script(&mut self, text: &str, depth: u32) {
        if depth == MAX_DEPTH || self.scripts == MAX_SCRIPTS {
            return;
        }
        self.scripts += 1;
        let outer = self.blocks.len();
        let mut script = Script::new(text);
        while let Some(Command { words, end }) = script.command(&mut self.variables) {
            let words = self.conditions(&words);
            match end {
                End::Open if self.blocks.len() == MAX_BLOCKS => break,
                End::Open => self.blocks.push(block(words)),
                End::Line | End::Close => self.command(words, depth),
            }
            if end == End::Close && self.blocks.len() > outer {
                self.close();
            }
        }
        self.blocks.truncate(outer);
    }

    /// Counts the words of GRUB's conditions and loops in front of a command, and gives what is behind them.
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
            ("linux" | "linux16" | "linuxefi", [kernel, parameters @ ..]) => self.linux(kernel, parameters),
            ("initrd" | "initrd16" | "initrdefi", files) => self.initrd(files),
            ("source" | "." | "configfile", [path, ..]) => self.include(path, depth),
            ("eval", pieces) => self.script(&pieces.join(" "), depth + 1),
            (_, arguments) => {
                self.assign(name);
                self.looks_at_the_machine(arguments);
            }
        }
    }

    /// `name=value`; anything else assigns nothing.
    fn assign(&mut self, text: &str) {
        let Some((name, value)) = text.split_once('=') else { return };
        match self.conditions {
            0 => self.variables.set(name, value),
            _ => self.variables.forget(name),
        }
    }

    /// `search --set=root`, `probe --set uuid`, and their like.
    fn looks_at_the_machine(&mut self, arguments: &[String]) {
        for (position, argument) in arguments.iter().enumerate() {
            let next = || arguments.get(position + 1).map(String::as_str);
            let variable = argument.strip_prefix("--set=").or_else(|| next().filter(|_| argument == "--set"));
            variable.into_iter().for_each(|name| self.variables.forget(name));
        }
    }

    fn include(&mut self, path: &str, depth: u32) {
        if depth + 1 == MAX_DEPTH || self.scripts == MAX_SCRIPTS {
            return;
        }
        let Some(text) = in_image(path).and_then(|path| (self.include)(&path)) else { return };
        self.script(&plain(&text), depth + 1);
    }

    /// The first kernel of an entry counts: where an entry has several, the machine decides.
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

/// A title without what is unknown in it, and without the comma or blank in front of that: `Linux (x86_64, $platform)`.
fn known_part(title: &str) -> String {
    let without = |title: String, before: &str| title.replace(&format!("{before}{UNKNOWN}"), "");
    let known = [", ", " ", ""].into_iter().fold(title.to_owned(), without);
    known.replace("()", "").trim().to_owned()
}

/// The path of a file, without the device in front of it: all files that an entry names are taken to be in the image.
/// `None` where something of it is unknown.
fn in_image(path: &str) -> Option<String> {
    let behind_device = path.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(_, path)| path);
    let path = behind_device.unwrap_or(path);
    (!path.contains(UNKNOWN)).then(|| path.to_owned())
}

/// A script as text that holds [`UNKNOWN`] nowhere, nor other control characters.
fn plain(text: &[u8]) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        '\r' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    String::from_utf8_lossy(text).chars().map(plain).collect()
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
    fn the_entries_of_a_menu_are_those_with_a_kernel() {
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
    fn a_menu_may_be_a_text_that_is_evaluated() {
        let text = "if [ -z \"$param\" ]; then\nparam=\"archisolabel=X\"\nfi\nconsoles=\"console=tty0 quiet\"\neval \"\n\
                    menuentry 'Rescue' {\n\techo 'Loading...'\n\tlinux /r/vmlinuz archisobasedir=r $param $consoles\n\
                    \tinitrd /r/r.img\n}\n\"\n";
        assert_eq!(told(&alone(text)), ["Rescue: /r/vmlinuz /r/r.img archisobasedir=r console=tty0 quiet"]);
    }

    #[test]
    fn what_hangs_on_an_unknown_variable_is_no_entry() {
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
    fn other_files_are_read_where_they_are_named() {
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
    fn a_menu_that_sources_or_evaluates_itself_ends() {
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
    fn what_is_broken_gives_what_can_be_read() {
        assert_eq!(alone("}\n}\nfi\ndone\nlinux /k\ninitrd /i\nset\nsource\n"), []);
        assert_eq!(alone("menuentry a {\nlinux /k\n"), [], "it never ends");
        let binary = parse(b"menuentry \xff\x00\x1b {\r\n\tlinux /k a\x00b\r\n}\r\n", "", &mut |_| None);
        assert_eq!(told(&binary), ["\u{fffd}\u{fffd}\u{fffd}: /k  a\u{fffd}b"]);
        assert_eq!(told(&alone("menuentry {\nlinux /k\n}")), ["-: /k  "]);
    }
}
