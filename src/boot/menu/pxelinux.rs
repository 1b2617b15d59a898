//! The menu for PXELINUX (syslinux 6.04: doc/syslinux.txt, doc/menu.txt, com32/menu/menumain.c).

use std::fmt::{self, Write as _};

use super::pages::{Action, Loader, Page, Row};
use super::{Kernel, Menu, Start};
use crate::boot::file_server::{FileServer, TFTP};
use crate::bootable::Look;
use crate::text::{PlainPath, Word};

const HEAD: &str = "\
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
";

/// Lowest first row of the box, in rows below the top of the screen. A screen has 25 rows.
const SHIFT_MAX: u32 = 10;

/// Colour of the line that says who serves whom: archiso's menu hardly shows it.
const IDENTITY_COLOUR: &str = "MENU COLOR tabmsg 37;40 #e0ffffff #00000000 std";

/// Writes PXELINUX's configuration file.
pub(crate) fn write(menu: &Menu<'_>) -> String {
    let front = menu.front(Loader::Pxelinux);
    let mut writer = Writer { menu, text: String::from(HEAD), labels: 0 };
    // Writing to a String cannot fail.
    let _ = writer.head(&front);
    let _ = writer.page(&front);
    writer.text
}

struct Writer<'m, 'a> {
    menu: &'m Menu<'a>,
    text: String,
    /// Labels so far. A label is its number, which is short to type at a `boot:` prompt.
    labels: u32,
}

impl Writer<'_, '_> {
    fn head(&mut self, front: &Page<'_>) -> fmt::Result {
        let menu = self.menu;
        if let Some(serial) = &menu.look.serial {
            writeln!(self.text, "SERIAL {serial}")?;
        }
        match (menu.start, &menu.look.ui) {
            // With neither UI nor a prompt, DEFAULT boots at once.
            (Start::Straight | Start::Local, _) => writeln!(self.text, "PROMPT 0")?,
            (Start::Menu, Some(ui)) => self.screen(ui, front)?,
            (Start::Menu, None) => self.prompt(front)?,
        }
        writeln!(self.text, "DEFAULT 1")?;
        match menu.timeout {
            // PXELINUX waits for ever without TIMEOUT.
            0 => Ok(()),
            // TIMEOUT counts tenths of a second (doc/syslinux.txt).
            seconds => writeln!(self.text, "TIMEOUT {}", u32::from(seconds) * 10),
        }
    }

    fn screen(&mut self, ui: &PlainPath, front: &Page<'_>) -> fmt::Result {
        writeln!(self.text, "UI {ui}\nMENU TITLE {}", front.title)?;
        let look = self.menu.look;
        for line in look.lines.iter().filter(|line| !is_geometry(line.as_str())) {
            writeln!(self.text, "{line}")?;
        }
        geometry(&mut self.text, look)?;
        writeln!(self.text, "{IDENTITY_COLOUR}\nMENU TABMSG {}", self.menu.identity("", ""))
    }

    /// Writes the entries for the `boot:` prompt of an image without a menu program.
    fn prompt(&mut self, front: &Page<'_>) -> fmt::Result {
        writeln!(self.text, "SAY {}", self.menu.identity("", ""))?;
        writeln!(self.text, "SAY Network boot. Type a number and press Enter:")?;
        self.say(front, &mut 0)?;
        writeln!(self.text, "PROMPT 1")
    }

