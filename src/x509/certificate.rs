//! The certificate of the key that signs (X.509, RFC 5280): read, and made.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::algorithm::Hash;
use super::der::{
    self, BIT_STRING, BOOLEAN, GENERALIZED_TIME, INTEGER, Malformed, OBJECT_IDENTIFIER, OCTET_STRING,
    SEQUENCE, SET, UTC_TIME, UTF8_STRING, algorithm, context, element,
};
use super::key::SigningKey;
use super::oid::{self, COMMON_NAME, SHA256_WITH_RSA};
use super::pem;
use crate::codec::Reader;

/// Longest name that is shown, in characters.
const NAME_MAX: usize = 64;

/// Bit of `keyCertSign` in the first byte of `KeyUsage` (RFC 5280 §4.2.1.3).
const KEY_CERT_SIGN: u8 = 0x04;

/// The certificate of a key. Firmware trusts the key because it has the certificate; it looks at no
/// date.
#[derive(Clone)]
pub(crate) struct Certificate {
    der: Bytes,
    /// `Name`, with tag and length.
    pub(crate) issuer: Vec<u8>,
    /// `CertificateSerialNumber`, with tag and length.
    pub(crate) serial: Vec<u8>,
    /// `Name`, with tag and length.
    subject: Vec<u8>,
    /// `SubjectPublicKeyInfo`, with tag and length.
    pub(crate) public_key: Vec<u8>,
    extensions: Extensions,
    name: String,
    fingerprint: [u8; 32],
}

/// Extensions that tell what a certificate is for (RFC 5280 §4.2).
#[derive(Debug, Clone, Default)]
struct Extensions {
    is_authority: bool,
    /// First byte of the key usage, if it is limited.
    key_usage: Option<u8>,
    /// The extended key usage allows signatures of files; true if it is not limited.
    is_for_files: bool,
    key_identifier: Option<Vec<u8>>,
    /// There is a critical extension that is not understood.
    is_unknown: bool,
}

/// Shows the name only.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.name).finish()
    }
}

/// Error: no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate; expected one in PEM or DER")]
pub(crate) struct CertificateError;

impl From<Malformed> for CertificateError {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl Certificate {
    /// Reads a certificate in PEM or DER. In a PEM file the first one counts.
    ///
    /// # Errors
    /// [`CertificateError`] if there is none.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, CertificateError> {
        match pem::blocks(file).find(|block| block.label == b"CERTIFICATE") {
            Some(block) => Self::of_der(block.decode().ok_or(CertificateError)?),
            None => Self::of_der(file.to_vec()),
        }
    }

