//! Ranges of an image that tell the progress of a boot: kernels and initramfs within a composed
//! program, and root file systems.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Step;
use super::learner::Learner;
use crate::bootable::FileKinds;
use crate::image::{Extent, Identity, Image, ImageFault, NodeId, NodeKind};

/// Most ranges of an image; further ones are dropped. archiso's own images have about ten.
const RANGES_MAX: usize = 4096;

/// An image that the registry knows: its name and its ranges.
#[derive(Debug)]
pub(super) struct TrackedImage {
    pub name: Arc<str>,
    /// Identifies the image without keeping its file open.
    image: Weak<Image>,
    pub ranges: BootRanges,
    /// What a boot reads, as long as that is not known.
    pub learner: Learner,
}

impl TrackedImage {
    pub(super) fn new(name: &str, image: &Arc<Image>) -> Self {
        let (ranges, learner) = (BootRanges::of(image), Learner::default());
        Self { name: name.into(), image: Arc::downgrade(image), ranges, learner }
    }

    pub(super) fn is(&self, image: &Image) -> bool {
        std::ptr::eq(self.image.as_ptr(), image)
    }

    /// Returns the identity of the image; `None` if it is closed by now.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.image.upgrade().map(|image| image.identity)
    }

    /// Returns the fault of the disk of the image, if there is one.
    pub(super) fn fault(&self) -> Option<ImageFault> {
        self.image.upgrade()?.source.fault()
    }

    /// Returns the bytes of the image in the cache folder, if it is in an object store.
    pub(super) fn cached(&self) -> Option<u64> {
        self.image.upgrade()?.source.cached()
    }

    /// Has what a boot reads read ahead, for a machine that begins to boot the image. Returns `false`
    /// if that is not known.
    pub(super) fn read_boot_list(&self, now: Instant) -> bool {
        let Some(image) = self.image.upgrade() else { return true };
        image.source.read_boot_list(now);
        image.source.has_boot_list()
    }

    /// Returns the image and what a boot reads of it, once a machine has shown that.
    pub(super) fn learned(&self, now: Instant) -> Option<(Arc<Image>, Vec<u32>)> {
        let blocks = self.learner.take(now)?;
        Some((self.image.upgrade()?, blocks))
    }

    pub(super) fn is_open(&self) -> bool {
        self.image.strong_count() > 0
    }
}

/// The ranges of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootRanges {
    /// Sorted by offset, without overlaps.
    marks: Vec<BootRange>,
}

/// One range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BootRange {
    extent: Extent,
    place: RangeKind,
}

/// Content of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RangeKind {
    /// Part of composed boot programs, whose loading is this step. Files that are sent by
    /// themselves have a kind.
    Part(Step),
    /// Part of a root file system.
    Root {
        airootfs: TrackedRoot,
        /// Offset of the part within the file.
        at: u64,
    },
}

/// A root file system of an image, which may have one for each architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrackedRoot {
    pub node: NodeId,
    /// Bytes.
    pub size: u64,
}

impl BootRanges {
    /// Reads the ranges of `image`; none if it is not archiso's.
    pub(crate) fn of(image: &Image) -> Self {
        let mut marks = Vec::new();
        let Some(archiso) = &image.archiso else { return Self { marks } };
        for (node, kind) in FileKinds::of(image).iter() {
            if let Some(step) = Step::of_part(kind) {
                marks.extend(files(image, node, |_| RangeKind::Part(step)));
            }
        }
        for root in &archiso.airootfs {
            let airootfs = TrackedRoot { node: root.node, size: root.size };
            marks.extend(files(image, root.node, |at| RangeKind::Root { airootfs, at }));
        }
        Self::sorted(marks)
    }

    fn sorted(mut marks: Vec<BootRange>) -> Self {
        marks.sort_by_key(|mark| mark.extent.offset);
        let mut end = 0;
        // Two names of one file are one range.
        marks.retain(|mark| {
            let is_free = mark.extent.offset >= end;
            if is_free {
                end = mark.extent.end();
            }
            is_free
        });
        marks.truncate(RANGES_MAX);
        Self { marks }
    }

    /// Returns the ranges that overlap `len` bytes from `offset`, each with the offset of the
    /// overlap in the range and its length.
    pub(super) fn within(&self, offset: u64, len: u64) -> impl Iterator<Item = (RangeKind, u64, u64)> {
        let end = offset.saturating_add(len);
        let first = self.marks.partition_point(|mark| mark.extent.end() <= offset);
        let marks = self.marks.iter().skip(first).take_while(move |mark| mark.extent.offset < end);
        marks.map(move |BootRange { extent, place }| {
            let from = offset.max(extent.offset);
            (*place, from - extent.offset, end.min(extent.end()) - from)
        })
    }
}

