//! The handshake: option haggling until the client attaches to an export.

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

use super::{ALLOCATION_ID, READ_MAX, Replies, Transmission};
use crate::codec::Reader;
use crate::export::{Batch, Export};
use crate::image::FileChangedError;
use crate::images::ImageSet;
use crate::nbd::wire::{self, ClientFlags, ExportInfo, InfoRequest, MetaContextRequest, NbdParseError, Opt};
use crate::nbd::wire::{OptionHeader, OptionReply, Rep, Zeroes};
use crate::stream::Turn;

/// Longest option data, in bytes: a name and a hundred queries fit many times. Without a limit the
/// length field makes the server buffer 4 GiB.
const OPTION_MAX: u32 = 64 << 10;

/// Bytes of replies after which the client must read before it haggles on.
const REPLIES_MAX: usize = 64 << 10;

/// Longest reason that is kept, in characters.
const REASON_MAX: usize = 200;

/// Description of an export for people (`NBD_INFO_DESCRIPTION`).
const DESCRIPTION: &str = "read-only, straight from an ISO image, by isowire";

/// End of the handshake.
#[derive(Debug)]
pub(crate) enum HandshakeEnd {
    Attached(Box<Attached>),
    /// The client sent `NBD_OPT_ABORT`.
    Aborted,
    Rejected(HandshakeError),
}

/// A client that chose its export.
#[derive(Debug)]
pub(crate) struct Attached {
    pub export: Export,
    pub transmission: Transmission,
    /// Name that the client asked for, fit for a log.
    pub name: String,
}

/// A breach of the protocol, or a request that cannot be refused otherwise, ends the handshake: the
/// peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("not an NBD client: {0}")]
    Malformed(#[from] NbdParseError),
    #[error("client flags {0:#x} are unknown")]
    UnknownFlags(u32),
    #[error("{0} of {1} bytes is longer than {OPTION_MAX}")]
    TooLong(Opt, u32),
    #[error("{0} by a client that is not fixed newstyle")]
    NotFixed(Opt),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Changed(#[from] FileChangedError),
    #[error("no export named '{0}'")]
    UnknownExport(String),
}

/// State of the haggling: plain data, so that another process can go on with it. The exports to
/// choose from are an argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handshake {
    flags: Option<ClientFlags>,
    structured_replies: bool,
    /// Name of the export for which `base:allocation` was set.
    allocation_of: Option<Box<[u8]>>,
    /// Reason why the last export that was asked for is not there.
    unknown_export: Option<String>,
    /// The file of the last export that was asked for was changed. A process that follows looks for
    /// itself.
    #[serde(skip)]
    changed: Option<FileChangedError>,
}

impl Handshake {
    /// Handles the complete messages of `input`, takes them off, and queues the replies.
    pub(crate) fn handle(
        &mut self,
        images: &ImageSet,
        input: &mut BytesMut,
        out: &mut Batch,
    ) -> Turn<HandshakeEnd> {
        self.haggle(images, None, input, out)
    }

    /// Returns why the last export that was asked for is not there.
    pub(crate) fn unknown_export(&self) -> Option<&str> {
        self.unknown_export.as_deref()
    }

    /// Returns why the last export that was asked for cannot be read.
    pub(crate) const fn changed(&self) -> Option<FileChangedError> {
        self.changed
    }

    /// Handles messages as [`Handshake::handle`], and refuses each choice of an export.
    pub(crate) fn refuse(
        &mut self,
        images: &ImageSet,
        why: &str,
        input: &mut BytesMut,
        out: &mut Batch,
    ) -> Turn<HandshakeEnd> {
        self.haggle(images, Some(why), input, out)
    }

    fn haggle(
        &mut self,
        images: &ImageSet,
        refusal: Option<&str>,
        input: &mut BytesMut,
        out: &mut Batch,
    ) -> Turn<HandshakeEnd> {
        let mut haggling = Haggling { images, refusal, state: self };
        let turn = out.write_bytes(|replies| haggling.handle_messages(input, replies));
        turn.unwrap_or_else(|error| Turn::End(HandshakeEnd::Rejected(error)))
    }
}

