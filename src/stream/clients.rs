//! Places of clients over TCP: how many there are, in all and for each address, and which of them
//! make room.
//!
//! A client is new until it is served: NBD until it chose an export, NFS and HTTP until it got
//! an answer, the portmapper always. When there is no place, the oldest new client makes room.
//! Clients that are served keep their place.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::descriptors::Descriptors;
use crate::locked::locked;
use crate::machines::{RefusedBy, Registry};

/// New clients at a time: a thousand machines that start at once have a few each.
const NEW_MAX: usize = 4096;

/// Clients at a time that are told why there is no place for them.
const REFUSED_MAX: usize = 64;

/// Time without a lack of places after which there is room again: a flood comes in waves.
const CALM: Duration = Duration::from_secs(5);

/// Limits of the clients over TCP, of all services together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    pub connections: usize,
    /// Connections of one address. Many machines may be behind one, so it is no limit for one.
    pub of_address: usize,
    pub descriptors: Descriptors,
}

/// Default of [`ClientLimits::of_address`]: a thousand machines behind one address with four each.
pub(crate) const OF_ADDRESS: usize = 4096;

impl ClientLimits {
    /// Limits that follow from the number of open files. One address gets at most half of all
    /// places, unless the operator says how many.
    pub(crate) fn new(
        descriptors: Descriptors,
        connections: Option<usize>,
        of_address: Option<usize>,
    ) -> Self {
        let connections = connections.unwrap_or(usize::MAX);
        let half = connections.min(descriptors.for_all()) / 2;
        Self { connections, of_address: of_address.unwrap_or(OF_ADDRESS.min(half)), descriptors }
    }
}

/// The clients of all services over TCP.
#[derive(Debug)]
pub(crate) struct Clients {
    limits: ClientLimits,
    /// Knows the addresses of machines that live on their root.
    machines: Option<Arc<Registry>>,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    of_address: HashMap<IpAddr, OfAddress>,
    /// New clients in the order of their arrival.
    new: BTreeMap<u64, NewClient>,
    next: u64,
    refused: usize,
    shortage: Option<Shortage>,
}

/// Clients of one address.
#[derive(Debug, Default)]
struct OfAddress {
    taken: usize,
    /// Clients that were turned away since it was last logged.
    is_logged: bool,
}

#[derive(Debug)]
struct NewClient {
    address: IpAddr,
    leave: oneshot::Sender<()>,
}

/// A time in which there is no place for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shortage {
    /// Places that were taken when it began.
    taken: usize,
    /// Time of the last client for which there was no place.
    last: Instant,
    made_room: u64,
    turned_away: u64,
}

/// Place of a client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    address: IpAddr,
    number: u64,
    is_new: bool,
}

/// Answer to a client that asks for a place.
#[derive(Debug)]
pub(crate) enum Admission {
    Admitted(Place),
    /// It is told so, if its protocol has words for it.
    Refused(RefusedPlace),
}

/// Reason why there is no place for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("too many connections from this address ({0}); close some, or raise max-connections-per-address")]
    OfAddress(usize),
    #[error("the server has no room for more connections; try again")]
    OfAll,
}

/// A client that is told why there is no place for it.
#[derive(Debug)]
pub(crate) struct RefusedPlace {
    clients: Arc<Clients>,
    pub(crate) why: Refusal,
}

/// Tells a new client to make room.
#[derive(Debug)]
pub(super) struct Departure(oneshot::Receiver<()>);

impl Default for Clients {
    /// Clients without limits, for a server in a test or in `check`.
    fn default() -> Self {
        let limits = ClientLimits {
            connections: usize::MAX,
            of_address: usize::MAX,
            descriptors: Descriptors::unlimited(),
        };
        Self { limits, machines: None, places: Mutex::default() }
    }
}

impl Clients {
    pub(crate) fn new(limits: ClientLimits, machines: Arc<Registry>) -> Self {
        Self { limits, machines: Some(machines), places: Mutex::default() }
    }

    /// Gives a place to a client that has been served before, by another process.
    pub(crate) fn add(self: &Arc<Self>, address: IpAddr) -> Place {
        locked(&self.places).take(self, address.to_canonical(), None)
    }

