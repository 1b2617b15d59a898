//! Properties of the state that outlives a process.

use crate::handover::State;

/// Checks that any bytes are parsed or refused, and that a state that was parsed is written so that
/// it is parsed again as the same.
pub fn state(data: &[u8]) {
    let Ok(state) = State::parse(data) else { return };
    let bytes = state.emit().expect("no larger than it was");
    assert_eq!(State::parse(&bytes), Ok(state));
}
