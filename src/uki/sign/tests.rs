use std::sync::{Arc, OnceLock};

use getrandom::SysRng;
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::sha2::Sha256;
use rsa::{Pkcs1v15Sign, PrivateKey};
use sha2::Digest as _;

use super::der::{OCTET_STRING, SEQUENCE, SET};
use super::key::KeyError;
use super::*;
use crate::codec::Reader;

const NAME: &str = "isowire test";

fn key() -> PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::new(&mut SysRng, 2048).unwrap()).clone()
}

fn certificate(key: PrivateKey) -> Certificate {
    Certificate::new(&SigningKey::of_new(key), NAME, "2026-11-29T00:00:00Z".parse().unwrap()).unwrap()
}

/// A signer with a key of its own, the same in each test.
pub(crate) fn signer() -> Arc<Signer> {
    static SIGNER: OnceLock<Arc<Signer>> = OnceLock::new();
    Arc::clone(SIGNER.get_or_init(|| Arc::new(new_signer())))
}

fn new_signer() -> Signer {
    Signer::new(pair(), |work| work())
}

pub(crate) fn pair() -> Arc<SigningPair> {
    Arc::new(SigningPair::new(SigningKey::of_new(key()), certificate(key())).unwrap())
}

#[test]
fn key_is_read_in_each_form() {
    let pkcs8 = key().to_pkcs8_der().unwrap();
    let pkcs1 = key().to_pkcs1_der().unwrap();
    let pem = key().to_pkcs8_pem(LineEnding::CRLF).unwrap();
    let old = key().to_pkcs1_pem(LineEnding::LF).unwrap();
    let after = ["Bag Attributes\n", &pair().certificate().pem(), &pem].concat();
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
    assert_eq!(error(pair().certificate().pem().as_bytes()), KeyError::NotRsa);
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

#[test]
fn certificate_of_another_key_is_refused() {
    let other = PrivateKey::new(&mut SysRng, 1024).unwrap();
    let error = SigningPair::new(SigningKey::of_new(key()), certificate(other)).unwrap_err();
    assert_eq!(error, PairError);
}

#[test]
fn table_is_one_padded_certificate_of_one_length() {
    let table = signer().table([7; 32]).unwrap();
    let len = u32::from_le_bytes(table[..4].try_into().unwrap()) as usize;
    assert_eq!(table[4..8], [0, 2, 2, 0], "revision 2.0, PKCS#7");
    assert_eq!(table.len(), len.next_multiple_of(8));
    assert!(table[len..].iter().all(|&byte| byte == 0));
    assert_eq!(table.len(), signer().table_len() as usize);
    let again = new_signer();
    assert_eq!(again.table([7; 32]).unwrap(), table, "the same each time, without a cache");
    assert_ne!(again.table([8; 32]).unwrap(), table);
}

/// The elements of `content`, one behind the other.
fn elements(content: &[u8]) -> Vec<der::Element<'_>> {
    let mut reader = Reader::new(content);
    let mut elements = Vec::new();
    while !reader.is_empty() {
        elements.push(der::next(&mut reader).unwrap());
    }
    elements
}

#[test]
fn signature_is_of_the_attributes_that_name_the_digest() {
    let table = signer().table([7; 32]).unwrap();
    let outer = der::expect(&mut Reader::new(&table[8..]), SEQUENCE).unwrap();
    let signed = elements(elements(outer.content)[1].content)[0];
    let [_version, _algorithms, content, certificates, signers] = elements(signed.content)[..] else {
        panic!()
    };
    assert_eq!(certificates.content, pair().certificate().der());
    let indirect = elements(elements(content.content)[1].content)[0];
    assert!(indirect.content.ends_with(&[&[OCTET_STRING, 32], &[7; 32][..]].concat()));
    let info = elements(elements(signers.content)[0].content);
    let [_version, _issuer, _digest, attributes, _rsa, signature] = info[..] else { panic!() };
    let digest = Sha256::digest(indirect.content);
    assert!(attributes.content.ends_with(&[&[OCTET_STRING, 32], &digest[..]].concat()));
    let set = Sha256::digest(der::element(SET, &[attributes.content]));
    let padding = Pkcs1v15Sign::new::<Sha256>();
    key().as_public_key().verify(padding, &set, signature.content).unwrap();
}

#[test]
fn signer_does_not_show_its_key() {
    assert_eq!(format!("{:?}", pair()), "SigningPair { name: \"isowire test\", .. }");
    assert!(format!("{:?}", signer()).contains("pair: SigningPair { name: \"isowire test\", .. }"));
    assert_eq!(pair().to_string(), NAME);
}
