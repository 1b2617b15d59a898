//! SHA-256 and its HMAC, by which requests of S3 are signed (AWS Signature Version 4).

use hmac::{Hmac, KeyInit as _, Mac as _};
use object_store::client::{
    CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, Signer, SigningAlgorithm,
};
use object_store::{Error, Result};
use sha2::{Digest as _, Sha256};

/// Length of a digest, in bytes.
const LEN: usize = 32;

/// Cryptography in pure Rust for `object_store`.
#[derive(Debug)]
pub(super) struct Signing;

impl CryptoProvider for Signing {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => Ok(Box::new(Hashing { hash: Sha256::new(), digest: [0; LEN] })),
            _ => Err(unknown()),
        }
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>> {
        match algorithm {
            DigestAlgorithm::Sha256 => {
                let mac = Hmac::new_from_slice(secret).map_err(|_| unknown())?;
                Ok(Box::new(Authenticating { mac, tag: [0; LEN] }))
            }
            _ => Err(unknown()),
        }
    }

    // Signatures by RSA are Google's.
    fn sign(&self, _: SigningAlgorithm, _: &[u8]) -> Result<Box<dyn Signer>> {
        Err(unknown())
    }
}

fn unknown() -> Error {
    Error::NotSupported { source: "unknown algorithm of a signature".into() }
}

struct Hashing {
    hash: Sha256,
    digest: [u8; LEN],
}

impl DigestContext for Hashing {
    fn update(&mut self, data: &[u8]) {
        self.hash.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.digest = self.hash.clone().finalize().into();
        Ok(&self.digest)
    }
}

struct Authenticating {
    mac: Hmac<Sha256>,
    tag: [u8; LEN],
}

impl HmacContext for Authenticating {
    fn update(&mut self, data: &[u8]) {
        self.mac.update(data);
    }

    fn finish(&mut self) -> Result<&[u8]> {
        self.tag = self.mac.clone().finalize().into_bytes().into();
        Ok(&self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_and_hmac_have_known_values() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut digest = Signing.digest(DigestAlgorithm::Sha256).unwrap();
        digest.update(b"ab");
        digest.update(b"c");
        assert!(hex(digest.finish().unwrap()).starts_with("ba7816bf8f01cfea414140de5dae2223"));
        // RFC 4231, test case 2.
        let mut hmac = Signing.hmac(DigestAlgorithm::Sha256, b"Jefe").unwrap();
        hmac.update(b"what do ya want for nothing?");
        assert!(hex(hmac.finish().unwrap()).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }
}
