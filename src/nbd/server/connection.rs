//! One connection, from its first byte to its last, and the log lines of its life.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::{debug, info};

use super::HANDSHAKE_DEADLINE;
use crate::export::{Batch, ColdRange, Export, Piece};
use crate::image::Image;
use crate::images::{ImageSet, ServedImage};
use crate::machines::{self, ConnectionTracker, RefusedBy, Registry};
use crate::metrics::{self, Door, Tally};
use crate::nbd::session::handshake::HandshakeError;
use crate::nbd::session::resting::{RestingConnection, RestingPhase, RestingRoot};
use crate::nbd::session::{Attached, Handshake, HandshakeEnd, Transmission, TransmissionEnd};
use crate::nbd::wire;
use crate::stream::{
    self, Admission, ConnectionLog, End, PageCacheNow, Place, ReadOutcome, TransmitError, Turn,
};

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    client: Client,
    input: BytesMut,
    batch: Batch,
}

/// The session of a client, with whatever it shares with the rest of the process.
#[derive(Debug)]
struct Client {
    peer: SocketAddr,
    /// Time at which the client connected.
    since: Instant,
    machines: Arc<Registry>,
    admission: Admission,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Handshake {
        handshake: Handshake,
        /// Exports to choose from.
        images: Arc<ImageSet>,
    },
    Attached(Box<Root>),
}

/// The export that a client chose, and its replies.
#[derive(Debug)]
struct Root {
    export: Export,
    /// Name that the client asked for, fit for a log.
    name: String,
    transmission: Transmission,
    tracker: ConnectionTracker,
}

/// Reason for which a session ends its connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionEnd {
    #[error("the client left without an export")]
    Aborted,
    #[error("{0}")]
    Rejected(HandshakeError),
    #[error("no export chosen within {HANDSHAKE_DEADLINE:?}")]
    NoChoice,
    #[error("{0}")]
    Transmission(TransmissionEnd),
}

/// Error of a connection of another process that cannot go on here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error("its image is not open here")]
    UnknownImage,
    #[error("a range of it is not in its image")]
    OutOfRange,
    #[error("its socket cannot be used: {0}")]
    Socket(#[from] io::Error),
}

impl Connection {
    pub(super) fn new(
        socket: TcpStream,
        peer: SocketAddr,
        images: Arc<ImageSet>,
        machines: Arc<Registry>,
        admission: Admission,
    ) -> Self {
        let mut batch = Batch::default();
        // "Newstyle negotiation": the server speaks first.
        batch.push_bytes(&wire::GREETING);
        let phase = Phase::Handshake { handshake: Handshake::default(), images };
        let client = Client { peer, since: Instant::now(), machines, admission, phase };
        Self { socket, client, input: BytesMut::new(), batch }
    }

    /// Serves the client until the connection ends. The connection is at rest whenever the future
    /// is dropped.
    pub(super) async fn run(&mut self) -> Result<End<ConnectionEnd>, TransmitError> {
        stream::drive(&self.socket, &mut self.client, &mut self.input, &mut self.batch).await
    }

    /// Makes the connection go on where it came to rest: reads from the disk ended with its driver.
    pub(super) fn begin_again(&mut self) {
        if let Phase::Attached(root) = &mut self.client.phase {
            root.transmission = Transmission::resume(root.transmission.resting());
        }
    }

    /// Logs the end of the connection.
    pub(super) fn ended(self, end: &Result<End<ConnectionEnd>, TransmitError>) {
        self.client.report_refusal(end);
        let Client { peer, since, phase, admission, .. } = self.client;
        match (phase, end) {
            // Logged once, and not for each client.
            (Phase::Handshake { .. }, _) if matches!(admission, Admission::Refused(_)) => {
                debug!(%peer, "NBD client refused: no place for it");
            }
            (Phase::Attached(root), _) => root.ended(peer, since, end),
            (_, Ok(End::Session(why @ (ConnectionEnd::Rejected(_) | ConnectionEnd::NoChoice)))) => {
                info!(%peer, "NBD client rejected: {why}");
            }
            (_, Ok(_)) => debug!(%peer, "NBD client left without an export"),
            (_, Err(error)) => debug!(%peer, "NBD handshake broken off: {error}"),
        }
    }

