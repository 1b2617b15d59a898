//! Judgement on what was seen: pure functions from it to findings.

mod packets;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use jiff::Timestamp;

pub(super) use packets::{firewall, needed_ports};

use super::finding::{Finding, Verdict};
use super::firewall::Transport;
use super::host::{ClockState, DirectoryState, Privileges};
use super::port_owner::PortOwner;
use crate::bootable::Root;
use crate::config::Dhcp;
use crate::dhcp::server::DhcpProbe;
use crate::inspect::{FirmwareBoot, RootSupport};
use crate::interfaces::Interface;
use crate::server::{DirectoryContent, OTHER_PROGRAM, ServiceRow, StartError};
use crate::text::Word;

/// Room for leases: thousands of them have a megabyte.
const ROOM_MIN: u64 = 1 << 20;

/// Judges the interfaces that machines may be on.
pub(super) fn interfaces(list: &[Interface], only: Option<&str>) -> Finding {
    const SUBJECT: &str = "interface";
    match only {
        Some(name) => match list.iter().find(|link| link.name == name) {
            Some(link) => one_interface(SUBJECT, link),
            None => Finding::fault(SUBJECT, format!("{name} is not there"), "choose one of `ip link`"),
        },
        None => {
            let served: Vec<_> = list.iter().filter(|link| is_usable(link)).collect();
            match served[..] {
                [] => Finding::fault(
                    SUBJECT,
                    "none is up with an IPv4 address that machines could reach",
                    "set one up: `ip link` and `ip address` show what is there",
                ),
                _ if served.iter().all(|link| !link.has_carrier) => {
                    Finding::warning(SUBJECT, described(&served), "connect one of them")
                }
                _ => Finding::ok(SUBJECT, described(&served)),
            }
        }
    }
}

/// Returns whether machines can be on the network of an interface.
pub(super) fn is_usable(link: &Interface) -> bool {
    link.is_up && link.is_broadcast && link.ips().next().is_some()
}

fn one_interface(subject: &'static str, link: &Interface) -> Finding {
    let name = &link.name;
    if !link.is_up {
        return Finding::fault(subject, format!("{name} is down"), format!("`ip link set {name} up`"));
    }
    if link.ips().next().is_none() {
        let fix = format!("give it one, as by `ip address add 192.168.77.1/24 dev {name}`");
        return Finding::fault(subject, format!("{name} has no IPv4 address"), fix);
    }
    match link.has_carrier {
        true => Finding::ok(subject, described(&[link])),
        false => Finding::warning(subject, described(&[link]), "connect it"),
    }
}

