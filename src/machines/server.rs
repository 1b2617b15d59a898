//! The status server: answers `GET /` over HTTP on a Unix socket, and on a TCP port if configured.
//!
//! It reports the machines, takes no commands, and each request costs a bounded amount. A complete
//! HTTP server would be a dependency and a large attack surface for one resource.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::local::{LocalSocket, Name};
use super::rate::SAMPLE_EVERY;
use super::{Registry, neighbours};
use crate::export::Allowed;

/// Clients served at a time per socket; others wait to be accepted.
const CLIENTS_MAX: usize = 32;

/// Time limit for a request. A slower client is dropped, as others may wait for its slot.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// Time limit for the client to read the response.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 8 << 10;

/// Most header fields of a request. Browsers send about fifteen.
const FIELDS_MAX: usize = 64;

/// Pause after a failed accept: a lack of file descriptors lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that the status server listens on.
#[derive(Debug)]
pub enum StatusSocket {
    Local(LocalSocket),
    /// Accepts only allowed addresses.
    Tcp(StdTcpListener, Allowed),
}

/// Serves the status on these sockets until `shutdown` completes.
///
/// # Errors
/// The error of the system from socket set-up. No client can end the server.
pub async fn run(
    sockets: Vec<StatusSocket>,
    registry: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut listeners = JoinSet::new();
    for socket in sockets {
        listeners.spawn(accept(StatusListener::new(socket)?, Arc::clone(&registry)));
    }
    tokio::select! {
        () = shutdown => {}
        () = sample(&registry) => {}
    }
    Ok(())
}

/// Takes the samples that rates follow from, without end.
async fn sample(registry: &Registry) {
    let mut clock = tokio::time::interval(SAMPLE_EVERY);
    loop {
        clock.tick().await;
        registry.sample(Instant::now());
    }
}

#[derive(Debug)]
enum StatusListener {
    Local(UnixListener, #[expect(dead_code, reason = "the name goes when this is dropped")] Name),
    Tcp(TcpListener, Allowed),
}

trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

impl StatusListener {
    fn new(socket: StatusSocket) -> io::Result<Self> {
        Ok(match socket {
            StatusSocket::Local(LocalSocket { listener, name }) => {
                listener.set_nonblocking(true)?;
                Self::Local(UnixListener::from_std(listener)?, name)
            }
            StatusSocket::Tcp(listener, allowed) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?, allowed)
            }
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(match self {
            Self::Local(listener, _) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener, allowed) => Box::new(accept_allowed(listener, allowed).await?),
        })
    }
}

async fn accept_allowed(listener: &TcpListener, allowed: &Allowed) -> io::Result<TcpStream> {
    loop {
        let (socket, peer) = listener.accept().await?;
        if allowed.contains(peer.ip()) {
            return Ok(socket);
        }
        info!(%peer, "status client rejected: address is not in `allow`");
    }
}

async fn accept(listener: StatusListener, registry: Arc<Registry>) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut is_failing = false;
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                is_failing = false;
                let registry = Arc::clone(&registry);
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = serve(stream, &registry).await {
                        debug!(%error, "status connection failed");
                    }
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "status socket cannot accept clients");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Handles one request and closes the connection.
async fn serve(mut stream: Box<dyn ByteStream>, registry: &Registry) -> io::Result<()> {
    let mut head = BytesMut::new();
    let request = timeout(REQUEST_DEADLINE, read(&mut stream, &mut head)).await??;
    let answer = answer(request, || status(registry));
    timeout(RESPONSE_DEADLINE, send(stream, &answer, head)).await?
}

async fn read(
    stream: &mut Box<dyn ByteStream>,
    head: &mut BytesMut,
) -> io::Result<Result<StatusRequest, StatusRequestError>> {
    loop {
        if (&mut *stream).take((HEAD_MAX - head.len()) as u64).read_buf(head).await? == 0 {
            return Ok(Err(if head.len() < HEAD_MAX {
                StatusRequestError::BadRequest
            } else {
                StatusRequestError::LongHead
            }));
        }
        if let Some(request) = parse(head).transpose() {
            return Ok(request);
        }
    }
}

