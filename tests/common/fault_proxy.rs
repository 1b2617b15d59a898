//! A proxy between a client and a server, both over TCP, which fails as networks and servers do. It
//! knows of HTTP only where a request ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Interval at which threads look for another fault.
const POLL: Duration = Duration::from_millis(2);

const BUFFER: usize = 64 << 10;

/// What the proxy does with connections, old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nobody listens, and connections are closed.
    Refuse,
    /// Connections are reset.
    Reset,
    /// Requests reach the server, and answers do not come back until the fault is over.
    Stall,
    /// Each connection is closed after this number of bytes of answers.
    Cut(u64),
    /// Bytes of answers in a second, on each connection.
    Slow(u64),
    /// Each request is answered with status 503.
    Unavailable,
}

/// A running proxy.
pub struct FaultProxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    fault: Mutex<Fault>,
    is_ended: AtomicBool,
    /// Bytes of answers that were sent to clients.
    bytes: AtomicU64,
    /// Requests that came.
    requests: AtomicU64,
}

impl FaultProxy {
    /// Starts a proxy for a server on this host.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            is_ended: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accepting.accept(listener, server));
        Self { port, state }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sets what the proxy does from now on.
    pub fn set(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Returns the bytes of answers that clients got, with their heads.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.state.is_ended.store(true, Ordering::Relaxed);
    }
}

impl State {
    /// Returns the fault; `None` at the end of the proxy.
    fn fault(&self) -> Option<Fault> {
        (!self.is_ended.load(Ordering::Relaxed)).then(|| *self.fault.lock().unwrap())
    }

    fn accept(self: Arc<Self>, listener: TcpListener, server: u16) {
        let port = listener.local_addr().unwrap().port();
        let mut open = Some(listener);
        while let Some(fault) = self.fault() {
            if fault == Fault::Refuse {
                open = None;
                sleep(POLL);
                continue;
            }
            // Connections of before may keep the port for a moment.
            let Some(listener) = open.take().or_else(|| listen(port)) else {
                sleep(POLL);
                continue;
            };
            listener.set_nonblocking(true).unwrap();
            match listener.accept() {
                Ok((client, _)) => self.connect(client, server),
                Err(_) => sleep(POLL),
            }
            open = Some(listener);
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: u16) {
        // A server that is not there looks as if it refused the client.
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return reset(&client) };
        client.set_nonblocking(false).unwrap();
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(POLL)).unwrap();
        }
        let copies = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (asking, answering) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || drop(asking.ask(&copies.0, &copies.1)));
        thread::spawn(move || drop(answering.answer(&server, &client)));
    }

    /// Carries requests to the server.
    fn ask(&self, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while let Some(fault) = self.alive(client, server) {
            let Some(bytes) = read(client, &mut buffer)? else { continue };
            if bytes.is_empty() {
                return server.shutdown(Shutdown::Write);
            }
            let requests = bytes.windows(4).filter(|end| end == b"\r\n\r\n").count();
            self.requests.fetch_add(requests as u64, Ordering::Relaxed);
            match fault {
                Fault::Unavailable => {
                    let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
                    (0..requests).try_for_each(|_| (&*client).write_all(answer))?;
                }
                _ => (&*server).write_all(bytes)?,
            }
        }
        Ok(())
    }

    /// Carries answers to the client.
    fn answer(&self, server: &TcpStream, client: &TcpStream) -> io::Result<()> {
        let (mut buffer, mut sent) = (vec![0; BUFFER], 0);
        while let Some(fault) = self.alive(client, server) {
            let most = match fault {
                Fault::Stall => {
                    sleep(POLL);
                    continue;
                }
                Fault::Cut(most) if sent >= most => return close(client, server),
                Fault::Cut(most) => (most - sent).min(BUFFER as u64),
                // Twenty parts in a second.
                Fault::Slow(rate) => (rate / 20).clamp(1, BUFFER as u64),
                _ => BUFFER as u64,
            };
            let began = Instant::now();
            let Some(bytes) = read(server, &mut buffer[..most as usize])? else { continue };
            if bytes.is_empty() {
                return close(client, server);
            }
            (&*client).write_all(bytes)?;
            sent += bytes.len() as u64;
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if let Fault::Slow(_) = fault {
                sleep(Duration::from_millis(50).saturating_sub(began.elapsed()));
            }
        }
        Ok(())
    }

    /// Returns the fault, unless it has ended this connection.
    fn alive(&self, client: &TcpStream, server: &TcpStream) -> Option<Fault> {
        let fault = self.fault();
        match fault {
            Some(Fault::Reset) => {
                // Without a shutdown, which would send a FIN before.
                reset(client);
                let _ = server.shutdown(Shutdown::Both);
                None
            }
            None | Some(Fault::Refuse) => {
                let _ = close(client, server);
                None
            }
            fault => fault,
        }
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    // std sets SO_REUSEADDR.
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// Reads some bytes; `None` if none are there yet.
fn read<'a>(mut socket: &TcpStream, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    match socket.read(buffer) {
        Ok(len) => Ok(Some(&buffer[..len])),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has the end of a connection be a reset.
fn reset(client: &TcpStream) {
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

fn close(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let _ = server.shutdown(Shutdown::Both);
    client.shutdown(Shutdown::Both)
}
