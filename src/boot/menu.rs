//! The PXELINUX menu that isowire makes: pure text from plain facts (syslinux 6.04: doc/syslinux.txt, doc/menu.txt).
//!
//! It stands beside the image's own menu, which has no timeout, asks `${pxeserver}` for everything and cannot say
//! `copytoram=n`. What the image's author put into their entries is kept: kernel, initramfs, further parameters,
//! titles, colours and the serial port.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;

use super::text::{Line, PlainPath, Word};

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
    const fn value(self) -> &'static str {
        match self {
            CopyToRam::Yes => "y",
            CopyToRam::No => "n",
            CopyToRam::Auto => "auto",
        }
    }

    /// The choice for the second entry.
    const fn opposite(self) -> Self {
        match self {
            CopyToRam::No => CopyToRam::Yes,
            CopyToRam::Yes | CopyToRam::Auto => CopyToRam::No,
        }
    }

    const fn help(self) -> &'static str {
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

/// An image as the menu sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootable {
    pub name: Word,
    /// Whether its tree is at the root or below its name.
    pub place: Place,
    /// `archisobasedir=`.
    pub base_dir: Word,
    /// `archisosearchuuid=`.
    pub uuid: Option<Word>,
    pub signed: bool,
    /// What the image boots: its own PXE entries, or one made from its kernel.
    pub recipes: Vec<Recipe>,
    pub look: Look,
    /// The image's own PXE menu.
    pub stock: Option<PlainPath>,
}

/// Where the tree of an image is, and what its exports are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the root: what archiso's own menu and hooks ask for is this image.
    Default,
    /// In a directory of the image's name.
    Named,
}

/// A kernel and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// A title by the image's author. It tells the root protocol in their words where `root` says so.
    pub title: Option<Line>,
    pub architecture: Word,
    pub kernel: PlainPath,
    pub initrd: Vec<PlainPath>,
    /// The root protocol of the image's own entry; `None` fits all.
    pub root: Option<Root>,
    /// What the image's author added to the parameters that we set.
    pub parameters: Vec<Word>,
}

/// How the image's own menu looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Arguments of SERIAL.
    pub serial: Option<Line>,
    /// The menu program, if the image has one: `vesamenu.c32` or `menu.c32`.
    pub ui: Option<PlainPath>,
    /// MENU lines.
    pub lines: Vec<Line>,
}

/// Where a machine finds what the menu names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    pub address: Ipv4Addr,
    pub ports: Ports,
}

/// The ports that machines load from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub tftp: u16,
    /// `None` where there is no HTTP: kernels then come by TFTP too.
    pub http: Option<u16>,
}

impl Server {
    /// What PXELINUX is to put before a path without a leading `/` (core/fs/pxe/urlparse.c).
    fn tftp_prefix(&self) -> String {
        match self.ports.tftp {
            TFTP => "::/".to_owned(),
            port => format!("tftp://{}:{port}/", self.address),
        }
    }

    /// The root of the HTTP tree.
    pub fn http_prefix(&self) -> Option<String> {
        Some(match self.ports.http? {
            HTTP => format!("http://{}/", self.address),
            port => format!("http://{}:{port}/", self.address),
        })
    }

    /// What to put before kernels and initramfs images. PXELINUX asks for one TFTP block at a time, which takes several
    /// times as long as HTTP; its own modules and menus it loads by TFTP all the same.
    fn kernel_prefix(&self) -> String {
        self.http_prefix().unwrap_or_else(|| self.tftp_prefix())
    }
}

/// The port that `::/` means (RFC 1350 §4).
const TFTP: u16 = 69;
/// The port that `http://` means (RFC 9110 §4.2.1).
const HTTP: u16 = 80;

/// Makes the menu for machines that reach us as `server`.
pub fn generate(images: &[Bootable], settings: &Settings, server: &Server) -> String {
    let look = default_image(images).map(|image| image.look.clone()).unwrap_or_default();
    let entries = entries(images, settings, server);
    let mut text =
        String::from("# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,\n");
    text.push_str("# `cms-verify` and `kernel-parameters` in its configuration.\n");
    // Writing to a String cannot fail.
    let _ = head(&mut text, &look, settings, &entries);
    for (number, entry) in (1..).zip(&entries) {
        let _ = write_entry(&mut text, number, entry);
    }
    text
}

