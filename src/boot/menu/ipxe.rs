//! The menu for iPXE: a script (ipxe.org/scripting).
//!
//! iPXE splits a line at its spaces, interprets the words `||`, `&&`, `;` and words that begin with
//! `#`, expands `${name}` and joins a line that ends with `\` to the next (src/core/exec.c,
//! src/image/script.c). No [`Word`] and no path can be one of these; titles lose the characters.

use std::fmt::{self, Write as _};

use super::{Boots, Kernel, Menu, MenuItem, Start};
use crate::boot::file_server::FileServer;
use crate::mac::Mac;
use crate::text::{Line, Word};

/// Time that an error stays on the screen before the machine tries again, in milliseconds.
const FAILURE_PAUSE: u32 = 10_000;

/// MAC address of the network card that iPXE uses, in the form of paths and of `BOOTIF=`.
const OWN_CARD: &str = "${netX/mac:hexhyp}";

/// Writes the script for the machine with this MAC address; without one, iPXE fills in its own.
pub(crate) fn write(menu: &Menu<'_>, machine: Option<Mac>) -> String {
    write_with_prefix(menu, machine, &prefix(&menu.server))
}

/// Writes the same for an iPXE without HTTP: it loads by TFTP.
pub(crate) fn write_by_tftp(menu: &Menu<'_>, machine: Option<Mac>) -> String {
    write_with_prefix(menu, machine, &menu.server.tftp_url())
}

fn write_with_prefix(menu: &Menu<'_>, machine: Option<Mac>, prefix: &str) -> String {
    let entries = menu.entries();
    let entries: Vec<_> =
        entries.iter().filter(|entry| !matches!(entry.boots, Boots::StockMenu(_))).collect();
    let network = network(machine, &menu.server);
    let mut text = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = head(&mut text, menu, &entries);
    for (number, entry) in (1..).zip(&entries) {
        let _ = write_entry(&mut text, number, entry, prefix, &network);
    }
    let _ = write!(text, "\n:failed\nprompt --timeout {FAILURE_PAUSE} {FAILED} ||\ngoto start\n");
    text
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

const FAILED: &str = "This did not boot: the lines above say why. Press a key for the menu...";

/// Returns the prefix of every path.
fn prefix(server: &FileServer) -> String {
    server.http_url().unwrap_or_else(|| server.tftp_url())
}

fn head(text: &mut String, menu: &Menu<'_>, entries: &[&MenuItem<'_>]) -> fmt::Result {
    writeln!(text, "\n:start")?;
    if menu.start == Start::Straight {
        return writeln!(text, "goto 1");
    }
    // An iPXE that was built without the command boots the first entry.
    writeln!(text, "menu Network boot || goto 1")?;
    for (number, entry) in (1..).zip(entries) {
        writeln!(text, "item {number} {}", plain(&entry.title))?;
    }
    let timeout = match menu.timeout {
        0 => String::new(),
        seconds => format!(" --timeout {}", u32::from(seconds) * 1000),
    };
    // Escape ends the menu: `exit 1` returns to the firmware, which tries the next boot device.
    writeln!(text, "choose --default 1{timeout} entry || exit 1\ngoto ${{entry}}")
}

/// Returns a title without the characters that iPXE interprets.
fn plain(title: &Line) -> String {
    title.as_str().replace(['$', '|', '&', ';', '#', '\\'], "_")
}

fn write_entry(
    text: &mut String,
    number: u32,
    entry: &MenuItem<'_>,
    prefix: &str,
    network: &[String],
) -> fmt::Result {
    writeln!(text, "\n:{number}")?;
    match &entry.boots {
        Boots::Kernel(kernel) => write_kernel(text, kernel, prefix, network),
        Boots::StockMenu(_) | Boots::LocalDisk => writeln!(text, "exit 1"),
    }
}

fn write_kernel(text: &mut String, kernel: &Kernel<'_>, prefix: &str, network: &[String]) -> fmt::Result {
    let mut words: Vec<_> = kernel.command_line.iter().map(Word::to_string).collect();
    words.extend_from_slice(network);
    // Linux's EFI stub opens the files of `initrd=` in iPXE's virtual file system; iPXE of today
    // also hands them over by LoadFile2.
    let names: Vec<_> = (1..=kernel.initrd().count()).map(|number| format!("initrd{number}.img")).collect();
    words.extend(names.iter().map(|name| format!("initrd={name}")));
    // Images of an attempt that failed would stay and be loaded with the next kernel.
    writeln!(text, "imgfree")?;
    writeln!(text, "kernel {prefix}{} {} || goto failed", kernel.path(), words.join(" "))?;
    for (name, path) in names.iter().zip(kernel.initrd()) {
        writeln!(text, "initrd --name {name} {prefix}{path} || goto failed")?;
    }
    writeln!(text, "boot || goto failed")
}

/// Returns the parameters that PXELINUX appends by SYSAPPEND 3. archiso's hook appends the network
/// card of BOOTIF to the value of `ip=` (hooks/archiso_pxe_common), so nothing may follow the
/// netmask.
fn network(machine: Option<Mac>, server: &FileServer) -> [String; 2] {
    let address = server.address;
    let card = machine.map_or_else(|| OWN_CARD.to_owned(), Mac::dashed);
    [format!("ip=${{netX/ip}}:{address}:${{netX/gateway}}:${{netX/netmask}}"), format!("BOOTIF=01-{card}")]
}