    /// Decides about a client that has connected; `None` if it is to be closed without a word.
    pub(super) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        socket: impl AsFd,
        protocol: &str,
    ) -> Option<(Admission, Departure)> {
        let address = address.to_canonical();
        let descriptor = socket.as_fd().as_raw_fd();
        let (leave, left) = oneshot::channel();
        let mut places = locked(&self.places);
        let refusal = self.refusal(&mut places, address, descriptor);
        let departure = Departure(left);
        let Some(why) = refusal else {
            let place = places.take(self, address, Some(leave));
            return Some((Admission::Admitted(place), departure));
        };
        places.turn_away(why, address, protocol);
        self.report(address, RefusedBy::Places, &why.to_string());
        if places.refused >= REFUSED_MAX || self.limits.descriptors.is_above_all(descriptor) {
            return None;
        }
        places.refused += 1;
        Some((Admission::Refused(RefusedPlace { clients: Arc::clone(self), why }), departure))
    }

    /// Tells the table of machines that a client was refused for its address.
    pub(super) fn report_not_allowed(&self, address: IpAddr) {
        self.report(address, RefusedBy::Allow, &format!("{} is not in `allow`", address.to_canonical()));
    }

    fn report(&self, address: IpAddr, by: RefusedBy, why: &str) {
        if let Some(machines) = &self.machines {
            machines.refused_at(address, by, why, Instant::now());
        }
    }

    /// Returns why there is no place, after others have made room.
    fn refusal(&self, places: &mut Places, address: IpAddr, descriptor: i32) -> Option<Refusal> {
        let ClientLimits { connections, of_address, descriptors } = self.limits;
        let taken = places.of_address.get(&address).map_or(0, |of_address| of_address.taken);
        if taken >= of_address && !places.make_room(|client| client.address == address) {
            return Some(Refusal::OfAddress(taken));
        }
        if places.new.len() >= NEW_MAX {
            places.make_room(|_| true);
        }
        if places.taken < connections && !descriptors.is_above_for_new(descriptor) {
            return None;
        }
        let has_room = places.make_room(|_| true);
        places.begin_shortage(has_room);
        // What makes room does so a moment later.
        if descriptors.is_above_all(descriptor) {
            return Some(Refusal::OfAll);
        }
        (!has_room && !self.has_root(address)).then_some(Refusal::OfAll)
    }

    /// Returns whether a machine at this address lives on its root: it connects again after a
    /// fault of the network, and places are kept for that.
    fn has_root(&self, address: IpAddr) -> bool {
        self.machines.as_ref().is_some_and(|machines| machines.has_booted(address))
    }
}

impl Places {
    fn take(&mut self, clients: &Arc<Clients>, address: IpAddr, leave: Option<oneshot::Sender<()>>) -> Place {
        let number = self.next;
        self.next += 1;
        self.taken += 1;
        self.of_address.entry(address).or_default().taken += 1;
        let is_new = leave.is_some();
        self.new.extend(leave.map(|leave| (number, NewClient { address, leave })));
        Place { clients: Arc::clone(clients), address, number, is_new }
    }

    /// Tells the oldest new client of these to leave; returns `false` if there is none.
    fn make_room(&mut self, may_leave: impl Fn(&NewClient) -> bool) -> bool {
        let Some((&number, _)) = self.new.iter().find(|(_, client)| may_leave(client)) else { return false };
        let client = self.new.remove(&number);
        // It may have left by itself.
        client.is_some_and(|client| client.leave.send(()).is_ok())
    }

    fn begin_shortage(&mut self, has_room: bool) {
        if self.shortage.is_none() {
            let taken = self.taken;
            warn!(
                connections = taken,
                "connections at their limit: new clients that ask for nothing make room, others may be refused. Raise the limit of open files, or `max-connections`"
            );
        }
        let taken = self.taken;
        let last = Instant::now();
        let shortage = self.shortage.get_or_insert(Shortage { taken, last, made_room: 0, turned_away: 0 });
        shortage.last = last;
        shortage.made_room += u64::from(has_room);
    }

    fn turn_away(&mut self, why: Refusal, address: IpAddr, protocol: &str) {
        match (why, self.of_address.get_mut(&address)) {
            (Refusal::OfAddress(connections), Some(of_address)) => {
                if !std::mem::replace(&mut of_address.is_logged, true) {
                    warn!(peer = %address, connections, "{protocol} clients of an address refused: it has `max-connections-per-address`");
                }
            }
            _ => {
                if let Some(shortage) = &mut self.shortage {
                    shortage.turned_away += 1;
                }
            }
        }
    }

    fn leave(&mut self, address: IpAddr, number: u64) {
        self.new.remove(&number);
        self.taken -= 1;
        if let Entry::Occupied(mut of_address) = self.of_address.entry(address) {
            of_address.get_mut().taken -= 1;
            if of_address.get().taken == 0 {
                of_address.remove();
            }
        }
        let Some(Shortage { taken, last, made_room, turned_away }) = self.shortage else { return };
        // Not at each place that is free for a moment.
        if self.taken < taken - taken / 8 && last.elapsed() >= CALM {
            self.shortage = None;
            info!(
                connections = self.taken,
                made_room,
                refused = turned_away,
                "room for new connections again"
            );
        }
    }
}

