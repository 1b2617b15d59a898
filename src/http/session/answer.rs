//! What one request earns.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::ops::Range;

use super::conditions::{self, Outcome, Validators};
use super::multipart::Multipart;
use super::{CONTENT_MAX, LoggedAnswer, Resources};
use crate::boot::ServedFile;
use crate::boot::files::{Directory, Entry, FileError};
use crate::bootable::FileKind;
use crate::export::Export;
use crate::export::path::PathError;
use crate::http::wire::condition::EntityTag;
use crate::http::wire::date::HttpDate;
use crate::http::wire::range::{self, RequestedRanges};
use crate::http::wire::target::{self, Segment, TargetError};
use crate::http::wire::{HttpRequest, Method, StatusCode};

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
    Redirect { location: String },
    NotModified(Resource),
    NotSatisfiable(Resource),
    Whole(Resource),
    Part(Resource, Range<u64>),
    Parts(Resource, Multipart),
}

/// The request is not carried out: the peer's fault.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub reason: String,
}

/// What there is at a path.
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
    /// A file of an image, or put together of such.
    Image,
    /// Generated for machines.
    Generated,
    /// A directory, for people.
    Listing,
}

impl Answer {
    /// Decides what a request earns, of a client that reached us at `local`.
    pub(crate) fn to(
        request: &HttpRequest<'_>,
        resources: &Resources,
        local: Ipv4Addr,
        now: HttpDate,
    ) -> Self {
        let content = decide(request, resources, local, now).unwrap_or_else(Content::Refusal);
        Self { method: request.method, content }
    }

    /// An answer to what is no request.
    pub(crate) fn refusal(status: StatusCode, reason: impl Display) -> Self {
        Self { method: Method::Unknown, content: Content::Refusal(Refusal::new(status, reason)) }
    }

    /// Returns the log line to write once the answer was sent, if it belongs to a boot.
    pub(crate) fn logged(&self, request: &HttpRequest<'_>) -> Option<LoggedAnswer> {
        let bytes = match &self.content {
            Content::Refusal(refusal) if refusal.status == StatusCode::NOT_FOUND => 0,
            Content::Whole(Resource { origin: Origin::Generated, export, .. }) => export.len(),
            Content::Whole(resource) if resource.export.len() >= LOGGED_FROM => resource.export.len(),
            Content::Part(_, part) if part.end - part.start >= LOGGED_FROM => part.end - part.start,
            _ => return None,
        };
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..LOGGED_TEXT).unwrap_or(bytes)).into_owned()
}

fn decide(
    request: &HttpRequest<'_>,
    resources: &Resources,
    local: Ipv4Addr,
    now: HttpDate,
) -> Result<Content, Refusal> {
    check(request)?;
    let path = target::path(request.target)?;
    let resource = match resources.files().look_up(&path, local)? {
        // `a` and `a/` are two things, and a file is only one of them.
        Entry::File(_) if path.ends_with(b"/") => return Err(PathError::NotFound.into()),
        Entry::File(file) => Resource::file(file, &path),
        Entry::Directory(_) if !path.ends_with(b"/") => return Ok(redirect(&path)),
        Entry::Directory(directory) => Resource::listing(resources, directory),
    };
    Ok(match conditions::evaluate(request, &resource.validators, now) {
        Outcome::Failed => {
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "the file is another one"));
        }
        Outcome::NotModified => Content::NotModified(resource),
        Outcome::ProceedWhole => Content::Whole(resource),
        Outcome::Proceed => resource.part(request),
    })
}

fn check(request: &HttpRequest<'_>) -> Result<(), Refusal> {
    match request.method {
        _ if request.content > CONTENT_MAX => {
            Err(Refusal::new(StatusCode::CONTENT_TOO_LARGE, "nothing is done with content here"))
        }
        Method::Get | Method::Head => Ok(()),
        // RFC 9110 §9.1: 405 for a method that is known and not allowed, 501 for one that is not known.
        Method::Other => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this server is read-only")),
        Method::Unknown => Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "the method is not known here")),
    }
}

/// To the form with the slash, against which the references of a listing are right. It is put together from names: a
/// path that begins with two slashes would lead to another host.
fn redirect(path: &[u8]) -> Content {
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

    /// What the Range field asks for.
    fn part(self, request: &HttpRequest<'_>) -> Content {
        let field = request.field("Range");
        match field.map_or(RequestedRanges::Whole, |field| range::wanted(field, self.export.len())) {
            RequestedRanges::Whole => Content::Whole(self),
            RequestedRanges::Nothing => Content::NotSatisfiable(self),
            RequestedRanges::Parts(parts) => match <[Range<u64>; 1]>::try_from(parts) {
                // RFC 9110 §15.3.7.2: one part is never sent as one of many.
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

/// By the end of the name. UEFI's HTTP Boot starts what is `application/efi`.
fn media_type(path: &[u8], origin: &Origin) -> &'static str {
    const TEXT: &str = "text/plain; charset=utf-8";
    const TYPES: &[(&[u8], &str)] = &[
        (b"efi", "application/efi"),
        (b"cfg", TEXT),
        (b"conf", TEXT),
        (b"ipxe", TEXT),
        (b"sha256", TEXT),
        (b"sha512", TEXT),
        (b"txt", TEXT),
    ];
    if let Origin::Generated = origin {
        return TEXT;
    }
    let extension = path.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    known.map_or("application/octet-stream", |(_, media_type)| media_type)
}

impl Refusal {
    fn new(status: StatusCode, reason: impl Display) -> Self {
        Self { status, reason: reason.to_string() }
    }
}

impl From<TargetError> for Refusal {
    fn from(bad: TargetError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, bad)
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
        };
        Self::new(status, error)
    }
}
