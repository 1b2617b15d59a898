//! Lines of `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) for the machines that sent host
//! keys.

use std::net::IpAddr;

use crate::machines::StatusReport;
use crate::machines::status::MachineStatus;
use crate::machines::up::{HostKey, is_host_name};

/// Returns a line for each key of each machine.
pub(super) fn known_hosts(report: &StatusReport) -> String {
    let mut lines = String::new();
    for machine in &report.machines {
        let hosts = hosts(machine, &report.machines).join(",");
        // The server may be any that was named, so nothing else gets into the file.
        let keys = machine.host_keys.iter().filter_map(|key| HostKey::new(key));
        keys.filter(|_| !hosts.is_empty())
            .for_each(|key| lines.push_str(&format!("{hosts} {}\n", key.as_str())));
    }
    lines
}

/// Returns the names of a machine that no other one has, and its address.
fn hosts(machine: &MachineStatus, all: &[MachineStatus]) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for name in names(machine) {
        // Live systems without a name of their own all have the same one.
        let holders = all.iter().filter(|other| names(other).any(|held| held == name)).count();
        if is_host_name(name) && holders == 1 && !hosts.iter().any(|host| host == name) {
            hosts.push(name.to_owned());
        }
    }
    hosts.extend(machine.addresses.first().map(IpAddr::to_string));
    hosts
}

fn names(machine: &MachineStatus) -> impl Iterator<Item = &str> {
    [&machine.name, &machine.host_name].into_iter().flatten().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::table::tests::{machine, report};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx";

    fn up(name: Option<&str>, host_name: &str, last: u8) -> MachineStatus {
        MachineStatus {
            name: name.map(str::to_owned),
            host_name: Some(host_name.to_owned()),
            addresses: vec![[10, 0, 0, last].into(), [10, 0, 1, last].into()],
            host_keys: vec![KEY.to_owned()],
            ..machine()
        }
    }

    #[test]
    fn machine_has_its_names_and_its_last_address() {
        let machines = vec![
            up(Some("lab1"), "lab1", 1),
            up(Some("lab2"), "archiso", 2),
            up(None, "archiso", 3),
            machine(),
        ];
        assert_eq!(
            known_hosts(&report(machines)),
            format!("lab1,10.0.0.1 {KEY}\nlab2,10.0.0.2 {KEY}\n10.0.0.3 {KEY}\n")
        );
    }

    #[test]
    fn hostile_server_gets_no_text_into_the_file() {
        let keys = ["ssh-rsa AAAA\n* ssh-rsa AAAA", "\u{1b}[2J", "* ssh-rsa AAAA"].map(str::to_owned);
        let machine = MachineStatus { host_keys: keys.into(), ..up(Some("*"), "a\n*", 1) };
        assert_eq!(known_hosts(&report(vec![machine])), "");
        assert_eq!(known_hosts(&report(vec![up(Some("*,b"), "!c", 1)])), format!("10.0.0.1 {KEY}\n"));
    }
}
