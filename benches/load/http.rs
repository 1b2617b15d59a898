//! The HTTP client: GETs of a whole file, one after the other on each connection. The pass that
//! verifies asks for ranges.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use super::engine::{ClientProtocol, Connection, LoadError, Pass, Pending, Reply};
use super::nbd::TIMEOUT;
use super::random::Random;

/// Longest head of a response, in bytes.
const HEAD_MAX: usize = 4 << 10;

/// Length of a range in the pass that verifies.
const RANGE: u64 = 1 << 20;

pub struct Http {
    path: String,
    file: Arc<File>,
    size: u64,
    pass: Pass,
    random: Random,
}

impl ClientProtocol for Http {
    fn ask(&mut self, _: usize, out: &mut Vec<u8>) -> Pending {
        let (offset, len) = match self.pass {
            Pass::Timed => (0, self.size),
            Pass::Verified => (self.random.below(self.size.saturating_sub(RANGE) + 1), RANGE.min(self.size)),
        };
        let range = match self.pass {
            Pass::Timed => String::new(),
            Pass::Verified => format!("Range: bytes={offset}-{}\r\n", offset + len - 1),
        };
        out.extend_from_slice(format!("GET {} HTTP/1.1\r\nHost: bench\r\n{range}\r\n", self.path).as_bytes());
        Pending { offset, len: len as usize, since: Instant::now() }
    }

    fn reply(&self, bytes: &[u8]) -> Result<Option<Reply>, LoadError> {
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if bytes.len() < HEAD_MAX { Ok(None) } else { Err("a head without end".into()) };
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 20") {
            return Err(text.into());
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let body = length.ok_or("no length")?.trim().parse()?;
        Ok(Some(Reply { head: head + 4, slot: 0, body }))
    }

    fn is_right(&self, asked: &Pending, _: &[u8], body: &[u8]) -> bool {
        let mut expected = vec![0; asked.len];
        self.file.read_exact_at(&mut expected, asked.offset).is_ok() && body == expected
    }

    fn payload(&self) -> usize {
        self.size as usize
    }
}

/// Connects the clients of a load.
pub fn connections(
    server: SocketAddr,
    path: &str,
    file: &Arc<File>,
    count: usize,
    pass: Pass,
) -> Result<Vec<Connection<Http>>, LoadError> {
    let size = file.metadata()?.len();
    let connect = |i| {
        let socket = TcpStream::connect_timeout(&server, TIMEOUT)?;
        let random = Random::new(i as u64);
        Ok(Connection::new(socket, Http { path: path.into(), file: Arc::clone(file), size, pass, random })?)
    };
    (0..count).map(connect).collect()
}
