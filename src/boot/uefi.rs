//! Boot programs for UEFI machines: one for each machine and each root, composed on request.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::file::{ServedFile, Version};
use super::file_server::FileServer;
use super::leased::Lease;
use super::menu::{MenuImage, MenuSettings};
use crate::bootable::{BootEntry, Bootable, FileKind, Root};
use crate::export::Export;
use crate::export::path::{self, PathError};
use crate::image::{Extent, Image, Media as _};
use crate::mac::Mac;
use crate::text::{PlainPath, Word};
use crate::uki::{self, CommandLine, ComposeError, EfiKernel, KERNEL_HEAD, KernelError, Stub, StubError};

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
    bootable: Bootable,
    stub: Stub,
    /// SHA-256 of the stub, a part of each program's version.
    fingerprint: [u8; 32],
    parts: Vec<(Root, Parts)>,
}

#[derive(Debug)]
struct Parts {
    kernel: EfiKernel,
    initrd: Vec<Export>,
}

impl Programs {
    /// Checks that programs can be composed for `image` with each of these roots, the default first.
    /// Reads the start of each kernel.
    ///
    /// # Errors
    /// [`UefiError`] if one cannot be composed.
    pub(crate) fn new(
        image: &Arc<Image>,
        bootable: &Bootable,
        roots: &[Root],
        stub: Result<Stub, StubError>,
    ) -> Result<Self, UefiError> {
        let stub = stub?;
        if roots.is_empty() {
            return Err(ProgramError::NoRoot.into());
        }
        let parts = roots.iter().map(|&root| Ok((root, Parts::of(image, bootable, root, &stub)?)));
        let parts = parts.collect::<Result<_, ProgramError>>()?;
        let fingerprint = Sha256::digest(stub.bytes()).into();
        let (image, bootable) = (Arc::clone(image), bootable.clone());
        Ok(Self { image, bootable, stub, fingerprint, parts })
    }

    /// Returns the roots of the programs, the default first.
    pub(crate) fn roots(&self) -> Vec<Root> {
        self.parts.iter().map(|&(root, _)| root).collect()
    }

    /// Returns the stub of the programs.
    pub(crate) fn stub(&self) -> &Stub {
        &self.stub
    }

    /// Composes the program with this root for a machine with this MAC address and lease; `None` if the
    /// root is not served.
    pub(crate) fn program(
        &self,
        root: Root,
        machine: Option<Mac>,
        lease: Option<Lease>,
        settings: MenuSettings,
        server: &FileServer,
    ) -> Option<ServedFile> {
        let (_, parts) = self.parts.iter().find(|(known, _)| *known == root)?;
        let mut words = MenuImage { image: &self.bootable, settings }.command_line(root, server)?;
        words.extend(network(machine, lease, server));
        let line = CommandLine::new(&words).ok()?;
        let export = uki::compose(&self.stub, &line, &parts.initrd, &parts.kernel).ok()?;
        // Image, stub and line determine every byte, so the program need not be read for its version.
        let identity = self.image.identity.0.to_le_bytes();
        let version = Version::of_content(&[&identity[..], &self.fingerprint, line.as_bytes()].concat());
        Some(ServedFile { export, version, modified: None, kind: FileKind::Program })
    }
}

impl Parts {
    /// Finds the parts and checks that they can be composed.
    fn of(image: &Arc<Image>, bootable: &Bootable, root: Root, stub: &Stub) -> Result<Self, ProgramError> {
        let BootEntry { kernel, initrd, .. } = bootable.boot_entry(root).ok_or(ProgramError::NoEntry)?;
        let initrd = initrd.iter().map(|path| file(image, path)).collect::<Result<_, _>>()?;
        let kernel = self::kernel(image, kernel)?;
        let parts = Self { kernel, initrd };
        // Only the line differs between machines, so a program with any line proves the rest.
        let any_line = CommandLine::new(&Word::new("quiet"))?;
        uki::compose(stub, &any_line, &parts.initrd, &parts.kernel)?;
        Ok(parts)
    }
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
/// appends the network card of BOOTIF to the value of `ip=` (hooks/archiso_pxe_common), so nothing may
/// follow the netmask.
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
