//! The menu for PXELINUX (syslinux 6.04: doc/syslinux.txt, doc/menu.txt).

use std::fmt::{self, Write as _};

use super::{Boots, Kernel, Menu, MenuItem, Start};
use crate::boot::file_server::{FileServer, TFTP};
use crate::text::Word;

/// Writes PXELINUX's configuration file.
pub(crate) fn write(menu: &Menu<'_>) -> String {
    let entries = menu.entries();
    let mut text =
        String::from("# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,\n");
    text.push_str("# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.\n");
    // Writing to a String cannot fail.
    let _ = head(&mut text, menu, &entries);
    // A label is the entry's number, which is short to type at a `boot:` prompt.
    for (number, entry) in (1..).zip(&entries) {
        let _ = write_entry(&mut text, number, entry, &menu.server);
    }
    text
}

fn head(text: &mut String, menu: &Menu<'_>, entries: &[MenuItem<'_>]) -> fmt::Result {
    if let Some(serial) = &menu.look.serial {
        writeln!(text, "SERIAL {serial}")?;
    }
    match (menu.start, &menu.look.ui) {
        // With neither UI nor a prompt, DEFAULT boots at once.
        (Start::Straight, _) => writeln!(text, "PROMPT 0")?,
        (Start::Menu, Some(ui)) => {
            writeln!(text, "UI {ui}\nMENU TITLE Network boot")?;
            menu.look.lines.iter().try_for_each(|line| writeln!(text, "{line}"))?;
        }
        (Start::Menu, None) => prompt(text, entries)?,
    }
    writeln!(text, "DEFAULT 1")?;
    match menu.timeout {
        // PXELINUX waits for ever without TIMEOUT.
        0 => Ok(()),
        // TIMEOUT counts tenths of a second (doc/syslinux.txt).
        seconds => writeln!(text, "TIMEOUT {}", u32::from(seconds) * 10),
    }
}

/// Writes the entries for the `boot:` prompt of an image without a menu program.
fn prompt(text: &mut String, entries: &[MenuItem<'_>]) -> fmt::Result {
    writeln!(text, "SAY Network boot. Type a number and press Enter:")?;
    for (number, entry) in (1..).zip(entries) {
        writeln!(text, "SAY {number:4}  {}", entry.title)?;
    }
    writeln!(text, "PROMPT 1")
}

fn write_entry(text: &mut String, number: u32, entry: &MenuItem<'_>, server: &FileServer) -> fmt::Result {
    writeln!(text, "\nLABEL {number}\nMENU LABEL {}", entry.title)?;
    writeln!(text, "TEXT HELP\n{}\nENDTEXT", entry.help)?;
    match &entry.boots {
        Boots::Kernel(kernel) => write_kernel(text, kernel, &kernel_prefix(server)),
        Boots::StockMenu(path) => {
            // The second argument is the directory in which names of the menu begin.
            let prefix = tftp_prefix(server);
            writeln!(text, "CONFIG {prefix}{path} {prefix}{}", path.directory())
        }
        // 0 is the normal local boot: PXELINUX ends and the BIOS goes on (doc/syslinux.txt).
        Boots::LocalDisk => writeln!(text, "LOCALBOOT 0"),
    }
}

fn write_kernel(text: &mut String, kernel: &Kernel<'_>, prefix: &str) -> fmt::Result {
    writeln!(text, "LINUX {prefix}{}", kernel.path())?;
    let initrd: Vec<_> = kernel.initrd().map(|path| format!("{prefix}{path}")).collect();
    if !initrd.is_empty() {
        writeln!(text, "INITRD {}", initrd.join(","))?;
    }
    let command_line: Vec<_> = kernel.command_line.iter().map(Word::as_str).collect();
    // 1: ip=CLIENT:SERVER:GATEWAY:NETMASK, 2: BOOTIF=; archiso_pxe_common reads both.
    writeln!(text, "APPEND {}\nSYSAPPEND 3", command_line.join(" "))
}

/// Returns the prefix of a path from the root of the TFTP tree (core/fs/pxe/urlparse.c).
fn tftp_prefix(server: &FileServer) -> String {
    match server.ports.tftp {
        TFTP => "::/".to_owned(),
        _ => server.tftp_url(),
    }
}

/// Returns the prefix of kernels and initramfs images. PXELINUX has no TFTP windows, so TFTP takes
/// it several times as long as HTTP. It loads its modules and menus by TFTP in any case.
fn kernel_prefix(server: &FileServer) -> String {
    server.http_url().unwrap_or_else(|| tftp_prefix(server))
}
