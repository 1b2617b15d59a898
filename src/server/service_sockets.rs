//! The sockets of the services of this run, and a row of the report for each service.

mod advertisement;
mod dhcp_mark;
mod portmap;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use socket2::SockRef;
use tracing::warn;

pub(super) use self::dhcp_mark::{DhcpMark, DhcpMarkError};
pub(super) use self::portmap::PortmapService;

use super::report::{Obstacle, SERVERS, ServiceRow, port_note};
use super::sandbox::Identity;
use super::sockets::{self, Inherited, SocketError};
use super::{SECOND_DHCP_FIX, StartError};
use crate::bootable::Root;
use crate::config::{
    Asked, Config, Dhcp, PORTMAP_PORT, RootServices, ServicePort, StatusPage, StatusService, TFTP_PORT,
};
use crate::dhcp;
use crate::dhcp::server::{ServerConfig, Sharing, Sockets};
use crate::dhcp::wire::{PXE_PORT, SERVER_PORT};
use crate::machines::local::{LOCAL_PAGE, LocalSocket};
use crate::ndp::server::SolicitationListener;

/// Ports for services whose registered port is not free, unless the operator chose a port. The menu
/// names the one of HTTP; iPXE can be told the one of TFTP.
const HTTP_FALLBACK: u16 = 8080;
const TFTP_FALLBACK: u16 = 6969;

/// The sockets of this run.
#[derive(Debug, Default)]
pub(super) struct ServiceSockets {
    pub(super) nbd: Option<TcpListener>,
    pub(super) nfs: Option<TcpListener>,
    pub(super) portmap: Option<PortmapService>,
    pub(super) http: Option<TcpListener>,
    pub(super) tftp: Option<UdpSocket>,
    pub(super) dhcp: Option<dhcp::server::Sockets>,
    /// Kept as long as DHCP is answered.
    pub(super) dhcp_mark: Option<DhcpMark>,
    /// For router solicitations of machines.
    pub(super) advertisement: Option<SolicitationListener>,
    /// For `isowire status` on this host.
    pub(super) status_socket: Option<LocalSocket>,
    pub(super) status: Option<TcpListener>,
    pub(super) rows: Vec<ServiceRow>,
    /// True if a service is off for lack of a privilege only.
    pub(super) lacks_privilege: bool,
    /// Errors of the roots that are served by default only.
    missed: Vec<(Root, StartError)>,
}

/// A service on one port, as the operator wants it.
struct ServiceSpec<'a> {
    /// Its name in the report.
    name: &'static str,
    /// Its key in the configuration, and the name of its inherited socket.
    key: &'static str,
    port: ServicePort,
    ip: Ipv4Addr,
    fallback: Option<u16>,
    /// The root protocol that needs this service.
    root: Option<Root>,
    state: &'a str,
}

impl ServiceSockets {
    /// Binds or inherits every socket, for images of these names.
    ///
    /// # Errors
    /// [`StartError`] if a service that the operator asked for cannot start, or no root can be
    /// served.
    pub(super) fn open(
        config: &Config,
        mut inherited: Inherited,
        names: &[&str],
        identity: &Identity,
    ) -> Result<Self, StartError> {
        let status = inherited.status.take();
        let mut sockets = Self::open_services(config, inherited, names, identity, &mut Err)?;
        sockets.open_status(config, status)?;
        // DHCP names a TFTP server by its address only, and firmware asks it at port 69.
        if sockets.dhcp.is_some() && (sockets.tftp.is_none() || sockets.tftp_port() != TFTP_PORT) {
            warn!("no TFTP of isowire on port 69, where DHCP sends firmware");
        }
        Ok(sockets)
    }

    /// Binds every socket that can be bound, but not the local one of the status. Returns the errors
    /// of the others too.
    pub(super) fn open_possible(
        config: &Config,
        names: &[&str],
        identity: &Identity,
    ) -> (Self, Vec<StartError>) {
        let mut errors = Vec::new();
        let mut go_on = |error| {
            errors.push(error);
            Ok(())
        };
        let inherited = Inherited::default();
        let opened = Self::open_services(config, inherited, names, identity, &mut go_on);
        // No error ended it.
        let mut sockets = opened.unwrap_or_default();
        if let StatusService::On { page, .. } = &config.status {
            errors.extend(sockets.open_status_page(*page, None).err());
        }
        (sockets, errors)
    }

