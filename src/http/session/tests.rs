//! Answers to requests, from the bytes of the request to the bytes and ranges of the answer.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
use crate::boot::{BootConfig, Files, Mac, Ports};
use crate::bootable::Root;
use crate::export::batch::Chunk;
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source};
use crate::images::{ImageSet, ServedImage};
use crate::machines::UpReport;
use crate::provision::{FileCall, OperatorFileError};

const KERNEL: Extent = Extent { offset: 4096, len: 5000 };
const ROOT_FS: Extent = Extent { offset: 65_536, len: 3 << 30 };

/// Sun, 06 Nov 1994 08:49:37 GMT.
const MODIFIED: i64 = 784_111_777;
const DATE: &str = "Date: Mon, 23 Nov 2026 06:07:23 GMT\r\n";

fn now() -> Timestamp {
    "2026-11-23T06:07:23Z".parse().unwrap()
}

fn image(name: &str) -> ServedImage {
    let attributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: MODIFIED };
    let mut index = Index::new(attributes);
    let mut add = |parent, name: &[u8], kind| index.add(parent, name, kind, attributes).unwrap();
    let arch = add(NodeId::ROOT, b"arch", NodeKind::Directory { entries: Vec::new() });
    add(arch, b"vmlinuz", NodeKind::File { extents: vec![KERNEL] });
    add(arch, b"airootfs.sfs", NodeKind::File { extents: vec![ROOT_FS] });
    add(arch, b"link", NodeKind::Symlink { target: b"vmlinuz"[..].into() });
    add(arch, b"astray", NodeKind::Symlink { target: b"/nowhere"[..].into() });
    add(NodeId::ROOT, b"BOOTX64.EFI", NodeKind::File { extents: vec![KERNEL] });
    add(NodeId::ROOT, b"empty.txt", NodeKind::File { extents: Vec::new() });
    add(NodeId::ROOT, b"<&\"'> %\xff.cfg", NodeKind::File { extents: Vec::new() });
    let source = Source::open(Path::new("/dev/null")).unwrap();
    ServedImage::new(name, Image::new(source, index).unwrap())
}

fn resources() -> Arc<Resources> {
    let settings = MenuSettings {
        roots: vec![Root::Nbd],
        copytoram: CopyToRam::Auto,
        timeout: 0,
        cms: Cms::Verify,
        parameters: Vec::new(),
    };
    let images = ImageSet::new(image("one"), vec![image("two")]);
    let files =
        Files::new(Arc::new(images), BootConfig::new(settings, Ports { tftp: 69, http: Some(80) })).unwrap();
    Arc::new(Resources::new(Arc::new(files)))
}

fn session() -> Session {
    Session::new(Ipv4Addr::new(10, 0, 0, 1))
}

/// Shows the queued answers: bytes as text, a range as `[offset+len]`.
fn shown(batch: &Batch) -> String {
    let show = |chunk: Chunk<'_>| match chunk {
        Chunk::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Chunk::Image(range) => format!("[{}+{}]", range.offset(), range.len()),
    };
    batch.chunks().map(show).collect()
}

/// Runs one turn of a new client that sent this.
fn turn(input: &str) -> (Turn<Finished>, String) {
    let mut batch = Batch::default();
    let turn = session().handle(&resources(), &mut BytesMut::from(input), now(), &mut batch);
    (turn, shown(&batch))
}

/// Returns the logged answer to a new client that sent this.
fn logged(input: &str) -> Option<LoggedAnswer> {
    let (mut session, mut batch) = (session(), Batch::default());
    session.handle(&resources(), &mut BytesMut::from(input), now(), &mut batch);
    session.take_logged()
}

/// Returns the answer to one request with these fields.
fn ask(method: &str, target: &str, fields: &str) -> String {
    turn(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).1
}

fn get(target: &str, fields: &str) -> String {
    ask("GET", target, fields)
}

fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap().parse().unwrap()
}

