use std::io;
use std::net::SocketAddrV4;

use super::*;
use crate::interfaces::Address;
use crate::server::{DirectoryContent, Obstacle, WrittenDirectory};

const PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 69);

fn link(name: &str, address: Option<[u8; 4]>) -> Interface {
    let address = address.map(|ip| Address { ip: ip.into(), netmask: Ipv4Addr::new(255, 255, 255, 0) });
    Interface {
        name: name.into(),
        index: 1,
        is_up: true,
        has_carrier: true,
        mac: Some([2; 6]),
        addresses: address.into_iter().collect(),
        is_broadcast: true,
        is_multicast: true,
    }
}

fn program(name: &str) -> PortOwner {
    PortOwner::Process { name: name.into(), pid: 7 }
}

#[test]
fn interface_needs_an_address_and_a_cable() {
    let up = link("eth0", Some([10, 0, 0, 1]));
    let bare = link("eth1", None);
    let loose = Interface { has_carrier: false, ..link("eth2", Some([10, 0, 2, 1])) };
    let down = Interface { is_up: false, ..link("eth3", Some([10, 0, 3, 1])) };
    let lo = Interface { is_broadcast: false, ..link("lo", Some([127, 0, 0, 1])) };
    let all = [up, bare, loose, down, lo];
    let of = |only| {
        let Finding { verdict, text, .. } = interfaces(&all, only);
        (verdict, text)
    };
    assert_eq!(of(None), (Verdict::Ok, "eth0 10.0.0.1, eth2 10.0.2.1 (not connected)".into()));
    assert_eq!(of(Some("eth0")), (Verdict::Ok, "eth0 10.0.0.1".into()));
    assert_eq!(of(Some("eth1")), (Verdict::Fault, "eth1 has no IPv4 address".into()));
    assert_eq!(of(Some("eth2")), (Verdict::Warning, "eth2 10.0.2.1 (not connected)".into()));
    assert_eq!(of(Some("eth3")), (Verdict::Fault, "eth3 is down".into()));
    let verdict = |list: &[Interface]| interfaces(list, None).verdict;
    assert_eq!(
        [verdict(&all[1..2]), verdict(&all[2..]), verdict(&all[3..])],
        [Verdict::Fault, Verdict::Warning, Verdict::Fault]
    );
}

#[test]
fn privilege_matters_if_a_service_lacks_it() {
    let judged = |has_capability, lacks| {
        let own = Privileges { has_capability, first_free_port: 1024 };
        privileges(own, lacks, Path::new("/usr/bin/isowire"))
    };
    assert_eq!([judged(true, false), judged(false, false)].map(|it| it.verdict), [Verdict::Ok; 2]);
    let warning = judged(false, true);
    assert_eq!(
        (warning.verdict, &*warning.text),
        (Verdict::Warning, "ports below 1024 are closed to this user")
    );
    assert!(warning.fix.unwrap().starts_with("`sudo setcap cap_net_bind_service+ep /usr/bin/isowire`"));
}

#[test]
fn service_off_is_a_warning_unless_chosen() {
    let row = |obstacle| ServiceRow {
        service: "TFTP",
        address: None,
        state: "off: another program has it".into(),
        obstacle,
    };
    let obstacle = || Some(Obstacle { taken: Some(PORT), fix: Some("stop it".into()) });
    assert_eq!(service(&row(None), None, false).verdict, Verdict::Ok);
    let other = program("dnsmasq");
    let finding = service(&row(obstacle()), Some(&other), true);
    assert_eq!(finding, Finding::warning("TFTP", "off: dnsmasq (process 7) has it", "stop it"));
    let own = program("isowire");
    assert_eq!(service(&row(obstacle()), Some(&own), true).verdict, Verdict::Ok);
    assert_eq!(service(&row(obstacle()), Some(&own), false).verdict, Verdict::Warning);
}

#[test]
fn refused_service_is_a_fault() {
    let error = |kind: io::ErrorKind| StartError::Bind {
        service: "tftp",
        address: PORT,
        error: kind.into(),
        fix: "change `tftp`".into(),
    };
    let in_use = error(io::ErrorKind::AddrInUse);
    let finding = refusal(&in_use, Some(&program("dnsmasq")), false);
    assert_eq!((finding.verdict, finding.subject), (Verdict::Fault, "tftp"));
    assert!(finding.text.ends_with(", by dnsmasq (process 7)"), "{}", finding.text);
    assert_eq!(refusal(&in_use, Some(&program("isowire")), true).verdict, Verdict::Ok);
    assert_eq!(taken(&in_use), Some(("tftp", PORT)));
    assert_eq!(taken(&error(io::ErrorKind::PermissionDenied)), None);
    let row = ServiceRow { service: "TFTP", address: None, state: "off".into(), obstacle: None };
    assert!(is_about(&in_use, &row) && !is_about(&in_use, &ServiceRow { service: "NBD", ..row }));
}

