//! How firmware finds something to boot on the image: El Torito's catalog, the MBR and the GPT.

use std::io;

use super::el_torito::{self, BootEntry, Platform};
use super::iso9660::{self, BLOCK};
use super::partitions::{Gpt, GptHeader, Mbr, SECTOR, Verdict};
use super::warnings::Warnings;
use super::{Extent, Index, Media, NodeKind};

/// The boot records of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootRecords {
    /// The boot catalog, its default entry first.
    pub el_torito: Vec<BootEntry>,
    /// The FAT image that UEFI boots from: a file of the tree, or a partition behind it.
    pub efi_image: Option<Extent>,
    pub mbr: Option<Mbr>,
    pub gpt: Option<Gpt>,
    /// Bytes that the image has according to a GPT header whose checksum is good.
    pub needed: Option<u64>,
}

impl BootRecords {
    /// Reads them; `catalog` is the logical block of the boot catalog.
    ///
    /// # Errors
    /// Only those of reading. What makes no sense is left out with a warning.
    pub(super) fn read(
        media: &(impl Media + ?Sized),
        catalog: Option<u32>,
        index: &Index,
        warnings: &mut Warnings,
    ) -> io::Result<Self> {
        let el_torito = entries(media, catalog, warnings)?;
        let mbr = sectors(media, 0)?.and_then(|sector| Mbr::parse(&sector));
        let (gpt, needed) = gpt(media, warnings)?;
        let mut boot = Self { el_torito, efi_image: None, mbr, gpt, needed };
        boot.efi_image = boot.find_efi_image(media.size(), index, warnings);
        Ok(boot)
    }

    /// El Torito tells where the EFI image begins. Its size there ends at 32 MiB and is often nonsense, so a partition
    /// or a file at the same place is asked first.
    fn find_efi_image(&self, size: u64, index: &Index, warnings: &mut Warnings) -> Option<Extent> {
        let entry = self.el_torito.iter().find(|entry| entry.platform == Platform::Efi && entry.bootable);
        let Some(entry) = entry else { return self.efi_partitions().find(|extent| extent.end() <= size) };
        let claimed = iso9660::extent_at(entry.block, u64::from(entry.sectors) * el_torito::SECTOR);
        let same_place = |extent: &Extent| extent.offset == claimed.offset && extent.end() <= size;
        let image = self.efi_partitions().find(same_place).or_else(|| files(index).find(same_place));
        // UEFI specification §13.3.2.1: 0 and 1 stand for an unknown size.
        let image = image.or((entry.sectors > 1 && claimed.end() <= size).then_some(claimed));
        if image.is_none() {
            warnings.add(|| format!("El Torito: no EFI image of a known size at byte {}", claimed.offset));
        }
        image
    }

    /// EFI system partitions of both tables, unchecked.
    fn efi_partitions(&self) -> impl Iterator<Item = Extent> {
        let mbr = self.mbr.iter().flat_map(|mbr| &mbr.partitions).filter(|partition| partition.is_efi());
        let mbr = mbr.map(|p| (u64::from(p.first), u64::from(p.sectors)));
        let gpt = self.gpt.iter().flat_map(|gpt| &gpt.partitions).filter(|partition| partition.is_efi());
        let gpt = gpt.map(|p| (p.first, p.last.saturating_sub(p.first).saturating_add(1)));
        mbr.chain(gpt).filter_map(|(first, sectors)| {
            Some(Extent { offset: first.checked_mul(SECTOR)?, len: sectors.checked_mul(SECTOR)? })
        })
    }
}

/// The extents of all files that have just one.
fn files(index: &Index) -> impl Iterator<Item = Extent> {
    index.walk().filter_map(|id| match &index.node(id).kind {
        NodeKind::File { extents } => extents.first().copied().filter(|_| extents.len() == 1),
        _ => None,
    })
}

fn entries(
    media: &(impl Media + ?Sized),
    catalog: Option<u32>,
    warnings: &mut Warnings,
) -> io::Result<Vec<BootEntry>> {
    let Some(block) = catalog else { return Ok(Vec::new()) };
    let Some(bytes) = media.read(iso9660::extent_at(block, BLOCK))? else {
        warnings.add(|| "El Torito: the boot catalog is outside the image".to_owned());
        return Ok(Vec::new());
    };
    Ok(el_torito::catalog(&bytes).unwrap_or_else(|flaw| {
        warnings.add(|| flaw.to_string());
        Vec::new()
    }))
}

/// The GPT, and the size of the image that it stands for.
fn gpt(media: &(impl Media + ?Sized), warnings: &mut Warnings) -> io::Result<(Option<Gpt>, Option<u64>)> {
    let Some(header) = sectors(media, 1)?.and_then(|sector| GptHeader::parse(&sector)) else {
        return Ok((None, None));
    };
    let array = match header.array_len() {
        Ok(len) => read_at_sector(media, header.array, len as u64)?,
        Err(flaw) => {
            warnings.add(|| flaw.to_string());
            None
        }
    };
    let backup = sectors(media, header.alternate)?.and_then(|sector| GptHeader::parse(&sector));
    let gpt = header.table(array.as_deref(), backup.as_ref());
    for (part, verdict) in [("header", gpt.header), ("array", gpt.array), ("backup header", gpt.backup)] {
        if verdict != Verdict::Good {
            warnings.add(|| format!("GPT: the checksum of its {part} is {verdict}"));
        }
    }
    let sealed = header.checksum == Verdict::Good;
    let needed = sealed.then(|| header.alternate.checked_add(1)?.checked_mul(SECTOR)).flatten();
    Ok((Some(gpt), needed))
}

/// One sector; `None` behind the end of the image.
fn sectors(media: &(impl Media + ?Sized), number: u64) -> io::Result<Option<Vec<u8>>> {
    read_at_sector(media, number, SECTOR)
}

fn read_at_sector(media: &(impl Media + ?Sized), number: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
    match number.checked_mul(SECTOR) {
        Some(offset) => media.read(Extent { offset, len }),
        None => Ok(None),
    }
}
