//! The signature of a PE program ("Windows Authenticode Portable Executable Signature Format",
//! 2008, and the UEFI Specification 2.10 §32.2.4): a certificate table behind its sections.
//!
//! The table holds PKCS#7 SignedData (RFC 2315 §9) over a digest of the program. There is no
//! signing time in it, so that a program has the same bytes each time.

use sha2::{Digest as _, Sha256};

use crate::x509::Certificate;
use crate::x509::der::{
    BIT_STRING, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, SET, algorithm, context, element,
};
use crate::x509::oid::{CONTENT_TYPE, MESSAGE_DIGEST, RSA, SHA256, SIGNED_DATA};

/// `SPC_INDIRECT_DATA_OBJID` (1.3.6.1.4.1.311.2.1.4)
const INDIRECT_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
/// `SPC_PE_IMAGE_DATAOBJ` (1.3.6.1.4.1.311.2.1.15)
const PE_IMAGE: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];

/// `WIN_CERT_REVISION_2_0`
const REVISION: u16 = 0x0200;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`
const PKCS_SIGNED_DATA: u16 = 0x0002;
/// Bytes of a `WIN_CERTIFICATE` before the signature.
const HEADER: usize = 8;
/// Certificates in the table begin at a multiple of it.
const ALIGNMENT: usize = 8;

/// A program's digest in the form that is signed.
pub(super) struct IndirectData(Vec<u8>);

impl IndirectData {
    /// `SpcIndirectDataContent` over the digest of a program, without tag and length.
    pub(super) fn new(program: &[u8; 32]) -> Self {
        // Flags and file are there for old verifiers: no flag, and a link to an empty file name.
        let file = element(context(0), &[&element(context(2), &[&[0x80, 0]])]);
        let image = element(SEQUENCE, &[&element(BIT_STRING, &[&[0]]), &file]);
        let data = element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[PE_IMAGE]), &image]);
        let digest = element(SEQUENCE, &[&algorithm(SHA256), &element(OCTET_STRING, &[program])]);
        Self([data, digest].concat())
    }

    /// The attributes of the signature (RFC 2315 §9.2), without tag and length, in the order of
    /// DER.
    fn attributes(&self) -> Vec<u8> {
        let content_type = element(OBJECT_IDENTIFIER, &[INDIRECT_DATA]);
        // Of the content only: RFC 2315 §9.3 leaves out tag and length.
        let digest = element(OCTET_STRING, &[&Sha256::digest(&self.0)]);
        [attribute(CONTENT_TYPE, &content_type), attribute(MESSAGE_DIGEST, &digest)].concat()
    }

    /// The digest that the key signs: of the attributes as a SET, though the signature has another
    /// tag there (RFC 2315 §9.3).
    pub(super) fn signed_digest(&self) -> [u8; 32] {
        Sha256::digest(element(SET, &[&self.attributes()])).into()
    }

    /// The certificate table with this signature: one `WIN_CERTIFICATE`, padded to a multiple of 8
    /// bytes. Its length depends on the certificate and the length of the signature only.
    pub(super) fn table(&self, certificate: &Certificate, signature: &[u8]) -> Vec<u8> {
        let signature = self.signed_data(certificate, signature);
        let len = (HEADER + signature.len()) as u32;
        let mut table = len.to_le_bytes().to_vec();
        table.extend([REVISION, PKCS_SIGNED_DATA].map(u16::to_le_bytes).concat());
        table.extend(signature);
        table.resize(table.len().next_multiple_of(ALIGNMENT), 0);
        table
    }

    fn signed_data(&self, certificate: &Certificate, signature: &[u8]) -> Vec<u8> {
        let data = element(context(0), &[&element(SEQUENCE, &[&self.0])]);
        let content = element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[INDIRECT_DATA]), &data]);
        let signed = element(
            SEQUENCE,
            &[
                &element(INTEGER, &[&[1]]),
                &element(SET, &[&algorithm(SHA256)]),
                &content,
                &element(context(0), &[certificate.der()]),
                &element(SET, &[&self.signer_info(certificate, signature)]),
            ],
        );
        element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[SIGNED_DATA]), &element(context(0), &[&signed])])
    }

    fn signer_info(&self, certificate: &Certificate, signature: &[u8]) -> Vec<u8> {
        element(
            SEQUENCE,
            &[
                &element(INTEGER, &[&[1]]),
                &element(SEQUENCE, &[&certificate.issuer, &certificate.serial]),
                &algorithm(SHA256),
                &element(context(0), &[&self.attributes()]),
                &algorithm(RSA),
                &element(OCTET_STRING, &[signature]),
            ],
        )
    }
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[kind]), &element(SET, &[value])])
}
