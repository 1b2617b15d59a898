//! Keys, certificates and signatures: RSA keys, X.509 certificates (RFC 5280), and detached CMS
//! signatures (RFC 5652) as mkarchiso makes them. Pure.

mod algorithm;
mod certificate;
pub(crate) mod cms;
pub(crate) mod der;
mod key;
pub(crate) mod oid;
mod pem;
#[cfg(test)]
pub(crate) mod tests;
mod trust;

pub(crate) use algorithm::{Digests, Hash, Hashers};
pub(crate) use certificate::Certificate;
pub(crate) use key::SigningKey;
pub(crate) use trust::TrustedCertificates;

/// Longest key file and certificate file that are read, in bytes.
pub(crate) const FILE_MAX: u64 = 64 << 10;
