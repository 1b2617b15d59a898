//! Detached CMS signatures (RFC 5652), as `openssl cms -sign -binary -outform DER` makes them.
//!
//! mkarchiso signs the root file system with `-nocerts -noattr`: the signature names its signer and
//! holds no certificate of it. Certificates and signed attributes are understood too.

use super::algorithm::{Digests, Hash};
use super::certificate::Certificate;
use super::der::{
    self, Element, INTEGER, Malformed, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, context, element,
};
use super::oid;
use super::trust::TrustedCertificates;
use crate::codec::Reader;

/// Longest signature file that is read, in bytes: some certificates.
pub(crate) const FILE_MAX: u64 = 64 << 10;

/// Most certificates in a signature that are looked at.
const CERTIFICATES_MAX: usize = 8;

/// Primitive `[0]`: a `SubjectKeyIdentifier` in place of issuer and serial number (RFC 5652 §5.3).
const KEY_IDENTIFIER: u8 = 0x80;

/// A detached signature with one signer.
#[derive(Debug)]
pub(crate) struct DetachedSignature {
    signer: Signer,
    digest: Hash,
    /// Signed attributes without tag and length, if there are any.
    attributes: Option<SignedAttributes>,
    /// Hash function of the RSA signature.
    hash: Hash,
    signature: Vec<u8>,
    certificates: Vec<Certificate>,
}

/// Identification of a signer's certificate.
#[derive(Debug, PartialEq, Eq)]
enum Signer {
    /// `issuer` and `serialNumber`, each with tag and length.
    Serial {
        issuer: Vec<u8>,
        serial: Vec<u8>,
    },
    KeyIdentifier(Vec<u8>),
}

#[derive(Debug)]
struct SignedAttributes {
    content: Vec<u8>,
    message_digest: Vec<u8>,
}

/// Error of a signature that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("is not a CMS signature in DER")]
    Malformed,
    #[error("holds the signed file itself; expected a detached signature")]
    NotDetached,
    #[error("has several signers; expected one")]
    SeveralSigners,
    #[error(
        "is of a kind that is not supported; expected RSA (PKCS #1 v1.5) with SHA-256, SHA-384 or SHA-512"
    )]
    Unsupported,
    #[error("is of a signer whose certificate is neither given nor issued by one that is")]
    UnknownSigner,
    #[error("is not of this file: one of them was altered")]
    Altered,
}

impl From<Malformed> for SignatureError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<crate::codec::Truncated> for SignatureError {
    fn from(_: crate::codec::Truncated) -> Self {
        Self::Malformed
    }
}

impl DetachedSignature {
    /// Parses a `ContentInfo` that holds `SignedData` (RFC 5652 §3 and §5.1).
    ///
    /// # Errors
    /// [`SignatureError`], except for those of [`DetachedSignature::verify`].
    pub(crate) fn parse(file: &[u8]) -> Result<Self, SignatureError> {
        let mut file = Reader::new(file);
        let outer = der::expect(&mut file, SEQUENCE)?;
        let mut outer = Reader::new(outer.content);
        let kind = der::expect(&mut outer, OBJECT_IDENTIFIER)?;
        if kind.content != oid::SIGNED_DATA || !file.is_empty() {
            return Err(SignatureError::Malformed);
        }
        let data = der::expect(&mut outer, context(0))?;
        let data = der::expect(&mut Reader::new(data.content), SEQUENCE)?;
        let mut fields = Reader::new(data.content);
        let _version = der::expect(&mut fields, INTEGER)?;
        let _digests = der::expect(&mut fields, SET)?;
        let content = der::expect(&mut fields, SEQUENCE)?;
        is_detached(&content)?;
        let mut next = der::next(&mut fields)?;
        let mut certificates = Vec::new();
        if next.tag == context(0) {
            certificates = read_certificates(&next);
            next = der::next(&mut fields)?;
        }
        // Lists of revoked certificates.
        if next.tag == context(1) {
            next = der::next(&mut fields)?;
        }
        if next.tag != SET {
            return Err(SignatureError::Malformed);
        }
        let mut signers = Reader::new(next.content);
        let signer = der::expect(&mut signers, SEQUENCE)?;
        if !signers.is_empty() {
            return Err(SignatureError::SeveralSigners);
        }
        Self::of_signer_info(&signer, certificates)
    }

    /// Reads `SignerInfo` (RFC 5652 §5.3).
    fn of_signer_info(info: &Element<'_>, certificates: Vec<Certificate>) -> Result<Self, SignatureError> {
        let mut fields = Reader::new(info.content);
        let _version = der::expect(&mut fields, INTEGER)?;
        let signer = read_signer(&der::next(&mut fields)?)?;
        let digest = Hash::of_digest(&der::expect(&mut fields, SEQUENCE)?)?;
        let mut next = der::next(&mut fields)?;
        let mut attributes = None;
        if next.tag == context(0) {
            attributes = Some(SignedAttributes::read(&next)?);
            next = der::next(&mut fields)?;
        }
        let hash = Hash::of_signature(&next, digest)?;
        let signature = der::expect(&mut fields, OCTET_STRING)?.content.to_vec();
        let (Some(digest), Some(hash)) = (digest, hash) else { return Err(SignatureError::Unsupported) };
        // Without attributes, the digest of the file itself is signed.
        if attributes.is_none() && digest != hash {
            return Err(SignatureError::Unsupported);
        }
        Ok(Self { signer, digest, attributes, hash, signature, certificates })
    }

