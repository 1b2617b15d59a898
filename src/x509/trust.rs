//! The certificates that the operator trusts, and what they have issued.

use sha2::{Digest as _, Sha256};

use super::certificate::{Certificate, CertificateError};
use super::pem;

/// Most certificates between a signer and one that is trusted.
const DEPTH_MAX: usize = 4;

/// Certificates of a file: those of signers, and those of authorities.
///
/// Dates are not looked at, as firmware does with Secure Boot: a signature of mkarchiso has no date,
/// and an image does not change when a certificate expires.
#[derive(Debug, Clone)]
pub(crate) struct TrustedCertificates(Vec<Certificate>);

impl TrustedCertificates {
    /// Reads the certificates of a file: one or more in PEM, or one in DER.
    ///
    /// # Errors
    /// [`CertificateError`] if there is none, or a bad one.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, CertificateError> {
        let blocks = pem::blocks(file).filter(|block| block.label == b"CERTIFICATE");
        let read = blocks.map(|block| Certificate::of_der(block.decode().ok_or(CertificateError)?));
        let certificates: Vec<_> = read.collect::<Result<_, _>>()?;
        if certificates.is_empty() {
            return Ok(Self(vec![Certificate::parse(file)?]));
        }
        Ok(Self(certificates))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter()
    }

    /// Returns a digest that tells two sets of certificates apart.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let fingerprints: Vec<_> = self.0.iter().map(|certificate| *certificate.fingerprint()).collect();
        Sha256::digest(fingerprints.concat()).into()
    }

    /// Tells whether an authority of ours issued this certificate of a signer, directly or by way
    /// of authorities among `others`.
    pub(super) fn has_issued(&self, signer: &Certificate, others: &[Certificate]) -> bool {
        signer.may_sign_code() && self.reaches(signer, others, DEPTH_MAX)
    }

    fn reaches(&self, certificate: &Certificate, others: &[Certificate], depth: usize) -> bool {
        self.iter().any(|authority| authority.has_issued(certificate))
            || depth > 0
                && others.iter().any(|authority| {
                    authority.has_issued(certificate) && self.reaches(authority, others, depth - 1)
                })
    }
}
