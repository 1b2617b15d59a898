//! Survey of an image, from its volume descriptors to the whole of [`Image`](super::Image).

use std::io;

use jiff::Timestamp;

use super::boot_records::BootRecords;
use super::iso9660::{BLOCK, Descriptor, FIRST_DESCRIPTOR, LongDate, VolumeDescriptor};
use super::tree::{ImageTree, Names};
use super::warnings::Warnings;
use super::{Archiso, Extent, Index, Media, SurveyError, el_torito};
use crate::codec::Reader;

/// Most volume descriptors that are read. xorriso writes four: primary, boot record, Joliet,
/// terminator.
const MAX_DESCRIPTORS: u64 = 32;

/// Result of the survey.
#[derive(Debug)]
pub(crate) struct Survey {
    pub index: Index,
    pub volume: Volume,
    pub boot: BootRecords,
    pub archiso: Option<Archiso>,
    pub warnings: Vec<String>,
}

/// Description of the volume. Texts are as stored, without padding; they may contain any character.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// Volume identifier, called LABEL by blkid and `/dev/disk/by-label`.
    pub label: String,
    /// UUID as blkid prints it: `2026-11-22-10-38-25-00`, digits and dashes only. `None` if the
    /// image has no date.
    pub uuid: Option<String>,
    pub system: String,
    pub publisher: String,
    pub preparer: String,
    pub application: String,
    pub created: Option<Timestamp>,
    pub modified: Option<Timestamp>,
    /// Bytes of the file system, which may end before the image file does.
    pub size: u64,
    /// Source of the names in the index.
    pub names: Names,
}

impl Survey {
    /// Surveys the image in `media`.
    ///
    /// # Errors
    /// [`SurveyError`] if the image cannot be used.
    pub(crate) fn of(media: &(impl Media + ?Sized)) -> Result<Self, SurveyError> {
        let set = descriptor_set(media)?;
        let set = Descriptors::parse(&set, media)?;
        // ECMA-119 §6.2.2 also allows 512 and 1024; only 2048 is in use.
        if u64::from(set.primary.block_size) != BLOCK {
            return Err(SurveyError::BlockSize(set.primary.block_size));
        }
        let mut warnings = Warnings::default();
        let tree = tree(media, &set, &mut warnings)?;
        let volume = Volume::of(&set.primary, tree.names);
        let boot = BootRecords::read(media, set.catalog, &tree.index, &mut warnings)?;
        // A GPT covers the whole file, also partitions after the volume.
        if let Some(needed) = boot.needed.filter(|&needed| needed > media.size()) {
            return Err(SurveyError::Truncated { len: media.size(), needed });
        }
        let archiso = Archiso::find(media, &tree.index, volume.uuid.as_deref(), &mut warnings)?;
        Ok(Self { index: tree.index, volume, boot, archiso, warnings: warnings.into_lines() })
    }
}

/// Builds the tree, and checks that the image is complete.
fn tree(
    media: &(impl Media + ?Sized),
    set: &Descriptors<'_>,
    warnings: &mut Warnings,
) -> Result<ImageTree, SurveyError> {
    let (len, needed) = (media.size(), size(&set.primary));
    let tree = ImageTree::build(media, &set.primary, set.joliet.as_ref(), warnings);
    if needed <= len {
        return tree;
    }
    // An image is truncated if it is shorter than its volume and lacks data of an entry. Otherwise
    // only the padding is missing, which xorriso appends (`-padding`) and copies may lose.
    match tree {
        Ok(tree) if !tree.cut_off => {
            warnings
                .add(|| format!("the volume has {needed} bytes and the file {len}: its padding is cut off"));
            Ok(tree)
        }
        Ok(_) | Err(SurveyError::Damaged(_)) => Err(SurveyError::Truncated { len, needed }),
        Err(other) => Err(other),
    }
}

