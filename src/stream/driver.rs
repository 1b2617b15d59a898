//! The loop of one connection: requests in, replies out, until the client or the session ends it.
//!
//! Between two turns a connection is plain data: the state of its protocol's session, with the
//! requests that wait for the disk, and the bytes of a request that has not arrived in full.
//! Nothing is queued then, so a connection could be paused there, handed to another process and
//! resumed.

use std::pin::pin;
use std::time;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::cold_reads::{ColdReads, RangeEnded};
use super::receive::{listen, receive};
use super::transmit::{self, TransmitError};
use super::turn::{End, Turn};
use super::waiting::ReadOutcome;
use crate::export::{Batch, ColdRange};
use crate::image::Patience;
use crate::metrics::{self, Door, OpenConnection};

/// Bytes of input that are read while replies wait for the client: a hundred calls of NFS, and more
/// than its longest record.
const INPUT_MAX: usize = 16 << 10;

/// A protocol's part in a connection: its session as plain data, and whatever shares it with the
/// rest of the process (snapshot, clock, statistics).
pub(crate) trait Session {
    /// Reason for which the session ends the connection.
    type Reason;

    /// The service that counts the connection.
    const DOOR: Door;

    /// Read on while replies leave. NFS recognizes duplicate calls by it.
    const LISTENS_WHILE_SENDING: bool = false;

    /// A turn queues only ranges that the page cache holds.
    const CHECKS_PAGE_CACHE: bool = false;

    /// The client's way with a disk that fails or hangs.
    const PATIENCE: Patience = Patience::Waits;

    /// Adopts a snapshot that was published since the last turn.
    fn adopt(&mut self) {}

    /// Answers the complete requests of `input`, takes them off, and queues the replies in `out`.
    /// All of `out` is sent before the turn takes effect.
    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<Self::Reason>;

    /// Takes the ranges that replies wait for, each once.
    fn take_cold(&mut self) -> Vec<ColdRange> {
        Vec::new()
    }

    /// Notes that a range of the reply with this ticket is not read any more; the next turn queues
    /// the reply.
    fn range_ended(&mut self, _ticket: u64, _outcome: ReadOutcome) {}

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
    let reads = ColdReads::new(S::PATIENCE);
    // What is queued already, by a connection that came to rest, was checked long ago.
    let is_checked = S::CHECKS_PAGE_CACHE && batch.is_empty();
    let _open = OpenConnection::new(S::DOOR);
    let turn_began = time::Instant::now();
    let connection =
        Connection { socket, session, input, batch, reads, is_checked, is_open: true, turn_began };
    let end = connection.run().await;
    if let Err(error) = &end {
        metrics::count(S::DOOR, error.tally(), 1);
    }
    end
}

/// A connection that is driven.
struct Connection<'a, S> {
    socket: &'a TcpStream,
    session: &'a mut S,
    input: &'a mut BytesMut,
    batch: &'a mut Batch,
    /// Reads from the disk that replies wait for.
    reads: ColdReads,
    /// The turn found all queued ranges in the page cache.
    is_checked: bool,
    /// The client has not shut down its sending side.
    is_open: bool,
    turn_began: time::Instant,
}

/// Outcome of waiting for a client and for the disk.
enum Wait {
    Arrived,
    /// A range was read that replies wait for.
    Read,
    Closed,
    TimedOut,
}

impl<S: Session> Connection<'_, S> {
    async fn run(mut self) -> Result<End<S::Reason>, TransmitError> {
        let mut turn = self.next_turn();
        loop {
            self.reads.begin(self.session.take_cold());
            let unread = self.input.len();
            let result = self.send().await;
            self.is_checked = S::CHECKS_PAGE_CACHE;
            self.session.replies_sent(&result, self.batch.len(), self.input);
            result?;
            turn = match turn {
                Turn::End(reason) => return Ok(End::Session(reason)),
                Turn::Full => {
                    tokio::task::yield_now().await;
                    self.next_turn()
                }
                // Input that arrived while the replies left may be a whole request, and the client
                // may have no more to send before that is answered.
                Turn::Drained if self.input.len() > unread => self.next_turn(),
                Turn::Drained if self.is_open => match self.wait().await? {
                    Wait::Arrived | Wait::Read => self.next_turn(),
                    Wait::TimedOut => self.session.handle_timeout(self.input, self.batch),
                    // What is still read gets its reply.
                    Wait::Closed => {
                        self.is_open = false;
                        Turn::Drained
                    }
                },
                Turn::Drained if self.reads.is_empty() => return Ok(End::Closed),
                Turn::Drained | Turn::Waiting => {
                    let read = self.reads.next().await;
                    self.note_reads(read);
                    self.next_turn()
                }
            };
        }
    }

    fn next_turn(&mut self) -> Turn<S::Reason> {
        self.turn_began = time::Instant::now();
        self.session.adopt();
        self.session.handle(self.input, self.batch)
    }

    /// Waits for more input or for the disk, until the session's deadline if there is one.
    async fn wait(&mut self) -> Result<Wait, TransmitError> {
        let received = match self.session.deadline(self.input) {
            _ if !self.reads.is_empty() => tokio::select! {
                received = listen(self.socket, self.input) => received,
                read = self.reads.next() => {
                    self.note_reads(read);
                    return Ok(Wait::Read);
                }
            },
            None => receive(self.socket, self.input, self.batch).await,
            Some(deadline) => {
                match timeout_at(deadline, receive(self.socket, self.input, self.batch)).await {
                    Ok(received) => received,
                    Err(_) => return Ok(Wait::TimedOut),
                }
            }
        };
        match received.map_err(TransmitError::Peer)? {
            0 => Ok(Wait::Closed),
            _ => Ok(Wait::Arrived),
        }
    }

    /// Tells the session of a read that has ended, and of all others that have.
    fn note_reads(&mut self, first: RangeEnded) {
        let mut next = Some(first);
        while let Some(RangeEnded { tickets, outcome }) = next {
            tickets.into_iter().for_each(|ticket| self.session.range_ended(ticket, outcome));
            next = self.reads.try_next();
        }
    }

    /// Sends the whole batch. Reads meanwhile if the session wants to.
    async fn send(&mut self) -> Result<(), TransmitError> {
        let Self { socket, session, input, batch, is_checked, turn_began, .. } = self;
        let on_sent = |batch: &Batch, len, now: time::Instant| {
            session.bytes_sent(batch, len, now);
            if len == batch.len() {
                metrics::observe(S::DOOR, now.saturating_duration_since(*turn_began));
            }
        };
        let flush = transmit::flush(batch, socket, *is_checked, S::DOOR, on_sent);
        if !S::LISTENS_WHILE_SENDING {
            return flush.await;
        }
        let mut flush = pin!(flush);
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
                // A client that shut its sending side down (RFC 9293 §3.6.1) still gets its
                // replies.
                heard = listen(socket, input), if is_open && input.len() < INPUT_MAX => {
                    is_open = heard.map_err(TransmitError::Peer)? > 0;
                }
                flushed = &mut flush => return flushed,
            }
        }
    }
}
