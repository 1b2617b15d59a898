//! Asks a server for its status: over the socket of this host, or over HTTP.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::machines::local;

/// Time for the whole answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer, in bytes: several times that of a server that knows as many machines as it can.
const ANSWER_MAX: usize = 32 << 20;

/// Most header fields of an answer, which may have passed a proxy.
const FIELDS_MAX: usize = 64;

/// Where a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The first of these sockets that there is a server at; never empty.
    Local(Vec<PathBuf>),
    Http {
        /// `host:port`
        authority: String,
        /// With its `/`.
        path: String,
    },
}

/// The operator's text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nowhere to ask: give the server's `--status` as http://ADDR:PORT/, or the path of its socket"
)]
pub struct UnfitPlace(String);

impl Place {
    /// The server of this user, or that of this host.
    pub fn of_this_host(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        Self::Local(local::client_paths(variable))
    }
}

/// Reads `http://HOST[:PORT][/PATH]`, `HOST:PORT`, and a path with a `/` at its start or `./`.
impl FromStr for Place {
    type Err = UnfitPlace;

    fn from_str(text: &str) -> Result<Self, UnfitPlace> {
        if text.starts_with('/') || text.starts_with("./") {
            return Ok(Self::Local(vec![text.into()]));
        }
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        let (address, has_scheme) = match text.strip_prefix("http://") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()),
            None => (authority, has_scheme.then_some(80)),
        };
        let port: Option<u16> = port;
        match port.filter(|_| is_plain && !host.is_empty() && !host.contains(['@', '?', '#'])) {
            Some(port) => {
                let path = if path.is_empty() { "/" } else { path };
                Ok(Self::Http { authority: format!("{host}:{port}"), path: path.to_owned() })
            }
            None => Err(UnfitPlace(text.escape_debug().to_string())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&paths.join(" or "))
            }
            Self::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "no isowire answers at {place} ({error}): start `isowire serve`, or give the address of its `--status`"
    )]
    NoServer { place: Place, error: io::Error },
    #[error("the answer of {place} did not come to its end: {error}")]
    BrokenOff { place: Place, error: io::Error },
    #[error("what answers is not the status of an isowire: {0}")]
    NotAStatus(String),
}

impl Failure {
    pub(super) fn not_a_status(why: impl fmt::Display) -> Self {
        Self::NotAStatus(why.to_string())
    }
}

/// The JSON that the server at `place` answers with.
///
/// # Errors
/// [`Failure`] is one line for the operator.
pub(super) fn fetch(place: &Place) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + DEADLINE;
    let stream = connect(place).map_err(|error| Failure::NoServer { place: place.clone(), error })?;
    let answer = ask(stream, place, deadline);
    content(&answer.map_err(|error| Failure::BrokenOff { place: place.clone(), error })?)
}

/// What both kinds of sockets can do.
trait Stream: Read + Write {
    fn set_time_out(&self, time: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn set_time_out(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl Stream for TcpStream {
    fn set_time_out(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// Connects to the first address that takes us; else the error is that of the first, which is the likeliest.
fn connect(place: &Place) -> io::Result<Box<dyn Stream>> {
    match place {
        Place::Local(paths) => {
            first(paths, |path| UnixStream::connect(path)).map(|stream| Box::new(stream) as _)
        }
        Place::Http { authority, .. } => {
            let addresses: Vec<_> = authority.to_socket_addrs()?.collect();
            let connect = |address: &_| TcpStream::connect_timeout(address, DEADLINE);
            first(&addresses, connect).map(|stream| Box::new(stream) as _)
        }
    }
}

fn first<P, S>(places: &[P], connect: impl Fn(&P) -> io::Result<S>) -> io::Result<S> {
    let mut failed = None;
    for place in places {
        match connect(place) {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// One request, and all that comes until the server closes. HTTP/1.0 has no chunked content (RFC 9112 §6.1), so what
/// follows the head is the content.
fn ask(mut stream: Box<dyn Stream>, place: &Place, deadline: Instant) -> io::Result<Vec<u8>> {
    let (host, path) = match place {
        Place::Local(_) => ("localhost", "/"),
        Place::Http { authority, path } => (authority.as_str(), path.as_str()),
    };
    stream.set_time_out(DEADLINE)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_time_out(left)?;
        let n = match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        answer.extend_from_slice(piece.get(..n).unwrap_or_default());
        if answer.len() > ANSWER_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// The content of an answer that is a success.
fn content(answer: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(answer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Err(Failure::not_a_status("it ends early")),
        Err(error) => return Err(Failure::not_a_status(format!("this is no HTTP: {error}"))),
    };
    match response.code {
        Some(200) => {}
        code => return Err(Failure::not_a_status(format!("HTTP status {}", code.unwrap_or_default()))),
    }
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("Content-Length"));
    let length: Option<usize> =
        length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok());
    let content = answer.get(len..).unwrap_or_default();
    match length {
        Some(length) if content.len() != length => Err(Failure::not_a_status("it ends early")),
        _ => Ok(content.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(authority: &str, path: &str) -> Result<Place, UnfitPlace> {
        Ok(Place::Http { authority: authority.into(), path: path.into() })
    }

    #[test]
    fn places() {
        assert_eq!("http://10.0.0.1:8081/".parse(), http("10.0.0.1:8081", "/"));
        assert_eq!("http://boot.example".parse(), http("boot.example:80", "/"));
        assert_eq!("http://boot.example/isowire/".parse(), http("boot.example:80", "/isowire/"));
        assert_eq!("http://[::1]:8081/".parse(), http("[::1]:8081", "/"));
        assert_eq!("http://[::1]/".parse(), http("[::1]:80", "/"));
        assert_eq!("127.0.0.1:8081".parse(), http("127.0.0.1:8081", "/"));
        for path in ["/run/isowire/status.sock", "./status.sock"] {
            assert_eq!(path.parse(), Ok(Place::Local(vec![path.into()])));
        }
        for unfit in [
            "",
            "boot.example",
            "https://boot.example/",
            "http://",
            "http://:80/",
            "http://a:b/",
            "http://a:70000/",
            "http://me@boot.example/",
            "http://a:80/ HTTP/1.1\r\nX: y",
            "http://a:80/\n",
        ] {
            let place = unfit.parse::<Place>();
            assert!(place.is_err(), "{unfit:?} {place:?}");
        }
    }

    #[test]
    fn contents() {
        let of = |answer: &str| content(answer.as_bytes()).map_err(|failure| failure.to_string());
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Ok(b"{}".to_vec()));
        assert_eq!(of("HTTP/1.0 200 OK\r\n\r\n{}"), Ok(b"{}".to_vec()));
        for bad in [
            "",
            "{}",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