    fn open_services(
        config: &Config,
        inherited: Inherited,
        names: &[&str],
        identity: &Identity,
        refused: OnRefusal<'_>,
    ) -> Result<Self, StartError> {
        let mut sockets = Self::default();
        let images = format!("serving {}", names.join(", "));
        let RootServices { nbd, nfs, portmap: _, http } = config.root_services;
        let ip = config.bind;
        let nbd = ServiceSpec::new("NBD", "nbd", nbd, ip).of_root(Root::Nbd, &images);
        let nfs = ServiceSpec::new("NFS", "nfs", nfs, ip).of_root(Root::Nfs, &images);
        let http = ServiceSpec::new("HTTP", "http", http, ip).of_root(Root::Http, &images);
        let http = http.or_on(HTTP_FALLBACK);
        let tftp = ServiceSpec::new("TFTP", "tftp", config.tftp, ip).or_on(TFTP_FALLBACK);
        // The order of the rows in the report.
        sockets.nbd = or_refused(sockets.open_one(&nbd, inherited.nbd, sockets::listen), refused)?;
        sockets.nfs = or_refused(sockets.open_one(&nfs, inherited.nfs, sockets::listen), refused)?;
        or_refused(sockets.open_portmap(config, inherited.portmap, identity), refused)?;
        sockets.http = or_refused(sockets.open_one(&http, inherited.http, sockets::listen), refused)?;
        sockets.tftp = or_refused(sockets.open_one(&tftp, inherited.tftp, UdpSocket::bind), refused)?;
        or_refused(sockets.open_advertisement(config), refused)?;
        let (dhcp, mark) = ([inherited.dhcp, inherited.pxe], inherited.dhcp_mark);
        or_refused(sockets.open_dhcp(config, dhcp, mark), refused)?;
        sockets.report_advertisement(config.missing_interface());
        // Only now: NFS is a root only together with the portmapper.
        or_refused(sockets.require_roots(config), refused)?;
        Ok(sockets)
    }

    fn open_status(&mut self, config: &Config, inherited: Option<TcpListener>) -> Result<(), StartError> {
        let StatusService::On { socket, page } = &config.status else {
            self.off("Status", OFF);
            return Ok(());
        };
        self.open_status_socket(config, socket);
        self.open_status_page(*page, inherited)
    }

