//! Signatures for Secure Boot with the operator's own key.
//!
//! Firmware hashes a program in the order of its file, without the fields that a signature changes,
//! and compares the digest with the one that was signed. What is the same for all machines stands
//! first in our programs, so its hash is kept; a machine costs the hash of its command line and one
//! RSA operation.

mod authenticode;
mod cache;
mod signable;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::authenticode::IndirectData;
use self::cache::TableCache;
pub(crate) use self::signable::{UnsignableStubError, check_signable};
use crate::x509::{Certificate, SigningKey};

/// A key and its certificate, which tells firmware whose key it is.
pub struct SigningPair {
    key: SigningKey,
    certificate: Certificate,
}

/// Error: a key and a certificate that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificate of another key; give the certificate of `secure-boot-key`")]
pub(crate) struct PairError;

impl SigningPair {
    /// Joins a key and its certificate.
    ///
    /// # Errors
    /// [`PairError`] if the certificate is that of another key.
    pub(crate) fn new(key: SigningKey, certificate: Certificate) -> Result<Self, PairError> {
        if key.public_key().as_deref() != Some(&certificate.public_key) {
            return Err(PairError);
        }
        Ok(Self { key, certificate })
    }

    /// Returns the certificate.
    pub(crate) const fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

/// Without the key.
impl fmt::Debug for SigningPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningPair").field("name", &self.certificate.name()).finish_non_exhaustive()
    }
}

/// Writes the name in the certificate.
impl fmt::Display for SigningPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.certificate.name())
    }
}

/// Signs programs, and keeps the signatures of the last ones.
#[derive(Debug)]
pub struct Signer {
    pair: Arc<SigningPair>,
    table_len: u32,
    tables: TableCache,
    aside: Aside,
}

/// Runs work that takes milliseconds where it holds up no connection.
pub(crate) type Aside = fn(&mut dyn FnMut());

impl Signer {
    /// Makes a signer that signs by `aside`.
    pub(crate) fn new(pair: Arc<SigningPair>, aside: Aside) -> Self {
        let any = vec![0; pair.key.signature_len()];
        let table_len = IndirectData::new(&[0; 32]).table(&pair.certificate, &any).len() as u32;
        Self { pair, table_len, tables: TableCache::default(), aside }
    }

    /// Returns the length of a certificate table, in bytes: the same for all programs.
    pub(crate) const fn table_len(&self) -> u32 {
        self.table_len
    }

    /// Returns the key and its certificate.
    pub(crate) fn pair(&self) -> &SigningPair {
        &self.pair
    }

    /// Returns the certificate table of the program with this digest. `None` if the system has no
    /// random numbers.
    pub(crate) fn table(&self, program: [u8; 32]) -> Option<Bytes> {
        if let Some(table) = self.tables.get(&program) {
            return Some(table);
        }
        let mut table = None;
        (self.aside)(&mut || table = self.tables.get_or_insert(program, || self.sign(&program)));
        table
    }

    fn sign(&self, program: &[u8; 32]) -> Option<Bytes> {
        let data = IndirectData::new(program);
        let signature = self.pair.key.sign(&data.signed_digest())?;
        Some(data.table(&self.pair.certificate, &signature).into())
    }
}
