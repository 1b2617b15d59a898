//! Images in an object store: what a server with `s3://` and `http://` images does when they come, go
//! and are replaced, and when the store refuses or is down. The store is a real Ceph.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use common::fault_proxy::{Fault, FaultProxy};
use common::needs::{needs, tool};
use common::object_store::{self, ObjectStore, environment};
use common::ports::free_port;
use common::running::{Running, output_of};
use common::stage::{PROGRAM, SOON, got, port};

/// Makes an ISO of mkarchiso's layout with this text as its kernel.
fn iso(dir: &Path, kernel: &str) -> PathBuf {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for (path, content) in [
        ("arch/boot/x86_64/vmlinuz-linux", kernel),
        ("arch/boot/x86_64/initramfs-linux.img", "initramfs"),
        ("arch/x86_64/airootfs.sfs", "hsqs"),
        ("boot/syslinux/lpxelinux.0", "loader"),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let path = dir.join(format!("{kernel}.iso"));
    let mut xorriso = tool("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "STORE", "-o"]);
    output_of(xorriso.arg(&path).arg(tree));
    path
}

const KERNEL: &str = "arch/boot/x86_64/vmlinuz-linux";

/// A directory for a server, with its cache.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As root, the server becomes another user.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, images: &[&str], store: u16) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(images).args(["--bind", "127.0.0.1", "--dhcp", "off", "--portmap", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0", "--status", "off"]);
        command.arg("--cache-dir").arg(self.path().join("cache"));
        command.envs(environment(store)).env("XDG_RUNTIME_DIR", self.path());
        command
    }

    fn start(&self, images: &[&str], store: u16) -> Running {
        let mut server = Running::start(&mut self.command(images, store), &self.path().join("log"));
        server.wait_for("\nready\n", SOON);
        server
    }

    /// Runs a server that does not start.
    fn failed(&self, images: &[&str], store: u16) -> String {
        failed(&mut self.command(images, store))
    }
}

/// Runs a server that does not start, and returns its last line.
fn failed(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(!text.contains("isowire-secret"), "{text}");
    text.lines().last().unwrap().to_owned()
}

fn look_again(server: &Running) {
    kill_process(server.pid(), Signal::HUP).unwrap();
}

fn kernel(server: &Running, image: &str) -> String {
    got(port(&server.log(), "HTTP"), &format!("/{image}/{KERNEL}"))
}

#[test]
fn images_of_a_bucket_come_and_go() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let [one, two, three] = ["one", "two", "three"].map(|name| iso(site.path(), name));
    store.put("images/arch/a-1.iso", &one);
    store.put("images/arch/deeper/c.iso", &three);
    store.put("images/arch/readme.txt", &three);
    let mut server = site.start(&["s3://images/arch/"], store.port());
    assert_eq!(kernel(&server, "a-1"), "one");
    store.put("images/arch/a-2.iso", &two);
    look_again(&server);
    server.wait_for("image added image=\"a-2~", SOON);
    assert_eq!(kernel(&server, "a-2"), "two");
    // The newest is the default.
    assert_eq!(got(port(&server.log(), "HTTP"), &format!("/{KERNEL}")), "two");
    store.put("images/arch/a-1.iso", &three);
    look_again(&server);
    server.wait_for("image replaced", SOON);
    assert_eq!(kernel(&server, "a-1"), "three");
    store.remove("images/arch/a-2.iso");
    look_again(&server);
    server.wait_for("image removed", SOON);
    assert!(!server.log().contains("isowire-secret"), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn single_objects_are_served_beside_files() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let [one, two, three] = ["one", "two", "three"].map(|name| iso(site.path(), name));
    store.put("images/b.iso", &two);
    store.put_public("images/open%20one.iso", &three);
    let url = format!("http://127.0.0.1:{}/images/open%20one.iso", store.port());
    let images = [one.to_str().unwrap(), "s3://images/b.iso", &url];
    let mut server = site.start(&images, store.port());
    let found = ["one", "b", "open-20one"].map(|name| kernel(&server, name));
    assert_eq!(found, ["one", "two", "three"]);
    assert!(server.stop().success());
}