/// The command line of the first entry of an image's menu for this root: without a menu, that is what a machine boots.
/// `None` for an image that has nothing to boot.
pub fn command_line(image: &Bootable, root: Root, settings: &Settings, server: &Server) -> Option<Vec<Word>> {
    let scribe = Scribe { image, server, settings, several: false };
    Some(scribe.command_line(image.recipe(root)?, root, settings.copytoram))
}

impl Bootable {
    /// What is booted with this root by the first entry of the menu.
    pub fn recipe(&self, root: Root) -> Option<&Recipe> {
        self.recipes_for(root).into_iter().next()
    }

    /// The image's own entries for this protocol; else the first there is.
    fn recipes_for(&self, root: Root) -> Vec<&Recipe> {
        let fits = |recipe: &&Recipe| recipe.root.is_none_or(|own| own == root);
        let own: Vec<_> = self.recipes.iter().filter(fits).collect();
        if own.is_empty() { self.recipes.iter().take(1).collect() } else { own }
    }
}

/// One entry, in the order of the menu. Its label is its number there, which is short to type at a `boot:` prompt.
struct Entry {
    title: Line,
    help: &'static str,
    /// The lines that say what to boot.
    action: String,
}

fn entries(images: &[Bootable], settings: &Settings, server: &Server) -> Vec<Entry> {
    let mut entries = Vec::new();
    for image in images {
        let scribe = Scribe { image, server, settings, several: images.len() > 1 };
        entries.extend(settings.roots.iter().flat_map(|&root| scribe.entries(root)));
    }
    entries.extend(default_image(images).and_then(|image| stock(image, server)));
    entries.push(Entry {
        title: Line::new("Boot from the local disk"),
        help: "Leaves the network and goes on with the next boot device.",
        action: "LOCALBOOT 0\n".to_owned(),
    });
    entries
}

/// The image whose modules PXELINUX loads.
fn default_image(images: &[Bootable]) -> Option<&Bootable> {
    images.iter().find(|image| image.place == Place::Default)
}

/// The image's own menu, as its author wrote it. Its entries name files from the root of the tree, where only the
/// default image is.
fn stock(image: &Bootable, server: &Server) -> Option<Entry> {
    let path = image.stock.as_ref()?;
    let prefix = server.tftp_prefix();
    Some(Entry {
        title: Line::new("The image's own menu"),
        help: "It has no time limit and waits for a choice.",
        action: format!("CONFIG {prefix}{path} {prefix}{}\n", path.directory()),
    })
}

/// Writes the entries of one image.
struct Scribe<'a> {
    image: &'a Bootable,
    server: &'a Server,
    settings: &'a Settings,
    several: bool,
}

