//! Judgement on the firewall.

use super::{joined, transports};
use crate::dhcp::wire::PXE_PORT;
use crate::doctor::finding::Finding;
use crate::doctor::firewall::{Fate, Manager, Packet, Place, Ruleset, Transport};
use crate::doctor::host::Rules;
use crate::server::ServiceRow;

/// Port of a service that machines have to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::doctor) struct NeededPort {
    port: u16,
    is_udp: bool,
}

impl NeededPort {
    fn transport(self) -> Transport {
        if self.is_udp { Transport::Udp } else { Transport::Tcp }
    }
}

/// Returns the ports of the services that are up.
pub(in crate::doctor) fn needed_ports(rows: &[ServiceRow]) -> Vec<NeededPort> {
    let mut ports = Vec::new();
    for row in rows.iter().filter(|row| row.service != "Status") {
        let Some(address) = row.address else { continue };
        let own = transports(row.service).iter();
        let port = address.port();
        ports.extend(own.map(|transport| NeededPort { port, is_udp: *transport == Transport::Udp }));
        if row.service == "DHCP" {
            ports.push(NeededPort { port: PXE_PORT, is_udp: true });
        }
    }
    ports.sort();
    ports.dedup();
    ports
}

/// Judges the firewall for machines on these interfaces.
pub(in crate::doctor) fn firewall(rules: &Rules, interfaces: &[&str], ports: &[NeededPort]) -> Finding {
    const SUBJECT: &str = "firewall";
    let ruleset = match &rules.nftables {
        Ok(ruleset) => ruleset,
        Err(why) => {
            let list = listed(ports);
            let fix = format!("open {list} to the machines; as root, `isowire doctor` reads the rules");
            return Finding::warning(SUBJECT, format!("not readable: {why}"), fix);
        }
    };
    let judged: Vec<_> = ports.iter().map(|port| (*port, best_fate(ruleset, interfaces, *port))).collect();
    let with = |wanted: Fate| judged.iter().filter(move |(_, (fate, _))| *fate == wanted);
    let closed: Vec<_> = with(Fate::Dropped).map(|(port, _)| *port).collect();
    let unclear: Vec<_> = with(Fate::Unknown).map(|(port, _)| *port).collect();
    if let Some((_, (_, place))) = with(Fate::Dropped).next() {
        let text = format!("nftables drops {}", listed(&closed));
        return Finding::fault(SUBJECT, text, opening(ruleset.manager(), *place, &closed));
    }
    if !unclear.is_empty() {
        let text = format!("whether nftables lets machines reach {} depends on more", listed(&unclear));
        let fix = "make sure that its rules accept them from all addresses, 0.0.0.0 too";
        return Finding::warning(SUBJECT, text, fix);
    }
    if rules.has_iptables {
        let fix = format!("make sure by `iptables-legacy -L INPUT` that {} are open", listed(ports));
        return Finding::warning(SUBJECT, "nftables is open, but the older iptables has rules too", fix);
    }
    Finding::ok(SUBJECT, "nftables lets machines reach all ports")
}

/// Returns the fate of a machine's packet on the interface where it fares best: a firewall is often
/// closed on others.
fn best_fate<'a>(ruleset: &'a Ruleset, interfaces: &[&str], port: NeededPort) -> (Fate, Option<&'a Place>) {
    let packet = |interface| Packet { interface, transport: port.transport(), port: port.port };
    let fates = interfaces.iter().map(|interface| ruleset.fate(packet(interface)));
    fates.min_by_key(|(fate, _)| *fate).unwrap_or((Fate::Accepted, None))
}

