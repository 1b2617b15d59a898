//! `serve --verify`: images whose root file system has its checksum, and a signature that the real
//! `openssl cms` made as mkarchiso does, are offered; all others are not.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::needs::{needs, tool};
use common::running::{Running, output_of};
use common::slow_disk::SlowDisk;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(60);
const NEEDS: [&str; 2] = ["xorriso", "openssl"];
const ROOT: &str = "arch/x86_64/airootfs.sfs";
const LEN: usize = 3 << 20;

/// A directory with a folder of ISOs, keys and certificates.
struct Bed {
    dir: TempDir,
    folder: PathBuf,
}

/// Changes of the tree of an image after it was signed.
type Change<'a> = &'a dyn Fn(&Path);

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        Self { dir, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        output_of(tool("openssl").args(arguments.split_whitespace()).current_dir(self.dir.path()));
    }

    /// Makes NAME.key and NAME.crt, which signs itself.
    fn root_certificate(&self, name: &str, rest: &str) {
        self.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -sha256 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt {rest}"
        ));
    }

    /// Makes NAME.key and NAME.crt, which `issuer` signs.
    fn issued_certificate(&self, name: &str, issuer: &str, extensions: &str) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "x509 -req -sha256 -days 2 -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial \
             -extfile extensions -out {name}.crt"
        ));
    }

    /// Makes an ISO in the folder of this test, signed with these options of `openssl cms`.
    fn iso(&self, name: &str, seed: u8, sign: &str, change: Change) -> PathBuf {
        let tree = self.path("tree");
        let _ = fs::remove_dir_all(&tree);
        let root: Vec<u8> = (0..LEN).map(|at| (at / 911) as u8 ^ seed).collect();
        for (path, content) in [
            ("arch/boot/x86_64/vmlinuz-linux", &[seed; 600][..]),
            ("arch/boot/x86_64/initramfs-linux.img", b"initramfs"),
            (ROOT, &root),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        checksum(&tree);
        if !sign.is_empty() {
            let file = tree.join(ROOT);
            let sign = format!(
                "cms -sign -binary -outform DER -in {0} -out {0}.cms.sig {sign}",
                file.to_str().unwrap()
            );
            self.openssl(&sign);
        }
        change(&tree);
        let path = self.path(&format!("{name}.iso"));
        let mut xorriso = tool("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V"]).arg(name.to_uppercase());
        output_of(xorriso.arg("-o").arg(&path).arg(&tree));
        path
    }

    /// Puts an ISO into the folder as a user should.
    fn put(&self, iso: &Path, name: &str) {
        let part = self.folder.join("part");
        fs::copy(iso, &part).unwrap();
        fs::rename(part, self.folder.join(name)).unwrap();
    }

    fn command(&self, what: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(what).args(["--bind", "127.0.0.1", "--dhcp", "off", "--portmap", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]).args(options);
        command.env("RUNTIME_DIRECTORY", self.dir.path()).env_remove("XDG_RUNTIME_DIR");
        command
    }

    fn start(&self, options: &[&str]) -> Running {
        Running::start(&mut self.command(&self.folder, options), &self.path("log"))
    }

    fn status(&self, options: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.arg("status").args(options).arg(self.path("status.sock"));
        output_of(&mut command)
    }

    /// Waits until the status has no image that is still to be verified.
    fn settled(&self) -> serde_json::Value {
        let end = Instant::now() + SOON;
        loop {
            let json: serde_json::Value = serde_json::from_str(&self.status(&["--json"])).unwrap();
            let is_over = |one: &serde_json::Value| one["state"] == "verified" || one["state"] == "failed";
            if json["verifications"].as_array().unwrap().iter().all(is_over) {
                return json["verifications"].clone();
            }
            assert!(Instant::now() < end, "{json}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn checksum(tree: &Path) {
    let mut sum = tool("sha512sum");
    let sum = output_of(sum.arg("airootfs.sfs").current_dir(tree.join("arch/x86_64")));
    fs::write(tree.join("arch/x86_64/airootfs.sha512"), sum).unwrap();
}

fn unchanged(_: &Path) {}

/// Alters a byte of the root file system.
fn alter(tree: &Path) {
    let mut root = fs::read(tree.join(ROOT)).unwrap();
    root[LEN / 2] ^= 1;
    fs::write(tree.join(ROOT), root).unwrap();
}

/// Status and body of a file over HTTP.
fn http(server: &Running, path: &str) -> (u16, Vec<u8>) {
    let log = server.log();
    let row = log.lines().find(|row| row.starts_with("HTTP")).unwrap();
    let address = row.split_whitespace().nth(1).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer.split_off(end))
}

const AS_MKARCHISO: &str = "-nocerts -noattr";

#[test]
fn image_with_a_good_signature_is_offered() {
    needs!(NEEDS);
    let bed = Bed::new();
    bed.root_certificate("ca", "-addext keyUsage=critical,keyCertSign");
    let code = "keyUsage=digitalSignature\nextendedKeyUsage=codeSigning,clientAuth\n";
    for name in ["given", "issued"] {
        bed.issued_certificate(name, "ca", code);
    }
    bed.issued_certificate("middle", "ca", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n");
    bed.issued_certificate("below", "middle", code);
    bed.issued_certificate("web", "ca", "keyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n");
    // Not an authority.
    bed.issued_certificate("usurper", "issued", code);
    bed.root_certificate("stranger", "");
    // The certificate of another key, with issuer and serial number of `lone`.
    bed.root_certificate("lone", "-set_serial 77 -addext basicConstraints=CA:FALSE");
    bed.root_certificate("double", "-set_serial 77 -subj /CN=lone");
    bed.openssl("ecparam -name prime256v1 -genkey -noout -out curve.key");
    bed.openssl("req -x509 -new -key curve.key -sha256 -days 2 -subj /CN=curve -out curve.crt");
    let trusted =
        ["ca", "given", "lone", "curve"].map(|name| fs::read(bed.path(&format!("{name}.crt"))).unwrap());
    fs::write(bed.path("trusted.pem"), trusted.concat()).unwrap();

    let by = |name: &str, rest: &str| format!("-signer {name}.crt -inkey {name}.key {rest}");
    let altered = |tree: &Path| {
        alter(tree);
        checksum(tree);
    };
    let remove = |name: &'static str| move |tree: &Path| fs::remove_file(tree.join(name)).unwrap();
    let replace = |name: &'static str| move |tree: &Path| fs::write(tree.join(name), "no").unwrap();
    let whole = |tree: &Path| fs::remove_dir_all(tree.join("arch/x86_64")).unwrap();
    let good: [(&str, String); 7] = [
        ("a-mkarchiso", by("given", AS_MKARCHISO)),
        ("a-mkarchiso-ca", by("given", &format!("{AS_MKARCHISO} -certfile ca.crt"))),
        ("a-attributes", by("given", "-nocerts")),
        ("a-key-identifier", by("given", "-keyid -noattr")),
        ("a-sha512", by("lone", "-nocerts -noattr -md sha512")),
        ("a-issued", by("issued", "-noattr")),
        ("a-chain", by("below", "-certfile middle.crt -md sha384")),
    ];
    const UNKNOWN: &str = "is of a signer whose certificate is neither given nor issued by one that is";
    const ALTERED: &str = "is not of this file: one of them was altered";
    let given = by("given", AS_MKARCHISO);
    let bad: [(&str, String, Change, &str); 16] = [
        ("b-stranger", by("stranger", "-noattr"), &unchanged, UNKNOWN),
        ("b-without-certificate", by("issued", AS_MKARCHISO), &unchanged, UNKNOWN),
        ("b-without-middle", by("below", ""), &unchanged, UNKNOWN),
        ("b-web-server", by("web", "-noattr"), &unchanged, UNKNOWN),
        ("b-usurper", by("usurper", "-certfile issued.crt"), &unchanged, UNKNOWN),
        ("b-double", by("double", AS_MKARCHISO), &unchanged, ALTERED),
        ("b-altered", given.clone(), &altered, ALTERED),
        ("b-altered-attributes", by("given", ""), &altered, ALTERED),
        ("b-damaged", given.clone(), &alter, "does not match airootfs.sha512: the image is damaged"),
        ("b-unsigned", String::new(), &unchanged, "has no CMS signature"),
        (
            "b-no-signature",
            given.clone(),
            &replace("arch/x86_64/airootfs.sfs.cms.sig"),
            "is not a CMS signature",
        ),
        ("b-attached", by("given", "-nodetach"), &unchanged, "is not a CMS signature"),
        ("b-sha1", by("given", "-noattr -md sha1"), &unchanged, "is of a kind that is not supported"),
        ("b-curve", by("curve", "-noattr"), &unchanged, "is of a kind that is not supported"),
        ("b-no-checksum", given, &remove("arch/x86_64/airootfs.sha512"), "there is no airootfs.sha512"),
        ("b-no-root", String::new(), &whole, "no root file system of archiso"),
    ];
    for (seed, (name, sign)) in good.iter().enumerate() {
        let iso = bed.iso(name, seed as u8, sign, &unchanged);
        bed.put(&iso, &format!("{name}.iso"));
    }
    for (seed, (name, sign, change, _)) in bad.iter().enumerate() {
        let iso = bed.iso(name, 100 + seed as u8, sign, *change);
        bed.put(&iso, &format!("{name}.iso"));
    }
    let certificate = bed.path("trusted.pem");
    let mut server = bed.start(&["--verify-certificate", certificate.to_str().unwrap()]);
    server.wait_for("\nready\n", SOON);
    let verifications = bed.settled();
    let state = |name: &str| {
        let all = verifications.as_array().unwrap();
        all.iter().find(|one| one["image"] == name).unwrap_or_else(|| panic!("{name}: {verifications}"))
    };
    server.wait_for_lines("image not offered", bad.len(), SOON);
    for (name, _) in &good {
        assert_eq!(state(name)["state"], "verified", "{name}: {}", server.log());
        assert_eq!(
            (state(name)["size"].as_u64(), state(name)["read"].as_u64()),
            (Some(LEN as u64), Some(LEN as u64))
        );
        assert_eq!(http(&server, &format!("/{name}/{ROOT}")).0, 200, "{name}");
    }
    for (name, _, _, why) in &bad {
        assert_eq!(state(name)["state"], "failed", "{name}: {}", server.log());
        assert!(state(name)["error"].as_str().unwrap().contains(why), "{}", state(name));
        assert_eq!(http(&server, &format!("/{name}/{ROOT}")).0, 404, "{name}");
        let line = format!("{name}.iso: image not offered: ");
        let lines = server.log().lines().filter(|text| text.contains(&line) && text.contains(why)).count();
        assert_eq!(lines, 1, "{name}: {}", server.log());
    }
    assert!(server.log().contains("is signed by `below`"), "{}", server.log());
    let table = bed.status(&[]);
    assert!(table.contains("7 images verified\n") && table.contains("b-damaged: not offered: "), "{table}");
    assert!(server.stop().success());
}

#[test]
fn start_without_a_good_image_fails() {
    needs!(NEEDS);
    let bed = Bed::new();
    let iso = bed.iso("bad", 1, "", &alter);
    let output = bed.command(&iso, &["--verify"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let end = "bad.iso: image not offered: /arch/x86_64/airootfs.sfs does not match airootfs.sha512: \
               the image is damaged; get it again\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(text.matches("not offered").count(), 1, "{text}");
    assert!(output.stdout.is_empty(), "nothing was served");
    bed.root_certificate("lone", "");
    for (options, wrong) in [
        (["--verify-certificate", bed.path("none").to_str().unwrap()], "no such file"),
        (["--verify-certificate", bed.path("lone.key").to_str().unwrap()], "not an X.509 certificate"),
    ] {
        let output = bed.command(&iso, &options).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(wrong), "{text}");
    }
}

#[test]
fn replaced_image_goes_on_until_the_new_one_is_verified() {
    needs!(NEEDS);
    let bed = Bed::new();
    let (first, damaged, second) = (
        bed.iso("first", 1, "", &unchanged),
        bed.iso("damaged", 2, "", &alter),
        bed.iso("second", 3, "", &unchanged),
    );
    let content = |seed: u8| -> Vec<u8> { (0..LEN).map(|at| (at / 911) as u8 ^ seed).collect() };
    bed.put(&first, "arch.iso");
    let mut server = bed.start(&["--verify"]);
    server.wait_for("\nready\n", SOON);
    const VERIFIED: &str = "image verified: its root file system has its checksum";
    assert_eq!(server.log().matches(VERIFIED).count(), 1, "{}", server.log());

    bed.put(&damaged, "arch.iso");
    server.wait_for("; the image opened from it before is still served", SOON);
    assert!(http(&server, &format!("/{ROOT}")).1 == content(1));
    bed.put(&second, "arch.iso");
    server.wait_for("image replaced", SOON);
    assert!(http(&server, &format!("/{ROOT}")).1 == content(3));
    assert_eq!(server.log().matches(VERIFIED).count(), 2, "{}", server.log());

    // Nothing new: nothing is read again.
    kill_process(server.pid(), Signal::HUP).unwrap();
    bed.put(&first, "other.iso");
    server.wait_for("image added", SOON);
    assert_eq!(server.log().matches(VERIFIED).count(), 3, "{}", server.log());
    // Touched: verified again, and served meanwhile.
    output_of(tool("touch").arg(bed.folder.join("arch.iso")));
    assert!(http(&server, &format!("/{ROOT}")).1 == content(3));
    server.wait_for_lines(VERIFIED, 4, SOON);
    assert_eq!(server.log().matches("image replaced").count(), 1, "{}", server.log());

    // The next process knows what was verified, as long as the certificates are the same.
    let mut next =
        Running::start(&mut bed.command(&bed.folder, &["--verify", "--takeover"]), &bed.path("next"));
    next.wait_for("\nready\n", SOON);
    assert!(server.wait(SOON).is_some_and(|status| status.success()), "{}", server.log());
    bed.put(&damaged, "third.iso");
    next.wait_for("third.iso: image not offered", SOON);
    assert_eq!(next.log().matches("image verification begun").count(), 1, "{}", next.log());
    assert_eq!(bed.settled().as_array().unwrap().len(), 3);
    assert!(next.stop().success(), "{}", next.log());
}

/// The thread reads the second image when the others have given up their privileges.
#[test]
fn thread_has_no_more_privileges_than_the_others() {
    needs!(NEEDS);
    let bed = Bed::new();
    for (name, seed) in [("one", 1), ("two", 2)] {
        bed.put(&bed.iso(name, seed, "", &unchanged), &format!("{name}.iso"));
    }
    let mut server = bed.start(&["--verify"]);
    server.wait_for("\nready\n", SOON);
    let settled = bed.settled().to_string();
    assert_eq!(settled.matches(r#""state":"verified""#).count(), 2, "{settled}");
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let tasks: Vec<_> =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect();
    let field = |status: &str, name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    assert!(tasks.iter().any(|status| field(status, "Name:") == "verify"));
    for name in ["Uid:", "NoNewPrivs:", "Seccomp:"] {
        let values: Vec<_> = tasks.iter().map(|status| field(status, name)).collect();
        assert!(values.iter().all(|value| *value == values[0]), "{name} {values:?}");
    }
}

#[test]
fn verification_ends_at_once_on_sigterm() {
    needs!(["xorriso", "openssl", "/dev/fuse"]);
    let bed = Bed::new();
    let iso = bed.iso("slow", 1, "", &unchanged);
    let mount_point = bed.path("disk");
    fs::create_dir(&mount_point).unwrap();
    let disk = SlowDisk::mount(&iso, &mount_point, Duration::ZERO).unwrap();
    let socket = UnixDatagram::bind(bed.path("notify")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let begun = |command: &mut Command| {
        disk.set_delay(Duration::from_millis(500));
        disk.chill();
        let mut server = Running::start(command, &bed.path("log"));
        server.wait_for("image verification begun", SOON);
        server
    };
    // At the start, systemd is told to be patient.
    let mut command = bed.command(&disk.path(), &["--verify"]);
    let mut server = begun(command.env("NOTIFY_SOCKET", bed.path("notify")));
    let mut message = [0; 200];
    let len = socket.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..len]);
    assert!(message.contains("EXTEND_TIMEOUT_USEC=60000000") && message.contains("verifying"), "{message}");
    let since = Instant::now();
    assert_eq!(server.stop().signal(), Some(Signal::TERM.as_raw()));
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    // Beside an image that is served.
    let other = bed.iso("other", 2, "", &unchanged);
    let mut command = bed.command(&other, &["--verify"]);
    let mut server = begun(command.arg(disk.path()));
    server.wait_for("\nready\n", SOON);
    assert_eq!(http(&server, &format!("/{ROOT}")).0, 200);
    server.wait_for_lines("image verification begun", 2, SOON);
    assert_eq!(http(&server, &format!("/{ROOT}")).0, 200);
    assert!(bed.status(&[]).contains("being verified, "), "{}", bed.status(&[]));
    let since = Instant::now();
    assert!(server.stop().success(), "{}", server.log());
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}