/// Returns the extents of a file as ranges. `kind` gets the offset of an extent in the file.
fn files(image: &Image, node: NodeId, place: impl Fn(u64) -> RangeKind) -> Vec<BootRange> {
    let NodeKind::File { extents } = &image.index.node(node).kind else { return Vec::new() };
    let mut at = 0;
    let mut marks = Vec::new();
    for &extent in extents.iter().filter(|extent| extent.len > 0) {
        marks.push(BootRange { extent, place: place(at) });
        at += extent.len;
    }
    marks
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fuzzing::menus::archiso;
    use crate::image::arch::Archiso;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Source, Volume};

    pub(crate) const MIB: u64 = 1 << 20;
    pub(crate) const LOADER: Extent = Extent { offset: 64 << 10, len: 100 };
    pub(crate) const MENU: Extent = Extent { offset: 66 << 10, len: 100 };
    pub(crate) const KERNEL: Extent = Extent { offset: MIB, len: MIB };
    pub(crate) const INITRAMFS: Extent = Extent { offset: 2 * MIB, len: MIB };
    /// A file in two extents, the second of which stands first.
    pub(crate) const AIROOTFS: [Extent; 2] =
        [Extent { offset: 6 * MIB, len: 3 * MIB }, Extent { offset: 4 * MIB, len: MIB }];

    /// An image with one of each, in a file of zeros.
    pub(crate) fn image() -> Arc<Image> {
        let plain = NodeAttributes { mode: 0o644, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(plain);
        let mut add = |name: &str, extents: &[Extent]| {
            let kind = NodeKind::File { extents: extents.to_vec() };
            index.add(NodeId::ROOT, name.as_bytes(), kind, plain).unwrap()
        };
        let (loader, menu) = (add("lpxelinux.0", &[LOADER]), add("archiso_pxe.cfg", &[MENU]));
        let (kernel, initramfs) = (add("vmlinuz-linux", &[KERNEL]), add("initramfs-linux.img", &[INITRAMFS]));
        let airootfs = add("airootfs.sfs", &AIROOTFS);
        let archiso = Archiso {
            lpxelinux: Some(loader),
            syslinux_menus: vec![menu],
            ..archiso(kernel, initramfs, airootfs, 4 * MIB)
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 * MIB).unwrap();
        let mut image = Image::new(Source::open(file.path()).unwrap(), index).unwrap();
        (image.archiso, image.volume) = (Some(archiso), Volume::default());
        Arc::new(image)
    }

    fn steps(offset: u64, len: u64) -> Vec<(Option<Step>, u64, u64)> {
        let ranges = BootRanges::of(&image());
        let step = |place| match place {
            RangeKind::Part(step) => Some(step),
            RangeKind::Root { .. } => None,
        };
        ranges.within(offset, len).map(|(place, from, len)| (step(place), from, len)).collect()
    }

    #[test]
    fn ranges_tell_their_steps() {
        assert_eq!(steps(KERNEL.offset, 1), [(Some(Step::Kernel), 0, 1)]);
        assert_eq!(steps(INITRAMFS.end() - 1, 5), [(Some(Step::Loader), MIB - 1, 1)]);
        assert_eq!(steps(LOADER.offset, LOADER.len), [], "known by its kind");
        assert_eq!(steps(LOADER.end(), 100), []);
        assert_eq!(steps(9 * MIB, u64::MAX), []);
        let all: Vec<_> = steps(0, u64::MAX).into_iter().map(|(step, ..)| step).collect();
        let files = [Step::Kernel, Step::Loader].map(Some);
        assert_eq!(all, [&files[..], &[None, None]].concat());
    }

    #[test]
    fn root_range_has_offset_in_file() {
        let ranges = BootRanges::of(&image());
        let places: Vec<_> = ranges.within(4 * MIB + 7, 3 * MIB).collect();
        let at = |(place, from, len)| match place {
            RangeKind::Root { airootfs, at } => (airootfs.size, at + from, len),
            RangeKind::Part(step) => panic!("{step:?}"),
        };
        let places: Vec<_> = places.into_iter().map(at).collect();
        assert_eq!(places, [(4 * MIB, 3 * MIB + 7, MIB - 7), (4 * MIB, 0, MIB + 7)]);
    }

    #[test]
    fn overlapping_ranges_are_one() {
        let mark =
            |offset, len, step| BootRange { extent: Extent { offset, len }, place: RangeKind::Part(step) };
        let ranges = BootRanges::sorted(vec![
            mark(10, 5, Step::Menu),
            mark(0, 10, Step::Kernel),
            mark(0, 10, Step::Kernel),
            mark(12, 9, Step::Loader),
        ]);
        assert_eq!(ranges.marks, [mark(0, 10, Step::Kernel), mark(10, 5, Step::Menu)]);
    }
}