impl Scribe<'_> {
    fn entries(&self, root: Root) -> Vec<Entry> {
        let mut entries = Vec::new();
        for recipe in self.image.recipes_for(root) {
            for copy in copies(root, self.settings.copytoram) {
                entries.push(self.entry(recipe, root, copy));
            }
        }
        entries
    }

    fn entry(&self, recipe: &Recipe, root: Root, copy: CopyToRam) -> Entry {
        let prefix = format!("{}{}", self.server.kernel_prefix(), self.directory());
        let initrd: Vec<_> = recipe.initrd.iter().map(|path| format!("{prefix}{path}")).collect();
        let mut action = format!("LINUX {prefix}{}\n", recipe.kernel);
        if !initrd.is_empty() {
            action += &format!("INITRD {}\n", initrd.join(","));
        }
        // 1: ip=CLIENT:SERVER:GATEWAY:NETMASK, 2: BOOTIF=; archiso_pxe_common reads both.
        let command_line: Vec<_> =
            self.command_line(recipe, root, copy).iter().map(Word::to_string).collect();
        action += &format!("APPEND {}\nSYSAPPEND 3\n", command_line.join(" "));
        Entry { title: self.title(recipe, root, copy), help: copy.help(), action }
    }

    fn directory(&self) -> String {
        match self.image.place {
            Place::Default => String::new(),
            Place::Named => format!("{}/", self.image.name),
        }
    }

    fn title(&self, recipe: &Recipe, root: Root, copy: CopyToRam) -> Line {
        let own = recipe.title.as_ref().and_then(|title| match recipe.root {
            Some(own) => (own == root).then(|| title.to_string()),
            // The author's words are of the kernel and its parameters, and nothing of the network.
            None => Some(format!("{title} ({root})")),
        });
        let mut title = match own {
            Some(own) if self.several => format!("{}: {own}", self.image.name),
            Some(own) => own,
            None => format!("{} ({}, {root})", self.image.name, recipe.architecture),
        };
        if copy != self.settings.copytoram {
            title += if copy == CopyToRam::No { ", not copied to RAM" } else { ", copied to RAM" };
        }
        Line::new(&title)
    }

    fn command_line(&self, recipe: &Recipe, root: Root, copy: CopyToRam) -> Vec<Word> {
        let mut words = vec![format!("archisobasedir={}", self.image.base_dir)];
        // With another root the hook would wait for a block device of this UUID, which never comes.
        if let (Root::Nbd, Some(uuid)) = (root, &self.image.uuid) {
            words.push(format!("archisosearchuuid={uuid}"));
        }
        words.push(format!("{}={}", root.parameter(), self.root_address(root)));
        if let (Root::Nbd, Place::Named) = (root, self.image.place) {
            words.push(format!("archiso_nbd_name={}", self.image.name));
        }
        words.push(format!("copytoram={}", copy.value()));
        if self.image.signed && self.settings.cms == Cms::Verify {
            words.push("cms_verify=y".to_owned());
        }
        // Made of words and addresses, each of them is a word.
        let ours = words.iter().filter_map(|word| Word::new(word));
        ours.chain(recipe.parameters.iter().chain(&self.settings.parameters).cloned()).collect()
    }

    /// Always the literal address: `${pxeserver}` is the router where another server gives the addresses.
    fn root_address(&self, root: Root) -> String {
        let address = self.server.address;
        match (root, self.image.place) {
            (Root::Nbd, _) => address.to_string(),
            (Root::Nfs, Place::Default) => format!("{address}:/run/archiso/bootmnt"),
            (Root::Nfs, Place::Named) => format!("{address}:/{}", self.image.name),
            // Without HTTP there is no such entry.
            (Root::Http, _) => {
                format!("{}{}", self.server.http_prefix().unwrap_or_default(), self.directory())
            }
        }
    }
}

/// The choices to offer, the operator's first. With an HTTP root archiso always copies.
fn copies(root: Root, chosen: CopyToRam) -> Vec<CopyToRam> {
    match root {
        Root::Http => vec![chosen],
        Root::Nbd | Root::Nfs => vec![chosen, chosen.opposite()],
    }
}

fn head(text: &mut String, look: &Look, settings: &Settings, entries: &[Entry]) -> fmt::Result {
    if let Some(serial) = &look.serial {
        writeln!(text, "SERIAL {serial}")?;
    }
    match &look.ui {
        Some(ui) => {
            writeln!(text, "UI {ui}\nMENU TITLE Network boot")?;
            look.lines.iter().try_for_each(|line| writeln!(text, "{line}"))?;
        }
        None => prompt(text, entries)?,
    }
    writeln!(text, "DEFAULT 1")?;
    match settings.timeout {
        // No TIMEOUT waits for ever.
        0 => Ok(()),
        // In tenths of a second.
        seconds => writeln!(text, "TIMEOUT {}", u32::from(seconds) * 10),
    }
}

/// Without a menu program PXELINUX has a prompt, at which a label can be typed.
fn prompt(text: &mut String, entries: &[Entry]) -> fmt::Result {
    writeln!(text, "SAY Network boot. Type a number and press Enter:")?;
    for (number, entry) in (1..).zip(entries) {
        writeln!(text, "SAY {number:4}  {}", entry.title)?;
    }
    writeln!(text, "PROMPT 1")
}

