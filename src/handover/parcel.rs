//! A state together with its open files.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::State;
use crate::dhcp::server::KnownConflicts;
use crate::dhcp::session::carried::CarriedConflict;
use crate::image::Image;
use crate::images::ImageSet;
use crate::images::carried::CarriedImage;
use crate::machines::Registry;
use crate::machines::carried::CarriedMachine;
use crate::nbd::server::Connection;
use crate::nbd::session::resting::RestingConnection;

/// What a process hands over. It keeps all of it until the other one has it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) state: State,
    images: Vec<Arc<Image>>,
    connections: Vec<Connection>,
}

impl Outgoing {
    /// Collects it, with all connections at rest. `now` is the time to which ages are counted.
    pub(crate) fn new(
        images: &ImageSet,
        connections: Vec<Connection>,
        machines: &Registry,
        dhcp_conflicts: &KnownConflicts,
        now: Instant,
    ) -> Self {
        let (carried, images): (_, Vec<_>) = images.carried(now).into_iter().unzip();
        let state = State {
            images: carried,
            connections: connections.iter().map(Connection::resting).collect(),
            machines: machines.carried(now),
            dhcp_conflicts: dhcp_conflicts.at(now),
            is_draining: machines.is_draining(),
        };
        Self { state, images, connections }
    }

    /// Returns the open files in the order of the state.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let images = self.images.iter().map(|image| image.source.as_fd());
        images.chain(self.connections.iter().map(AsFd::as_fd)).collect()
    }

    /// Returns the connections, which go on in this process.
    pub(crate) fn into_connections(self) -> Vec<Connection> {
        self.connections
    }

    /// Tells whether nobody would miss it: no client, and no operator who drains this server.
    pub(crate) fn is_needless(&self) -> bool {
        self.connections.is_empty() && self.state.machines.is_empty() && !self.state.is_draining
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// What a process got from another one.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) images: Vec<(CarriedImage, File)>,
    pub(crate) connections: Vec<(RestingConnection, TcpStream)>,
    /// Connections whose socket is missing.
    pub(crate) lost: usize,
    pub(crate) machines: Vec<CarriedMachine>,
    pub(crate) dhcp_conflicts: Option<Vec<CarriedConflict>>,
    pub(crate) is_draining: bool,
}

impl Parcel {
    /// Joins a state and its open files. `descriptor` returns one by its number, once.
    pub(super) fn new(state: State, mut descriptor: impl FnMut(usize) -> Option<OwnedFd>) -> Self {
        let State { images, connections, machines, dhcp_conflicts, is_draining } = state;
        let (first, count) = (images.len(), connections.len());
        let images = (0..).zip(images);
        let images = images.filter_map(|(number, image)| Some((image, descriptor(number)?.into()))).collect();
        let connections = (first..).zip(connections);
        let connections: Vec<_> = connections
            .filter_map(|(number, connection)| Some((connection, descriptor(number)?.into())))
            .collect();
        let lost = count - connections.len();
        Self { images, connections, lost, machines, dhcp_conflicts, is_draining }
    }
}

/// Writes bytes to an anonymous file. Who reads it begins at its start (lseek(2)).
pub(super) fn anonymous_file(bytes: &[u8]) -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::io::Write as _;
    let mut file = File::from(memfd_create("isowire-state", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ServedImage;

    /// A restart must not make it take machines again, though it has none any more.
    #[test]
    fn drained_server_without_machines_is_handed_over() {
        let now = Instant::now();
        let images = ImageSet::new(ServedImage::new("one", crate::machines::tests::image()), Vec::new());
        let machines = Registry::new(now);
        let outgoing = || Outgoing::new(&images, Vec::new(), &machines, &KnownConflicts::default(), now);
        assert!(outgoing().is_needless());
        machines.set_draining(true, now);
        assert!(!outgoing().is_needless());
        assert!(Parcel::new(outgoing().state, |_| None).is_draining);
        machines.set_draining(false, now);
        assert!(outgoing().is_needless());
    }
}