    fn open_status_socket(&mut self, config: &Config, socket: &Path) {
        match LocalSocket::bind(socket) {
            // It is replaced when its process has handed everything over.
            Err(error) if error.kind() == ErrorKind::AddrInUse && config.takeover => {
                self.up("Status", None, &format!("{}: isowire status", socket.display()));
            }
            Ok(bound) => {
                let state = format!("{}: isowire status", bound.path().display());
                self.up("Status", None, &state);
                self.status_socket = Some(bound);
            }
            // A second isowire on this host serves without a local status.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                self.off("Status", &format!("in use by another isowire: {}", socket.display()));
            }
            Err(error) => self.off("Status", &format!("cannot make {}: {error}", socket.display())),
        }
    }

    /// Opens the address of the status by HTTP. The default one may be missing.
    fn open_status_page(
        &mut self,
        page: StatusPage,
        inherited: Option<TcpListener>,
    ) -> Result<(), StartError> {
        let (address, is_default) = match page {
            StatusPage::Off => return Ok(()),
            StatusPage::OfThisHost => (LOCAL_PAGE, true),
            StatusPage::At(address) => (address, false),
        };
        match inherited.map_or_else(|| sockets::listen(address), Ok) {
            Ok(listener) => {
                self.up("Status", address_of(&listener), "http://ADDRESS/ in a browser");
                self.status = Some(listener);
            }
            Err(error) if is_default => {
                self.off("Status", &format!("no page at {address}: {error}; `--status ADDR:PORT` moves it"));
                let taken = (error.kind() == ErrorKind::AddrInUse).then_some(address);
                self.hinder(Obstacle { taken, fix: None });
            }
            Err(error) => return Err(cannot("status", address, error)),
        }
        Ok(())
    }

    /// Returns the port from which machines load: the registered one if isowire has no TFTP.
    pub(super) fn tftp_port(&self) -> u16 {
        self.tftp.as_ref().and_then(port_of).unwrap_or(TFTP_PORT)
    }

    pub(super) fn http_port(&self) -> Option<u16> {
        self.http.as_ref().and_then(port_of)
    }

    /// Tells whether archiso's initramfs can get its root by this protocol.
    pub(super) fn serves(&self, root: Root) -> bool {
        match root {
            Root::Nbd => self.nbd.is_some(),
            // archiso's nfsmount (klibc) always asks a portmapper for the port of MOUNT.
            Root::Nfs => self.nfs.is_some() && self.portmap.is_some(),
            Root::Http => self.http.is_some(),
        }
    }

    /// Returns the roots that are served.
    pub(super) fn roots(&self) -> Vec<Root> {
        Root::ALL.into_iter().filter(|&root| self.serves(root)).collect()
    }

    fn up(&mut self, service: &'static str, address: Option<SocketAddr>, state: &str) {
        let note = address.map_or("", |address| port_note(service, address.port()));
        self.rows.push(ServiceRow { service, address, state: format!("{state}{note}"), obstacle: None });
    }

    fn off(&mut self, service: &'static str, why: &str) {
        self.rows.push(ServiceRow { service, address: None, state: format!("off: {why}"), obstacle: None });
    }

    /// Adds an obstacle to the last row.
    fn hinder(&mut self, obstacle: Obstacle) {
        if let Some(row) = self.rows.last_mut() {
            row.obstacle = Some(obstacle);
        }
    }

    /// Opens a service from its inherited socket or on its port. A default service may also get its
    /// fallback port, or stay off.
    fn open_one<S: AsFd>(
        &mut self,
        service: &ServiceSpec<'_>,
        inherited: Option<S>,
        bind: impl Fn(SocketAddrV4) -> io::Result<S>,
    ) -> Result<Option<S>, StartError> {
        let ServicePort::On { port, asked } = service.port else {
            self.off(service.name, OFF);
            return if inherited.is_some() { Err(SocketError::Off(service.key).into()) } else { Ok(None) };
        };
        let address = SocketAddrV4::new(service.ip, port);
        match (inherited.map_or_else(|| bind(address), Ok), asked) {
            (Ok(socket), _) => {
                self.up(service.name, address_of(&socket), service.state);
                Ok(Some(socket))
            }
            (Err(error), Asked::ByOperator) => Err(cannot(service.key, address, error)),
            (Err(error), Asked::ByDefault) => Ok(self.open_elsewhere(service, address, error, bind)),
        }
    }

    /// Opens a default service whose `address` cannot be used.
    fn open_elsewhere<S: AsFd>(
        &mut self,
        service: &ServiceSpec<'_>,
        address: SocketAddrV4,
        error: io::Error,
        bind: impl Fn(SocketAddrV4) -> io::Result<S>,
    ) -> Option<S> {
        let ServiceSpec { name, state, .. } = service;
        self.lacks_privilege |= error.kind() == ErrorKind::PermissionDenied;
        let why = why_not(&error, address.port());
        // A fallback needs no privilege: it is above 1024.
        let socket = service.fallback.and_then(|port| bind(SocketAddrV4::new(service.ip, port)).ok());
        match &socket {
            Some(socket) => self.up(name, address_of(socket), &format!("{state} here, as {why}")),
            None => self.off(name, &why),
        }
        let fatal = cannot(service.key, address, error);
        self.hinder(Obstacle::of(&fatal));
        if socket.is_none() {
            self.missed.extend(service.root.map(|root| (root, fatal)));
        }
        socket
    }

    /// Checks that machines have a root: all roots that the operator named, or any if none was
    /// named. If the operator turned all of them off, machines are not to boot.
    fn require_roots(&mut self, config: &Config) -> Result<(), StartError> {
        let named: Vec<_> = config.named_roots().collect();
        let is_enough = match named[..] {
            [] => config.menu.roots.iter().any(|&root| self.serves(root)),
            _ => named.iter().all(|&root| self.serves(root)),
        };
        let wanted = if named.is_empty() { &config.menu.roots } else { &named };
        // Only roots that are served by default: others failed at once.
        let missed = std::mem::take(&mut self.missed);
        match missed.into_iter().find(|(root, _)| wanted.contains(root)) {
            Some((_, fatal)) if !is_enough => Err(fatal),
            _ => Ok(()),
        }
    }

    fn open_dhcp(
        &mut self,
        config: &Config,
        inherited: [Option<UdpSocket>; 2],
        mark: Option<UnixDatagram>,
    ) -> Result<(), StartError> {
        let (asked, sharing, state) = match &config.dhcp {
            Dhcp::Off => return self.leave_dhcp_off(OFF, &inherited),
            Dhcp::Proxy(_) if !config.answers_dhcp() => {
                let why = format!("bound to {}, which no machine can reach", config.bind);
                self.leave_dhcp_off(&why, &inherited)?;
                self.hinder(Obstacle { taken: None, fix: Some("choose another `bind`".into()) });
                return Ok(());
            }
            Dhcp::Proxy(asked) => (*asked, Sharing::Shared, "proxy, beside the DHCP server of the network"),
            // Alone on the port, so that another DHCP server on this host is an error at once.
            Dhcp::Server(server) => (Asked::ByOperator, Sharing::Alone, server_state(server)),
        };
        // Before the ports, which two proxies share.
        let interface = config.interface.as_deref();
        let mark = mark.map(|mark| DhcpMark::inherit(mark, interface)).transpose()?;
        let mark = match (mark.map_or_else(|| DhcpMark::set(interface), Ok), asked) {
            (Ok(mark), _) => mark,
            (Err(other), Asked::ByOperator) => return Err(other.into()),
            (Err(other), Asked::ByDefault) => {
                self.off("DHCP", &other.to_string());
                self.hinder(Obstacle { taken: None, fix: Some(SECOND_DHCP_FIX.into()) });
                return Ok(());
            }
        };
        match (dhcp_sockets(config, sharing, inherited), asked) {
            (Ok(Sockets { dhcp, boot_server }), _) => {
                let waiting = config.missing_interface().map(waiting_for);
                self.up("DHCP", dhcp.local_addr().ok(), waiting.as_deref().unwrap_or(state));
                self.dhcp_mark = Some(mark);
                self.dhcp = Some(Sockets { dhcp, boot_server });
                self.name_servers(config);
            }
            (Err((address, error)), Asked::ByOperator) => return Err(cannot("dhcp", address, error)),
            (Err((address, error)), Asked::ByDefault) => {
                self.lacks_privilege |= error.kind() == ErrorKind::PermissionDenied;
                self.off("DHCP", &why_not(&error, address.port()));
                self.hinder(Obstacle::of(&cannot("dhcp", address, error)));
            }
        }
        Ok(())
    }

    /// Names the servers that share machines, if there are any.
    fn name_servers(&mut self, config: &Config) {
        let Some(servers) = &config.servers else { return };
        let names = servers.iter().map(|server| server.name().to_string());
        let state = format!("machines are shared by {}", names.collect::<Vec<_>>().join(", "));
        self.up(SERVERS, None, &state);
    }

    fn leave_dhcp_off(&mut self, why: &str, inherited: &[Option<UdpSocket>; 2]) -> Result<(), StartError> {
        match inherited {
            // A socket without a service is a mistake in the unit files.
            [Some(_), _] => Err(SocketError::Off("dhcp").into()),
            [None, Some(_)] => Err(SocketError::Off("pxe").into()),
            [None, None] => {
                self.off("DHCP", why);
                Ok(())
            }
        }
    }
}

