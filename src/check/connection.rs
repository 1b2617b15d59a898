//! A TCP connection of a client with a time limit on every wait.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::original::{Expected, Fault};

/// Payload held at a time.
const CHUNK: u64 = 128 << 10;

/// A client connection. Every wait has the same limit, so that a stuck server gets a verdict.
pub(super) struct ClientConnection {
    socket: TcpStream,
    patience: Duration,
}

impl ClientConnection {
    /// Connects to a server.
    ///
    /// # Errors
    /// [`Fault`] when the server does not accept.
    pub(super) async fn open(address: SocketAddr, patience: Duration) -> Result<Self, Fault> {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => Ok(Self { socket, patience }),
            Ok(Err(error)) => Err(Fault::Unreachable { address, error }),
            Err(_) => Err(Fault::Stuck(patience)),
        }
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    /// [`Fault`] when the server does not take them.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        within(self.patience, self.socket.write_all(bytes)).await
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`Fault`] when the server is stuck or the connection ends early.
    pub(super) async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // The limit is for a silence, so each part that arrives restarts it.
            match within(self.patience, self.socket.read(rest)).await? {
                0 => return Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into())),
                n => rest = rest.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Reads the next `N` bytes.
    ///
    /// # Errors
    /// As [`ClientConnection::fill`].
    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads the next `len` bytes; the caller bounds the length.
    ///
    /// # Errors
    /// As [`ClientConnection::fill`].
    pub(super) async fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Appends available bytes to `input` and returns their number; 0 at the end.
    ///
    /// # Errors
    /// [`Fault`] when the server is stuck or the connection breaks.
    pub(super) async fn more(&mut self, input: &mut BytesMut) -> Result<usize, Fault> {
        within(self.patience, self.socket.read_buf(input)).await
    }

    /// Compares the next `len` bytes with the expected content as they arrive.
    ///
    /// # Errors
    /// [`Fault`] of the connection or of the comparison.
    pub(super) async fn payload(&mut self, len: u64, expected: &mut Expected<'_>) -> Result<(), Fault> {
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

/// Waits for `step`, at most `patience`.
async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(Fault::Broken),
        Err(_) => Err(Fault::Stuck(patience)),
    }
}
