//! The status page in a real browser, with two hundred machines.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::browser::{self, Browser, key};
use common::iso;
use common::needs::needs;
use isowire::boot::{Architecture, Firmware, Platform};
use isowire::bootable::FileKind;
use isowire::export::{Allowed, Batch};
use isowire::image::Image;
use isowire::images::{ImageSet, ServedImage};
use isowire::machines::{ConnectionTracker, Mac, Protocol, Registry};
use isowire::web::server::{self, StatusSocket};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const MACHINES: u8 = 200;

/// A status server, and machines that load nothing in truth.
struct Room {
    registry: Arc<Registry>,
    images: ImageSet,
    /// Connections to roots.
    roots: Vec<ConnectionTracker>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    _runtime: Runtime,
}

impl Room {
    fn new(machines: u8) -> Self {
        Self::with_image("archlinux", machines)
    }

    fn with_image(name: &str, machines: u8) -> Self {
        let registry = Arc::new(Registry::new(Instant::now()));
        let dir = tempfile::tempdir().unwrap();
        let image = Image::open(&iso::bare(dir.path())).unwrap();
        let images = ImageSet::new(ServedImage::new(name, image), Vec::new());
        registry.serve(&images);
        let mut room = Self::of(registry, images);
        (1..=machines).for_each(|n| room.boot(n));
        room
    }

    fn of(registry: Arc<Registry>, images: ImageSet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = Runtime::new().unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let sockets = vec![StatusSocket::Tcp(listener, Allowed::default())];
        let shutdown = async { drop(stopping.await) };
        runtime.spawn(server::run(sockets, Arc::clone(&registry), shutdown));
        Self { registry, images, roots: Vec::new(), address, stop: Some(stop), _runtime: runtime }
    }