async fn send(mut stream: Box<dyn ByteStream>, answer: &[u8], mut rest: BytesMut) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // RFC 9112 §9.6: closing with unread input resets the connection and loses the response.
    loop {
        rest.clear();
        if stream.read_buf(&mut rest).await? == 0 {
            return Ok(());
        }
    }
}

/// Returns the current status as JSON.
fn status(registry: &Registry) -> Vec<u8> {
    let now = Instant::now();
    let strangers = registry.strangers();
    if !strangers.is_empty() {
        // The kernel answers from memory. Without its table, machines have only their IP addresses.
        let neighbours = neighbours::read().unwrap_or_default();
        for (address, mac) in neighbours.into_iter().filter(|(address, _)| strangers.contains(address)) {
            registry.met(mac, address, now);
        }
    }
    // serde_json fails only for maps without string keys, which a status does not have.
    serde_json::to_vec(&registry.status(now, Timestamp::now())).unwrap_or_default()
}

/// A valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusRequest {
    Status,
    /// The same without content: HEAD (RFC 9110 §9.3.2).
    StatusHead,
}

/// A request that is answered with an HTTP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatusRequestError {
    BadRequest,
    NotFound,
    NotAllowed,
    LongHead,
}

impl StatusRequestError {
    const fn line(self) -> &'static str {
        match self {
            StatusRequestError::BadRequest => "400 Bad Request",
            StatusRequestError::NotFound => "404 Not Found",
            // RFC 9110 §15.5.6: 405 requires Allow.
            StatusRequestError::NotAllowed => "405 Method Not Allowed\r\nAllow: GET, HEAD",
            StatusRequestError::LongHead => "431 Request Header Fields Too Large",
        }
    }
}

/// Parses the head of a request; `None` while it is incomplete.
fn parse(head: &[u8]) -> Result<Option<StatusRequest>, StatusRequestError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(StatusRequestError::LongHead),
        Err(_) => return Err(StatusRequestError::BadRequest),
    }
    // RFC 9110 §7.1: a query is part of the target; it has no meaning here.
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    match (request.method, path) {
        (Some("GET"), "/") => Ok(Some(StatusRequest::Status)),
        (Some("HEAD"), "/") => Ok(Some(StatusRequest::StatusHead)),
        (_, "/") => Err(StatusRequestError::NotAllowed),
        _ => Err(StatusRequestError::NotFound),
    }
}

fn answer(request: Result<StatusRequest, StatusRequestError>, status: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let (line, media_type, content) = match request {
        Ok(_) => ("200 OK", "application/json", status()),
        Err(refusal) => (refusal.line(), "text/plain", b"The status of isowire is at /\n".to_vec()),
    };
    let len = content.len();
    let mut answer = format!(
        "HTTP/1.1 {line}\r\nContent-Type: {media_type}\r\nContent-Length: {len}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    if request != Ok(StatusRequest::StatusHead) {
        answer.extend_from_slice(&content);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_parsed() {
        let of = |line: &str| parse(format!("{line} HTTP/1.1\r\nHost: here\r\n\r\n").as_bytes());
        assert_eq!(of("GET /"), Ok(Some(StatusRequest::Status)));
        assert_eq!(of("GET /?now"), Ok(Some(StatusRequest::Status)));
        assert_eq!(of("HEAD /"), Ok(Some(StatusRequest::StatusHead)));
        assert_eq!(of("POST /"), Err(StatusRequestError::NotAllowed));
        assert_eq!(of("GET /../etc/passwd"), Err(StatusRequestError::NotFound));
        assert_eq!(of("GET"), Err(StatusRequestError::BadRequest));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(StatusRequest::Status)));
        assert_eq!(parse(b"\x16\x03\x01\x02\0\x01"), Err(StatusRequestError::BadRequest), "TLS");
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        assert_eq!(
            parse(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()),
            Err(StatusRequestError::LongHead)
        );
    }

    #[test]
    fn request_may_come_in_pieces() {
        let request = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(parse(&request[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn response_matches_its_method() {
        let text = |request| String::from_utf8(answer(request, || b"{}".to_vec())).unwrap();
        let whole = text(Ok(StatusRequest::Status));
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.ends_with("\r\n\r\n{}"), "{whole}");
        assert_eq!(text(Ok(StatusRequest::StatusHead)) + "{}", whole);
        let refused = text(Err(StatusRequestError::NotAllowed));
        assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"), "{refused}");
    }
}
