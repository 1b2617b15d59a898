//! Keeps the layer rule of ARCHITECTURE.md: which room may use which, and what code must not
//! contain.
//!
//! The tables come first. A room that is new, moved or gone needs a row changed here.

#[path = "common/imports.rs"]
mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Modules;

/// Rooms, from the lowest layer to the highest. A room uses rooms of lower layers only, so no
/// protocol uses another and there is no circle.
const LAYERS: &[&[&str]] = &[
    &[
        "codec",
        "extent",
        "guid",
        "locked",
        "mac",
        "metrics",
        "output",
        "panics",
        "placement",
        "text",
        "watched",
    ],
    &["recent_lines", "runtime", "sys", "x509"],
    &["store"],
    &["image"],
    &["export"],
    &["bootable", "uki"],
    &["images"],
    &["boot"],
    &["machines"],
    &["interfaces", "provision", "stream"],
    &["nbd", "nfs", "http", "tftp", "dhcp", "ndp", "web"],
    &["config", "handover"],
    &["telemetry", "inspect", "check", "secure_boot", "server", "cli"],
    &["doctor", "status"],
    &["fuzzing"],
];

/// Files of a room that use each other in a circle: the room, and the files. The list only shrinks.
const CYCLES: &[(&str, &[&str])] = &[];

/// Uses that break a rule: part of a file's path, and the path that it uses. The list only shrinks.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Parts of paths below `src/`; a file belongs to the room when its path contains one of them.
type Room = &'static [&'static str];

struct Rule {
    room: Room,
    /// Beginnings of paths; `*` stands for any one name.
    paths: &'static [&'static str],
    /// Words that the text must not contain, comments aside.
    words: &'static [&'static str],
    why: &'static str,
}

const WIRE: Room = &[
    "codec.rs",
    "store/ledger.rs",
    "/text.rs",
    "/wire",
    "nfs/xdr.rs",
    "nfs/rpc.rs",
    "image/iso9660.rs",
    "image/susp.rs",
    "image/el_torito.rs",
    "image/partitions.rs",
    "image/boot_list.rs",
    "bootable/menu_entry.rs",
    "bootable/grub/",
    "bootable/systemd_boot.rs",
    "bootable/syslinux.rs",
    "uki/pe.rs",
    "uki/sign/",
    "x509/",
    "image/initramfs/cpio.rs",
    "image/initramfs/packing.rs",
    "store/place.rs",
    "store/client/listing.rs",
];
const SESSION: Room = &[
    "/session",
    "/placement.rs",
    "store/ahead.rs",
    "store/blocks.rs",
    "dhcp/lease",
    "nfs/handle",
    "nfs/mount",
    "nfs/portmap",
    "/boot/",
    "bootable/",
    "uki/",
    "check/sample.rs",
    "image/readers/queue/listed.rs",
    "machines/boot_ranges",
    "machines/learner",
    "machines/tracker",
    "machines/mod",
    "machines/table",
    "machines/registry",
    "machines/stage",
    "machines/status",
    "machines/transfer_stats",
    "machines/up",
    "machines/carried",
    "handover/state",
    "image/identity.rs",
    "image/index.rs",
    "image/arch.rs",
    "export/",
    "images/change.rs",
    "images/name.rs",
    "images/retention.rs",
    "images/served.rs",
    "images/set.rs",
    "stream/turn.rs",
    "stream/waiting.rs",
];

/// Judgement of `isowire doctor` on what it looked at.
const JUDGEMENT: Room = &["doctor/judge", "doctor/firewall"];

const IO: &[&str] = &[
    "tokio",
    "rustix",
    "socket2",
    "nix",
    "libc",
    "memmap2",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::process",
    "std::thread",
];
const CLOCKS: &[&str] = &["std::time::Instant::now", "std::time::SystemTime::now", "jiff::Timestamp::now"];
const CLOCK_WORDS: &[&str] = &["Instant::now", "SystemTime::now", "Timestamp::now"];
const RANDOMNESS: &[&str] = &["std::hash::RandomState", "std::collections::hash_map::RandomState"];
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "assert!(", "assert_eq!("];

