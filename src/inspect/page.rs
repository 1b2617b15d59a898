//! The report as a page for a person.

use std::fmt::{self, Display, Formatter};

use super::report::{Arch, Entries, Gpt, KernelFiles, Mbr, Records, Report, RootImage, RootWay, Way};

/// Column where the facts begin, behind the indentation.
const FACTS: usize = 16;

/// The page of a report.
pub(super) struct Page<'a>(pub &'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        writeln!(f, "{}: {}", report.file, Size(report.size))?;
        volume(f, report)?;
        if let Some(archiso) = &report.archiso {
            arch(f, archiso)?;
        }
        records(f, &report.boot_records)?;
        section(f, "Boot from the network", !report.network_boot.is_empty())?;
        report.entries.iter().try_for_each(|entries| self::entries(f, entries))?;
        report.network_boot.iter().try_for_each(|way| self::way(f, way))?;
        report.roots.iter().try_for_each(|way| self::root_way(f, way))?;
        section(f, "Warnings", !report.warnings.is_empty())?;
        report.warnings.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn section(f: &mut Formatter<'_>, title: &str, wanted: bool) -> fmt::Result {
    if wanted { writeln!(f, "\n{title}") } else { Ok(()) }
}

/// One line. Whatever of it comes from the image, nothing in it can steer a terminal.
fn fact(f: &mut Formatter<'_>, name: &str, fact: impl Display) -> fmt::Result {
    writeln!(f, "  {name:<FACTS$}{}", fact.to_string().escape_debug())
}

/// One line, or none when there is nothing to tell.
fn text(f: &mut Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { fact(f, name, text) }
}

fn volume(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let (volume, tree) = (&report.volume, &report.tree);
    section(f, "Volume", true)?;
    text(f, "label", &volume.label)?;
    text(f, "UUID", volume.uuid.as_deref().unwrap_or("none"))?;
    text(f, "system", &volume.system)?;
    text(f, "publisher", &volume.publisher)?;
    text(f, "preparer", &volume.preparer)?;
    text(f, "application", &volume.application)?;
    text(f, "created", volume.created.as_deref().unwrap_or_default())?;
    text(f, "modified", volume.modified.as_deref().unwrap_or_default())?;
    fact(f, "size", Size(volume.size))?;
    let counted = [
        Count(tree.directories, "directory", "directories"),
        Count(tree.files, "file", "files"),
        Count(tree.symlinks, "symlink", "symlinks"),
        Count(tree.special, "special file", "special files"),
    ];
    let counted = counted.iter().filter(|Count(count, ..)| *count > 0);
    fact(f, "tree", format_args!("{}; names by {}", list(counted), tree.names))
}

fn arch(f: &mut Formatter<'_>, archiso: &Arch) -> fmt::Result {
    section(f, "archiso", true)?;
    text(f, "install dir", &archiso.install_dir)?;
    archiso.kernels.iter().try_for_each(|kernel| self::kernel(f, kernel))?;
    archiso.airootfs.iter().try_for_each(|root| self::root(f, root))?;
    text(f, "uuid file", archiso.uuid_file.as_deref().unwrap_or_default())?;
    text(f, "lpxelinux", archiso.lpxelinux.as_deref().unwrap_or("none"))?;
    fact(f, "menus", files(&archiso.syslinux_menus, archiso.syslinux_dir.as_deref()))?;
    fact(f, "loader entries", files(&archiso.loader_entries, Some("/loader/entries")))
}

fn kernel(f: &mut Formatter<'_>, kernel: &KernelFiles) -> fmt::Result {
    fact(f, "kernel", format_args!("{} for {}: {}", kernel.name, kernel.architecture, kernel.kernel))?;
    text(f, "  initramfs", kernel.initramfs.as_deref().unwrap_or("none"))?;
    text(f, "  microcode", &list(&kernel.microcode))
}

