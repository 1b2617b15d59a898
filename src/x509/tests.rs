use std::sync::OnceLock;

use getrandom::SysRng;
use rsa::PrivateKey;
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::key::KeyError;
use super::*;

pub(crate) const NAME: &str = "isowire test";

pub(crate) fn key() -> PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut SysRng, 2048).unwrap()).clone()
}

pub(crate) fn certificate(key: PrivateKey) -> Certificate {
    Certificate::new(&SigningKey::of_new(key), NAME, "2026-11-29T00:00:00Z".parse().unwrap()).unwrap()
}

#[test]
fn key_is_read_in_each_form() {
    let pkcs8 = key().to_pkcs8_der().unwrap();
    let pkcs1 = key().to_pkcs1_der().unwrap();
    let pem = key().to_pkcs8_pem(LineEnding::CRLF).unwrap();
    let old = key().to_pkcs1_pem(LineEnding::LF).unwrap();
    let after = ["Bag Attributes\n", &certificate(key()).pem(), &pem].concat();
    for file in [pkcs8.as_bytes(), pkcs1.as_bytes(), pem.as_bytes(), old.as_bytes(), after.as_bytes()] {
        let read = SigningKey::parse(file).map_err(|error| error.to_string()).unwrap();
        assert_eq!(read.public_key(), SigningKey::of_new(key()).public_key());
    }
}

#[test]
fn key_that_cannot_sign_is_refused() {
    let error = |file: &[u8]| SigningKey::parse(file).map(|_| ()).unwrap_err();
    let small = PrivateKey::new(&mut SysRng, 1024).unwrap();
    assert_eq!(error(small.to_pkcs8_der().unwrap().as_bytes()), KeyError::Bits(1024));
    assert_eq!(error(b""), KeyError::NotRsa);
    assert_eq!(
        error(b"-----BEGIN EC PRIVATE KEY-----\nAQID\n-----END EC PRIVATE KEY-----\n"),
        KeyError::NotRsa
    );
    assert_eq!(error(certificate(key()).pem().as_bytes()), KeyError::NotRsa);
    let old = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAQID\n\
                -----END RSA PRIVATE KEY-----\n";
    assert_eq!(error(old), KeyError::Encrypted);
    // EncryptedPrivateKeyInfo begins with an algorithm.
    assert_eq!(error(&[0x30, 4, 0x30, 0, 4, 0]), KeyError::Encrypted);
    let whole = key().to_pkcs8_der().unwrap();
    for cut in (0..whole.as_bytes().len()).step_by(7) {
        assert_eq!(error(&whole.as_bytes()[..cut]), KeyError::NotRsa, "{cut}");
    }
}

#[test]
fn certificate_is_read_as_it_was_made() {
    let made = certificate(key());
    for file in [made.der().as_ref(), made.pem().as_bytes()] {
        let read = Certificate::parse(file).unwrap();
        assert_eq!((read.der(), read.name(), read.fingerprint()), (made.der(), NAME, made.fingerprint()));
        assert_eq!(Some(read.public_key), SigningKey::of_new(key()).public_key());
    }
    for cut in 0..made.der().len() {
        assert!(Certificate::parse(&made.der()[..cut]).is_err(), "{cut}");
    }
    assert!(Certificate::parse(&[made.der().as_ref(), b"\n"].concat()).is_err());
    assert!(Certificate::parse(key().to_pkcs8_der().unwrap().as_bytes()).is_err());
}