/// Returns the value of a field of an answer.
fn field<'a>(answer: &'a str, name: &str) -> &'a str {
    let head = answer.split("\r\n\r\n").next().unwrap();
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(": ");
    head.lines().find_map(value).unwrap_or_else(|| panic!("no {name}: {head}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Returns the entity tag of the kernel.
fn tag() -> String {
    field(&get("/arch/vmlinuz", ""), "ETag").to_owned()
}

#[test]
fn file_is_sent_with_its_validators() {
    let tag = tag();
    let expected = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Type: application/octet-stream\r\nETag: {tag}\r\n\
         Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n{DATE}\r\n[4096+5000]"
    );
    assert_eq!(get("/arch/vmlinuz", ""), expected);
    assert_eq!(ask("HEAD", "/arch/vmlinuz", ""), expected.replace("[4096+5000]", ""));
    assert_eq!(get("http://x/arch/%76mlinuz?q", ""), expected);
    assert_eq!(get("/arch/link", ""), expected, "another name of the same");
}

#[test]
fn tags_differ_with_content() {
    let tags = ["/arch/vmlinuz", "/arch/airootfs.sfs", "/one.iso", "/isowire/pxelinux.cfg", "/", "/arch/"];
    let mut tags: Vec<_> = tags.iter().map(|path| field(&get(path, ""), "ETag").to_owned()).collect();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 6);
    assert_eq!(field(&get("/two/arch/vmlinuz", ""), "ETag"), tag(), "a copy of the image");
}

#[test]
fn media_type_comes_from_the_name() {
    let media_type = |target: &str| field(&get(target, ""), "Content-Type").to_owned();
    assert_eq!(media_type("/BOOTX64.EFI"), "application/efi");
    assert_eq!(media_type("/empty.txt"), "text/plain; charset=utf-8");
    assert_eq!(media_type("/isowire/pxelinux.cfg"), "text/plain; charset=utf-8");
    assert_eq!(media_type("/one.iso"), "application/octet-stream");
    assert_eq!(media_type("/arch/"), "text/html; charset=utf-8");
}

#[test]
fn range_gets_a_part() {
    let part = get("/arch/airootfs.sfs", "Range: bytes=0-0\r\n");
    assert_eq!((status(&part), field(&part, "Content-Range")), (206, "bytes 0-0/3221225472"));
    assert_eq!((field(&part, "Content-Length"), body(&part)), ("1", "[65536+1]"));
    assert!(body(&get("/arch/vmlinuz", "Range: bytes=4000-\r\n")).ends_with("[8096+1000]"));
    let beyond = get("/arch/vmlinuz", "Range: bytes=5000-\r\n");
    assert_eq!((status(&beyond), field(&beyond, "Content-Range")), (416, "bytes */5000"));
    assert_eq!(status(&ask("HEAD", "/arch/vmlinuz", "Range: bytes=5000-\r\n")), 200, "RFC 9110 §14.2");
    let ipxe = get("/arch/airootfs.sfs", "Range: bytes=-1540874240--1540857857\r\n");
    assert_eq!((status(&ipxe), body(&ipxe)), (200, "[65536+3221225472]"));
}

#[test]
fn several_ranges_get_a_multipart() {
    let parts = get("/arch/vmlinuz", "Range: bytes=0-9,-1\r\n");
    let boundary = field(&parts, "Content-Type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let head = |range: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/5000\r\n\r\n"
        )
    };
    let content =
        [&head("0-9"), "[4096+10]", &head("4999-4999"), "[9095+1]", "\r\n--", boundary, "--\r\n"].concat();
    assert_eq!((status(&parts), body(&parts)), (206, &content[..]));
    let len = content.len() - "[4096+10][9095+1]".len() + 11;
    assert_eq!(field(&parts, "Content-Length"), len.to_string());
    let joined = get("/arch/vmlinuz", "Range: bytes=0-9,5-19\r\n");
    assert_eq!((field(&joined, "Content-Range"), body(&joined)), ("bytes 0-19/5000", "[4096+20]"));
}