/// Reads the volume descriptor set, up to its limit.
fn descriptor_set(media: &(impl Media + ?Sized)) -> Result<Vec<u8>, SurveyError> {
    let offset = FIRST_DESCRIPTOR * BLOCK;
    // Shorter than the limit at the end of a small file: what is there may be a whole set.
    let len = media.size().saturating_sub(offset).min(MAX_DESCRIPTORS * BLOCK);
    Ok(media.read(Extent { offset, len })?.unwrap_or_default())
}

/// Volume descriptors that are used: the first of each type.
struct Descriptors<'a> {
    primary: VolumeDescriptor<'a>,
    joliet: Option<VolumeDescriptor<'a>>,
    /// Logical block of the El Torito boot catalog.
    catalog: Option<u32>,
}

impl<'a> Descriptors<'a> {
    fn parse(set: &'a [u8], media: &(impl Media + ?Sized)) -> Result<Self, SurveyError> {
        let (mut primary, mut joliet, mut catalog) = (None, None, None);
        let mut blocks = Reader::new(set);
        while let Ok(block) = blocks.take(BLOCK as usize) {
            match Descriptor::parse(block)? {
                Some(Descriptor::Boot(record)) => catalog = catalog.or(el_torito::catalog_block(record)),
                Some(Descriptor::Primary(volume)) => primary = primary.or(Some(volume)),
                Some(Descriptor::Joliet(volume)) => joliet = joliet.or(Some(volume)),
                Some(Descriptor::Other) => {}
                // ECMA-119 §8.3 ends the set; a block that is not a descriptor ends it as well.
                Some(Descriptor::Terminator) | None => break,
            }
        }
        let Some(primary) = primary else { return Err(SurveyError::NotIso(looks_like(media)?)) };
        Ok(Self { primary, joliet, catalog })
    }
}

/// Guesses the format of a file that is not an ISO 9660 image.
fn looks_like(media: &(impl Media + ?Sized)) -> io::Result<&'static str> {
    // Files that people take for the ISO: packed ones, error pages, and its neighbours on mirrors.
    const KINDS: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "is gzip data, which `gunzip` unpacks"),
        (b"\xfd7zXZ", "is xz data, which `unxz` unpacks"),
        (b"\x28\xb5\x2f\xfd", "is zstd data, which `unzstd` unpacks"),
        (b"PK", "is a zip archive, which `unzip` unpacks"),
        (b"hsqs", "is a squashfs image"),
        (b"<", "is a web page or XML"),
        (b"d8:announce", "is a torrent, from which a BitTorrent client gets the ISO"),
        (b"-----BEGIN", "is a signature"),
    ];
    let head = media.read(Extent { offset: 0, len: media.size().min(16) })?.unwrap_or_default();
    let kind = KINDS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    Ok(kind.unwrap_or(match media.size() {
        0 => "is empty",
        size if size <= FIRST_DESCRIPTOR * BLOCK => "is too short",
        _ => "has no volume descriptor at byte 32768",
    }))
}

/// Returns the bytes of a volume.
fn size(descriptor: &VolumeDescriptor<'_>) -> u64 {
    u64::from(descriptor.blocks) * BLOCK
}

impl Volume {
    fn of(primary: &VolumeDescriptor<'_>, names: Names) -> Self {
        Self {
            label: text(primary.volume),
            // util-linux, `probe_iso9660`: the creation date stands in for the modification date.
            uuid: uuid(&primary.modified).or_else(|| uuid(&primary.created)),
            system: text(primary.system),
            publisher: text(primary.publisher),
            preparer: text(primary.preparer),
            application: text(primary.application),
            created: primary.created.instant(),
            modified: primary.modified.instant(),
            size: size(primary),
            names,
        }
    }
}

/// Converts a field of the volume descriptor to text.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Formats a date as blkid formats a UUID (util-linux, `superblocks/iso9660.c`).
fn uuid(date: &LongDate) -> Option<String> {
    let mut digits = Reader::new(date.digits()?.as_bytes());
    // Sixteen digits, as many as `LongDate::digits` returns.
    let groups = [4, 2, 2, 2, 2, 2, 2].map(|n| digits.take(n).unwrap_or_default());
    String::from_utf8(groups.join(&b'-')).ok()
}
