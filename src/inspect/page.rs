//! The report as a page for a person.

use std::fmt::{self, Display, Formatter};

use super::network_boot::{DriverReport, FirmwareBoot, RootSupport};
use super::report::{
    AirootfsReport, ArchisoReport, EntriesReport, GptReport, InspectReport, KernelReport, MbrReport,
    RecordsReport,
};

/// Width of the names of facts, without the indentation.
const FACTS: usize = 16;

/// Page of a report.
pub(super) struct InspectPage<'a>(pub &'a InspectReport);

impl Display for InspectPage<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        writeln!(f, "{}: {}", report.file, BinarySize(report.size))?;
        volume(f, report)?;
        if let Some(archiso) = &report.archiso {
            arch(f, archiso)?;
        }
        records(f, &report.boot_records)?;
        section(f, "Boot from the network", !report.network_boot.is_empty())?;
        report.entries.iter().try_for_each(|entries| self::entries(f, entries))?;
        report.network_boot.iter().try_for_each(|firmware| firmware_boot(f, firmware))?;
        report.roots.iter().try_for_each(|root| root_support(f, root))?;
        report.network_drivers.iter().try_for_each(|drivers| network_drivers(f, drivers))?;
        section(f, "Warnings", !report.warnings.is_empty())?;
        report.warnings.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn section(f: &mut Formatter<'_>, title: &str, wanted: bool) -> fmt::Result {
    if wanted { writeln!(f, "\n{title}") } else { Ok(()) }
}

/// Writes a line.
fn fact(f: &mut Formatter<'_>, name: &str, fact: impl Display) -> fmt::Result {
    // Text of the image must not reach a terminal as commands (ECMA-48).
    writeln!(f, "  {name:<FACTS$}{}", fact.to_string().escape_debug())
}

/// Writes a line, unless the text is empty.
fn text(f: &mut Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { fact(f, name, text) }
}

fn volume(f: &mut Formatter<'_>, report: &InspectReport) -> fmt::Result {
    let (volume, tree) = (&report.volume, &report.tree);
    section(f, "Volume", true)?;
    text(f, "label", &volume.label)?;
    text(f, "UUID", volume.uuid.as_deref().unwrap_or("none"))?;
    text(f, "system", &volume.system)?;
    text(f, "publisher", &volume.publisher)?;
    text(f, "preparer", &volume.preparer)?;
    text(f, "application", &volume.application)?;
    // Mastering tools may leave a date out.
    text(f, "created", volume.created.as_deref().unwrap_or_default())?;
    text(f, "modified", volume.modified.as_deref().unwrap_or_default())?;
    fact(f, "size", BinarySize(volume.size))?;
    let counted = [
        Count(tree.directories, "directory", "directories"),
        Count(tree.files, "file", "files"),
        Count(tree.symlinks, "symlink", "symlinks"),
        Count(tree.special, "special file", "special files"),
    ];
    let counted = counted.iter().filter(|Count(count, ..)| *count > 0);
    fact(f, "tree", format_args!("{}; names by {}", list(counted), tree.names))
}

fn arch(f: &mut Formatter<'_>, archiso: &ArchisoReport) -> fmt::Result {
    section(f, "archiso", true)?;
    text(f, "install dir", &archiso.install_dir)?;
    archiso.kernels.iter().try_for_each(|kernel| self::kernel(f, kernel))?;
    archiso.airootfs.iter().try_for_each(|root| self::root(f, root))?;
    text(f, "uuid file", archiso.uuid_file.as_deref().unwrap_or_default())?;
    text(f, "lpxelinux", archiso.lpxelinux.as_deref().unwrap_or("none"))?;
    fact(f, "menus", files(&archiso.syslinux_menus, archiso.syslinux_dir.as_deref()))?;
    fact(f, "loader entries", files(&archiso.loader_entries, Some("/loader/entries")))
}

fn kernel(f: &mut Formatter<'_>, kernel: &KernelReport) -> fmt::Result {
    fact(f, "kernel", format_args!("{} for {}: {}", kernel.name, kernel.architecture, kernel.kernel))?;
    text(f, "  initramfs", kernel.initramfs.as_deref().unwrap_or("none"))?;
    text(f, "  microcode", &list(&kernel.microcode))
}

fn root(f: &mut Formatter<'_>, root: &AirootfsReport) -> fmt::Result {
    fact(f, "airootfs", format_args!("{} for {}: {}", root.format, root.architecture, root.path))?;
    fact(f, "  size", BinarySize(root.size))?;
    text(f, "  SHA-512", root.sha512.as_deref().unwrap_or("none"))?;
    // archiso made it until October 2017.
    text(f, "  MD5", root.md5.as_deref().unwrap_or_default())?;
    text(f, "  CMS signature", root.cms_signature.as_deref().unwrap_or("none"))?;
    // mkarchiso makes one only with a key (`-g`), which releases of Arch Linux lack.
    text(f, "  GPG signature", root.gpg_signature.as_deref().unwrap_or_default())
}

