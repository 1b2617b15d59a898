//! Hash functions and RSA signatures (RSASSA-PKCS1-v1_5, RFC 8017 §8.2) that are understood.

use rsa::PublicKey;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::traits::PublicKeyParts as _;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::der::{self, Element, Malformed, OBJECT_IDENTIFIER};
use super::oid;
use crate::codec::Reader;

/// Shortest and longest RSA modulus that is accepted, in bits.
const BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Hash function of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Reads the `AlgorithmIdentifier` of a hash function; `None` for another one.
    pub(super) fn of_digest(algorithm: &Element<'_>) -> Result<Option<Self>, Malformed> {
        let kind = der::expect(&mut Reader::new(algorithm.content), OBJECT_IDENTIFIER)?;
        Ok(match kind.content {
            oid::SHA256 => Some(Self::Sha256),
            oid::SHA384 => Some(Self::Sha384),
            oid::SHA512 => Some(Self::Sha512),
            _ => None,
        })
    }

    /// Reads the `AlgorithmIdentifier` of an RSA signature. `digest` is the hash function where
    /// the signature names none (RFC 3370 §3.2); `None` for another signature.
    pub(super) fn of_signature(
        algorithm: &Element<'_>,
        digest: Option<Self>,
    ) -> Result<Option<Self>, Malformed> {
        let kind = der::expect(&mut Reader::new(algorithm.content), OBJECT_IDENTIFIER)?;
        Ok(match kind.content {
            oid::RSA => digest,
            oid::SHA256_WITH_RSA => Some(Self::Sha256),
            oid::SHA384_WITH_RSA => Some(Self::Sha384),
            oid::SHA512_WITH_RSA => Some(Self::Sha512),
            _ => None,
        })
    }

    /// Hashes bytes in memory.
    pub(super) fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    /// Tells whether the key in `public_key`, a `SubjectPublicKeyInfo`, signed this digest.
    pub(super) fn is_signed(self, digest: &[u8], public_key: &[u8], signature: &[u8]) -> bool {
        // It fails for other keys than RSA.
        let Ok(key) = PublicKey::from_public_key_der(public_key) else { return false };
        BITS.contains(&key.n().bit_width_vartime())
            && match self {
                Self::Sha256 => key.pkcs1v15_verify_prehash::<Sha256>(digest, signature),
                Self::Sha384 => key.pkcs1v15_verify_prehash::<Sha384>(digest, signature),
                Self::Sha512 => key.pkcs1v15_verify_prehash::<Sha512>(digest, signature),
            }
            .is_ok()
    }
}

/// Hashes a file by several functions in one pass.
#[derive(Default)]
pub(crate) struct Hashers {
    sha256: Option<Sha256>,
    sha384: Option<Sha384>,
    sha512: Option<Sha512>,
}

/// Digests of a file by the functions that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    sha256: Option<Vec<u8>>,
    sha384: Option<Vec<u8>>,
    sha512: Option<Vec<u8>>,
}

impl Hashers {
    pub(crate) fn new(wanted: impl IntoIterator<Item = Hash>) -> Self {
        let mut hashers = Self::default();
        for hash in wanted {
            match hash {
                Hash::Sha256 => hashers.sha256 = Some(Sha256::new()),
                Hash::Sha384 => hashers.sha384 = Some(Sha384::new()),
                Hash::Sha512 => hashers.sha512 = Some(Sha512::new()),
            }
        }
        hashers
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sha256.iter_mut().for_each(|hasher| hasher.update(bytes));
        self.sha384.iter_mut().for_each(|hasher| hasher.update(bytes));
        self.sha512.iter_mut().for_each(|hasher| hasher.update(bytes));
    }

    pub(crate) fn finish(self) -> Digests {
        Digests {
            sha256: self.sha256.map(|hasher| hasher.finalize().to_vec()),
            sha384: self.sha384.map(|hasher| hasher.finalize().to_vec()),
            sha512: self.sha512.map(|hasher| hasher.finalize().to_vec()),
        }
    }
}

impl Digests {
    /// Returns the digest by this function, if it was asked for.
    pub(crate) fn of(&self, hash: Hash) -> Option<&[u8]> {
        match hash {
            Hash::Sha256 => self.sha256.as_deref(),
            Hash::Sha384 => self.sha384.as_deref(),
            Hash::Sha512 => self.sha512.as_deref(),
        }
    }
}