    fn say(&mut self, page: &Page<'_>, number: &mut u32) -> fmt::Result {
        for row in &page.rows {
            match &row.action {
                Action::Open(page) => {
                    writeln!(self.text, "SAY       {}:", row.title)?;
                    self.say(page, number)?;
                }
                Action::Back => {}
                _ => {
                    *number += 1;
                    writeln!(self.text, "SAY {number:4}  {}", row.title)?;
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, page: &Page<'_>) -> fmt::Result {
        page.rows.iter().try_for_each(|row| self.row(row))
    }

    fn row(&mut self, row: &Row<'_>) -> fmt::Result {
        let has_pages = self.menu.start == Start::Menu && self.menu.look.ui.is_some();
        match &row.action {
            Action::Open(page) if has_pages => self.submenu(row, page),
            // At a prompt all entries are in one list.
            Action::Open(page) => self.page(page),
            Action::Back if !has_pages => Ok(()),
            action => self.entry(row, action),
        }
    }

    /// Writes a page below this row. It does not choose by itself: TIMEOUT would hold for it too.
    fn submenu(&mut self, row: &Row<'_>, page: &Page<'_>) -> fmt::Result {
        writeln!(self.text, "\nMENU BEGIN\nMENU LABEL {}", row.title)?;
        writeln!(self.text, "MENU TITLE {}\nTIMEOUT 0", page.title)?;
        self.page(page)?;
        writeln!(self.text, "\nMENU END")
    }

    fn entry(&mut self, row: &Row<'_>, action: &Action<'_>) -> fmt::Result {
        self.labels += 1;
        writeln!(self.text, "\nLABEL {}\nMENU LABEL {}\nTEXT HELP", self.labels, row.title)?;
        row.help.iter().try_for_each(|line| writeln!(self.text, " {line}"))?;
        writeln!(self.text, "ENDTEXT")?;
        self.action(action)
    }

    fn action(&mut self, action: &Action<'_>) -> fmt::Result {
        let server = &self.menu.server;
        match action {
            Action::Boot(kernel) => write_kernel(&mut self.text, kernel, &kernel_prefix(server)),
            Action::StockMenu(path) => {
                // The second argument is the directory in which names of the menu begin.
                let prefix = tftp_prefix(server);
                writeln!(self.text, "CONFIG {prefix}{path} {prefix}{}", path.directory())
            }
            Action::MemoryTest(image) => match &image.memory_tests.bios {
                Some(test) => writeln!(self.text, "LINUX {}{}", kernel_prefix(server), image.path_of(test)),
                None => Ok(()),
            },
            // 0 is the normal local boot: PXELINUX ends and the BIOS goes on (doc/syslinux.txt).
            Action::LocalDisk => writeln!(self.text, "LOCALBOOT 0"),
            Action::Reboot => match &self.menu.look.reboot {
                Some(module) => writeln!(self.text, "COM32 {module}"),
                None => Ok(()),
            },
            Action::Back => writeln!(self.text, "MENU EXIT"),
            // iPXE's only.
            Action::Shell | Action::Open(_) => Ok(()),
        }
    }
}

/// Returns true for a line of the image's menu that places things on the screen. Its author did so
/// for other rows and shorter help texts.
fn is_geometry(line: &str) -> bool {
    const LOOK: [&str; 7] = ["background", "clear", "color", "colour", "msgcolor", "msgcolour", "resolution"];
    let word = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    !LOOK.iter().any(|look| word.eq_ignore_ascii_case(look))
}

/// Places box, messages and help text within 25 rows and 80 columns, which every screen and serial
/// console has. The box begins where the author's does, below a picture.
fn geometry(text: &mut String, look: &Look) -> fmt::Result {
    let own = |name: &str| {
        let mut lines = look.lines.iter().map(|line| line.as_str().split_ascii_whitespace());
        lines.find_map(|mut words| words.nth(1)?.eq_ignore_ascii_case(name).then(|| words.next())?)
    };
    let shift = own("vshift").and_then(|rows| rows.parse().ok()).unwrap_or(0);
    // A picture of another size than 640x480 has more rows.
    let shift: u32 = if own("resolution").is_some() { shift } else { shift.min(SHIFT_MAX) };
    let rows = (SHIFT_MAX + 6 - shift.min(SHIFT_MAX)).min(12);
    writeln!(text, "MENU WIDTH 80\nMENU MARGIN 4\nMENU ROWS {rows}\nMENU VSHIFT {shift}")?;
    writeln!(text, "MENU TABMSGROW {0}\nMENU CMDLINEROW {0}\nMENU TIMEOUTROW {1}", rows + 5, rows + 6)?;
    writeln!(text, "MENU HELPMSGROW {}\nMENU HELPMSGENDROW {}", rows + 7, shift.saturating_add(rows + 9))
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
