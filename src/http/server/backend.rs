//! The backend of HTTP: the table of machines, and the operator's files.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::field::display;
use tracing::info;

use crate::boot::{Mac, Requester};
use crate::http::session::{Backend, NotItsAddressError};
use crate::machines::up::HostKey;
use crate::machines::{KnownMachine, Registry, UpReport, neighbours};
use crate::provision::{FileCall, OperatorFileError, OperatorFiles};

/// The machines of this server.
#[derive(Debug)]
pub(super) struct MachineBackend {
    pub machines: Arc<Registry>,
    pub files: Option<OperatorFiles>,
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
            let peer = requester.address.map(display);
            info!(peer, mac, "HTTP call refused: {NotItsAddressError}");
            return Err(NotItsAddressError);
        };
        let kinds: Vec<_> = report.host_keys.iter().map(HostKey::kind).collect();
        let (host_name, host_keys) = (report.host_name.as_deref(), kinds.join(" "));
        info!(%peer, mac, host_name, host_keys, "system of the machine is up");
        self.machines.phoned_home(peer, report, now);
        Ok(())
    }

    fn operator_file(&self, call: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError> {
        self.file(call).inspect_err(|error| match error {
            // The log of requests has the first, and that of the file has the second.
            OperatorFileError::NotFound | OperatorFileError::Failed => {}
            error => {
                let (peer, path) = (call.requester.address.map(display), call.path.names.join("/"));
                info!(peer, path, "HTTP refused: {error}");
            }
        })
    }
}

impl MachineBackend {
    /// Returns the address of the requester if the machine has it.
    fn address_of(&self, machine: Option<Mac>, requester: Requester, now: Instant) -> Option<IpAddr> {
        let address = IpAddr::V4(requester.address?);
        let is_known = self.machines.known(address).is_some_and(|known| known.mac.is_some());
        let is_it = || self.machines.is_machine(machine, address);
        // Behind a router, a machine may be known by its address alone.
        ((is_known && is_it()) || self.learn(machine, address, now) || is_it()).then_some(address)
    }

    /// Learns from the neighbour table that the machine has this address, and returns whether it
    /// does. systemd-networkd asks DHCP as another client than firmware and initramfs (RFC 4361),
    /// so a booted system may have another address.
    fn learn(&self, machine: Option<Mac>, address: IpAddr, now: Instant) -> bool {
        let mac = neighbour(address).filter(|&mac| machine.is_none_or(|named| named == mac));
        if let Some(mac) = mac {
            self.machines.met(mac, address, now);
        }
        mac.is_some()
    }

    /// Returns the machine of the requester that may have files.
    fn machine_of(&self, call: &FileCall<'_>) -> Result<(IpAddr, KnownMachine), OperatorFileError> {
        let (named, now) = (call.path.recipient.machine, Instant::now());
        let address = call.requester.address.map(IpAddr::V4).ok_or(OperatorFileError::NotAMachine)?;
        let is_named = |machine: &KnownMachine| {
            machine.mac.is_some() && named.is_none_or(|mac| machine.mac == Some(mac))
        };
        let mut known = self.machines.known(address);
        if !known.as_ref().is_some_and(is_named)
            && let Some(mac) = neighbour(address)
            // Any host may ask, and does not become a machine by that.
            && (known.is_some() || self.machines.knows(mac))
        {
            self.machines.met(mac, address, now);
            known = self.machines.known(address);
        }
        let machine =
            known.filter(|machine| machine.boots_from_here).ok_or(OperatorFileError::NotAMachine)?;
        match (named, machine.mac) {
            (Some(named), Some(mac)) if named != mac => Err(OperatorFileError::OfAnother),
            _ => Ok((address, machine)),
        }
    }

    fn file(&self, call: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError> {
        let files = self.files.as_ref().ok_or(OperatorFileError::NotFound)?;
        let (address, machine) = self.machine_of(call)?;
        let is_secret = files.is_secret(call, &machine)?;
        // Another thread takes over the other tasks of this one while the disk is read.
        let content = tokio::task::block_in_place(|| files.content(call, &machine))?;
        // After all that can fail: it is given away only with its content.
        match is_secret && call.is_get && !self.machines.take_secret(address) {
            true => Err(OperatorFileError::Taken),
            false => Ok(content),
        }
    }
}

/// Returns the MAC address that the kernel knows of a neighbour.
fn neighbour(address: IpAddr) -> Option<Mac> {
    let neighbours = neighbours::read().unwrap_or_default();
    neighbours.into_iter().find(|(neighbour, _)| *neighbour == address).map(|(_, mac)| mac)
}
