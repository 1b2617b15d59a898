use super::*;

fn name(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

/// Three servers, and nothing known before.
struct Room {
    turns: Turns,
    start: Instant,
}

impl Room {
    fn new(started: Option<Instant>) -> Self {
        let servers = (1..=3).map(|n| Server::new(name(n), [])).collect();
        let start = started.unwrap_or_else(Instant::now);
        Self { turns: Turns::new(Arc::new(Servers::new(servers)), started), start }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// Names of the servers in the order for a machine.
    fn order(&self, machine: &HardwareAddress) -> Vec<Ipv4Addr> {
        self.turns.servers().order(machine.bytes()).into_iter().map(Server::name).collect()
    }

    /// Handles a DISCOVER as the server that has this place for the machine.
    fn discover(&mut self, place: usize, change: impl FnOnce(&mut Discover<'_>), seconds: u64) -> Turn {
        let machine = machine(7);
        let own = self.order(&machine)[place];
        let mut discover =
            Discover { machine: &machine, own, is_boot_client: true, has_root: false, is_draining: false };
        change(&mut discover);
        let now = self.at(seconds);
        self.turns.discover(discover, now)
    }

    fn later(&self, seconds: u64, first: Option<Ipv4Addr>) -> Turn {
        Turn::Later { at: self.at(seconds), first }
    }
}

fn machine(n: u32) -> HardwareAddress {
    let [a, b, c, d] = n.to_be_bytes();
    HardwareAddress::ethernet([2, 0, a, b, c, d])
}

fn unchanged(_: &mut Discover<'_>) {}

#[test]
fn server_waits_a_second_for_each_before_it() {
    for place in 0..3 {
        let mut room = Room::new(None);
        let first = room.order(&machine(7))[0];
        let turn = room.discover(place, unchanged, 0);
        match place {
            0 => assert_eq!(turn, Turn::Now { silent: None }),
            _ => assert_eq!(turn, room.later(place as u64, Some(first))),
        }
        // Repeated: the time counts from the first message.
        assert_eq!(
            room.discover(place, unchanged, 2),
            Turn::Now { silent: (place > 0).then_some(first) },
            "{place}"
        );
    }
}

/// All servers hear the same messages, and each has its own second.
#[test]
fn no_two_servers_answer_at_a_time() {
    let seconds = |chosen: Option<usize>, draining: Option<usize>| {
        let mut seconds: Vec<_> = (0..3)
            .map(|place| {
                let mut room = Room::new(None);
                let chosen = chosen.map(|chosen| room.order(&machine(7))[chosen]);
                room.turns.chose(&machine(7), chosen, room.start);
                let is_draining = draining == Some(place);
                match room.discover(place, |discover| discover.is_draining = is_draining, 0) {
                    Turn::Now { .. } => 0,
                    Turn::Later { at, .. } => (at - room.start).as_secs(),
                }
            })
            .collect();
        seconds.sort_unstable();
        seconds
    };
    for chosen in [None, Some(0), Some(1), Some(2)] {
        assert_eq!(seconds(chosen, None), [0, 1, 2], "{chosen:?}");
        for draining in 0..3 {
            let seconds = seconds(chosen, Some(draining));
            assert!(seconds.is_sorted_by(|one, next| one < next), "{chosen:?} {draining} {seconds:?}");
        }
    }
}

#[test]
fn message_after_a_pause_begins_a_round() {
    let mut room = Room::new(None);
    let first = room.order(&machine(7))[0];
    assert_eq!(room.discover(1, unchanged, 0), room.later(1, Some(first)));
    assert_eq!(room.discover(1, unchanged, 21), room.later(22, Some(first)));
}

#[test]
fn offer_of_another_server_ends_the_wait() {
    let mut room = Room::new(None);
    let (machine, own) = (machine(7), room.order(&machine(7))[1]);
    let other = room.order(&machine)[0];
    room.discover(1, unchanged, 0);
    assert!(room.turns.is_open(&machine, own));
    room.turns.offered(&machine, other, room.start);
    assert!(!room.turns.is_open(&machine, own));
}

#[test]
fn request_ends_the_wait() {
    let mut room = Room::new(None);
    let (machine, own) = (machine(7), room.order(&machine(7))[1]);
    room.discover(1, unchanged, 0);
    // Beside another DHCP server, the REQUEST names that.
    room.turns.chose(&machine, Some(name(99)), room.start);
    assert!(!room.turns.is_open(&machine, own));
    assert_ne!(room.turns.chosen_by(&machine), Some(own), "another has the first place");
}

#[test]
fn boot_stays_with_the_server_that_it_chose() {
    let mut room = Room::new(None);
    let order = room.order(&machine(7));
    // The last server covers for the others. They are back at once.
    room.turns.chose(&machine(7), Some(order[2]), room.start);
    assert_eq!(room.discover(2, unchanged, 60), Turn::Now { silent: None });
    room.turns.chose(&machine(7), Some(order[2]), room.start);
    assert_eq!(room.discover(0, unchanged, 60), room.later(61, Some(order[2])));
    room.turns.chose(&machine(7), Some(order[2]), room.start);
    assert_eq!(room.discover(1, unchanged, 60), room.later(62, Some(order[2])));
    // Its system asks much later.
    room.turns.chose(&machine(7), Some(order[2]), room.start);
    let of_system = |discover: &mut Discover<'_>| discover.is_boot_client = false;
    assert_eq!(room.discover(0, of_system, 3600), room.later(3601, Some(order[2])));
    // A boot client that asks later boots anew.
    room.turns.chose(&machine(7), Some(order[2]), room.start);
    assert_eq!(room.discover(0, unchanged, 120), Turn::Now { silent: None });
}

#[test]
fn chosen_server_that_is_gone_is_covered_too() {
    let mut room = Room::new(None);
    let order = room.order(&machine(7));
    room.turns.chose(&machine(7), Some(order[0]), room.start);
    assert_eq!(
        room.discover(1, unchanged, 5),
        room.later(6, Some(order[0])),
        "it had the first place anyway"
    );
}

#[test]
fn proxy_is_chosen_by_its_offer() {
    let mut room = Room::new(None);
    let order = room.order(&machine(7));
    let dhcp_server = Some(name(99));
    room.discover(1, unchanged, 0);
    room.turns.offered(&machine(7), order[1], room.at(1));
    room.turns.chose(&machine(7), dhcp_server, room.at(2));
    assert_eq!(room.turns.chosen_by(&machine(7)), Some(order[1]));
    assert_eq!(room.discover(1, unchanged, 20), Turn::Now { silent: None });
    assert_eq!(room.discover(0, unchanged, 20), room.later(21, Some(order[1])));
}

#[test]
fn new_server_lets_others_go_on_first() {
    let mut room = Room::new(Some(Instant::now()));
    let order = room.order(&machine(7));
    assert_eq!(room.discover(0, unchanged, 0), room.later(1, None));
    assert_eq!(room.discover(0, unchanged, 1), Turn::Now { silent: None });
    room.turns.chose(&machine(7), Some(order[0]), room.at(2));
    assert_eq!(room.discover(0, unchanged, 10), Turn::Now { silent: None }, "it is ours by now");
    assert_eq!(room.discover(0, unchanged, 599), room.later(600, None), "a new boot");
    assert_eq!(room.discover(0, unchanged, 700), Turn::Now { silent: None });
}

#[test]
fn system_on_a_root_is_answered_at_once() {
    let mut room = Room::new(Some(Instant::now()));
    let on_root = |discover: &mut Discover<'_>| {
        (discover.has_root, discover.is_boot_client, discover.is_draining) = (true, false, true);
    };
    assert_eq!(room.discover(2, on_root, 0), Turn::Now { silent: None });
    // Firmware that asks has no root any more, whatever the kernel still believes.
    let firmware = |discover: &mut Discover<'_>| discover.has_root = true;
    assert!(matches!(room.discover(2, firmware, 0), Turn::Later { .. }));
}

#[test]
fn draining_server_answers_after_all_others() {
    let mut room = Room::new(None);
    let order = room.order(&machine(7));
    let draining = |discover: &mut Discover<'_>| discover.is_draining = true;
    assert_eq!(room.discover(0, draining, 0), room.later(3, Some(order[1])));
    assert_eq!(room.discover(0, draining, 3), Turn::Now { silent: Some(order[1]) });
    // What it began it ends.
    room.turns.chose(&machine(7), Some(order[0]), room.at(4));
    assert_eq!(room.discover(0, draining, 60), Turn::Now { silent: None });
}

#[test]
fn address_that_is_not_listed_answers_at_once() {
    let mut room = Room::new(Some(Instant::now()));
    let elsewhere = |discover: &mut Discover<'_>| discover.own = name(77);
    assert_eq!(room.discover(0, elsewhere, 0), Turn::Now { silent: None });
}

#[test]
fn flood_of_machines_is_bounded() {
    let mut room = Room::new(None);
    for n in 0..2 * MACHINES_MAX as u32 {
        let now = room.start + Duration::from_millis(n.into());
        room.turns.chose(&machine(n), Some(name(1)), now);
        assert!(room.turns.machines.len() <= MACHINES_MAX);
    }
    assert!(room.turns.machines.len() > MACHINES_MAX / 2, "the latest are kept");
}
