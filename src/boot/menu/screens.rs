//! The screens of both menus, drawn as the loaders draw them on 80 columns and 25 rows.

use super::tests::{SERVER, image, menu, path, settings, word};
use super::*;
use crate::bootable::MemoryTests;

const COLUMNS: usize = 80;
const ROWS: usize = 25;

struct Screen([[char; COLUMNS]; ROWS]);

impl Screen {
    const fn new() -> Self {
        Self([[' '; COLUMNS]; ROWS])
    }

    /// Prints as a terminal does, from a row and a column counted from 1. What would be outside is
    /// an error: a terminal would wrap or scroll.
    fn print(&mut self, row: usize, column: usize, text: &str) {
        for (offset, c) in text.chars().enumerate() {
            self.0[row - 1][column - 1 + offset] = c;
        }
    }

    fn text(&self) -> String {
        let rows = self.0.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n");
        rows.collect()
    }
}

/// A row of PXELINUX's menu.
#[derive(Default)]
struct Entry {
    label: String,
    mark: Option<char>,
    help: Vec<String>,
}

/// Draws the page of PXELINUX's menu with this title, as com32/menu/menumain.c does.
fn pxelinux_screen(config: &str, title: &str, selected: usize) -> String {
    let (parameters, entries) = page(config, title);
    let value = |name: &str| -> usize {
        let line = parameters.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    };
    let (width, margin, shift) = (value("WIDTH"), value("MARGIN"), value("VSHIFT"));
    // draw_menu: the text of a row has this width, and its end is cut off.
    let inner = width - 2 * margin - 4;
    let mut screen = Screen::new();
    let line = |left: char, right: char| format!("{left}{}{right}", "-".repeat(width - 2 * margin - 2));
    screen.print(shift + 1, margin + 1, &line('+', '+'));
    screen.print(shift + 2, margin + 1, &format!("| {title:^inner$} |"));
    screen.print(shift + 3, margin + 1, &line('+', '+'));
    let rows = value("ROWS");
    for row in 0..rows {
        let entry = entries.get(row);
        let text = entry.map_or(String::new(), |entry| {
            let room = inner - if entry.mark.is_some() { 2 } else { 0 };
            let label: String = entry.label.chars().take(room).collect();
            entry.mark.map_or(label.clone(), |mark| format!("{label:room$} {mark}"))
        });
        let edge = if row == selected { '>' } else { '|' };
        screen.print(shift + 4 + row, margin + 1, &format!("{edge} {text:inner$} |"));
    }
    screen.print(shift + 4 + rows, margin + 1, &line('+', '+'));
    let message = parameters.iter().find_map(|line| line.strip_prefix("TABMSG ")).unwrap();
    screen.print(shift + value("TABMSGROW"), 1 + (width - message.len()) / 2, message);
    // Enter ends the countdown of the first page.
    let counting = if title == "Network boot" { "Automatic boot in 10 seconds..." } else { "" };
    screen.print(shift + value("TIMEOUTROW"), 1 + (width - counting.len()) / 2, counting);
    let help = entries[selected].help.iter().zip(shift + value("HELPMSGROW")..=value("HELPMSGENDROW"));
    help.for_each(|(line, row)| screen.print(row, 1, line));
    screen.text()
}

/// Returns the MENU lines and the entries of the page with this title. Pages inherit the lines of
/// the page that they are on.
fn page(config: &str, wanted: &str) -> (Vec<String>, Vec<Entry>) {
    let mut parameters = Vec::new();
    // Open pages from the first on, each with its title and entries.
    let mut open: Vec<(String, Vec<Entry>)> = vec![(String::new(), Vec::new())];
    let (mut done, mut is_entry) = (Vec::new(), false);
    let mut lines = config.lines();
    while let Some(line) = lines.next() {
        let (title, entries) = open.last_mut().unwrap();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("LABEL", _) => {
                entries.push(Entry::default());
                is_entry = true;
            }
            ("TEXT", _) => {
                let help = lines.by_ref().take_while(|line| *line != "ENDTEXT").map(str::to_owned);
                entries.last_mut().unwrap().help = help.collect();
            }
            ("MENU", "BEGIN") => {
                entries.push(Entry { mark: Some('>'), ..Entry::default() });
                open.push((String::new(), Vec::new()));
                is_entry = false;
            }
            ("MENU", "END") => done.push(open.pop().unwrap()),
            ("MENU", "EXIT") => entries.last_mut().unwrap().mark = Some('<'),
            ("MENU", rest) => match rest.split_once(' ') {
                Some(("TITLE", text)) => text.clone_into(title),
                Some(("LABEL", text)) if is_entry => text.clone_into(&mut entries.last_mut().unwrap().label),
                Some(("LABEL", text)) => {
                    let before = open.len() - 2;
                    text.clone_into(&mut open[before].1.last_mut().unwrap().label);
                }
                _ => parameters.push(rest.to_owned()),
            },
            _ => {}
        }
    }
    done.extend(open);
    let (_, entries) = done.into_iter().find(|(title, _)| title == wanted).unwrap();
    (parameters, entries)
}