const RULES: &[Rule] = &[
    Rule { room: WIRE, paths: IO, words: &["TcpStream", "UdpSocket"], why: "a parser does no I/O" },
    Rule { room: WIRE, paths: CLOCKS, words: CLOCK_WORDS, why: "a parser reads no clock" },
    Rule { room: WIRE, paths: &["tracing"], words: &[], why: "a parser says what is wrong by its result" },
    Rule { room: WIRE, paths: &[], words: PANICS, why: "a parser never panics on input" },
    Rule {
        room: WIRE,
        paths: &["crate::*::session", "crate::*::server"],
        words: &[],
        why: "arrows point down: a byte layout knows no session",
    },
    Rule { room: SESSION, paths: IO, words: &["TcpStream", "UdpSocket"], why: "a session does no I/O" },
    Rule { room: SESSION, paths: CLOCKS, words: CLOCK_WORDS, why: "time is an argument of a session" },
    Rule { room: JUDGEMENT, paths: IO, words: &[], why: "judgement does no I/O" },
    Rule { room: JUDGEMENT, paths: CLOCKS, words: CLOCK_WORDS, why: "time is an argument of judgement" },
    Rule {
        room: SESSION,
        paths: &["crate::*::server"],
        words: &[],
        why: "arrows point down: a session knows no socket",
    },
    Rule {
        room: &["/wire", "/session", "dhcp/lease", "boot/"],
        paths: RANDOMNESS,
        words: &[],
        why: "randomness is an argument of a session",
    },
    Rule {
        room: &["nbd/", "nfs/", "ndp/"],
        paths: &["crate::boot"],
        words: &[],
        why: "only DHCP, HTTP and TFTP know what a machine boots",
    },
];

/// Longest file, in lines of code; tests and comments do not count.
const LINES_MAX: usize = 400;

struct Source {
    /// Below `src/`.
    path: String,
    /// Without comments and without the tests at the end.
    code: String,
    used: BTreeSet<imports::Path>,
}

/// The sources of the crate, or of a small one in a test.
struct CrateSources {
    files: Vec<Source>,
    modules: Modules,
}

#[test]
fn room_knows_only_what_it_may() {
    let sources = CrateSources::read();
    let mut broken = sources.broken_rules();
    broken.extend(sources.uses_against_layers());
    assert_exceptions(broken, EXCEPTIONS);
}

#[test]
fn room_has_one_layer() {
    let layered: Vec<&str> = LAYERS.concat();
    let listed: BTreeSet<&str> = layered.iter().copied().collect();
    assert_eq!(layered.len(), listed.len(), "a room has two layers");
    let sources = CrateSources::read();
    let rooms: BTreeSet<&str> = sources.rooms().collect();
    assert_eq!(listed, rooms, "LAYERS (left) has other rooms than src/lib.rs (right)");
}

#[test]
fn room_has_no_import_cycle() {
    let listed: BTreeSet<String> = CYCLES.iter().map(|(room, files)| cycle(room, files)).collect();
    let found = CrateSources::read().cycles();
    let new: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "new cycles: {new:#?}\ngone, to be taken off CYCLES: {gone:#?}"
    );
}

#[test]
fn rule_is_about_rooms_that_exist() {
    let files = CrateSources::read().files;
    for part in RULES.iter().flat_map(|rule| rule.room) {
        assert!(files.iter().any(|source| source.is_in(&[part])), "no file is in the room `{part}`");
    }
}

