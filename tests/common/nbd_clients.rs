//! NBD clients that read and verify, for tests in which they must notice nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes of a read of the clients.
pub const READ: usize = 64 << 10;

/// Reads that a client has under way.
const DEPTH: u64 = 4;

/// Time in which the replies to the last reads come.
const LAST_REPLIES: Duration = Duration::from_secs(60);

/// Habit of a client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Habit {
    /// It reads replies as they come.
    Steady,
    /// It stops reading in the middle of a reply, again and again.
    Stalling,
    /// It stays in the handshake until it is told to go on.
    Hesitant,
    /// It has one read under way, and asks for the next at once.
    Watching,
}

/// Clients that read and verify, each with [`DEPTH`] reads under way, until they are told to stop.
pub struct Clients {
    runtime: Runtime,
    tasks: Vec<JoinHandle<()>>,
    watchers: Vec<thread::JoinHandle<()>>,
    is_stopping: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    longest_waits: Arc<LongestWaits>,
    pub go_on: watch::Sender<()>,
}

impl Clients {
    pub fn new() -> Self {
        let runtime = single_threaded();
        let (go_on, _) = watch::channel(());
        let (tasks, watchers, is_stopping, replies, longest_waits) = Default::default();
        Self { runtime, tasks, watchers, is_stopping, replies, longest_waits, go_on }
    }

    pub fn connect(&mut self, count: u64, habit: Habit, server: SocketAddr, image: &Arc<Vec<u8>>) {
        for _ in 0..count {
            let client = self.client(habit, server, image);
            self.tasks.push(self.runtime.spawn(client.run()));
        }
    }

    /// Connects a client of a thread of its own, which sees each pause as it is: the others have replies
    /// on their way, and wait for each other.
    pub fn watch(&mut self, server: SocketAddr, image: &Arc<Vec<u8>>) {
        let client = self.client(Habit::Watching, server, image);
        self.watchers.push(thread::spawn(move || single_threaded().block_on(client.run())));
    }

    fn client(&self, habit: Habit, server: SocketAddr, image: &Arc<Vec<u8>>) -> Client {
        Client {
            server,
            image: Arc::clone(image),
            seed: self.tasks.len() as u64,
            habit,
            is_stopping: Arc::clone(&self.is_stopping),
            replies: Arc::clone(&self.replies),
            longest_waits: Arc::clone(&self.longest_waits),
            go_on: self.go_on.subscribe(),
        }
    }

    /// Lets the clients run for some time.
    pub fn run(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Returns the result of `work`, during which the clients run.
    pub fn run_beside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let working = scope.spawn(work);
            while !working.is_finished() {
                self.run(Duration::from_millis(10));
            }
            working.join().expect("the test ends with it")
        })
    }

    /// Number of right replies that the clients got.
    pub fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// Returns the longest waits for a reply since the last call.
    pub fn take_longest_waits(&self) -> Waits {
        let of = |wait: &AtomicU64| wait.swap(0, Ordering::Relaxed) / 1000;
        Waits { steady: of(&self.longest_waits.steady), watching: of(&self.longest_waits.watching) }
    }

    /// Waits until all clients have the replies to all of their reads.
    pub fn finish(self) -> u64 {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.go_on.send_replace(());
        let tasks = async {
            for task in self.tasks {
                task.await.expect("no error and no wrong byte");
            }
        };
        let all = self.runtime.block_on(async { tokio::time::timeout(LAST_REPLIES, tasks).await });
        all.expect("a reply does not come");
        for watcher in self.watchers {
            watcher.join().expect("no error and no wrong byte");
        }
        self.replies.load(Ordering::Relaxed)
    }
}

/// Longest waits of a time, in milliseconds: of steady clients, and of one that watches.
#[derive(Clone, Copy)]
pub struct Waits {
    steady: u64,
    watching: u64,
}

/// The same as they grow, in microseconds.
#[derive(Default)]
struct LongestWaits {
    steady: AtomicU64,
    watching: AtomicU64,
}

