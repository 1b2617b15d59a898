//! The verification of images before they are offered.

use super::{Checker, ConfigError, value};
use crate::images::VerifyPolicy;
use crate::x509::{FILE_MAX, TrustedCertificates};

const CERTIFICATE: &str = "verify-certificate";

impl Checker<'_> {
    /// Returns what images are verified by; `None` if they are not.
    pub(super) fn verify(&self) -> Result<Option<VerifyPolicy>, ConfigError> {
        let verify = self.read("verify", &self.options.verify, value::truth)?;
        let Some(certificate) = &self.options.verify_certificate else {
            return Ok((verify == Some(true)).then(VerifyPolicy::default));
        };
        if verify == Some(false) {
            return Err(self.wrong(
                CERTIFICATE,
                certificate,
                "conflicts with `verify = false`; remove one of the two",
            ));
        }
        let read = value::read(&self.path(certificate), FILE_MAX)
            .and_then(|file| TrustedCertificates::parse(&file).map_err(|why| why.to_string()));
        let certificates = read.map_err(|why| self.wrong(CERTIFICATE, certificate, &why))?;
        Ok(Some(VerifyPolicy { certificates: Some(certificates) }))
    }
}