#[test]
fn wrong_store_is_an_error_in_one_line() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let failed = |image: &str| site.failed(&[image], store.port());
    let says = "isowire: s3://images/: folder without *.iso: put one there, or name another folder";
    assert_eq!(failed("s3://images/"), says);
    let line = failed("s3://images/none.iso");
    assert!(
        line.ends_with("the store has no such object; check its name; that of a folder ends with `/`"),
        "{line}"
    );
    let line = failed("s3://no-such-bucket/");
    assert!(line.ends_with("check the name of the bucket, and AWS_ENDPOINT"), "{line}");
    let mut wrong = site.command(&["s3://images/"], store.port());
    wrong.env("AWS_SECRET_ACCESS_KEY", "another-secret");
    let output = wrong.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("the store refuses access: it answers with status 403"), "{line}");
    assert!(line.contains("check AWS_ACCESS_KEY_ID") && !line.contains("another-secret"), "{line}");
    let mut plain = site.command(&["s3://images/"], store.port());
    let output = plain.env_remove("AWS_ALLOW_HTTP").output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("set AWS_ALLOW_HTTP=true"), "{line}");
}

/// Writes the files of AWS's programs, which only this user reads, with a profile `lab` for this store.
/// Returns a server that has nothing else to ask it with.
fn with_files(site: &Site, store: &ObjectStore) -> Command {
    let aws = site.path().join(".aws");
    let [(_, endpoint), (_, id), (_, secret), (_, region), _] = environment(store.port());
    fs::create_dir_all(&aws).unwrap();
    let credentials = format!("[lab]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    fs::write(aws.join("credentials"), credentials).unwrap();
    let config = format!(
        "[profile lab]\nregion = {region}\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = {endpoint}\n"
    );
    fs::write(aws.join("config"), config).unwrap();
    for file in ["credentials", "config"] {
        fs::set_permissions(aws.join(file), Permissions::from_mode(0o600)).unwrap();
    }
    let mut command = site.command(&["s3://images/"], store.port());
    for (name, _) in environment(store.port()) {
        command.env_remove(name);
    }
    command.env("HOME", site.path()).env("AWS_PROFILE", "lab").env("AWS_ALLOW_HTTP", "true");
    command
}

#[test]
fn credentials_come_from_files_too() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    store.put("images/a.iso", &iso(site.path(), "one"));
    let mut command = with_files(&site, &store);
    // It belongs to other keys.
    command.env("AWS_SESSION_TOKEN", "stray");
    let mut server = Running::start(&mut command, &site.path().join("log"));
    server.wait_for("\nready\n", SOON);
    assert_eq!(kernel(&server, "a"), "one");
    // The files are not asked for again: as root, the server could not read them any more.
    fs::remove_dir_all(site.path().join(".aws")).unwrap();
    store.put("images/b.iso", &iso(site.path(), "two"));
    look_again(&server);
    server.wait_for("image added image=\"b~", SOON);
    assert_eq!(kernel(&server, "b"), "two");
    assert!(!server.log().contains("isowire-secret"), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn files_without_credentials_are_an_error_in_one_line() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let line = failed(with_files(&site, &store).env("AWS_PROFILE", "lba"));
    assert!(
        line.contains("s3://images/: object store: AWS_PROFILE names `lba`, which is neither in "),
        "{line}"
    );
    let line = failed(with_files(&site, &store).env("AWS_SECRET_ACCESS_KEY", "alone"));
    assert!(line.contains("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set"), "{line}");
    let mut none = with_files(&site, &store);
    fs::write(site.path().join(".aws/credentials"), "").unwrap();
    // There is no instance of a cloud to ask.
    let line = failed(none.env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{}", free_port())));
    let says = format!(
        "AWS_ACCESS_KEY_ID is not set, and {}/.aws/credentials has no keys of the profile `lab`",
        site.path().display()
    );
    assert!(line.contains(&says), "{line}");
    // Variables of the environment win over a profile that cannot be used.
    store.put("images/a.iso", &iso(site.path(), "one"));
    let mut command = with_files(&site, &store);
    command.envs(environment(store.port())).env("AWS_PROFILE", "lba");
    let mut server = Running::start(&mut command, &site.path().join("log"));
    server.wait_for("\nready\n", SOON);
    assert!(server.stop().success());
    // A place that needs no credentials does not look at them.
    store.put_public("images/a.iso", &iso(site.path(), "one"));
    let url = format!("http://127.0.0.1:{}/images/a.iso", store.port());
    let mut server = site.command(&[&url], store.port());
    let mut server = Running::start(server.env("AWS_PROFILE", "lba"), &site.path().join("log"));
    server.wait_for("\nready\n", SOON);
    assert!(server.stop().success());
}

#[test]
fn server_starts_from_its_cache_while_the_store_is_down() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let proxy = FaultProxy::start(store.port());
    store.put("images/a.iso", &iso(site.path(), "one"));
    proxy.set(Fault::Refuse);
    let line = site.failed(&["s3://images/"], proxy.port());
    assert!(line.contains("s3://images/: object store: no connection: Connection refused"), "{line}");
    proxy.set(Fault::None);
    let mut server = site.start(&["s3://images/"], proxy.port());
    assert_eq!(kernel(&server, "a"), "one");
    assert!(server.stop().success());
    proxy.set(Fault::Unavailable);
    let fetched = proxy.bytes();
    let mut server = site.start(&["s3://images/"], proxy.port());
    let says = "object store: it answers with status 503; check AWS_ENDPOINT and the network; \
                images of it that are known are still served";
    assert!(server.log().contains(says), "{}", server.log());
    assert_eq!(kernel(&server, "a"), "one");
    assert!(proxy.bytes() - fetched < 10_000, "what is in the cache is not fetched again");
    store.put("images/b.iso", &iso(site.path(), "two"));
    proxy.set(Fault::None);
    look_again(&server);
    server.wait_for("image added image=\"b~", SOON);
    assert_eq!(kernel(&server, "b"), "two");
    assert!(server.stop().success());
}

#[test]
fn silent_store_does_not_stop_what_is_known() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    let proxy = FaultProxy::start(store.port());
    store.put("images/a.iso", &iso(site.path(), "one"));
    let mut server = site.start(&["s3://images/"], proxy.port());
    for (fault, says) in [
        (Fault::Reset, "connection lost: "),
        (Fault::Stall, "no answer in time"),
        (Fault::Refuse, "no connection: Connection refused"),
    ] {
        proxy.set(fault);
        look_again(&server);
        server.wait_for(says, Duration::from_secs(60));
        assert_eq!(kernel(&server, "a"), "one", "{fault:?}");
    }
    assert!(!server.log().contains("image removed"), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn doctor_asks_the_store() {
    needs!(object_store::NEEDS, ["xorriso"]);
    let (site, store) = (Site::new(), ObjectStore::start(&["images"]));
    store.put("images/a.iso", &iso(site.path(), "one"));
    let doctor = |image: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["doctor", image, "--dhcp", "off", "--cache-dir"]).arg(site.path().join("cache"));
        let output = command.envs(environment(store.port())).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let report = doctor("s3://images/");
    assert!(report.contains("s3://images/: images in the object store: 1 (not opened)"), "{report}");
    let report = doctor("s3://images/none/");
    assert!(report.contains("s3://images/none/: folder without *.iso"), "{report}");
}

/// Makes a certificate for `localhost` and its key, and a server of TLS that has them.
fn tls_server(dir: &Path, port: u16) -> Running {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let mut openssl = tool("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args([
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    output_of(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
    fs::write(dir.join("arch.iso"), "no ISO").unwrap();
    let mut server = tool("openssl");
    server.args(["s_server", "-WWW", "-accept", &format!("127.0.0.1:{port}")]).current_dir(dir);
    let mut server =
        Running::start(server.arg("-cert").arg(&certificate).arg("-key").arg(&key), &dir.join("tls.log"));
    server.wait_for("ACCEPT", SOON);
    server
}

#[test]
fn certificate_that_is_not_accepted_is_told() {
    needs!(["openssl", "/etc/ssl/certs/ca-certificates.crt"]);
    let (site, port) = (Site::new(), free_port());
    let _server = tls_server(site.path(), port);
    let failed = |host: &str, authority: Option<&Path>| {
        let mut command = site.command(&[&format!("https://{host}:{port}/arch.iso")], port);
        command.envs(authority.map(|file| ("SSL_CERT_FILE", file)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let says = "object store: its certificate is not accepted: this host does not know its authority; \
                add the certificate of the authority to those of this host, or name a file of it in SSL_CERT_FILE";
    let line = failed("localhost", None);
    assert!(line.contains(says), "{line}");
    let known = site.path().join("certificate.pem");
    let line = failed("127.0.0.1", Some(&known));
    assert!(line.contains("not valid for name") && line.contains("use a name of the store"), "{line}");
    // The advice is right: the next complaint is about this server, which sends whole files only.
    let line = failed("localhost", Some(&known));
    assert!(line.contains("its server does not send parts of files"), "{line}");
}
