"""isowire, its peers and the raw loops: start, with the best settings of each, and stop."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

HOST = "127.0.0.1"
SERVER_CORE, CLIENT_CORE = "0", "1"
US, BEFORE, PEER, LIMIT = "us", "before", "peer", "limit"

RPCBIND = 111


@dataclass
class Server:
    name: str
    argv: Callable
    kind: str = PEER
    """The program that has to be installed; None for those built here."""
    program: str | None = None
    export: str = "archiso"
    """The server becomes a daemon and writes its process id to `pid`."""
    pid_file: bool = False
    """Can serve thousands of clients without exhausting the host."""
    takes_thousands: bool = False
    needs_rpcbind: bool = False
    path: str = "/"
    """The server ignores SIGCHLD, so the cost of its children is unknown."""
    hides_cost: bool = False

    def missing(self, fixture):
        """The reason why the server cannot be measured; None if it can."""
        if self.kind == BEFORE and fixture.before is None:
            return "`--before` names no program"
        if self.program and not find(self.program):
            return f"{self.program} is not installed"
        if self.program == "in.tftpd" and "hpa" not in version("in.tftpd"):
            return "in.tftpd is not that of tftpd-hpa"
        if self.program is None and self.kind == PEER and fixture.rivals is None:
            return "benches/rivals is not built"
        if self.needs_rpcbind and os.geteuid() != 0:
            return "it needs rpcbind, and that needs root"
        return None


def find(program):
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/local/sbin")


def version(program):
    return subprocess.run([find(program), "-V"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def isowire(fixture, port, directory, protocol, *more):
    protocols = {"nbd": "off", "nfs": "off", "portmap": "off", "http": "off", "tftp": "off", "status": "off"}
    if protocol == "tftp":
        # isowire does not start without a root protocol.
        protocols["http"] = "0"
    protocols[protocol] = str(port)
    options = [word for name, value in protocols.items() for word in (f"--{name}", value)]
    return [fixture.isowire, "serve", fixture.iso, "--bind", HOST, "--dhcp", "off", *options, *more]


def us(protocol, *more):
    return Server("isowire", lambda f, port, d: isowire(f, port, d, protocol, *more), US, takes_thousands=True)


def before(server):
    """The same server with the program of `--before`."""
    argv = lambda f, port, d: server.argv(replace(f, isowire=f.before), port, d)
    return replace(server, name="before", argv=argv, kind=BEFORE)


def limit(protocol, way, file=lambda f: f.iso):
    argv = lambda f, port, d: [f.load, "limit", protocol, str(port), file(f), way]
    return Server(f"raw {way}", argv, LIMIT, takes_thousands=True)


def nbdkit(name, *threads):
    argv = lambda f, port, d: ["nbdkit", "-f", "-r", "-i", HOST, "-p", str(port), *threads, "file", f.iso]
    return Server(name, argv, program="nbdkit", takes_thousands=bool(threads))


def qemu_nbd(aio):
    # qemu-nbd(8): `-e 0` allows any number of clients.
    argv = lambda f, port, d: ["qemu-nbd", "-t", "-r", "-f", "raw", "-b", HOST, "-p", str(port), "-e", "0", "-x",
                               "archiso", "--cache=writeback", f"--aio={aio}", f.iso]
    return Server(f"qemu-nbd {aio}", argv, program="qemu-nbd", takes_thousands=True)


def nbd_server(fixture, port, directory):
    conf = directory / "nbd-server.conf"
    conf.write_text(f"[generic]\nlistenaddr = {HOST}\nport = {port}\n"
                    f"[archiso]\nexportname = {fixture.iso}\nreadonly = true\n")
    return ["nbd-server", "-C", conf, "-p", directory / "pid"]


def ganesha(fixture, port, directory):
    conf = directory / "ganesha.conf"
    conf.write_text(f"""
NFS_CORE_PARAM {{ NFS_Port = {port}; MNT_Port = {port + 1}; Protocols = 3; Bind_addr = {HOST}; Enable_NLM = false;
    Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true; }}
