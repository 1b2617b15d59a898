//! The report at start: a table of the services, and what to do about those that are off.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use crate::bootable::Root;
use crate::config::{HTTP_PORT, NBD_PORT, PORTMAP_PORT, TFTP_PORT};
use crate::machines::server_status::ServiceStatus;
use crate::uki::SigningPair;

/// Row of the servers that share machines.
pub(super) const SERVERS: &str = "Servers";

/// The services of this run and their states.
#[derive(Debug, Clone)]
pub(super) struct StartReport {
    pub(super) rows: Vec<ServiceRow>,
    /// The root that machines boot with, if it is not the one that they would by default.
    pub(super) other_root: Option<Root>,
    /// True if no image has anything to boot.
    pub(super) has_nothing_to_boot: bool,
    /// Path of this program, for `setcap`; `None` if no privilege is missing.
    pub(super) unprivileged: Option<PathBuf>,
    pub(super) answers_dhcp: bool,
    /// Settings for another DHCP server; `None` if isowire answers DHCP, or has nothing to load.
    pub(super) foreign_dhcp: Option<ForeignDhcp>,
    /// Key of the UEFI boot programs and its certificate.
    pub(super) signing_pair: Option<Arc<SigningPair>>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRow {
    pub(crate) service: &'static str,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) state: String,
    /// Reason why a service that is wanted is off or somewhere else.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Reason why a service is not what it would be by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// Address that another program has.
    pub(crate) taken: Option<SocketAddrV4>,
    /// What to do; `None` if the state says it.
    pub(crate) fix: Option<String>,
}

/// Settings with which another DHCP server sends machines here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignDhcp {
    pub(super) address: Ipv4Addr,
    pub(super) tftp_port: u16,
    /// For BIOS machines, as in a boot plan, with a leading `/`.
    pub(super) boot_file: String,
    /// The same for UEFI machines, if they can boot.
    pub(super) uefi_boot_file: Option<String>,
}

/// Returns the consequence of a port that is not the registered one.
pub(super) fn port_note(service: &'static str, port: u16) -> &'static str {
    match (service, port) {
        // mkinitcpio-archiso, archiso_pxe_nbd: nbd-client is called without a port.
        ("NBD", port) if port != NBD_PORT => "; archiso's initramfs asks port 10809 and no other",
        // Port 111 is the portmapper's (RFC 1833). klibc's nfsmount cannot be given another one.
        ("Portmap", port) if port != PORTMAP_PORT => "; archiso's initramfs asks port 111 and no other",
        // RFC 9110 §4.2.1: a URL without a port means port 80, and the URLs of the image's menu
        // have none.
        ("HTTP", port) if port != HTTP_PORT => "; the image's own menu asks port 80, ours asks this one",
        // RFC 1350 §4: a request goes to port 69. DHCP has no option for another port; iPXE takes
        // one in a tftp:// URL.
        ("TFTP", port) if port != TFTP_PORT => "; firmware asks port 69, only iPXE can be told another",
        _ => "",
    }
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8} {:<21} STATE", "SERVICE", "ADDRESS")?;
        for ServiceRow { service, address, state, .. } in &self.rows {
            let address = address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            writeln!(f, "{service:<8} {address:<21} {state}")?;
        }
        write!(f, "{}", self.advice())
    }
}

impl StartReport {
    /// Returns the text below the table: what to do.
    pub(super) fn advice(&self) -> Advice<'_> {
        Advice(self)
    }

    /// Notes that DHCP is off after all.
    pub(super) fn turn_off_dhcp(&mut self, why: &dyn fmt::Display) {
        self.answers_dhcp = false;
        self.rows.retain(|row| row.service != SERVERS);
        if let Some(row) = self.rows.iter_mut().find(|row| row.service == "DHCP") {
            (row.address, row.state) = (None, format!("off: {why}"));
        }
    }

    /// Returns the table for the status.
    pub(super) fn services(&self) -> Vec<ServiceStatus> {
        let status = |row: &ServiceRow| ServiceStatus {
            service: row.service.to_owned(),
            address: row.address,
            state: row.state.clone(),
        };
        self.rows.iter().map(status).collect()
    }
}

/// The text of a [`StartReport`] below its table.
pub(super) struct Advice<'a>(&'a StartReport);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StartReport { other_root, has_nothing_to_boot, signing_pair, unprivileged, foreign_dhcp, .. } =
            self.0;
        if let Some(root) = other_root {
            writeln!(
                f,
                "\nMachines get their root file system over {root}, unless another entry of the menu is chosen."
            )?;
        }
        if *has_nothing_to_boot {
            writeln!(
                f,
                "\nNo machine can boot from here: no image is an Arch ISO with a kernel and an initramfs."
            )?;
            writeln!(f, "Give one made by mkarchiso; `isowire inspect ISO` tells what an ISO lacks.")?;
        }
        if let Some(pair) = signing_pair {
            write_signer(f, pair)?;
        }
        if let Some(program) = unprivileged {
            write_privileges(f, program)?;
        }
        foreign_dhcp.as_ref().map_or(Ok(()), |foreign| write!(f, "\n{foreign}"))
    }
}

