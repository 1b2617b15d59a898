//! The menu for iPXE: a script (ipxe.org/scripting).
//!
//! iPXE splits a line at its spaces, interprets the words `||`, `&&`, `;` and words that begin with
//! `#`, expands `${name}` and joins a line that ends with `\` to the next (src/core/exec.c,
//! src/image/script.c). No [`Word`] and no path can be one of these; titles lose the characters.

use std::fmt::{self, Write as _};

use super::pages::{Action, Loader, Page, Row};
use super::{Kernel, Menu, Start};
use crate::boot::file_server::FileServer;
use crate::bootable::{Bootable, MemoryTests};
use crate::mac::Mac;
use crate::text::{Line, Word};

/// Time that an error stays on the screen before the machine tries again, in milliseconds.
const FAILURE_PAUSE: u32 = 10_000;

/// MAC address of the network card that iPXE uses, in the form of paths and of `BOOTIF=`.
const OWN_CARD: &str = "${netX/mac:hexhyp}";

/// Label of the first page.
const START: &str = "start";

/// Writes the script of a machine. It fills in what the server does not know of the machine.
pub(crate) fn write(menu: &Menu<'_>) -> String {
    write_with_prefix(menu, &prefix(&menu.server))
}

/// Writes the same for an iPXE without HTTP: it loads by TFTP.
pub(crate) fn write_by_tftp(menu: &Menu<'_>) -> String {
    write_with_prefix(menu, &menu.server.tftp_url())
}

fn write_with_prefix(menu: &Menu<'_>, prefix: &str) -> String {
    let mut front = menu.front(Loader::Ipxe);
    if menu.start == Start::Straight {
        front.rows.truncate(1);
    }
    let network = network(menu.machine.mac, &menu.server);
    let mut script = Script { menu, prefix, network, text: String::from(HEAD), labels: 0 };
    // Writing to a String cannot fail.
    let _ = script.page(START, &front, None);
    let _ = script.failure();
    script.text
}

/// Writes a script for any machine: it loads the script of the machine by its MAC address.
pub(crate) fn write_referral(server: &FileServer) -> String {
    format!("{HEAD}chain --replace --autofree {}isowire/{OWN_CARD}/boot.ipxe\n", prefix(server))
}

/// Start of every script. `autoexec.ipxe` runs before the network is up, and iPXE would hand the
/// script itself to the kernel as a part of the initramfs.
const HEAD: &str = "\
#!ipxe
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
imgfree autoexec.ipxe ||
isset ${netX/ip} || dhcp ||
";

/// Indentation of help texts: iPXE drops spaces that are not a setting.
const PAD: &str = "set pad:hex 20:20:20 ||\nset pad ${pad:string} ||";

/// Returns the prefix of every path.
fn prefix(server: &FileServer) -> String {
    server.http_url().unwrap_or_else(|| server.tftp_url())
}

struct Script<'m, 'a> {
    menu: &'m Menu<'a>,
    prefix: &'m str,
    network: [String; 2],
    text: String,
    /// Numbers of rows so far. A row's number is its label.
    labels: usize,
}

impl Script<'_, '_> {
    /// Writes a page with all that is below it. `parent` is the label of the page before it.
    fn page(&mut self, label: &str, page: &Page<'_>, parent: Option<&str>) -> fmt::Result {
        let first = self.labels + 1;
        self.labels += page.rows.len();
        writeln!(self.text, "\n:{label}")?;
        match (parent, self.menu.start) {
            (None, Start::Straight | Start::Local) => writeln!(self.text, "goto 1")?,
            _ => self.choice(page, first, parent)?,
        }
        for (number, row) in (first..).zip(&page.rows) {
            self.action(number, row, label, parent.unwrap_or(START))?;
        }
        Ok(())
    }

    fn choice(&mut self, page: &Page<'_>, first: usize, parent: Option<&str>) -> fmt::Result {
        let is_front = parent.is_none();
        // An iPXE that was built without the command boots the first entry.
        let otherwise = if is_front { " || goto 1" } else { "" };
        writeln!(self.text, "{PAD}\nmenu {}{otherwise}", plain(&page.title))?;
        for (number, row) in (first..).zip(&page.rows) {
            self.item(number, row)?;
            // There is no room for all of them on a page with many rows.
            let help = row.help.first().filter(|_| is_front);
            help.map_or(Ok(()), |help| writeln!(self.text, "item --gap ${{pad}} {}", plain(help)))?;
        }
        let identity = self.menu.identity("${netX/mac}", "${netX/ip}");
        writeln!(self.text, "item --gap ${{pad}}\nitem --gap {identity}")?;
        match (parent, self.menu.timeout) {
            (Some(parent), _) => writeln!(self.text, "choose entry || goto {parent}")?,
            // Escape ends the menu: `exit 1` returns to the firmware, which tries the next boot
            // device.
            (None, 0) => writeln!(self.text, "choose --default 1 entry || exit 1")?,
            (None, seconds) => {
                let timeout = u32::from(seconds) * 1000;
                writeln!(self.text, "choose --default 1 --timeout {timeout} entry || exit 1")?;
            }
        }
        writeln!(self.text, "goto ${{entry}}")
    }

