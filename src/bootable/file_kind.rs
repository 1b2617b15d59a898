//! The part that each file of an image plays in a boot.

use super::{entries, node_of};
use crate::image::{Image, NodeId};

/// The part of a file in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileKind {
    /// A program of the firmware's first step, which loads the rest: PXELINUX or iPXE.
    Loader,
    /// A menu or a script.
    Menu,
    Kernel,
    /// An initramfs, or microcode that is loaded in front of it.
    Initramfs,
    /// A boot program composed of kernel and initramfs.
    Program,
    /// Any other file, such as a root file system.
    #[default]
    Other,
}

/// The kinds of the files of one image that a boot loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileKinds(Vec<(NodeId, FileKind)>);

impl FileKinds {
    /// Reads the kinds from archiso's layout and from the image's own boot entries, which may name
    /// kernels at other places. Empty for an image that is not archiso's.
    pub(crate) fn of(image: &Image) -> Self {
        let Some(archiso) = &image.archiso else { return Self(Vec::new()) };
        let mut kinds = Vec::new();
        kinds.extend(archiso.lpxelinux.map(|node| (node, FileKind::Loader)));
        let menus = archiso.syslinux_menus.iter().chain(&archiso.loader_entries);
        kinds.extend(menus.map(|&node| (node, FileKind::Menu)));
        for kernel in &archiso.kernels {
            kinds.push((kernel.kernel, FileKind::Kernel));
            let initrd = kernel.initramfs.iter().chain(&kernel.microcode);
            kinds.extend(initrd.map(|&node| (node, FileKind::Initramfs)));
        }
        for entry in entries(image).into_iter().flat_map(|entries| entries.boot_entries) {
            kinds.extend(node_of(image, &entry.kernel).map(|node| (node, FileKind::Kernel)));
            let initrd = entry.initrd.iter().filter_map(|path| node_of(image, path));
            kinds.extend(initrd.map(|node| (node, FileKind::Initramfs)));
        }
        Self(kinds)
    }

    /// Returns the kind of a file. The first one counts if menus disagree with archiso's layout.
    pub(crate) fn get(&self, node: NodeId) -> FileKind {
        self.0.iter().find(|&&(known, _)| known == node).map_or(FileKind::Other, |&(_, kind)| kind)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, FileKind)> {
        self.0.iter().copied()
    }
}
