//! The word to machines that there is no IPv6 router, where the operator wants it given.

use std::io::{self, ErrorKind};

use super::{ServiceSockets, program};
use crate::config::{Config, Solicitations};
use crate::ndp::server::SolicitationListener;
use crate::server::StartError;

const NAME: &str = "IPv6 RA";

impl ServiceSockets {
    /// Opens the socket before those of services that take less privilege, so that what is missing is told at once. To be
    /// called when DHCP is known not to be off.
    pub(super) fn open_advertisement(&mut self, config: &Config) -> Result<(), StartError> {
        if config.solicitations == Solicitations::Ignored {
            return Ok(());
        }
        let interface = config.interface.as_deref();
        self.advertisement = Some(SolicitationListener::open(interface).map_err(cannot)?);
        Ok(())
    }

    /// Its row of the table, where it has one.
    pub(super) fn tell_advertisement(&mut self) {
        let Some(listener) = &self.advertisement else { return };
        let interfaces: Vec<_> = listener.interfaces().collect();
        let state = match &interfaces[..] {
            [] => "no network with IPv6 yet; isowire goes on looking".to_owned(),
            interfaces => format!("machines that boot are told of no router, on {}", interfaces.join(", ")),
        };
        self.up(NAME, None, &state);
    }
}

fn cannot(error: io::Error) -> StartError {
    let fix = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::PermissionDenied, _) => {
            format!("run `sudo setcap cap_net_raw,cap_net_bind_service+ep {}`", program().display())
        }
        (_, Some(libc::ENODEV)) => "choose one of `ip link` for `interface`".to_owned(),
        (ErrorKind::Unsupported, _) | (_, Some(libc::EAFNOSUPPORT)) => "turn IPv6 on".to_owned(),
        _ => "choose another `interface`".to_owned(),
    };
    StartError::Advertisement { error, fix }
}