    /// Returns the hash function by which the file is digested.
    pub(crate) const fn digest(&self) -> Hash {
        self.digest
    }

    /// Verifies that a trusted signer signed the file with these digests. Returns its certificate.
    ///
    /// # Errors
    /// `UnknownSigner`, `Altered`
    pub(crate) fn verify<'a>(
        &'a self,
        digests: &Digests,
        trusted: &'a TrustedCertificates,
    ) -> Result<&'a Certificate, SignatureError> {
        let given = trusted.iter().find(|certificate| self.signer.is(certificate));
        let issued = || {
            let own = self.certificates.iter().find(|certificate| self.signer.is(certificate))?;
            trusted.has_issued(own, &self.certificates).then_some(own)
        };
        let signer = given.or_else(issued).ok_or(SignatureError::UnknownSigner)?;
        let digest = digests.of(self.digest).ok_or(SignatureError::Altered)?;
        let signed = match &self.attributes {
            None => digest.to_vec(),
            Some(attributes) if attributes.message_digest == digest => self.hash.digest(&attributes.set()),
            Some(_) => return Err(SignatureError::Altered),
        };
        if !self.hash.is_signed(&signed, &signer.public_key, &self.signature) {
            return Err(SignatureError::Altered);
        }
        Ok(signer)
    }
}

/// Checks `EncapsulatedContentInfo` (RFC 5652 §5.2), which has no content in a detached signature.
fn is_detached(content: &Element<'_>) -> Result<(), SignatureError> {
    let mut content = Reader::new(content.content);
    let kind = der::expect(&mut content, OBJECT_IDENTIFIER)?;
    match (kind.content, content.is_empty()) {
        (oid::DATA, true) => Ok(()),
        (_, false) => Err(SignatureError::NotDetached),
        _ => Err(SignatureError::Unsupported),
    }
}

/// Reads `CertificateSet` (RFC 5652 §10.2.3). Other kinds of certificates in it are passed over.
fn read_certificates(set: &Element<'_>) -> Vec<Certificate> {
    let mut set = Reader::new(set.content);
    let elements = std::iter::from_fn(|| der::next(&mut set).ok()).take(CERTIFICATES_MAX);
    elements.filter_map(|element| Certificate::of_der(element.whole.to_vec()).ok()).collect()
}

/// Reads `SignerIdentifier` (RFC 5652 §5.3).
fn read_signer(identifier: &Element<'_>) -> Result<Signer, Malformed> {
    match identifier.tag {
        SEQUENCE => {
            let mut fields = Reader::new(identifier.content);
            let issuer = der::expect(&mut fields, SEQUENCE)?.whole.to_vec();
            Ok(Signer::Serial { issuer, serial: der::expect(&mut fields, INTEGER)?.whole.to_vec() })
        }
        KEY_IDENTIFIER => Ok(Signer::KeyIdentifier(identifier.content.to_vec())),
        _ => Err(Malformed),
    }
}

impl Signer {
    fn is(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Serial { issuer, serial } => *issuer == certificate.issuer && *serial == certificate.serial,
            Self::KeyIdentifier(identifier) => certificate.key_identifier() == Some(identifier),
        }
    }
}

impl SignedAttributes {
    /// Reads `SignedAttributes` (RFC 5652 §5.3 and §11), which has a content type and a digest.
    fn read(attributes: &Element<'_>) -> Result<Self, Malformed> {
        let (mut list, mut message_digest, mut is_data) = (Reader::new(attributes.content), None, false);
        while !list.is_empty() {
            let attribute = der::expect(&mut list, SEQUENCE)?;
            let mut attribute = Reader::new(attribute.content);
            let kind = der::expect(&mut attribute, OBJECT_IDENTIFIER)?;
            let values = der::expect(&mut attribute, SET)?;
            let mut values = Reader::new(values.content);
            match kind.content {
                oid::MESSAGE_DIGEST if message_digest.is_none() => {
                    message_digest = Some(der::expect(&mut values, OCTET_STRING)?.content.to_vec());
                }
                // RFC 5652 §11.2: each is there once.
                oid::MESSAGE_DIGEST => return Err(Malformed),
                oid::CONTENT_TYPE => {
                    is_data = der::expect(&mut values, OBJECT_IDENTIFIER)?.content == oid::DATA;
                }
                _ => {}
            }
        }
        let message_digest = message_digest.filter(|_| is_data).ok_or(Malformed)?;
        Ok(Self { content: attributes.content.to_vec(), message_digest })
    }

    /// The attributes in the form that is signed: as a SET, though the signature has another tag
    /// there (RFC 5652 §5.4).
    fn set(&self) -> Vec<u8> {
        element(SET, &[&self.content])
    }
}