/// The haggling of one turn.
struct Haggling<'a> {
    images: &'a ImageSet,
    /// Reason why the client gets no export.
    refusal: Option<&'a str>,
    state: &'a mut Handshake,
}

impl Haggling<'_> {
    fn handle_messages(
        &mut self,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<Turn<HandshakeEnd>, HandshakeError> {
        while out.len() < REPLIES_MAX {
            let turn = match self.state.flags {
                None => self.handle_flags(input)?,
                Some(flags) => self.handle_option(flags, input, out)?,
            };
            if let Some(turn) = turn {
                return Ok(turn);
            }
        }
        Ok(Turn::Full)
    }

    /// Returns `Some` when the turn ends here.
    fn handle_flags(&mut self, input: &mut BytesMut) -> Result<Option<Turn<HandshakeEnd>>, HandshakeError> {
        let Ok(flags) = ClientFlags::parse(&mut Reader::new(input)) else { return Ok(Some(Turn::Drained)) };
        input.advance(ClientFlags::LEN);
        // "The server MUST drop the TCP connection if the client sets an unknown flag" ("Client
        // flags").
        if flags.has_unknown() {
            return Err(HandshakeError::UnknownFlags(flags.0));
        }
        self.state.flags = Some(flags);
        Ok(None)
    }

    /// Returns `Some` when the turn ends with this option.
    fn handle_option(
        &mut self,
        flags: ClientFlags,
        input: &mut BytesMut,
        out: &mut Vec<u8>,
    ) -> Result<Option<Turn<HandshakeEnd>>, HandshakeError> {
        let mut reader = Reader::new(input);
        let OptionHeader { option, len } = match OptionHeader::parse(&mut reader) {
            Err(NbdParseError::Truncated(_)) => return Ok(Some(Turn::Drained)),
            header => header?,
        };
        if len > OPTION_MAX {
            return Err(HandshakeError::TooLong(option, len));
        }
        // NBD_OPT_EXPORT_NAME "is the only valid option in nonfixed newstyle negotiation", which
        // has no way to refuse another.
        if !flags.has(wire::FLAG_FIXED_NEWSTYLE) && option != Opt::EXPORT_NAME {
            return Err(HandshakeError::NotFixed(option));
        }
        let Ok(data) = reader.sub(len as usize) else { return Ok(Some(Turn::Drained)) };
        let end = self.answer(flags, option, data, out);
        input.advance(OptionHeader::LEN + len as usize);
        Ok(end?.map(Turn::End))
    }

    /// Appends the replies to one option; returns `Some` when the handshake ends with it.
    fn answer(
        &mut self,
        flags: ClientFlags,
        option: Opt,
        data: Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<HandshakeEnd>, HandshakeError> {
        let answered = match (option, self.refusal) {
            (Opt::INFO | Opt::GO, Some(why)) => {
                // "server policy" is the nearest that the protocol has.
                Err(OptionError { reply: Rep::ERR_POLICY, text: why.to_owned() })
            }
            (Opt::EXPORT_NAME, Some(why)) => return Err(HandshakeError::Refused(why.to_owned())),
            _ => return self.answer_admitted(flags, option, data, out),
        };
        self.reply(option, answered, out)
    }

    /// Answers an option of a client that may have an export.
    fn answer_admitted(
        &mut self,
        flags: ClientFlags,
        option: Opt,
        data: Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<HandshakeEnd>, HandshakeError> {
        let answered = match option {
            Opt::EXPORT_NAME => return self.export_name(flags, data.rest(), out).map(Some),
            // "A server SHOULD ignore any data sent by the client" with NBD_OPT_ABORT, and "MUST
            // reply with NBD_REP_ACK".
            Opt::ABORT => Ok(Some(HandshakeEnd::Aborted)),
            Opt::LIST => self.list(data, out),
            // Both have the same replies; only NBD_OPT_GO ends the haggling.
            Opt::INFO => self.info(option, data, out).map(|_| None),
            Opt::GO => self.info(option, data, out).map(Some),
            Opt::STRUCTURED_REPLY => self.structured_reply(data),
            Opt::LIST_META_CONTEXT => self.list_meta_context(data, out),
            Opt::SET_META_CONTEXT => self.set_meta_context(data, out),
            // "Servers that receive messages which they do not implement MUST reply to them with
            // NBD_REP_ERR_UNSUP" ("Baseline"). nbd-client then falls back to NBD_OPT_EXPORT_NAME.
            unknown => {
                Err(OptionError { reply: Rep::ERR_UNSUP, text: format!("isowire does not know {unknown}") })
            }
        };
        self.reply(option, answered, out)
    }

    fn reply(
        &mut self,
        option: Opt,
        answered: Answered,
        out: &mut Vec<u8>,
    ) -> Result<Option<HandshakeEnd>, HandshakeError> {
        let reply = match &answered {
            Ok(_) => OptionReply::Ack,
            Err(OptionError { reply, text }) => OptionReply::Error { reply: *reply, text },
        };
        reply.emit(option, out);
        if let Err(OptionError { reply: Rep::ERR_UNKNOWN, text }) = &answered {
            self.state.unknown_export = Some(text.chars().take(REASON_MAX).collect());
        }
        Ok(answered.ok().flatten())
    }

    fn export_name(
        &self,
        flags: ClientFlags,
        name: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<HandshakeEnd, HandshakeError> {
        // "If the chosen export does not exist [...], the server MUST terminate the session": this
        // option has no error reply.
        let export =
            self.images.export(name).ok_or_else(|| HandshakeError::UnknownExport(printable(name)))?;
        export.admit()?;
        let zeroes = if flags.has(wire::FLAG_NO_ZEROES) { Zeroes::Omit } else { Zeroes::Send };
        wire::emit_export_name_reply(self.describe(&export), zeroes, out);
        Ok(self.attach(name, export))
    }

    fn list(&self, data: Reader<'_>, out: &mut Vec<u8>) -> Answered {
        check_empty(data)?;
        self.images.names().for_each(|name| OptionReply::Server { name }.emit(Opt::LIST, out));
        Ok(None)
    }

    fn info(
        &mut self,
        option: Opt,
        data: Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<HandshakeEnd, OptionError> {
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
            // Any byte can be read. Files of an ISO lie at multiples of 2048, and the page cache
            // holds pages of 4096.
            OptionReply::BlockSize { min: 1, preferred: 4096, max: READ_MAX }.emit(option, out);
        }
        Ok(self.attach(request.name, export))
    }

    fn structured_reply(&mut self, data: Reader<'_>) -> Answered {
        check_empty(data)?;
        self.state.structured_replies = true;
        Ok(None)
    }

    fn list_meta_context(&mut self, data: Reader<'_>, out: &mut Vec<u8>) -> Answered {
        let request = MetaContextRequest::parse(data)?;
        self.find(request.name)?;
        // "If zero queries are sent, then the server MUST return all the metadata contexts".
        if request.queries == 0 || request.asks_allocation || request.asks_base {
            // "The metadata context ID in these replies is reserved and SHOULD be set to zero".
            OptionReply::MetaContext { id: 0, name: wire::BASE_ALLOCATION }.emit(Opt::LIST_META_CONTEXT, out);
        }
        Ok(None)
    }

    fn set_meta_context(&mut self, data: Reader<'_>, out: &mut Vec<u8>) -> Answered {
        // "Issuing this command replaces all previously-set metadata contexts (including when this
        // command fails)".
        self.state.allocation_of = None;
        // "This option MUST NOT be requested unless structured replies have been negotiated first."
        if !self.state.structured_replies {
            return Err(OptionError::invalid("metadata contexts need structured replies"));
        }
        let request = MetaContextRequest::parse(data)?;
        self.find(request.name)?;
        // "It is not an error if a NBD_OPT_SET_META_CONTEXT option does not select any".
        if request.asks_allocation {
            self.state.allocation_of = Some(request.name.into());
            let context = OptionReply::MetaContext { id: ALLOCATION_ID, name: wire::BASE_ALLOCATION };
            context.emit(Opt::SET_META_CONTEXT, out);
        }
        Ok(None)
    }

    fn find(&mut self, name: &[u8]) -> Result<Export, OptionError> {
        let export = self.images.export(name).ok_or_else(|| OptionError {
            reply: Rep::ERR_UNKNOWN,
            text: format!("no export named '{}' here; there is: {}", printable(name), self.offered()),
        })?;
        self.state.changed = export.admit().err();
        match self.state.changed {
            // "server policy" is the nearest that the protocol has.
            Some(changed) => Err(OptionError { reply: Rep::ERR_POLICY, text: changed.to_string() }),
            None => Ok(export),
        }
    }

    /// Lists the export names. nbd-client prints the text of an error, so a person reads this list
    /// on the boot screen.
    fn offered(&self) -> String {
        let names: Vec<_> = self.images.names().collect();
        names.join(", ")
    }

    fn describe(&self, export: &Export) -> ExportInfo {
        // NBD_FLAG_SEND_FLUSH is left out: the kernel would send flushes, and there is nothing to
        // write. Without NBD_FLAG_CAN_MULTI_CONN nbd-client refuses `-C 2`.
        let mut flags =
            wire::FLAG_HAS_FLAGS | wire::FLAG_READ_ONLY | wire::FLAG_CAN_MULTI_CONN | wire::FLAG_SEND_CACHE;
        if self.state.structured_replies {
            // The server "MUST leave this flag clear if structured replies have not been
            // negotiated" ("Transmission flags").
            flags |= wire::FLAG_SEND_DF;
        }
        ExportInfo { size: export.len(), flags }
    }

    fn attach(&self, name: &[u8], export: Export) -> HandshakeEnd {
        // NBD_OPT_SET_META_CONTEXT counts only if it "referred to the same export name that was
        // ultimately selected for transmission phase".
        let has_allocation = self.state.allocation_of.as_deref() == Some(name);
        let replies = match (self.state.structured_replies, has_allocation) {
            (false, _) => Replies::Simple,
            (true, false) => Replies::Structured,
            (true, true) => Replies::StructuredWithAllocation,
        };
        let transmission = Transmission::new(replies);
        HandshakeEnd::Attached(Box::new(Attached { export, transmission, name: printable(name) }))
    }
}

/// Outcome of an option: an ACK, `Some` where the handshake ends with it; or an error reply.
type Answered = Result<Option<HandshakeEnd>, OptionError>;

/// An option that gets an error reply; the haggling goes on.
#[derive(Debug)]
struct OptionError {
    reply: Rep,
    text: String,
}

impl OptionError {
    fn invalid(text: impl Into<String>) -> Self {
        Self { reply: Rep::ERR_INVALID, text: text.into() }
    }
}

impl From<NbdParseError> for OptionError {
    fn from(malformed: NbdParseError) -> Self {
        Self::invalid(malformed.to_string())
    }
}

fn check_empty(data: Reader<'_>) -> Result<(), OptionError> {
    if data.is_empty() { Ok(()) } else { Err(OptionError::invalid("this option has no data")) }
}

/// Longest part of a peer's name that is shown.
const SHOWN_MAX: usize = 80;

/// Makes a peer's name fit for a log and a boot screen: printable ASCII, not long.
fn printable(name: &[u8]) -> String {
    name.iter().take(SHOWN_MAX).map(|&byte| printable_char(byte)).collect()
}

fn printable_char(byte: u8) -> char {
    // A name could hold escape sequences of a terminal.
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }
}
