//! Boot programs for UEFI machines: one for each machine and each root, composed on request.

use std::sync::Arc;

use super::file::{ServedFile, Version};
use super::file_server::FileServer;
use super::leased::Lease;
use super::menu::MenuImage;
use crate::bootable::{BootEntry, Bootable, FileKind, Root};
use crate::export::Export;
use crate::export::path::{self, PathError};
use crate::image::{Extent, Image, Media as _};
use crate::mac::Mac;
use crate::text::{PlainPath, Word};
use crate::uki::{
    CommandLine, ComposeError, EfiKernel, KERNEL_HEAD, KernelError, ProgramBase, Signer, Stub, StubError,
};

/// Reason why there is no boot program for UEFI machines, in one line for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UefiError(String);

impl UefiError {
    /// Creates the error for a server without bootable images.
    pub(crate) fn no_image() -> Self {
        Self("there is no image to boot".to_owned())
    }

    pub(super) fn no_root() -> Self {
        ProgramError::NoRoot.into()
    }
}

impl From<StubError> for UefiError {
    fn from(why: StubError) -> Self {
        Self(why.to_string())
    }
}

impl From<ProgramError> for UefiError {
    fn from(why: ProgramError) -> Self {
        Self(why.to_string())
    }
}

/// Reason why a program cannot be composed of an image's files.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error("no root file system is served")]
    NoRoot,
    #[error("the image has no bootable kernel")]
    NoEntry,
    #[error("/{path} cannot be opened: {why}")]
    NoFile { path: PlainPath, why: PathError },
    #[error("/{path}: {why}")]
    Unread { path: PlainPath, why: std::io::Error },
    #[error("/{path}: {why}")]
    Kernel { path: PlainPath, why: KernelError },
    #[error(transparent)]
    Compose(#[from] ComposeError),
}

/// The boot programs of one image.
#[derive(Debug)]
pub(crate) struct Programs {
    image: Arc<Image>,
    stub: Stub,
    signer: Option<Arc<Signer>>,
    bases: Vec<RootBase>,
}

/// The part that all programs with one root share.
#[derive(Debug)]
struct RootBase {
    root: Root,
    entry: BootEntry,
    base: ProgramBase,
}

impl Programs {
    /// Composes the programs for `image` with each of these roots, but for their command lines, the
    /// default first. Reads the start of each kernel, and with a signer all of kernels and
    /// initramfs images.
    ///
    /// # Errors
    /// [`UefiError`] if one cannot be composed.
    pub(crate) fn new(
        image: &Arc<Image>,
        bootable: &Bootable,
        roots: &[Root],
        stub: Result<Stub, StubError>,
        signer: Option<&Arc<Signer>>,
    ) -> Result<Self, UefiError> {
        let stub = stub?;
        if roots.is_empty() {
            return Err(ProgramError::NoRoot.into());
        }
        let mut bases: Vec<RootBase> = Vec::new();
        for &root in roots {
            let entry = bootable.boot_entry(root).ok_or(ProgramError::NoEntry)?.clone();
            // One entry boots most images with any root.
            let base = match bases.iter().find(|known| known.boots_as(&entry)) {
                Some(known) => known.base.clone(),
                None => base(image, &entry, &stub, signer)?,
            };
            bases.push(RootBase { root, entry, base });
        }
        Ok(Self { image: Arc::clone(image), stub, signer: signer.cloned(), bases })
    }

    /// Returns the roots of the programs, the default first.
    pub(crate) fn roots(&self) -> Vec<Root> {
        self.bases.iter().map(|base| base.root).collect()
    }

    /// Returns the stub of the programs.
    pub(crate) fn stub(&self) -> &Stub {
        &self.stub
    }

    /// Returns the signer of the programs.
    pub(crate) const fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    /// Composes the program with this root for a machine with this MAC address and lease, to which the
    /// image is shown so; `None` if the root is not served.
    pub(crate) fn program(
        &self,
        root: Root,
        machine: Option<Mac>,
        lease: Option<Lease>,
        shown: &MenuImage<'_>,
        server: &FileServer,
    ) -> Option<ServedFile> {
        let RootBase { base, .. } = self.bases.iter().find(|base| base.root == root)?;
        let mut words = shown.command_line(root, server)?;
        words.extend(network(machine, lease, server));
        let line = CommandLine::new(&words).ok()?;
        let export = base.program(&line)?;
        // Image, stub, signer and line determine every byte, so the program need not be read for
        // its version.
        let identity = self.image.identity.0.to_le_bytes();
        let version = Version::of_content(&[&identity[..], base.fingerprint(), line.as_bytes()].concat());
        Some(ServedFile { export, version, modified: None, kind: FileKind::Program })
    }
}

impl RootBase {
    /// Returns true if `entry` has the same kernel and initramfs images.
    fn boots_as(&self, entry: &BootEntry) -> bool {
        (&self.entry.kernel, &self.entry.initrd) == (&entry.kernel, &entry.initrd)
    }
}

fn base(
    image: &Arc<Image>,
    entry: &BootEntry,
    stub: &Stub,
    signer: Option<&Arc<Signer>>,
) -> Result<ProgramBase, ProgramError> {
    let initrd = entry.initrd.iter().map(|path| file(image, path)).collect::<Result<Vec<_>, _>>()?;
    let kernel = self::kernel(image, &entry.kernel)?;
    Ok(ProgramBase::new(stub, &initrd, &kernel, signer)?)
}

fn file(image: &Arc<Image>, path: &PlainPath) -> Result<Export, ProgramError> {
    let found = path::resolve(&image.index, path.as_str().as_bytes());
    let node = found.map_err(|why| ProgramError::NoFile { path: path.clone(), why })?;
    Export::of_file(image, node).ok_or(ProgramError::NoFile { path: path.clone(), why: PathError::NotFound })
}

fn kernel(image: &Arc<Image>, path: &PlainPath) -> Result<EfiKernel, ProgramError> {
    let file = file(image, path)?;
    let node = path::resolve(&image.index, path.as_str().as_bytes()).ok();
    let content = node.and_then(|node| image.content(node));
    let len = file.len().min(KERNEL_HEAD as u64);
    let head = content.map_or(Ok(None), |content| content.read(Extent { offset: 0, len }));
    let head = head.map_err(|why| ProgramError::Unread { path: path.clone(), why })?.unwrap_or_default();
    EfiKernel::new(file, &head).map_err(|why| ProgramError::Kernel { path: path.clone(), why })
}

/// Returns the parameters that PXELINUX appends for a BIOS machine by SYSAPPEND 3. archiso's hook
/// appends the network card of BOOTIF to the value of `ip=` (hooks/archiso_pxe_common), so nothing
/// may follow the netmask.
fn network(machine: Option<Mac>, lease: Option<Lease>, server: &FileServer) -> impl Iterator<Item = Word> {
    let ip = match lease {
        Some(Lease { address, netmask, router }) => {
            let server = server.address;
            format!("ip={address}:{server}:{}:{netmask}", router.unwrap_or(server))
        }
        // Another server gave the address: the kernel's own DHCP client asks it again.
        None => "ip=dhcp".to_owned(),
    };
    let card = machine.map(|mac| format!("BOOTIF=01-{}", mac.dashed()));
    [Some(ip), card].into_iter().flatten().filter_map(|word| Word::new(&word))
}

#[cfg(test)]
mod tests;
