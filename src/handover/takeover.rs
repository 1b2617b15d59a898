//! The take-over of a running process by another one, over a private socket.
//!
//! ```text
//! new process                 running process
//! "takeover"       ------->   (same user?)
//!                  <-------   offer: listening sockets, open images
//! (opens all it needs)
//! "ready"          ------->   (brings the connections to rest)
//!                  <-------   state: connections, machines
//! "take"           ------->   (from here on it cannot go back)
//!                  <-------   "yours"
//! (goes on)        <-------   state: connections that were accepted meanwhile
//!                  <-------   end of the stream: all its services have stopped
//! ```
//!
//! Until "yours" either side may leave, and the running process goes on as before. All calls block.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::descriptors;
use super::state::{self, DESCRIPTORS_MAX, STATE_MAX, StateError};
use super::{Outgoing, Parcel, State};
use crate::image::Identity;
use crate::images::ImageSet;
use crate::images::carried::CarriedImage;

/// Time for the new process to open its images: a folder on a slow disk. The running one serves all
/// machines meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Time for an answer while connections are at rest.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Longest message before its content, in bytes.
const LINE_MAX: usize = 200;

const HELLO: &str = "isowire takeover 1";
const OFFER: &str = "offer";
const READY: &str = "ready";
const STATE: &str = "state";
const TAKE: &str = "take";
const YOURS: &str = "yours";

/// Error of a take-over. The running process goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("no isowire of this user to take over at {}: {error}; start without --takeover", path.display())]
    NotRunning { path: PathBuf, error: io::Error },
    #[error("the other isowire left: {0}")]
    Left(#[from] io::Error),
    #[error("the state of the other isowire cannot be used: {0}")]
    State(#[from] StateError),
    #[error("the other isowire said `{0}`")]
    Unexpected(String),
    #[error(
        "the other isowire has port {port} on {theirs}, so this one cannot have it on {ours}; stop it, and start \
         without --takeover"
    )]
    Address { port: u16, theirs: Ipv4Addr, ours: Ipv4Addr },
    #[error("the other isowire has another `interface`; stop it, and start without --takeover")]
    Interface,
    #[error("the images have changed meanwhile; try again")]
    Images,
}

fn ended() -> TakeoverError {
    TakeoverError::Left(io::ErrorKind::UnexpectedEof.into())
}

/// What the running process has open whatever it serves.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Listening sockets, by the names that systemd's units give them.
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    pub(crate) images: Vec<(CarriedImage, File)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OfferHead {
    sockets: Vec<String>,
    images: Vec<CarriedImage>,
}

/// The side of the process that takes over.
#[derive(Debug)]
pub(crate) struct Successor(Channel);

impl Successor {
    /// Asks the process that listens at `path`.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub(crate) fn connect(path: &Path) -> Result<(Self, Offer), TakeoverError> {
        let not_running = |error| TakeoverError::NotRunning { path: path.to_owned(), error };
        let mut channel = Channel(UnixStream::connect(path).map_err(not_running)?);
        channel.wait_at_most(ANSWER_WITHIN)?;
        channel.say(HELLO)?;
        let (bytes, mut files) = channel.receive(OFFER)?.ok_or_else(ended)?;
        let OfferHead { sockets, images } = state::parse(&bytes)?;
        if files.len() != sockets.len() + images.len() {
            return Err(StateError::Malformed.into());
        }
        let open = files.split_off(sockets.len()).into_iter().map(File::from);
        let images = images.into_iter().zip(open).collect();
        Ok((Self(channel), Offer { sockets: sockets.into_iter().zip(files).collect(), images }))
    }

    /// Takes everything. After it the machines are ours.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub(crate) fn take(&mut self) -> Result<Parcel, TakeoverError> {
        self.0.say(READY)?;
        let parcel = self.parcel()?.ok_or_else(ended)?;
        self.0.say(TAKE)?;
        match self.0.hear()? {
            Some(word) if word == YOURS => Ok(parcel),
            Some(other) => Err(TakeoverError::Unexpected(other)),
            None => Err(ended()),
        }
    }

    /// Returns what came to the other process in the last moment; `None` when it has stopped.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub(crate) fn take_more(&mut self) -> Result<Option<Parcel>, TakeoverError> {
        self.parcel()
    }

    fn parcel(&mut self) -> Result<Option<Parcel>, TakeoverError> {
        let Some((bytes, files)) = self.0.receive(STATE)? else { return Ok(None) };
        let state = State::parse(&bytes)?;
        if files.len() != state.descriptors() {
            return Err(StateError::Malformed.into());
        }
        let mut files: Vec<_> = files.into_iter().map(Some).collect();
        Ok(Some(Parcel::new(state, |number| files.get_mut(number)?.take())))
    }
}

/// The side of the running process.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// Images that the other process has.
    offered: Vec<Identity>,
}

