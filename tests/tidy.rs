//! The layer rule of ARCHITECTURE.md, kept by a test: which room may know what.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms, and what their code must not mention.
struct Rule {
    /// Parts of paths below `src/`; a file belongs to the room when its path contains one of them.
    room: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const IO: &[&str] =
    &["tokio::", "std::fs", "std::net::Tcp", "std::net::Udp", "TcpStream", "UdpSocket", "rustix::"];
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "Timestamp::now"];
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "assert!(", "assert_eq!("];

const WIRE: &[&str] = &[
    "codec.rs",
    "/wire",
    "nfs/xdr.rs",
    "nfs/rpc.rs",
    "image/iso9660.rs",
    "image/susp.rs",
    "image/el_torito.rs",
    "image/partitions.rs",
    "boot/entry.rs",
    "boot/grub/",
    "boot/loader.rs",
    "boot/syslinux.rs",
    "boot/uki/pe.rs",
    "image/initramfs/cpio.rs",
    "image/initramfs/packing.rs",
];
const SESSION: &[&str] = &[
    "/session",
    "dhcp/lease",
    "nfs/handle",
    "nfs/mount",
    "nfs/portmap",
    "boot/",
    "check/sample.rs",
    "machines/landmarks",
    "machines/meter",
    "machines/mod",
    "machines/records",
    "machines/registry",
    "machines/stage",
    "machines/status",
    "machines/traffic",
    "image/identity.rs",
    "image/index.rs",
    "image/arch.rs",
    "export/",
];

const RULES: &[Rule] = &[
    Rule { room: WIRE, forbidden: IO, why: "a parser does no I/O" },
    Rule { room: WIRE, forbidden: CLOCKS, why: "a parser reads no clock" },
    Rule { room: WIRE, forbidden: &["tracing::"], why: "a parser says what is wrong by its result" },
    Rule { room: WIRE, forbidden: PANICS, why: "a parser never panics on input" },
    Rule { room: SESSION, forbidden: IO, why: "a session does no I/O" },
    Rule { room: SESSION, forbidden: CLOCKS, why: "time is an argument of a session" },
    Rule {
        room: &["codec.rs", "image/"],
        forbidden: PROTOCOLS,
        why: "arrows point down: nothing below knows a door",
    },
    Rule { room: &["export/"], forbidden: PROTOCOLS, why: "arrows point down: nothing below knows a door" },
    Rule {
        room: &["machines/"],
        forbidden: &[
            "crate::nbd",
            "crate::nfs",
            "crate::http",
            "crate::tftp",
            "crate::dhcp",
            "crate::ndp",
            "crate::server",
        ],
        why: "doors tell of machines, and not the other way round",
    },
    Rule {
        room: &["nbd/"],
        forbidden: &["crate::nfs", "crate::http", "crate::tftp", "crate::dhcp", "crate::ndp", "crate::boot"],
        why: DOORS,
    },
    Rule {
        room: &["nfs/"],
        forbidden: &["crate::nbd", "crate::http", "crate::tftp", "crate::dhcp", "crate::ndp", "crate::boot"],
        why: DOORS,
    },
    Rule {
        room: &["http/"],
        forbidden: &["crate::nbd", "crate::nfs", "crate::tftp", "crate::dhcp", "crate::ndp"],
        why: DOORS,
    },
    Rule {
        room: &["tftp/"],
        forbidden: &["crate::nbd", "crate::nfs", "crate::http", "crate::dhcp", "crate::ndp"],
        why: DOORS,
    },
    Rule {
        room: &["ndp/"],
        forbidden: &["crate::nbd", "crate::nfs", "crate::http", "crate::tftp", "crate::dhcp", "crate::boot"],
        why: DOORS,
    },
    Rule {
        room: &["dhcp/"],
        forbidden: &["crate::nbd", "crate::nfs", "crate::http", "crate::tftp", "crate::ndp"],
        why: DOORS,
    },
];
const PROTOCOLS: &[&str] = &[
    "crate::nbd",
    "crate::nfs",
    "crate::http",
    "crate::tftp",
    "crate::dhcp",
    "crate::ndp",
    "crate::boot",
    "crate::server",
];
const DOORS: &str = "no protocol imports another";

/// Longest file, in lines of code; tests and comments do not count.
const LINES_MAX: usize = 400;

struct Source {
    /// Below `src/`.
    path: String,
    /// Without comments and without the tests at the end.
    code: String,
}

#[test]
fn rooms_know_only_what_they_may() {
    let mut broken = Vec::new();
    for source in sources() {
        for Rule { room, forbidden, why } in RULES {
            if !room.iter().any(|part| format!("/{}", source.path).contains(part)) {
                continue;
            }
            let found = forbidden.iter().filter(|&&word| source.code.contains(word));
            broken.extend(found.map(|word| format!("src/{}: `{word}`: {why}", source.path)));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let is_room = |path: &str| path == "image/source.rs" || path == "sys.rs";
    for source in sources().filter(|source| !is_room(&source.path)) {
        let words = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert_eq!(words.filter(|&word| word == "unsafe").count(), 0, "src/{}", source.path);
    }
}

#[test]
fn every_unsafe_has_its_argument() {
    for path in ["image/source.rs", "sys.rs"] {
        let text = fs::read_to_string(src().join(path)).unwrap();
        let blocks = text.matches("unsafe {").count();
        assert_eq!(blocks, text.matches("// SAFETY:").count(), "src/{path}");
    }
}

#[test]
fn files_stay_readable() {
    for source in sources() {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LINES_MAX, "src/{} has {lines} lines of code", source.path);
    }
}

#[test]
fn nothing_is_left_undone() {
    for source in sources() {
        for word in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
            assert!(!source.code.contains(word), "src/{}: {word}", source.path);
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file but those that are tests as a whole.
fn sources() -> impl Iterator<Item = Source> {
    let mut files = Vec::new();
    collect(&src(), &mut files);
    assert!(files.len() > 20, "the sources are not where they are looked for");
    files.into_iter().filter(|path| !path.ends_with("tests.rs")).map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
        Source { path, code: code_of(&text) }
    })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn code_of(text: &str) -> String {
    let is_module = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.contains("mod tests {"));
    let tests = text.match_indices("#[cfg(test)]").map(|(at, _)| at).find(is_module).unwrap_or(text.len());
    let lines = text[..tests].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}
