//! An object store that a test has for itself: Ceph, with its monitor, its disk in memory and its S3
//! gateway, on loopback.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::needs::tool;
use super::running::{Running, output_of};

/// Programs that a store needs.
pub const NEEDS: [&str; 7] =
    ["ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool", "curl"];

const KEY: &str = "isowire";
const SECRET: &str = "isowire-secret";
const REGION: &str = "default";

/// Time for the gateway to answer: its first start makes pools.
const SOON: Duration = Duration::from_secs(60);

/// Held by the only store of this process: one takes half a gigabyte, and starts in two seconds.
static ONLY: Mutex<()> = Mutex::new(());

/// A running store.
pub struct ObjectStore {
    // In the order in which they end.
    gateway: Option<Running>,
    daemons: Vec<Running>,
    dir: TempDir,
    port: u16,
    _only: MutexGuard<'static, ()>,
}

impl ObjectStore {
    /// Starts a store with these buckets.
    pub fn start(buckets: &[&str]) -> Self {
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let port = free_ports();
        let mut store = Self { gateway: None, daemons: Vec::new(), dir, port, _only: only };
        store.configure();
        store.start_monitor();
        store.start_disk();
        store.make_user();
        store.start_gateway();
        buckets.iter().for_each(|bucket| store.make_bucket(bucket));
        store
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self) {
        for name in ["mon", "run", "log", "rgw", "osd.0"] {
            fs::create_dir(self.path(name)).unwrap();
        }
        let (dir, port) = (self.dir.path().display(), self.port);
        let (monitor, first, last) = (port + 1, port + 10, port + 99);
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let config = format!(
            "[global]
fsid = {id}
mon host = v2:127.0.0.1:{monitor}
auth cluster required = none
auth service required = none
auth client required = none
keyring = /dev/null
# The gateway asks for mode secure by itself, which is not possible without keys.
ms mon client mode = crc
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr1 = false
ms bind port min = {first}
ms bind port max = {last}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {dir}/run
admin socket =
log file = {dir}/log/$name.log
mon cluster log file = {dir}/log/cluster.log
log to stderr = false
err to stderr = false
crash dir = {dir}/log
pid file =
setuser match path =
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
paxos propose interval = 0.05
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
[mon]
mon data = {dir}/mon/$id
mon osd nearfull ratio = 0.95
mon osd backfillfull ratio = 0.96
mon osd full ratio = 0.97
auth allow insecure global id reclaim = false
[osd]
osd data = {dir}/osd.$id
osd objectstore = memstore
memstore device bytes = 8589934592
osd memory target = 939524096
osd class default list = *
osd class load list = *
osd heartbeat grace = 5
[client]
# Without tcp_nodelay each small answer waits 40 ms (Nagle's algorithm and delayed ACK).
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {dir}/rgw
rgw enable usage log = false
rgw enable lc threads = false
rgw dns name =
rgw run sync thread = false
debug rgw = 0/0
"
        );
        fs::write(self.config(), config).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.path("ceph.conf")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = tool(program);
        command.arg("-c").arg(self.config());
        command
    }

    fn daemon(&self, program: &str, arguments: &[&str]) -> Running {
        let log = self.path("log").join(format!("{program}.out"));
        Running::start(self.command(program).args(arguments).arg("-f"), &log)
    }

    fn start_monitor(&mut self) {
        let map = self.path("monmap");
        let config = fs::read_to_string(self.config()).unwrap();
        let id = config.lines().find_map(|line| line.strip_prefix("fsid = ")).unwrap();
        let address = format!("[v2:127.0.0.1:{}]", self.port + 1);
        let mut make = tool("monmaptool");
        make.args(["--create", "--clobber", "--fsid", id, "--addv", "a", &address]).arg(&map);
        output_of(&mut make);
        output_of(self.command("ceph-mon").args(["--mkfs", "-i", "a", "--monmap"]).arg(&map));
        self.daemons.insert(0, self.daemon("ceph-mon", &["-i", "a"]));
    }

    fn start_disk(&mut self) {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let id = id.trim();
        // Waits for the monitor.
        output_of(self.command("ceph").args(["--connect-timeout", "30", "osd", "new", id]));
        output_of(self.command("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", id]));
        self.daemons.insert(0, self.daemon("ceph-osd", &["-i", "0"]));
    }

    fn make_user(&self) {
        let mut make = self.command("radosgw-admin");
        make.args(["user", "create", "--uid", KEY, "--display-name", KEY]);
        output_of(make.args(["--access-key", KEY, "--secret-key", SECRET]));
    }

    /// Starts the gateway, also again, and waits until it answers.
    pub fn start_gateway(&mut self) {
        let mut gateway = self.daemon("radosgw", &["-n", "client.rgw"]);
        let end = Instant::now() + SOON;
        while !self.answers() {
            let ended = gateway.wait(Duration::ZERO);
            assert!(ended.is_none() && Instant::now() < end, "no gateway: {ended:?}: {}", gateway.log());
            sleep(Duration::from_millis(50));
        }
        self.gateway = Some(gateway);
    }

    /// Ends the gateway at once; connections to it are lost.
    pub fn kill_gateway(&mut self) {
        self.gateway.take().expect("it runs").kill();
    }

    fn answers(&self) -> bool {
        let mut ask = tool("curl");
        ask.args(["-fs", "-o", "/dev/null", "--max-time", "2", &self.url("")]);
        ask.status().is_ok_and(|status| status.success())
    }

    /// Returns the port of the gateway.
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Returns the environment of a process that uses the store, at this port of this host.
    pub fn environment(&self, port: u16) -> [(&'static str, String); 5] {
        environment(port)
    }

    fn signed(&self, arguments: &[&str], path: &str) {
        let mut curl = tool("curl");
        curl.args(["-fsS", "--aws-sigv4", &format!("aws:amz:{REGION}:s3")]);
        curl.args(["-u", &format!("{KEY}:{SECRET}"), "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        output_of(curl.args(arguments).arg(self.url(path)).stdin(Stdio::null()));
    }

    pub fn make_bucket(&self, bucket: &str) {
        self.signed(&["-X", "PUT"], bucket);
    }

    /// Lets anybody read the objects of a bucket that are put from now on.
    pub fn put_public(&self, path: &str, file: &Path) {
        self.signed(&["-H", "x-amz-acl: public-read", "-T", file.to_str().unwrap()], path);
    }

    /// Puts a file into the store as `BUCKET/KEY`.
    pub fn put(&self, path: &str, file: &Path) {
        self.signed(&["-T", file.to_str().unwrap()], path);
    }

    pub fn remove(&self, path: &str) {
        self.signed(&["-X", "DELETE"], path);
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        // Nothing of it is kept, and the gateway would wait for the monitor.
        let gateway = self.gateway.take().into_iter();
        gateway.chain(self.daemons.drain(..)).for_each(Running::kill);
    }
}

/// Returns the environment of a process that uses a store at this port of this host.
pub fn environment(port: u16) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ]
}

/// Returns the first of a hundred ports, of which those of gateway and monitor are free. The range is
/// below that of outgoing connections.
fn free_ports() -> u16 {
    let first = std::process::id() % 100;
    let bases = (first..first + 100).map(|number| 20_000 + 100 * (number % 100) as u16);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    bases
        .into_iter()
        .find(|&base| is_free(base) && is_free(base + 1) && is_free(base + 10))
        .expect("free ports")
}
