//! Private servers of all protocols: on loopback, on ports that the system chooses.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::net::{TcpListener, UdpSocket};

use crate::boot::generated::MENU_PATH;
use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
use crate::boot::{BootConfig, Files, Ports, Requester};
use crate::bootable::Root;
use crate::export::Export;
use crate::image::Image;
use crate::images::{ImageSet, ServedImage};
use crate::machines::Registry;
use crate::{http, nbd, nfs, tftp};

/// Name of the served image.
pub(super) const NAME: &str = "check";

/// Addresses of the servers under test, and the files that they serve besides the image.
pub struct CheckedServers {
    pub nbd: SocketAddr,
    /// NFS and MOUNT; the portmapper returns this port.
    pub nfs: SocketAddr,
    pub portmap: SocketAddr,
    pub http: SocketAddr,
    pub tftp: SocketAddr,
    pub files: Arc<Files>,
}

impl CheckedServers {
    /// Starts all servers with `image`. They run as long as the runtime.
    ///
    /// # Errors
    /// The error of the system when a socket cannot be opened.
    pub async fn open(image: Arc<Image>) -> io::Result<Self> {
        let images = Arc::new(ImageSet::new(ServedImage::new(NAME, image), Vec::new()));
        let [nbd, nfs] = [listener().await?, listener().await?];
        let [portmap, http] = [listener().await?, listener().await?];
        // Clients are told the ports, so nothing depends on the registered ones, which need a
        // privilege.
        let [portmap_udp, tftp] = [socket().await?, socket().await?];
        let ports = Ports { tftp: tftp.local_addr()?.port(), http: Some(http.local_addr()?.port()) };
        let config = BootConfig::new(settings(), ports);
        let files = Arc::new(Files::new(Arc::clone(&images), config).map_err(io::Error::other)?);
        let servers = Self {
            nbd: nbd.local_addr()?,
            nfs: nfs.local_addr()?,
            portmap: portmap.local_addr()?,
            http: http.local_addr()?,
            tftp: tftp.local_addr()?,
            files: Arc::clone(&files),
        };
        let machines = Arc::new(Registry::new(Instant::now()));
        // The servers are those of `serve`, without a signal that would stop them.
        tokio::spawn(nbd::server::run(nbd, Arc::clone(&images), Arc::clone(&machines), pending()));
        tokio::spawn(nfs::server::run(nfs, images, Arc::clone(&machines), pending()));
        tokio::spawn(nfs::server::portmap::run(portmap, portmap_udp, servers.nfs.port(), pending()));
        tokio::spawn(http::server::run(http, Arc::clone(&files), Arc::clone(&machines), None, pending()));
        tokio::spawn(tftp::server::run(
            tftp,
            move |path: &[u8], requester| files.open(path, requester),
            machines,
            tftp::server::Options::default(),
            pending(),
        ));
        Ok(servers)
    }

    /// Returns the generated menu.
    pub(crate) fn menu(&self) -> Export {
        let here = Ipv4Addr::LOCALHOST;
        // The menu names the machine that asks.
        let requester = Requester::new(here, here.into(), Timestamp::now());
        let menu = self.files.open(MENU_PATH.as_bytes(), requester);
        menu.map_or_else(|_| Export::of_zeros(0), |file| file.export)
    }

    /// Returns false for a file of the image whose path belongs to a generated file.
    pub(crate) fn is_reachable(&self, path: &[u8]) -> bool {
        !self.files.open(path, Ipv4Addr::LOCALHOST).is_ok_and(|file| file.is_generated())
    }
}

// Port 0: the system chooses a free one, so checks can run beside a server and beside each other.
async fn listener() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

async fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await
}

/// Returns the default settings of the menu.
fn settings() -> MenuSettings {
    MenuSettings {
        roots: Root::ALL.to_vec(),
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: Vec::new(),
    }
}
