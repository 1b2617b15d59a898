//! The answer to one request.

use std::fmt::Display;
use std::ops::Range;

use super::conditions::{self, Precondition, Validators};
use super::multipart::Multipart;
use super::{CONTENT_MAX, LoggedAnswer, READ_MAX, Resources};
use crate::boot::files::{Directory, Entry, FileError};
use crate::boot::generated::{self, Recipient};
use crate::boot::operator_path::OperatorPath;
use crate::boot::{ADVICE, Requester, ServedFile};
use crate::bootable::FileKind;
use crate::export::Export;
use crate::export::path::PathError;
use crate::http::wire::condition::EntityTag;
use crate::http::wire::date::HttpDate;
use crate::http::wire::form;
use crate::http::wire::range::{self, RequestedRanges};
use crate::http::wire::target::{self, Segment, TargetError};
use crate::http::wire::{HttpRequest, Method, StatusCode};
use crate::machines::UpReport;
use crate::provision::{FileCall, OperatorFileError};

/// Content from this length on is worth a line of the log: a kernel, an initramfs, a root file
/// system.
const LOGGED_FROM: u64 = 1 << 20;

/// Longest text of a client in the log, in bytes.
const LOGGED_TEXT: usize = 200;

/// An answer: what its head says, and which bytes follow.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(super) method: Method,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Refusal(Refusal),
    Redirect {
        location: String,
    },
    /// A call that was carried out.
    Done(&'static str),
    NotModified(Resource),
    NotSatisfiable(Resource),
    Whole(Resource),
    Part(Resource, Range<u64>),
    Parts(Resource, Multipart),
}

/// A request that is not carried out: the peer's fault.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub reason: String,
    /// Methods that a 405 names.
    pub allow: &'static str,
}

/// Longest value in a query, in characters.
const TOLD_MAX: usize = 128;

/// Methods of files.
const FILE_METHODS: &str = "GET, HEAD";

/// The file or directory at a path.
#[derive(Debug)]
pub(super) struct Resource {
    pub export: Export,
    pub origin: Origin,
    pub validators: Validators,
    pub media_type: &'static str,
    pub kind: FileKind,
}

#[derive(Debug)]
pub(super) enum Origin {
    /// A file of an image, or composed of such files.
    Image,
    /// Generated for machines.
    Generated,
    /// A directory, for people.
    Listing,
}

impl Answer {
    /// Answers a request of this client. `content` is that of a [call](is_call).
    pub(crate) fn to(
        request: &HttpRequest<'_>,
        content: &[u8],
        resources: &Resources,
        requester: Requester,
        now: HttpDate,
    ) -> Self {
        let content = decide(request, content, resources, requester, now)
            .unwrap_or_else(|refusal| Content::Refusal(refusal.signed(requester)));
        Self { method: request.method, content }
    }

    /// Refuses a request that could not be parsed.
    pub(crate) fn refusal(status: StatusCode, reason: impl Display) -> Self {
        Self { method: Method::Unknown, content: Content::Refusal(Refusal::new(status, reason)) }
    }

    /// Returns the log line to write once the answer was sent, if it belongs to a boot.
    pub(crate) fn logged(&self, request: &HttpRequest<'_>) -> Option<LoggedAnswer> {
        let bytes = match &self.content {
            Content::Refusal(Refusal {
                status: StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE,
                ..
            }) => 0,
            Content::Whole(Resource { origin: Origin::Generated, export, .. }) => export.len(),
            Content::Whole(resource) if resource.export.len() >= LOGGED_FROM => resource.export.len(),
            Content::Part(_, part) if part.end - part.start >= LOGGED_FROM => part.end - part.start,
            _ => return None,
        };
        // No content leaves; a refusal is logged all the same.
        if self.method == Method::Head && bytes > 0 {
            return None;
        }
        let path = target::path(request.target).unwrap_or_default();
        let agent = request.field("User-Agent").unwrap_or_default();
        Some(LoggedAnswer { path: text(&path), status: self.status(), bytes, agent: text(agent) })
    }

    /// Returns the kind of the file whose content the answer has.
    pub(super) fn file_kind(&self) -> FileKind {
        match &self.content {
            _ if self.method == Method::Head => FileKind::Other,
            Content::Whole(resource) | Content::Part(resource, _) | Content::Parts(resource, _) => {
                resource.kind
            }
            _ => FileKind::Other,
        }
    }
}

