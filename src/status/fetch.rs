//! Fetches the status of a server over a local socket or over HTTP.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::machines::local::{self, LOCAL_PAGE};

/// Time limit for the whole response.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest response, in bytes: several times that of a server with a full machine table.
const ANSWER_MAX: usize = 32 << 20;

/// Most header fields of a response; a proxy may add some.
const FIELDS_MAX: usize = 64;

/// Address of a status server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusAddress {
    /// Local sockets and addresses of this host, tried in order; not both are empty.
    Local { sockets: Vec<PathBuf>, page: Option<SocketAddrV4> },
    Http {
        /// `host:port`
        authority: String,
        /// With its `/`.
        path: String,
    },
}

/// An invalid address of a status server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid status address `{0}`: give the server's `--status` as http://ADDR:PORT/, or the path of its socket"
)]
pub struct StatusAddressError(String);

impl StatusAddress {
    /// Returns the sockets of this user's server and of the system's, and the address for others.
    pub(crate) fn of_this_host(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        Self::Local { sockets: local::client_paths(variable), page: Some(LOCAL_PAGE) }
    }
}

/// Parses `http://HOST[:PORT][/PATH]`, `HOST:PORT`, and a path that starts with `/` or `./`.
impl FromStr for StatusAddress {
    type Err = StatusAddressError;

    fn from_str(text: &str) -> Result<Self, StatusAddressError> {
        if text.starts_with('/') || text.starts_with("./") {
            return Ok(Self::Local { sockets: vec![text.into()], page: None });
        }
        // A space or a line break would end the request line early (RFC 9112 §3).
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        let (address, has_scheme) = match text.strip_prefix("http://") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        // RFC 3986 §3.2.2: an IPv6 address in brackets contains colons itself.
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()),
            // RFC 9110 §4.2.1: the default port of `http` is 80.
            None => (authority, has_scheme.then_some(80)),
        };
        let port: Option<u16> = port;
        // Credentials, queries and fragments are not supported; `@` could hide the real host.
        match port.filter(|_| is_plain && !host.is_empty() && !host.contains(['@', '?', '#'])) {
            Some(port) => {
                let path = if path.is_empty() { "/" } else { path };
                Ok(Self::Http { authority: format!("{host}:{port}"), path: path.to_owned() })
            }
            None => Err(StatusAddressError(text.escape_debug().to_string())),
        }
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { sockets, page } => {
                let sockets = sockets.iter().map(|path| path.display().to_string());
                let page = page.map(|address| format!("http://{address}/"));
                f.write_str(&sockets.chain(page).collect::<Vec<_>>().join(" or "))
            }
            Self::Http { authority, path } => write!(f, "http://{authority}{path}"),
        }
    }
}

/// A failure to fetch the status.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "no isowire server at {place}: {error}; start `isowire serve`, or give the address of its `--status`"
    )]
    NoServer { place: StatusAddress, error: io::Error },
    #[error("response of {place} ended early: {error}")]
    BrokenOff { place: StatusAddress, error: io::Error },
    #[error("response is not the status of isowire: {0}")]
    NotAStatus(String),
}

impl FetchError {
    pub(super) fn not_a_status(why: impl fmt::Display) -> Self {
        Self::NotAStatus(why.to_string())
    }
}

/// Fetches the JSON from the server at `place`.
///
/// # Errors
/// [`FetchError`], in one line for the operator.
pub(super) fn fetch(place: &StatusAddress) -> Result<Vec<u8>, FetchError> {
    fetch_below(place, "")
}

/// Fetches what is at a path below the status.
///
/// # Errors
/// [`FetchError`]
pub(super) fn fetch_below(place: &StatusAddress, below: &str) -> Result<Vec<u8>, FetchError> {
    let deadline = Instant::now() + DEADLINE;
    let stream = connect(place).map_err(|error| FetchError::NoServer { place: place.clone(), error })?;
    let answer = request(stream, place, below, deadline);
    content(&answer.map_err(|error| FetchError::BrokenOff { place: place.clone(), error })?)
}

/// A stream socket with a time limit.
trait TimedStream: Read + Write {
    fn set_time_out(&self, time: Duration) -> io::Result<()>;
}

