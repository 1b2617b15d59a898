//! `isowire doctor`: says what stands in the way of `isowire serve` on this host, and how to mend it.
//!
//! It does what `serve` does at its start, and lets go of it: opens the ports, finds the images, looks
//! for other DHCP servers. `judge` and `firewall` decide what it means.

mod finding;
mod firewall;
mod host;
mod judge;
mod port_owner;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgMatches;
use jiff::Timestamp;
use tokio::runtime::Builder;

use self::finding::{DoctorReport, Finding, Verdict};
use self::host::{ClockState, DirectoryState, Privileges, Rules};
use self::port_owner::PortOwner;
use crate::config::{self, Config, ConfigError, Dhcp};
use crate::dhcp::server::{DhcpMode, look_for_others};
use crate::images::ServedImage;
use crate::inspect::{self, Format};
use crate::interfaces::{self, Interface};
use crate::server::{FoundImages, Trial, WrittenDirectory};
use crate::text::Word;

/// An error that ends `doctor`, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The report was printed.
    #[error("{0} of these keep isowire from serving")]
    Faults(usize),
    #[error("doctor cannot be started: {0}")]
    System(io::Error),
    #[error("report cannot be written: {0}")]
    Output(io::Error),
}

/// Looks at this host for `serve` with the options in `arguments`, and prints what it finds. Looking
/// for other DHCP servers takes four seconds.
///
/// `variable` looks up an environment variable, as for [`config::load`].
///
/// # Errors
/// [`DoctorError`] if a setting is wrong, something is a fault, or `out` cannot be written.
pub fn run(
    arguments: &ArgMatches,
    format: Format,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), DoctorError> {
    let (config, interface_error) = config::load_to_examine(arguments, variable)?;
    let findings = Examination::new(&config, interface_error)?.findings(variable)?;
    let report = DoctorReport { isowire: env!("CARGO_PKG_VERSION"), findings };
    match format {
        Format::Text => write!(out, "{report}"),
        Format::Json => json(&report, out),
    }
    .map_err(DoctorError::Output)?;
    match report.faults() {
        0 => Ok(()),
        faults => Err(DoctorError::Faults(faults)),
    }
}

fn json(report: &DoctorReport, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// The host, as `serve` with this configuration would find it.
struct Examination<'a> {
    config: &'a Config,
    interface_error: Option<ConfigError>,
    interfaces: Vec<Interface>,
    images: FoundImages,
    trial: Trial,
}

impl<'a> Examination<'a> {
    fn new(config: &'a Config, interface_error: Option<ConfigError>) -> Result<Self, DoctorError> {
        let interfaces = interfaces::list().map_err(DoctorError::System)?;
        let images = FoundImages::of(config);
        let names: Vec<_> = images.images.iter().map(|served| &*served.name).collect();
        let trial = Trial::of_services(config, &names);
        Ok(Self { config, interface_error, interfaces, trial, images })
    }