/// Cuts a client's text for the log.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..LOGGED_TEXT).unwrap_or(bytes)).into_owned()
}

/// Returns true for a request that calls the server, and that is to be answered only once.
pub(super) fn is_call(request: &HttpRequest<'_>) -> bool {
    let path = target::path(request.target).unwrap_or_default();
    match request.method {
        Method::Post => request.content <= READ_MAX && up_recipient(request).is_some(),
        _ => OperatorPath::parse(&path).is_some(),
    }
}

/// Returns the machine in the path at which it tells that its system is up.
fn up_recipient(request: &HttpRequest<'_>) -> Option<Recipient> {
    generated::up_recipient(&target::path(request.target).ok()?)
}

fn decide(
    request: &HttpRequest<'_>,
    content: &[u8],
    resources: &Resources,
    requester: Requester,
    now: HttpDate,
) -> Result<Content, Refusal> {
    if let Some(recipient) = up_recipient(request) {
        return up(request, content, resources, recipient, requester);
    }
    check(request)?;
    let path = target::path(request.target)?;
    if let Some(file) = OperatorPath::parse(&path) {
        let file = operator_file(request, resources, file, requester)?;
        return chosen(request, Resource::file(file, &path), now);
    }
    let resource = match resources.files().look_up(&path, requester)? {
        // The references in a listing need the slash after a directory; a file never has one.
        Entry::File(_) if path.ends_with(b"/") => return Err(PathError::NotFound.into()),
        Entry::File(file) => Resource::file(file, &path),
        Entry::Directory(_) if !path.ends_with(b"/") => return Ok(redirect(&path)),
        Entry::Directory(directory) => Resource::listing(resources, directory),
    };
    chosen(request, resource, now)
}

/// Chooses the part of a resource that the client wants.
fn chosen(request: &HttpRequest<'_>, resource: Resource, now: HttpDate) -> Result<Content, Refusal> {
    Ok(match conditions::evaluate(request, &resource.validators, now) {
        Precondition::Failed => {
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "the file has changed"));
        }
        Precondition::NotModified => Content::NotModified(resource),
        Precondition::ProceedWhole => Content::Whole(resource),
        Precondition::Proceed => resource.part(request),
    })
}

/// Returns a file of the operator's.
fn operator_file(
    request: &HttpRequest<'_>,
    resources: &Resources,
    path: OperatorPath<'_>,
    requester: Requester,
) -> Result<ServedFile, Refusal> {
    let (serial, uuid) = (told(request, "serial"), told(request, "uuid"));
    let call = FileCall { path, requester, serial, uuid, is_get: request.method == Method::Get };
    let content = resources.backend().operator_file(&call)?;
    Ok(ServedFile::generated(content, FileKind::Other))
}

/// Returns what a client says of itself in the query, as plain text.
fn told(request: &HttpRequest<'_>, name: &str) -> String {
    let mut fields = form::fields(target::query(request.target).as_bytes());
    let value = fields.find(|(field, _)| field == name).map(|(_, value)| value).unwrap_or_default();
    let plain = value.chars().filter(|&c| c.is_ascii_alphanumeric() || " ._:/-".contains(c));
    plain.take(TOLD_MAX).collect()
}

/// Carries out the call of a machine whose system is up.
fn up(
    request: &HttpRequest<'_>,
    content: &[u8],
    resources: &Resources,
    recipient: Recipient,
    requester: Requester,
) -> Result<Content, Refusal> {
    if request.content > READ_MAX {
        return Err(Refusal::new(StatusCode::CONTENT_TOO_LARGE, "the content is too long"));
    }
    if request.method != Method::Post {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this is called by POST");
        return Err(Refusal { allow: "POST", ..refusal });
    }
    let report = UpReport::of_fields(form::fields(content));
    match resources.backend().machine_up(recipient.machine, requester, report) {
        Ok(()) => Ok(Content::Done("noted: this machine is up")),
        Err(error) => Err(Refusal::new(StatusCode::FORBIDDEN, error)),
    }
}

fn check(request: &HttpRequest<'_>) -> Result<(), Refusal> {
    match request.method {
        _ if request.content > CONTENT_MAX => {
            Err(Refusal::new(StatusCode::CONTENT_TOO_LARGE, "this server takes no content"))
        }
        Method::Get | Method::Head => Ok(()),
        // RFC 9110 §9.1: 405 for a method that is known and not allowed, 501 for one that is not
        // known.
        Method::Post | Method::Other => {
            Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this server is read-only"))
        }
        Method::Unknown => Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "unknown method")),
    }
}

