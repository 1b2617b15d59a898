//! The key and the certificate that boot programs are signed with.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::raw::RawValue;
use super::{Checker, ConfigError, value};
use crate::boot::UefiBy;
use crate::uki::sign::check_signable;
use crate::uki::{SigningPair, Stub};
use crate::x509::{Certificate, FILE_MAX, SigningKey};

const KEY: &str = "secure-boot-key";
const CERTIFICATE: &str = "secure-boot-certificate";

/// Permissions of everybody. Those of the group stay the operator's choice, and systemd's
/// credentials have a mask there.
const OTHERS: u32 = 0o007;

impl Checker<'_> {
    /// Returns the key of boot programs and its certificate; `None` if no key is named.
    pub(super) fn signing_pair(
        &self,
        uefi: UefiBy,
        stub: Option<&Stub>,
    ) -> Result<Option<SigningPair>, ConfigError> {
        let options = self.options;
        match (&options.secure_boot_key, &options.secure_boot_certificate) {
            (None, None) => Ok(None),
            (Some(key), None) => {
                Err(self.wrong(KEY, key, "needs `secure-boot-certificate`; give the certificate of this key"))
            }
            (None, Some(certificate)) => {
                Err(self.wrong(CERTIFICATE, certificate, "needs `secure-boot-key`; give the key of this certificate"))
            }
            (Some(key), Some(_)) if uefi == UefiBy::Ipxe => Err(self.wrong(
                KEY,
                key,
                "conflicts with `uefi = ipxe`, which loads a program that is not signed; remove one of the two",
            )),
            (Some(key), Some(certificate)) => self.pair(key, certificate, stub).map(Some),
        }
    }

    fn pair(
        &self,
        key: &RawValue,
        certificate: &RawValue,
        stub: Option<&Stub>,
    ) -> Result<SigningPair, ConfigError> {
        let read = self::key(&self.path(key)).map_err(|why| self.wrong(KEY, key, &why))?;
        let wrong = |why: String| self.wrong(CERTIFICATE, certificate, &why);
        let known = self::certificate(&self.path(certificate)).map_err(wrong)?;
        let pair = SigningPair::new(read, known).map_err(|why| wrong(why.to_string()))?;
        match (stub.map(check_signable), &self.options.stub) {
            (Some(Err(why)), Some(stub)) => Err(self.wrong("stub", stub, &why.to_string())),
            _ => Ok(pair),
        }
    }
}

/// Reads a key that not everybody can read or replace.
fn key(path: &Path) -> Result<SigningKey, String> {
    let unread = |error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unread)?;
    // Of the open file: the one at the path may be another one by now.
    let mode = file.metadata().map_err(unread)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(format!(
            "open to every user of this host (mode {:04o}); run `chmod o= FILE`",
            mode & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(unread)?;
    SigningKey::parse(&bytes).map_err(|why| why.to_string())
}

/// Reads a certificate.
///
/// # Errors
/// The reason in one line.
pub(crate) fn certificate(path: &Path) -> Result<Certificate, String> {
    Certificate::parse(&value::read(path, FILE_MAX)?).map_err(|why| why.to_string())
}