#[test]
fn rule_refuses_each_way_to_use_a_room() {
    let refused = [
        ("nbd/session.rs", "use crate::{tftp, nbd};"),
        ("nbd/session.rs", "use crate::{image, nfs::{handle as handles}};"),
        ("nbd/session.rs", "use super::super::dhcp;"),
        ("nbd/session.rs", "use crate::http as web;"),
        ("nbd/session.rs", "use crate::nfs::*;"),
        ("nbd/session.rs", "use crate::*;"),
        ("nbd/session.rs", "use crate::boot::Mac;"),
        ("nbd/session.rs", "use super::server::Sockets;"),
        ("nbd/session.rs", "use crate::machines::Mac;"),
        ("nbd/session.rs", "fn f() { crate::nfs::handle::parse(); }"),
        ("nbd/session.rs", "fn f() -> super::super::tftp::Transfer { todo() }"),
        ("nbd/session.rs", "fn f() { tracing::debug!(\"{}\", crate::nfs::handle::LEN); }"),
        ("nbd/session.rs", "fn f() { use std::fs; fs::read(\"x\"); }"),
        ("nbd/session.rs", "use std::{fmt, fs::File};"),
        ("nbd/session.rs", "use std::net::*;"),
        ("nbd/session.rs", "use std::time::Instant as Clock; fn f() { Clock::now(); }"),
        ("nbd/session.rs", "use std::time; fn f() { time::SystemTime::now(); }"),
        ("nbd/session.rs", "mod inner { use super::super::super::http; }"),
        ("nbd/session.rs", "impl X { fn f() { ::tokio::spawn(x); } }"),
        ("nbd/session.rs", "#[cfg(not(test))] use crate::http;"),
        ("nbd/wire.rs", "use tracing::debug;"),
        ("nbd/wire.rs", "fn f() { x.unwrap(); }"),
        ("image/mod.rs", "use crate::export::Export;"),
        ("export/mod.rs", "pub use crate::machines::Mac;"),
        ("machines/mod.rs", "use crate::nbd;"),
    ];
    for (path, text) in refused {
        assert!(!CrateSources::with(path, text).all_broken().is_empty(), "{path} passes with {text}");
    }
    let passes = [
        ("nbd/session.rs", "use super::wire; use crate::image::Image; use std::time::Instant;"),
        ("nbd/session.rs", "fn f() -> wire::Reply { wire::emit() } mod wire {}"),
        ("nbd/session.rs", "#[cfg(test)] mod tests { use crate::nfs; use super::super::http; }"),
        ("nbd/session.rs", "// crate::nfs::handle\nconst X: &str = \"crate::nfs\";"),
        ("http/session.rs", "use crate::boot::Mac;"),
        ("nbd/server.rs", "use std::time::Instant; fn f() { tokio::spawn(Instant::now()); }"),
    ];
    for (path, text) in passes {
        assert_eq!(CrateSources::with(path, text).all_broken(), [] as [Broken; 0], "{path}: {text}");
    }
}

#[test]
fn cycle_is_found_behind_a_re_export() {
    let in_image = [
        ("image/mod.rs", "mod tree; mod index; mod leaf; pub use self::tree::Tree; pub use leaf::Leaf;"),
        ("image/tree.rs", "use super::index; use super::Leaf;"),
        ("image/index.rs", "use super::Tree;"),
        ("image/leaf.rs", "pub struct Leaf;"),
    ];
    assert_eq!(CrateSources::of(&in_image).cycles(), [cycle("image", &["index", "tree"])].into());
    let of_rooms = [("nbd/mod.rs", "use crate::nfs;"), ("nfs/mod.rs", "use super::nbd::wire;")];
    assert_eq!(CrateSources::of(&of_rooms).cycles(), [cycle("", &["nbd", "nfs"])].into());
}

#[test]
fn file_stays_readable() {
    for source in CrateSources::read().files {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LINES_MAX, "src/{} has {lines} lines of code", source.path);
    }
}

#[test]
fn code_is_finished() {
    for source in CrateSources::read().files {
        for word in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"] {
            assert!(!source.code.contains(word), "src/{}: {word}", source.path);
        }
    }
}

/// A broken rule: the file, what it uses or contains, and the reason why it must not.
#[derive(Debug, PartialEq)]
struct Broken {
    file: String,
    used: String,
    why: String,
}

impl Broken {
    fn is_excepted(&self, &(file, used): &(&str, &str)) -> bool {
        let behind = self.used.strip_prefix(used);
        format!("/{}", self.file).contains(file)
            && behind.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}

/// Fails for each broken rule without an exception, and for each exception without need.
fn assert_exceptions(broken: Vec<Broken>, exceptions: &[(&str, &str)]) {
    let unused =
        exceptions.iter().filter(|exception| !broken.iter().any(|broken| broken.is_excepted(exception)));
    let unused: Vec<_> = unused.collect();
    assert!(unused.is_empty(), "gone, to be taken off EXCEPTIONS: {unused:?}");
    let left =
        broken.iter().filter(|broken| !exceptions.iter().any(|exception| broken.is_excepted(exception)));
    let left: Vec<_> =
        left.map(|Broken { file, used, why }| format!("src/{file}: `{used}`: {why}")).collect();
    assert!(left.is_empty(), "{}", left.join("\n"));
}

impl CrateSources {
    /// Reads every source file, except files of tests.
    fn read() -> Self {
        let mut files = Vec::new();
        collect(&src(), &mut files);
        assert!(files.len() > 20, "the sources are not where they are looked for");
        let is_test = |path: &PathBuf| path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
        let files = files.into_iter().map(|path| path.strip_prefix(src()).unwrap().to_owned());
        let files = files.filter(|path| !is_test(path)).map(|path| {
            let text = fs::read_to_string(src().join(&path)).unwrap();
            (path.to_str().unwrap().to_owned(), text)
        });
        Self::of(&files.collect::<Vec<_>>())
    }

