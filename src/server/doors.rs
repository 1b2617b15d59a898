//! Which services there are in this run: the sockets that could be had, and a row of the report for each.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;

use tracing::warn;

use super::Fatal;
use super::report::{Row, port_note};
use super::sockets::{self, Inherited, Unfit};
use crate::config::{Asked, Config, Dhcp, Door, TFTP_PORT};
use crate::dhcp;
use crate::dhcp::server::{Sharing, Sockets};

/// Where TFTP goes when nobody chose a port and the registered one is not to be had. iPXE can be told.
const TFTP_FALLBACK: u16 = 6969;

/// The sockets of this run.
#[derive(Debug, Default)]
pub struct Doors {
    pub nbd: Option<TcpListener>,
    pub tftp: Option<UdpSocket>,
    pub dhcp: Option<dhcp::server::Sockets>,
    pub rows: Vec<Row>,
    /// Whether a privilege is all that some service lacks.
    pub lacks_privilege: bool,
}

impl Doors {
    /// Binds or takes over every socket.
    ///
    /// # Errors
    /// [`Fatal`] when a service cannot be had that the operator wants, or without which no machine boots.
    pub fn open(config: &Config, inherited: Inherited) -> Result<Self, Fatal> {
        let mut doors = Self::default();
        doors.open_nbd(config, inherited.nbd)?;
        doors.open_tftp(config, inherited.tftp)?;
        doors.open_dhcp(config, [inherited.dhcp, inherited.pxe])?;
        if doors.dhcp.is_some() && (doors.tftp.is_none() || doors.tftp_port() != TFTP_PORT) {
            warn!("DHCP sends firmware to TFTP on port 69 of this host, and isowire serves none there");
        }
        Ok(doors)
    }

    /// The port machines are told to load from: the registered one where there is no TFTP of ours.
    pub fn tftp_port(&self) -> u16 {
        let address = self.tftp.as_ref().and_then(|socket| socket.local_addr().ok());
        address.map_or(TFTP_PORT, |address| address.port())
    }

    fn up(&mut self, service: &'static str, address: io::Result<SocketAddr>, state: &str) {
        let address = address.ok();
        let note = address.map_or("", |address| port_note(service, address.port()));
        self.rows.push(Row { service, address, state: format!("{state}{note}") });
    }

    fn off(&mut self, service: &'static str, why: &str) {
        self.rows.push(Row { service, address: None, state: format!("off: {why}") });
    }

    /// A service that is off because of an error, and only a default.
    fn missed(&mut self, service: &'static str, error: &io::Error, port: u16) {
        self.lacks_privilege |= error.kind() == ErrorKind::PermissionDenied;
        self.off(service, &why_not(error, port));
    }

    /// The root file system comes by it, so there is no doing without unless the operator says so.
    fn open_nbd(&mut self, config: &Config, inherited: Option<TcpListener>) -> Result<(), Fatal> {
        let listener = match (inherited, config.nbd) {
            (Some(_), Door::Off) => return Err(Unfit::Off("nbd").into()),
            (None, Door::Off) => {
                self.off("NBD", OFF);
                return Ok(());
            }
            (Some(listener), _) => listener,
            (None, Door::On { port, .. }) => {
                let address = SocketAddrV4::new(config.bind, port);
                sockets::listen(address).map_err(|error| cannot("nbd", address, error))?
            }
        };
        let names: Vec<_> = config.images.iter().map(|image| image.name.as_str()).collect();
        self.up("NBD", listener.local_addr(), &format!("serving {}", names.join(", ")));
        self.nbd = Some(listener);
        Ok(())
    }

