//! The handshake: option haggling until the client attaches to an export.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::{ALLOCATION_ID, READ_MAX, Replies, Transmission};
use crate::codec::Reader;
use crate::export::Export;
use crate::images::ImageSet;
use crate::nbd::wire::{self, ClientFlags, ExportInfo, InfoRequest, MetaContextRequest, NbdParseError, Opt};
use crate::nbd::wire::{OptionHeader, OptionReply, Rep, Zeroes};

/// Longest option data, in bytes: a name and a hundred queries fit many times.
const OPTION_MAX: u32 = 64 << 10;

/// Bytes of replies after which the client must read before it haggles on.
const REPLIES_MAX: usize = 64 << 10;

/// What to do after the replies have been sent.
#[derive(Debug)]
pub(crate) enum Next {
    /// Read more of the client, or, after a full batch of replies, go on with what has been read.
    GoOn,
    /// The handshake is over.
    Attach(Box<Attached>),
    /// `NBD_OPT_ABORT`: the client asked to part.
    Part,
}

/// A client that has its export.
#[derive(Debug)]
pub(crate) struct Attached {
    pub transmission: Transmission,
    /// The name it asked for, fit for a log.
    pub name: String,
}

/// Why the connection ends in the handshake: the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("not an NBD client: {0}")]
    Malformed(#[from] NbdParseError),
    #[error("client flags {0:#x} are unknown")]
    UnknownFlags(u32),
    #[error("{0} of {1} bytes is longer than {OPTION_MAX}")]
    TooLong(Opt, u32),
    #[error("{0} by a client that is not fixed newstyle")]
    NotFixed(Opt),
    #[error("no export named '{0}'")]
    UnknownExport(String),
}

/// State of the haggling.
#[derive(Debug)]
pub(crate) struct Handshake {
    images: Arc<ImageSet>,
    flags: Option<ClientFlags>,
    structured_replies: bool,
    /// Name of the export for which `base:allocation` was set.
    allocation_of: Option<Box<[u8]>>,
}

impl Handshake {
    pub(crate) const fn new(images: Arc<ImageSet>) -> Self {
        Self { images, flags: None, structured_replies: false, allocation_of: None }
    }