/// Returns commands that open ports.
fn opening(manager: Manager, chain: Option<&Place>, ports: &[NeededPort]) -> String {
    let by_transport = |transport: Transport| {
        let of_transport = ports.iter().filter(move |port| port.transport() == transport);
        let numbers: Vec<_> = of_transport.map(|port| port.port.to_string()).collect();
        (transport.word(), numbers)
    };
    let groups = [Transport::Udp, Transport::Tcp].map(by_transport);
    let groups = groups.iter().filter(|(_, numbers)| !numbers.is_empty());
    let commands: Vec<String> = match (manager, chain) {
        (Manager::Firewalld, _) => groups
            .flat_map(|(word, numbers)| {
                numbers.iter().map(move |number| format!("firewall-cmd --add-port={number}/{word}"))
            })
            .collect(),
        (Manager::Ufw, _) => {
            groups.map(|(word, numbers)| format!("ufw allow {}/{word}", numbers.join(","))).collect()
        }
        (Manager::Nobody, Some(Place { family, table, name })) => groups
            .map(|(word, numbers)| {
                let numbers = numbers.join(", ");
                format!("nft insert rule {family} {table} {name} {word} dport '{{ {numbers} }}' accept")
            })
            .collect(),
        (Manager::Nobody, None) => vec![format!("open {}", listed(ports))],
    };
    format!("`{}`", commands.join(" && "))
}

fn listed(ports: &[NeededPort]) -> String {
    joined(ports.iter().map(|port| format!("{} {}", port.transport().word().to_uppercase(), port.port)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::doctor::finding::Verdict;

    const RULESET: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nft/ruleset.json"));

    fn tcp(port: u16) -> NeededPort {
        NeededPort { port, is_udp: false }
    }

    fn udp(port: u16) -> NeededPort {
        NeededPort { port, is_udp: true }
    }

    fn judged(nftables: Result<Ruleset, String>, interfaces: &[&str], ports: &[NeededPort]) -> Finding {
        firewall(&Rules { nftables, has_iptables: false }, interfaces, ports)
    }

    #[test]
    fn closed_port_is_a_fault_with_its_rule() {
        let ruleset = || Ok(Ruleset::parse(RULESET).unwrap());
        let finding = judged(ruleset(), &["eth0"], &[udp(4011), tcp(10809), udp(1)]);
        assert_eq!((finding.verdict, &*finding.text), (Verdict::Fault, "nftables drops TCP 10809, UDP 1"));
        let fix = "`nft insert rule inet filter input udp dport '{ 1 }' accept && \
                   nft insert rule inet filter input tcp dport '{ 10809 }' accept`";
        assert_eq!(finding.fix.as_deref(), Some(fix));
        let finding = judged(ruleset(), &["eth0", "eth1"], &[tcp(10809), udp(4011)]);
        assert_eq!(finding.verdict, Verdict::Ok, "each is open on one of them");
        let finding = judged(ruleset(), &["eth0"], &[tcp(2049)]);
        assert_eq!(finding.verdict, Verdict::Warning);
    }

    #[test]
    fn unreadable_rules_name_the_ports() {
        let finding = judged(Err("not permitted".into()), &["eth0"], &[udp(69), tcp(80)]);
        assert_eq!((finding.verdict, &*finding.text), (Verdict::Warning, "not readable: not permitted"));
        assert!(finding.fix.unwrap().starts_with("open UDP 69, TCP 80 to the machines; "));
        let rules = Rules { nftables: Ok(Ruleset::default()), has_iptables: true };
        assert_eq!(firewall(&rules, &["eth0"], &[udp(69)]).verdict, Verdict::Warning);
        let rules = Rules { has_iptables: false, ..rules };
        assert_eq!(firewall(&rules, &["eth0"], &[udp(69)]).verdict, Verdict::Ok);
    }

    #[test]
    fn fix_is_for_the_manager_of_the_rules() {
        let of = |manager| opening(manager, None, &[udp(69), tcp(80), tcp(111)]);
        let firewalld = "`firewall-cmd --add-port=69/udp && firewall-cmd --add-port=80/tcp && \
                         firewall-cmd --add-port=111/tcp`";
        assert_eq!(of(Manager::Firewalld), firewalld);
        assert_eq!(of(Manager::Ufw), "`ufw allow 69/udp && ufw allow 80,111/tcp`");
    }

    #[test]
    fn needed_ports_are_of_services_that_are_up() {
        let row = |service, port: Option<u16>| ServiceRow {
            service,
            address: port.map(|port| (Ipv4Addr::UNSPECIFIED, port).into()),
            state: String::new(),
            obstacle: None,
        };
        let rows =
            [row("Portmap", Some(111)), row("DHCP", Some(67)), row("TFTP", None), row("Status", Some(1))];
        assert_eq!(needed_ports(&rows), [udp(67), tcp(111), udp(111), udp(4011)]);
    }
}
