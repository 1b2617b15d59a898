//! Private servers of all protocols: on loopback, on ports that the system chooses.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpListener, UdpSocket};

use crate::boot::files::{BootConfig, Files, Ports};
use crate::boot::generated::MENU_PATH;
use crate::boot::menu::{Cms, CopyToRam, MenuSettings, Root};
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
        let [portmap_udp, tftp] = [socket().await?, socket().await?];
        let ports = Ports { tftp: tftp.local_addr()?.port(), http: Some(http.local_addr()?.port()) };
        let terms = BootConfig::new(settings(), ports);
        let files = Files::new(Arc::clone(&images), terms).map_err(io::Error::other)?;
        let files = Arc::new(files);
        let doors = Self {
            nbd: nbd.local_addr()?,
            nfs: nfs.local_addr()?,
            portmap: portmap.local_addr()?,
            http: http.local_addr()?,
            tftp: tftp.local_addr()?,
            files: Arc::clone(&files),
        };
        let machines = Arc::new(Registry::new(Instant::now()));
        tokio::spawn(nbd::server::run(nbd, Arc::clone(&images), Arc::clone(&machines), pending()));
        tokio::spawn(nfs::server::run(nfs, images, Arc::clone(&machines), pending()));
        tokio::spawn(nfs::server::portmap::run(portmap, portmap_udp, doors.nfs.port(), pending()));
        tokio::spawn(http::server::run(http, Arc::clone(&files), Arc::clone(&machines), None, pending()));
        let open = move |path: &[u8], local| files.open(path, local);
        tokio::spawn(tftp::server::run(tftp, open, machines, tftp::server::Options::default(), pending()));
        Ok(doors)
    }

    /// Returns the generated menu.
    pub(crate) fn menu(&self) -> Export {
        let menu = self.files.open(MENU_PATH.as_bytes(), Ipv4Addr::LOCALHOST);
        menu.map_or_else(|_| Export::of_zeros(0), |file| file.export)
    }

    /// Returns false for a file of the image that a generated file of the same path hides.
    pub(crate) fn is_reachable(&self, path: &[u8]) -> bool {
        !self.files.open(path, Ipv4Addr::LOCALHOST).is_ok_and(|file| file.is_made())
    }
}

async fn listener() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}

async fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await
}

/// Returns menu settings with all roots.
fn settings() -> MenuSettings {
    MenuSettings {
        roots: Root::ALL.to_vec(),
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: Vec::new(),
    }
}