    fn of(files: &[(impl AsRef<str>, impl AsRef<str>)]) -> Self {
        let mut modules = Modules::default();
        files.iter().for_each(|(path, text)| modules.add(module(path.as_ref()), text.as_ref()));
        let files = files.iter().map(|(path, text)| Source {
            path: path.as_ref().to_owned(),
            code: code_of(text.as_ref()),
            used: modules.used_by(&module(path.as_ref())),
        });
        Self { files: files.collect(), modules }
    }

    /// Makes a small crate, with this file added or replaced.
    fn with(path: &str, text: &str) -> Self {
        let mut files: Vec<(String, &str)> = vec![
            ("boot/mod.rs".into(), "mod mac; pub use mac::Mac;"),
            ("boot/mac.rs".into(), "pub struct Mac;"),
            ("machines/mod.rs".into(), "pub use crate::boot::Mac;"),
        ];
        let doors = ["image", "export", "nbd", "nfs", "http", "tftp", "dhcp"];
        files.extend(doors.map(|room| (format!("{room}/mod.rs"), "")));
        files.extend(doors.map(|room| (format!("{room}/wire.rs"), "")));
        files.retain(|(known, _)| known != path);
        files.push((path.into(), text));
        Self::of(&files)
    }

    fn all_broken(&self) -> Vec<Broken> {
        let mut broken = self.broken_rules();
        broken.extend(self.uses_against_layers());
        broken
    }

    fn broken_rules(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for source in &self.files {
            for rule in RULES.iter().filter(|rule| source.is_in(rule.room)) {
                let paths = source.used.iter().filter(|path| rule.forbids(path));
                let paths = paths.map(|path| path.join("::"));
                let words = rule.words.iter().filter(|&&word| source.code.contains(word));
                let used = paths.chain(words.map(|&word| word.to_owned()));
                broken.extend(used.map(|used| source.broken(used, rule.why)));
            }
        }
        broken
    }

    fn uses_against_layers(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        for source in &self.files {
            let module = module(&source.path);
            let Some(layer) = module.get(1).and_then(|room| layer_of(room)) else { continue };
            for path in &source.used {
                let is_of_this_crate = path.len() > 1 && path[0] == "crate" && path[1] != module[1];
                if is_of_this_crate && layer_of(&path[1]).is_none_or(|used| used >= layer) {
                    broken.push(source.broken(path.join("::"), "a room uses rooms of lower layers only"));
                }
            }
        }
        broken
    }

    fn rooms(&self) -> impl Iterator<Item = &str> {
        let names = self.modules.names().filter_map(|module| module.get(1));
        names.map(String::as_str).filter(|&name| name != "main")
    }

    fn cycles(&self) -> BTreeSet<String> {
        let parents = self.modules.names().flat_map(|module| module.split_last());
        let parents: BTreeSet<&[String]> =
            parents.map(|(_, parent)| parent).filter(|parent| !parent.is_empty()).collect();
        let found = parents.into_iter().flat_map(|parent| {
            let room = parent[1..].join("/");
            self.modules.cycles(parent).into_iter().map(move |files| cycle(&room, &files))
        });
        found.collect()
    }
}

impl Source {
    fn is_in(&self, room: &[&str]) -> bool {
        let path = format!("/{}", self.path);
        room.iter().any(|part| path.contains(part))
    }

    fn broken(&self, used: String, why: &str) -> Broken {
        Broken { file: self.path.clone(), used, why: why.to_owned() }
    }
}

impl Rule {
    fn forbids(&self, path: &[String]) -> bool {
        self.paths.iter().any(|forbidden| {
            let forbidden: Vec<&str> = forbidden.split("::").collect();
            // `use std::net::*` reaches all that lies below.
            let (path, is_glob) = match path.split_last() {
                Some((last, module)) if last == "*" => (module, true),
                _ => (path, false),
            };
            let fits = path.iter().zip(&forbidden).all(|(name, &wanted)| wanted == "*" || name == wanted);
            fits && (is_glob || path.len() >= forbidden.len())
        })
    }
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

fn cycle(room: &str, files: &[impl AsRef<str>]) -> String {
    let files: Vec<&str> = files.iter().map(AsRef::as_ref).collect();
    format!("src/{room}: {}", files.join(" <-> "))
}

/// Returns the path of a file's module: `["crate", "image", "tree"]`.
fn module(path: &str) -> imports::Path {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let names = path.split('/').filter(|&name| name != "lib").map(str::to_owned);
    std::iter::once("crate".to_owned()).chain(names).collect()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
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
