//! Benchmark of DHCP: one message, from the bytes of a request to those of its reply.
//!
//! Cases: an offer of a proxy, an offer and a lease of the server role, an offer from a pool of 65,536
//! addresses of which one is free, and a client that a proxy does not answer. Wanted are 5,000
//! exchanges of two messages per second.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isowire::boot;
use isowire::boot::Ports;
use isowire::bootable::Root;
use isowire::dhcp::lease::{Leases, Pool, UnixTime};
use isowire::dhcp::session::{
    DhcpPort, LimitedIpxes, Network, Outcome, Request, Role, ServerRole, Session, Subnet,
};
use isowire::dhcp::wire::{HardwareAddress, Message};
use isowire::export::Allowed;
use isowire::text::Word;

const US: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const NOW: UnixTime = UnixTime(1_700_000_000);

const DISCOVER: &[u8] = include_bytes!("../tests/data/dhcp/ipxe-bios-discover.bin");
const PLAIN: &[u8] = include_bytes!("../tests/data/dhcp/ipconfig-discover.bin");

fn session(role: Role) -> Session {
    let image = Word::new("arch").expect("one word");
    let targets =
        boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), Ports { tftp: 69, http: Some(80) });
    Session {
        role,
        boot: targets.with_image(image, Ok(vec![Root::Nbd])),
        allowed: Allowed::default(),
        limited_ipxes: LimitedIpxes::default(),
    }
}

fn server_role() -> ServerRole {
    let first = Ipv4Addr::new(10, 0, 0, 0);
    let network =
        Network { address: first, netmask: Some(Ipv4Addr::new(255, 0, 0, 0)), router: None, dns: vec![] };
    let pool = Pool::new(first, Ipv4Addr::new(10, 0, 255, 255)).expect("as large as may be");
    ServerRole::new(vec![Subnet::new(network, Leases::new(pool, 3600, &[US]))])
}

/// Creates a server role with one free address.
fn nearly_full_server_role() -> ServerRole {
    let mut server_role = server_role();
    for n in 0..65_535_u32 {
        let [_, _, a, b] = n.to_be_bytes();
        let machine = HardwareAddress::ethernet([2, 9, 9, 9, a, b]);
        server_role.subnets[0].leases.claim(machine, Ipv4Addr::new(10, 0, a, b), NOW).expect("free");
    }
    server_role.take_events();
    server_role
}

/// Returns a REQUEST for the address that the client is offered.
fn request(session: &mut Session) -> Vec<u8> {
    let Some(offer) = exchange(session, DISCOVER) else { panic!("no offer") };
    let offer = Message::parse(&offer).expect("ours");
    let mut request = Message::parse(DISCOVER).expect("captured");
    request.kind = 3.into();
    request.requested = Some(offer.header.yiaddr);
    request.server = offer.server;
    request.emit()
}

fn exchange(session: &mut Session, datagram: &[u8]) -> Option<Vec<u8>> {
    let message = Message::parse(datagram).expect("captured");
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    let request = Request { message, port: DhcpPort::Dhcp, from, local: US, server: US };
    match session.answer(&request, NOW) {
        Outcome::Send { reply, .. } => Some(reply.emit()),
        Outcome::NoReply(_) => None,
    }
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dhcp message");
    group.throughput(Throughput::Elements(1));
    let mut case = |name: &str, mut session: Session, datagram: &[u8]| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                black_box(exchange(&mut session, black_box(datagram)));
                if let Role::Server(server_role) = &mut session.role {
                    black_box(server_role.take_events());
                }
            });
        });
    };
    case("proxy offer", session(Role::Proxy), DISCOVER);
    case("proxy, no reply", session(Role::Proxy), PLAIN);
    case("server offer", session(Role::Server(server_role())), DISCOVER);
    let mut leasing = session(Role::Server(server_role()));
    let request = request(&mut leasing);
    case("server lease", leasing, &request);
    let nearly_full = session(Role::Server(nearly_full_server_role()));
    case("server offer from a nearly full pool", nearly_full, DISCOVER);
    group.finish();
}

fn bytes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dhcp bytes");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse", |bencher| bencher.iter(|| Message::parse(black_box(DISCOVER)).is_ok()));
    let message = Message::parse(DISCOVER).expect("captured");
    group.bench_function("emit", |bencher| bencher.iter(|| black_box(&message).emit()));
    group.finish();
}

criterion_group!(benches, messages, bytes);
criterion_main!(benches);
