//! Network of one test: a namespace with a bridge, further namespaces as hosts on it, and taps for
//! machines.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::needs::{find, tool};
use super::running::{Running, output_of};

/// The programs without which there is no [`Lan`].
pub const NEEDS: [&str; 4] = ["root", "ip", "sysctl", "setpriv"];

/// The bridge's name inside its namespace.
pub const BRIDGE: &str = "br0";

/// The bridge behind a bad link.
const FAR: &str = "far";

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

/// An Ethernet segment. Its namespace is a host on it, with the bridge's address; the server runs
/// there.
///
/// Dropping it deletes the namespaces: processes in them must have ended before.
pub struct Lan {
    server: Namespace,
    hosts: u32,
    taps: u32,
    /// The bridge that hosts and machines are plugged into.
    bridge: &'static str,
    mtu: u32,
}

impl Lan {
    /// Makes a /24 network. Unprivileged processes on it may bind every port.
    pub fn new(address: Ipv4Addr) -> Lan {
        let server = Namespace::new();
        server.ip(&["link", "add", BRIDGE, "type", "bridge"]);
        server.configure(BRIDGE, address);
        output_of(server.command("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=0"]));
        Lan { server, hosts: 0, taps: 0, bridge: BRIDGE, mtu: 1500 }
    }

    /// Adds another segment, also with a /24 network, on which the server is a host too.
    pub fn add_bridge(&self, bridge: &str, address: Ipv4Addr) {
        self.server.ip(&["link", "add", bridge, "type", "bridge"]);
        self.server.configure(bridge, address);
    }

    /// Adds a host to the segment.
    pub fn host(&mut self, address: Ipv4Addr) -> Namespace {
        self.host_on(self.bridge, address)
    }

    /// Puts a link with these faults (see `link.py`) and this MTU between the server and all hosts and
    /// machines that are added from now on. The link ends with what is returned.
    pub fn worsen(&mut self, faults: &[&str], mtu: u32, log: &Path) -> Running {
        self.mtu = mtu;
        let near = self.tap();
        self.server.ip(&["link", "add", FAR, "type", "bridge"]);
        // The server's namespace holds the bridge, and is no host on it.
        self.server.ip(&["link", "set", FAR, "arp", "off", "up"]);
        self.bridge = FAR;
        let far = self.tap();
        let mut command = self.server.command("python3");
        command.args(["-c", include_str!("link.py"), &near, &far]).args(faults);
        let mut link = Running::start(&mut command, log);
        link.wait_for("carrying", Duration::from_secs(20));
        link
    }

    /// Returns the bridge that hosts and machines are plugged into.
    pub fn bridge(&self) -> &'static str {
        self.bridge
    }

    /// Adds a host to the segment of a bridge.
    pub fn host_on(&mut self, bridge: &str, address: Ipv4Addr) -> Namespace {
        self.hosts += 1;
        let (here, there) = (format!("veth{}", self.hosts), "eth0");
        let host = Namespace::new();
        let mtu = ["mtu", &self.mtu.to_string()];
        let [near, far] = [["link", "add", &here], ["type", "veth", "peer"]];
        let peer = ["name", there, "netns", &host.name];
        self.server.ip(&[&near[..], &mtu, &far, &mtu, &peer].concat());
        self.plug_in(&here, bridge);
        host.configure(there, address);
        host
    }

    /// Deletes the bridge and makes it again, with the same address and hosts.
    pub fn replace_bridge(&self, address: Ipv4Addr) {
        self.server.ip(&["link", "delete", BRIDGE]);
        self.server.ip(&["link", "add", BRIDGE, "type", "bridge"]);
        self.server.configure(BRIDGE, address);
        (1..=self.hosts).for_each(|host| self.plug_in(&format!("veth{host}"), BRIDGE));
    }

    /// Adds a tap device for a machine and returns its name.
    pub fn tap(&mut self) -> String {
        self.taps += 1;
        let tap = format!("tap{}", self.taps);
        self.server.ip(&["tuntap", "add", &tap, "mode", "tap"]);
        self.server.ip(&["link", "set", &tap, "mtu", &self.mtu.to_string()]);
        self.plug_in(&tap, self.bridge);
        tap
    }

    /// Returns a name that no other network has at this time.
    pub fn name(&self) -> &str {
        &self.server.name
    }

    /// Returns the host that the server runs on.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Makes a command that runs beside the server, as root.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.server.command(program)
    }

    /// Makes a command that runs beside the server, as a user without any privilege.
    pub fn command_as_nobody(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.server.command("setpriv");
        command
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .args(["--clear-groups", "--no-new-privs"])
            .args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"])
            .arg(program.as_ref());
        command
    }

    fn plug_in(&self, interface: &str, bridge: &str) {
        self.server.ip(&["link", "set", interface, "master", bridge, "up"]);
    }
}

/// Lets the unprivileged user of [`Lan::command_as_nobody`] write to a directory.
pub fn give_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
}

/// A network namespace with a name of its own.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a host with only its loopback interface.
    pub fn new() -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isowire-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        output_of(tool("ip").args(["netns", "add", &name]));
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Returns a name that no other namespace has at this time.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a command that runs inside, as root.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", &self.name]);
        command.arg(find(program.as_ref()).unwrap_or_else(|| program.as_ref().to_owned()));
        command
    }

    /// Moves the calling thread inside, for good: what it opens and spawns is there.
    pub fn enter(&self) {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("iproute2 keeps it there");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter its own namespaces");
    }

    /// Calls `open` inside. Sockets that it opens stay there, also for threads outside.
    pub fn inside<T: Send>(&self, open: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                open()
            });
            inside.join().expect("what runs inside does not panic")
        })
    }

    fn configure(&self, interface: &str, address: Ipv4Addr) {
        self.ip(&["address", "add", &format!("{address}/24"), "brd", "+", "dev", interface]);
        self.ip(&["link", "set", interface, "up"]);
    }

    /// Runs `ip` with these arguments inside.
    pub fn ip(&self, arguments: &[&str]) {
        output_of(tool("ip").args(["-netns", &self.name]).args(arguments));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = tool("ip").args(["netns", "delete", &self.name]).status();
    }
}