/// Draws the page of iPXE's menu at this label, as src/hci/tui/menu_ui.c does. The selected row is
/// the first.
fn ipxe_screen(script: &str, label: &str) -> String {
    let mut lines = script.lines().skip_while(|line| *line != format!(":{label}"));
    let mut screen = Screen::new();
    let mut row = 4;
    for line in lines.by_ref().take_while(|line| !line.starts_with("choose ")) {
        if let Some(title) = line.strip_prefix("menu ") {
            let title = title.strip_suffix(" || goto 1").unwrap_or(title);
            screen.print(2, 1 + (COLUMNS - title.len()) / 2, title);
        }
        let item = line.strip_prefix("iseq ${platform} pcbios && ").and_then(|line| line.strip_suffix(" ||"));
        let item = item.unwrap_or(line);
        let Some((_, text)) = item.strip_prefix("item ").and_then(|item| item.split_once(' ')) else {
            continue;
        };
        let text = text.replace("${pad}", "   ").replace("${netX/mac}", "52:54:00:12:34:56");
        let text = text.replace("${netX/ip}", "192.168.1.50");
        // MENU_COLS less the padding; the end of a longer text would be cut off.
        assert!(text.len() <= COLUMNS - 2 - 4, "{text}");
        // MENU_ROWS: a row further down is seen only by scrolling.
        assert!(row <= ROWS - 2, "no room for `{text}`");
        let edge = if row == 4 { ">" } else { " " };
        screen.print(row, 2, &format!("{edge} {text}"));
        if row == 4 && label == "start" {
            screen.print(row, COLUMNS - 7, "(10)");
        }
        row += 1;
    }
    screen.text()
}

/// Two official images, whose names are alike.
fn images() -> [Bootable; 2] {
    [("2026.11.01", "archlinux-2026.11.01-x86_64"), ("2026.10.01", "archlinux-2026.10.01-x86_64")].map(
        |(version, name)| {
            let mut image = Bootable {
                title: Line::new(&format!("Arch Linux {version}")),
                memory_tests: MemoryTests { bios: Some(path("boot/memtest86+/memtest")), uefi: None },
                ..image(name)
            };
            image.boot_entries.iter_mut().for_each(|entry| entry.parameters.clear());
            image
        },
    )
}

fn shown<'a>(images: &'a [Bootable], name: &'a Word) -> Menu<'a> {
    let machine = MenuMachine {
        mac: "52:54:00:12:34:56".parse().ok(),
        address: Some(Ipv4Addr::new(192, 168, 1, 50)),
        name: Some(name),
    };
    let settings = MenuSettings { copytoram: CopyToRam::No, ..settings(&Root::ALL) };
    Menu { machine, ..menu(images, &settings, &SERVER) }
}

#[test]
fn pxelinux_screen_is_readable() {
    let (images, name) = (images(), word("lab1"));
    let config = pxelinux::write(&shown(&images, &name));
    assert_eq!(pxelinux_screen(&config, "Network boot", 1), include_str!("screens/pxelinux.txt"));
    assert_eq!(
        pxelinux_screen(&config, "Arch Linux 2026.10.01", 2),
        include_str!("screens/pxelinux-ways.txt")
    );
}

#[test]
fn ipxe_screen_is_readable() {
    let (images, name) = (images(), word("lab1"));
    let script = ipxe::write(&shown(&images, &name));
    assert_eq!(ipxe_screen(&script, "start"), include_str!("screens/ipxe.txt"));
    let label =
        script.lines().find_map(|line| line.strip_prefix("item ")?.strip_suffix(" More ways to boot"));
    assert_eq!(ipxe_screen(&script, label.unwrap()), include_str!("screens/ipxe-more.txt"));
}