    pub(super) fn of_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        let mut file = Reader::new(&der);
        let certificate = der::expect(&mut file, SEQUENCE)?;
        if !file.is_empty() {
            return Err(CertificateError);
        }
        let signed = der::expect(&mut Reader::new(certificate.content), SEQUENCE)?;
        let mut fields = Reader::new(signed.content);
        let mut serial = der::next(&mut fields)?;
        // The version, which is not there in version 1 (RFC 5280 §4.1.2.1).
        if serial.tag == context(0) {
            serial = der::next(&mut fields)?;
        }
        if serial.tag != INTEGER {
            return Err(CertificateError);
        }
        let _algorithm = der::expect(&mut fields, SEQUENCE)?;
        let issuer = der::expect(&mut fields, SEQUENCE)?;
        let _validity = der::expect(&mut fields, SEQUENCE)?;
        let subject = der::expect(&mut fields, SEQUENCE)?;
        let public_key = der::expect(&mut fields, SEQUENCE)?;
        let extensions = Extensions::read(&mut fields)?;
        Ok(Self {
            subject: subject.whole.to_vec(),
            extensions,
            issuer: issuer.whole.to_vec(),
            serial: serial.whole.to_vec(),
            public_key: public_key.whole.to_vec(),
            name: shown_name(subject.content).unwrap_or_else(|| "a certificate without a name".to_owned()),
            fingerprint: Sha256::digest(&der).into(),
            der: der.into(),
        })
    }

    /// Makes the certificate of a new key, which the key itself signs. It has no extensions, as
    /// those of `sbctl`, and no end (RFC 5280 §4.1.2.5); its serial number is derived from the key.
    /// `None` if the key cannot sign.
    pub(crate) fn new(key: &SigningKey, name: &str, begin: Timestamp) -> Option<Self> {
        let public_key = key.public_key()?;
        let name = element(
            SEQUENCE,
            &[&element(
                SET,
                &[&element(
                    SEQUENCE,
                    &[&element(OBJECT_IDENTIFIER, &[COMMON_NAME]), &element(UTF8_STRING, &[name.as_bytes()])],
                )],
            )],
        );
        let validity = element(SEQUENCE, &[&time(begin), &element(GENERALIZED_TIME, &[b"99991231235959Z"])]);
        let signed = element(
            SEQUENCE,
            &[
                // Version 3.
                &element(context(0), &[&element(INTEGER, &[&[2]])]),
                &serial_number(&public_key),
                &algorithm(SHA256_WITH_RSA),
                &name,
                &validity,
                &name,
                &public_key,
            ],
        );
        let signature = key.sign(&Sha256::digest(&signed).into())?;
        let der = element(
            SEQUENCE,
            &[
                &signed,
                &algorithm(SHA256_WITH_RSA),
                // No bit of the last byte is unused.
                &element(BIT_STRING, &[&[0], &signature]),
            ],
        );
        Self::of_der(der).ok()
    }

    /// Returns the certificate as firmware wants it: DER.
    pub(crate) const fn der(&self) -> &Bytes {
        &self.der
    }

    /// Returns the certificate in PEM.
    pub(crate) fn pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// Returns the SHA-256 of the certificate.
    pub(crate) const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Returns the SHA-256 of the certificate as OpenSSL and firmware write it: `0A:1B:...`.
    pub(crate) fn fingerprint_text(&self) -> String {
        self.fingerprint.map(|byte| format!("{byte:02X}")).join(":")
    }

    /// Returns the identifier of the key, if it is there.
    pub(super) const fn key_identifier(&self) -> Option<&Vec<u8>> {
        self.extensions.key_identifier.as_ref()
    }

    /// Tells whether an issuer meant this certificate for signatures of files, or for anything.
    pub(super) const fn may_sign_code(&self) -> bool {
        self.extensions.is_for_files && !self.extensions.is_unknown
    }

    /// Tells whether this is an authority, and its key signed `other`.
    pub(super) fn has_issued(&self, other: &Certificate) -> bool {
        self.extensions.may_issue() && self.subject == other.issuer && self.has_signed(other).unwrap_or(false)
    }

    fn has_signed(&self, other: &Certificate) -> Result<bool, Malformed> {
        let outer = der::expect(&mut Reader::new(&other.der), SEQUENCE)?;
        let mut fields = Reader::new(outer.content);
        let signed = der::expect(&mut fields, SEQUENCE)?;
        let hash = Hash::of_signature(&der::expect(&mut fields, SEQUENCE)?, None)?.ok_or(Malformed)?;
        let signature = der::expect(&mut fields, BIT_STRING)?;
        // The first byte is the number of unused bits.
        let signature = signature.content.strip_prefix(&[0]).ok_or(Malformed)?;
        Ok(hash.is_signed(&hash.digest(signed.whole), &self.public_key, signature))
    }

    /// Returns the name of the subject, printable.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Extensions {
    /// Reads the rest of a certificate after its key: two unique identifiers that nobody uses, and
    /// the extensions.
    fn read(fields: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut read = Self { is_for_files: true, ..Self::default() };
        while !fields.is_empty() {
            let field = der::next(fields)?;
            if field.tag == context(3) {
                let list = der::expect(&mut Reader::new(field.content), SEQUENCE)?;
                let mut list = Reader::new(list.content);
                while !list.is_empty() {
                    read.take(der::expect(&mut list, SEQUENCE)?.content)?;
                }
            }
        }
        Ok(read)
    }

    /// Reads `Extension` (RFC 5280 §4.1).
    fn take(&mut self, extension: &[u8]) -> Result<(), Malformed> {
        let mut extension = Reader::new(extension);
        let kind = der::expect(&mut extension, OBJECT_IDENTIFIER)?;
        let mut value = der::next(&mut extension)?;
        let mut is_critical = false;
        if value.tag == BOOLEAN {
            is_critical = value.content != [0];
            value = der::next(&mut extension)?;
        }
        if value.tag != OCTET_STRING {
            return Err(Malformed);
        }
        let mut value = Reader::new(value.content);
        match kind.content {
            oid::BASIC_CONSTRAINTS => {
                let constraints = der::expect(&mut value, SEQUENCE)?;
                let flag = der::next(&mut Reader::new(constraints.content));
                self.is_authority = flag.is_ok_and(|flag| flag.tag == BOOLEAN && flag.content != [0]);
            }
            oid::KEY_USAGE => {
                // The first byte is the number of unused bits.
                let bits = der::expect(&mut value, BIT_STRING)?.content;
                self.key_usage = Some(bits.get(1).copied().unwrap_or(0));
            }
            oid::EXTENDED_KEY_USAGE => {
                let list = der::expect(&mut value, SEQUENCE)?;
                let mut list = Reader::new(list.content);
                let kinds = [oid::CODE_SIGNING, oid::EMAIL_PROTECTION, oid::ANY_USAGE];
                let mut uses = std::iter::from_fn(|| der::expect(&mut list, OBJECT_IDENTIFIER).ok());
                self.is_for_files = uses.any(|usage| kinds.contains(&usage.content));
            }
            oid::SUBJECT_KEY_IDENTIFIER => {
                self.key_identifier = Some(der::expect(&mut value, OCTET_STRING)?.content.to_vec());
            }
            _ => self.is_unknown |= is_critical,
        }
        Ok(())
    }

    /// Tells whether this is the certificate of an authority (RFC 5280 §4.2.1.9 and §4.2.1.3).
    fn may_issue(&self) -> bool {
        self.is_authority && !self.is_unknown && self.key_usage.is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
    }
}

