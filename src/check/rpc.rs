//! ONC RPC client over TCP (RFC 5531), and the XDR that it needs (RFC 4506).

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::connection::ClientConnection;
use super::original::{Original, VerifyError};
use crate::codec::Reader;

/// RFC 5531 §9: RPC version and message types.
const RPC_VERSION: u32 = 2;
const CALL: u32 = 0;
const REPLY: u32 = 1;

/// Bit of a record mark for the last fragment (RFC 5531 §11).
const LAST_FRAGMENT: u32 = 1 << 31;

/// Longest record: a READ of 1 MiB and its headers.
const RECORD_MAX: u32 = (1 << 20) + 4096;

/// Bytes of xid, type, state, flavour and length of an empty verifier, and accept state.
const REPLY_HEADER: u32 = 24;

/// Procedure: program, version and number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Procedure(pub u32, pub u32, pub u32);

/// Client of an RPC program.
pub(super) struct RpcClient {
    connection: ClientConnection,
    xid: u32,
}

impl RpcClient {
    /// Connects to a program.
    ///
    /// # Errors
    /// [`VerifyError`] when the server does not accept.
    pub(super) async fn open(address: SocketAddr, original: &Original) -> Result<Self, VerifyError> {
        let connection = ClientConnection::open(address, original.patience).await?;
        // Any number will do: xids only have to differ on one connection.
        Ok(Self { connection, xid: 0x6973_6f00 })
    }

    /// Calls a procedure and returns its results.
    ///
    /// # Errors
    /// [`VerifyError`] when the call fails.
    pub(super) async fn call(
        &mut self,
        procedure: Procedure,
        arguments: &[u8],
    ) -> Result<Vec<u8>, VerifyError> {
        self.xid = self.xid.wrapping_add(1);
        self.connection.send(&call(self.xid, procedure, arguments)).await?;
        let mark = u32::from_be_bytes(self.connection.array().await?);
        // RFC 5531 §11: the other 31 bits are the length of the fragment.
        let len = mark & !LAST_FRAGMENT;
        // archiso's nfsmount reads a reply at once, so a reply must not have two fragments.
        if mark & LAST_FRAGMENT == 0 || !(REPLY_HEADER..=RECORD_MAX).contains(&len) {
            return Err(VerifyError::protocol(format!("a reply begins with the record mark {mark:#010x}")));
        }
        let header: [u8; REPLY_HEADER as usize] = self.connection.array().await?;
        self.accept(Reader::new(&header))?;
        self.connection.bytes((len - REPLY_HEADER) as usize).await
    }

    /// Checks that a reply accepts the call: MSG_ACCEPTED, AUTH_NONE, SUCCESS (RFC 5531 §9).
    fn accept(&self, mut header: Reader<'_>) -> Result<(), VerifyError> {
        let [xid, kind, state, flavour, length, accepted] = numbers(&mut header)?;
        if [xid, kind] != [self.xid, REPLY] {
            return Err(VerifyError::protocol("the reply does not belong to the call"));
        }
        // archiso's nfsmount reads the results at a fixed offset, so the verifier has to be empty.
        if [state, flavour, length, accepted] != [0; 4] {
            return Err(VerifyError::protocol(format!("a call is not accepted (state {state}, {accepted})")));
        }
        Ok(())
    }
}

fn call(xid: u32, Procedure(program, version, procedure): Procedure, arguments: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    // Ten numbers: AUTH_NONE twice, for the credentials and the verifier.
    out.put_u32(LAST_FRAGMENT | (40 + arguments.len() as u32));
    let header = [xid, CALL, RPC_VERSION, program, version, procedure, 0, 0, 0, 0];
    header.into_iter().for_each(|number| out.put_u32(number));
    out.put_slice(arguments);
    out
}

/// Reads the next `N` numbers.
///
/// # Errors
/// [`VerifyError`] when the input ends early.
pub(super) fn numbers<const N: usize>(reader: &mut Reader<'_>) -> Result<[u32; N], VerifyError> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = reader.u32_be()?;
    }
    Ok(numbers)
}

/// Reads opaque data of variable length and its padding (RFC 4506 §4.10).
///
/// # Errors
/// [`VerifyError`] when the data is longer than the input, or its padding is not zero.
pub(super) fn opaque<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], VerifyError> {
    let len = reader.u32_be()? as usize;
    let data = reader.take(len)?;
    // RFC 4506 §3: padding is zero.
    if reader.take(padding(len))?.iter().any(|&byte| byte != 0) {
        return Err(VerifyError::protocol("the padding of opaque data is not zero"));
    }
    Ok(data)
}

/// Appends opaque data of variable length (RFC 4506 §4.10).
pub(super) fn put_opaque(out: &mut BytesMut, data: &[u8]) {
    out.put_u32(data.len() as u32);
    out.put_slice(data);
    out.put_bytes(0, padding(data.len()));
}

const fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_encoded_by_rfc_5531() {
        let call = call(7, Procedure(100_003, 3, 6), &[0xab; 4]);
        let words = [0x8000_002c_u32, 7, 0, 2, 100_003, 3, 6, 0, 0, 0, 0, 0xabab_abab];
        assert_eq!(call, words.map(u32::to_be_bytes).concat());
    }

    #[test]
    fn opaque_data_is_padded_with_zeros() {
        let mut out = BytesMut::new();
        put_opaque(&mut out, b"abcde");
        assert_eq!(&out[..], b"\0\0\0\x05abcde\0\0\0");
        assert_eq!(opaque(&mut Reader::new(&out)).unwrap(), b"abcde");
        out[11] = 1;
        assert!(opaque(&mut Reader::new(&out)).is_err());
        assert!(opaque(&mut Reader::new(&out[..9])).is_err());
        assert!(opaque(&mut Reader::new(&[0xff; 8])).is_err());
    }
}