fn write_signer(f: &mut fmt::Formatter<'_>, pair: &SigningPair) -> fmt::Result {
    writeln!(f, "\nUEFI boot programs are signed for Secure Boot by `{pair}`.")?;
    writeln!(f, "Firmware has to know its certificate, which is served as /isowire/secure-boot.cer:")?;
    writeln!(f, "  SHA-256 {}", pair.certificate().fingerprint_text())
}

fn write_privileges(f: &mut fmt::Formatter<'_>, program: &std::path::Path) -> fmt::Result {
    writeln!(
        f,
        "\nThis user may not use ports below 1024: DHCP has 67, TFTP 69, HTTP 80, the portmapper of NFS 111."
    )?;
    writeln!(f, "One of these is enough for all of them:")?;
    writeln!(f, "  sudo setcap cap_net_bind_service+ep {}", program.display())?;
    writeln!(f, "  sudo sysctl net.ipv4.ip_unprivileged_port_start=67")?;
    writeln!(f, "  the systemd units of isowire (dist/systemd), which open these ports for it")
}

impl fmt::Display for ForeignDhcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, tftp_port, boot_file, uefi_boot_file } = self;
        writeln!(f, "To boot machines from here, set the DHCP server of their network as follows:")?;
        if *tftp_port == TFTP_PORT {
            writeln!(f, "  dnsmasq      dhcp-boot={boot_file},,{address}")?;
            writeln!(f, "  ISC dhcpd    next-server {address}; filename \"{boot_file}\";")?;
            writeln!(
                f,
                "  others       next server (option 66) {address}, boot file (option 67) {boot_file}"
            )?;
            match uefi_boot_file {
                Some(file) => writeln!(f, "That is for BIOS; machines with UEFI need the boot file {file}"),
                None => Ok(()),
            }
        } else {
            let url = format!("tftp://{address}:{tftp_port}{boot_file}");
            writeln!(f, "  dnsmasq      dhcp-boot={url}")?;
            writeln!(f, "  ISC dhcpd    filename \"{url}\";")?;
            writeln!(f, "  others       boot file (option 67) {url}")?;
            writeln!(
                f,
                "Only iPXE, which is in most virtual machines, understands that; firmware on real network"
            )?;
            writeln!(f, "cards needs TFTP on port 69.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uki::sign::tests::pair;

    fn row(service: &'static str, port: u16, state: &str) -> ServiceRow {
        let address = (Ipv4Addr::UNSPECIFIED, port).into();
        ServiceRow { service, address: Some(address), state: state.into(), obstacle: None }
    }

    #[test]
    fn report_lists_services() {
        let rows = vec![row("NBD", 10809, "serving arch"), row("TFTP", 69, "serving")];
        let report = StartReport {
            rows,
            other_root: None,
            has_nothing_to_boot: false,
            unprivileged: None,
            answers_dhcp: false,
            foreign_dhcp: None,
            signing_pair: None,
        };
        assert_eq!(
            report.to_string(),
            "SERVICE  ADDRESS               STATE\n\
             NBD      0.0.0.0:10809         serving arch\n\
             TFTP     0.0.0.0:69            serving\n"
        );
    }

    #[test]
    fn report_says_what_to_do() {
        let off = ServiceRow { service: "DHCP", address: None, state: "off".into(), obstacle: None };
        let foreign = ForeignDhcp {
            address: Ipv4Addr::new(10, 0, 0, 1),
            tftp_port: 69,
            boot_file: "/boot/syslinux/lpxelinux.0".into(),
            uefi_boot_file: Some("/isowire/nfs.efi".into()),
        };
        let report = StartReport {
            rows: vec![off],
            other_root: Some(Root::Nfs),
            has_nothing_to_boot: true,
            unprivileged: Some("/opt/isowire".into()),
            answers_dhcp: false,
            foreign_dhcp: Some(foreign.clone()),
            signing_pair: Some(pair()),
        };
        let text = report.to_string();
        assert!(text.contains("DHCP     -                     off\n"));
        assert!(text.contains("\nMachines get their root file system over NFS, unless"));
        assert!(text.contains("\nNo machine can boot from here: no image is an Arch ISO"));
        assert!(text.contains("\n  sudo setcap cap_net_bind_service+ep /opt/isowire\n"));
        assert!(text.contains("dhcp-boot=/boot/syslinux/lpxelinux.0,,10.0.0.1\n"));
        assert!(
            text.contains("\nThat is for BIOS; machines with UEFI need the boot file /isowire/nfs.efi\n")
        );
        assert!(
            text.contains("\nUEFI boot programs are signed for Secure Boot by `isowire test`.\n"),
            "{text}"
        );
        let text = ForeignDhcp { tftp_port: 6969, ..foreign }.to_string();
        assert!(text.contains("dhcp-boot=tftp://10.0.0.1:6969/boot/syslinux/lpxelinux.0\n"));
        assert!(text.contains("Only iPXE"));
    }

    #[test]
    fn unregistered_port_is_noted() {
        assert_eq!([port_note("NBD", 10809), port_note("TFTP", 69), port_note("DHCP", 67)], [""; 3]);
        assert!(port_note("NBD", 1).contains("10809"));
        assert!(port_note("TFTP", 6969).contains("69"));
        assert_eq!([port_note("Portmap", 111), port_note("HTTP", 80), port_note("NFS", 12049)], [""; 3]);
        assert!(port_note("Portmap", 10111).contains("111"));
        assert!(port_note("HTTP", 8080).contains("80"));
    }
}