    /// Returns a connection at rest without its socket, for another process.
    pub(crate) fn resting(&self) -> RestingConnection {
        RestingConnection {
            peer: self.client.peer,
            age: self.client.since.elapsed(),
            input: self.input.to_vec(),
            unsent: self.batch.unsent(),
            phase: self.client.phase.resting(),
        }
    }

    /// Puts a connection together that another process took apart.
    pub(super) fn resume(
        resting: RestingConnection,
        socket: StdStream,
        images: Arc<ImageSet>,
        machines: Arc<Registry>,
        place: Place,
    ) -> Result<Self, ResumeError> {
        let RestingConnection { peer, age, input, unsent, phase } = resting;
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from_std(socket)?;
        let now = Instant::now();
        let since = now.checked_sub(age).unwrap_or(now);
        let mut batch = Batch::default();
        let phase = match phase {
            RestingPhase::Handshake(handshake) => Phase::Handshake { handshake, images },
            RestingPhase::Attached(RestingRoot { image, extents, name, transmission }) => {
                let image = image.and_then(|image| images.by_identity(image));
                let ServedImage { image, .. } = &**image.ok_or(ResumeError::UnknownImage)?;
                let export = Export::of_extents(image, &extents).ok_or(ResumeError::OutOfRange)?;
                batch.keep_image_of(&export);
                let transmission = Transmission::resume(transmission);
                let root = Root::new(Attached { export, transmission, name }, peer, &machines);
                Phase::Attached(Box::new(root))
            }
        };
        batch.push_unsent(phase.image(), &unsent).ok_or(ResumeError::OutOfRange)?;
        let admission = Admission::Admitted(place);
        let client = Client { peer, since, machines, admission, phase };
        Ok(Self { socket, client, input: BytesMut::from(&*input), batch })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Phase {
    fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Phase::Handshake { .. } => None,
            Phase::Attached(root) => root.export.image(),
        }
    }

    fn resting(&self) -> RestingPhase {
        match self {
            Phase::Handshake { handshake, .. } => RestingPhase::Handshake(handshake.clone()),
            Phase::Attached(root) => RestingPhase::Attached(root.resting()),
        }
    }
}

impl Root {
    fn new(attached: Attached, peer: SocketAddr, machines: &Arc<Registry>) -> Self {
        let Attached { export, transmission, name } = attached;
        let now = time::Instant::now();
        let mut tracker =
            ConnectionTracker::new(Arc::clone(machines), peer.ip(), machines::Protocol::Nbd, now);
        if let Some(image) = export.image() {
            tracker.attached(image, now);
        }
        Self { export, name, transmission, tracker }
    }

    fn ended(self, peer: SocketAddr, since: Instant, end: &Result<End<ConnectionEnd>, TransmitError>) {
        self.tracker.ended(stream::root_end(end), time::Instant::now());
        let (totals, since) = (self.transmission.totals(), since.into_std());
        ConnectionLog { protocol: "NBD", peer, export: Some(&self.name), totals, since }.closed(end);
    }

    fn resting(&self) -> RestingRoot {
        RestingRoot {
            image: self.export.image().map(|image| image.identity),
            extents: self.export.extents(),
            name: self.name.clone(),
            transmission: self.transmission.resting(),
        }
    }
}

impl Client {
    /// Tells the table of machines that the client got no export.
    fn report_refusal(&self, end: &Result<End<ConnectionEnd>, TransmitError>) {
        let Phase::Handshake { handshake, .. } = &self.phase else { return };
        let rejected = match end {
            Ok(End::Session(ConnectionEnd::Rejected(error))) => Some(error),
            _ => None,
        };
        let changed = match rejected {
            Some(HandshakeError::Changed(changed)) => Some(*changed),
            _ => handshake.changed(),
        };
        let unknown = match rejected {
            Some(error @ HandshakeError::UnknownExport(_)) => Some(error.to_string()),
            _ => handshake.unknown_export().map(str::to_owned),
        };
        if let Some(changed) = changed {
            self.refused(RefusedBy::Image, Tally::ImageErrors, &changed.to_string());
        } else if let Some(why) = unknown {
            self.refused(RefusedBy::Export, Tally::PeerErrors, &why);
        }
    }

