//! The socket of router advertisements, which tell machines that there is no IPv6 router.

use std::io::{self, ErrorKind};

use super::{ServiceSockets, program, waiting_for};
use crate::config::{Config, Solicitations};
use crate::ndp::server::SolicitationListener;
use crate::server::StartError;

const NAME: &str = "IPv6 RA";

impl ServiceSockets {
    /// Opens the socket, if the operator wants it. Call it before the services that need fewer
    /// privileges, so that the error names all that are missing.
    pub(super) fn open_advertisement(&mut self, config: &Config) -> Result<(), StartError> {
        if config.solicitations == Solicitations::Ignored {
            return Ok(());
        }
        let interface = config.interface.as_deref();
        self.advertisement = Some(SolicitationListener::open(interface).map_err(cannot)?);
        Ok(())
    }

    /// Adds its row to the report. `missing` is the only interface, if it does not exist.
    pub(super) fn report_advertisement(&mut self, missing: Option<&str>) {
        let Some(listener) = &self.advertisement else { return };
        let interfaces: Vec<_> = listener.interfaces().collect();
        let state = match (&interfaces[..], missing) {
            ([], Some(interface)) => waiting_for(interface),
            ([], None) => "waiting for a network with IPv6".to_owned(),
            (interfaces, _) => {
                format!("telling booting machines that there is no router, on {}", interfaces.join(", "))
            }
        };
        self.up(NAME, None, &state);
    }
}

fn cannot(error: io::Error) -> StartError {
    // raw(7): a raw socket needs CAP_NET_RAW. setcap replaces all capabilities of a file, so the
    // one for low ports is named too.
    let fix = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::PermissionDenied, _) => {
            format!("run `sudo setcap cap_net_raw,cap_net_bind_service+ep {}`", program().display())
        }
        (ErrorKind::Unsupported, _) | (_, Some(libc::EAFNOSUPPORT)) => "enable IPv6".to_owned(),
        _ => "choose another `interface`".to_owned(),
    };
    StartError::Advertisement { error, fix }
}
