//! Reading requests from a stream socket.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;

use bytes::BytesMut;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::export::Batch;

/// Bytes read from a socket at once: more requests than the kernel's NBD client keeps in flight
/// (128 of 28 bytes).
const RECEIVE: usize = 4 << 10;

thread_local! {
    /// Buffer of a connection that waits, for the next one of this thread that has something to read.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Reads more requests and returns how many bytes arrived, 0 at the end of the stream. Before it
/// waits it gives the buffers away, so that an idle client costs next to nothing.
///
/// # Errors
/// Errors of the socket.
pub(super) async fn receive(
    socket: &TcpStream,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> io::Result<usize> {
    if let Some(n) = read_now(socket, input)? {
        return Ok(n);
    }
    batch.release();
    // Part of a request stays: few clients are idle in the middle of one.
    if input.is_empty() {
        let _ = SPARE.try_with(|spare| spare.set(Some(std::mem::take(input))));
    }
    listen(socket, input).await
}

/// Reads like [`receive`], but keeps the buffers. Nothing is lost when the future is dropped before
/// it is ready.
///
/// # Errors
/// Errors of the socket.
pub(super) async fn listen(socket: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    loop {
        if let Some(n) = read_now(socket, input)? {
            return Ok(n);
        }
        socket.readable().await?;
    }
}

/// Reads what has arrived; `None` if that is nothing yet.
fn read_now(socket: &TcpStream, input: &mut BytesMut) -> io::Result<Option<usize>> {
    let mut read = None;
    let waits = socket.try_io(Interest::READABLE, || {
        // On the stack, so that no connection keeps a buffer while it waits.
        let mut buf = [MaybeUninit::uninit(); RECEIVE];
        let ((bytes, rest), _) = rustix::net::recv(socket, &mut buf, RecvFlags::DONTWAIT)?;
        if input.capacity() == 0 {
            *input = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
        }
        input.extend_from_slice(bytes);
        read = Some(bytes.len());
        // A short read took all there was (epoll(7), question 9), so the runtime need not make a
        // second call to learn that. The end of the stream can be read again, so it is no such
        // case.
        if bytes.is_empty() || rest.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    match waits {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(read),
    }
}
