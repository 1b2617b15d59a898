//! The loop of one connection: requests in, replies out, until the client or the session ends it.
//!
//! Between two turns a connection is plain data: the state of its protocol's session, and the bytes
//! of a request that has not arrived in full. Nothing is queued then, so a connection could be
//! paused there, handed to another process and resumed.

use std::pin::pin;
use std::time;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::receive::{listen, receive};
use super::transmit::{self, TransmitError};
use super::turn::{End, Turn};
use crate::export::Batch;

/// Bytes of input that are read while replies wait for the client: a hundred calls of NFS, and more
/// than its longest record.
const INPUT_MAX: usize = 16 << 10;

/// A protocol's part in a connection: its session as plain data, and whatever shares it with the
/// rest of the process (snapshot, clock, statistics).
pub(crate) trait Session {
    /// Reason for which the session ends the connection.
    type Reason;

    /// Read on while replies leave. NFS recognizes duplicate calls by it.
    const LISTENS_WHILE_SENDING: bool = false;

    /// Adopts a snapshot that was published since the last turn.
    fn adopt(&mut self) {}

    /// Answers the complete requests of `input`, takes them off, and queues the replies in `out`.
    /// All of `out` is sent before the turn takes effect.
    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<Self::Reason>;

    /// Called each time that the kernel took bytes: the first `len` of `batch`, not yet taken off.
    fn bytes_sent(&mut self, _batch: &Batch, _len: u64, _now: time::Instant) {}

    /// Called when all replies of a turn have left, or when sending failed with `unsent` bytes
    /// left. `input` is what has arrived by then.
    fn replies_sent(&mut self, _result: &Result<(), TransmitError>, _unsent: u64, _input: &BytesMut) {}

    /// Returns the time by which the client has to send more; `None` lets it take any time.
    fn deadline(&mut self, _input: &BytesMut) -> Option<Instant> {
        None
    }

    /// Handles a client that sent nothing until the deadline.
    fn handle_timeout(&mut self, _input: &BytesMut, _out: &mut Batch) -> Turn<Self::Reason> {
        Turn::Drained
    }
}

/// Runs `session` on `socket` until its end. `input` holds bytes that were read already, and
/// `batch` replies that are sent first; what the session leaves of `input` stays there.
///
/// # Errors
/// [`TransmitError`] says whose fault it is.
pub(crate) async fn drive<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> Result<End<S::Reason>, TransmitError> {
    let mut turn = next_turn(session, input, batch);
    loop {
        let unread = input.len();
        let result = send(socket, session, input, batch).await;
        session.replies_sent(&result, batch.len(), input);
        result?;
        turn = match turn {
            Turn::End(reason) => return Ok(End::Session(reason)),
            Turn::Full => {
                tokio::task::yield_now().await;
                next_turn(session, input, batch)
            }
            // Input that arrived while the replies left may be a whole request, and the client may
            // have no more to send before that is answered.
            Turn::Drained if input.len() > unread => next_turn(session, input, batch),
            Turn::Drained => match wait(socket, session, input, batch).await? {
                Wait::Arrived => next_turn(session, input, batch),
                Wait::Closed => return Ok(End::Closed),
                Wait::TimedOut => session.handle_timeout(input, batch),
            },
        };
    }
}

fn next_turn<S: Session>(session: &mut S, input: &mut BytesMut, batch: &mut Batch) -> Turn<S::Reason> {
    session.adopt();
    session.handle(input, batch)
}

/// Outcome of waiting for a client.
enum Wait {
    Arrived,
    Closed,
    TimedOut,
}

/// Waits for more input, until the session's deadline if there is one.
async fn wait<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> Result<Wait, TransmitError> {
    let received = match session.deadline(input) {
        None => receive(socket, input, batch).await,
        Some(deadline) => match timeout_at(deadline, receive(socket, input, batch)).await {
            Ok(received) => received,
            Err(_) => return Ok(Wait::TimedOut),
        },
    };
    match received.map_err(TransmitError::Peer)? {
        0 => Ok(Wait::Closed),
        _ => Ok(Wait::Arrived),
    }
}

/// Sends the whole batch. Reads meanwhile if the session wants to.
async fn send<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> Result<(), TransmitError> {
    if S::LISTENS_WHILE_SENDING {
        send_and_listen(socket, session, input, batch).await
    } else {
        transmit::flush(batch, socket, |batch, len, now| session.bytes_sent(batch, len, now)).await
    }
}

async fn send_and_listen<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    input: &mut BytesMut,
    batch: &mut Batch,
) -> Result<(), TransmitError> {
    let mut flush =
        pin!(transmit::flush(batch, socket, |batch, len, now| session.bytes_sent(batch, len, now)));
    // Most replies leave at once, and then a read that finds nothing would cost a system call.
    tokio::select! {
        biased;
        flushed = &mut flush => return flushed,
        () = std::future::ready(()) => {}
    }
    let mut is_open = true;
    loop {
        tokio::select! {
            biased;
            // A client that shut its sending side down (RFC 9293 §3.6.1) still gets its replies.
            heard = listen(socket, input), if is_open && input.len() < INPUT_MAX => {
                is_open = heard.map_err(TransmitError::Peer)? > 0;
            }
            flushed = &mut flush => return flushed,
        }
    }
}
