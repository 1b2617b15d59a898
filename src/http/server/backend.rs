//! The backend of HTTP: the table of machines.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use crate::boot::{Mac, Requester};
use crate::http::session::{Backend, NotItsAddressError};
use crate::machines::up::HostKey;
use crate::machines::{Registry, UpReport, neighbours};

/// The machines of this server.
#[derive(Debug)]
pub(super) struct MachineBackend {
    pub machines: Arc<Registry>,
}

impl Backend for MachineBackend {
    fn machine_up(
        &self,
        machine: Option<Mac>,
        requester: Requester,
        report: UpReport,
    ) -> Result<(), NotItsAddressError> {
        let now = Instant::now();
        let mac = machine.map(|mac| mac.to_string());
        let Some(peer) = self.address_of(machine, requester, now) else {
            let peer = requester.address;
            info!(?peer, mac, "HTTP call refused: {NotItsAddressError}");
            return Err(NotItsAddressError);
        };
        let kinds: Vec<_> = report.host_keys.iter().map(HostKey::kind).collect();
        let (host_name, host_keys) = (report.host_name.as_deref(), kinds.join(" "));
        info!(%peer, mac, host_name, host_keys, "system of the machine is up");
        self.machines.phoned_home(peer, report, now);
        Ok(())
    }
}

impl MachineBackend {
    /// Returns the address of the requester if the machine has it.
    fn address_of(&self, machine: Option<Mac>, requester: Requester, now: Instant) -> Option<IpAddr> {
        let address = IpAddr::V4(requester.address?);
        (self.machines.is_machine(machine, address) || self.learn(machine, address, now)).then_some(address)
    }

    /// Learns from the neighbour table that the machine has this address, and returns whether it does.
    /// systemd-networkd asks DHCP as another client than firmware and initramfs (RFC 4361), so a booted
    /// system may have another address.
    fn learn(&self, machine: Option<Mac>, address: IpAddr, now: Instant) -> bool {
        let neighbours = neighbours::read().unwrap_or_default();
        let found = neighbours.into_iter().find(|(neighbour, _)| *neighbour == address);
        let mac = found.map(|(_, mac)| mac).filter(|&mac| machine.is_none_or(|named| named == mac));
        if let Some(mac) = mac {
            self.machines.met(mac, address, now);
        }
        mac.is_some()
    }
}
