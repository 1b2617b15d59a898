//! Conditional requests (RFC 9110 §13).

use crate::http::wire::condition::{Comparison, EntityTag};
use crate::http::wire::date::HttpDate;
use crate::http::wire::{HttpRequest, Method};

/// Validators of a file: a changed file has others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators {
    pub tag: EntityTag,
    pub modified: Option<HttpDate>,
}

/// Result of a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precondition {
    /// The client's copy is of another file: 412.
    Failed,
    /// The client has it already: 304.
    NotModified,
    /// The file is sent, or the part that the client wants.
    Proceed,
    /// The client's part is of another file, so the whole file is sent.
    ProceedWhole,
}

/// Evaluates the conditions of a GET or HEAD in the order of RFC 9110 §13.2.2.
pub(super) fn evaluate(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> Precondition {
    if !may_be_this(request, own, now) {
        return Precondition::Failed;
    }
    if is_known(request, own, now) {
        return Precondition::NotModified;
    }
    // RFC 9110 §14.2: Range is defined for GET, and has to be ignored with any other method.
    if request.method != Method::Get || !continues(request, own, now) {
        return Precondition::ProceedWhole;
    }
    Precondition::Proceed
}

/// Evaluates If-Match, or else If-Unmodified-Since. EDK2 sends both when it resumes a download.
fn may_be_this(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    if request.field("If-Match").is_some() {
        return own.tag.is_among(request.fields("If-Match"), Comparison::Strong);
    }
    // RFC 9110 §13.1.4: ignored if the file has no date, or the field is not a date.
    match (date(request, "If-Unmodified-Since", now), own.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => true,
    }
}

/// Evaluates If-None-Match, or else If-Modified-Since.
fn is_known(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    if request.field("If-None-Match").is_some() {
        return own.tag.is_among(request.fields("If-None-Match"), Comparison::Weak);
    }
    // RFC 9110 §13.1.3: ignored if the file has no date, or the field is not a date.
    match (date(request, "If-Modified-Since", now), own.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => false,
    }
}

/// Evaluates If-Range: the tag, or the exact date, of the file of which the client has a part.
fn continues(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    let Some(validator) = request.field("If-Range") else { return true };
    // RFC 9110 §13.1.5: an entity tag has quotes, a date has none; tags are compared strongly.
    if validator.ends_with(b"\"") {
        return own.tag.is_among(std::iter::once(validator), Comparison::Strong);
    }
    HttpDate::parse(validator, now).is_some_and(|date| own.modified == Some(date))
}

fn date(request: &HttpRequest<'_>, name: &str, now: HttpDate) -> Option<HttpDate> {
    HttpDate::parse(request.field(name)?, now)
}
