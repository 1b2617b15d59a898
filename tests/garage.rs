//! Images in Garage, an object store of three nodes, of which one after the other is lost. Debian has no
//! package of it; `cargo install garage --locked` makes it in a quarter of an hour.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use common::iso;
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, only_with_all, tool};
use common::ports::free_port;
use common::running::{Running, output_of};

const NEEDS: [&str; 3] = ["garage", "curl", "xorriso"];
const SOON: Duration = Duration::from_secs(60);

/// Keys have this form.
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// A secret that the nodes share.
const CLUSTER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A cluster that keeps three copies of each object, one at each node.
struct Garage {
    nodes: [Option<Running>; 3],
    /// Port of S3 at each node.
    ports: [u16; 3],
    dir: TempDir,
}

impl Garage {
    /// Starts a cluster with the bucket `images`.
    fn start() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // As root, isowire becomes another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut garage = Self { nodes: [const { None }; 3], ports: [(); 3].map(|()| free_port()), dir };
        for node in 0..3 {
            garage.configure(node);
            garage.start_node(node);
        }
        let ids = [0, 1, 2].map(|node| garage.ask(node, &["node", "id", "-q"]).trim().to_owned());
        for id in &ids[1..] {
            garage.ask(0, &["node", "connect", id]);
        }
        for (node, id) in ids.iter().enumerate() {
            let id = id.split('@').next().unwrap();
            garage.ask(0, &["layout", "assign", "-z", &format!("zone{node}"), "-c", "4G", id]);
        }
        garage.ask(0, &["layout", "apply", "--version", "1"]);
        garage.ask(0, &["key", "import", "--yes", "-n", "isowire", KEY, SECRET]);
        garage.ask(0, &["bucket", "create", "images"]);
        garage.ask(0, &["bucket", "allow", "--read", "--write", "images", "--key", "isowire"]);
        garage
    }

    fn path(&self, node: usize, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}{node}"))
    }

    fn configure(&self, node: usize) {
        let path = |name| self.path(node, name).display().to_string();
        let (meta, data, s3, cluster) = (path("meta"), path("data"), self.ports[node], free_port());
        let config = format!(
            "metadata_dir = '{meta}'
data_dir = '{data}'
db_engine = 'lmdb'
lmdb_map_size = '1G'
replication_factor = 3
compression_level = 'none'
rpc_bind_addr = '127.0.0.1:{cluster}'
rpc_public_addr = '127.0.0.1:{cluster}'
rpc_secret = '{CLUSTER}'
[s3_api]
s3_region = 'garage'
api_bind_addr = '127.0.0.1:{s3}'
"
        );
        fs::write(self.path(node, "config"), config).unwrap();
    }

    fn command(&self, node: usize) -> Command {
        let mut command = tool("garage");
        command.arg("-c").arg(self.path(node, "config"));
        command
    }

    fn start_node(&mut self, node: usize) {
        let log = self.path(node, "log");
        self.nodes[node] = Some(Running::start(self.command(node).arg("server"), &log));
    }

    /// Ends a node at once; connections to it are lost.
    fn kill_node(&mut self, node: usize) {
        self.nodes[node].take().expect("it runs").kill();
    }

    /// Asks a node, until it can answer.
    fn ask(&self, node: usize, arguments: &[&str]) -> String {
        let end = Instant::now() + SOON;
        loop {
            let output = self.command(node).args(arguments).stdin(Stdio::null()).output().unwrap();
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < end, "{arguments:?}: {why}");
            sleep(Duration::from_millis(100));
        }
    }

    /// Waits until all nodes know each other.
    fn wait_until_whole(&self) {
        let end = Instant::now() + SOON;
        while self.ask(1, &["status"]).contains("FAILED NODES") {
            assert!(Instant::now() < end, "{}", self.ask(1, &["status"]));
            sleep(Duration::from_millis(100));
        }
    }

    fn put(&self, path: &str, file: &Path) {
        let mut curl = tool("curl");
        curl.args(["-fsS", "--aws-sigv4", "aws:amz:garage:s3", "-u", &format!("{KEY}:{SECRET}")]);
        curl.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-T"]).arg(file);
        output_of(curl.arg(format!("http://127.0.0.1:{}/{path}", self.ports[0])));
    }

    /// Returns the environment of a process that uses the store, at its first node.
    fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.ports[0])),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "garage".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.nodes.iter_mut().filter_map(Option::take).for_each(Running::kill);
    }
}

#[test]
fn lost_nodes_cost_no_client() {
    only_with_all!();
    needs!(NEEDS);
    let mut garage = Garage::start();
    let iso = garage.dir.path().join("made.iso");
    // More than the cache holds, so that clients need the store all the time.
    iso::noise(&iso, 1, 400 << 20);
    garage.put("images/small.iso", &iso);
    let image = Arc::new(fs::read(&iso).unwrap());
    let nbd = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_isowire"));
    command.args(["serve", "s3://images/", "--bind", "127.0.0.1", "--dhcp", "off", "--nfs", "off"]);
    command.args(["--http", "off", "--tftp", "off", "--status", "off", "--nbd", &nbd.to_string()]);
    command.args(["--cache-size", "256M", "--cache-dir"]).arg(garage.dir.path().join("cache"));
    let runtime = garage.dir.path().join("run");
    fs::create_dir(&runtime).unwrap();
    command.envs(garage.environment()).env("XDG_RUNTIME_DIR", runtime).env_remove("RUNTIME_DIRECTORY");
    let mut server = Running::start(&mut command, &garage.dir.path().join("log"));
    server.wait_for("\nready\n", SOON);
    let mut clients = Clients::new();
    clients.connect(50, Habit::Steady, ([127, 0, 0, 1], nbd).into(), &image);
    clients.run(Duration::from_secs(3));
    for lost in [2, 1] {
        garage.kill_node(lost);
        // What was asked of it is asked of another node, after a while.
        clients.run(Duration::from_secs(15));
        let before = clients.replies();
        clients.run(Duration::from_secs(5));
        assert!(clients.replies() > before, "the other two are enough");
        garage.start_node(lost);
        clients.run_beside(|| garage.wait_until_whole());
    }
    // The node that isowire asks.
    garage.kill_node(0);
    clients.run(Duration::from_secs(5));
    garage.start_node(0);
    clients.run(Duration::from_secs(5));
    assert!(clients.finish() > 1000);
    let log = server.log();
    assert!(log.contains("its object store cannot be reached") && log.contains("can be read again"), "{log}");
    assert!(server.stop().success(), "{}", server.log());
}