    /// Handles every complete message of `input`, takes it off, and appends the answers to `out`.
    ///
    /// # Errors
    /// [`Rejected`]: send what is in `out`, then close.
    pub(crate) fn handle(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Next, Rejected> {
        while out.len() < REPLIES_MAX {
            let next = match self.flags {
                None => self.handle_flags(input)?,
                Some(flags) => self.handle_option(flags, input, out)?,
            };
            match next {
                Some(Next::GoOn) => {}
                Some(end) => return Ok(end),
                None => break,
            }
        }
        Ok(Next::GoOn)
    }

    /// `None` while the message has not arrived in full.
    fn handle_flags(&mut self, input: &mut BytesMut) -> Result<Option<Next>, Rejected> {
        let Ok(flags) = ClientFlags::parse(&mut Reader::new(input)) else { return Ok(None) };
        input.advance(ClientFlags::LEN);
        // "If the client sets a flag the server does not know, the server MUST close the connection."
        if flags.has_unknown() {
            return Err(Rejected::UnknownFlags(flags.0));
        }
        self.flags = Some(flags);
        Ok(Some(Next::GoOn))
    }

    /// `None` while the option has not arrived in full.
    fn handle_option(
        &mut self,
        flags: ClientFlags,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Next>, Rejected> {
        let mut reader = Reader::new(input);
        let OptionHeader { option, len } = match OptionHeader::parse(&mut reader) {
            Err(NbdParseError::Truncated(_)) => return Ok(None),
            header => header?,
        };
        if len > OPTION_MAX {
            return Err(Rejected::TooLong(option, len));
        }
        // Before fixed newstyle there was only one option, and no way to refuse another.
        if !flags.has(wire::FLAG_FIXED_NEWSTYLE) && option != Opt::EXPORT_NAME {
            return Err(Rejected::NotFixed(option));
        }
        let Ok(data) = reader.sub(len as usize) else { return Ok(None) };
        let next = self.answer(flags, option, data, out);
        input.advance(OptionHeader::LEN + len as usize);
        next.map(Some)
    }

    fn answer(
        &mut self,
        flags: ClientFlags,
        option: Opt,
        data: Reader<'_>,
        out: &mut BytesMut,
    ) -> Result<Next, Rejected> {
        let answered = match option {
            Opt::EXPORT_NAME => return self.export_name(flags, data.rest(), out),
            Opt::ABORT => Ok(Some(Next::Part)),
            Opt::LIST => self.list(data, out),
            Opt::INFO => self.info(option, data, out).map(|_| None),
            Opt::GO => self.info(option, data, out).map(Some),
            Opt::STRUCTURED_REPLY => self.structured_reply(data),
            Opt::LIST_META_CONTEXT => self.list_meta_context(data, out),
            Opt::SET_META_CONTEXT => self.set_meta_context(data, out),
            unknown => {
                Err(Refusal { reply: Rep::ERR_UNSUP, text: format!("isowire does not know {unknown}") })
            }
        };
        let reply = match &answered {
            Ok(_) => OptionReply::Ack,
            Err(Refusal { reply, text }) => OptionReply::Error { reply: *reply, text },
        };
        reply.emit(option, out);
        Ok(answered.ok().flatten().unwrap_or(Next::GoOn))
    }

    /// `NBD_OPT_EXPORT_NAME` has no way to report an error: the connection ends.
    fn export_name(&self, flags: ClientFlags, name: &[u8], out: &mut BytesMut) -> Result<Next, Rejected> {
        let export = self.images.export(name).ok_or_else(|| Rejected::UnknownExport(printable(name)))?;
        let zeroes = if flags.has(wire::FLAG_NO_ZEROES) { Zeroes::Omit } else { Zeroes::Send };
        wire::emit_export_name_reply(self.describe(&export), zeroes, out);
        Ok(self.attach(name, export))
    }

    fn list(&self, data: Reader<'_>, out: &mut BytesMut) -> Answered {
        no_data(data)?;
        self.images.names().for_each(|name| OptionReply::Server { name }.emit(Opt::LIST, out));
        Ok(None)
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO` differ only in what happens after the ACK.
    fn info(&self, option: Opt, data: Reader<'_>, out: &mut BytesMut) -> Result<Next, Refusal> {
        let request = InfoRequest::parse(data)?;
        let export = self.find(request.name)?;
        OptionReply::Export(self.describe(&export)).emit(option, out);
        if request.wants_name {
            OptionReply::Name(request.name).emit(option, out);
        }
        if request.wants_description {
            OptionReply::Description(DESCRIPTION).emit(option, out);
        }
        if request.wants_block_size {
            // Any byte can be asked for; files lie at multiples of 2048, and pages are what the cache holds.
            OptionReply::BlockSize { min: 1, preferred: 4096, max: READ_MAX }.emit(option, out);
        }
        Ok(self.attach(request.name, export))
    }

    fn structured_reply(&mut self, data: Reader<'_>) -> Answered {
        no_data(data)?;
        self.structured_replies = true;
        Ok(None)
    }

    fn list_meta_context(&self, data: Reader<'_>, out: &mut BytesMut) -> Answered {
        let request = MetaContextRequest::parse(data)?;
        self.find(request.name)?;
        // "If zero queries are sent, then the server MUST return all the metadata contexts that are available."
        if request.queries == 0 || request.asks_allocation || request.asks_base {
            // "The server SHOULD set the metadata context ID to 0" when listing.
            OptionReply::MetaContext { id: 0, name: wire::BASE_ALLOCATION }.emit(Opt::LIST_META_CONTEXT, out);
        }
        Ok(None)
    }

    fn set_meta_context(&mut self, data: Reader<'_>, out: &mut BytesMut) -> Answered {
        // Whatever the outcome, "any previously negotiated metadata contexts are forgotten".
        self.allocation_of = None;
        if !self.structured_replies {
            return Err(Refusal::invalid("metadata contexts need structured replies"));
        }
        let request = MetaContextRequest::parse(data)?;
        self.find(request.name)?;
        if request.asks_allocation {
            self.allocation_of = Some(request.name.into());
            let context = OptionReply::MetaContext { id: ALLOCATION_ID, name: wire::BASE_ALLOCATION };
            context.emit(Opt::SET_META_CONTEXT, out);
        }
        Ok(None)
    }

    fn find(&self, name: &[u8]) -> Result<Export, Refusal> {
        self.images.export(name).ok_or_else(|| Refusal {
            reply: Rep::ERR_UNKNOWN,
            text: format!("no export named '{}' here; there is: {}", printable(name), self.offered()),
        })
    }

    /// The names there are, for the boot screen on which the error text appears.
    fn offered(&self) -> String {
        let names: Vec<_> = self.images.names().collect();
        names.join(", ")
    }

    fn describe(&self, export: &Export) -> ExportInfo {
        let mut flags =
            wire::FLAG_HAS_FLAGS | wire::FLAG_READ_ONLY | wire::FLAG_CAN_MULTI_CONN | wire::FLAG_SEND_CACHE;
        if self.structured_replies {
            // "NBD_FLAG_SEND_DF: the server MUST NOT set this unless structured replies have been negotiated."
            flags |= wire::FLAG_SEND_DF;
        }
        ExportInfo { size: export.len(), flags }
    }

    fn attach(&self, name: &[u8], export: Export) -> Next {
        // "The metadata contexts are negotiated with regard to a particular export."
        let has_allocation = self.allocation_of.as_deref() == Some(name);
        let replies = match (self.structured_replies, has_allocation) {
            (false, _) => Replies::Simple,
            (true, false) => Replies::Structured,
            (true, true) => Replies::StructuredWithAllocation,
        };
        let transmission = Transmission::new(export, replies);
        Next::Attach(Box::new(Attached { transmission, name: printable(name) }))
    }
}

/// What an export is, for people (`NBD_INFO_DESCRIPTION`).
const DESCRIPTION: &str = "read-only, straight from an ISO image, by isowire";

/// What follows a successful option after its ACK, if anything.
type Answered = Result<Option<Next>, Refusal>;

/// An option that gets an error reply; the haggling goes on.
#[derive(Debug)]
struct Refusal {
    reply: Rep,
    text: String,
}

impl Refusal {
    fn invalid(text: impl Into<String>) -> Self {
        Self { reply: Rep::ERR_INVALID, text: text.into() }
    }
}

impl From<NbdParseError> for Refusal {
    fn from(malformed: NbdParseError) -> Self {
        Self::invalid(malformed.to_string())
    }
}

fn no_data(data: Reader<'_>) -> Result<(), Refusal> {
    if data.is_empty() { Ok(()) } else { Err(Refusal::invalid("this option has no data")) }
}

/// Longest part of a peer's name that is shown.
const SHOWN_MAX: usize = 80;

/// A peer's name, fit for a log and a boot screen: printable ASCII, not long.
fn printable(name: &[u8]) -> String {
    let shown = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
    name.iter().take(SHOWN_MAX).map(shown).collect()
}
