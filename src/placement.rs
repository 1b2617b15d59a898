//! Placement of machines on several servers: from the list of servers and the hardware address of a
//! machine alone. Pure, so each server comes to the same order without asking another one.
//!
//! It is weighted rendezvous hashing. A server of weight `w` draws `w` numbers for each machine, and
//! its highest number counts. The server with the highest number comes first for the machine, the one
//! with the next comes second, and so on. So a server gets machines in proportion to its weight; if it
//! leaves, only its own machines move, to the other servers in proportion to theirs.
//!
//! A number is the 64-bit FNV-1a hash of these bytes, mixed by the last steps of SplitMix64:
//!
//! ```text
//! | address of the server (4) | draw, 1 to its weight (1) | hardware address (6 on Ethernet) |
//! ```
//!
//! The numbers are the same in every version and on every architecture: servers of different
//! versions share machines while they are upgraded.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

/// A server in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its addresses, one on each network that it serves. The first is its name, and decides which
    /// machines it gets.
    addresses: Vec<Ipv4Addr>,
    weight: u8,
    is_draining: bool,
}

impl Server {
    /// Largest weight: the work for a message grows with it.
    pub const WEIGHT_MAX: u8 = 100;

    /// Creates a server of weight 1 with at least one address.
    pub fn new(address: Ipv4Addr, others: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let addresses = std::iter::once(address).chain(others).collect();
        Self { addresses, weight: 1, is_draining: false }
    }

    /// Sets its weight, at least 1.
    #[must_use]
    pub fn with_weight(self, weight: u8) -> Self {
        Self { weight: weight.clamp(1, Self::WEIGHT_MAX), ..self }
    }

    /// Puts it behind all others.
    #[must_use]
    pub fn draining(self, is_draining: bool) -> Self {
        Self { is_draining, ..self }
    }

    /// Returns its first address.
    pub fn name(&self) -> Ipv4Addr {
        self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// Returns all its addresses.
    pub(crate) fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Returns whether it has this address.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// Returns its highest number for a machine.
    fn score(&self, machine: &[u8]) -> u64 {
        (1..=self.weight).map(|draw| number(self.name(), draw, machine)).max().unwrap_or_default()
    }
}

/// The servers that share the machines of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers(Vec<Server>);

impl Servers {
    /// Most servers: each message costs a look at all of them.
    pub const MAX: usize = 64;

    /// Creates a list of servers without a common address.
    pub fn new(servers: Vec<Server>) -> Self {
        Self(servers)
    }

    /// Returns the servers in the order in which they answer a machine with this hardware address.
    pub fn order(&self, machine: &[u8]) -> Vec<&Server> {
        let mut order: Vec<&Server> = self.0.iter().collect();
        order
            .sort_by_cached_key(|server| (server.is_draining, Reverse(server.score(machine)), server.name()));
        order
    }

    /// Returns the servers in the order of the list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.0.iter()
    }

    /// Returns the server with this address.
    pub(crate) fn of(&self, address: Ipv4Addr) -> Option<&Server> {
        self.0.iter().find(|server| server.has(address))
    }

    /// Returns all other servers than the one with this address.
    pub(crate) fn peers(&self, own: Ipv4Addr) -> impl Iterator<Item = &Server> {
        self.0.iter().filter(move |server| !server.has(own))
    }
}

