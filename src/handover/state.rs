//! The state that outlives a process, and its form as bytes. Pure.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::dhcp::session::carried::CarriedConflict;
use crate::images::carried::CarriedImage;
use crate::machines::carried::CarriedMachine;
use crate::nbd::session::resting::RestingConnection;

/// First bytes of the state, with the version of its format. Any change of a type in it makes a new
/// version: the bytes do not tell which fields there are.
const HEAD: &[u8] = b"isowire state 7\n";

/// Longest state, in bytes: 4096 machines, and ten thousand connections with replies that wait.
pub(crate) const STATE_MAX: usize = 128 << 20;

/// Most images and connections together: each takes an open file.
pub(super) const DESCRIPTORS_MAX: usize = 1 << 17;

/// Everything that outlives a process but the open files. Those are in the order of `images`, and
/// then of `connections`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub images: Vec<CarriedImage>,
    pub connections: Vec<RestingConnection>,
    pub machines: Vec<CarriedMachine>,
    /// Other DHCP servers; `None` if the process did not look for them, as a proxy does not.
    pub dhcp_conflicts: Option<Vec<CarriedConflict>>,
}

/// Error of a state that this process cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("its format is of another version of isowire")]
    OtherVersion,
    #[error("it is damaged")]
    Malformed,
    #[error("it has more than {STATE_MAX} bytes, or more than {DESCRIPTORS_MAX} images and connections")]
    TooLarge,
}

impl State {
    /// Returns the state as bytes.
    ///
    /// # Errors
    /// `TooLarge`
    pub(crate) fn emit(&self) -> Result<Vec<u8>, StateError> {
        match self.descriptors() {
            0..=DESCRIPTORS_MAX => emit(self),
            _ => Err(StateError::TooLarge),
        }
    }

    /// Parses the bytes of [`State::emit`].
    ///
    /// # Errors
    /// [`StateError`]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let state: Self = parse(bytes)?;
        match state.descriptors() {
            0..=DESCRIPTORS_MAX => Ok(state),
            _ => Err(StateError::TooLarge),
        }
    }

    /// Returns the number of open files that belong to the state.
    pub(super) fn descriptors(&self) -> usize {
        self.images.len() + self.connections.len()
    }
}

/// Writes a value behind the head.
pub(super) fn emit(value: &impl Serialize) -> Result<Vec<u8>, StateError> {
    let bytes = postcard::to_extend(value, HEAD.to_vec()).map_err(|_| StateError::Malformed)?;
    if bytes.len() <= STATE_MAX { Ok(bytes) } else { Err(StateError::TooLarge) }
}

/// Reads a value behind the head; nothing may follow it.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    if bytes.len() > STATE_MAX {
        return Err(StateError::TooLarge);
    }
    let body = bytes.strip_prefix(HEAD).ok_or(StateError::OtherVersion)?;
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(StateError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_another_version_is_refused() {
        let empty =
            State { images: Vec::new(), connections: Vec::new(), machines: Vec::new(), dhcp_conflicts: None };
        let bytes = empty.emit().unwrap();
        assert_eq!(State::parse(&bytes), Ok(empty));
        assert_eq!(State::parse(b"isowire state 1\n\0\0\0"), Err(StateError::OtherVersion));
        assert_eq!(State::parse(&[&bytes[..], b"\0"].concat()), Err(StateError::Malformed));
        assert_eq!(State::parse(&bytes[..bytes.len() - 1]), Err(StateError::Malformed));
        let many = [HEAD, b"\xff\xff\xff\xff\x0f"].concat();
        assert_eq!(State::parse(&many), Err(StateError::Malformed), "no memory for a length alone");
    }
}
