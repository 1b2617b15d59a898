//! The loop of one connection: requests in, replies out, until the client or the session ends it.
//!
//! All that a connection is between two turns is plain data: the session, and the bytes of a request that has not
//! arrived in full. Nothing is queued then.

use std::fmt;
use std::pin::pin;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::receive::{listen, receive};
use super::transmit::{self, TransmitError};
use crate::bootable::FileKind;
use crate::export::Batch;
use crate::machines::ConnectionTracker;

/// Bytes of input that are taken while replies wait for the client to read: a hundred calls of NFS, and more than its
/// longest record.
const INPUT_MAX: usize = 16 << 10;

/// One protocol's part in a connection.
pub(crate) trait Session {
    /// Reason for which the session ends the connection.
    type Reason;

    /// Read on while replies leave. NFS tells by it which calls are duplicates.
    const LISTENS_WHILE_SENDING: bool = false;

    /// Takes over what was published since the last turn.
    fn adopt(&mut self) {}

    /// Answers the complete requests of `input`, takes them off, and queues the replies. What is queued is sent before
    /// the turn takes effect.
    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<Self::Reason>;

    /// Returns the kind of the file that the queued bytes are of.
    fn file_kind(&self) -> FileKind {
        FileKind::Other
    }

    /// Called after the replies of a turn have left, or could not. `unsent` is what is left of them, `input` what
    /// has arrived by then.
    fn sent(
        &mut self,
        _result: &Result<(), TransmitError>,
        _unsent: u64,
        _input: &BytesMut,
        _meter: &mut ConnectionTracker,
    ) {
    }

    /// Returns when a client that has to send more is late; `None` lets it take any time.
    fn deadline(&mut self, _input: &BytesMut) -> Option<Instant> {
        None
    }

    /// Handles a client that sent nothing until the deadline.
    fn handle_timeout(&mut self, _input: &BytesMut, _out: &mut Batch) -> Turn<Self::Reason> {
        Turn::Drained
    }
}

/// What a connection does after the replies of a turn have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn<R> {
    /// Every complete request was answered: read more.
    Drained,
    /// Enough for one turn: let others run, then go on with the input.
    Full,
    /// The session ends the connection.
    End(R),
}

/// How a connection ended in order, or at least by the client's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<R> {
    /// The client closed the connection.
    Closed,
    /// The session ended it.
    Session(R),
}

impl<R: fmt::Display> fmt::Display for End<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("the client closed the connection"),
            End::Session(reason) => reason.fmt(f),
        }
    }
}

/// Runs `session` on `socket` until its end. `input` holds what has been read already.
///
/// # Errors
/// See [`TransmitError`].
pub(crate) async fn drive<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    mut input: BytesMut,
    mut batch: Batch,
    tracker: &mut ConnectionTracker,
) -> Result<End<S::Reason>, TransmitError> {
    let mut turn = next_turn(session, &mut input, &mut batch);
    loop {
        let unread = input.len();
        tracker.open(session.file_kind());
        let result = if S::LISTENS_WHILE_SENDING {
            send_and_listen(&mut batch, socket, &mut input, tracker).await
        } else {
            transmit::flush(&mut batch, socket, |batch, len, now| tracker.sent(batch, len, now)).await
        };
        session.sent(&result, batch.len(), &input, tracker);
        result?;
        turn = match turn {
            Turn::End(reason) => return Ok(End::Session(reason)),
            Turn::Full => {
                tokio::task::yield_now().await;
                next_turn(session, &mut input, &mut batch)
            }
            // What arrived while the replies left may be a whole request: waiting for more could be for ever.
            Turn::Drained if input.len() > unread => next_turn(session, &mut input, &mut batch),
            Turn::Drained => match wait(socket, session, &mut input, &mut batch).await? {
                Wait::Arrived => next_turn(session, &mut input, &mut batch),
                Wait::Closed => return Ok(End::Closed),
                Wait::TimedOut => session.handle_timeout(&input, &mut batch),
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

/// Sends the whole batch and reads meanwhile.
async fn send_and_listen(
    batch: &mut Batch,
    socket: &TcpStream,
    input: &mut BytesMut,
    tracker: &mut ConnectionTracker,
) -> Result<(), TransmitError> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut flush = pin!(transmit::flush(batch, socket, |batch, len, now| tracker.sent(batch, len, now)));
    // Most replies leave at once; a read that fails would cost a system call for each.
    tokio::select! {
        biased;
        flushed = &mut flush => return flushed,
        () = std::future::ready(()) => {}
    }
    let mut is_open = true;
    loop {
        tokio::select! {
            biased;
            heard = listen(socket, input), if is_open && input.len() < INPUT_MAX => {
                is_open = heard.map_err(TransmitError::Peer)? > 0;
            }
            flushed = &mut flush => return flushed,
        }
    }
}