fn write_entry(text: &mut String, number: u32, entry: &Entry) -> fmt::Result {
    writeln!(text, "\nLABEL {number}\nMENU LABEL {}", entry.title)?;
    writeln!(text, "TEXT HELP\n{}\nENDTEXT", entry.help)?;
    text.write_str(&entry.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word::new(text).unwrap()
    }

    fn path(text: &str) -> PlainPath {
        PlainPath::new(text).unwrap()
    }

    fn recipe(root: Option<Root>, title: &str) -> Recipe {
        Recipe {
            title: Some(Line::new(title)),
            architecture: word("x86_64"),
            kernel: path("arch/boot/x86_64/vmlinuz-linux"),
            initrd: vec![path("arch/boot/ucode.img"), path("arch/boot/x86_64/initramfs-linux.img")],
            root,
            parameters: vec![word("console=ttyS0,115200")],
        }
    }

    fn image(name: &str) -> Bootable {
        Bootable {
            name: word(name),
            place: Place::Default,
            base_dir: word("arch"),
            uuid: Some(word("2026-01-02-03-04-05-00")),
            signed: true,
            recipes: vec![recipe(Some(Root::Nbd), "Medium (x86_64, NBD)"), recipe(Some(Root::Nfs), "NFS")],
            look: Look {
                serial: Some(Line::new("0 115200")),
                ui: Some(path("vesamenu.c32")),
                lines: vec![Line::new("MENU BACKGROUND splash.png")],
            },
            stock: Some(path("boot/syslinux/archiso_pxe.cfg")),
        }
    }

    fn settings(roots: &[Root]) -> Settings {
        Settings {
            roots: roots.to_vec(),
            copytoram: CopyToRam::Auto,
            timeout: 10,
            cms: Cms::Verify,
            parameters: vec![word("quiet")],
        }
    }

    const SERVER: Server =
        Server { address: Ipv4Addr::new(192, 168, 1, 10), ports: Ports { tftp: 69, http: Some(80) } };

    /// The lines of a menu that start with this word, without it.
    fn lines<'a>(menu: &'a str, word: &str) -> Vec<&'a str> {
        menu.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
    }

    #[test]
    fn the_menu_of_one_image() {
        let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &SERVER);
        assert_eq!(
            menu,
            "\
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify` and `kernel-parameters` in its configuration.
SERIAL 0 115200
UI vesamenu.c32
MENU TITLE Network boot
MENU BACKGROUND splash.png
DEFAULT 1
TIMEOUT 100

LABEL 1
MENU LABEL Medium (x86_64, NBD)
TEXT HELP
The root file system is copied into memory first: the server may go then.
ENDTEXT
LINUX http://192.168.1.10/arch/boot/x86_64/vmlinuz-linux
INITRD http://192.168.1.10/arch/boot/ucode.img,http://192.168.1.10/arch/boot/x86_64/initramfs-linux.img
APPEND archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=192.168.1.10 \
             copytoram=auto cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 2
MENU LABEL Medium (x86_64, NBD), not copied to RAM
TEXT HELP
The root file system stays on the server: the server must stay up.
ENDTEXT
LINUX http://192.168.1.10/arch/boot/x86_64/vmlinuz-linux
INITRD http://192.168.1.10/arch/boot/ucode.img,http://192.168.1.10/arch/boot/x86_64/initramfs-linux.img
APPEND archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=192.168.1.10 \
             copytoram=n cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 3
MENU LABEL The image's own menu
TEXT HELP
It has no time limit and waits for a choice.
ENDTEXT
CONFIG ::/boot/syslinux/archiso_pxe.cfg ::/boot/syslinux/

LABEL 4
MENU LABEL Boot from the local disk
TEXT HELP
Leaves the network and goes on with the next boot device.
ENDTEXT
LOCALBOOT 0
"
        );
    }

    #[test]
    fn every_root_gets_its_own_address_and_only_nbd_a_uuid() {
        let menu = generate(&[image("arch")], &settings(&[Root::Http, Root::Nfs, Root::Nbd]), &SERVER);
        let append = lines(&menu, "APPEND");
        assert_eq!(append.len(), 5, "HTTP always copies, NFS and NBD have a choice");
        assert!(append[0].contains(" archiso_http_srv=http://192.168.1.10/ "));
        assert!(append[1].contains(" archiso_nfs_srv=192.168.1.10:/run/archiso/bootmnt "));
        assert!(append[3].contains(" archiso_nbd_srv=192.168.1.10 "));
        let with_uuid: Vec<_> = append.iter().map(|line| line.contains("archisosearchuuid=")).collect();
        assert_eq!(with_uuid, [false, false, false, true, true]);
        let titles = lines(&menu, "MENU LABEL");
        assert_eq!(titles[0], "arch (x86_64, HTTP)", "no title of the author's speaks of HTTP");
        assert_eq!(titles[1], "NFS");
    }

    #[test]
    fn entries_for_any_root_are_told_apart_by_title_and_root() {
        let recipes = vec![recipe(None, "Some Linux"), recipe(None, "Some Linux, LTS")];
        let menu =
            generate(&[Bootable { recipes, ..image("arch") }], &settings(&[Root::Http, Root::Nbd]), &SERVER);
        let expected = [
            "Some Linux (HTTP)",
            "Some Linux, LTS (HTTP)",
            "Some Linux (NBD)",
            "Some Linux (NBD), not copied to RAM",
            "Some Linux, LTS (NBD)",
            "Some Linux, LTS (NBD), not copied to RAM",
        ];
        assert_eq!(lines(&menu, "MENU LABEL")[..6], expected);
    }

    #[test]
    fn further_images_live_below_their_names() {
        let two = Bootable { place: Place::Named, ..image("two") };
        let menu = generate(&[image("one"), two], &settings(&[Root::Nbd]), &SERVER);
        let append = lines(&menu, "APPEND");
        assert!(!append[0].contains("archiso_nbd_name"));
        assert!(append[2].contains(" archiso_nbd_name=two "));
        assert_eq!(lines(&menu, "LINUX")[2], "http://192.168.1.10/two/arch/boot/x86_64/vmlinuz-linux");
        assert_eq!(lines(&menu, "MENU LABEL")[2], "two: Medium (x86_64, NBD)");
        assert_eq!(lines(&menu, "CONFIG").len(), 1, "the other's own menu would load this one's kernel");
    }

    #[test]
    fn the_choices_of_the_operator() {
        let chosen = Settings {
            copytoram: CopyToRam::No,
            timeout: 0,
            cms: Cms::Skip,
            parameters: Vec::new(),
            ..settings(&[Root::Nbd])
        };
        let menu = generate(&[image("arch")], &chosen, &SERVER);
        assert!(lines(&menu, "APPEND")[0].ends_with(" copytoram=n console=ttyS0,115200"));
        assert!(lines(&menu, "APPEND")[1].contains(" copytoram=y "));
        assert_eq!(lines(&menu, "MENU LABEL")[1], "Medium (x86_64, NBD), copied to RAM");
        assert!(lines(&menu, "TIMEOUT").is_empty());
    }

    #[test]
    fn an_unsigned_image_is_not_verified() {
        let unsigned = Bootable { signed: false, ..image("arch") };
        assert!(!generate(&[unsigned], &settings(&[Root::Nbd]), &SERVER).contains("cms_verify="));
    }

    #[test]
    fn without_http_kernels_come_by_tftp() {
        let server = Server { ports: Ports { http: None, ..SERVER.ports }, ..SERVER };
        let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &server);
        assert_eq!(lines(&menu, "LINUX")[0], "::/arch/boot/x86_64/vmlinuz-linux");
        assert_eq!(
            lines(&menu, "INITRD")[0],
            "::/arch/boot/ucode.img,::/arch/boot/x86_64/initramfs-linux.img"
        );
    }

    #[test]
    fn another_http_port_is_in_every_url() {
        let server = Server { ports: Ports { http: Some(8080), ..SERVER.ports }, ..SERVER };
        let menu = generate(&[image("arch")], &settings(&[Root::Http]), &server);
        assert_eq!(lines(&menu, "LINUX")[0], "http://192.168.1.10:8080/arch/boot/x86_64/vmlinuz-linux");
        assert!(lines(&menu, "APPEND")[0].contains(" archiso_http_srv=http://192.168.1.10:8080/ "));
    }

    #[test]
    fn another_tftp_port_needs_urls() {
        let server = Server { ports: Ports { tftp: 6969, http: None }, ..SERVER };
        let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &server);
        assert_eq!(lines(&menu, "LINUX")[0], "tftp://192.168.1.10:6969/arch/boot/x86_64/vmlinuz-linux");
        assert_eq!(
            lines(&menu, "CONFIG")[0],
            "tftp://192.168.1.10:6969/boot/syslinux/archiso_pxe.cfg tftp://192.168.1.10:6969/boot/syslinux/"
        );
    }

    #[test]
    fn without_a_menu_program_there_is_a_prompt() {
        let plain = Bootable { look: Look::default(), ..image("arch") };
        let menu = generate(&[plain], &settings(&[Root::Nbd]), &SERVER);
        assert!(lines(&menu, "UI").is_empty());
        assert_eq!(lines(&menu, "PROMPT"), ["1"]);
        assert_eq!(lines(&menu, "SAY")[1], "   1  Medium (x86_64, NBD)");
    }

    #[test]
    fn without_a_root_there_is_still_a_menu() {
        let menu = generate(&[image("arch")], &settings(&[]), &SERVER);
        assert_eq!(lines(&menu, "MENU LABEL"), ["The image's own menu", "Boot from the local disk"]);
        assert_eq!(lines(&generate(&[], &settings(&[Root::Nbd]), &SERVER), "LABEL"), ["1"]);
    }
}