/// Prints the waits of a time without disturbances, and those of each disturbance. They are seen with
/// --nocapture; a busy host makes them longer.
pub fn print_waits(undisturbed: Waits, waits: &[Waits]) {
    let print = |who: &str, wait: fn(&Waits) -> u64| {
        let mut all: Vec<_> = waits.iter().map(wait).collect();
        all.sort_unstable();
        let (undisturbed, median, longest) = (wait(&undisturbed), all[all.len() / 2], all[all.len() - 1]);
        println!(
            "longest wait of {who}: {undisturbed} ms undisturbed, {median} ms as a rule, {longest} ms in all"
        );
    };
    print("clients with reads under way", |waits| waits.steady);
    print("a client with one read at a time", |waits| waits.watching);
}

fn single_threaded() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

struct Client {
    server: SocketAddr,
    image: Arc<Vec<u8>>,
    seed: u64,
    habit: Habit,
    is_stopping: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    longest_waits: Arc<LongestWaits>,
    go_on: watch::Receiver<()>,
}

impl Client {
    async fn run(mut self) {
        let mut socket = TcpStream::connect(self.server).await.unwrap();
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        if self.habit == Habit::Hesitant {
            // In the middle of the client flags.
            socket.write_all(b"\0\0").await.unwrap();
            self.go_on.changed().await.unwrap();
            socket.write_all(b"\0\x03").await.unwrap();
        } else {
            socket.write_all(b"\0\0\0\x03").await.unwrap();
        }
        socket.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x07archiso").await.unwrap();
        let mut export = [0; 10];
        socket.read_exact(&mut export).await.unwrap();
        assert_eq!(export[..8], (self.image.len() as u64).to_be_bytes());
        self.transmit(&mut socket).await;
    }

    async fn transmit(&mut self, socket: &mut TcpStream) {
        let (mut asked, mut answered) = (0, 0);
        let depth = if self.habit == Habit::Watching { 1 } else { DEPTH };
        while !self.is_stopping.load(Ordering::Relaxed) || answered < asked {
            while asked < answered + depth && !self.is_stopping.load(Ordering::Relaxed) {
                socket.write_all(&request(asked, self.offset(asked))).await.unwrap();
                asked += 1;
            }
            if answered < asked {
                self.read_reply(socket).await;
                answered += 1;
            }
        }
    }

    /// The place of a read follows from its cookie.
    fn offset(&self, cookie: u64) -> usize {
        let blocks = (self.image.len() - READ) / 512;
        let mixed = (cookie + self.seed * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        mixed as usize % blocks * 512
    }

    async fn read_reply(&mut self, socket: &mut TcpStream) {
        let mut head = [0; 16];
        let began = Instant::now();
        socket.read_exact(&mut head).await.unwrap();
        let longest = match self.habit {
            Habit::Steady => Some(&self.longest_waits.steady),
            Habit::Watching => Some(&self.longest_waits.watching),
            Habit::Stalling | Habit::Hesitant => None,
        };
        longest.map(|longest| longest.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed));
        assert_eq!(head[..8], *b"\x67\x44\x66\x98\0\0\0\0");
        let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
        let mut data = vec![0; READ];
        let (first, rest) = data.split_at_mut(READ / 3);
        socket.read_exact(first).await.unwrap();
        if self.habit == Habit::Stalling && cookie % 7 == self.seed % 7 {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        socket.read_exact(rest).await.unwrap();
        let offset = self.offset(cookie);
        assert!(data == self.image[offset..offset + READ], "wrong bytes at {offset}");
        self.replies.fetch_add(1, Ordering::Relaxed);
        // A machine does not read all the time, and two hundred would take all of this host.
        if self.habit != Habit::Watching {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn request(cookie: u64, offset: usize) -> Vec<u8> {
    let head = [0x2560_9513u32.to_be_bytes(), [0; 4]].concat();
    let offset = (offset as u64).to_be_bytes();
    [&head[..], &cookie.to_be_bytes(), &offset, &(READ as u32).to_be_bytes()].concat()
}