#[test]
fn conditions_are_evaluated_in_order() {
    let tag = tag();
    let after = |fields: &str| status(&get("/arch/vmlinuz", &fields.replace("TAG", &tag)));
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OLDER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    assert_eq!(after("If-None-Match: TAG\r\n"), 304);
    assert_eq!(after("If-None-Match: \"x\"\r\nIf-None-Match: W/TAG\r\n"), 304);
    assert_eq!(after("If-None-Match: \"x\"\r\n"), 200);
    assert_eq!(after(&format!("If-Modified-Since: {SAME}\r\n")), 304);
    assert_eq!(after(&format!("If-Modified-Since: {OLDER}\r\n")), 200);
    assert_eq!(after(&format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {SAME}\r\n")), 200, "§13.1.3");
    assert_eq!(after("If-Modified-Since: yesterday\r\n"), 200);
    assert_eq!(after("If-Match: TAG\r\n"), 200);
    assert_eq!(after("If-Match: *\r\n"), 200);
    assert_eq!(after("If-Match: W/TAG\r\n"), 412, "strong comparison");
    assert_eq!(after("If-Match: \"x\"\r\nIf-None-Match: TAG\r\n"), 412);
    assert_eq!(after(&format!("If-Unmodified-Since: {SAME}\r\n")), 200);
    assert_eq!(after(&format!("If-Unmodified-Since: {OLDER}\r\n")), 412);
    assert_eq!(after(&format!("If-Match: TAG\r\nIf-Unmodified-Since: {OLDER}\r\n")), 200, "§13.1.4");
    let range = "Range: bytes=1-\r\n";
    assert_eq!(after(&format!("If-Range: TAG\r\n{range}")), 206);
    assert_eq!(after(&format!("If-Range: W/TAG\r\n{range}")), 200);
    assert_eq!(after(&format!("If-Range: \"x\"\r\n{range}")), 200);
    assert_eq!(after(&format!("If-Range: {SAME}\r\n{range}")), 206);
    assert_eq!(after(&format!("If-Range: {OLDER}\r\n{range}")), 200);
    assert_eq!(after(&format!("If-Range: \"x\"\r\nIf-None-Match: TAG\r\n{range}")), 304);
    // EDK2 resumes a download like this.
    assert_eq!(after(&format!("If-Match: TAG\r\nIf-Unmodified-Since: {SAME}\r\n{range}")), 206);
    let unchanged = get("/arch/vmlinuz", "If-None-Match: *\r\n");
    assert_eq!((field(&unchanged, "ETag"), body(&unchanged)), (&tag[..], ""));
    assert_eq!(status(&get("/nope", "If-None-Match: *\r\n")), 404, "§13.2.1");
}

#[test]
fn refusal_says_why() {
    for (method, target, code) in [
        ("GET", "/nope", 404),
        ("GET", "/arch/vmlinuz/", 404),
        ("GET", "/arch/vmlinuz/x", 404),
        ("GET", "/arch/astray", 404),
        ("GET", "/arch%00", 404),
        ("GET", "/one.iso/", 404),
        ("GET", "/three.iso", 404),
        ("HEAD", "/nope", 404),
        ("GET", "/../etc/passwd", 400),
        ("GET", "/arch/%2e%2e/BOOTX64.EFI", 400),
        ("GET", "/%zz", 400),
        ("GET", "*", 400),
        ("POST", "/arch/vmlinuz", 405),
        ("GET", "/isowire/52-54-00-12-34-56/up", 405),
        ("POST", "/isowire/52-54-00-12-34-56/up", 403),
        ("POST", "/isowire/52-54-00-12-34-5/up", 405),
        ("OPTIONS", "*", 405),
        ("CONNECT", "a:80", 405),
        ("BREW", "/arch/vmlinuz", 501),
        ("get", "/arch/vmlinuz", 501),
    ] {
        let answer = ask(method, target, "");
        assert_eq!(status(&answer), code, "{method} {target}");
        assert_eq!(body(&answer).is_empty(), method == "HEAD", "{method} {target}");
        assert!(!answer.contains("Connection: close"), "{method} {target}");
    }
    assert_eq!(status(&get(&format!("/{}", "a/".repeat(2500)), "")), 414);
    assert_eq!(field(&ask("PUT", "/", ""), "Allow"), "GET, HEAD");
    assert_eq!(field(&get("/isowire/up", ""), "Allow"), "POST");
}

#[test]
fn malformed_stream_is_closed() {
    for (input, code) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", 405),
    ] {
        let (turn, answer) = turn(&[input, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!((turn, status(&answer)), (Turn::End(Finished), code), "{input}");
        assert_eq!(field(&answer, "Connection"), "close", "{input}");
        assert_eq!(answer.matches("Date: ").count(), 1, "{input}");
    }
    assert_eq!(status(&turn(&format!("GET /{}", "a".repeat(9000))).1), 414);
    assert_eq!(status(&turn(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(9000))).1), 431);
}

/// Machines that said that they are up.
#[derive(Debug, Default)]
struct Called(Mutex<Vec<(Option<Mac>, UpReport)>>);

impl Backend for Called {
    fn machine_up(
        &self,
        machine: Option<Mac>,
        _: Requester,
        report: UpReport,
    ) -> Result<(), NotItsAddressError> {
        self.0.lock().unwrap().push((machine, report));
        Ok(())
    }

    fn operator_file(&self, call: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError> {
        Ok(format!("{} {} {} {}", call.path.names.join("/"), call.serial, call.uuid, call.is_get)
            .into_bytes())
    }
}

#[test]
fn call_is_made_once_with_its_whole_content() {
    let called = Arc::new(Called::default());
    let resources = Resources::with_backend(Arc::clone(resources().files()), Arc::clone(&called) as _);
    let content = "hostname=lab1&pub_key_rsa=ssh-rsa+AAAA+root%40lab1%0A&pub_key_dsa=N/A";
    let head = |len: usize| format!("HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
    let call = format!("POST /isowire/52-54-00-12-34-56/up {}{content}", head(content.len()));
    let (mut session, mut batch) = (session(), Batch::default());
    let mut input = BytesMut::from("GET /empty.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    input.extend_from_slice(&call.as_bytes()[..call.len() - 1]);
    // What it answers before has to leave first.
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Full);
    batch.advance(batch.len());
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Drained);
    assert!(batch.is_empty() && called.0.lock().unwrap().is_empty(), "a byte is missing");
    input.extend_from_slice(&call.as_bytes()[call.len() - 1..]);
    input.extend_from_slice(b"GET");
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Drained);
    assert_eq!((status(&shown(&batch)), &input[..]), (200, &b"GET"[..]));
    let calls = called.0.lock().unwrap().split_off(0);
    let [(machine, report)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(*machine, "52:54:00:12:34:56".parse().ok());
    let keys: Vec<_> = report.host_keys.iter().map(|key| key.as_str()).collect();
    assert_eq!((report.host_name.as_deref(), &keys[..]), (Some("lab1"), &["ssh-rsa AAAA"][..]));

    let long = format!("POST /isowire/up {}", head(READ_MAX as usize + 1));
    batch.advance(batch.len());
    session.handle(&resources, &mut BytesMut::from(&*long), now(), &mut batch);
    assert_eq!((status(&shown(&batch)), called.0.lock().unwrap().len()), (413, 0));
}

#[test]
fn operators_file_is_made_with_what_the_query_says() {
    let resources = Resources::with_backend(Arc::clone(resources().files()), Arc::new(Called::default()));
    let ask = |method: &str, target: &str| {
        let mut input = BytesMut::from(&*format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut batch = Batch::default();
        session().handle(&resources, &mut input, now(), &mut batch);
        shown(&batch)
    };
    let answer = ask("GET", "/isowire/files/a/b.sh?serial=AB+1%0a%24(x)&uuid=1-2&serial=3");
    assert_eq!((status(&answer), body(&answer)), (200, "a/b.sh AB 1x 1-2 true"));
    let answer = ask("HEAD", "/isowire/52-54-00-12-34-56/files/a");
    assert_eq!((status(&answer), field(&answer, "Content-Length")), (200, "9"));
    assert_eq!(body(&ask("GET", &format!("/isowire/files/a?serial={}", "x".repeat(500)))).len(), 2 + 128 + 6);
    for (method, target, code) in [
        ("POST", "/isowire/files/a", 405),
        ("GET", "/isowire/files/%2e%2e/a", 404),
        ("GET", "/isowire/files/.a", 404),
        ("GET", "/isowire/files/", 404),
    ] {
        assert_eq!(status(&ask(method, target)), code, "{method} {target}");
    }
    assert_eq!(status(&get("/isowire/files/a", "")), 404, "no file at all");
}

#[test]
fn pipelined_requests_are_answered() {
    let one = "GET /arch/vmlinuz HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n1234";
    let (turn, answers) = turn(&[one, post, one, "GET"].concat());
    assert_eq!(turn, Turn::Drained);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 3);
}

#[test]
fn turn_is_bounded() {
    let (mut session, resources, mut batch) = (session(), resources(), Batch::default());
    let mut input = BytesMut::from("GET /arch/ HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500).as_bytes());
    let all = input.len();
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Full);
    assert_eq!((all - input.len()) / (all / 500), TURN_REQUESTS as usize);
}

#[test]
fn pipelined_images_take_turns() {
    let paths = ["/arch/vmlinuz", "/arch/", "/two/arch/vmlinuz", "/two/arch/airootfs.sfs"];
    let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).concat() + "GET /x";
    let (mut session, resources, mut batch) = (session(), resources(), Batch::default());
    let mut input = BytesMut::from(requests.as_bytes());
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Full);
    assert!(input.starts_with(b"GET /two/arch/vmlinuz "), "the request is taken once it is answered");
    assert!(Arc::ptr_eq(batch.image().unwrap(), resources.files().default_image()));
    let first = shown(&batch);
    assert!(first.contains("[4096+5000]HTTP/1.1 200 OK") && first.ends_with("</html>\n"), "{first}");
    batch.advance(batch.len());
    assert_eq!(session.handle(&resources, &mut input, now(), &mut batch), Turn::Full);
    assert!(!Arc::ptr_eq(batch.image().unwrap(), resources.files().default_image()));
    assert_eq!(shown(&batch).matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(&input[..], b"GET /x");
}

#[test]
fn connection_persists_if_both_want() {
    let connection = |version: &str, fields: &str| {
        turn(&format!("GET /arch/vmlinuz HTTP/{version}\r\nHost: a\r\n{fields}\r\n"))
    };
    let (turn, answer) = connection("1.0", "");
    assert_eq!((turn, field(&answer, "Connection")), (Turn::End(Finished), "close"));
    let (turn, answer) = connection("1.0", "Connection: Keep-Alive\r\n");
    assert_eq!((turn, field(&answer, "Connection")), (Turn::Drained, "keep-alive"));
    let (turn, answer) = connection("1.1", "Connection: close\r\n");
    assert_eq!((turn, field(&answer, "Connection")), (Turn::End(Finished), "close"));
}

#[test]
fn downloads_and_misses_are_logged() {
    let whole = "GET /arch/airootfs.sfs HTTP/1.0\r\nUser-Agent: Syslinux/6.04\r\n\r\n";
    let (path, agent) = ("/arch/airootfs.sfs".to_owned(), "Syslinux/6.04".to_owned());
    let expected = LoggedAnswer { path, status: StatusCode::OK, bytes: ROOT_FS.len, agent };
    assert_eq!((turn(whole).0, logged(whole)), (Turn::End(Finished), Some(expected)));
    let told = |target: &str, fields: &str| {
        let told = logged(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        told.map(|answer| (answer.status.0, answer.bytes))
    };
    assert_eq!(told("/nope%0a", ""), Some((404, 0)));
    assert_eq!(told("/arch/airootfs.sfs", "Range: bytes=1-\r\n"), Some((206, ROOT_FS.len - 1)));
    assert_eq!(told("/arch/airootfs.sfs", "Range: bytes=0-0\r\n"), None);
    assert_eq!(told("/arch/vmlinuz", ""), None, "small");
    assert!(told("/isowire/pxelinux.cfg", "").is_some(), "what a boot begins with");
    assert_eq!(logged("HEAD /arch/airootfs.sfs HTTP/1.0\r\n\r\n"), None);
}

#[test]
fn directory_has_a_slash_and_a_page() {
    for (target, location) in [
        ("/arch", "/arch/"),
        ("//two//arch?x", "/two/arch/"),
        ("//arch", "/arch/"),
        ("/%61rch/.", "/arch/"),
        ("/isowire", "/isowire/"),
    ] {
        let answer = get(target, "");
        assert_eq!((status(&answer), field(&answer, "Location")), (301, location), "{target}");
    }
    let page = get("/arch/", "");
    assert_eq!(status(&page), 200);
    for row in [
        "<h1>one: /arch</h1>",
        "<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>",
        "<tr><td><a href=\"airootfs.sfs\">airootfs.sfs</a></td><td>3.0 GiB</td><td>1994-11-06 08:49</td></tr>",
        "<tr><td><a href=\"link\">link</a></td><td>4.8 KiB</td>",
        "<tr><td>astray</td><td></td>",
    ] {
        assert!(page.contains(row), "{row}\n{page}");
    }
    assert_eq!(status(&get("/arch/", &format!("If-None-Match: {}\r\n", field(&page, "ETag")))), 304);
}

#[test]
fn root_lists_generated_files_too() {
    let page = get("/", "");
    let hrefs: Vec<_> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let odd = "%3C%26%22%27%3E%20%25%FF.cfg";
    assert_eq!(
        hrefs,
        ["arch/", "isowire/", "two/", odd, "BOOTX64.EFI", "empty.txt", "one.iso", "two.iso"],
        "and no parent"
    );
    assert!(page.contains("&lt;&amp;&quot;&#39;&gt; %\u{fffd}.cfg</a></td><td>0 B</td>"), "{page}");
    for href in hrefs {
        assert_eq!(status(&get(&format!("/{href}"), "")), 200, "{href}");
    }
    let named = get("/one/", "");
    assert!(
        !named.contains("isowire/") && named.contains("href=\"../\"") && named.contains("one: /"),
        "{named}"
    );
    assert!(get("/isowire/", "").contains("<a href=\"pxelinux.cfg\">"));
}

#[test]
fn late_request_gets_408() {
    let mut session = session();
    let mut batch = Batch::default();
    assert_eq!(session.handle_timeout(&BytesMut::new(), now(), &mut batch), Turn::End(Finished));
    assert!(batch.is_empty(), "an idle client is not waiting for anything");
    assert_eq!(session.handle_timeout(&BytesMut::from("GET"), now(), &mut batch), Turn::End(Finished));
    assert_eq!(status(&shown(&batch)), 408);
}

#[test]
fn client_without_a_place_is_told_when_to_come_back() {
    let answer = String::from_utf8(without_place("no room", Timestamp::UNIX_EPOCH)).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
    for field in ["Retry-After: 5", "Connection: close", "Content-Length: 33"] {
        assert!(head.lines().any(|line| line == field), "{head}");
    }
    assert_eq!(text, "503 Service Unavailable: no room\n");
}
