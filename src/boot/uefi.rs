//! What UEFI machines load: a boot program for each machine and each root, composed when it is asked for.

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

/// Why there is nothing to boot UEFI machines with: the operator's to mend, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UefiError(String);

impl UefiError {
    /// No image has anything to boot.
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

/// Why an image's files make no program.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error("no root file system is served")]
    NoRoot,
    #[error("the image has no kernel that could be booted")]
    NoRecipe,
    #[error("/{path} cannot be had: {why}")]
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
    /// SHA-256 of the stub, for the versions of programs.
    fingerprint: [u8; 32],
    parts: Vec<(Root, Parts)>,
}

#[derive(Debug)]
struct Parts {
    kernel: EfiKernel,
    initrd: Vec<Export>,
}

impl Programs {
    /// The programs that boot `image` with a root by each of these protocols, the default first. It reads the first
    /// bytes of kernels.
    ///
    /// # Errors
    /// [`UefiError`] when none can be composed.
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

    /// The roots that there are programs with, the default first.
    pub(crate) fn roots(&self) -> Vec<Root> {
        self.parts.iter().map(|&(root, _)| root).collect()
    }

    /// The stub that they begin with.
    pub(crate) fn stub(&self) -> &Stub {
        &self.stub
    }

    /// The program with this root for a machine of this MAC address, which has this lease of ours; `None` where the root
    /// is not served.
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
        let identity = self.image.identity.0.to_le_bytes();
        let version = Version::of_content(&[&identity[..], &self.fingerprint, line.as_bytes()].concat());
        Some(ServedFile { export, version, modified: None, kind: FileKind::Program })
    }
}

impl Parts {
    /// Finds them, and makes sure that they can be put together.
    fn of(image: &Arc<Image>, bootable: &Bootable, root: Root, stub: &Stub) -> Result<Self, ProgramError> {
        let BootEntry { kernel, initrd, .. } = bootable.recipe(root).ok_or(ProgramError::NoRecipe)?;
        let initrd = initrd.iter().map(|path| file(image, path)).collect::<Result<_, _>>()?;
        let kernel = self::kernel(image, kernel)?;
        let parts = Self { kernel, initrd };
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

/// What PXELINUX adds for a BIOS machine (SYSAPPEND 3). archiso's hook puts the card that BOOTIF names behind what
/// `ip=` says, so nothing may follow the netmask.
fn network(machine: Option<Mac>, lease: Option<Lease>, server: &FileServer) -> impl Iterator<Item = Word> {
    let ip = match lease {
        Some(Lease { address, netmask, router }) => {
            let server = server.address;
            format!("ip={address}:{server}:{}:{netmask}", router.unwrap_or(server))
        }
        None => "ip=dhcp".to_owned(),
    };
    let card = machine.map(|mac| format!("BOOTIF=01-{}", mac.dashed()));
    [Some(ip), card].into_iter().flatten().filter_map(|word| Word::new(&word))
}

#[cfg(test)]
mod tests;
