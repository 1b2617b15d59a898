//! `isowire secure-boot new`: makes a key and a certificate for Secure Boot.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use getrandom::SysRng;
use jiff::Timestamp;
use rsa::PrivateKey;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use crate::x509::{Certificate, SigningKey};

/// Bits of a new key. All firmware takes 2048, and some only that.
const BITS: usize = 2048;

/// Common name in a new certificate.
const NAME: &str = "isowire Secure Boot";

const KEY: &str = "secure-boot.key";
const PEM: &str = "secure-boot.crt";
const DER: &str = "secure-boot.cer";

/// An error that ends the command with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum SecureBootError {
    #[error("{}: exists already, and machines may trust it; name another directory", .0.display())]
    Exists(PathBuf),
    #[error("{}: cannot be written: {error}", path.display())]
    Unwritten { path: PathBuf, error: io::Error },
    #[error("key not made: the system has no random numbers")]
    Random,
    #[error("report cannot be written: {0}")]
    Output(io::Error),
}

/// Makes a key and its certificate in `dir`, and says on `out` what to do with them.
///
/// # Errors
/// [`SecureBootError`]; a file that exists is never replaced.
pub fn new(dir: &Path, out: &mut impl Write) -> Result<(), SecureBootError> {
    let [key, pem, der] = [KEY, PEM, DER].map(|name| dir.join(name));
    if let Some(known) = [&key, &pem, &der].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(SecureBootError::Exists(known.clone()));
    }
    fs::create_dir_all(dir).map_err(|error| unwritten(dir, error))?;
    let private = PrivateKey::new(&mut SysRng, BITS).map_err(|_| SecureBootError::Random)?;
    let text = private.to_pkcs8_pem(LineEnding::LF).map_err(|_| SecureBootError::Random)?;
    let signing = SigningKey::of_new(private);
    let certificate = Certificate::new(&signing, NAME, Timestamp::now()).ok_or(SecureBootError::Random)?;
    write(&key, 0o600, text.as_bytes())?;
    write(&pem, 0o644, certificate.pem().as_bytes())?;
    write(&der, 0o644, certificate.der())?;
    report(&key, &pem, &der, &certificate, out).map_err(SecureBootError::Output)
}

/// Writes a file that does not exist yet.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), SecureBootError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(|error| unwritten(path, error))
}

fn unwritten(path: &Path, error: io::Error) -> SecureBootError {
    SecureBootError::Unwritten { path: path.to_owned(), error }
}

fn report(
    key: &Path,
    pem: &Path,
    der: &Path,
    certificate: &Certificate,
    out: &mut impl Write,
) -> io::Result<()> {
    let [key, pem, der] = [key, pem, der].map(Path::display);
    writeln!(out, "{key}: private key; whoever has it can start any program on machines that trust it")?;
    writeln!(out, "{pem}: its certificate")?;
    writeln!(out, "{der}: the same for firmware, to be added to db")?;
    writeln!(out, "SHA-256 {}", certificate.fingerprint_text())?;
    writeln!(out, "\nisowire serve --secure-boot-key {key} --secure-boot-certificate {pem} ...")
}