    fn refused(&self, by: RefusedBy, tally: Tally, why: &str) {
        metrics::count(Door::Nbd, tally, 1);
        self.machines.refused_at(self.peer.ip(), by, why, time::Instant::now());
    }

    /// Begins the transmission phase.
    fn attach(&mut self, attached: Attached, out: &mut Batch) {
        let (peer, size) = (self.peer, attached.export.len());
        info!(%peer, export = attached.name, size, "root attached over NBD");
        // All that is queued are replies of the handshake.
        out.keep_image_of(&attached.export);
        self.phase = Phase::Attached(Box::new(Root::new(attached, peer, &self.machines)));
        if let Admission::Admitted(place) = &mut self.admission {
            place.settle();
        }
    }
}

impl stream::Session for Client {
    type Reason = ConnectionEnd;

    const DOOR: Door = Door::Nbd;

    const CHECKS_PAGE_CACHE: bool = true;

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<ConnectionEnd> {
        let (handshake, images) = match &mut self.phase {
            Phase::Attached(root) => return root.handle(input, out),
            Phase::Handshake { handshake, images } => (handshake, images),
        };
        let turn = match &self.admission {
            Admission::Admitted(_) => handshake.handle(images, input, out),
            Admission::Refused(refused) => handshake.refuse(images, &refused.why.to_string(), input, out),
        };
        match turn {
            Turn::Drained => Turn::Drained,
            Turn::Full => Turn::Full,
            Turn::Waiting => Turn::Waiting,
            Turn::End(HandshakeEnd::Attached(attached)) => {
                self.attach(*attached, out);
                Turn::Full
            }
            Turn::End(HandshakeEnd::Aborted) => Turn::End(ConnectionEnd::Aborted),
            Turn::End(HandshakeEnd::Rejected(error)) => Turn::End(ConnectionEnd::Rejected(error)),
        }
    }

    fn take_cold(&mut self) -> Vec<ColdRange> {
        match &mut self.phase {
            Phase::Handshake { .. } => Vec::new(),
            Phase::Attached(root) => root.transmission.take_cold(),
        }
    }

    fn range_ended(&mut self, ticket: u64, outcome: ReadOutcome) {
        if let Phase::Attached(root) = &mut self.phase {
            root.transmission.range_ended(ticket, outcome);
        }
    }

    fn bytes_sent(&mut self, batch: &Batch, len: u64, now: time::Instant) {
        if let Phase::Attached(root) = &mut self.phase {
            root.tracker.sent(batch, len, now);
        }
    }

    fn deadline(&mut self, _: &BytesMut) -> Option<Instant> {
        match self.phase {
            Phase::Handshake { .. } => Some(self.since + HANDSHAKE_DEADLINE),
            Phase::Attached(_) => None,
        }
    }

    fn handle_timeout(&mut self, _: &BytesMut, _: &mut Batch) -> Turn<ConnectionEnd> {
        Turn::End(ConnectionEnd::NoChoice)
    }
}

impl Root {
    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<ConnectionEnd> {
        let before = self.transmission.totals().reads;
        let turn = self.transmission.handle(&self.export, input, &PageCacheNow::new(Door::Nbd), out);
        let answered = self.transmission.totals().reads - before;
        if answered > 0 {
            metrics::count(Door::Nbd, Tally::Requests, answered);
        }
        if let Some((offset, len)) = self.transmission.take_prefetch() {
            prefetch(&self.export, offset, len);
        }
        match turn {
            Turn::Drained => Turn::Drained,
            Turn::Full => Turn::Full,
            Turn::Waiting => Turn::Waiting,
            Turn::End(end) => Turn::End(ConnectionEnd::Transmission(end)),
        }
    }
}

/// Has the kernel read `len` bytes of `export` ahead.
fn prefetch(export: &Export, offset: u64, len: u32) {
    for piece in export.range(offset, len.into()).into_iter().flatten() {
        if let Piece::Image(range) = piece {
            range.image().source.read_ahead(range.extent());
        }
    }
}