#[test]
fn other_dhcp_server_is_wanted_by_a_proxy_only() {
    let probe = |found| DhcpProbe {
        interface: "eth0".into(),
        local: Ipv4Addr::new(10, 0, 0, 1),
        peers: Vec::new(),
        found,
    };
    let server = Ipv4Addr::new(10, 0, 0, 9);
    let role = crate::dhcp::server::ServerConfig { subnets: vec![], lease_file: None };
    let verdicts = |probes: &[DhcpProbe]| {
        [Dhcp::Off, Dhcp::Server(role.clone())].map(|dhcp| other_dhcp(&dhcp, probes)[0].verdict)
    };
    assert_eq!(verdicts(&[probe(Ok(Some(server)))]), [Verdict::Ok, Verdict::Fault]);
    assert_eq!(verdicts(&[probe(Ok(None))]), [Verdict::Warning, Verdict::Ok]);
    assert_eq!(verdicts(&[]), [Verdict::Warning; 2]);
    let refused = || probe(Err(io::ErrorKind::PermissionDenied.into()));
    assert_eq!(verdicts(&[probe(Ok(None)), refused()]), [Verdict::Warning; 2]);
    assert_eq!(verdicts(&[refused(), probe(Ok(Some(server)))]), [Verdict::Ok, Verdict::Fault]);
    let both = [probe(Ok(Some(server))), probe(Ok(Some(Ipv4Addr::new(10, 0, 0, 8))))];
    assert_eq!(other_dhcp(&Dhcp::Server(role.clone()), &both).len(), 2);
}

#[test]
fn image_boots_by_some_firmware() {
    let boot = |firmware: &str, can| FirmwareBoot {
        firmware: firmware.into(),
        boot_file: Some("file".to_owned()).filter(|_| can),
        obstacles: vec!["why".into()],
        remarks: vec![],
    };
    let of = |boots: &[FirmwareBoot]| {
        let Finding { verdict, text, .. } = firmware("arch", boots);
        (verdict, text)
    };
    assert_eq!(
        of(&[boot("BIOS", true), boot("UEFI", true)]),
        (Verdict::Ok, "arch boots by BIOS, UEFI".into())
    );
    let one = (Verdict::Warning, "arch boots by BIOS only: UEFI: why".into());
    assert_eq!(of(&[boot("BIOS", true), boot("UEFI", false)]), one);
    assert_eq!(of(&[boot("UEFI", false)]), (Verdict::Fault, "arch does not boot: UEFI: why".into()));
    assert_eq!(of(&[]), (Verdict::Fault, "arch: not an Arch ISO".into()));
}

#[test]
fn hooks_matter_for_roots_that_are_served() {
    let support = |root: Root, has: bool| RootSupport {
        root: root.to_string(),
        initramfs: "/initramfs".into(),
        shortfall: (!has).then(|| "lacks hook x".into()),
    };
    let all = [support(Root::Nbd, true), support(Root::Nfs, false), support(Root::Http, false)];
    let of = |served: &[Root]| hooks("arch", &all, served).verdict;
    assert_eq!(of(&[Root::Nbd]), Verdict::Ok);
    assert_eq!(of(&[Root::Nbd, Root::Nfs]), Verdict::Warning);
    assert_eq!(of(&[Root::Nfs, Root::Http]), Verdict::Warning);
    let text = hooks("arch", &all, &[Root::Nfs]).text;
    assert_eq!(text, "arch: root over NFS: /initramfs lacks hook x");
}

#[test]
fn directory_of_leases_has_to_be_written() {
    use DirectoryContent::{Cache, Leases, NextBoots, Sockets};
    let state = |content, is_writable, free| {
        let directory = WrittenDirectory { path: Path::new("/d"), content };
        directory_verdict(&DirectoryState { directory, is_writable, free })
    };
    assert_eq!(state(Leases, true, Some(ROOM_MIN)), Verdict::Ok);
    assert_eq!(state(Leases, true, None), Verdict::Ok);
    assert_eq!(state(Leases, true, Some(ROOM_MIN - 1)), Verdict::Warning);
    assert_eq!(state(Leases, false, None), Verdict::Fault);
    assert_eq!(state(Cache, false, None), Verdict::Fault);
    assert_eq!(state(NextBoots, false, None), Verdict::Fault);
    assert_eq!(state(Sockets, false, None), Verdict::Warning);
}

fn directory_verdict(state: &DirectoryState<'_>) -> Verdict {
    directory(state).verdict
}

#[test]
fn clock_is_not_before_an_image() {
    let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
    let of = |is_kept, newest: Option<&str>| {
        clock(&ClockState { now, is_kept }, newest.map(|newest| newest.parse().unwrap()))
    };
    assert_eq!(of(Some(true), Some("2026-11-01T00:00:00Z")), Finding::ok("clock", "2026-11-30 12:00 UTC"));
    assert_eq!(of(None, None).verdict, Verdict::Ok);
    assert_eq!(of(Some(false), None).verdict, Verdict::Warning);
    let fault = of(Some(true), Some("2027-01-01T00:00:00Z"));
    assert_eq!(
        (fault.verdict, &*fault.text),
        (Verdict::Fault, "2026-11-30 12:00 UTC is before an image was made (2027-01-01)")
    );
}

#[test]
fn other_isowire_is_taken_over_or_in_the_way() {
    let socket = Some(Path::new("/run/isowire/status.sock"));
    let verdicts = [other_isowire(None, false), other_isowire(socket, true), other_isowire(socket, false)];
    assert_eq!(verdicts.map(|finding| finding.verdict), [Verdict::Ok, Verdict::Ok, Verdict::Warning]);
}