/// Takes the error of a service that the operator asked for: returns it to end the start, or goes on.
type OnRefusal<'a> = &'a mut dyn FnMut(StartError) -> Result<(), StartError>;

fn or_refused<T: Default>(opened: Result<T, StartError>, refused: OnRefusal<'_>) -> Result<T, StartError> {
    opened.or_else(|error| refused(error).map(|()| T::default()))
}

impl Obstacle {
    fn of(error: &StartError) -> Self {
        match error {
            StartError::Bind { address, error, fix, .. } => Self {
                taken: (error.kind() == ErrorKind::AddrInUse).then_some(*address),
                fix: Some(fix.clone()),
            },
            _ => Self::default(),
        }
    }
}

impl<'a> ServiceSpec<'a> {
    fn new(name: &'static str, key: &'static str, port: ServicePort, ip: Ipv4Addr) -> Self {
        Self { name, key, port, ip, fallback: None, root: None, state: "serving" }
    }

    fn of_root(self, root: Root, state: &'a str) -> Self {
        Self { root: Some(root), state, ..self }
    }

    fn or_on(self, port: u16) -> Self {
        Self { fallback: Some(port), ..self }
    }
}

const OFF: &str = "the configuration says so";

fn server_state(server: &ServerConfig) -> &'static str {
    match server.subnets.len() {
        1 => "the DHCP server of the network",
        _ => "the DHCP server of its networks",
    }
}