NFS_KRB5 {{ Active_krb5 = false; }}
MDCACHE {{ Entries_HWMark = 100000; }}
LOG {{ Default_Log_Level = CRIT; }}
EXPORT {{ Export_Id = 1; Path = {fixture.tree}; Pseudo = /bench; Access_Type = RO; Squash = None; SecType = sys, none;
    Protocols = 3; Transports = TCP; FSAL {{ Name = VFS; }} }}
""")
    return ["ganesha.nfsd", "-F", "-f", conf, "-L", directory / "ganesha.log", "-p", directory / "ganesha.pid"]


def rival(name):
    return Server(name, lambda f, port, d: [f.rivals / name, str(port), f.tree / "big"])


def nginx(fixture, port, directory):
    conf = directory / "nginx.conf"
    temporary = " ".join(f"{kind}_temp_path {directory};" for kind in
                         ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf.write_text(f"""
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; {temporary}
    server {{ listen {HOST}:{port} backlog=4096; root {fixture.tree}; }} }}
""")
    return ["nginx", "-c", conf, "-g", "user root;"]


def lighttpd(fixture, port, directory):
    conf = directory / "lighttpd.conf"
    conf.write_text(f'server.document-root = "{fixture.tree}"\nserver.bind = "{HOST}"\nserver.port = {port}\n'
                    'server.network-backend = "sendfile"\nserver.max-keep-alive-requests = 100000000\n')
    return ["lighttpd", "-D", "-f", conf]


def dnsmasq_tftp(fixture, port, directory):
    # dnsmasq has no option for the port of TFTP.
    return ["dnsmasq", "-d", "-C", "/dev/null", "--port=0", f"--listen-address={HOST}", "--bind-interfaces",
            "--enable-tftp", f"--tftp-root={fixture.tree}", "--tftp-max=5000", "--user=root",
            f"--pid-file={directory}/dnsmasq.pid"]


def dnsmasq_dhcp(fixture, port, directory):
    return ["dnsmasq", "-d", "-C", "/dev/null", "--port=0", f"--interface={INTERFACE}", "--bind-interfaces",
            "--dhcp-range=10.77.0.10,10.77.234.0,255.255.0.0,1h", "--no-ping", "--dhcp-lease-max=65000",
            "--dhcp-authoritative", f"--dhcp-leasefile={directory}/leases", "--user=root",
            f"--pid-file={directory}/dnsmasq.pid", "--dhcp-boot=lpxelinux.0"]


def isowire_dhcp(fixture, port, directory):
    off = [word for protocol in ("nfs", "portmap", "http", "tftp", "status") for word in (f"--{protocol}", "off")]
    return [fixture.isowire, "serve", fixture.iso, "--nbd", "0", *off, "--interface", INTERFACE, "--dhcp-range",
            "10.77.0.10-10.77.234.0"]


INTERFACE = "bench0"

SERVERS = {
    "nbd": [
        us("nbd"),
        limit("nbd", "mapping"),
        limit("nbd", "sendfile"),
        nbdkit("nbdkit"),
        nbdkit("nbdkit -t 1", "-t", "1"),
        qemu_nbd("threads"),
        qemu_nbd("io_uring"),
        Server("nbd-server", nbd_server, program="nbd-server", pid_file=True),
    ],
    "nfs": [
        us("nfs"),
        limit("nfs", "mapping", lambda f: f.tree / "big"),
        limit("nfs", "sendfile", lambda f: f.tree / "big"),
        rival("nfs3_server"),
        rival("nfsserve"),
        Server("ganesha", ganesha, program="ganesha.nfsd", needs_rpcbind=True, path="/bench"),
    ],
    "http": [
        us("http", "--root", "http"),
        Server("nginx", nginx, program="nginx"),
        Server("lighttpd", lighttpd, program="lighttpd"),
        Server("darkhttpd", lambda f, port, d: ["darkhttpd", f.tree, "--addr", HOST, "--port", str(port)],
               program="darkhttpd"),
    ],
    "tftp": [
        us("tftp", "--root", "http"),
        limit("tftp", "mapping", lambda f: f.tree),
        Server("atftpd", lambda f, port, d: ["atftpd", "--daemon", "--no-fork", "--bind-address", HOST, "--port",
                                             str(port), "--maxthread", "1000", "--user", "root.root", "--verbose=0",
                                             f.tree], program="atftpd"),
        Server("tftpd-hpa", lambda f, port, d: ["in.tftpd", "-L", "-a", f"{HOST}:{port}", "-u", "root", "-s", f.tree],
               program="in.tftpd", hides_cost=True),
        Server("dnsmasq", dnsmasq_tftp, program="dnsmasq"),
    ],
    "dhcp": [Server("isowire", isowire_dhcp, US), Server("dnsmasq", dnsmasq_dhcp, program="dnsmasq")],
}


for servers in SERVERS.values():
    servers.insert(1, before(servers[0]))


class Failed(Exception):
    """A server did not start, or a load failed. Its row says so, and the others go on."""


class Running:
    """A server that runs alone on its core."""

    def __init__(self, server, fixture, directory, protocol, prefix=()):
        self.server, self.directory = server, directory
        self.port = free_port() if server.argv is not dnsmasq_tftp else 69
        self.log = directory / "log"
        self.rpcbind = start_rpcbind(directory) if server.needs_rpcbind else None
        argv = [str(word) for word in server.argv(fixture, self.port, directory)]
        argv[0] = find(argv[0]) or argv[0]
        environment = {**os.environ, "STATE_DIRECTORY": str(directory)}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*prefix, "taskset", "-c", SERVER_CORE, *argv], stdout=log,
                                            stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        self.pid = self.process.pid
        try:
            self.wait(protocol)
        except Failed:
            self.stop()
            raise

    def wait(self, protocol):
        end = time.monotonic() + 30
        while not self.is_ready(protocol):
            if time.monotonic() > end or (self.process.poll() is not None and not self.server.pid_file):
                raise Failed(f"did not start: {self.log.read_text(errors='replace').strip()[-500:]}")
            time.sleep(0.05)

    def is_ready(self, protocol):
        if self.server.pid_file:
            try:
                self.pid = int((self.directory / "pid").read_text())
            except (OSError, ValueError):
                return False
        if self.server.kind in (US, BEFORE):
            return "\nready" in self.log.read_text(errors="replace")
        if protocol in ("tftp", "dhcp"):
            port = 67 if protocol == "dhcp" else self.port
            try:
                return f":{port:04X} " in Path(f"/proc/{self.pid}/net/udp").read_text()
            except OSError:
                return False
        try:
            socket.create_connection((HOST, self.port), 1).close()
            return True
        except OSError:
            return False

    def stop(self):
        """Sends SIGTERM, then SIGKILL: nbd-server and its children ignore SIGTERM while they serve."""
        family = descendants(self.pid)
        for pid in family:
            kill(pid, signal.SIGTERM)
        end = time.monotonic() + 3
        while any(map(is_alive, family)) and time.monotonic() < end:
            self.process.poll()
            time.sleep(0.02)
        for pid in family:
            kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.rpcbind:
            self.rpcbind.terminate()
            self.rpcbind.wait()


def start_rpcbind(directory):
    """Starts rpcbind, unless one runs: ganesha registers its ports there, or does not start."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, RPCBIND)) == 0:
            return None
    program = find("rpcbind")
    if not program:
        raise Failed("rpcbind is not installed")
    with open(directory / "rpcbind.log", "w") as log:
        # rpcbind(8): `-h` adds 127.0.0.1 by itself; rpcbind ends if that address is named too.
        process = subprocess.Popen([program, "-f", "-h", "127.0.0.2"], stdout=log, stderr=subprocess.STDOUT)
    time.sleep(0.5)
    return process


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid):
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    family = [pid]
    for member in family:
        family.extend(parents.get(member, []))
    return family


def free_port():
    """A free port whose next port is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port = first.getsockname()[1]
            try:
                second.bind((HOST, port + 1))
                return port
            except OSError:
                continue
