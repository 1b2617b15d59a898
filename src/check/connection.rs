//! TCP connection of a client, with a time limit on every wait.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::original::{Expected, VerifyError};

/// Most bytes of payload in memory; a root image has gigabytes.
const CHUNK: u64 = 128 << 10;

/// Client connection. Every wait has the same limit, so that a stuck server gets a verdict.
pub(super) struct ClientConnection {
    socket: TcpStream,
    patience: Duration,
}

impl ClientConnection {
    /// Connects to a server.
    ///
    /// # Errors
    /// [`VerifyError`] when the server does not accept.
    pub(super) async fn open(address: SocketAddr, patience: Duration) -> Result<Self, VerifyError> {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => Ok(Self { socket, patience }),
            Ok(Err(error)) => Err(VerifyError::Unreachable { address, error }),
            Err(_) => Err(VerifyError::Stuck(patience)),
        }
    }

    /// Sends `bytes`.
    ///
    /// # Errors
    /// [`VerifyError`] when the server does not take them.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        within(self.patience, self.socket.write_all(bytes)).await
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`VerifyError`] when the server is stuck or the connection ends early.
    pub(super) async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), VerifyError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // The limit is for a silence, so each part that arrives restarts it.
            match within(self.patience, self.socket.read(rest)).await? {
                // read(2): 0 bytes mean that the server closed the connection.
                0 => return Err(VerifyError::Broken(io::ErrorKind::UnexpectedEof.into())),
                n => rest = rest.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Reads the next `N` bytes.
    ///
    /// # Errors
    /// As [`ClientConnection::fill`].
    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], VerifyError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads the next `len` bytes; the caller bounds the length.
    ///
    /// # Errors
    /// As [`ClientConnection::fill`].
    pub(super) async fn bytes(&mut self, len: usize) -> Result<Vec<u8>, VerifyError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Appends available bytes to `input` and returns their number; 0 at the end.
    ///
    /// # Errors
    /// [`VerifyError`] when the server is stuck or the connection breaks.
    pub(super) async fn more(&mut self, input: &mut BytesMut) -> Result<usize, VerifyError> {
        within(self.patience, self.socket.read_buf(input)).await
    }

    /// Compares the next `len` bytes with the expected content as they arrive.
    ///
    /// # Errors
    /// [`VerifyError`] of the connection or of the comparison.
    pub(super) async fn payload(&mut self, len: u64, expected: &mut Expected<'_>) -> Result<(), VerifyError> {
        let mut buffer = vec![0; len.min(CHUNK) as usize];
        let mut left = len;
        while left > 0 {
            let chunk = buffer.get_mut(..left.min(CHUNK) as usize).unwrap_or_default();
            // A difference ends the check at once, before the rest is transferred.
            self.fill(chunk).await?;
            expected.take(chunk)?;
            left -= chunk.len() as u64;
        }
        Ok(())
    }
}

/// Waits for `step`, at most `patience`.
async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, VerifyError> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(VerifyError::Broken),
        Err(_) => Err(VerifyError::Stuck(patience)),
    }
}
