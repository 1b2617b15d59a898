//! Boot records of an image, in which firmware finds boot programs: El Torito catalog, MBR and GPT.

use std::io;

use super::el_torito::{self, BootPlatform, CatalogEntry};
use super::iso9660::{self, BLOCK};
use super::partitions::{Gpt, GptHeader, Mbr, SECTOR, Verdict};
use super::warnings::Warnings;
use super::{Extent, Index, Media, NodeKind};

/// Boot records of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootRecords {
    /// Entries of the boot catalog, the default entry first.
    pub el_torito: Vec<CatalogEntry>,
    /// FAT image that UEFI boots: a file of the tree, or a partition after the volume.
    pub efi_image: Option<Extent>,
    pub mbr: Option<Mbr>,
    pub gpt: Option<Gpt>,
    /// Bytes of the image according to a GPT header with a good checksum.
    pub needed: Option<u64>,
}

impl BootRecords {
    /// Reads the boot records; `catalog` is the logical block of the boot catalog.
    ///
    /// # Errors
    /// The error of reading the image. Malformed records are left out with a warning.
    pub(super) fn read(
        media: &(impl Media + ?Sized),
        catalog: Option<u32>,
        index: &Index,
        warnings: &mut Warnings,
    ) -> io::Result<Self> {
        let el_torito = catalog_entries(media, catalog, warnings)?;
        let mbr = read_sector(media, 0)?.and_then(|sector| Mbr::parse(&sector));
        let (gpt, needed) = read_gpt(media, warnings)?;
        let mut boot = Self { el_torito, efi_image: None, mbr, gpt, needed };
        boot.efi_image = boot.find_efi_image(media.size(), index, warnings);
        Ok(boot)
    }

    /// Finds the EFI image of the El Torito entry, or of a partition if there is no entry.
    fn find_efi_image(&self, size: u64, index: &Index, warnings: &mut Warnings) -> Option<Extent> {
        let entry = self.el_torito.iter().find(|entry| entry.platform == BootPlatform::Efi && entry.bootable);
        let Some(entry) = entry else { return self.efi_partitions().find(|extent| extent.end() <= size) };
        let claimed = iso9660::extent_at(entry.block, u64::from(entry.sectors) * el_torito::SECTOR);
        // El Torito counts at most 65,535 sectors (32 MiB), and writers often give a wrong count.
        // So a partition or a file at the same place is preferred.
        let mut candidates = self.efi_partitions().chain(single_extents(index));
        let image = candidates.find(|extent| extent.offset == claimed.offset && extent.end() <= size);
        // UEFI specification 2.10 §13.3.2.1: 0 and 1 stand for the rest of the medium, which is
        // more than the image.
        let image = image.or((entry.sectors > 1 && claimed.end() <= size).then_some(claimed));
        if image.is_none() {
            warnings.add(|| format!("El Torito: EFI image of unknown size at byte {}", claimed.offset));
        }
        image
    }

    /// Iterates over the EFI system partitions of both tables, unchecked.
    fn efi_partitions(&self) -> impl Iterator<Item = Extent> {
        let mbr = self.mbr.iter().flat_map(|mbr| &mbr.partitions).filter(|partition| partition.is_efi());
        let mbr = mbr.map(|p| (u64::from(p.first), u64::from(p.sectors)));
        let gpt = self.gpt.iter().flat_map(|gpt| &gpt.partitions).filter(|partition| partition.is_efi());
        // The last sector belongs to the partition (UEFI specification 2.10 §5.3.3).
        let gpt = gpt.map(|p| (p.first, p.last.saturating_sub(p.first).saturating_add(1)));
        mbr.chain(gpt).filter_map(|(first, sectors)| {
            Some(Extent { offset: first.checked_mul(SECTOR)?, len: sectors.checked_mul(SECTOR)? })
        })
    }
}

/// Iterates over the extents of all files that have exactly one.
fn single_extents(index: &Index) -> impl Iterator<Item = Extent> {
    index.walk().filter_map(|id| match &index.node(id).kind {
        NodeKind::File { extents } => extents.first().copied().filter(|_| extents.len() == 1),
        _ => None,
    })
}

/// Reads the entries of the boot catalog.
fn catalog_entries(
    media: &(impl Media + ?Sized),
    catalog: Option<u32>,
    warnings: &mut Warnings,
) -> io::Result<Vec<CatalogEntry>> {
    let Some(block) = catalog else { return Ok(Vec::new()) };
    let Some(bytes) = media.read(iso9660::extent_at(block, BLOCK))? else {
        warnings.add(|| "El Torito: the boot catalog is outside the image".to_owned());
        return Ok(Vec::new());
    };
    Ok(el_torito::catalog(&bytes).unwrap_or_else(|error| {
        warnings.add(|| format!("El Torito: {error}"));
        Vec::new()
    }))
}

/// Reads the GPT, and the size of the image according to it.
fn read_gpt(
    media: &(impl Media + ?Sized),
    warnings: &mut Warnings,
) -> io::Result<(Option<Gpt>, Option<u64>)> {
    let Some(header) = read_sector(media, 1)?.and_then(|sector| GptHeader::parse(&sector)) else {
        return Ok((None, None));
    };
    let array = match header.array_len() {
        Ok(len) => read_at_sector(media, header.array, len as u64)?,
        Err(error) => {
            warnings.add(|| format!("GPT: {error}"));
            None
        }
    };
    let backup = read_sector(media, header.alternate)?.and_then(|sector| GptHeader::parse(&sector));
    let gpt = header.table(array.as_deref(), backup.as_ref());
    for (part, verdict) in [("header", gpt.header), ("array", gpt.array), ("backup header", gpt.backup)] {
        if verdict != Verdict::Good {
            warnings.add(|| format!("GPT: the checksum of the {part} is {verdict}"));
        }
    }
    if header.checksum != Verdict::Good {
        // A damaged header must not make a whole image look truncated.
        return Ok((Some(gpt), None));
    }
    // UEFI specification 2.10 §5.3.1: the backup header is in the last sector.
    let needed = header.alternate.checked_add(1).and_then(|sectors| sectors.checked_mul(SECTOR));
    Ok((Some(gpt), needed))
}

/// Reads one sector; `None` if it is outside the image.
fn read_sector(media: &(impl Media + ?Sized), number: u64) -> io::Result<Option<Vec<u8>>> {
    read_at_sector(media, number, SECTOR)
}

/// Reads `len` bytes from the start of a sector; `None` if they are not all inside the image.
fn read_at_sector(media: &(impl Media + ?Sized), number: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
    match number.checked_mul(SECTOR) {
        Some(offset) => media.read(Extent { offset, len }),
        None => Ok(None),
    }
}
