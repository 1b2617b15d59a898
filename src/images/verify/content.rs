//! The verification of one image.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::VerifyPolicy;
use super::quiet_file::QuietFile;
use crate::image::arch::Airootfs;
use crate::image::checksum::{self, Checksum, ChecksumError};
use crate::image::{Extent, Image};
use crate::x509::cms::{self, DetachedSignature, SignatureError};
use crate::x509::{Digests, Hash, Hashers, TrustedCertificates};

/// Reason for which an image is not offered.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyFailure {
    #[error("it has no root file system of archiso to verify; serve it without `verify`")]
    NotArchiso,
    #[error("{root} cannot be verified: {error}; serve it without `verify`, or get another image")]
    NoChecksum { root: String, error: ChecksumError },
    #[error("{0} does not match airootfs.sha512: the image is damaged; get it again")]
    Damaged(String),
    #[error("{0} has no CMS signature, which `verify-certificate` asks for")]
    Unsigned(String),
    #[error("the signature {path} {error}")]
    Signature { path: String, error: SignatureError },
    #[error("it cannot be read: {0}")]
    Unread(io::Error),
    #[error("it changed while it was verified")]
    Changed,
    #[error("isowire failed to verify it; its log has the fault")]
    Panicked,
    #[error("its verification was stopped")]
    Stopped,
}

impl VerifyFailure {
    /// Tells whether the same file fails again.
    pub(super) const fn is_final(&self) -> bool {
        !matches!(self, Self::Unread(_) | Self::Changed)
    }
}

/// What others see of a verification, and how they stop it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a> {
    /// Bytes that were read.
    pub(super) read: &'a AtomicU64,
    pub(super) is_stopped: &'a AtomicBool,
}

/// Returns the bytes that a verification reads.
pub(super) fn size(image: &Image) -> u64 {
    roots(image).iter().map(|root| root.size).fold(0, u64::saturating_add)
}

fn roots(image: &Image) -> &[Airootfs] {
    image.archiso.as_ref().map_or(&[], |archiso| &archiso.airootfs)
}

/// Verifies the root file systems of all architectures, and counts what was read. Returns the name
/// of the signer. Reads from the disk for seconds or minutes.
///
/// # Errors
/// [`VerifyFailure`]
pub(super) fn verify(
    image: &Image,
    policy: &VerifyPolicy,
    progress: Progress<'_>,
) -> Result<Option<String>, VerifyFailure> {
    let roots = roots(image);
    if roots.is_empty() {
        return Err(VerifyFailure::NotArchiso);
    }
    // Before the long part.
    let known: Vec<_> = roots.iter().map(|root| Known::of(image, root, policy)).collect::<Result<_, _>>()?;
    let mut name = None;
    for (root, known) in roots.iter().zip(known) {
        let digests = digests(image, root, &known, progress)?;
        name = known.verify(&digests, policy, &path(image, root))?;
    }
    Ok(name)
}

fn path(image: &Image, root: &Airootfs) -> String {
    String::from_utf8_lossy(&image.index.path(root.node)).escape_debug().to_string()
}

/// What a root file system is compared with.
struct Known {
    checksum: Checksum,
    signature: Option<DetachedSignature>,
}

impl Known {
    fn of(image: &Image, root: &Airootfs, policy: &VerifyPolicy) -> Result<Self, VerifyFailure> {
        let checksum = checksum::read(image, root).map_err(|error| match error {
            ChecksumError::Unread(error) => VerifyFailure::Unread(error),
            error => VerifyFailure::NoChecksum { root: path(image, root), error },
        })?;
        let signature = match &policy.certificates {
            None => None,
            Some(_) => Some(signature(image, root)?),
        };
        Ok(Self { checksum, signature })
    }

    fn verify(
        &self,
        digests: &Digests,
        policy: &VerifyPolicy,
        path: &str,
    ) -> Result<Option<String>, VerifyFailure> {
        if digests.of(Hash::Sha512) != Some(&self.checksum) {
            return Err(VerifyFailure::Damaged(path.to_owned()));
        }
        let signed = self.signature.as_ref().zip(policy.certificates.as_ref());
        signed.map(|(signature, trusted)| signer(signature, digests, trusted, path)).transpose()
    }
}

/// Reads the CMS signature of a root file system.
fn signature(image: &Image, root: &Airootfs) -> Result<DetachedSignature, VerifyFailure> {
    let file = root.cms_signature.ok_or_else(|| VerifyFailure::Unsigned(path(image, root)))?;
    let wrong = |error| VerifyFailure::Signature { path: signature_path(&path(image, root)), error };
    let bytes = image.read(file, cms::FILE_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => wrong(SignatureError::Malformed),
        _ => VerifyFailure::Unread(error),
    })?;
    DetachedSignature::parse(&bytes).map_err(wrong)
}

fn signer(
    signature: &DetachedSignature,
    digests: &Digests,
    trusted: &TrustedCertificates,
    path: &str,
) -> Result<String, VerifyFailure> {
    let signer = signature.verify(digests, trusted);
    let signer = signer.map_err(|error| VerifyFailure::Signature { path: signature_path(path), error })?;
    Ok(signer.name().to_owned())
}

/// Returns the path where mkarchiso puts the signature of a file.
fn signature_path(path: &str) -> String {
    format!("{path}.cms.sig")
}

/// Reads a root file system from start to end, once for all digests.
fn digests(
    image: &Image,
    root: &Airootfs,
    known: &Known,
    progress: Progress<'_>,
) -> Result<Digests, VerifyFailure> {
    let signed = known.signature.as_ref().map(DetachedSignature::digest);
    let mut hashers = Hashers::new([Hash::Sha512].into_iter().chain(signed));
    let file = QuietFile::of(&image.source).map_err(VerifyFailure::Unread)?;
    let mut buffer = vec![0; QuietFile::STEP];
    for &Extent { offset, len } in image.extents(root.node).unwrap_or_default() {
        let end = offset.saturating_add(len);
        let mut offset = offset;
        while offset < end {
            if progress.is_stopped.load(Ordering::Relaxed) {
                return Err(VerifyFailure::Stopped);
            }
            let step = (end - offset).min(buffer.len() as u64) as usize;
            let part = buffer.get_mut(..step).unwrap_or_default();
            let extent = Extent { offset, len: step as u64 };
            let part = image.source.with_blocks(extent, || file.read(part, offset));
            let part = part.map_err(VerifyFailure::Unread)?;
            hashers.update(part);
            offset += part.len() as u64;
            progress.read.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(hashers.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::arch::AirootfsFormat;
    use crate::image::{NodeId, samples};

    /// Looks for the checksum of a root file system in an image of 5,000 zeros.
    fn failure(checksum_file: Extent) -> VerifyFailure {
        let image = samples::image(5000, [Vec::new(), vec![checksum_file]]);
        let root = Airootfs {
            arch: "x86_64".to_owned(),
            node: NodeId(1),
            format: AirootfsFormat::Squashfs,
            size: 0,
            sha512: Some(NodeId(2)),
            md5: None,
            cms_signature: None,
            gpg_signature: None,
        };
        Known::of(&image, &root, &VerifyPolicy::default()).err().unwrap()
    }

    #[test]
    fn checksum_that_cannot_be_read_is_tried_again() {
        let unread = failure(Extent { offset: 4000, len: 2000 });
        assert!(matches!(unread, VerifyFailure::Unread(_)) && !unread.is_final(), "{unread}");
        for len in [4096, 4097] {
            let malformed = failure(Extent { offset: 0, len });
            assert!(malformed.is_final() && malformed.to_string().contains("is malformed"), "{malformed}");
        }
    }
}