impl Predecessor {
    /// Offers everything that is open to a process that connected, and waits until it is ready.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub(crate) fn offer(
        stream: UnixStream,
        sockets: &[(&'static str, OwnedFd)],
        images: &ImageSet,
        now: Instant,
    ) -> Result<Self, TakeoverError> {
        let mut channel = Channel(stream);
        channel.wait_at_most(ANSWER_WITHIN)?;
        channel.expect(HELLO)?;
        let (carried, open): (_, Vec<_>) = images.carried(now).into_iter().unzip();
        let names = sockets.iter().map(|(name, _)| (*name).to_owned()).collect();
        let head = state::emit(&OfferHead { sockets: names, images: carried })?;
        let sockets = sockets.iter().map(|(_, socket)| socket.as_fd());
        let files: Vec<_> = sockets.chain(open.iter().map(|image| image.source.as_fd())).collect();
        channel.send(OFFER, &head, &files)?;
        channel.wait_at_most(READY_WITHIN)?;
        channel.expect(READY)?;
        channel.wait_at_most(ANSWER_WITHIN)?;
        let offered = images.known().map(|known| known.image.identity).collect();
        Ok(Self { channel, offered })
    }

    /// Refuses a process that lacks one of the images by now: their machines would lose their root.
    ///
    /// # Errors
    /// [`TakeoverError::Images`]
    pub(crate) fn require(&mut self, images: &ImageSet) -> Result<(), TakeoverError> {
        if images.known().all(|known| self.offered.contains(&known.image.identity)) {
            return Ok(());
        }
        // If it has left, it needs no reason.
        let _ = self.channel.say(&TakeoverError::Images.to_string());
        Err(TakeoverError::Images)
    }

    /// Hands everything over. After it the machines are no longer ours.
    ///
    /// # Errors
    /// [`TakeoverError`]: the other process has nothing, and the connections can go on here.
    pub(crate) fn hand_over(&mut self, outgoing: &Outgoing) -> Result<(), TakeoverError> {
        self.hand_over_more(outgoing)?;
        self.channel.expect(TAKE)?;
        self.channel.say(YOURS)?;
        Ok(())
    }

    /// Hands over what came in the last moment.
    ///
    /// # Errors
    /// [`TakeoverError`]
    pub(crate) fn hand_over_more(&mut self, outgoing: &Outgoing) -> Result<(), TakeoverError> {
        self.channel.send(STATE, &outgoing.state.emit()?, &outgoing.descriptors())
    }
}

/// Bytes and open files of a message.
type Content = (Vec<u8>, Vec<OwnedFd>);

/// A socket for messages: a line, and for some of them bytes and open files.
#[derive(Debug)]
struct Channel(UnixStream);

impl Channel {
    fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(time))?;
        self.0.set_write_timeout(Some(time))
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes())
    }

    /// Reads a line; `None` at the end of the stream.
    fn hear(&mut self) -> Result<Option<String>, TakeoverError> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Not a byte more than the line: open files come with the bytes behind it.
        while line.len() < LINE_MAX {
            match self.0.read(&mut byte)? {
                0 if line.is_empty() => return Ok(None),
                0 => return Err(ended()),
                _ if byte == *b"\n" => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
                _ => line.extend(byte),
            }
        }
        Err(TakeoverError::Unexpected(String::from_utf8_lossy(&line).escape_debug().to_string()))
    }

    fn expect(&mut self, word: &str) -> Result<(), TakeoverError> {
        match self.hear()? {
            Some(line) if line == word => Ok(()),
            Some(line) => Err(TakeoverError::Unexpected(line.escape_debug().to_string())),
            None => Err(ended()),
        }
    }

    /// Sends `WORD BYTES FILES`, and then both.
    fn send(&mut self, word: &str, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), TakeoverError> {
        self.say(&format!("{word} {} {}", bytes.len(), files.len()))?;
        self.0.write_all(bytes)?;
        descriptors::send(&self.0, files)?;
        Ok(())
    }

    /// Receives what [`Channel::send`] sent; `None` at the end of the stream.
    fn receive(&mut self, word: &str) -> Result<Option<Content>, TakeoverError> {
        let Some(line) = self.hear()? else { return Ok(None) };
        let numbers = line.strip_prefix(word).and_then(|rest| rest.trim_start().split_once(' '));
        let numbers = numbers.and_then(|(len, files)| Some((len.parse().ok()?, files.parse().ok()?)));
        let Some((len, files)) = numbers.filter(|&(len, files)| len <= STATE_MAX && files <= DESCRIPTORS_MAX)
        else {
            return Err(TakeoverError::Unexpected(line.escape_debug().to_string()));
        };
        let mut bytes = Vec::new();
        if (&mut self.0).take(len as u64).read_to_end(&mut bytes)? < len {
            return Err(ended());
        }
        Ok(Some((bytes, descriptors::receive(&self.0, files)?)))
    }
}
