//! Conditional requests: whether a request is carried out (RFC 9110 §13).

use crate::http::wire::condition::{Comparison, EntityTag};
use crate::http::wire::date::HttpDate;
use crate::http::wire::{HttpRequest, Method};

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators {
    pub tag: EntityTag,
    pub modified: Option<HttpDate>,
}

/// What comes of a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The client's copy is not of this file: 412.
    Failed,
    /// The client has it already: 304.
    NotModified,
    /// The file is sent, or the part of it that the client wants.
    Proceed,
    /// The part that the client has is of another file: the whole is sent.
    ProceedWhole,
}

/// Evaluates the conditions of a GET or HEAD in the order of RFC 9110 §13.2.2.
pub(super) fn evaluate(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> Outcome {
    if !may_be_this(request, own, now) {
        return Outcome::Failed;
    }
    if is_known(request, own, now) {
        return Outcome::NotModified;
    }
    // RFC 9110 §14.2: Range is defined for GET, and has to be ignored with any other method.
    if request.method != Method::Get || !continues(request, own, now) {
        return Outcome::ProceedWhole;
    }
    Outcome::Proceed
}

/// If-Match, or else If-Unmodified-Since.
fn may_be_this(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    if request.field("If-Match").is_some() {
        return own.tag.is_among(request.fields("If-Match"), Comparison::Strong);
    }
    // RFC 9110 §13.1.4: ignored without a date of ours, or when it is no date.
    match (date(request, "If-Unmodified-Since", now), own.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => true,
    }
}

/// If-None-Match, or else If-Modified-Since.
fn is_known(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    if request.field("If-None-Match").is_some() {
        return own.tag.is_among(request.fields("If-None-Match"), Comparison::Weak);
    }
    match (date(request, "If-Modified-Since", now), own.modified) {
        (Some(date), Some(modified)) => modified <= date,
        _ => false,
    }
}

/// If-Range: the tag, or exactly the date, of the file that the client has a part of.
fn continues(request: &HttpRequest<'_>, own: &Validators, now: HttpDate) -> bool {
    let Some(validator) = request.field("If-Range") else { return true };
    if validator.ends_with(b"\"") {
        return own.tag.is_among(std::iter::once(validator), Comparison::Strong);
    }
    HttpDate::parse(validator, now).is_some_and(|date| own.modified == Some(date))
}

fn date(request: &HttpRequest<'_>, name: &str, now: HttpDate) -> Option<HttpDate> {
    HttpDate::parse(request.field(name)?, now)
}
