use std::sync::{Arc, OnceLock};

use getrandom::SysRng;
use rsa::sha2::Sha256;
use rsa::{Pkcs1v15Sign, PrivateKey};
use sha2::Digest as _;

use super::*;
use crate::codec::Reader;
use crate::x509::der::{self, OCTET_STRING, SEQUENCE, SET};
use crate::x509::tests::{NAME, certificate, key};

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