    fn findings(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Vec<Finding>, DoctorError> {
        let config = self.config;
        let mut findings = vec![self.interface(), self.privileges()];
        findings.extend(self.services());
        let running = host::running_server(variable);
        findings.push(judge::other_isowire(running.as_deref(), config.takeover));
        findings.push(self.firewall());
        findings.extend(self.other_dhcp()?);
        findings.extend(self.images());
        findings.extend(
            WrittenDirectory::all(config).map(DirectoryState::of).map(|state| judge::directory(&state)),
        );
        findings.push(judge::clock(&ClockState::read(), self.newest_date()));
        Ok(findings)
    }

    fn interface(&self) -> Finding {
        match &self.interface_error {
            Some(error) => Finding::told(Verdict::Fault, "interface", error.to_string()),
            None => judge::interfaces(&self.interfaces, self.config.interface.as_deref()),
        }
    }

    fn privileges(&self) -> Finding {
        let program = env::current_exe().unwrap_or_else(|_| PathBuf::from("isowire"));
        judge::privileges(Privileges::of_process(), self.trial.lacks_privilege, &program)
    }

    fn services(&self) -> Vec<Finding> {
        let Trial { rows, errors, .. } = &self.trial;
        let takeover = self.config.takeover;
        let is_refused = |row| errors.iter().any(|error| judge::is_about(error, row));
        let rows = rows.iter().filter(|row| !is_refused(row)).map(|row| {
            let taken = row.obstacle.as_ref().and_then(|obstacle| obstacle.taken);
            let owner = taken.and_then(|address| owner(row.service, address));
            judge::service(row, owner.as_ref(), takeover)
        });
        let errors = errors.iter().map(|error| {
            let owner = judge::taken(error).and_then(|(service, address)| owner(service, address));
            judge::refusal(error, owner.as_ref(), takeover)
        });
        rows.chain(errors).collect()
    }

    fn firewall(&self) -> Finding {
        let ports = judge::needed_ports(&self.trial.rows);
        let links = self.interfaces.iter().filter(|link| judge::is_usable(link));
        let only = self.config.interface.as_deref();
        let names: Vec<_> = links
            .map(|link| link.name.as_str())
            .filter(|name| only.is_none_or(|only| only == *name))
            .collect();
        judge::firewall(&Rules::read(), &names, &ports)
    }

    fn other_dhcp(&self) -> Result<Vec<Finding>, DoctorError> {
        let Config { dhcp, interface, rules, wait_interface, servers, .. } = self.config;
        let mode = match dhcp {
            Dhcp::Server(server) => DhcpMode::Server(server.clone()),
            // Without a DHCP server of isowire, the network has to have one.
            Dhcp::Proxy(_) | Dhcp::Off => DhcpMode::Proxy,
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(DoctorError::System)?;
        let looked = look_for_others(&mode, interface.clone(), rules, *wait_interface, servers.as_ref());
        Ok(match runtime.block_on(looked) {
            Ok(probes) => {
                let mut findings = judge::other_dhcp(dhcp, &probes);
                findings.extend(judge::peers(dhcp, &probes));
                findings
            }
            Err(error) => vec![Finding::told(Verdict::Fault, "DHCP range", error.to_string())],
        })
    }

    fn images(&self) -> Vec<Finding> {
        let FoundImages { images, errors, places } = &self.images;
        if self.config.images.is_empty() {
            let fix = "name it, as in `isowire doctor archlinux.iso`";
            return vec![Finding::warning("ISO", "none was named, so none was looked at", fix)];
        }
        let errors = errors.iter().map(|(error, is_fatal)| {
            let verdict = if *is_fatal { Verdict::Fault } else { Verdict::Warning };
            Finding::told(verdict, "ISO", error.to_string())
        });
        let places = places.iter().map(|(place, count)| {
            Finding::ok("ISO", format!("{place}: images in the object store: {count} (not opened)"))
        });
        let images = images.iter().flat_map(|served| self.image(served));
        errors.chain(places).chain(images).chain(self.unknown_images()).collect()
    }

    /// Judges the images that rules name. Those of object stores are not known here.
    fn unknown_images(&self) -> impl Iterator<Item = Finding> {
        let FoundImages { images, places, .. } = &self.images;
        let has_folder = self.config.images.iter().any(|image| image.path.is_dir());
        let is_known = |name: &Word| images.iter().any(|served| *served.name == *name.as_str());
        let named = self.config.rules.iter().filter_map(|rule| rule.image.as_ref());
        let unknown = named.filter(move |name| places.is_empty() && !is_known(name));
        unknown.map(move |name| judge::unknown_image(name, has_folder))
    }

    fn image(&self, served: &Arc<ServedImage>) -> Vec<Finding> {
        let (name, image) = (&served.name, &served.image);
        let certificate = self.config.signing_pair.as_ref().map(|pair| pair.certificate());
        let stub = self.config.stub.clone();
        let boots =
            image.archiso.as_ref().map(|archiso| inspect::by_firmware(image, archiso, certificate, stub));
        let firmware = judge::firmware(name, &boots.unwrap_or_default());
        // Without a root that is served, the ports are the fault.
        let support = if self.trial.roots.is_empty() { Vec::new() } else { inspect::root_support(image) };
        let hooks = (!support.is_empty()).then(|| judge::hooks(name, &support, &self.trial.roots));
        [Some(firmware), hooks].into_iter().flatten().collect()
    }

    fn newest_date(&self) -> Option<Timestamp> {
        self.images.images.iter().filter_map(|served| served.image.volume.created).max()
    }
}

/// Returns the program that has the port of a service.
fn owner(service: &str, address: SocketAddrV4) -> Option<PortOwner> {
    judge::transports(service).iter().find_map(|transport| port_owner::find(address, *transport))
}
