//! Settings of services: ports, admitted clients and the status.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::raw::RawValue;
use super::{Checker, ConfigError, value};
use crate::bootable::Root;
use crate::export::Allowed;
use crate::machines::local::{self, LOCAL_PAGE};

/// Registered port of NBD; archiso's hook always connects to it.
pub(crate) const NBD_PORT: u16 = 10809;
/// Registered port of NFS; clients learn another one from the portmapper.
pub(crate) const NFS_PORT: u16 = 2049;
/// Port of the portmapper (RFC 1833 §1); archiso's nfsmount always asks it.
pub(crate) const PORTMAP_PORT: u16 = 111;
/// Port of an `http` URL without one (RFC 9110 §4.2.1), as those in archiso's own menu.
pub(crate) const HTTP_PORT: u16 = 80;
/// Port of TFTP requests (RFC 1350 §4); firmware always asks it.
pub(crate) const TFTP_PORT: u16 = 69;

/// Port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServicePort {
    Off,
    On {
        /// 0 takes any free port.
        port: u16,
        asked: Asked,
    },
}

impl ServicePort {
    pub(crate) fn is_off(self) -> bool {
        self == Self::Off
    }
}

/// Source of the wish for a service. If a service that the operator asked for cannot start, none
/// does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    ByOperator,
    ByDefault,
}

/// Services of root file systems.
#[derive(Debug, Clone, Copy)]
pub struct RootServices {
    pub nbd: ServicePort,
    /// NFS and MOUNT.
    pub nfs: ServicePort,
    /// Portmapper, which returns the port of NFS.
    pub portmap: ServicePort,
    pub http: ServicePort,
}

impl RootServices {
    /// Returns the service that sends the root file system.
    pub(crate) fn of(&self, root: Root) -> ServicePort {
        match root {
            Root::Nbd => self.nbd,
            Root::Nfs => self.nfs,
            Root::Http => self.http,
        }
    }

    /// Returns the roots that may be served, `first` before the others.
    pub(super) fn roots(&self, first: Option<Root>) -> Vec<Root> {
        let mut roots: Vec<Root> =
            Root::ALL.into_iter().filter(|&root| self.missing(root).is_none()).collect();
        // The sort is stable, so the others keep the order of preference.
        roots.sort_by_key(|&root| Some(root) != first);
        roots
    }

    /// Returns the key of a service that is off and that the root needs.
    pub(super) fn missing(&self, root: Root) -> Option<&'static str> {
        if self.of(root).is_off() {
            return Some(root.word());
        }
        match root {
            // archiso's nfsmount takes no port of MOUNT and always asks the portmapper.
            Root::Nfs => self.portmap.is_off().then_some("portmap"),
            Root::Nbd | Root::Http => None,
        }
    }
}

/// Source ports of TFTP transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TftpPorts {
    /// A new port for each transfer (RFC 1350 §4).
    Many,
    /// The port of requests, for firewalls that do not track TFTP.
    Single,
}

/// Status service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusService {
    Off,
    On {
        /// Local socket for this host.
        socket: PathBuf,
        page: StatusPage,
    },
}

/// Address of the status by HTTP: a page for a browser, and JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPage {
    Off,
    /// [`LOCAL_PAGE`] if it is free. Only this host can ask.
    OfThisHost,
    At(SocketAddrV4),
}

impl StatusService {
    /// Returns the address of the status by HTTP, if there is one.
    pub(crate) const fn address(&self) -> Option<SocketAddrV4> {
        match self {
            Self::Off | Self::On { page: StatusPage::Off, .. } => None,
            Self::On { page: StatusPage::OfThisHost, .. } => Some(LOCAL_PAGE),
            Self::On { page: StatusPage::At(address), .. } => Some(*address),
        }
    }
}

