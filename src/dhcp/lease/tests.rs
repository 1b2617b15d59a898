use super::*;

const START: UnixTime = UnixTime(1_700_000_000);
const HOUR: u32 = 3600;

fn machine(n: u8) -> HardwareAddress {
    HardwareAddress::ethernet([0x52, 0x54, 0, 0, 0, n])
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

fn leases(pool: &str) -> Leases {
    Leases::new(pool.parse().unwrap(), HOUR, &[])
}

#[test]
fn pool_is_read_or_refused() {
    let pool: Pool = "10.0.0.50 - 10.0.0.99".parse().unwrap();
    assert_eq!(pool.to_string(), "10.0.0.50-10.0.0.99");
    assert!("10.0.0.5-10.0.0.5".parse::<Pool>().is_ok());
    assert!("10.0.0.0-10.0.255.255".parse::<Pool>().is_ok());
    let error = |text: &str| text.parse::<Pool>().unwrap_err().to_string();
    assert!(error("10.0.0.5").contains("expected FIRST-LAST"));
    let reversed = "address range 10.0.0.5-10.0.0.4 ends before it starts; swap the two addresses";
    assert_eq!(error("10.0.0.5-10.0.0.4"), reversed);
    assert!(error("10.0.0.0-10.1.0.0").contains("more than 65536"));
}

#[test]
fn address_follows_hardware_address() {
    let (mut one, mut other) = (leases("10.0.0.1-10.0.0.200"), leases("10.0.0.1-10.0.0.200"));
    // Another order, another table: the same address. (These five prefer different addresses.)
    let there: Vec<_> = (1..=5).map(|n| one.offer(machine(n), None, START)).collect();
    let back: Vec<_> = (1..=5).rev().map(|n| other.offer(machine(n), None, START)).collect();
    assert!(there.iter().eq(back.iter().rev()));
    assert_eq!(one.offer(machine(3), None, START), there[2], "asked again");
}

#[test]
fn address_is_offered_to_one_machine() {
    let mut leases = leases("10.0.0.1-10.0.0.3");
    let given: BTreeSet<_> = (1..=3).map(|n| leases.offer(machine(n), None, START).unwrap()).collect();
    assert_eq!(given.len(), 3);
    assert_eq!(leases.offer(machine(4), None, START), None, "the pool is full");
    assert_eq!(leases.len(), 3, "a flood grows nothing");
}

#[test]
fn reserved_address_is_nobodys() {
    let mut leases = leases("10.0.0.1-10.0.0.3").with_fixed([(machine(9), address(9))].into());
    leases.claim(machine(1), address(1), START).unwrap();
    leases.claim(machine(9), address(9), START).unwrap();
    leases.take_events();
    leases.reserve([1, 2, 9, 77].map(address));
    let freed = [1, 9].map(|n| Event::Freed { address: address(n) });
    assert_eq!(leases.take_events(), freed, "what was not leased is not freed");
    assert_eq!(leases.claim(machine(1), address(1), START), Err(ClaimError::NotInPool));
    assert_eq!(leases.offer(machine(9), Some(address(2)), START), Some(address(3)));
    assert_eq!(leases.offer(machine(1), Some(address(1)), START), None, "the pool is full");
    leases.reserve([address(1)]);
    assert_eq!(leases.take_events(), []);
}

#[test]
fn offer_ends_before_lease() {
    let mut leases = leases("10.0.0.1-10.0.0.1");
    leases.offer(machine(1), None, START);
    assert_eq!(leases.offer(machine(2), None, START.after(OFFER_SECONDS - 1)), None);
    assert_eq!(leases.offer(machine(2), None, START.after(OFFER_SECONDS)), Some(address(1)));
    leases.claim(machine(2), address(1), START.after(OFFER_SECONDS)).unwrap();
    assert_eq!(leases.offer(machine(1), None, START.after(OFFER_SECONDS + HOUR - 1)), None);
    assert_eq!(leases.offer(machine(1), None, START.after(OFFER_SECONDS + HOUR)), Some(address(1)));
}

#[test]
fn offer_does_not_shorten_lease() {
    let mut leases = leases("10.0.0.1-10.0.0.1");
    leases.claim(machine(1), address(1), START).unwrap();
    leases.offer(machine(1), None, START);
    leases.withdraw_offer(&machine(1));
    assert_eq!(leases.offer(machine(2), None, START.after(HOUR - 1)), None);
}

#[test]
fn requested_address_is_offered_if_free() {
    let mut leases = leases("10.0.0.1-10.0.0.9");
    assert_eq!(leases.offer(machine(1), Some(address(7)), START), Some(address(7)));
    assert_ne!(leases.offer(machine(2), Some(address(7)), START), Some(address(7)));
    let outside = leases.offer(machine(3), Some(address(99)), START).unwrap();
    assert!(outside < address(10));
}

#[test]
fn claim_returns_its_error() {
    let mut leases = Leases::new("10.0.0.1-10.0.0.9".parse().unwrap(), HOUR, &[address(9)]);
    leases.claim(machine(1), address(1), START).unwrap();
    assert_eq!(leases.claim(machine(1), address(2), START), Err(ClaimError::HoldsAnother(address(1))));
    assert_eq!(leases.claim(machine(2), address(1), START), Err(ClaimError::Taken));
    assert_eq!(leases.claim(machine(2), address(9), START), Err(ClaimError::NotInPool), "reserved");
    assert_eq!(leases.claim(machine(2), address(10), START), Err(ClaimError::NotInPool));
}

#[test]
fn declined_address_is_quarantined() {
    let mut leases = leases("10.0.0.1-10.0.0.1");
    leases.claim(machine(1), address(1), START).unwrap();
    assert_eq!(leases.decline(&machine(2), address(1), START), None, "not the machine's to decline");
    assert_eq!(leases.decline(&machine(1), address(1), START), Some(Declined::Quarantined));
    assert_eq!(leases.offer(machine(1), None, START.after(599)), None);
    assert_eq!(leases.claim(machine(1), address(1), START.after(599)), Err(ClaimError::Taken));
    assert_eq!(leases.offer(machine(1), None, START.after(600)), Some(address(1)));
}

#[test]
fn release_frees_own_address_only() {
    let mut leases = leases("10.0.0.1-10.0.0.1");
    leases.claim(machine(1), address(1), START).unwrap();
    assert!(!leases.release(&machine(2), address(1)));
    assert!(leases.release(&machine(1), address(1)));
    assert_eq!(leases.offer(machine(2), None, START), Some(address(1)));
}

/// Applies a lease file and returns the number of unreadable lines.
fn replay(leases: &mut Leases, text: &str) -> usize {
    let (events, unreadable): (Vec<_>, Vec<_>) = events_of(text).partition(Result::is_ok);
    events.into_iter().flatten().for_each(|event| leases.replay(event, START));
    unreadable.len()
}

fn text_of(events: impl IntoIterator<Item = Event>) -> String {
    events.into_iter().map(|event| format!("{event}\n")).collect()
}

#[test]
fn leases_survive_restart() {
    let mut before = leases("10.0.0.1-10.0.0.9");
    before.claim(machine(1), address(1), START).unwrap();
    before.claim(machine(2), address(2), START).unwrap();
    before.claim(machine(3), address(3), START).unwrap();
    before.release(&machine(2), address(2));
    before.decline(&machine(3), address(3), START);
    before.offer(machine(4), Some(address(4)), START);
    let file = text_of(before.take_events());
    assert_eq!(
        file,
        "lease 10.0.0.1 52:54:00:00:00:01 until 1700003600\n\
         lease 10.0.0.2 52:54:00:00:00:02 until 1700003600\n\
         lease 10.0.0.3 52:54:00:00:00:03 until 1700003600\n\
         free 10.0.0.2\n\
         declined 10.0.0.3 until 1700000600\n"
    );
    assert!(before.take_events().is_empty());
    for text in [file, text_of(before.snapshot())] {
        let mut after = leases("10.0.0.1-10.0.0.9");
        assert_eq!(replay(&mut after, &text), 0);
        assert_eq!(after.len(), 2);
        assert!(after.has_lease(&machine(1), address(1)));
        assert_eq!(after.claim(machine(5), address(2), START), Ok(()));
        assert_eq!(after.claim(machine(6), address(3), START), Err(ClaimError::Taken));
    }
}

/// An initramfs never renews its lease.
#[test]
fn lease_in_use_is_renewed_in_its_second_half() {
    let mut table = leases("10.0.0.1-10.0.0.2");
    for n in 1..=2 {
        table.claim(machine(n), address(n), START).unwrap();
    }
    table.take_events();
    let is_used = |used: Ipv4Addr| used != address(2);
    table.renew_used(&is_used, START.after(HOUR / 2 - 1));
    assert_eq!(table.take_events(), [], "too early");
    table.renew_used(&is_used, START.after(HOUR - 1));
    let until = START.after(HOUR - 1).after(HOUR);
    assert_eq!(
        table.take_events(),
        [Event::Leased { address: address(1), machine: machine(1), until, known: false }]
    );
    assert_eq!(table.claim(machine(5), address(1), START.after(HOUR + 1)), Err(ClaimError::Taken));
    assert_eq!(table.claim(machine(5), address(2), START.after(HOUR + 1)), Ok(()));
    assert_eq!(table.claim(machine(6), address(1), until), Ok(()), "it ends without a root");
}

#[test]
fn offer_and_quarantine_are_not_renewed() {
    let mut table = leases("10.0.0.1-10.0.0.2");
    table.claim(machine(1), address(1), START).unwrap();
    table.decline(&machine(1), address(1), START);
    table.offer(machine(2), Some(address(2)), START);
    table.take_events();
    table.renew_used(&|_| true, START);
    assert_eq!(table.take_events(), []);
    let later = START.after(QUARANTINE_SECONDS);
    assert!([1, 2].into_iter().all(|n| table.claim(machine(n + 2), address(n), later).is_ok()));
}

#[test]
fn damaged_lease_file_loses_damaged_lines() {
    let text = "# leases\n\
        lease 10.0.0.1 52:54:00:00:00:01 until 1700003600\n\
        lease 10.0.0.2 52:54:00 2 until 1700003600\n\
        lease 10.0.0.77 52:54:00:00:00:03 until 1700003600\n\
        lease 10.0.0.4 52:54:00:00:00:04 until 1600000000\n\
        lease 10.0.0.5 52:54:00:00:00:01 until 1700003600\n\
        lease 10.0.0.6 20-80:00:00:48 until 1700003600\r\n\
        lease 10.0.0.8 52:54:00:00:00:08 until 17000";
    let mut leases = leases("10.0.0.1-10.0.0.9");
    assert_eq!(replay(&mut leases, text), 1, "the line with half an address");
    assert_eq!(leases.len(), 2, "out of the pool, over, moved on, and torn: {leases:?}");
    assert!(leases.has_lease(&machine(1), address(5)), "the last line of a machine holds");
    assert!(leases.holds.contains_key(&address(6)));
}

fn with_fixed() -> Leases {
    // One in the pool, one beside it.
    let fixed = [(machine(1), address(2)), (machine(2), Ipv4Addr::new(10, 0, 0, 200))];
    leases("10.0.0.1-10.0.0.3").with_fixed(fixed.into())
}

#[test]
fn fixed_address_is_for_its_machine() {
    let mut leases = with_fixed();
    for (n, own) in [(1, address(2)), (2, Ipv4Addr::new(10, 0, 0, 200))] {
        assert_eq!(leases.offer(machine(n), Some(address(1)), START), Some(own), "whatever it asks for");
        assert_eq!(leases.claim(machine(n), own, START), Ok(()));
    }
    assert_eq!(leases.offer(machine(3), Some(address(2)), START), leases.offer(machine(3), None, START));
    assert_eq!(leases.claim(machine(4), address(2), START), Err(ClaimError::Taken));
    leases.release(&machine(1), address(2));
    assert_eq!(leases.claim(machine(4), address(2), START), Err(ClaimError::NotInPool));
    assert_eq!(leases.claim(machine(1), address(2), START), Ok(()));
    // All that are left of the pool.
    let left: std::collections::BTreeSet<_> =
        (10..20).filter_map(|n| leases.offer(machine(n), None, START)).collect();
    assert!(!left.contains(&address(2)) && left.len() == 1, "{left:?}");
}

#[test]
fn declined_fixed_address_is_quarantined() {
    let mut leases = with_fixed();
    assert_eq!(leases.offer(machine(1), None, START), Some(address(2)));
    assert_eq!(leases.decline(&machine(1), address(2), START), Some(Declined::Quarantined));
    let other = leases.offer(machine(1), None, START).unwrap();
    assert_ne!(other, address(2));
    let later = START.after(QUARANTINE_SECONDS + OFFER_SECONDS);
    assert_eq!(leases.offer(machine(1), None, later), Some(address(2)));
}

#[test]
fn lease_from_before_rule_is_kept() {
    let mut leases = with_fixed();
    let until = START.after(1000);
    for event in [
        Event::Leased { address: address(1), machine: machine(1), until, known: false },
        // Another's own by now.
        Event::Leased { address: address(2), machine: machine(3), until, known: false },
    ] {
        leases.replay(event, START);
    }
    assert_eq!(leases.len(), 1);
    assert_eq!(leases.claim(machine(1), address(1), START), Ok(()), "it renews what it has");
    assert_eq!(leases.offer(machine(1), None, START), Some(address(2)), "it starts anew");
    assert_eq!(leases.claim(machine(1), address(2), START), Ok(()));
    assert!(leases.has_lease(&machine(1), address(1)) && leases.has_lease(&machine(1), address(2)));
    let mut restarted = with_fixed();
    leases.snapshot().for_each(|event| restarted.replay(event, START));
    assert!(restarted.has_lease(&machine(1), address(1)) && restarted.has_lease(&machine(1), address(2)));
    let later = START.after(HOUR + 1);
    assert_eq!(leases.offer(machine(1), None, later), Some(address(2)));
    assert_eq!(leases.len(), 1, "the other is over");
}

/// One machine cannot empty the pool by declining what it gets.
#[test]
fn machine_that_declines_all_is_disbelieved() {
    let mut leases = leases("10.0.0.1-10.0.0.9");
    let declined: Vec<_> = (0..20)
        .map(|_| {
            let offered = leases.offer(machine(1), None, START).unwrap();
            leases.claim(machine(1), offered, START).unwrap();
            leases.decline(&machine(1), offered, START).unwrap()
        })
        .collect();
    assert_eq!(declined.iter().filter(|&&declined| declined == Declined::Quarantined).count(), 3);
    assert_eq!(leases.len(), 3, "the others are free");
}

#[test]
fn quarantine_ends_when_nobody_uses_the_address() {
    let mut leases = leases("10.0.0.1-10.0.0.1");
    leases.claim(machine(1), address(1), START).unwrap();
    leases.end_quarantine(address(1));
    assert!(leases.has_lease(&machine(1), address(1)), "a lease is no quarantine");
    leases.decline(&machine(1), address(1), START);
    leases.take_events();
    leases.end_quarantine(address(1));
    assert_eq!(leases.take_events(), [Event::Freed { address: address(1) }]);
    assert_eq!(leases.offer(machine(2), None, START), Some(address(1)));
}

#[test]
fn used_address_is_not_offered() {
    let mut leases = leases("10.0.0.1-10.0.0.2");
    let first = leases.offer(machine(1), None, START).unwrap();
    leases.withdraw_used(first, START);
    let second = leases.offer(machine(1), None, START).unwrap();
    assert_ne!(first, second);
    leases.claim(machine(1), second, START).unwrap();
    leases.withdraw_used(second, START);
    assert!(leases.has_lease(&machine(1), second), "its holder uses it");
    assert_eq!(leases.claim(machine(2), first, START), Err(ClaimError::Taken));
    assert_eq!(leases.offer(machine(2), None, START.after(USED_SECONDS - 1)), None);
    assert_eq!(leases.offer(machine(2), None, START.after(USED_SECONDS)), Some(first));
    assert_eq!(text_of(leases.snapshot()).lines().count(), 1, "only the lease is written");
}

/// Strangers take every address that they can get.
#[test]
fn address_of_known_machine_is_kept() {
    let mut table = leases("10.0.0.1-10.0.0.3");
    table.claim(machine(1), address(1), START).unwrap();
    table.claim(machine(2), address(2), START).unwrap();
    table.note_booted(&|booted| booted == address(1));
    let later = START.after(HOUR + 1);
    for n in 10..30 {
        if let Some(offered) = table.offer(machine(n), Some(address(1)), later) {
            table.claim(machine(n), offered, later).unwrap();
        }
    }
    assert_eq!(table.offer(machine(2), None, later), None, "it never booted");
    // An offer that the machine does not take ends nothing, nor does a choice of another server.
    assert_eq!(table.offer(machine(1), None, later), Some(address(1)));
    table.withdraw_offer(&machine(1));
    assert_eq!(table.decline(&machine(1), address(1), later), None);
    assert_eq!(table.offer(machine(1), None, later.after(100)), Some(address(1)));
    let text = text_of(table.snapshot());
    assert!(text.contains("lease 10.0.0.1 52:54:00:00:00:01 until 1700003600 known\n"), "{text}");
    let mut restarted = leases("10.0.0.1-10.0.0.3");
    assert_eq!(replay(&mut restarted, &text), 0);
    for table in [&mut table, &mut restarted] {
        assert_eq!(table.claim(machine(1), address(1), later), Ok(()));
    }
    // Two lengths of a lease after it was last seen, the address is free.
    let gone = later.after(2 * HOUR);
    assert_eq!(table.claim(machine(5), address(1), gone), Ok(()));
}
