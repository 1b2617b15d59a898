//! Boot programs that are signed for Secure Boot, checked by `sbverify`; and the keys that sign them.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use common::iso;
use common::needs::{needs, only_with_all, tool};
use common::ports::free_port;
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const DEBIAN_STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const NEEDS: [&str; 3] = ["sbverify", "openssl", "curl"];
const SOON: Duration = Duration::from_secs(30);
/// The program of one machine.
const PATH: &str = "isowire/52-54-00-12-34-56/nbd.efi";

/// A directory with a key and its certificate.
struct Site {
    dir: TempDir,
}

/// A server of the test ISO on loopback.
struct Server {
    running: Running,
    http: u16,
    tftp: u16,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        output_of(Command::new(PROGRAM).args(["secure-boot", "new"]).arg(site.path("")));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, options: &[&str]) -> Server {
        let [http, tftp] = [free_port(), free_port()];
        let mut command = serve(&iso::small().path);
        command.args(["--http", &http.to_string(), "--tftp", &tftp.to_string()]);
        command.arg("--secure-boot-key").arg(self.path("secure-boot.key"));
        command.arg("--secure-boot-certificate").arg(self.path("secure-boot.crt")).args(options);
        let mut running = Running::start(&mut command, &self.path("log"));
        running.wait_for("\nready\n", SOON);
        Server { running, http, tftp }
    }

    /// Returns what `sbverify` says of a program.
    fn verify(&self, program: &[u8]) -> Result<String, String> {
        let file = self.path("program.efi");
        fs::write(&file, program).unwrap();
        let output =
            tool("sbverify").arg("--cert").arg(self.path("secure-boot.crt")).arg(file).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }
}

