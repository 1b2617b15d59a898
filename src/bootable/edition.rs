//! Title of an image: its edition as people say it, such as `Arch Linux 2026.11.01`.
//!
//! mkarchiso writes the name of the distribution into the application identifier of the volume
//! (`iso_application`, such as `Arch Linux Live/Rescue DVD`, in capitals) and the version into the file `version`
//! of the install directory (`iso_version`).

use super::entries::BootEntry;
use super::tree::ImageTree;
use crate::image::{Archiso, Volume};
use crate::text::Line;

/// Most columns of a title. PXELINUX shows 66 in its menu, iPXE 74.
pub(crate) const TITLE_MAX: usize = 60;
/// Longest version in bytes. A date has ten.
const VERSION_MAX: usize = 24;
/// Programs that write their own name as the application identifier.
const TOOLS: [&str; 4] = ["mkarchiso", "genisoimage", "mkisofs", "xorriso"];
/// Words that describe the medium and not the distribution: whole ones, and starts of words.
const MEDIUM: [&str; 11] =
    ["iso", "cd", "dvd", "usb", "image", "medium", "media", "bios", "uefi", "default", "x86_64"];
const MEDIUM_STARTS: [&str; 3] = ["live", "rescue", "install"];

/// Reads the title of an image.
pub(super) fn title(
    tree: &ImageTree<'_>,
    archiso: &Archiso,
    volume: &Volume,
    boot_entries: &[BootEntry],
    name: &str,
) -> Line {
    let titles = || boot_entries.iter().filter_map(|boot_entry| Some(boot_entry.title.as_ref()?.as_str()));
    let of_volume = distribution(&volume.application).map(|name| in_its_case(name, titles()));
    let Some(distribution) = of_volume.or_else(|| titles().find_map(distribution)) else {
        return Line::within(name, TITLE_MAX);
    };
    let version = version(tree, &archiso.install_dir).or_else(|| date(name)).or_else(|| month(&volume.label));
    match version.filter(|version| !distribution.contains(version.as_str())) {
        Some(version) => Line::within(&format!("{distribution} {version}"), TITLE_MAX),
        None => Line::within(&distribution, TITLE_MAX),
    }
}

/// Returns the name of the distribution at the start of a text.
fn distribution(text: &str) -> Option<String> {
    // `^` would mark a hotkey in PXELINUX.
    let text = text.replace('^', "");
    let words: Vec<_> = text.split_whitespace().collect();
    let behind = words.iter().skip(1).position(|word| is_of_medium(word));
    let name = words.iter().take(behind.map_or(words.len(), |behind| behind + 1));
    let name = name.copied().collect::<Vec<_>>().join(" ");
    let lower = name.to_ascii_lowercase();
    (!name.is_empty() && !TOOLS.iter().any(|tool| lower.starts_with(tool))).then_some(name)
}

/// Returns a name as a title of the image's menu writes it. The volume has capitals only, since ISO
/// 9660 knows no other letters there (ECMA-119 §7.4.2).
fn in_its_case<'t>(name: String, mut titles: impl Iterator<Item = &'t str>) -> String {
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return name;
    }
    let lower = name.to_ascii_lowercase();
    let written = |title: &'t str| {
        let at = title.to_ascii_lowercase().find(&lower)?;
        title.get(at..at + lower.len())
    };
    titles.find_map(written).map_or_else(|| with_capitals(&lower), str::to_owned)
}

/// Returns a name with a capital at the start of each word.
fn with_capitals(name: &str) -> String {
    let mut is_start = true;
    let letters = name.chars().map(|letter| {
        let is_first = std::mem::replace(&mut is_start, !letter.is_alphanumeric());
        if is_first { letter.to_ascii_uppercase() } else { letter }
    });
    letters.collect()
}

fn is_of_medium(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    MEDIUM.contains(&word.as_str()) || MEDIUM_STARTS.iter().any(|start| word.starts_with(start))
}

