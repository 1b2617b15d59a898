//! Reading requests from a stream socket.

use std::io;
use std::mem::MaybeUninit;

use bytes::BytesMut;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::export::Batch;

/// Bytes read from a socket at once: more requests than the kernel's NBD client keeps in flight (128 of 28 bytes).
const RECEIVE: usize = 4 << 10;

/// Reads more requests and returns how many bytes came, 0 at the end of the stream. Before it waits it frees the
/// buffers, so that an idle client costs next to nothing.
///
/// # Errors
/// What the socket says.
pub(super) async fn receive(
    socket: &TcpStream,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> io::Result<usize> {
    if let Some(n) = read_now(socket, input)? {
        return Ok(n);
    }
    batch.release();
    if input.is_empty() {
        *input = BytesMut::new();
    }
    listen(socket, input).await
}

/// Like [`receive`], but keeps the buffers. Nothing is lost when the future is dropped before it is ready.
///
/// # Errors
/// What the socket says.
pub(super) async fn listen(socket: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    loop {
        if let Some(n) = read_now(socket, input)? {
            return Ok(n);
        }
        socket.readable().await?;
    }
}

/// Reads what has come; `None` when that is nothing yet.
fn read_now(socket: &TcpStream, input: &mut BytesMut) -> io::Result<Option<usize>> {
    let mut read = None;
    let waits = socket.try_io(Interest::READABLE, || {
        let mut buf = [MaybeUninit::uninit(); RECEIVE];
        let ((bytes, rest), _) = rustix::net::recv(socket, &mut buf, RecvFlags::DONTWAIT)?;
        input.extend_from_slice(bytes);
        read = Some(bytes.len());
        // Less than there was room for is all there is (epoll(7), question 9): the runtime waits for more without a
        // second call that only says so. The end of the stream stays, whoever asks again.
        if bytes.is_empty() || rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    match waits {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(read),
    }
}