/// Returns a number of a server for a machine.
fn number(server: Ipv4Addr, draw: u8, machine: &[u8]) -> u64 {
    /// FNV-1a of 64 bits: draft-eastlake-fnv, §2.
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = server.octets().into_iter().chain([draw]).chain(machine.iter().copied());
    let hash = bytes.fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    // FNV-1a alone moves the last bytes into the low bits only. SplitMix64 (Steele, Lea, Flood 2014).
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn server(n: u8, weight: u8) -> Server {
        Server::new(Ipv4Addr::new(10, 0, 0, n), []).with_weight(weight)
    }

    fn servers(weights: &[u8]) -> Servers {
        Servers::new((1..).zip(weights).map(|(n, &weight)| server(n, weight)).collect())
    }

    /// Cards of one maker, with numbers in a row, as those of a room have.
    fn machines(count: u32) -> impl Iterator<Item = [u8; 6]> {
        (0..count).map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            [0x52, 0x54, 0, a, b, c]
        })
    }

    fn first(servers: &Servers, machine: [u8; 6]) -> Ipv4Addr {
        servers.order(&machine)[0].name()
    }

    fn shares(servers: &Servers, count: u32) -> HashMap<Ipv4Addr, u32> {
        let mut shares = HashMap::new();
        machines(count).for_each(|machine| *shares.entry(first(servers, machine)).or_insert(0) += 1);
        shares
    }

    /// Computed by another program from the description above. A server of another version must come
    /// to the same.
    #[test]
    fn numbers_never_change() {
        let mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
        let numbers = [(2, 1), (3, 1), (3, 2)].map(|(n, draw)| number([10, 0, 0, n].into(), draw, &mac));
        assert_eq!(numbers, [0xf2ee_7eae_8261_c2b0, 0xb627_cd85_f80d_93a0, 0x3625_45f9_8346_1a93]);
    }

    #[test]
    fn machines_are_shared_by_weight() {
        // Three standard deviations of a fair share.
        for (weights, count) in
            [(&[1, 1][..], 20_000), (&[1, 1, 1], 30_000), (&[1, 3], 40_000), (&[5, 2, 1], 40_000)]
        {
            let (servers, sum) =
                (servers(weights), weights.iter().map(|&weight| f64::from(weight)).sum::<f64>());
            let shares = shares(&servers, count);
            for (server, &weight) in servers.iter().zip(weights) {
                let part = f64::from(weight) / sum;
                let deviation = (f64::from(count) * part * (1.0 - part)).sqrt();
                let off = (f64::from(shares[&server.name()]) - f64::from(count) * part).abs();
                assert!(off < 3.5 * deviation, "{weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn machines_of_a_small_room_are_shared_too() {
        let shares = shares(&servers(&[1, 1]), 40);
        assert!(shares.values().all(|&share| share >= 12), "{shares:?}");
    }

    #[test]
    fn server_that_leaves_moves_its_own_machines_only() {
        let (all, without) = (servers(&[2, 1, 1]), Servers::new(vec![server(1, 2), server(3, 1)]));
        let gone = Ipv4Addr::new(10, 0, 0, 2);
        for machine in machines(5000) {
            let order: Vec<_> = all.order(&machine).into_iter().map(Server::name).collect();
            let left: Vec<_> = without.order(&machine).into_iter().map(Server::name).collect();
            // Who covers for it is who gets the machine when it is off the list.
            assert_eq!(order.into_iter().filter(|&name| name != gone).collect::<Vec<_>>(), left);
        }
    }

    #[test]
    fn weight_that_grows_takes_machines_and_gives_none() {
        let (before, after) = (servers(&[1, 1, 1]), servers(&[1, 2, 1]));
        for machine in machines(5000) {
            let (before, after) = (first(&before, machine), first(&after, machine));
            assert!(before == after || after == Ipv4Addr::new(10, 0, 0, 2), "{before} {after}");
        }
    }

    #[test]
    fn order_does_not_depend_on_the_list() {
        let list = [server(1, 1), server(2, 3), server(3, 1)];
        let reversed = Servers::new(list.iter().rev().cloned().collect());
        let servers = Servers::new(list.to_vec());
        assert!(machines(500).all(|machine| servers.order(&machine) == reversed.order(&machine)));
    }

    #[test]
    fn draining_server_comes_last() {
        let list = vec![server(1, 100).draining(true), server(2, 1), server(3, 1)];
        let servers = Servers::new(list);
        for machine in machines(200) {
            assert_eq!(servers.order(&machine)[2].name(), Ipv4Addr::new(10, 0, 0, 1));
        }
    }

    #[test]
    fn server_is_found_by_each_address() {
        let other = Ipv4Addr::new(10, 1, 0, 1);
        let servers = Servers::new(vec![Server::new(Ipv4Addr::new(10, 0, 0, 1), [other]), server(2, 1)]);
        assert_eq!(servers.of(other).map(Server::name), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(servers.of(Ipv4Addr::new(10, 0, 0, 9)), None);
        let peers: Vec<_> = servers.peers(other).map(Server::name).collect();
        assert_eq!(peers, [Ipv4Addr::new(10, 0, 0, 2)]);
    }
}