    /// Adds a machine that is at some point of its boot, and every tenth one is stuck.
    fn boot(&mut self, n: u8) {
        let (mac, address) = (mac(n), Ipv4Addr::new(10, 0, 0, n));
        let architecture = Architecture(if n.is_multiple_of(3) { 0 } else { 7 });
        let platform = Platform { firmware: Firmware::Pxe, architecture };
        let is_stuck = n.is_multiple_of(10);
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_secs(if is_stuck { 90 } else { 3 })).unwrap();
        self.registry.offered(mac, platform, Some(address), began);
        let kinds = [FileKind::Loader, FileKind::Menu, FileKind::Kernel, FileKind::Initramfs];
        if is_stuck {
            return;
        }
        let connect =
            |protocol| ConnectionTracker::new(Arc::clone(&self.registry), address.into(), protocol, now);
        for &kind in kinds.iter().take(usize::from(n % 5)) {
            let mut tracker = connect(Protocol::Http);
            tracker.open(kind);
            tracker.sent(&Batch::default(), 0, now);
        }
        if n.is_multiple_of(4) {
            let mut tracker = connect(Protocol::Nbd);
            tracker.attached(&self.images.default_image().image, now);
            self.roots.push(tracker);
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

fn mac(n: u8) -> Mac {
    format!("52:54:00:00:00:{n:02x}").parse().unwrap()
}

/// Where pictures are kept that people look at.
fn picture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

const ROWS: &str = "document.querySelectorAll('#machines tbody tr').length";

#[test]
fn page_shows_two_hundred_machines() {
    needs!(browser::NEEDS, ["xorriso"]);
    let (room, browser) = (Room::new(MACHINES), Browser::start());
    browser.resize(1280, 900);
    browser.open(&room.url());
    browser.wait_for("document.body.dataset.ready");
    assert_eq!(browser.run(&format!("return {ROWS}")), MACHINES);
    assert_eq!(browser.run("return document.getElementById('map').children.length"), MACHINES);
    // Stuck machines come first, each with its reason.
    let reasons = browser.run(
        "return [...document.querySelectorAll('#machines tbody tr')].map(row => row.cells[6].textContent !== '')",
    );
    let stuck = usize::from(MACHINES / 10);
    let reasons: Vec<bool> = serde_json::from_value(reasons).unwrap();
    assert!(
        reasons[..stuck].iter().all(|has| *has) && reasons[stuck..].iter().all(|has| !has),
        "{reasons:?}"
    );
    assert_eq!(browser.run("return document.title"), format!("({stuck} stuck) isowire"));
    browser.screenshot(&picture("light"));
    browser.prefer("dark");
    browser.screenshot(&picture("dark"));
    browser.resize(390, 844);
    browser.screenshot(&picture("phone"));
    // Nothing may stand beside the screen of a phone.
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true);
    assert_eq!(browser.console(), serde_json::json!([]));
}

#[test]
fn page_is_used_by_keyboard() {
    needs!(browser::NEEDS, ["xorriso"]);
    let (room, browser) = (Room::new(60), Browser::start());
    browser.resize(1280, 900);
    browser.open(&room.url());
    browser.wait_for("document.body.dataset.ready");
    // "/" goes to the filter; its text leaves one machine.
    browser.press(&["/"]);
    browser.press(&["1", "0", ".", "0", ".", "0", ".", "4", "7"]);
    browser.wait_for(&format!("{ROWS} === 1"));
    // From there to the machine, and to its story.
    browser.press(&[key::DOWN, key::ENTER]);
    browser.wait_for("document.getElementById('story').open");
    let story = browser.run("return document.getElementById('story').innerText");
    let story = story.as_str().unwrap();
    assert!(story.contains("10.0.0.47") && story.contains("52:54:00:00:00:2f"), "{story}");
    assert!(story.contains("Story of this boot"), "{story}");
    browser.screenshot(&picture("story"));
    browser.press(&[key::ESCAPE]);
    browser.wait_for("!document.getElementById('story').open");
    // The focus is where it was.
    assert_eq!(browser.run("return document.activeElement.textContent"), "10.0.0.47");
    // The second button shows stuck machines only.
    browser.run("document.getElementById('filter').value = ''; document.querySelectorAll('#counts button')[1].click()");
    browser.wait_for(&format!("{ROWS} === 6"));
    assert_eq!(browser.console(), serde_json::json!([]));
}

#[test]
fn page_follows_the_machines() {
    needs!(browser::NEEDS, ["xorriso"]);
    let (mut room, browser) = (Room::new(3), Browser::start());
    browser.open(&room.url());
    browser.wait_for(&format!("{ROWS} === 3"));
    room.boot(4);
    browser.wait_for(&format!("{ROWS} === 4"));
    drop(room.stop.take());
    browser.wait_for("!document.getElementById('lost').hidden");
}

#[test]
fn page_connects_again_after_it_was_refused() {
    needs!(browser::NEEDS, ["xorriso"]);
    let (room, browser) = (Room::new(3), Browser::start());
    let others: Vec<_> = (0..16).map(|_| watch(room.address)).collect();
    browser.open(&room.url());
    browser.wait_for("document.getElementById('lost').textContent.includes('too many pages')");
    assert_eq!(browser.run(&format!("return {ROWS}")), 0);
    drop(others);
    browser.wait_for(&format!("{ROWS} === 3 && document.getElementById('lost').hidden"));
}

/// Watches the status as a page does.
fn watch(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[test]
fn page_shows_images_that_are_not_offered() {
    needs!(browser::NEEDS, ["xorriso"]);
    let (room, browser) = (Room::new(1), Browser::start());
    browser.open(&room.url());
    browser.wait_for("document.body.dataset.ready");
    let shown = browser.run(
        "const verifications = [
           { image: 'bad', state: 'failed', size: 9, read: 9, error: 'wrong checksum' },
           { image: 'next', state: 'waiting', size: 9, read: 0, error: null },
           { image: 'now', state: 'verifying', size: 10, read: 4, error: null },
           { image: 'archlinux', state: 'failed', size: 9, read: 9, error: 'too short' },
         ];
         take(JSON.stringify({ ...report, verifications }));
         const rows = [...document.querySelectorAll('#images tr')].map(row => row.cells[0].textContent + ': ' +
           row.cells[2].textContent);
         return [...rows, document.getElementById('notices').textContent];",
    );
    let expected = [
        "archlinux: the file there now: not offered: too short",
        "bad: not offered: wrong checksum",
        "next: waiting for its verification",
        "now: being verified: 40 %",
        "bad: not offered: wrong checksumarchlinux: the file there now: not offered: too short",
    ];
    assert_eq!(shown, serde_json::json!(expected));
}

#[test]
fn page_shows_markup_as_text() {
    needs!(browser::NEEDS, ["xorriso"]);
    let name = "<img src=x onerror=document.title='run'>";
    let (room, browser) = (Room::with_image(name, 4), Browser::start());
    browser.open(&room.url());
    // In the row of the machine on its root, and in the list of images.
    browser.wait_for(&format!("document.querySelector('#machines').innerText.includes(\"{name}\")"));
    browser.wait_for(&format!("document.querySelector('#images').innerText.includes(\"{name}\")"));
    assert_eq!(browser.run("return document.querySelectorAll('main img').length"), 0);
}
