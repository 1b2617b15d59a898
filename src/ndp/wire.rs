//! Router solicitations and the empty advertisement that answers them (RFC 4861 §4.1, §4.2, §4.6).

use crate::codec::{Reader, Truncated};

/// ICMPv6 types (RFC 4861 §4.1, §4.2).
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;

/// Option type (RFC 4861 §4.6.1).
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;

/// Unit of an option's length, in bytes; it counts the two bytes before the value (RFC 4861 §4.6).
const UNIT: usize = 8;
const OPTION_HEAD: usize = 2;

/// Error of an ICMPv6 message that is not a valid router solicitation: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SolicitationError {
    #[error(transparent)]
    Truncated(#[from] Truncated),
    #[error("ICMPv6 type {kind}, code {code} is not a router solicitation")]
    NotASolicitation { kind: u8, code: u8 },
    #[error("an option has the length 0")]
    EmptyOption,
}

/// Router solicitation: a machine asks which routers there are (RFC 4861 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouterSolicitation<'a> {
    /// Link-layer address of the sender: the first such option, of any length; six bytes on
    /// Ethernet.
    pub source_link_layer_address: Option<&'a [u8]>,
}

impl<'a> RouterSolicitation<'a> {
    /// Reads a whole ICMPv6 message, whose checksum the kernel has verified.
    ///
    /// # Errors
    /// [`SolicitationError`] when it is not a valid solicitation (RFC 4861 §6.1.1).
    pub(crate) fn parse(input: &mut Reader<'a>) -> Result<Self, SolicitationError> {
        let [kind, code, _, _] = input.array()?;
        if (kind, code) != (ROUTER_SOLICITATION, 0) {
            return Err(SolicitationError::NotASolicitation { kind, code });
        }
        // RFC 4861 §4.1: four reserved bytes, which the receiver ignores.
        input.skip(4)?;
        let mut source_link_layer_address = None;
        while !input.is_empty() {
            let (kind, value) = option(input)?;
            // RFC 4861 §6.1.1: all other options are ignored.
            if kind == SOURCE_LINK_LAYER_ADDRESS {
                source_link_layer_address.get_or_insert(value);
            }
        }
        Ok(Self { source_link_layer_address })
    }
}

/// Reads an option: its type and its value.
fn option<'a>(input: &mut Reader<'a>) -> Result<(u8, &'a [u8]), SolicitationError> {
    let [kind, units] = input.array()?;
    // RFC 4861 §4.6: nodes discard a packet with an option of length 0; reading on would never end.
    let value = (usize::from(units) * UNIT).checked_sub(OPTION_HEAD).ok_or(SolicitationError::EmptyOption)?;
    Ok((kind, input.take(value)?))
}

/// Advertisement that offers nothing: a router lifetime of 0 says that we are not a default router,
/// and zeros leave the other fields unspecified (RFC 4861 §4.2). It has no option: no prefix, and
/// no link-layer address to be cached.
pub const EMPTY_ADVERTISEMENT: [u8; 16] = {
    let mut message = [0; 16];
    // RFC 4861 §4.2: the zeros after the type are code, checksum (the kernel computes it), current
    // hop limit, the flags M and O, router lifetime, reachable time and retransmission timer.
    message[0] = ROUTER_ADVERTISEMENT;
    message
};

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<RouterSolicitation<'_>, SolicitationError> {
        RouterSolicitation::parse(&mut Reader::new(bytes))
    }

    const BARE: [u8; 8] = [133, 0, 0xab, 0xcd, 0, 0, 0, 0];

    #[test]
    fn solicitation_of_ipxe_is_read() {
        let address = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let message = [&BARE[..], &[1, 1], &address].concat();
        assert_eq!(parse(&message), Ok(RouterSolicitation { source_link_layer_address: Some(&address) }));
        assert_eq!(parse(&BARE), Ok(RouterSolicitation { source_link_layer_address: None }));
    }

    #[test]
    fn first_address_counts_among_options() {
        let options: [&[u8]; 4] = [&[14, 2], &[9; 14], &[1, 1, 2, 2, 2, 2, 2, 2], &[1, 1, 3, 3, 3, 3, 3, 3]];
        let message = [&BARE[..], &options.concat()].concat();
        assert_eq!(parse(&message).unwrap().source_link_layer_address, Some(&[2; 6][..]));
        let infiniband = [&BARE[..], &[1, 3], &[5; 22]].concat();
        assert_eq!(parse(&infiniband).unwrap().source_link_layer_address, Some(&[5; 22][..]));
    }

    #[test]
    fn malformed_message_is_refused() {
        let with = |options: &[u8]| [&BARE[..], options].concat();
        for cut in [&BARE[..3], &BARE[..7], &with(&[1]), &with(&[1, 1, 2, 2]), &with(&[1, 255, 0, 0])] {
            assert_eq!(parse(cut), Err(SolicitationError::Truncated(Truncated)), "{cut:?}");
        }
        assert_eq!(parse(&with(&[1, 0, 2, 2, 2, 2, 2, 2])), Err(SolicitationError::EmptyOption));
        for (kind, code) in [(134, 0), (133, 1), (128, 0)] {
            let message = [&[kind, code], &BARE[2..]].concat();
            assert_eq!(parse(&message), Err(SolicitationError::NotASolicitation { kind, code }));
        }
    }

    #[test]
    fn advertisement_is_empty() {
        assert_eq!(EMPTY_ADVERTISEMENT, [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