impl Checker<'_> {
    /// Returns the address that machines are told, and the port of HTTP there.
    pub(super) fn advertised(
        &self,
        services: &RootServices,
    ) -> Result<Option<(Ipv4Addr, Option<u16>)>, ConfigError> {
        let advertised = self.read("advertise", &self.options.advertise, value::advertised)?;
        match (&self.options.advertise, advertised) {
            (Some(value), Some((_, Some(_)))) if services.http.is_off() => {
                let why = "names a port of HTTP, which is off; give an address only, or turn HTTP on";
                Err(self.wrong("advertise", value, why))
            }
            _ => Ok(advertised),
        }
    }

    pub(super) fn root_services(&self) -> Result<RootServices, ConfigError> {
        let options = self.options;
        let services = RootServices {
            nbd: self.service_port("nbd", &options.nbd, NBD_PORT)?,
            nfs: self.service_port("nfs", &options.nfs, NFS_PORT)?,
            portmap: self.service_port("portmap", &options.portmap, PORTMAP_PORT)?,
            http: self.service_port("http", &options.http, HTTP_PORT)?,
        };
        match &options.portmap {
            // The portmapper would have nothing to return.
            Some(value) if services.nfs.is_off() && !services.portmap.is_off() => {
                Err(self.wrong("portmap", value, "needs NFS, which is off; remove `nfs = off` or this"))
            }
            _ => Ok(services),
        }
    }

    pub(super) fn service_port(
        &self,
        key: &str,
        value: &Option<RawValue>,
        default: u16,
    ) -> Result<ServicePort, ConfigError> {
        let default = ServicePort::On { port: default, asked: Asked::ByDefault };
        Ok(self.read(key, value, service_port)?.unwrap_or(default))
    }

    pub(super) fn tftp_ports(&self) -> Result<TftpPorts, ConfigError> {
        let is_single = self.read("tftp-single-port", &self.options.tftp_single_port, value::truth)?;
        Ok(if is_single == Some(true) { TftpPorts::Single } else { TftpPorts::Many })
    }

    pub(super) fn status(&self) -> Result<StatusService, ConfigError> {
        let socket = local::server_path(self.variables);
        Ok(match self.read("status", &self.options.status, status_page)? {
            // `off` closes the local socket too.
            Some(None) => StatusService::Off,
            Some(Some(page)) => StatusService::On { socket, page },
            None => StatusService::On { socket, page: StatusPage::OfThisHost },
        })
    }

    pub(super) fn allowed(&self) -> Result<Allowed, ConfigError> {
        let Some(list) = &self.options.allow else { return Ok(Allowed::default()) };
        let mut networks: Vec<Ipv4Net> = Vec::new();
        for value in list {
            let network = self.parse("allow", value, &value::network)?;
            // One of the two is likely a mistake: the smaller network changes nothing.
            if let Some(other) = networks.iter().find(|other| overlap(other, &network)) {
                let why = format!("overlaps with {other}; remove the smaller of the two");
                return Err(self.wrong("allow", value, &why));
            }
            networks.push(network);
        }
        Ok(Allowed::only(networks))
    }
}

fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(other) || other.contains(one)
}

/// Parses the address of the status; `None` means no status at all.
fn status_page(text: &str) -> Result<Option<StatusPage>, String> {
    match text {
        "off" => Ok(None),
        "socket" => Ok(Some(StatusPage::Off)),
        text => text.parse().map(|address| Some(StatusPage::At(address))).map_err(|_| {
            "invalid address; expected an IPv4 address and port like 192.168.1.10:8081, `socket` or `off`"
                .into()
        }),
    }
}

fn service_port(text: &str) -> Result<ServicePort, String> {
    match text {
        "off" => Ok(ServicePort::Off),
        text => port(text).map(|port| ServicePort::On { port, asked: Asked::ByOperator }),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "invalid port; expected 0-65535 or `off`".into())
}

/// Parses a root protocol whose services are on.
pub(super) fn root(text: &str, services: &RootServices) -> Result<Root, String> {
    let root = Root::ALL.into_iter().find(|root| root.word() == text);
    let root =
        root.ok_or_else(|| format!("invalid root; expected {}", value::one_of(&Root::ALL.map(Root::word))))?;
    // A root that the menu could not offer is a contradiction of two settings.
    match services.missing(root) {
        Some(service) if service == text => Err("service is off; turn it on or choose another root".into()),
        Some(service) => Err(format!("needs `{service}`, which is off; turn it on or choose another root")),
        None => Ok(root),
    }
}