    fn item(&mut self, number: usize, row: &Row<'_>) -> fmt::Result {
        let tests = match &row.action {
            Action::MemoryTest(image) => Some(&image.memory_tests),
            _ => None,
        };
        let item = format!("item {number} {}", plain(&row.title));
        match tests {
            Some(MemoryTests { bios: None, .. }) => {
                writeln!(self.text, "iseq ${{platform}} efi && {item} ||")
            }
            Some(MemoryTests { uefi: None, .. }) => {
                writeln!(self.text, "iseq ${{platform}} pcbios && {item} ||")
            }
            _ => writeln!(self.text, "{item}"),
        }
    }

    /// Writes what a row of the page `label` does.
    fn action(&mut self, number: usize, row: &Row<'_>, label: &str, parent: &str) -> fmt::Result {
        if let Action::Open(page) = &row.action {
            return self.page(&number.to_string(), page, Some(label));
        }
        writeln!(self.text, "\n:{number}")?;
        match &row.action {
            Action::Boot(kernel) => self.kernel(kernel),
            Action::MemoryTest(image) => self.memory_test(image),
            // BIOS may have no other boot device behind the network.
            Action::LocalDisk if self.menu.start == Start::Local => {
                writeln!(self.text, "iseq ${{platform}} efi || sanboot --no-describe --drive 0x80 ||\nexit 1")
            }
            Action::LocalDisk => writeln!(self.text, "exit 1"),
            Action::Reboot => writeln!(self.text, "reboot"),
            Action::Shell => writeln!(self.text, "echo Type exit for the menu.\nshell ||\ngoto {label}"),
            Action::Back => writeln!(self.text, "goto {parent}"),
            // PXELINUX's only.
            Action::StockMenu(_) | Action::Open(_) => Ok(()),
        }
    }

    fn kernel(&mut self, kernel: &Kernel<'_>) -> fmt::Result {
        let prefix = self.prefix;
        let mut words: Vec<_> = kernel.command_line.iter().map(Word::to_string).collect();
        words.extend_from_slice(&self.network);
        // Linux's EFI stub opens the files of `initrd=` in iPXE's virtual file system; iPXE of
        // today also hands them over by LoadFile2.
        let names: Vec<_> =
            (1..=kernel.initrd().count()).map(|number| format!("initrd{number}.img")).collect();
        words.extend(names.iter().map(|name| format!("initrd={name}")));
        // Images of an attempt that failed would stay and be loaded with the next kernel.
        writeln!(self.text, "imgfree")?;
        writeln!(self.text, "kernel {prefix}{} {} || goto failed", kernel.path(), words.join(" "))?;
        for (name, path) in names.iter().zip(kernel.initrd()) {
            writeln!(self.text, "initrd --name {name} {prefix}{path} || goto failed")?;
        }
        writeln!(self.text, "boot || goto failed")
    }

    fn memory_test(&mut self, image: &Bootable) -> fmt::Result {
        let prefix = self.prefix;
        writeln!(self.text, "imgfree")?;
        let MemoryTests { bios, uefi } = &image.memory_tests;
        for (platform, test) in [("pcbios", bios), ("efi", uefi)] {
            if let Some(path) = test {
                writeln!(
                    self.text,
                    "iseq ${{platform}} {platform} && set test {prefix}{} ||",
                    image.path_of(path)
                )?;
            }
        }
        writeln!(self.text, "kernel ${{test}} || goto failed\nboot || goto failed")
    }

    fn failure(&mut self) -> fmt::Result {
        let server = self.menu.server.address;
        writeln!(
            self.text,
            "\n:failed\nprompt --timeout {FAILURE_PAUSE} isowire at {server}: this did not boot, the lines \
             above say why. Run isowire status there. Press a key for the menu... ||\ngoto {START}"
        )
    }
}

/// Returns a text without the characters that iPXE interprets.
fn plain(text: &Line) -> String {
    text.as_str().replace(['$', '|', '&', ';', '#', '\\'], "_")
}

/// Returns the parameters that PXELINUX appends by SYSAPPEND 3. archiso's hook appends the network
/// card of BOOTIF to the value of `ip=` (hooks/archiso_pxe_common), so nothing may follow the
/// netmask.
fn network(machine: Option<Mac>, server: &FileServer) -> [String; 2] {
    let address = server.address;
    let card = machine.map_or_else(|| OWN_CARD.to_owned(), Mac::dashed);
    [format!("ip=${{netX/ip}}:{address}:${{netX/gateway}}:${{netX/netmask}}"), format!("BOOTIF=01-{card}")]
}
