//! Errors of requests, in words for the operator. `object_store` writes URLs into its own, so these
//! are made of the status of an answer, or of the innermost cause.

use std::error::Error;
use std::fmt;
use std::iter::successors;

use object_store::client::{HttpError, HttpErrorKind};

use crate::store::object::{CertificateFault, FetchError};

/// Longest code of an error that is shown.
const CODE_MAX: usize = 64;

/// Longest text of a cause that is shown, in characters.
const TEXT_MAX: usize = 200;

/// Status of an answer that is not a success (RFC 9110, section 15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatusError {
    status: u16,
    /// Code in the error document of S3, such as `NoSuchBucket`.
    code: Option<String>,
}

impl StatusError {
    /// Takes the code out of the body of an answer.
    pub(super) fn new(status: u16, body: &str) -> Self {
        let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map(|(code, _)| code).filter(|code| is_code(code)).map(str::to_owned);
        Self { status, code }
    }

    fn failure(&self) -> FetchError {
        match self.status {
            401 | 403 => FetchError::Refused(self.to_string()),
            404 | 410 => FetchError::NotFound,
            // 416: it is shorter than it was.
            412 | 416 => FetchError::Replaced,
            301 | 307 | 400 => FetchError::Unreachable(format!("{self}; check AWS_ENDPOINT and AWS_REGION")),
            _ => FetchError::Unreachable(self.to_string()),
        }
    }
}

fn is_code(code: &str) -> bool {
    (1..=CODE_MAX).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answers with status {}", self.status)?;
        self.code.iter().try_for_each(|code| write!(f, " ({code})"))
    }
}

impl Error for StatusError {}

/// What is said of a server that answers with a whole file where a part was asked for.
const NO_PARTS: &str = "its server does not send parts of files (range requests, RFC 9110)";

/// Causes in the words of libraries, and what is said instead.
const CAUSES: [(&str, &str); 4] = [
    ("non-partial response", NO_PARTS),
    ("Range request not supported", NO_PARTS),
    ("scheme is not allowed", "its endpoint has no TLS; set AWS_ALLOW_HTTP=true to use it nevertheless"),
    ("No CA certificates", "this host has no certificates of authorities; install ca-certificates"),
];

/// Returns the first line of a text, which may have come from a server.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

fn cause<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // Not the source of the reference, which lives shorter.
    (*error).source()
}

/// Returns what is wrong with a certificate, from the words of rustls.
fn certificate_fault(error: &str) -> Option<CertificateFault> {
    let words = one_line(error.strip_prefix("invalid peer certificate: ")?);
    // A bad signature: the host knows an authority of this name, with another key.
    Some(if words.contains("UnknownIssuer") || words.contains("BadSignature") {
        CertificateFault::UnknownAuthority
    } else if words.contains("not valid for name") || words.contains("NotValidForName") {
        CertificateFault::OtherName(words)
    } else if ["expired", "Expired", "not valid yet", "NotValidYet"].iter().any(|date| words.contains(date)) {
        CertificateFault::Dates
    } else {
        CertificateFault::Other(words)
    })
}

/// Returns what to tell about an error of `object_store`.
pub(super) fn failure(error: &object_store::Error) -> FetchError {
    let chain = successors(Some(error as &(dyn Error + 'static)), cause);
    if let Some(status) = chain.clone().find_map(|error| error.downcast_ref::<StatusError>()) {
        return status.failure();
    }
    let http = chain.clone().find_map(|error| error.downcast_ref::<HttpError>());
    let innermost = chain.clone().last().map(|error| one_line(&error.to_string())).unwrap_or_default();
    if let Some(fault) = chain.clone().find_map(|error| certificate_fault(&error.to_string())) {
        return FetchError::Certificate(fault);
    }
    let known = CAUSES.iter().find(|(words, _)| chain.clone().any(|error| error.to_string().contains(words)));
    FetchError::Unreachable(match (known, http.map(HttpError::kind)) {
        (Some((_, why)), _) => (*why).to_owned(),
        (None, Some(HttpErrorKind::Timeout)) => "no answer in time".to_owned(),
        (None, Some(HttpErrorKind::Connect)) => format!("no connection: {innermost}"),
        (None, Some(_)) => format!("connection lost: {innermost}"),
        (None, None) => innermost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: impl Error + Send + Sync + 'static) -> FetchError {
        failure(&object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }

    #[test]
    fn status_says_what_is_wrong() {
        let of_status =
            |status, body: &str| of(HttpError::new(HttpErrorKind::Unknown, StatusError::new(status, body)));
        assert_eq!(of_status(412, ""), FetchError::Replaced);
        assert_eq!(of_status(404, "<Error><Code>NoSuchBucket</Code></Error>"), FetchError::NotFound);
        let refused =
            of_status(403, "<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>me</AWSAccessKeyId>");
        assert_eq!(refused, FetchError::Refused("it answers with status 403 (InvalidAccessKeyId)".into()));
        let down = of_status(503, "<Code>a b</Code>");
        assert_eq!(down, FetchError::Unreachable("it answers with status 503".into()));
    }

    #[test]
    fn cause_is_the_innermost() {
        let refused = std::io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let lost = of(HttpError::new(HttpErrorKind::Connect, refused));
        assert_eq!(lost, FetchError::Unreachable("no connection: Connection refused (os error 111)".into()));
        let late = of(HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("http://me:secret@x")));
        assert_eq!(late, FetchError::Unreachable("no answer in time".into()));
    }

    #[test]
    fn certificate_is_told_apart_from_the_network() {
        let of_tls = |words: &str| {
            let cause = std::io::Error::other(format!("invalid peer certificate: {words}"));
            of(HttpError::new(HttpErrorKind::Connect, cause))
        };
        let unknown = FetchError::Certificate(CertificateFault::UnknownAuthority);
        assert_eq!([of_tls("UnknownIssuer"), of_tls("BadSignature")], [unknown.clone(), unknown.clone()]);
        let says = "its certificate is not accepted: this host does not know its authority";
        assert_eq!(unknown.to_string(), says);
        let dates = FetchError::Certificate(CertificateFault::Dates);
        assert_eq!(of_tls("certificate expired: verification time 5 (UNIX)"), dates);
        let name = "certificate not valid for name \"a\"; certificate is only valid for b";
        assert_eq!(of_tls(name), FetchError::Certificate(CertificateFault::OtherName(name.into())));
        let other = "Other(OtherError(CaUsedAsEndEntity))";
        assert_eq!(of_tls(other), FetchError::Certificate(CertificateFault::Other(other.into())));
    }
}