/// Redirects to the path with a slash at its end, to which the references of a listing are
/// relative.
fn redirect(path: &[u8]) -> Content {
    // Composed of names: a reference that begins with two slashes would lead to another host (RFC
    // 3986 §4.2).
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let segments: String = names.map(|name| format!("{}/", Segment(name))).collect();
    Content::Redirect { location: format!("/{segments}") }
}

impl Resource {
    fn file(file: ServedFile, path: &[u8]) -> Self {
        let validators =
            Validators { tag: EntityTag(file.version.0), modified: file.modified.map(HttpDate::new) };
        let origin = if file.is_generated() { Origin::Generated } else { Origin::Image };
        Self {
            media_type: media_type(path, &origin),
            export: file.export,
            origin,
            validators,
            kind: file.kind,
        }
    }

    fn listing(resources: &Resources, directory: Directory<'_>) -> Self {
        let (page, version) = resources.listing(directory);
        Self {
            export: Export::of_memory(page),
            origin: Origin::Listing,
            validators: Validators { tag: EntityTag(version.0), modified: None },
            media_type: "text/html; charset=utf-8",
            kind: FileKind::Other,
        }
    }

    /// Cuts the resource to the ranges that the Range field asks for.
    fn part(self, request: &HttpRequest<'_>) -> Content {
        let field = request.field("Range");
        match field.map_or(RequestedRanges::Whole, |field| range::wanted(field, self.export.len())) {
            RequestedRanges::Whole => Content::Whole(self),
            RequestedRanges::Nothing => Content::NotSatisfiable(self),
            RequestedRanges::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
                // RFC 9110 §15.3.7.2: "A server MUST NOT generate a multipart response to a request
                // for a single range".
                Ok([part]) => Content::Part(self, part),
                Err(parts) => {
                    let parts =
                        Multipart::new(parts, self.export.len(), self.media_type, self.validators.tag);
                    Content::Parts(self, parts)
                }
            },
        }
    }
}

/// Returns the media type, by the end of the name.
fn media_type(path: &[u8], origin: &Origin) -> &'static str {
    const TEXT: &str = "text/plain; charset=utf-8";
    const TYPES: &[(&[u8], &str)] = &[
        // UEFI HTTP Boot starts a file of this type.
        (b"efi", "application/efi"),
        // RFC 2585 §4.1.
        (b"cer", "application/pkix-cert"),
        (b"cfg", TEXT),
        (b"conf", TEXT),
        (b"ipxe", TEXT),
        (b"sha256", TEXT),
        (b"sha512", TEXT),
        (b"txt", TEXT),
    ];
    let extension = path.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    match (known, origin) {
        (Some((_, media_type)), _) => media_type,
        (None, Origin::Generated) => TEXT,
        (None, Origin::Image | Origin::Listing) => "application/octet-stream",
    }
}

impl Refusal {
    fn new(status: StatusCode, reason: impl Display) -> Self {
        Self { status, reason: reason.to_string(), allow: FILE_METHODS }
    }

    /// Adds the name of the server and advice, for a person at the machine's screen.
    fn signed(self, requester: Requester) -> Self {
        Self { reason: format!("{}\n{}: {ADVICE}", self.reason, requester.server_name()), ..self }
    }
}

impl From<TargetError> for Refusal {
    fn from(bad: TargetError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, bad)
    }
}

impl From<OperatorFileError> for Refusal {
    fn from(error: OperatorFileError) -> Self {
        let status = match error {
            OperatorFileError::NotFound => StatusCode::NOT_FOUND,
            OperatorFileError::NotAMachine | OperatorFileError::OfAnother => StatusCode::FORBIDDEN,
            OperatorFileError::Taken => StatusCode::GONE,
            OperatorFileError::Failed => StatusCode::INTERNAL_ERROR,
        };
        Self::new(status, error)
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        FileError::from(error).into()
    }
}

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Self {
        let status = match error {
            FileError::Path(PathError::NotFound) | FileError::NotAFile => StatusCode::NOT_FOUND,
            FileError::Path(PathError::Outside) => StatusCode::BAD_REQUEST,
            FileError::Path(PathError::TooLong) => StatusCode::URI_TOO_LONG,
            FileError::Changed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error)
    }
}