impl Server {
    /// Fetches a file by HTTP, with its head.
    fn get(&self, path: &str) -> (String, Vec<u8>) {
        let url = format!("http://127.0.0.1:{}/{path}", self.http);
        let output = tool("curl").args(["-sS", "--fail", "-i", &url]).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&output.stdout[..end]).to_lowercase();
        (head, output.stdout[end..].to_vec())
    }

    fn get_by_tftp(&self, path: &str) -> Vec<u8> {
        let url = format!("tftp://127.0.0.1:{}/{path}", self.tftp);
        let output = tool("curl").args(["-sS", "--fail", &url]).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn serve(iso: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(iso);
    command.args(["--bind", "127.0.0.1", "--nbd", "0", "--nfs", "off", "--dhcp", "off", "--status", "off"]);
    command
}

fn tag(head: &str) -> &str {
    head.lines().find(|line| line.starts_with("etag:")).unwrap()
}

#[test]
fn program_is_accepted_and_the_same_each_time() {
    needs!(NEEDS, iso::NEEDS);
    let site = Site::new();
    let mut server = site.serve(&[]);
    let (head, program) = server.get(PATH);
    assert_eq!(site.verify(&program).as_deref(), Ok("Signature verification OK\n"));
    assert!(head.contains("content-type: application/efi\r\n"), "{head}");
    assert!(program == server.get_by_tftp(PATH), "another program by TFTP");
    assert_eq!((tag(&server.get(PATH).0), server.get(PATH).1 == program), (tag(&head), true));
    server.running.stop();
    let again = site.serve(&[]);
    let (second, same) = again.get(PATH);
    assert_eq!((tag(&second), same == program), (tag(&head), true), "after a restart");
    let (other, bytes) = again.get("isowire/52-54-00-12-34-57/nbd.efi");
    assert_ne!(tag(&other), tag(&head));
    assert_eq!(bytes.len(), program.len());
    site.verify(&bytes).unwrap();
    let (_, local) = again.get("isowire/52-54-00-12-34-56/local-disk.efi");
    site.verify(&local).unwrap();
    // Another key, other bytes, another tag.
    let stranger = Site::new();
    let (third, bytes) = stranger.serve(&[]).get(PATH);
    assert_ne!(tag(&third), tag(&head));
    stranger.verify(&bytes).unwrap();
    assert!(site.verify(&bytes).is_err(), "signed by somebody else");
}

#[test]
fn program_with_another_byte_is_refused() {
    needs!(NEEDS, iso::NEEDS);
    let site = Site::new();
    let (_, program) = site.serve(&[]).get(PATH);
    // In the DOS stub, the middle of initramfs and kernel, the command line, and the signature.
    let table = 1408;
    let places =
        [0x30, program.len() / 4, program.len() / 2, program.len() - table - 2048, program.len() - 200];
    for at in places {
        let mut changed = program.clone();
        changed[at] ^= 1;
        site.verify(&changed).unwrap_err();
    }
    site.verify(&program).unwrap();
}

/// Debian's stub with two more sections behind its last one.
fn longer_stub() -> Vec<u8> {
    let mut stub = fs::read(DEBIAN_STUB).unwrap();
    let field = |stub: &[u8], at: usize| u32::from_le_bytes(stub[at..at + 4].try_into().unwrap()) as usize;
    let coff = field(&stub, 0x3c) + 4;
    let (count, table) = (usize::from(stub[coff + 2]), coff + 20 + 240);
    let ends = |virtual_at: usize, raw_at: usize| {
        let sections = (0..count).map(|number| table + 40 * number);
        let ends = sections.map(|at| field(&stub, at + virtual_at) + field(&stub, at + raw_at));
        ends.max().unwrap()
    };
    let (memory, file) = (ends(8, 12).next_multiple_of(4096), ends(16, 20));
    stub.resize(file, 0);
    for number in 0..2 {
        let header = table + 40 * (count + number);
        stub[header..header + 6].copy_from_slice(b".extra");
        let fields = [5, memory + 4096 * number, 512, file + 512 * number];
        for (place, value) in [8, 12, 16, 20].into_iter().zip(fields) {
            stub[header + place..header + place + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        stub[header + 36..header + 40].copy_from_slice(&0x4000_0040_u32.to_le_bytes());
        let mut content = b"extra".to_vec();
        content.resize(512, 0);
        stub.extend(content);
    }
    stub[coff + 2] += 2;
    stub[coff + 8..coff + 16].fill(0);
    stub
}

#[test]
fn program_with_another_stub_is_accepted() {
    needs!(NEEDS, iso::NEEDS, [DEBIAN_STUB]);
    let site = Site::new();
    let stub = site.path("longer.efi.stub");
    fs::write(&stub, longer_stub()).unwrap();
    let (_, program) = site.serve(&["--stub", stub.to_str().unwrap()]).get(PATH);
    assert_eq!(site.verify(&program).as_deref(), Ok("Signature verification OK\n"));
}

#[test]
fn program_with_a_newer_stub_is_accepted() {
    only_with_all!();
    needs!(NEEDS, iso::NEEDS, ["apt-get"]);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stubs");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/newer");
    output_of(Command::new(script).arg("stubs").arg(&dir));
    let site = Site::new();
    for stub in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let (_, program) = site.serve(&["--stub", stub.to_str().unwrap()]).get(PATH);
        site.verify(&program).unwrap_or_else(|text| panic!("{}: {text}", stub.display()));
    }
}

#[test]
fn certificate_is_served_for_firmware() {
    needs!(NEEDS, iso::NEEDS);
    let site = Site::new();
    let server = site.serve(&[]);
    let der = fs::read(site.path("secure-boot.cer")).unwrap();
    let (head, served) = server.get("isowire/secure-boot.cer");
    assert_eq!(served, der);
    assert!(head.contains("content-type: application/pkix-cert\r\n"), "{head}");
    assert_eq!(server.get_by_tftp("isowire/secure-boot.cer"), der);
    let listing = String::from_utf8(server.get("isowire/").1).unwrap();
    assert!(listing.contains("secure-boot.cer"), "{listing}");
    let openssl = ["x509", "-noout", "-inform", "DER", "-fingerprint", "-sha256", "-in"];
    let text = output_of(tool("openssl").args(openssl).arg(site.path("secure-boot.cer")));
    let fingerprint = text.trim().rsplit('=').next().unwrap();
    let log = server.running.log();
    assert!(
        log.contains("UEFI boot programs are signed for Secure Boot by `isowire Secure Boot`.\n"),
        "{log}"
    );
    assert!(log.contains(&format!("SHA-256 {fingerprint}\n")), "{log}");
    assert!(log.contains("signed for Secure Boot by `isowire Secure Boot`"), "{log}");
}

#[test]
fn new_key_is_for_its_owner_and_never_replaced() {
    needs!(["openssl"]);
    let site = Site::new();
    let mode = |name: &str| site.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("secure-boot.key"), 0o600);
    let files =
        || ["key", "crt", "cer"].map(|end| fs::read(site.path(&format!("secure-boot.{end}"))).unwrap());
    let [key, pem, der] = files();
    let x509 = |form: &str, name: &str| {
        let openssl = ["x509", "-inform", form, "-noout", "-subject", "-pubkey", "-in"];
        output_of(tool("openssl").args(openssl).arg(site.path(name)))
    };
    let certificate = x509("PEM", "secure-boot.crt");
    assert!(certificate.contains("isowire Secure Boot"), "{certificate}");
    assert_eq!(certificate, x509("DER", "secure-boot.cer"));
    let public =
        output_of(tool("openssl").args(["pkey", "-pubout", "-in"]).arg(site.path("secure-boot.key")));
    assert!(certificate.ends_with(&public), "{certificate}{public}");
    let crt = site.path("secure-boot.crt");
    output_of(tool("openssl").args(["verify", "-check_ss_sig", "-CAfile"]).arg(&crt).arg(&crt));
    for gone in ["secure-boot.key", "secure-boot.crt"] {
        let output = Command::new(PROGRAM).args(["secure-boot", "new"]).arg(site.path("")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains("exists already"), "{text}");
        assert!(site.path("secure-boot.key").exists() == (gone == "secure-boot.key"), "a key was made");
        assert_eq!(fs::read(&crt).unwrap(), pem);
        assert_eq!(fs::read(site.path("secure-boot.cer")).unwrap(), der);
        fs::remove_file(site.path(gone)).unwrap();
    }
    assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
}