impl Place {
    /// Notes that the client is served: it makes room for others no more.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.is_new) {
            locked(&self.clients.places).new.remove(&self.number);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.clients.places).leave(self.address, self.number);
    }
}

impl Drop for RefusedPlace {
    fn drop(&mut self) {
        locked(&self.clients.places).refused -= 1;
    }
}

impl Departure {
    /// Waits until the client has to make room; for ever if it is served.
    pub(super) async fn requested(self) {
        if self.0.await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::Ipv4Addr;

    use super::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn clients(connections: usize, of_address: usize) -> Arc<Clients> {
        let limits = ClientLimits { connections, of_address, descriptors: Descriptors::unlimited() };
        let machines = Arc::new(Registry::new(Instant::now()));
        Arc::new(Clients::new(limits, machines))
    }

    /// A client, and whether it was told to make room.
    struct Client(Option<Place>, Departure);

    impl Client {
        fn is_leaving(&mut self) -> bool {
            self.1.0.try_recv().is_ok()
        }

        fn settle(&mut self) {
            self.0.as_mut().unwrap().settle();
        }
    }

    fn connect(clients: &Arc<Clients>, address: IpAddr) -> Result<Client, Refusal> {
        let socket = File::open("/dev/null").unwrap();
        match clients.admit(address, &socket, "test").unwrap() {
            (Admission::Admitted(place), departure) => Ok(Client(Some(place), departure)),
            (Admission::Refused(refused), _) => Err(refused.why),
        }
    }

    #[test]
    fn oldest_new_client_makes_room() {
        let clients = clients(3, 10);
        let [mut first, mut second, mut third] = [(); 3].map(|()| connect(&clients, A).unwrap());
        first.settle();
        let mut fourth = connect(&clients, B).unwrap();
        assert_eq!(
            [&mut first, &mut second, &mut third, &mut fourth].map(Client::is_leaving),
            [false, true, false, false]
        );
        drop(second);
        third.settle();
        fourth.settle();
        assert_eq!(connect(&clients, B).err(), Some(Refusal::OfAll), "all are served");
        drop(first);
        assert!(connect(&clients, B).is_ok());
    }

    #[test]
    fn address_has_its_own_limit() {
        let clients = clients(100, 2);
        let [mut first, mut second] = [(); 2].map(|()| connect(&clients, A).unwrap());
        first.settle();
        let mut third = connect(&clients, A).unwrap();
        assert!(second.is_leaving());
        drop(second);
        third.settle();
        assert_eq!(connect(&clients, A).err(), Some(Refusal::OfAddress(2)));
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        assert_eq!(connect(&clients, mapped).err(), Some(Refusal::OfAddress(2)), "the same address");
        assert!(connect(&clients, B).is_ok());
        drop(third);
        assert!(connect(&clients, A).is_ok());
    }

    #[test]
    fn client_of_another_process_is_counted_and_never_refused() {
        let clients = clients(1, 1);
        let kept = [A, A, B].map(|address| clients.add(address));
        assert_eq!(connect(&clients, B).err(), Some(Refusal::OfAddress(1)));
        drop(kept);
        assert!(connect(&clients, B).is_ok());
    }

    #[test]
    fn places_are_forgotten_with_their_clients() {
        let clients = clients(2, 2);
        let settled = [(); 2].map(|()| {
            let mut client = connect(&clients, A).unwrap();
            client.settle();
            client
        });
        assert!(connect(&clients, B).is_err() && locked(&clients.places).shortage.is_some());
        drop(settled);
        assert!(locked(&clients.places).shortage.is_some(), "a place that is free for a moment");
        let mut places = locked(&clients.places);
        if let Some(shortage) = &mut places.shortage {
            shortage.last -= CALM;
        }
        drop(places);
        drop(connect(&clients, A).unwrap());
        let places = locked(&clients.places);
        assert!(places.of_address.is_empty() && places.new.is_empty());
        assert_eq!((places.taken, places.refused, places.shortage), (0, 0, None));
    }

    #[test]
    fn limits_follow_from_open_files() {
        let limits = |open_files| ClientLimits::new(Descriptors::of(open_files), None, None).of_address;
        assert_eq!([limits(1024), limits(1 << 20)], [448, OF_ADDRESS]);
        let named = ClientLimits::new(Descriptors::of(1024), Some(100), Some(99));
        assert_eq!((named.connections, named.of_address), (100, 99));
    }
}
