//! Properties of certificates and signatures.

use crate::x509::cms::DetachedSignature;
use crate::x509::{Hashers, TrustedCertificates};

/// Content of which the seeds have signatures.
const CONTENT: &[u8] = b"content\n";

/// Checks that certificates and a signature are read or refused, whatever their bytes, and that a
/// signature that counts for one file does not count for another. The input is two bytes of the
/// length of the certificates, these, and the signature.
pub fn cms_signature(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
    let (certificates, signature) = rest.split_at(len);
    let (trusted, signature) =
        (TrustedCertificates::parse(certificates), DetachedSignature::parse(signature));
    let (Ok(trusted), Ok(signature)) = (trusted, signature) else { return };
    let verify = |content: &[u8]| {
        let mut hashers = Hashers::new([signature.digest()]);
        hashers.update(content);
        signature.verify(&hashers.finish(), &trusted).is_ok()
    };
    assert!(!(verify(CONTENT) && verify(b"other")), "a signature of two files");
}
