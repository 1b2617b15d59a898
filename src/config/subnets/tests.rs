use std::net::Ipv4Addr;

use crate::config::Dhcp;
use crate::config::tests::{loaded, wrong};
use crate::dhcp::server::{DEFAULT_LEASE_SECONDS, SubnetConfig};

fn subnets(file: &str) -> Vec<SubnetConfig> {
    match loaded(&["arch.iso"], Some(file)).unwrap().dhcp {
        Dhcp::Server(server) => server.subnets,
        other => panic!("{other:?}"),
    }
}

fn subnet(n: u8, rest: &str) -> String {
    format!("[[subnet]]\ndhcp-range = '10.0.{n}.10-10.0.{n}.20'\n{rest}\n")
}

#[test]
fn subnet_implies_server() {
    let [only] = &subnets(&subnet(1, ""))[..] else { panic!("not one") };
    assert_eq!(only.pool.to_string(), "10.0.1.10-10.0.1.20");
    assert_eq!((only.netmask, only.router, only.dns.len()), (None, None, 0));
    assert_eq!(only.lease_seconds, DEFAULT_LEASE_SECONDS);
}

#[test]
fn subnet_inherits_dns_and_lease_time() {
    let top = "dhcp-range = '10.0.0.10-10.0.0.20'\nnetmask = '255.255.255.0'\nrouter = '10.0.0.1'\n\
               dns = ['9.9.9.9']\nlease-time = '1h'\n";
    let own = "router = '10.0.2.1'\nnetmask = '255.255.255.0'\ndns = []\nlease-time = '2h'";
    let subnets = subnets(&[top, &subnet(1, ""), &subnet(2, own)].concat());
    let dns = Ipv4Addr::new(9, 9, 9, 9);
    assert_eq!(
        (&subnets[0].dns[..], &subnets[1].dns[..], &subnets[2].dns[..]),
        (&[dns][..], &[dns][..], &[][..])
    );
    assert_eq!([0, 1, 2].map(|n| subnets[n].lease_seconds), [3600, 3600, 7200]);
    // These are of one network.
    assert_eq!((subnets[1].netmask, subnets[1].router), (None, None));
    assert_eq!(subnets[2].router, Some(Ipv4Addr::new(10, 0, 2, 1)));
}

#[test]
fn subnet_error_has_place_and_cause() {
    let first = subnet(1, "netmask = '255.255.255.0'");
    let with = |second: &str| wrong(&format!("{first}[[subnet]]\n{second}\n"));
    for (second, line) in [
        (
            "dhcp-range = '10.0.1.200-10.0.1.210'",
            "isowire.toml:5: dhcp-range: `10.0.1.200-10.0.1.210`: overlaps with the network of isowire.toml:2: \
             dhcp-range; give each network one range",
        ),
        (
            "dhcp-range = '10.0.2.1-10.0.2.9'\nnetmask = '255.255.0.0'",
            "isowire.toml:5: dhcp-range: `10.0.2.1-10.0.2.9`: overlaps with the network of isowire.toml:2",
        ),
        (
            "dhcp-range = '10.0.2.200-10.0.3.9'\nnetmask = '255.255.255.0'",
            "isowire.toml:5: dhcp-range: `10.0.2.200-10.0.3.9`: not in one network with 10.0.3.9",
        ),
        (
            "dhcp-range = '10.0.2.1-10.0.2.9'\nnetmask = '255.255.255.0'\nrouter = '10.0.1.1'",
            "isowire.toml:5: dhcp-range: `10.0.2.1-10.0.2.9`: not in one network with 10.0.1.1",
        ),
        ("dhcp-range = '10.0.2.9'", "isowire.toml:5: dhcp-range: `10.0.2.9`: invalid range"),
        ("netmask = '255.255.255.0'", "isowire.toml:4: missing field `dhcp-range`"),
        (
            "dhcp-range = '10.0.2.1-10.0.2.9'\nrouters = '10.0.2.1'",
            "isowire.toml:6: routers: unknown key in [[subnet]]; did you mean `router`?",
        ),
    ] {
        let error = with(second);
        assert!(error.starts_with(line), "{second}\n  gave   {error}\n  wanted {line}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn range_of_the_command_line_is_one_more() {
    let file = subnet(1, "");
    let load = |range: &str| loaded(&["arch.iso", "--dhcp-range", range], Some(&file));
    assert!(
        matches!(load("10.0.0.1-10.0.0.9").unwrap().dhcp, Dhcp::Server(server) if server.subnets.len() == 2)
    );
    let error = load("10.0.1.15-10.0.1.16").unwrap_err();
    assert_eq!(
        error,
        "isowire.toml:2: dhcp-range: `10.0.1.10-10.0.1.20`: overlaps with the network of --dhcp-range; give each \
         network one range"
    );
}

#[test]
fn subnet_contradiction_is_refused() {
    for (top, line) in [
        ("dhcp = 'proxy'", "isowire.toml:3: dhcp-range: `10.0.1.10-10.0.1.20`: needs `dhcp = server`"),
        (
            "netmask = '255.255.255.0'",
            "isowire.toml:1: netmask: `255.255.255.0`: is of one network; move it below",
        ),
        ("router = '10.0.1.1'", "isowire.toml:1: router: `10.0.1.1`: is of one network; move it below its"),
        (
            "allow = ['10.0.1.0/28']",
            "isowire.toml:3: dhcp-range: `10.0.1.10-10.0.1.20`: contains 10.0.1.16, which is not in `allow`",
        ),
    ] {
        let error = wrong(&format!("{top}\n{}", subnet(1, "")));
        assert!(error.starts_with(line), "{error}");
    }
}

#[test]
fn number_of_networks_and_addresses_is_bounded() {
    let many = |count: u32, hosts: u32| -> String {
        let range = |n: u32| {
            let first = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n * 0x1_0000;
            let last = Ipv4Addr::from(first + hosts - 1);
            format!("[[subnet]]\ndhcp-range = '{}-{last}'\n", Ipv4Addr::from(first))
        };
        (0..count).map(range).collect()
    };
    assert_eq!(subnets(&many(256, 1024)).len(), 256);
    assert!(
        wrong(&many(257, 1))
            .contains("isowire.toml:514: dhcp-range: `11.0.0.0-11.0.0.0`: one range too many")
    );
    assert_eq!(subnets(&many(4, 65_536)).len(), 4);
    let error = wrong(&many(5, 65_536));
    assert!(error.ends_with("more than 262144 addresses in all ranges together; take fewer"), "{error}");
}
