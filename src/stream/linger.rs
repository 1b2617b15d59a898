//! Closing a connection in stages, so that its last reply is not lost.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes thrown away at once.
const DISCARD: usize = 16 << 10;

/// Closes the sending side, then waits up to `limit` until the client closes the other.
pub(crate) async fn close_in_stages(mut socket: TcpStream, limit: Duration) {
    // RFC 9112 §9.6: closing at once with input unread makes TCP send a reset, and the reset may
    // erase the last response before the client has read it.
    let _ = timeout(limit, half_close(&mut socket)).await;
}

async fn half_close(socket: &mut TcpStream) -> io::Result<()> {
    socket.shutdown().await?;
    let mut discarded = BytesMut::with_capacity(DISCARD);
    while socket.read_buf(&mut discarded).await? > 0 {
        discarded.clear();
    }
    Ok(())
}
