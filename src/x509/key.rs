//! The private key that signs, as key files have it.

use rsa::PrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use rsa::sha2::Sha256;
use rsa::traits::PublicKeyParts as _;

use super::der::{self, INTEGER, SEQUENCE};
use super::pem;
use crate::codec::Reader;

/// Shortest and longest RSA modulus, in bits: firmware takes 2048 and more, and a longer one than
/// 4096 takes 20 ms for each machine.
const BITS: std::ops::RangeInclusive<u32> = 2048..=4096;

/// An RSA key.
pub(crate) struct SigningKey(PrivateKey);

/// Error: no key to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("encrypted key; decrypt it with `openssl pkey -in FILE -out NEW`, and `chmod 600 NEW`")]
    Encrypted,
    #[error("not an RSA private key; expected PKCS#8 or PKCS#1, in PEM or DER")]
    NotRsa,
    #[error("RSA key of {0} bits; firmware takes 2048 to 4096, make one with `isowire secure-boot new DIR`")]
    Bits(u32),
}

impl SigningKey {
    /// Reads a key in PEM or DER, PKCS#8 (RFC 5958) or PKCS#1 (RFC 8017 appendix A.1.2). In a PEM
    /// file the first key counts.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with it.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let block = pem::blocks(file).find(|block| block.label.ends_with(b"PRIVATE KEY"));
        let key = match block {
            Some(block) if block.has_encryption_header() => return Err(KeyError::Encrypted),
            Some(block) => of_der(&block.decode().ok_or(KeyError::NotRsa)?),
            None => of_der(file),
        }?;
        let bits = key.n().bit_width_vartime();
        if BITS.contains(&bits) { Ok(Self(key)) } else { Err(KeyError::Bits(bits)) }
    }

    /// Takes a key that was just made.
    pub(crate) const fn of_new(key: PrivateKey) -> Self {
        Self(key)
    }

    /// Returns the public key as certificates have it: `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7),
    /// in DER.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        self.0.as_public_key().to_public_key_der().ok().map(rsa::pkcs8::Document::into_vec)
    }

    /// Returns the length of a signature, in bytes.
    pub(crate) fn signature_len(&self) -> usize {
        self.0.size()
    }

    /// Signs a digest by RSASSA-PKCS1-v1_5 (RFC 8017 §8.2): the same signature each time. `None` if
    /// the system has no random numbers to blind the operation with.
    pub(crate) fn sign(&self, digest: &[u8; 32]) -> Option<Vec<u8>> {
        self.0.pkcs1v15_sign_prehash::<Sha256>(digest).ok()
    }
}

fn of_der(der: &[u8]) -> Result<PrivateKey, KeyError> {
    if is_encrypted(der) {
        return Err(KeyError::Encrypted);
    }
    PrivateKey::from_pkcs8_der(der).or_else(|_| PrivateKey::from_pkcs1_der(der)).map_err(|_| KeyError::NotRsa)
}

/// Returns true for an `EncryptedPrivateKeyInfo` (RFC 5958 §3): unlike a key, it does not begin
/// with a version.
fn is_encrypted(der: &[u8]) -> bool {
    let outer = der::expect(&mut Reader::new(der), SEQUENCE);
    let first = outer.and_then(|outer| der::next(&mut Reader::new(outer.content)));
    first.is_ok_and(|first| first.tag != INTEGER)
}