fn records(f: &mut Formatter<'_>, boot: &RecordsReport) -> fmt::Result {
    section(f, "Boot from a disc or a stick", true)?;
    let images = boot.el_torito.iter().map(|image| {
        // El Torito 1.0: firmware skips an entry whose boot indicator is not 0x88.
        let bootable = if image.bootable { "" } else { " (not bootable)" };
        format!("{} at block {}{bootable}", image.platform, image.block)
    });
    let images = list(images);
    text(f, "El Torito", if images.is_empty() { "none" } else { &images })?;
    // UEFI finds it by El Torito on a disc, and by a partition table on a stick.
    if let Some(image) = &boot.efi_image {
        fact(f, "EFI image", format_args!("{} at byte {}", BinarySize(image.size), image.offset))?;
    }
    match &boot.mbr {
        Some(mbr) => self::mbr(f, mbr)?,
        None => fact(f, "MBR", "none")?,
    }
    match &boot.gpt {
        Some(gpt) => self::gpt(f, gpt),
        None => fact(f, "GPT", "none"),
    }
}

fn mbr(f: &mut Formatter<'_>, mbr: &MbrReport) -> fmt::Result {
    let partitions = mbr.partitions.iter().map(|partition| {
        // The number comes from the image and may be any.
        let size = BinarySize(partition.sectors.saturating_mul(512));
        format!("{} of type {} with {size}", partition.number, partition.kind)
    });
    fact(f, "MBR", format_args!("disk {}, partitions: {}", mbr.disk_id, list(partitions)))
}

fn gpt(f: &mut Formatter<'_>, gpt: &GptReport) -> fmt::Result {
    let GptReport { header_checksum, array_checksum, backup_checksum, .. } = gpt;
    let partitions = Count(gpt.partitions.len(), "partition", "partitions");
    fact(f, "GPT", format_args!("disk {}, {partitions}", gpt.disk))?;
    let checksums = format!("header {header_checksum}, array {array_checksum}, backup {backup_checksum}");
    fact(f, "  checksums", checksums)
}

fn entries(f: &mut Formatter<'_>, entries: &EntriesReport) -> fmt::Result {
    let EntriesReport { origin, entries } = entries;
    match entries.len() {
        0 => fact(f, "entries", "none"),
        count => fact(f, "entries", format_args!("{count}, from {origin}")),
    }?;
    entries.iter().try_for_each(|entry| {
        let title = entry.title.as_deref().map_or_else(String::new, |title| format!("{title}: "));
        fact(
            f,
            "  boots",
            format_args!("{title}{}", list([&entry.kernel].into_iter().chain(&entry.initramfs))),
        )?;
        // Those of the image's author; isowire adds its own.
        text(f, "    told", &entry.parameters.join(" "))?;
        entry.left_out.iter().try_for_each(|parameter| fact(f, "    not told", parameter))
    })
}

fn firmware_boot(f: &mut Formatter<'_>, boot: &FirmwareBoot) -> fmt::Result {
    match &boot.boot_file {
        Some(file) => {
            fact(f, &boot.firmware, list([&format!("yes, by {file}")].into_iter().chain(&boot.remarks)))
        }
        None => fact(f, &boot.firmware, format_args!("no: {}", boot.obstacles.join("; "))),
    }
}

fn root_support(f: &mut Formatter<'_>, support: &RootSupport) -> fmt::Result {
    let RootSupport { root, initramfs, shortfall } = support;
    let name = format!("root over {root}");
    match shortfall {
        // An initramfs without the hook for a root does not know its kernel parameter.
        Some(shortfall) => fact(f, &name, format_args!("{initramfs} {shortfall}")),
        None => fact(f, &name, format_args!("yes, by {initramfs}")),
    }
}

fn network_drivers(f: &mut Formatter<'_>, drivers: &DriverReport) -> fmt::Result {
    let DriverReport { initramfs, summary, complete, .. } = drivers;
    let more = if *complete { "" } else { ", as far as it can be read" };
    fact(f, "drivers", format_args!("{initramfs} has drivers for {summary}{more}"))
}

/// Counts files of one directory; mkarchiso writes more menus than a line could hold.
fn files(paths: &[String], directory: Option<&str>) -> String {
    match directory {
        Some(directory) if !paths.is_empty() => format!("{} in {directory}", paths.len()),
        _ => "none".to_owned(),
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Number of things, with the singular and the plural of their name.
struct Count(usize, &'static str, &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Count(count, one, many) = self;
        write!(f, "{count} {}", if *count == 1 { one } else { many })
    }
}

/// Bytes in the largest binary unit that leaves a whole number.
struct BinarySize(u64);

impl Display for BinarySize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let (unit, scale) = match bytes {
            0..1024 => return write!(f, "{bytes} bytes"),
            1024..0x10_0000 => ("KiB", 1_u64 << 10),
            0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
            _ => ("GiB", 1 << 30),
        };
        // A double holds 53 bits; one digit is printed behind the point.
        let size = bytes as f64 / scale as f64;
        write!(f, "{size:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let size = |bytes| BinarySize(bytes).to_string();
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(9 << 29), "4.5 GiB");
        assert_eq!(size(u64::MAX), "17179869184.0 GiB");
    }
}