impl TimedStream for UnixStream {
    fn set_time_out(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

impl TimedStream for TcpStream {
    fn set_time_out(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and_then(|()| self.set_write_timeout(Some(time)))
    }
}

/// Connects to the first address that accepts, or returns the error of the first.
fn connect(place: &StatusAddress) -> io::Result<Box<dyn TimedStream>> {
    match place {
        StatusAddress::Local { sockets, page } => {
            let stream = first(sockets, |path| UnixStream::connect(path));
            let stream = stream.map(|stream| Box::new(stream) as _);
            stream.or_else(|error| match page.map(TcpStream::connect) {
                Some(Ok(stream)) => Ok(Box::new(stream) as _),
                // The sockets come first, so their error explains more.
                _ => Err(error),
            })
        }
        StatusAddress::Http { authority, .. } => {
            let addresses: Vec<_> = authority.to_socket_addrs()?.collect();
            first(&addresses, |address| TcpStream::connect_timeout(address, DEADLINE))
                .map(|stream| Box::new(stream) as _)
        }
    }
}

/// Returns the first success, or the first error.
fn first<P, S>(places: &[P], connect: impl Fn(&P) -> io::Result<S>) -> io::Result<S> {
    let mut failed = None;
    for place in places {
        match connect(place) {
            Ok(stream) => return Ok(stream),
            // The first place is the likeliest, so its error explains most.
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// Sends a request and reads until the server closes.
fn request(
    mut stream: Box<dyn TimedStream>,
    place: &StatusAddress,
    below: &str,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let (host, path) = match place {
        StatusAddress::Local { .. } => ("localhost", "/"),
        StatusAddress::Http { authority, path } => (authority.as_str(), path.as_str()),
    };
    let path = match below {
        "" => path.to_owned(),
        below => format!("{}/{below}", path.trim_end_matches('/')),
    };
    stream.set_time_out(DEADLINE)?;
    // HTTP/1.0 has no chunked content (RFC 9112 §6.1), so the content follows the head as it is.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        // A server that sends a byte now and then must not hold us beyond the deadline.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_time_out(left)?;
        let n = match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(n) => n,
            // signal(7): a stopped and continued process may get EINTR.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // socket(7): SO_RCVTIMEO ends a read with EAGAIN.
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

/// Returns the content of a successful response.
fn content(answer: &[u8]) -> Result<Vec<u8>, FetchError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(answer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Err(FetchError::not_a_status("it is truncated")),
        Err(error) => return Err(FetchError::not_a_status(format!("not HTTP: {error}"))),
    };
    match response.code {
        Some(200) => {}
        code => return Err(FetchError::not_a_status(format!("HTTP status {}", code.unwrap_or_default()))),
    }
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("Content-Length"));
    let length: Option<usize> =
        length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok());
    let content = answer.get(len..).unwrap_or_default();
    // RFC 9112 §6.3: without Content-Length, the content of HTTP/1.0 ends with the connection.
    match length {
        Some(length) if content.len() != length => Err(FetchError::not_a_status("it is truncated")),
        _ => Ok(content.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(authority: &str, path: &str) -> Result<StatusAddress, StatusAddressError> {
        Ok(StatusAddress::Http { authority: authority.into(), path: path.into() })
    }

    #[test]
    fn address_is_parsed() {
        assert_eq!("http://10.0.0.1:8081/".parse(), http("10.0.0.1:8081", "/"));
        assert_eq!("http://boot.example".parse(), http("boot.example:80", "/"));
        assert_eq!("http://boot.example/isowire/".parse(), http("boot.example:80", "/isowire/"));
        assert_eq!("http://[::1]:8081/".parse(), http("[::1]:8081", "/"));
        assert_eq!("http://[::1]/".parse(), http("[::1]:80", "/"));
        assert_eq!("127.0.0.1:8081".parse(), http("127.0.0.1:8081", "/"));
        for path in ["/run/isowire/status.sock", "./status.sock"] {
            assert_eq!(path.parse(), Ok(StatusAddress::Local { sockets: vec![path.into()], page: None }));
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
            let place = unfit.parse::<StatusAddress>();
            assert!(place.is_err(), "{unfit:?} {place:?}");
        }
    }

    #[test]
    fn content_needs_a_success() {
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
