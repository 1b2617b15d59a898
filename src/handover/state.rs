//! The state that outlives a process, and its form as bytes. Pure.

use serde::{Deserialize, Serialize};

use crate::dhcp::session::carried::CarriedConflict;
use crate::images::carried::CarriedImage;
use crate::machines::carried::CarriedMachine;
use crate::nbd::session::resting::RestingConnection;

/// First bytes of whatever goes to another process.
const HEAD: &[u8] = b"isowire state 8\n";

/// Names of the parts of a state, with the versions of their formats. A change of a type in a part
/// makes a new name: the bytes do not tell which fields there are. A part of an unknown name is left
/// out, so that a machine keeps its root whatever else an upgrade changes. Whoever changes one of the
/// first two should still read the old one: clients on NBD live on it.
const IMAGES: &str = "images 1";
const CONNECTIONS: &str = "connections 1";
const MACHINES: &str = "machines 1";
const DHCP_CONFLICTS: &str = "dhcp-conflicts 1";
const DRAIN: &str = "drain 1";

/// Longest state, in bytes: 4096 machines, and ten thousand connections with replies that wait.
pub(crate) const STATE_MAX: usize = 128 << 20;

/// Most images and connections together: each takes an open file.
pub(super) const DESCRIPTORS_MAX: usize = 1 << 17;

/// Everything that outlives a process but the open files. Those are in the order of `images`, and
/// then of `connections`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub images: Vec<CarriedImage>,
    pub connections: Vec<RestingConnection>,
    pub machines: Vec<CarriedMachine>,
    /// Other DHCP servers; `None` if the process did not look for them, as a proxy does not.
    pub dhcp_conflicts: Option<Vec<CarriedConflict>>,
    /// New machines go to other servers (`isowire drain`).
    pub is_draining: bool,
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
        if self.descriptors() > DESCRIPTORS_MAX {
            return Err(StateError::TooLarge);
        }
        let parts = [
            (IMAGES, part(&self.images)?),
            (CONNECTIONS, part(&self.connections)?),
            (MACHINES, part(&self.machines)?),
            (DHCP_CONFLICTS, part(&self.dhcp_conflicts)?),
            (DRAIN, part(&self.is_draining)?),
        ];
        emit(&Vec::from(parts))
    }

    /// Parses the bytes of [`State::emit`].
    ///
    /// # Errors
    /// [`StateError`]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let parts: Vec<(&str, &[u8])> = parse(bytes)?;
        let find = |wanted| parts.iter().find(|(name, _)| *name == wanted).map(|&(_, bytes)| bytes);
        let state = Self {
            images: whole(find(IMAGES).ok_or(StateError::OtherVersion)?)?,
            connections: whole(find(CONNECTIONS).ok_or(StateError::OtherVersion)?)?,
            machines: find(MACHINES).map(whole).transpose()?.unwrap_or_default(),
            dhcp_conflicts: find(DHCP_CONFLICTS).map(whole).transpose()?.unwrap_or_default(),
            is_draining: find(DRAIN).map(whole).transpose()?.unwrap_or_default(),
        };
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
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, StateError> {
    if bytes.len() > STATE_MAX {
        return Err(StateError::TooLarge);
    }
    whole(bytes.strip_prefix(HEAD).ok_or(StateError::OtherVersion)?)
}

/// Writes a part of the state.
fn part(value: &impl Serialize) -> Result<Vec<u8>, StateError> {
    postcard::to_extend(value, Vec::new()).map_err(|_| StateError::Malformed)
}

/// Reads a value that takes all the bytes.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, StateError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(StateError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> State {
        State {
            images: Vec::new(),
            connections: Vec::new(),
            machines: Vec::new(),
            dhcp_conflicts: None,
            is_draining: false,
        }
    }

    #[test]
    fn state_of_another_version_is_refused() {
        let bytes = empty().emit().unwrap();
        assert_eq!(State::parse(&bytes), Ok(empty()));
        assert_eq!(State::parse(b"isowire state 1\n\0\0\0"), Err(StateError::OtherVersion));
        assert_eq!(State::parse(&[&bytes[..], b"\0"].concat()), Err(StateError::Malformed));
        assert_eq!(State::parse(&bytes[..bytes.len() - 1]), Err(StateError::Malformed));
        let many = [HEAD, b"\xff\xff\xff\xff\x0f"].concat();
        assert_eq!(State::parse(&many), Err(StateError::Malformed), "no memory for a length alone");
    }

    #[test]
    fn roots_outlive_an_upgrade_that_changes_the_rest() {
        let none = part(&Vec::<u8>::new()).unwrap();
        let parts = vec![("machines 2", &b"other"[..]), (CONNECTIONS, &none), (IMAGES, &none), ("new", b"")];
        assert_eq!(State::parse(&emit(&parts).unwrap()), Ok(empty()));
        let without = emit(&vec![(IMAGES, &none)]).unwrap();
        assert_eq!(State::parse(&without), Err(StateError::OtherVersion), "connections in another format");
        let damaged = emit(&vec![(IMAGES, &none), (CONNECTIONS, &none), (DRAIN, &vec![7])]).unwrap();
        assert_eq!(State::parse(&damaged), Err(StateError::Malformed));
    }
}
