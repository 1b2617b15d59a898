//! Addresses of this host, by which the table of machines knows clients that are no machines.

use std::collections::HashSet;
use std::net::IpAddr;

use tracing::debug;

use crate::interfaces::{self, Interface, InterfaceChanges};
use crate::machines::Registry;

/// Tells the table of machines the addresses of this host, now and after each change, until
/// `shutdown` is ready.
pub(super) async fn follow(machines: &Registry, shutdown: impl Future<Output = ()>) {
    let mut changes = InterfaceChanges::listen();
    tokio::pin!(shutdown);
    loop {
        match interfaces::list() {
            Ok(list) => machines.set_own_addresses(addresses(&list)),
            Err(error) => debug!("network interfaces not listed: {error}"),
        }
        tokio::select! {
            () = &mut shutdown => return,
            () = changes.next() => {}
        }
    }
}

fn addresses(list: &[Interface]) -> HashSet<IpAddr> {
    list.iter().flat_map(Interface::ips).map(IpAddr::V4).collect()
}