/// The positive integer of 16 bytes that stands for a key (RFC 5280 §4.1.2.2).
fn serial_number(public_key: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(public_key);
    let bytes = digest.iter().take(16).enumerate();
    // The first bit would be a sign, and the second one is set so that the number has 16 bytes.
    let bytes: Vec<u8> = bytes.map(|(at, &byte)| if at == 0 { byte & 0x7f | 0x40 } else { byte }).collect();
    element(INTEGER, &[&bytes])
}

/// RFC 5280 §4.1.2.5: from 2050 on the year has four digits.
fn time(at: Timestamp) -> Vec<u8> {
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    match text.strip_prefix("20").filter(|rest| rest < &"50") {
        Some(rest) => element(UTC_TIME, &[rest.as_bytes()]),
        None => element(GENERALIZED_TIME, &[text.as_bytes()]),
    }
}

/// The last common name in a `Name` (RFC 5280 §4.1.2.4), else the last name of any kind, without
/// what a terminal might obey.
fn shown_name(name: &[u8]) -> Option<String> {
    let mut sets = Reader::new(name);
    let (mut common, mut last) = (None, None);
    while let Ok(set) = der::expect(&mut sets, SET) {
        let attribute = der::expect(&mut Reader::new(set.content), SEQUENCE).ok()?;
        let mut attribute = Reader::new(attribute.content);
        let kind = der::expect(&mut attribute, OBJECT_IDENTIFIER).ok()?;
        let value = der::next(&mut attribute).ok()?;
        last = Some(value.content);
        common = last.filter(|_| kind.content == COMMON_NAME).or(common);
    }
    let text = String::from_utf8_lossy(common.or(last)?);
    Some(text.chars().take(NAME_MAX).map(|c| if c.is_control() { '?' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn year_has_two_digits_until_2050() {
        let at = |text: &str| time(text.parse().unwrap());
        assert_eq!(at("2026-11-29T10:11:12Z"), [&[UTC_TIME, 13], &b"261129101112Z"[..]].concat());
        assert_eq!(at("2050-01-01T00:00:00Z"), [&[GENERALIZED_TIME, 15], &b"20500101000000Z"[..]].concat());
        assert_eq!(at("1970-01-01T00:00:00Z"), [&[GENERALIZED_TIME, 15], &b"19700101000000Z"[..]].concat());
    }

    #[test]
    fn serial_number_is_positive_and_of_one_length() {
        for key in 0..200u8 {
            let number = serial_number(&[key]);
            assert_eq!(
                (number.len(), number[0], number[1], number[2] >> 6),
                (18, INTEGER, 16, 1),
                "{}",
                hex(&number)
            );
        }
    }

    #[test]
    fn name_is_the_last_common_name_without_control_characters() {
        let attribute = |kind: &[u8], value: &[u8]| {
            element(
                SET,
                &[&element(
                    SEQUENCE,
                    &[&element(OBJECT_IDENTIFIER, &[kind]), &element(UTF8_STRING, &[value])],
                )],
            )
        };
        let name = [attribute(COMMON_NAME, b"a\x1b[2J\xff"), attribute(&[0x55, 4, 6], b"XX")].concat();
        assert_eq!(shown_name(&name).unwrap(), "a?[2J\u{fffd}");
        assert_eq!(shown_name(&attribute(&[0x55, 4, 10], b"org")).as_deref(), Some("org"));
        assert_eq!(shown_name(b""), None);
        let long = attribute(COMMON_NAME, &[b'x'; 300]);
        assert_eq!(shown_name(&long).unwrap().len(), NAME_MAX);
        for cut in 0..name.len() {
            shown_name(&name[..cut]);
        }
    }
}