/// Runs `serve` with these options, which has to refuse them in one line.
fn refused(options: &[&str]) -> String {
    let output = serve(Path::new("no.iso")).args(options).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{options:?}: {text}");
    text
}

#[test]
fn key_that_cannot_be_used_is_refused_in_one_line() {
    needs!(["openssl"], [DEBIAN_STUB]);
    let site = Site::new();
    let openssl = |arguments: &str, name: &str| {
        // The number of bits has to be last.
        let (command, rest) = arguments.split_once(' ').unwrap();
        let mut openssl = tool("openssl");
        output_of(openssl.arg(command).arg("-out").arg(site.path(name)).args(rest.split(' ')));
        fs::set_permissions(site.path(name), Permissions::from_mode(0o600)).unwrap();
    };
    openssl("genrsa 1024", "small.key");
    openssl("genrsa -aes128 -passout pass:x 2048", "encrypted.key");
    openssl("genrsa -traditional -aes128 -passout pass:x 2048", "old.key");
    openssl("ecparam -name prime256v1 -genkey -noout", "ec.key");
    openssl("genrsa 2048", "other.key");
    fs::copy(site.path("secure-boot.key"), site.path("open.key")).unwrap();
    fs::set_permissions(site.path("open.key"), Permissions::from_mode(0o644)).unwrap();
    let mut old = fs::read(DEBIAN_STUB).unwrap();
    let magic = old.windows(18).position(|window| window == b"systemd-stub 252.3").unwrap();
    old[magic + 13..magic + 16].copy_from_slice(b"251");
    fs::write(site.path("old.stub"), old).unwrap();
    let at = |name: &str| site.path(name).to_str().unwrap().to_owned();
    let (key, certificate) = (at("secure-boot.key"), at("secure-boot.crt"));
    let pair = |key: &str, certificate: &str, more: &[&str]| {
        refused(&[&["--secure-boot-key", key, "--secure-boot-certificate", certificate], more].concat())
    };
    let cases = [
        (
            pair(&at("open.key"), &certificate, &[]),
            "open to every user of this host (mode 0644); run `chmod o= FILE`",
        ),
        (pair(&at("small.key"), &certificate, &[]), "RSA key of 1024 bits"),
        (pair(&at("encrypted.key"), &certificate, &[]), "encrypted key; decrypt it"),
        (pair(&at("old.key"), &certificate, &[]), "encrypted key; decrypt it"),
        (pair(&at("ec.key"), &certificate, &[]), "not an RSA private key"),
        (pair(&certificate, &certificate, &[]), "open to every user"),
        (pair(&at("none.key"), &certificate, &[]), "--secure-boot-key: `"),
        (pair(&at("other.key"), &certificate, &[]), "certificate of another key"),
        (pair(&key, &key, &[]), "not an X.509 certificate"),
        (pair(&key, &certificate, &["--stub", &at("old.stub")]), "the EFI stub of systemd 251."),
        (pair(&key, &certificate, &["--uefi", "ipxe"]), "conflicts with `uefi = ipxe`"),
        (refused(&["--secure-boot-key", &key]), "needs `secure-boot-certificate`"),
        (refused(&["--secure-boot-certificate", &certificate]), "needs `secure-boot-key`"),
    ];
    for (text, reason) in cases {
        assert!(text.contains(reason), "{text}, and not: {reason}");
    }
}

#[test]
fn inspect_names_the_signer() {
    needs!(iso::NEEDS);
    let site = Site::new();
    let iso = iso::small().path;
    let inspect = |options: &[&str]| output_of(Command::new(PROGRAM).arg("inspect").arg(&iso).args(options));
    assert!(inspect(&[]).contains("Secure Boot has to be off, or `--secure-boot-key` be given"));
    let certificate = site.path("secure-boot.crt");
    let page = inspect(&["--secure-boot-certificate", certificate.to_str().unwrap()]);
    assert!(page.contains("signed for Secure Boot by `isowire Secure Boot` (SHA-256 "), "{page}");
}
