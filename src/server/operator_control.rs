//! What the operator changes in a running server, over its local socket.

use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::next_boots::NextBootControl;
use crate::machines::{Mac, Registry};
use crate::placement::Servers;
use crate::web::control::Control;

/// The parts of a running server that the operator can change.
#[derive(Debug)]
pub(super) struct OperatorControl {
    pub next_boots: Arc<NextBootControl>,
    pub machines: Arc<Registry>,
    pub servers: Option<Servers>,
}

impl Control for OperatorControl {
    fn next(&self, machine: Mac, boot: &str) -> Result<String, String> {
        self.next_boots.tell(machine, boot)
    }

    fn drain(&self, is_draining: bool) -> Result<String, String> {
        let has_others = self.servers.as_ref().is_some_and(|servers| servers.iter().count() > 1);
        if is_draining && !has_others {
            return Err(
                "no other server is known that could take its machines: name all of them with `--peers`, or \
                        as [[server]]"
                    .to_owned(),
            );
        }
        if is_draining != self.machines.is_draining() {
            info!(
                "{}",
                if is_draining { "new machines go to other servers" } else { "new machines are taken" }
            );
        }
        self.machines.set_draining(is_draining, Instant::now());
        Ok(match is_draining {
            true => "new machines go to other servers; `isowire drain --end` ends that".to_owned(),
            false => "new machines are taken again".to_owned(),
        })
    }
}
