//! A server of two images in the process of a test, and a client that reads its answers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use isowire::boot::menu::{Cms, CopyToRam, MenuSettings};
use isowire::boot::{BootConfig, Files, Ports};
use isowire::bootable::Root;
use isowire::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::images::{ImageSet, ServedImage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::common::noise;

pub const MIB: u64 = 1 << 20;

/// The files of the test image. Their places are multiples of 2048, as on an ISO, and not all of them of 4096.
pub const FILES: [(&str, Extent); 7] = [
    ("arch/boot/x86_64/vmlinuz-linux", Extent { offset: 10_240, len: 1_500_003 }),
    ("arch/boot/x86_64/initramfs-linux.img", Extent { offset: 2 * MIB, len: 3 * MIB + 1 }),
    ("arch/x86_64/airootfs.erofs", Extent { offset: 6 * MIB + 2048, len: 40 * MIB }),
    ("arch/x86_64/airootfs.erofs.cms.sig", Extent { offset: 4096, len: 700 }),
    ("arch/x86_64/airootfs.sha512", Extent { offset: 6144, len: 0 }),
    ("EFI/BOOT/BOOTx64.EFI", Extent { offset: 6144, len: 4000 }),
    ("arch/<odd> & \"names\"?#100%", Extent { offset: 8192, len: 17 }),
];
pub const KERNEL: &str = FILES[0].0;
pub const INITRAMFS: &str = FILES[1].0;
pub const ROOT: &str = FILES[2].0;
pub const SIGNATURE: &str = FILES[3].0;

/// Sun, 06 Nov 1994 08:49:37 GMT.
pub const MODIFIED: i64 = 784_111_777;
pub const MODIFIED_TEXT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A server of two images, in this process.
pub struct Server {
    _runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
    pub image: PathBuf,
    pub port: u16,
}

impl Server {
    /// Serves an image of which no two blocks are alike, and beside it `other`, of 5 GiB, that is empty but for its end.
    pub fn start() -> Self {
        raise_file_limit();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let [image, other] = ["arch", "other"].map(|name| dir.path().join(name));
        noise::write(&image, 48 * MIB);
        let file = File::create(&other).unwrap();
        file.write_all_at(b"the end", 5 * 1024 * MIB).unwrap();
        let images = ImageSet::new(served("arch", &image), vec![served("other", &other)]);
        let settings = MenuSettings {
            roots: vec![Root::Nbd],
            copytoram: CopyToRam::Auto,
            timeout: 10,
            cms: Cms::Verify,
            parameters: Vec::new(),
        };
        let machines = Arc::new(isowire::machines::Registry::new(std::time::Instant::now()));
        let files =
            Files::new(Arc::new(images), BootConfig::new(settings, Ports { tftp: 69, http: Some(80) }))
                .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(isowire::http::server::run(
            listener,
            Arc::new(files),
            machines,
            None,
            std::future::pending(),
        ));
        Self { _runtime: runtime, dir, image, port }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }

    /// A client that has little room for what it does not read.
    pub fn connect_narrowly(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], self.port)).into()).unwrap();
        socket.into()
    }

    /// Sends this, and no more, and reads all answers.
    pub fn ask(&self, requests: &[u8]) -> Vec<Answer> {
        let mut socket = self.connect();
        socket.write_all(requests).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut said = Vec::new();
        socket.read_to_end(&mut said).unwrap();
        let mut rest = &said[..];
        std::iter::from_fn(|| (!rest.is_empty()).then(|| Answer::read(&mut rest))).collect()
    }

    pub fn get(&self, path: &str, fields: &str) -> Answer {
        let mut answers = self.ask(&request("GET", path, fields));
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// A file of the image as it is on disk.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let (_, extent) = FILES.iter().find(|(name, _)| *name == path).unwrap();
        let mut bytes = vec![0; extent.len as usize];
        File::open(&self.image).unwrap().read_exact_at(&mut bytes, extent.offset).unwrap();
        bytes
    }

    pub fn assert_lives(&self) {
        assert!(self.get(SIGNATURE, "").body == self.content(SIGNATURE));
    }
}

/// A test that fails for lack of descriptors says nothing about the server.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn served(name: &str, path: &Path) -> ServedImage {
    let source = Source::open(path).unwrap();
    let attributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: MODIFIED };
    let mut index = Index::new(attributes);
    for (path, extent) in FILES {
        let (directory, name) = path.rsplit_once('/').unwrap();
        let parent = directory.split('/').fold(NodeId::ROOT, |parent, name| {
            let directory = || NodeKind::Directory { entries: Vec::new() };
            let known = index.child(parent, name.as_bytes());
            known.unwrap_or_else(|| index.add(parent, name.as_bytes(), directory(), attributes).unwrap())
        });
        let kind = NodeKind::File { extents: vec![extent] };
        index.add(parent, name.as_bytes(), kind, attributes).unwrap();
    }
    ServedImage::new(name, Image::new(source, index).unwrap())
}

pub fn request(method: &str, path: &str, fields: &str) -> Vec<u8> {
    format!("{method} /{path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

pub struct Answer {
    pub status: u16,
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(input: &mut impl Read) -> Answer {
        let mut answer = Answer::read_head(input);
        if answer.status != 304 {
            answer.body = vec![0; answer.field("content-length").parse().unwrap()];
            input.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    pub fn read_head(input: &mut impl Read) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            input.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
        let fields = lines.map(|line| line.split_once(": ").unwrap());
        Answer {
            status: status[..3].parse().unwrap(),
            fields: fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: Vec::new(),
        }
    }

    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.fields))
    }
}