fn described(links: &[&Interface]) -> String {
    let words = links.iter().map(|link| {
        let addresses = joined(link.ips());
        let state = if link.has_carrier { "" } else { " (not connected)" };
        format!("{} {addresses}{state}", link.name)
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Judges the right to open low ports. `lacks` tells whether a service lacks it.
pub(super) fn privileges(privileges: Privileges, lacks: bool, program: &Path) -> Finding {
    const SUBJECT: &str = "privileges";
    let Privileges { has_capability, first_free_port } = privileges;
    match (lacks, has_capability) {
        (true, _) => Finding::warning(
            SUBJECT,
            format!("ports below {first_free_port} are closed to this user"),
            format!(
                "`sudo setcap cap_net_bind_service+ep {}`, or the units in dist/systemd",
                program.display()
            ),
        ),
        (false, true) => Finding::ok(SUBJECT, "CAP_NET_BIND_SERVICE opens all ports"),
        (false, false) => {
            Finding::ok(SUBJECT, format!("ports from {first_free_port} on are open to this user"))
        }
    }
}

/// Judges a service by its row of the report.
pub(super) fn service(row: &ServiceRow, owner: Option<&PortOwner>, is_takeover: bool) -> Finding {
    let ServiceRow { service, address, state, obstacle } = row;
    let address = address.map(|address| format!("{address} ")).unwrap_or_default();
    let other = owner.map_or_else(|| OTHER_PROGRAM.to_owned(), PortOwner::to_string);
    let text = format!("{address}{}", state.trim_end().replacen(OTHER_PROGRAM, &other, 1));
    match obstacle {
        Some(obstacle) if !(is_takeover && is_isowire(owner)) => {
            Finding { fix: obstacle.fix.clone(), ..Finding::told(Verdict::Warning, service, text) }
        }
        _ => Finding::ok(service, text),
    }
}

/// Judges an error for which `serve` does not start.
pub(super) fn refusal(error: &StartError, owner: Option<&PortOwner>, is_takeover: bool) -> Finding {
    match error {
        StartError::Bind { service, address, error, fix } => {
            let by = owner.map(|owner| format!(", by {owner}")).unwrap_or_default();
            let text = format!("{address} cannot be used: {error}{by}");
            if is_takeover && is_isowire(owner) {
                return Finding::ok(service, text);
            }
            Finding::fault(service, text, fix.clone())
        }
        _ => Finding::told(Verdict::Fault, "serve", error.to_string()),
    }
}

/// Returns the address that another program has, by which `serve` does not start.
pub(super) fn taken(error: &StartError) -> Option<(&'static str, SocketAddrV4)> {
    match error {
        StartError::Bind { service, address, error, .. } => {
            (error.kind() == std::io::ErrorKind::AddrInUse).then_some((*service, *address))
        }
        _ => None,
    }
}

/// Returns whether an error is about the service of a row.
pub(super) fn is_about(error: &StartError, row: &ServiceRow) -> bool {
    matches!(error, StartError::Bind { service, .. } if service.eq_ignore_ascii_case(row.service))
}

fn is_isowire(owner: Option<&PortOwner>) -> bool {
    matches!(owner, Some(PortOwner::Process { name, .. }) if name == "isowire")
}

/// Returns the protocols of a service.
pub(super) fn transports(service: &str) -> &'static [Transport] {
    match service.to_ascii_lowercase().as_str() {
        "tftp" | "dhcp" => &[Transport::Udp],
        "portmap" => &[Transport::Tcp, Transport::Udp],
        _ => &[Transport::Tcp],
    }
}

/// Judges another server of this host.
pub(super) fn other_isowire(socket: Option<&Path>, is_takeover: bool) -> Finding {
    const SUBJECT: &str = "isowire";
    match socket {
        None => Finding::ok(SUBJECT, "no other one runs here"),
        Some(path) if is_takeover => {
            Finding::ok(SUBJECT, format!("the one at {} is taken over", path.display()))
        }
        Some(path) => Finding::warning(
            SUBJECT,
            format!("another one runs here, at {}", path.display()),
            "`isowire status` shows it; stop it, or take over by --takeover",
        ),
    }
}

/// Judges what was heard from other DHCP servers.
pub(super) fn other_dhcp(dhcp: &Dhcp, probes: &[DhcpProbe]) -> Vec<Finding> {
    const SUBJECT: &str = "other DHCP";
    let found: Vec<(&DhcpProbe, Ipv4Addr)> =
        probes.iter().filter_map(|probe| Some((probe, (*probe.found.as_ref().ok()?)?))).collect();
    let failed = probes.iter().find_map(|probe| Some((probe, probe.found.as_ref().err()?)));
    let is_server = matches!(dhcp, Dhcp::Server(_));
    if is_server && !found.is_empty() {
        let fault = |(probe, server): &(&DhcpProbe, Ipv4Addr)| {
            let text = format!("{server} answers on {}", probe.interface);
            Finding::fault(SUBJECT, text, "stop it, or leave out `dhcp-range` to work beside it")
        };
        return found.iter().map(fault).collect();
    }
    if let (Some((probe, error)), true) = (failed, found.is_empty()) {
        let text = format!("not looked for on {}: {error}", probe.interface);
        return vec![Finding::warning(SUBJECT, text, "as root, `isowire doctor` looks")];
    }
    let names = || joined(probes.iter().map(|probe| &probe.interface));
    match (found.first(), is_server) {
        _ if probes.is_empty() => {
            let fix = "look again when an interface is up";
            vec![Finding::warning(SUBJECT, "not looked for, as no network is there", fix)]
        }
        (Some((probe, server)), _) => {
            let text = format!("{server} on {} gives machines their addresses", probe.interface);
            vec![Finding::ok(SUBJECT, text)]
        }
        (None, true) => vec![Finding::ok(SUBJECT, format!("none on {}", names()))],
        (None, false) => vec![Finding::warning(
            SUBJECT,
            format!("none answers on {}, so machines get no address", names()),
            "start that of the network, or lease addresses by --dhcp-range",
        )],
    }
}

/// Tells which of the servers that share machines answered; `None` if none did. Proxies never answer, as
/// the question is not that of a machine that boots.
pub(super) fn peers(dhcp: &Dhcp, probes: &[DhcpProbe]) -> Option<Finding> {
    let answered = joined(probes.iter().flat_map(|probe| &probe.peers));
    let is_server = matches!(dhcp, Dhcp::Server(_));
    (is_server && !answered.is_empty())
        .then(|| Finding::ok("servers", format!("{answered} shares machines with this one, and answers")))
}

/// Judges whether machines can boot from an image, by each kind of firmware.
pub(super) fn firmware(image: &str, boots: &[FirmwareBoot]) -> Finding {
    const SUBJECT: &str = "ISO";
    let fix = "`isowire inspect` tells what the image lacks; give one made by mkarchiso";
    let able = boots.iter().filter(|boot| boot.boot_file.is_some());
    let able = joined(able.map(|boot| &boot.firmware));
    let obstacles = boots.iter().filter(|boot| boot.boot_file.is_none());
    let obstacles: Vec<_> =
        obstacles.map(|boot| format!("{}: {}", boot.firmware, boot.obstacles.join(", "))).collect();
    match (able.as_str(), obstacles.is_empty()) {
        ("", true) => Finding::fault(SUBJECT, format!("{image}: not an Arch ISO"), fix),
        ("", false) => {
            Finding::fault(SUBJECT, format!("{image} does not boot: {}", obstacles.join("; ")), fix)
        }
        (able, true) => Finding::ok(SUBJECT, format!("{image} boots by {able}")),
        (able, false) => {
            let text = format!("{image} boots by {able} only: {}", obstacles.join("; "));
            Finding::warning(SUBJECT, text, fix)
        }
    }
}

/// Judges whether the initramfs images of an image can mount the roots that are served.
pub(super) fn hooks(image: &str, support: &[RootSupport], served: &[Root]) -> Finding {
    const SUBJECT: &str = "hooks";
    let served: Vec<_> = served.iter().map(Root::to_string).collect();
    let lacking = support.iter().filter(|support| served.contains(&support.root)).filter_map(|support| {
        let shortfall = support.shortfall.as_ref()?;
        Some(format!("root over {}: {} {shortfall}", support.root, support.initramfs))
    });
    let lacking: Vec<_> = lacking.collect();
    let text = format!("{image}: {}", lacking.join("; "));
    let fix = "boot by another `root`, or build the image with archiso's hooks";
    match lacking.is_empty() {
        true => Finding::ok(SUBJECT, format!("{image} has all for a root over {}", served.join(", "))),
        // Another initramfs may do the same by other names.
        false => Finding::warning(SUBJECT, text, fix),
    }
}

/// Judges a rule that names an image which is not there. Those of a folder come and go.
pub(super) fn unknown_image(name: &Word, has_folder: bool) -> Finding {
    let text = format!("no image called `{name}`, which a [[machine]] is to boot");
    let fix = "change `image` there, or give an [[image]] this `name`";
    match has_folder {
        true => Finding::warning("rules", text, fix),
        false => Finding::fault("rules", text, fix),
    }
}

/// Judges a directory that `serve` writes to.
pub(super) fn directory(state: &DirectoryState<'_>) -> Finding {
    const SUBJECT: &str = "disk";
    let path = state.directory.path.display();
    let content = state.directory.content;
    let name = match content {
        DirectoryContent::Leases => "leases",
        DirectoryContent::NextBoots => "boots that happen `once`",
        DirectoryContent::Sockets => "the local status",
        DirectoryContent::Cache => "images of object stores",
    };
    let text = |why: &str| format!("{path}, for {name}, {why}");
    match (state.is_writable, state.free) {
        (false, _) if content == DirectoryContent::Leases => Finding::fault(
            SUBJECT,
            text("cannot be written"),
            "name another `lease-file`, or give the directory to this user",
        ),
        (false, _) if content == DirectoryContent::Cache => Finding::fault(
            SUBJECT,
            text("cannot be written"),
            "name another `cache-dir`, or give the directory to this user",
        ),
        (false, _) if content == DirectoryContent::NextBoots => Finding::fault(
            SUBJECT,
            text("cannot be written"),
            "set XDG_STATE_HOME, or give the directory to this user",
        ),
        (false, _) => Finding::warning(
            SUBJECT,
            text("cannot be written"),
            "set XDG_RUNTIME_DIR, or serve the status by --status 127.0.0.1:8081",
        ),
        (true, Some(free)) if free < ROOM_MIN => {
            Finding::warning(SUBJECT, text(&format!("has {free} bytes left")), "make room")
        }
        (true, _) => Finding::ok(SUBJECT, text("can be written")),
    }
}

/// Judges the clock. `newest` is the date of the newest image.
pub(super) fn clock(state: &ClockState, newest: Option<Timestamp>) -> Finding {
    const SUBJECT: &str = "clock";
    let fix = "set it, as by `timedatectl set-ntp true`";
    let now = state.now.strftime("%Y-%m-%d %H:%M UTC");
    match newest.filter(|newest| *newest > state.now) {
        Some(newest) => {
            let made = newest.strftime("%Y-%m-%d");
            Finding::fault(SUBJECT, format!("{now} is before an image was made ({made})"), fix)
        }
        None if state.is_kept == Some(false) => {
            Finding::warning(SUBJECT, format!("{now}, and nothing keeps it right"), fix)
        }
        None => Finding::ok(SUBJECT, now.to_string()),
    }
}

pub(super) fn joined(words: impl Iterator<Item = impl ToString>) -> String {
    words.map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