/// Reads the version from the files that mkarchiso, or an older fork of it, writes it to.
fn version(tree: &ImageTree<'_>, install_dir: &str) -> Option<String> {
    let read = |path: String| String::from_utf8(tree.read(tree.find(&path, "")?)?).ok();
    let files = ["version", "VERSION"].into_iter().filter_map(|name| read(format!("/{install_dir}/{name}")));
    let grubenv = [format!("/{install_dir}/grubenv"), "/boot/grub/grubenv".to_owned()];
    let of_grub = |text: String| text.lines().find_map(|line| plausible(line.strip_prefix("VERSION=")?));
    let mut of_files = files.filter_map(|text| plausible(text.lines().next()?));
    of_files.next().or_else(|| grubenv.into_iter().filter_map(read).find_map(of_grub))
}

fn plausible(version: &str) -> Option<String> {
    let version = version.trim();
    let is_version = (1..=VERSION_MAX).contains(&version.len())
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte));
    is_version.then(|| version.to_owned())
}

/// Returns the first date of a name, such as that of `archlinux-2026.11.01-x86_64`.
fn date(name: &str) -> Option<String> {
    let is_date = |window: &&[u8]| {
        let mut bytes = window.iter().enumerate();
        bytes.all(|(at, byte)| match at {
            4 | 7 => matches!(byte, b'.' | b'-'),
            _ => byte.is_ascii_digit(),
        })
    };
    let date = name.as_bytes().windows("YYYY.MM.DD".len()).find(is_date)?;
    Some(String::from_utf8_lossy(date).replace('-', "."))
}

/// Returns the month at the end of a label, such as that of `ARCH_202611`.
fn month(label: &str) -> Option<String> {
    let (_, digits) = label.rsplit_once('_')?;
    let is_month = digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (year, month) = digits.split_at_checked(4)?;
    is_month.then(|| format!("{year}.{month}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distribution_is_named_as_people_say_it() {
        for (application, name) in [
            ("Arch Linux Live/Rescue DVD", Some("Arch Linux")),
            ("Arch Linux Live/Rescue CD", Some("Arch Linux")),
            ("BlackArch Linux Full ISO", Some("BlackArch Linux Full")),
            ("BlackArch Linux NetInstall ISO", Some("BlackArch Linux NetInstall")),
            ("DevShakti OS Live/Install Media", Some("DevShakti OS")),
            ("Arvora OS Live / Experimental Edition", Some("Arvora OS")),
            ("Edenland Live/Installation System", Some("Edenland")),
            ("SystemRescue", Some("SystemRescue")),
            ("Arch Linux install medium (x86_64, NBD)", Some("Arch Linux")),
            ("EndeavourOS x86_64 UEFI Default (nvidia)", Some("EndeavourOS")),
            ("Live Raizo", Some("Live Raizo")),
            ("mkarchiso iso", None),
            ("GENISOIMAGE ISO 9660/HFS FILESYSTEM CREATOR", None),
            ("", None),
        ] {
            assert_eq!(distribution(application).as_deref(), name, "{application}");
        }
    }

    #[test]
    fn distribution_is_written_as_in_the_menu() {
        let titles = ["Boot it (x86_64)", "CachyOS default"];
        let written = |name: &str| in_its_case(name.to_owned(), titles.into_iter());
        assert_eq!(
            ["CACHYOS", "ARCH LINUX", "Arch Linux", "BLACKARCH-LINUX FULL"].map(written),
            ["CachyOS", "Arch Linux", "Arch Linux", "Blackarch-Linux Full"]
        );
    }

    #[test]
    fn version_is_a_file_or_a_date() {
        assert_eq!(plausible(" 2026.11.01\r").as_deref(), Some("2026.11.01"));
        for bad in ["", "a b", "1\u{1b}", &"1".repeat(25)] {
            assert_eq!(plausible(bad), None, "{bad:?}");
        }
        assert_eq!(date("archlinux-2026.11.01-x86_64").as_deref(), Some("2026.11.01"));
        assert_eq!(date("endeavouros-2026-11-01").as_deref(), Some("2026.11.01"));
        assert_eq!((date("arch-2026.11"), date("rescue")), (None, None));
        assert_eq!(month("ARCH_202611").as_deref(), Some("2026.11"));
        assert_eq!((month("ARCH_2026"), month("ARCH"), month("A_\u{e9}1234")), (None, None, None));
    }
}
