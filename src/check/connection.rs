//! A TCP connection of a client that waits, but not for ever.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::original::{Expected, Fault};

/// Payload that is held at a time.
const CHUNK: u64 = 128 << 10;

/// Every wait for the server has the same limit, so that a stuck door is a verdict and no silence.
pub struct Connection {
    socket: TcpStream,
    patience: Duration,
}

impl Connection {
    /// # Errors
    /// [`Fault`] when nobody answers.
    pub async fn open(address: SocketAddr, patience: Duration) -> Result<Self, Fault> {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => Ok(Self { socket, patience }),
            Ok(Err(error)) => Err(Fault::Unreachable { address, error }),
            Err(_) => Err(Fault::Stuck(patience)),
        }
    }

    /// # Errors
    /// [`Fault`] when the server does not take it.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        within(self.patience, self.socket.write_all(bytes)).await
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`Fault`] when the server is stuck or the connection ends before.
    pub async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Each part that comes buys time for the next one.
            match within(self.patience, self.socket.read(rest)).await? {
                0 => return Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into())),
                n => rest = rest.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// As [`Connection::fill`].
    pub async fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// The next `len` bytes; the caller has bounded the length.
    ///
    /// # Errors
    /// As [`Connection::fill`].
    pub async fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Appends what comes next to `input` and returns how much; 0 at the end.
    ///
    /// # Errors
    /// [`Fault`] when the server is stuck or the connection breaks.
    pub async fn more(&mut self, input: &mut BytesMut) -> Result<usize, Fault> {
        within(self.patience, self.socket.read_buf(input)).await
    }

    /// Compares the next `len` bytes with what is expected, as they come.
    ///
    /// # Errors
    /// [`Fault`] of the connection or of the comparison.
    pub async fn payload(&mut self, len: u64, expected: &mut Expected<'_>) -> Result<(), Fault> {
        let mut buffer = vec![0; len.min(CHUNK) as usize];
        let mut left = len;
        while left > 0 {
            let chunk = buffer.get_mut(..left.min(CHUNK) as usize).unwrap_or_default();
            self.fill(chunk).await?;
            expected.take(chunk)?;
            left -= chunk.len() as u64;
        }
        Ok(())
    }
}

/// Waits for `step`, but not longer than `patience`.
async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(Fault::Broken),
        Err(_) => Err(Fault::Stuck(patience)),
    }
}