fn root(f: &mut Formatter<'_>, root: &RootImage) -> fmt::Result {
    fact(f, "airootfs", format_args!("{} for {}: {}", root.format, root.architecture, root.path))?;
    fact(f, "  size", Size(root.size))?;
    text(f, "  SHA-512", root.sha512.as_deref().unwrap_or("none"))?;
    text(f, "  CMS signature", root.cms_signature.as_deref().unwrap_or("none"))
}

fn records(f: &mut Formatter<'_>, boot: &Records) -> fmt::Result {
    section(f, "Boot from a disc or a stick", true)?;
    let images = boot.el_torito.iter().map(|image| {
        let bootable = if image.bootable { "" } else { " (not bootable)" };
        format!("{} at block {}{bootable}", image.platform, image.block)
    });
    let images = list(images);
    text(f, "El Torito", if images.is_empty() { "none" } else { &images })?;
    if let Some(image) = &boot.efi_image {
        fact(f, "EFI image", format_args!("{} at byte {}", Size(image.size), image.offset))?;
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

fn mbr(f: &mut Formatter<'_>, mbr: &Mbr) -> fmt::Result {
    let partitions = mbr.partitions.iter().map(|partition| {
        let size = Size(partition.sectors.saturating_mul(512));
        format!("{} of type {} with {size}", partition.number, partition.kind)
    });
    fact(f, "MBR", format_args!("disk {}, partitions: {}", mbr.disk_id, list(partitions)))
}

fn gpt(f: &mut Formatter<'_>, gpt: &Gpt) -> fmt::Result {
    let Gpt { header_checksum, array_checksum, backup_checksum, .. } = gpt;
    let partitions = Count(gpt.partitions.len(), "partition", "partitions");
    fact(f, "GPT", format_args!("disk {}, {partitions}", gpt.disk))?;
    let checksums = format!("header {header_checksum}, array {array_checksum}, backup {backup_checksum}");
    fact(f, "  checksums", checksums)
}

fn entries(f: &mut Formatter<'_>, entries: &Entries) -> fmt::Result {
    let Entries { origin, entries } = entries;
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
        text(f, "    told", &entry.parameters.join(" "))
    })
}

fn way(f: &mut Formatter<'_>, way: &Way) -> fmt::Result {
    match &way.boot_file {
        Some(file) => {
            fact(f, &way.firmware, list([&format!("yes, by {file}")].into_iter().chain(&way.remarks)))
        }
        None => fact(f, &way.firmware, format_args!("no: {}", way.obstacles.join("; "))),
    }
}

fn root_way(f: &mut Formatter<'_>, way: &RootWay) -> fmt::Result {
    let RootWay { root, initramfs, shortfall } = way;
    let name = format!("root over {root}");
    match shortfall {
        Some(shortfall) => fact(f, &name, format_args!("{initramfs} {shortfall}")),
        None => fact(f, &name, format_args!("yes, by {initramfs}")),
    }
}

/// Files that have a directory of their own.
fn files(paths: &[String], directory: Option<&str>) -> String {
    match directory {
        Some(directory) if !paths.is_empty() => format!("{} in {directory}", paths.len()),
        _ => "none".to_owned(),
    }
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// So many of something, by its singular and its plural.
struct Count(usize, &'static str, &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Count(count, one, many) = self;
        write!(f, "{count} {}", if *count == 1 { one } else { many })
    }
}

/// Bytes in the unit that keeps the number short.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let (unit, scale) = match bytes {
            0..1024 => return write!(f, "{bytes} bytes"),
            1024..0x10_0000 => ("KiB", 1_u64 << 10),
            0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
            _ => ("GiB", 1 << 30),
        };
        let size = bytes as f64 / scale as f64;
        write!(f, "{size:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let size = |bytes| Size(bytes).to_string();
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(9 << 29), "4.5 GiB");
        assert_eq!(size(u64::MAX), "17179869184.0 GiB");
    }
}