    fn open_tftp(&mut self, config: &Config, inherited: Option<UdpSocket>) -> Result<(), Fatal> {
        let (port, asked) = match (&inherited, config.tftp) {
            (Some(_), Door::Off) => return Err(Unfit::Off("tftp").into()),
            (None, Door::Off) => {
                self.off("TFTP", OFF);
                return Ok(());
            }
            (_, Door::On { port, asked }) => (port, asked),
        };
        let address = SocketAddrV4::new(config.bind, port);
        let fallback = SocketAddrV4::new(config.bind, TFTP_FALLBACK);
        match (inherited.map_or_else(|| UdpSocket::bind(address), Ok), asked) {
            (Ok(socket), _) => self.tftp_up(socket, "serving"),
            (Err(error), Asked::ByOperator) => return Err(cannot("tftp", address, error)),
            (Err(error), Asked::ByDefault) => match UdpSocket::bind(fallback) {
                Ok(socket) => {
                    self.lacks_privilege |= error.kind() == ErrorKind::PermissionDenied;
                    self.tftp_up(socket, &format!("serving here, as {}", why_not(&error, port)));
                }
                Err(_) => self.missed("TFTP", &error, port),
            },
        }
        Ok(())
    }

    fn tftp_up(&mut self, socket: UdpSocket, state: &str) {
        self.up("TFTP", socket.local_addr(), state);
        self.tftp = Some(socket);
    }

    fn open_dhcp(&mut self, config: &Config, inherited: [Option<UdpSocket>; 2]) -> Result<(), Fatal> {
        let (asked, sharing, state) = match (&config.dhcp, &inherited) {
            (Dhcp::Off, [None, None]) => {
                self.off("DHCP", OFF);
                return Ok(());
            }
            (Dhcp::Off, [Some(_), _]) => return Err(Unfit::Off("dhcp").into()),
            (Dhcp::Off, [None, Some(_)]) => return Err(Unfit::Off("pxe").into()),
            (Dhcp::Proxy(asked), _) => {
                (*asked, Sharing::Shared, "proxy, beside the DHCP server of the network")
            }
            (Dhcp::Server(_), _) => (Asked::ByOperator, Sharing::Alone, "the DHCP server of the network"),
        };
        match (dhcp_sockets(config.interface.as_deref(), sharing, inherited), asked) {
            (Ok(Sockets { dhcp, boot_server }), _) => {
                self.up("DHCP", dhcp.local_addr(), state);
                self.dhcp = Some(Sockets { dhcp, boot_server });
            }
            (Err((address, error)), Asked::ByOperator) => return Err(cannot("dhcp", address, error)),
            (Err((address, error)), Asked::ByDefault) => self.missed("DHCP", &error, address.port()),
        }
        Ok(())
    }
}

const OFF: &str = "the configuration says so";

/// Binds what was not inherited; else says which address could not be had.
fn dhcp_sockets(
    interface: Option<&str>,
    sharing: Sharing,
    [dhcp, pxe]: [Option<UdpSocket>; 2],
) -> Result<Sockets, (SocketAddrV4, io::Error)> {
    let open = |inherited: Option<UdpSocket>, port| {
        // A broadcast comes to no narrower address.
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let bind = || dhcp::server::bind(address, interface, sharing).map_err(|error| (address, error));
        inherited.map_or_else(bind, Ok)
    };
    Ok(Sockets { dhcp: open(dhcp, DHCP_PORT)?, boot_server: Some(open(pxe, PXE_PORT)?) })
}

/// RFC 2131 §4.1.
const DHCP_PORT: u16 = 67;
/// Where PXE 2.1 has its boot servers.
const PXE_PORT: u16 = 4011;

fn cannot(service: &'static str, address: SocketAddrV4, error: io::Error) -> Fatal {
    let fix = match error.kind() {
        ErrorKind::AddrInUse => format!("stop what has it, or change `{service}`"),
        ErrorKind::PermissionDenied => {
            let program = program().display().to_string();
            format!("run `sudo setcap cap_net_bind_service+ep {program}` or change `{service}`")
        }
        ErrorKind::AddrNotAvailable => "choose an address of this host for `bind`".to_owned(),
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            "choose one of `ip link` for `interface`".to_owned()
        }
        _ => format!("change `{service}`"),
    };
    Fatal::Bind { service, address, error, fix }
}

/// Why a default service is off, in a row of the table.
fn why_not(error: &io::Error, port: u16) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => format!("port {port} needs a privilege"),
        ErrorKind::AddrInUse => format!("another program has port {port}"),
        _ => format!("port {port} cannot be used: {error}"),
    }
}

/// This program, as the system knows it.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("isowire"))
}