fn address_of(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).local_addr().ok()?.as_socket()
}

fn port_of(socket: &impl AsFd) -> Option<u16> {
    address_of(socket).map(|address| address.port())
}

/// Returns the state of a service whose interface does not exist yet.
fn waiting_for(interface: &str) -> String {
    format!("waiting for interface {interface}")
}

/// Binds the sockets that were not inherited. An error comes with its address.
fn dhcp_sockets(
    config: &Config,
    sharing: Sharing,
    [dhcp, pxe]: [Option<UdpSocket>; 2],
) -> Result<Sockets, (SocketAddrV4, io::Error)> {
    let bind = |port| bind_dhcp(config, sharing, port);
    let dhcp = dhcp.map_or_else(|| bind(SERVER_PORT), Ok)?;
    let pxe = pxe.map_or_else(|| bind(PXE_PORT), Ok)?;
    Ok(Sockets { dhcp, boot_server: Some(pxe) })
}

fn bind_dhcp(config: &Config, sharing: Sharing, port: u16) -> Result<UdpSocket, (SocketAddrV4, io::Error)> {
    // RFC 2131 §4.1: clients without an address broadcast, and a bound address receives no
    // broadcast.
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let bound = match config.missing_interface() {
        Some(_) => dhcp::server::bind_until_interface_exists(address),
        None => dhcp::server::bind(address, config.interface.as_deref(), sharing),
    };
    bound.map_err(|error| (address, error))
}

/// Creates the error of a socket, with its remedy.
fn cannot(service: &'static str, address: SocketAddrV4, error: io::Error) -> StartError {
    let change = match (service, address.port()) {
        // archiso's nfsmount asks port 111 and no other: another one would make NFS roots
        // impossible.
        ("portmap", PORTMAP_PORT) => "boot without NFS: `portmap = off` and another `root`".to_owned(),
        _ => format!("change `{service}`"),
    };
    let fix = match error.kind() {
        ErrorKind::AddrInUse => format!("stop what has it, or {change}"),
        ErrorKind::PermissionDenied => {
            let program = program().display().to_string();
            format!("run `sudo setcap cap_net_bind_service+ep {program}` or {change}")
        }
        ErrorKind::AddrNotAvailable => "choose an address of this host for `bind`".to_owned(),
        // SO_BINDTODEVICE on an interface that does not exist (socket(7)).
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            "choose one of `ip link` for `interface`, or wait for it by `wait-interface`".to_owned()
        }
        _ => change,
    };
    StartError::Bind { service, address, error, fix }
}

/// Name of the program that has a port, before it is known.
pub(crate) const OTHER_PROGRAM: &str = "another program";

/// Returns why a default service is off, for its row of the report.
fn why_not(error: &io::Error, port: u16) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => format!("port {port} needs a privilege"),
        ErrorKind::AddrInUse => format!("{OTHER_PROGRAM} has port {port}"),
        _ => format!("port {port} cannot be used: {error}"),
    }
}

/// Returns the path of this program.
pub(super) fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("isowire"))
}
